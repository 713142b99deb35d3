"""From judged rows to numbers: outcomes, sums over rows, intervals over questions, trivial judges.

A row is what a judge made of one item, as evaluate.py stores it:

    {id, question, group, scores, lengths, matches: [{pair: [i, j], games: [...]}], ranked, pick}

A game is {order, verdict, status}. order [0, 1] says that answer i was shown first, [1, 0] that
answer j was. verdict is 1 or 2 (the place that was named), "tie" or None. status is valid,
unparsable or truncated. Two answers of the same text are a tie. place_known is false where only the
winner is known, not where its answer stood. `ranked` says that the matches were chosen without
knowing the scores, so the best of N may be asked for. `pick` is the winner of a knockout. `values`
are ratings that the judge itself gave to the answers.

Every score is a sum over rows, then a formula. `cells` turns a row into {name: (sum, count)} and
`numbers` turns the totals into scores. A bootstrap over questions is then a weighted sum of cells.
A part that lacks rows scores None, never less.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from cli import BadInput
from extras.intervals import share_interval
from seeding import uniform
from verdicts import BOTH_ORDERS, first_share, majority, vote_of

OUTCOMES = "right", "wrong", "tie", "inconsistent", "unparsable", "truncated"
# Trivial judges, and how many copies of a row each one judges: two copies break ties both ways.
BASELINES = {"longest": 2, "shortest": 2, "first": 1, "random": 10}


@dataclass(frozen=True)
class Benchmark:
    """How one labelled set is scored: see the top of this file."""

    name: str
    cells: Callable  # row -> {name: (sum, count)}
    numbers: Callable  # {name: (sum, count)} -> {name: score or None}
    # Files that store the better answer first make "the first answer" meaningless as a baseline.
    keeps_file_order: bool = False
    # Rows of a question that can only be scored together: rows -> cells, or None for this question.
    joint_cells: Callable | None = None


# ---- one match ----


def votes_of(match):
    """What each game of a match says: answer 0 or 1 of the pair, "tie", or None."""
    return [vote_in(game) for game in match["games"]]


def vote_in(game):
    return "tie" if game["status"] == "tie" else vote_of(game)  # a status in files of before


def order_winners(match):
    """For each order that was judged, the answer with more votes, "tie", or None for a draw."""
    orders = [
        [vote_in(game) for game in match["games"] if game["order"] == order]
        for order in BOTH_ORDERS
    ]
    return [majority(votes) for votes in orders if votes]


def share(match):
    """Mean over the games of 1 (for answer 0), 0 (for answer 1) and 0.5 (tie, no verdict)."""
    return first_share(votes_of(match))


def with_better(row):
    """[(match, its better answer: 0, 1, or None where both answers are equally good)]"""
    found = []
    for match in row["matches"]:
        first, second = (row["scores"][player] for player in match["pair"])
        found.append((match, None if first == second else int(first < second)))
    return found


def decided(row):
    """The matches of a row that have a better answer: [(match, 0 or 1)]."""
    return [(match, better) for match, better in with_better(row) if better is not None]


def outcome(match, better):
    """One of OUTCOMES, by the majority of valid votes.

    A missing verdict is never right: it leaves the decision to the other games.
    """
    votes = votes_of(match)
    winner = majority(votes)
    if winner == "tie":
        return "tie"
    if winner is not None:
        return "right" if winner == better else "wrong"
    if votes.count(0):  # as many votes for each answer
        return "tie" if None in order_winners(match) else "inconsistent"
    statuses = [game["status"] for game in match["games"]]
    if statuses.count("truncated") > statuses.count("unparsable"):
        return "truncated"
    return "unparsable"


def verdict_share(match):
    """Mean over the games of the probability that the verdict token gives to answer 0, or None."""
    read = []
    for game in match["games"]:
        probability = game.get("p_verdict")
        if probability is not None:
            read.append(probability if game["order"][0] == 0 else 1 - probability)
    return sum(read) / len(read) if read else None


# ---- sums ----


def mean(total):
    """(sum, count) -> sum / count; None where there is nothing to divide by."""
    return total[0] / total[1] if total and total[1] else None


def means(totals, names=None):
    return {name: mean(totals.get(name)) for name in names or totals}


def mean_of(values):
    """The plain mean; None unless every part is there."""
    values = list(values)
    return None if not values or None in values else sum(values) / len(values)


def add_cells(parts):
    """The sum of cells over rows or questions."""
    totals = {}
    for cells in parts:
        for name, (value, count) in cells.items():
            before = totals.get(name, (0, 0))
            totals[name] = (before[0] + value, before[1] + count)
    return totals


def question_cells(cells, rows, joint_cells=None):
    """{question: cells}: the units that a bootstrap draws."""
    questions = defaultdict(list)
    for row in rows:
        questions[row["question"]].append(row)
    table = {}
    for question, own in questions.items():
        joint = joint_cells(own) if joint_cells else None
        table[question] = add_cells(map(cells, own)) if joint is None else joint
    return table


def score(benchmark, rows):
    """The numbers of a benchmark's own rule, the headline first; None where rows are missing."""
    table = question_cells(benchmark.cells, rows, benchmark.joint_cells)
    return benchmark.numbers(add_cells(table.values()))


