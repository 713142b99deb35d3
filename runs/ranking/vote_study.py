"""How many votes does a pair need? The stop rules of votes.py under simulated judges, by exact enumeration; no model.

    python runs/ranking/vote_study.py             two minutes on one core; writes vote_study.log, vote_study.md and vote_study.png beside itself
    python runs/ranking/vote_study.py --report    table and plot again, from the log

A judge votes for the right answer with a probability p that may differ from pair to pair; 0.7 on average in all but two of them:

    coin 0.6, 0.7, 0.8    the same p for all pairs
    pairs differ          p ~ Beta(7, 3): standard deviation 0.14
    pairs differ much     p ~ Beta(1.4, 0.6): standard deviation 0.26; the majority of endless votes is right in 76 % of the pairs
    fixed error           p is 1 in 70 % of the pairs and 0 in the others: each vote repeats the first
    order bias            pairs differ, and 1.0 is added to the log odds of whichever answer stands first
    no verdict            pairs differ, and one vote in five names no answer

Beside the rules of votes.py stands "ahead by 4", Wald's sequential test (1945) for such votes: stop as soon as one answer leads by four, or is
decided. `right`: the winner is the right answer, a draw counts half. `generations`: votes asked for, both orders. `differs`: the winner is
not the one that all num_votes would have given.

Then what rankers make of the same rules: 400 questions with 16 answers, 4 of them right, whose pairs a judge of the kind "pairs differ much"
has voted on 8 times in each order (drawn with a fixed seed), replayed twice by replay.py.
"""

import functools
import itertools
import json
import random
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import replay  # noqa: E402

from early_stopping import enough  # noqa: E402

VOTES = 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32
SHOWN = 3, 5, 8, 16  # of these in the table
RULES = "never", "decided", "ahead by 4", "likely"


def beta(a, b, points=200):
    """(weights, p) that integrate over a Beta(a, b): the midpoint rule in t with p = sin^2 t, where the density has no poles."""
    t = (np.arange(points) + 0.5) / points * np.pi / 2
    weights = np.sin(t) ** (2 * a - 1) * np.cos(t) ** (2 * b - 1)
    return weights / weights.sum(), np.sin(t) ** 2


def judges():
    """name -> (weights of the pairs, P(a vote is for the right answer) with it first and with it second, P(no verdict))."""
    for p in (0.6, 0.7, 0.8):
        yield f"coin {p}", (np.ones(1), np.array([p]), np.array([p]), 0.0)
    weights, p = beta(7, 3)
    yield "pairs differ", (weights, p, p, 0.0)
    yield "pairs differ much", (*beta(1.4, 0.6), beta(1.4, 0.6)[1], 0.0)
    yield "fixed error", (np.array([0.7, 0.3]), np.array([1.0, 0.0]), np.array([1.0, 0.0]), 0.0)
    odds = p / (1 - p)
    yield (
        "order bias",
        (weights, odds * np.e / (1 + odds * np.e), odds / np.e / (1 + odds / np.e), 0.0),
    )
    yield "no verdict", (weights, p, p, 0.2)


@functools.cache
def stops(right, wrong, remaining, rule):
    if rule == "ahead by 4":
        return abs(right - wrong) > min(remaining, 3) or remaining == 0
    return enough([0] * right + [1] * wrong, remaining, rule)


def measure(judge, num_votes, rule):
    """One row of the log, from the distribution of (votes for the right answer, for the wrong one, lead at which it stopped, None before)."""
    weights, first, second, silent = judge
    chances = [
        [(1, 0, (1 - silent) * p), (0, 1, (1 - silent) * (1 - p)), (0, 0, np.full_like(p, silent))]
        for p in (first, second)
    ]
    chances = [[outcome for outcome in order if outcome[2].any()] for order in chances]
    states, generations, right, differs = {(0, 0, None): weights}, 0.0, 0.0, 0.0
    for left in reversed(range(num_votes)):  # rounds behind this one
        generations += 2 * sum(
            chance.sum() for (_, _, stopped), chance in states.items() if stopped is None
        )
        played = {}
        for (good, bad, stopped), chance in states.items():
            for more_good, more_bad, p in chances[0]:
                for again_good, again_bad, q in chances[
                    1
                ]:  # who has stopped plays on as well, to see what would have come of it
                    key = good + more_good + again_good, bad + more_bad + again_bad
                    lead = (
                        stopped
                        if stopped is not None or not stops(*key, 2 * left, rule)
                        else np.sign(key[0] - key[1])
                    )
                    played[*key, lead] = played.get((*key, lead), 0) + chance * p * q
        states = played
    for (good, bad, lead), chance in states.items():
        right += (lead + 1) / 2 * chance.sum()
        differs += (lead != np.sign(good - bad)) * chance.sum()
    return {
        "num_votes": num_votes,
        "stop": rule,
        "generations": round(float(generations), 4),
        "right": round(float(right), 5),
        "differs": round(float(differs), 5),
    }


