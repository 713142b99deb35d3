"""What is reported for every benchmark beside its own rule: outcomes, both orders, missing verdicts, length, confidence; and what stands
beside every number: an interval over questions, trivial judges, another judge.

    summarise("llmbar", rows)              # rows as in benchmarks.py, with `lengths` of the answers
    compared("llmbar", rows, other_rows)   # differences on the items that both have judged
"""

from collections import defaultdict
from pathlib import Path

from benchmarks import (
    FILE_ORDER,
    OUTCOMES,
    RULES,
    add_cells,
    decided,
    means,
    order_winners,
    outcome,
    question_cells,
    score,
    share,
    votes_of,
)
from cli import BadInput
from early_stopping import in_words
from seeding import uniform

BASELINES = {
    "longest": 2,
    "shortest": 2,
    "first": 1,
    "random": 10,
}  # how many rows each trivial judge leaves for one of the judge's own


def verdict_share(match):
    """Mean over the games of the probability that the verdict token gives to answer 0; None where it was not read."""
    read = [
        game["p_verdict"] if game["order"][0] == 0 else 1 - game["p_verdict"]
        for game in match["games"]
        if game.get("p_verdict") is not None
    ]
    return sum(read) / len(read) if read else None


def protocol_cells(row):
    """Cells over the pairs of which one answer is better. accuracy: the majority of all valid votes is right; "game": shares of games, where a
    missing verdict counts 0, 0.5 or not at all (a tie that the judge wrote: 0.5). Brier scores are those of uncalibrated probabilities."""
    games = [game for match in row["matches"] for game in match["games"]]
    tokens = [
        game["tokens"] for game in games if game.get("tokens") is not None
    ]  # other tools do not tell
    coins = [
        share(match) == 0.5 for match in row["matches"] if row.get("pick") is not None
    ]  # of a knockout
    parts = [
        {"games an item": (len(games), 1), "tokens an item": (sum(tokens), bool(tokens))}
        | ({"matches decided by a coin": (sum(coins), len(coins))} if coins else {})
    ]
    for match, better in decided(row):
        result, winners, votes = outcome(match, better), order_winners(match), votes_of(match)
        lengths = [row["lengths"][player] for player in match["pair"]]
        length = (
            "as long"
            if lengths[0] == lengths[1]
            else "longer"
            if lengths[better] == max(lengths)
            else "shorter"
        )
        right, none, ties = (
            votes.count(better),
            votes.count(None),
            sum(game["status"] == "tie" for game in match["games"]),
        )
        named = [game["verdict"] for game in match["games"] if game["verdict"]]
        cells = {"accuracy": (result == "right", 1)} | {
            name: (result == name, 1) for name in OUTCOMES
        }
        if len(winners) == 2:
            agree = winners[0] == winners[1] is not None
            cells |= {
                "both orders right": (agree and winners[0] == better, 1),
                "both orders agree": (agree, 1),
            }
        cells |= {
            "game right, missing = 0": (right + ties / 2, len(votes)),
            "game right, missing = 0.5": (right + none / 2, len(votes)),
            "game right, missing left out": (right + ties / 2, len(votes) - none + ties),
            "game names the first": (named.count(1), len(named)),
        }
        for kind in ("longer", "shorter", "as long"):
            cells[f"accuracy, better is {kind}"] = (
                kind == length and result == "right",
                kind == length,
            )
        for kind, probability in (
            ("vote share", share(match)),
            ("verdict token", verdict_share(match)),
        ):
            cells |= (
                {}
                if probability is None
                else {f"Brier score, {kind}": ((probability - (better == 0)) ** 2, 1)}
            )
        parts.append(cells)
    return add_cells(parts)


def intervals(tables, numbers, rounds=1000, seed=0):
    """{name: [value, low, high]} of one table {question: cells}; of two tables over the same questions, of the difference. None: parts missing.

    Percentile intervals of 95 %: questions are drawn with replacement, the same ones for both tables.
    """
    import numpy as np

    questions, names = sorted(tables[0]), [list(add_cells(table.values())) for table in tables]
    arrays = [
        np.array(
            [[table[question].get(name, (0, 0)) for name in own] for question in questions], float
        )  # (questions, cells, 2)
        for table, own in zip(tables, names)
    ]
    rng, drawn = np.random.default_rng(seed), defaultdict(list)

    def differences(totals):
        first, *second = [numbers(cells) for cells in totals]
        second = second[0] if second else dict.fromkeys(first, 0)
        return {
            name: None if None in (value, second.get(name)) else value - second[name]
            for name, value in first.items()
        }

    for _ in range(rounds):
        weights = rng.multinomial(len(questions), np.full(len(questions), 1 / len(questions)))
        totals = [
            dict(zip(own, np.tensordot(weights, array, 1).tolist()))
            for own, array in zip(names, arrays)
        ]
        for name, value in differences(totals).items():
            drawn[name] += [] if value is None else [value]
    whole = differences([add_cells(table.values()) for table in tables])
    return {
        name: None
        if value is None
        else [float(value), *map(float, np.quantile(drawn[name] or [value], [0.025, 0.975]))]
        for name, value in whole.items()
    }