# ---- the rule for any labelled pairs, and for questions with N answers ----


def ratings(row, rate):
    """Ratings of a row's answers by rate(matches, number of answers); its `values` if it has some.

    They are rounded, so that answers with equal results are exactly equal.
    """
    if row.get("values"):
        return row["values"]
    matches = [(*match["pair"], share(match)) for match in row["matches"]]
    return [round(rating, 9) for rating in rate(matches, len(row["scores"]))]


def best_answers(row):
    """The answers that best-of-N takes: the winner of a knockout, else those with highest Elo."""
    from elo import elo

    if row.get("pick") is not None:
        return [row["pick"]]
    rated = ratings(row, elo)
    return [player for player, rating in enumerate(rated) if rating == max(rated)]


def choice_cells(row, scores):
    """The score of the answer that a judge picks, beside a random and a perfect choice."""
    if not row.get("ranked"):
        return {}
    picked = best_answers(row)
    choice = sum(scores[player] for player in picked) / len(picked)
    cells = {
        "best of N": (choice, 1),
        "random choice": (sum(scores) / len(scores), 1),
        "perfect choice": (max(scores), 1),
    }
    if min(scores) < max(scores):
        cells["best of N, mixed questions"] = (choice, 1)
    return cells


def pair_cells(row, names):
    """How many pairs of a better and a worse answer were judged right, under each name."""
    results = [outcome(match, better) for match, better in decided(row)]
    return {name: (results.count("right"), len(results)) for name in names}


def pairs_cells(row):
    """Scores may have any scale, so a choice counts if it is one of the best answers."""
    is_best = [score == max(row["scores"]) for score in row["scores"]]
    return choice_cells(row, is_best) | pair_cells(row, ["overall", row["group"]])


PAIRS = Benchmark("pairs", pairs_cells, means)


# ---- the protocol: what is reported for every set ----


def protocol_cells(row):
    """Cells over the pairs that have a better answer, and over all games.

    accuracy: the majority of all valid votes is right. "game right": shares of single games, where
    a missing verdict counts 0, 0.5 or not at all, and a tie that the judge wrote counts 0.5. Brier
    scores are those of uncalibrated probabilities.
    """
    parts = [cost_cells(row)]
    for match, better in decided(row):
        cells = outcome_cells(match, better)
        cells |= length_cells(match, better, row["lengths"])
        for kind, probability in (
            ("vote share", share(match)),
            ("verdict token", verdict_share(match)),
        ):
            if probability is not None:
                cells[f"Brier score, {kind}"] = ((probability - (better == 0)) ** 2, 1)
        parts.append(cells)
    return add_cells(parts)


def cost_cells(row):
    games = [game for match in row["matches"] for game in match["games"]]
    tokens = [game["tokens"] for game in games if game.get("tokens") is not None]
    cells = {
        "games an item": (len(games), 1),
        "tokens an item": (sum(tokens), bool(tokens)),  # other tools do not store them
    }
    if row.get("pick") is not None and row["matches"]:  # of a knockout
        coins = [share(match) == 0.5 for match in row["matches"]]
        cells["matches decided by a coin"] = (sum(coins), len(coins))
    return cells


def outcome_cells(match, better):
    result, winners, votes = outcome(match, better), order_winners(match), votes_of(match)
    cells = {"accuracy": (result == "right", 1)}
    cells |= {name: (result == name, 1) for name in OUTCOMES}
    if len(winners) == 2:
        agree = winners[0] == winners[1] is not None
        cells["both orders right"] = (agree and winners[0] == better, 1)
        cells["both orders agree"] = (agree, 1)
    right, none, ties = votes.count(better), votes.count(None), votes.count("tie")
    places = []
    for game in match["games"]:
        if game["verdict"] in (1, 2) and game.get("place_known", True):
            places.append(game["verdict"])
    cells["game right, missing = 0"] = (right + ties / 2, len(votes))
    cells["game right, missing = 0.5"] = (right + (none + ties) / 2, len(votes))
    cells["game right, missing left out"] = (right + ties / 2, len(votes) - none)
    cells["game names the first"] = (places.count(1), len(places))
    return cells


def length_cells(match, better, lengths):
    """Accuracy where the better answer is the longer one, the shorter one, or as long."""
    own, other = lengths[match["pair"][better]], lengths[match["pair"][1 - better]]
    kind = "as long" if own == other else "longer" if own > other else "shorter"
    right = outcome(match, better) == "right"
    return {
        f"accuracy, better is {name}": (name == kind and right, name == kind)
        for name in ("longer", "shorter", "as long")
    }


# ---- intervals ----