def recording(num_questions, size, num_votes, draw_p, seed=0):
    """A recording as replay.py reads it, a quarter of the answers right; draw_p(rng): P(a vote is for the right answer) for a pair of one
    right and one wrong answer. The tokens are invented: 10 a vote."""
    rng, rows = random.Random(seed), []
    for number in range(num_questions):
        scores = rng.sample([1.0] * (size // 4) + [0.0] * (size - size // 4), size)
        votes = {}
        for i, j in itertools.combinations(range(size), 2):
            right = draw_p(rng)
            p = 0.5 if scores[i] == scores[j] else right if scores[i] > scores[j] else 1 - right
            votes[i, j] = [[int(rng.random() >= p) for _ in range(num_votes)] for _ in range(2)]
        rows.append(
            {
                "id": str(number),
                "scores": scores,
                "votes": votes,
                "tokens": {pair: [[10] * num_votes] * 2 for pair in votes},
            }
        )
    return rows


def rankers():
    """Rows of replay.measure."""
    rows = recording(400, 16, 8, lambda rng: rng.betavariate(1.4, 0.6))
    for schedule, per_player in (
        ("knockout", None),
        ("random", 3),
        ("halving", 3),
        ("swiss", 3),
        ("full", None),
    ):
        for num_votes, stop in (
            (1, "never"),
            (3, "never"),
            (5, "never"),
            (8, "never"),
            (8, "decided"),
            (8, "likely"),
        ):
            yield replay.measure(rows, schedule, per_player, num_votes, stop, 2)


def curve(rows, judge, rule):
    """(generations, right) by rising num_votes."""
    return [
        (row["generations"], row["right"])
        for row in rows
        if row["judge"] == judge and row["stop"] == rule
    ]


def needed(points, goal):
    """Generations at which a curve reaches `goal`, on straight lines between its points; NaN where it does not."""
    for (x, y), (next_x, next_y) in zip(points, points[1:]):
        if y <= goal + 1e-9 <= next_y + 2e-9:
            return x + (next_x - x) * (goal - y) / max(next_y - y, 1e-9)
    return points[0][0] if points[0][1] >= goal else float("nan")


def tables(rows, ranked):
    names = list(dict.fromkeys(row["judge"] for row in rows))
    yield "Right winners at generations a pair, by the largest number of votes in each order:\n"
    yield (
        "| judge | rule | "
        + " | ".join(f"num_votes {k}" for k in SHOWN)
        + " | differs (largest) |\n|---|---|"
        + "---|" * (len(SHOWN) + 1)
    )
    for name in names:
        for rule in RULES:
            found = {
                row["num_votes"]: row for row in rows if (row["judge"], row["stop"]) == (name, rule)
            }
            cells = [f"{found[k]['right']:.3f} at {found[k]['generations']:.1f}" for k in SHOWN]
            yield (
                f"| {name} | {rule} | "
                + " | ".join(cells)
                + f" | {max(row['differs'] for row in found.values()):.3f} |"
            )
    yield "\nGenerations a pair at equal accuracy, that of a fixed number of votes; `likely` may ask for more votes where they are needed:\n"
    yield (
        "| judge | "
        + " | ".join(f"right | fixed {k} | decided | likely" for k in SHOWN[:3])
        + " |\n|---|"
        + "---|" * 4 * len(SHOWN[:3])
    )
    for name in names:
        cells = []
        for k in SHOWN[:3]:
            goal = next(
                row["right"]
                for row in rows
                if (row["judge"], row["stop"], row["num_votes"]) == (name, "never", k)
            )
            decided = next(
                row["generations"]
                for row in rows
                if (row["judge"], row["stop"], row["num_votes"]) == (name, "decided", k)
            )
            found = decided, needed(curve(rows, name, "likely"), goal)
            cells += [
                f"{goal:.3f}",
                f"{2 * k}",
                *(f"{spent:.1f} ({1 - spent / (2 * k):.0%} saved)" for spent in found),
            ]
        yield f"| {name} | " + " | ".join(cells) + " |"
    rules = list(dict.fromkeys((row["num_votes"], row["stop"]) for row in ranked))
    yield f"\nA right answer of 16 picked, at generations a question (largest standard error {max(row['se'] for row in ranked):.3f}):\n"
    heads = [f"{num_votes} vote{'s' * (num_votes > 1)}, {stop}" for num_votes, stop in rules]
    yield "| schedule | " + " | ".join(heads) + " |\n|---|" + "---|" * len(heads)
    for schedule in dict.fromkeys(row["schedule"] for row in ranked):
        cells = [
            f"{row['right']:.3f} at {row['generations']:.0f}"
            for row in ranked
            if row["schedule"] == schedule
        ]
        yield f"| {schedule} | " + " | ".join(cells) + " |"


def plot(rows):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["judge"] for row in rows))
    figure, axes = plt.subplots(2, 4, figsize=(14, 6.5), layout="constrained")
    for name, axis in zip(names, axes.flat):
        for rule, colour in zip(RULES, ("black", "blue", "grey", "red")):
            axis.plot(*zip(*curve(rows, name, rule)), "o-", color=colour, label=rule, markersize=4)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.set_title(name)
    axes[0][0].legend()
    figure.supxlabel("generations a pair (mean, both orders)")
    figure.supylabel("the winner is right (a draw counts half)")
    figure.savefig(HERE / "vote_study.png", dpi=70)


def main():
    log = HERE / "vote_study.log"
    if "--report" not in sys.argv:
        rows = (
            {"judge": name} | measure(judge, num_votes, rule)
            for name, judge in judges()
            for rule in RULES
            for num_votes in VOTES
        )
        log.write_text("".join(json.dumps(row) + "\n" for row in itertools.chain(rows, rankers())))
    rows, ranked = [], []
    for row in map(json.loads, log.read_text().splitlines()):
        (rows if "judge" in row else ranked).append(row)
    (HERE / "vote_study.md").write_text("\n".join(tables(rows, ranked)) + "\n")
    try:
        plot(rows)
    except ImportError:
        print("no plot: matplotlib is not installed", file=sys.stderr)


if __name__ == "__main__":
    main()
