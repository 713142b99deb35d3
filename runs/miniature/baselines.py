"""What shortcuts score on the tiny world's held-out pairs.

    python runs/miniature/baselines.py > runs/miniature/baselines.md

Rules that look at the answers alone are at one half by construction. Those that check a part of
the question are above it: a judge has to beat them before one may say that it judges. A rule that
sees no difference counts one half.
"""

import lab
from measures import markdown_table, mean, read_rows
from world import SIGNS, is_met, number_of, result


def parse(row):
    """The question of a row as tiny/world.py makes it: (sign, a, b), or a list of constraints."""
    if row["family"] == "lines":
        parts = [part.split(" ") for part in row["query"].split(", ")]
        return [
            (kind, int(value[0]) if kind == "max" else "".join(value), int(weight[1:]))
            for kind, *value, weight in parts
        ]
    for sign, words in SIGNS.items():
        for word in words:
            if word in row["query"]:
                return sign, *map(int, row["query"].split(word))
    raise ValueError(f"no sign in {row['query']!r}")


def sum_scores(question, answer):
    """What each rule makes of an answer to a sum: the higher score is preferred."""
    number, gold = number_of(answer), result(*question)
    return {
        "largest number": number,
        "last digit right": number % 10 == gold % 10,
        "last two digits right": number % 100 == gold % 100,
        "number of digits right": -abs(len(str(number)) - len(str(gold))),
    }


def line_scores(question, answer):
    met = [(weight, is_met(kind, value, answer)) for kind, value, weight in question]
    return {
        "heaviest constraint met": max(met)[1],
        "most constraints met": sum(fits for _, fits in met),
    }


RULES = ["longest answer", "shows its working", "largest number", "last digit right"]
RULES += ["last two digits right", "number of digits right"]
RULES += ["heaviest constraint met", "most constraints met"]


def judged_right(row):
    """{rule: 1, 0 or 0.5} of one pair."""
    question, found = parse(row), {}
    family_scores = sum_scores if row["family"] == "sums" else line_scores
    better, worse = (
        {"longest answer": len(answer), "shows its working": ":" in answer}
        | family_scores(question, answer)
        for answer in (row["ab"[row["label"]]], row["ab"[1 - row["label"]]])
    )
    for rule in RULES:
        gap = better.get(rule, 0) - worse.get(rule, 0)
        found[rule] = 0.5 + 0.5 * ((gap > 0) - (gap < 0))
    return found


def main():
    rows = read_rows(lab.TEST)
    kinds = [f"{row['family']} {row['level']}" for row in rows]
    found = [judged_right(row) for row in rows]
    names = sorted(set(kinds))
    table = []
    for rule in RULES:
        shares = [
            mean(right[rule] for right, kind in zip(found, kinds) if kind == name) for name in names
        ]
        shares.append(mean(right[rule] for right in found))
        table.append([rule, *(f"{share:.2f}" for share in shares)])
    print(
        f"Share of the {len(rows)} held-out pairs that a shortcut gets right; "
        "sums by digits, lines by constraints.\n"
    )
    print(markdown_table(["rule", *names, "all"], table))


if __name__ == "__main__":
    main()