def intervals(tables, numbers, rounds=1000, seed=0):
    """{name: [value, low, high]} of one table {question: cells}; None where parts are missing.

    Two tables over the same questions give the interval of their difference. Percentile intervals
    of 95 %: questions are drawn with replacement, the same ones for both tables. A share near 0 or
    1 gets a binomial interval (intervals.py): 20 of 20 right is not sure to be 1.
    """
    import numpy as np

    questions = sorted(tables[0])
    names = [list(add_cells(table.values())) for table in tables]
    arrays = []  # one a table: (questions, cells, 2)
    for table, own in zip(tables, names):
        cells = [[table[question].get(name, (0, 0)) for name in own] for question in questions]
        arrays.append(np.array(cells, float))

    def differences(totals):
        scores = [numbers(cells) for cells in totals]
        if len(scores) == 1:
            return scores[0]
        first, second = scores
        return {
            name: None if None in (value, second.get(name)) else value - second[name]
            for name, value in first.items()
        }

    rng, drawn = np.random.default_rng(seed), defaultdict(list)
    for _ in range(rounds):
        weights = rng.multinomial(len(questions), np.full(len(questions), 1 / len(questions)))
        totals = []
        for own, array in zip(names, arrays):
            sums = np.tensordot(weights, array, 1)  # (cells, 2)
            totals.append(dict(zip(own, sums.tolist())))
        for name, value in differences(totals).items():
            if value is not None:
                drawn[name].append(value)
    found = {}
    for name, value in differences([add_cells(table.values()) for table in tables]).items():
        if value is not None:
            draws = drawn[name] or [value]
            is_share = min(draws) >= 0 and max(draws) <= 1 and not name.endswith("an item")
            if is_share and len(tables) == 1:
                counts = [cells.get(name, (0, 0))[1] for cells in tables[0].values()]
                low, high = share_interval(value, draws, np.count_nonzero(counts) or len(questions))
            else:
                low, high = np.quantile(draws, [0.025, 0.975])
            value = [float(value), float(low), float(high)]
        found[name] = value
    return found


def compared(benchmark, rows, others):
    """{items, rule, protocol}: rows minus others, on the items that both have. Raises BadInput."""
    common = {(row["id"], row["question"]) for row in rows}
    common &= {(row["id"], row["question"]) for row in others}
    if not common:
        raise BadInput("--compare: no item is in both results: compare results of the same data")
    sides = [
        [row for row in side if (row["id"], row["question"]) in common] for side in (rows, others)
    ]
    rule = [question_cells(benchmark.cells, side, benchmark.joint_cells) for side in sides]
    protocol = [question_cells(protocol_cells, side) for side in sides]
    return {
        "items": len(common),
        "rule": intervals(rule, benchmark.numbers),
        "protocol": intervals(protocol, means),
    }


# ---- trivial judges ----


def baseline(benchmark, row, kind, seed=0):
    """The row that a trivial judge leaves: longest, shortest, first or random, in both orders.

    Where files store the better answer first, "first" means the first place of a placement seeded
    by id. Of equal answers seed 0 names the first of the pair and seed 1 the other one, so that
    over both seeds they count half.
    """
    players = range(len(row["scores"]))
    if kind == "longest":
        values = row["lengths"]
    elif kind == "shortest":
        values = [-length for length in row["lengths"]]
    elif kind == "first" and benchmark.keeps_file_order:
        values = [-player for player in players]
    else:
        values = [uniform(f"{kind}:{seed}:{row['id']}:{player}") for player in players]
    matches = []
    for match in row["matches"]:
        i, j = (values[player] for player in match["pair"])
        prefers_first = i > j or (i == j and seed == 0)
        games = [
            {"order": [0, 1], "verdict": 1 if prefers_first else 2, "status": "valid"},
            {"order": [1, 0], "verdict": 2 if prefers_first else 1, "status": "valid"},
        ]
        matches.append({"pair": match["pair"], "games": games})
    question = f"{row['question']} {seed}"
    return row | {"matches": matches, "values": values, "pick": None, "question": question}


def summarise(benchmark, rows):
    """All numbers of a results.json: rule and protocol with intervals, counts, trivial judges."""
    result = {
        "benchmark": benchmark.name,
        "items": len(rows),
        "questions": len({row["question"] for row in rows}),
        "baselines": {},
    }
    for kind, copies in BASELINES.items():
        made = [baseline(benchmark, row, kind, seed) for seed in range(copies) for row in rows]
        accuracy = means(add_cells(map(protocol_cells, made))).get("accuracy")
        result["baselines"][kind] = score(benchmark, made) | {"accuracy": accuracy}
    totals = add_cells(map(protocol_cells, rows))
    result["outcomes"] = {name: int(totals[name][0]) for name in OUTCOMES if name in totals}
    games = [game for row in rows for match in row["matches"] for game in match["games"]]
    result["forced"] = sum(game.get("forced", False) for game in games)
    rule = question_cells(benchmark.cells, rows, benchmark.joint_cells)
    result["rule"] = intervals([rule], benchmark.numbers)
    result["protocol"] = intervals([question_cells(protocol_cells, rows)], means)
    counts = add_cells(rule.values())
    result["counts"] = {
        "rule": {name: denominator(counts, name, len(rows)) for name in result["rule"]},
        "protocol": {name: int(totals[name][1]) for name in result["protocol"]},
    }
    return result


def denominator(totals, name, num_items):
    """What a number is a mean over: its own cells, or all items where it joins several means."""
    return int(totals[name][1]) if name in totals else num_items