def compared(name, rows, others):
    """{items, rule, protocol} of the differences, rows less others, on the items that are in both. Raises BadInput."""
    common = {(row["id"], row["question"]) for row in rows} & {
        (row["id"], row["question"]) for row in others
    }
    if not common:
        raise BadInput("--compare: no item is in both results: compare results of the same data")
    sides = [
        [row for row in side if (row["id"], row["question"]) in common] for side in (rows, others)
    ]
    (cells, numbers), result = RULES[name], {"items": len(common)}
    return result | {
        "rule": intervals([question_cells(cells, side) for side in sides], numbers),
        "protocol": intervals([question_cells(protocol_cells, side) for side in sides], means),
    }


def baseline(name, row, kind, seed=0):
    """The row that a trivial judge would have left: in both orders the longest, shortest, first (as the file has them) or a random answer.
    Where files store the better answer first, the first one is that of a placement seeded by id. Of equal answers seed 0 names the first of
    the pair and seed 1 the other one, so that over both they count half."""
    players = range(len(row["scores"]))
    values = {"longest": row["lengths"], "shortest": [-length for length in row["lengths"]]}.get(
        kind
    )
    values = [-player for player in players] if kind == "first" and name in FILE_ORDER else values
    values = values or [uniform(f"{kind}:{seed}:{row['id']}:{player}") for player in players]
    matches = []
    for match in row["matches"]:
        i, j = (values[player] for player in match["pair"])
        named = (1, 2) if i > j or i == j and seed == 0 else (2, 1)
        games = [
            {"order": order, "verdict": verdict, "status": "valid"}
            for order, verdict in zip(([0, 1], [1, 0]), named)
        ]
        matches.append({"pair": match["pair"], "games": games})
    return row | {
        "matches": matches,
        "values": values,
        "pick": None,
        "question": f"{row['question']} {seed}",
    }


def summarise(name, rows):
    """All numbers: the rule and the protocol with intervals, counts, and the trivial judges."""
    result = {
        "benchmark": name,
        "items": len(rows),
        "questions": len({row["question"] for row in rows}),
        "baselines": {},
    }
    for kind, times in BASELINES.items():
        made = [baseline(name, row, kind, seed) for seed in range(times) for row in rows]
        result["baselines"][kind] = score(name, made) | {
            "accuracy": means(add_cells(map(protocol_cells, made))).get("accuracy")
        }
    (cells, numbers), totals = RULES[name], add_cells(map(protocol_cells, rows))
    return result | {
        "outcomes": {key: int(totals[key][0]) for key in OUTCOMES if key in totals},
        "forced": sum(
            game.get("forced", False)
            for row in rows
            for match in row["matches"]
            for game in match["games"]
        ),
        "rule": intervals([question_cells(cells, rows)], numbers),
        "protocol": intervals([question_cells(protocol_cells, rows)], means),
    }


def shown(name, value):
    """A number as tables have it: in percent, but for Brier scores (0 to 1) and what is counted."""
    return (
        f"{value:7.3f}"
        if "Brier" in name
        else f"{value:7.2f}"
        if name.endswith("an item")
        else f"{value * 100:7.2f}"
    )


def show(result):
    """Prints values with their intervals, the trivial judges beside them; the same table for a comparison."""
    outcomes, kinds = result.get("outcomes", {}), list(BASELINES) * ("baselines" in result)
    for part, title in (
        ("rule", "rule of " + result["benchmark"]),
        ("protocol", "pairs with a better answer"),
    ):
        print(
            f"{title:34}   value    95 % interval    " + "  ".join(f"{kind:>8}" for kind in kinds)
        )
        for name, value in result[part].items():
            if value is not None and name not in OUTCOMES:
                beside = [
                    result["baselines"][kind].get(name)
                    for kind in kinds
                    if part == "rule" or name == "accuracy"
                ]
                middle, low, high = (shown(name, number) for number in value)
                print(
                    f"{name:34} {middle}  {low} ...{high}   "
                    + "  ".join(f"{'-' if one is None else shown(name, one):>8}" for one in beside)
                )
        print()
    questions = f" of {result['questions']} questions; pairs: " if outcomes else ""
    forced = f" ({result['forced']} games by force)" if result.get("forced") else ""
    print(
        f"{result['items']} items{questions}"
        + ", ".join(f"{count} {name}" for name, count in outcomes.items())
        + forced
    )
    if "votes" in result:
        print(in_words(result["votes"]))


def show_sweep(results):
    """Accuracy against tokens: a line for each evaluation, the headline of the benchmark's rule first."""
    headline = next(
        (name for name, value in results[0]["rule"].items() if value is not None), "accuracy"
    )
    columns = ["accuracy", "truncated", "matches decided by a coin"]
    print(
        f"{'tokens an item':>14}  {headline:>12}    95 % interval    pairs right  truncated  by a coin  settings"
    )
    for result in sorted(results, key=lambda result: result["protocol"]["tokens an item"][0]):
        numbers = result["protocol"] | result["rule"]
        middle, low, high = (shown(headline, number) for number in numbers[headline])
        pairs, truncated, coin = (
            shown(name, numbers[name][0]) if numbers.get(name) else "-" for name in columns
        )
        forced = f", {result['forced']} verdicts by force" * (result["forced"] > 0)
        print(
            f"{numbers['tokens an item'][0]:14.1f}  {middle:>12}  {low} ...{high}  {pairs:>11}  {truncated:>9}  {coin:>9}  "
            f"{Path(result['output_dir']).name}{forced}"
        )
