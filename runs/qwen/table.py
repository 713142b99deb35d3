"""Tables of judged games, with intervals over questions and what a judge gets that never reads them.

    python runs/qwen/table.py --pairs test_pairs.jsonl --train train_pairs.jsonl \\
        base=games-base.jsonl trained=games-main-30.jsonl

Every later judge is compared with the first one on the same pairs. A game without a verdict counts as
wrong; "forced" takes the likelier verdict there. "both" is the share of pairs that are right in both
orders. Intervals (95 %) come from 2,000 bootstraps over questions.
"""

import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from cli import BadInput, read_json_lines, run  # noqa: E402
from data import load_pairs  # noqa: E402
from extras.mixture import answers_apart, fit_blind  # noqa: E402
from questions import words_of  # noqa: E402

ROUNDS = 2000


def question_of(pair):
    return words_of(pair.messages[-1]["content"])


def read_games(path, pairs):
    """{id of a pair: games} of a file of games.py; only pairs that are in `pairs` with that label."""
    rows = {row["id"]: row for _, row in read_json_lines(path)}
    strange = [
        name for name in rows if name not in pairs or rows[name]["label"] != pairs[name].label
    ]
    if strange:
        raise BadInput(
            f"{path}: pair {strange[0]} is not in --pairs: give the file that was judged"
        )
    return {name: row["games"] for name, row in rows.items()}


def measures(games, label):
    """What one pair adds to each column: [right, forced right, both orders right, verdicts, first, tokens]."""
    right_place = [game["order"].index(label) + 1 for game in games]
    right = [game["verdict"] == place for game, place in zip(games, right_place)]
    forced = [game["forced"] == place for game, place in zip(games, right_place)]
    verdicts = [game["verdict"] is not None for game in games]
    first = [game["forced"] == 1 for game in games]
    tokens = [game["tokens"] for game in games]
    return [np.mean(column) for column in (right, forced, [all(right)], verdicts, first, tokens)]


def bootstrap(values, questions, seed=0):
    """values (pairs, columns) -> (mean, low, high) of each column, (3, columns); draws questions."""
    names = {name: number for number, name in enumerate(sorted(set(questions)))}
    index = np.array([names[question] for question in questions])
    sums, counts = np.zeros((len(names), values.shape[1])), np.bincount(index)
    np.add.at(sums, index, values)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), ROUNDS)
    means = drawn @ sums / (drawn @ counts)[:, None]
    return np.stack([values.mean(axis=0), *np.quantile(means, [0.025, 0.975], axis=0)])


def percent(cell):
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * cell))


def line(*cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def judge_table(judges, pairs):
    head = (
        "judge",
        "pairs",
        "questions",
        "games right",
        "forced",
        "both",
        "verdicts",
        "first",
        "tokens",
    )
    yield line(*head)
    yield line(*["---"] * len(head))
    for name, games in judges.items():
        values = np.array([measures(games[key], pairs[key].label) for key in games])
        asked = [question_of(pairs[key]) for key in games]
        cells = bootstrap(values, asked).T
        shares = [percent(cell) for cell in cells[:3]]
        plain = [f"{100 * cells[column][0]:.1f}" for column in (3, 4)]
        yield line(name, len(games), len(set(asked)), *shares, *plain, f"{cells[5][0]:.0f}")


def difference_table(judges, pairs):
    """Each judge less the first one, on the pairs that both have judged."""
    (first, base), *others = judges.items()
    yield line(f"less {first}", "pairs", "games right", "forced", "both")
    yield line(*["---"] * 5)
    for name, games in others:
        keys = [key for key in games if key in base]
        rows = [
            (measures(games[key], pairs[key].label), measures(base[key], pairs[key].label))
            for key in keys
        ]
        values = np.array([np.subtract(*row) for row in rows])
        cells = bootstrap(values, [question_of(pairs[key]) for key in keys]).T
        yield line(name, len(keys), *(percent(cell) for cell in cells[:3]))


def blind_table(train, pairs):
    """A linear model of the answers' words, trained on the judge's own training pairs; longest; shortest."""
    test = list(pairs.values())
    columns = lambda chosen: [[pair.answers[i] for pair in chosen] for i in (0, 1)]  # noqa: E731
    model = fit_blind(answers_apart(*columns(train)), [pair.label == 0 for pair in train])
    predicted = model.predict(answers_apart(*columns(test)))
    label = np.array([pair.label == 0 for pair in test])
    lengths = np.array([np.subtract(*map(len, pair.answers)) for pair in test])
    longest = np.where(lengths == 0, 0.5, (lengths > 0) == label)
    values = np.stack([predicted == label, longest, 1 - longest], axis=1).astype(float)
    cells = bootstrap(values, [question_of(pair) for pair in test]).T
    yield line("judge that sees no question", "pairs", "right")
    yield line(*["---"] * 3)
    names = (
        f"words of the answers (trained on {len(train)} pairs)",
        "longer answer",
        "shorter answer",
    )
    for name, cell in zip(names, cells):
        yield line(name, len(test), percent(cell))


def main(argv):
    flags = dict(zip(argv[0:4:2], argv[1:4:2]))
    if set(flags) != {"--pairs", "--train"} or not argv[4:]:
        raise BadInput(__doc__.split("\n\n")[1].strip())
    pairs = {pair.id: pair for pair in load_pairs(flags["--pairs"])}
    train = [pair for pair in load_pairs(flags["--train"]) if pair.label in (0, 1)]
    shared = {question_of(pair) for pair in train} & {question_of(pair) for pair in pairs.values()}
    if shared:
        raise BadInput(f"{len(shared)} questions are in both sets, such as {min(shared)[:80]!r}")
    print(f"{len(train)} training and {len(pairs)} test pairs share no question.\n")
    judges = dict(part.split("=", 1) for part in argv[4:])
    judges = {name: read_games(path, pairs) for name, path in judges.items()}
    tables = [judge_table(judges, pairs)]
    tables += [difference_table(judges, pairs)] if len(judges) > 1 else []
    print("\n\n".join("\n".join(table) for table in (*tables, blind_table(train, pairs))))


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
