"""What shortcuts score on the embedded world's held-out pairs: python runs/miniature/baselines.py > runs/miniature/baselines.md

Rules that look at the answers alone are at one half by construction (siblings). Those that check a part of the question are above it: a
judge has to beat them before it may be said to judge. A rule that sees no difference throws a coin, hence counts one half.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tiny")]
import world  # noqa: E402


def parse(row):
    """The task of a row, as world.py makes it."""
    if row["family"] == "lines":
        parts = [part.split(" ") for part in row["query"].split(", ")]
        return [
            (kind, int(value[0]) if kind == "max" else "".join(value), int(weight[1:]))
            for kind, *value, weight in parts
        ]
    for sign, words in world.SIGNS.items():
        for word in words:
            if word in row["query"]:
                return sign, *map(int, row["query"].split(word))


def last_digit(task, answer):
    return (
        world.number_of(answer) % 10 == world.result(*task) % 10 if isinstance(task, tuple) else 0
    )


def magnitude(task, answer):
    return (
        -abs(len(str(world.number_of(answer))) - len(str(world.result(*task))))
        if isinstance(task, tuple)
        else 0
    )


def last_two_digits(task, answer):
    return (
        world.number_of(answer) % 100 == world.result(*task) % 100 if isinstance(task, tuple) else 0
    )


def heaviest(task, answer):
    kind, value, _ = (
        max(task, key=lambda part: part[2]) if isinstance(task, list) else (None, None, None)
    )
    return world.is_met(kind, value, answer) if kind else 0


def most_met(task, answer):
    return (
        sum(world.is_met(kind, value, answer) for kind, value, _ in task)
        if isinstance(task, list)
        else 0
    )


RULES = {
    "longest answer": lambda task, answer: len(answer),
    "shows its working": lambda task, answer: ":" in answer,
    "largest number": lambda task, answer: (
        world.number_of(answer) if isinstance(task, tuple) else 0
    ),
    "last digit right": last_digit,
    "last two digits right": last_two_digits,
    "number of digits right": magnitude,
    "heaviest constraint met": heaviest,
    "most constraints met": most_met,
}


def main():
    rows = [json.loads(line) for line in (ROOT / "tiny" / "test.jsonl").read_text().splitlines()]
    groups = defaultdict(list)
    for row in rows:
        groups[f"{row['family']} {row['level']}"].append(row)
    names = sorted(groups)
    print(
        f"Share of the {len(rows)} held-out pairs that a shortcut gets right; sums by digits, lines by constraints.\n"
    )
    print(f"| rule | {' | '.join(names)} | all |\n|{'---|' * (len(names) + 2)}")
    for rule, score in RULES.items():

        def right(row, score=score):
            task, better = parse(row), row["ab"[row["label"]]]
            difference = score(task, better) - score(task, row["ab"[1 - row["label"]]])
            return 0.5 if difference == 0 else float(difference > 0)

        shares = [
            sum(map(right, part)) / len(part) for part in [*(groups[name] for name in names), rows]
        ]
        print(f"| {rule} | {' | '.join(f'{share:.2f}' for share in shares)} |")


if __name__ == "__main__":
    main()
