"""Does the judge go in circles, A beats B beats C beats A, and what does that cost where one answer of N is picked?

    python runs/ranking/cycles.py | tee runs/ranking/cycles.log                             writes cycles.md beside itself
    python runs/ranking/cycles.py --model MODEL --triples 20 --groups 5 --out out/cycles.md

Lines of words from the embedded world (tiny/README.md), about held-out questions, in two kinds of triples:

    points differ   constraints of different weight, three answers with three different numbers of points: there is a right order
    points equal    three constraints of the same weight, of which each answer meets another one, or another two: no order is right. Sums of
                    points cannot go in a circle, but a judge whose attention moves from one constraint to the next can

A circle needs a winner of each pair, the majority of all its votes in both orders; triples without are counted apart. Three coins give
a circle in 1/4 of the triples. The judge is also set beside one that cannot prefer in circles and errs as much: a vote for answer i, standing
first, has log odds b (points i - points j) + s (e_i - e_j) + c, with e normal for each answer. That is Bradley-Terry with an order bias: what
circles it has are chance. b, c and s are fitted to what the votes show: how many are right, how many name the first place, how often two votes
of the same pair and order agree. (Where points are equal, b says nothing and is 0.)

Then groups of 8 answers, one of them best: Elo and knockout pick one from the recorded votes (20 drawings of pairing and votes each; knockout
with 1 vote, with all; Elo over all pairs), in groups of both kinds and by whether the judge's own majorities hold a circle.
"""

import random
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Optional

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1]), str(HERE.parents[1] / "tiny")]

import world  # noqa: E402
from replay import pick, recorded_play  # noqa: E402

import cli  # noqa: E402
from cli import BadInput, setting  # noqa: E402
from elo import closure  # noqa: E402
from judge import JudgeSettings, check_judge, judge_of  # noqa: E402
from verdicts import majority, vote_of  # noqa: E402

KINDS = "points differ", "points equal"
DRAWINGS = 20  # of a ranking of each group


@dataclass
class Settings(JudgeSettings):
    num_votes: int = setting(
        5, "votes of a pair in each order; the tables have one vote and all of them"
    )
    triples: int = setting(200, "triples of each kind")
    groups: int = setting(30, "groups of 8 answers of each kind")
    group_votes: int = setting(3, "votes of a pair of a group in each order")
    out: Optional[str] = setting(None, "the tables; default: cycles.md beside this file")


# ---- answers ----


def draw_answers(rng, kind, size):
    """{query, texts, scores} of a held-out question: `size` lines as `kind` says; of more than three, one is best."""
    while True:
        task, weight = world.draw_constraints(rng, 3), rng.choice([1, 2, 3])
        if kind == "points equal":
            task = [(name, value, weight) for name, value, _ in task]
        if not world.is_test(world.key(task)):
            continue
        drawn = dict.fromkeys(world.draw_line(rng, task) for _ in range(40))
        lines = [
            (
                line,
                world.quality(task, line),
                tuple(world.is_met(name, value, line) for name, value, _ in task),
            )
            for line in drawn
        ]
        chosen = draw_three(lines, kind) if size == 3 else draw_group(lines, kind, size)
        if chosen:
            texts, scores, _ = zip(*rng.sample(chosen, size))
            return {"query": world.line_query(task), "texts": texts, "scores": scores}


def draw_three(lines, kind):
    """Three of the lines [(text, points, constraints met), ...], or None."""
    for three in combinations(lines, 3):
        _, points, met = map(set, zip(*three))
        if len(points) == 3 if kind == "points differ" else len(points) == 1 and len(met) == 3:
            return three


def draw_group(lines, kind, size):
    """One line that is better than all others, and others: with a triple of equal points among them, or without; or None."""
    ranked = sorted(lines, key=lambda line: -line[1])
    best, others = ranked[:1], [line for line in ranked[1:] if line[1] < ranked[0][1]]
    if kind == "points equal":
        three = draw_three(others, kind)
        rest = [line for line in others if line not in three] if three else []
        chosen = [*best, *(three or ()), *rest[: size - 4]]
    else:  # of each number of points one set of constraints, in different words
        kinds = {}
        chosen = (
            best
            + [line for line in others if kinds.setdefault(line[1], line[2]) == line[2]][: size - 1]
        )
    return chosen if len(chosen) == size else None


# ---- votes ----


def judged(judge, questions, settings, num_votes):
    """Rows as replay.py has them: {scores, votes: {(i, j): [votes with i first, votes with j first]}, tokens likewise}."""
    keys = [
        (number, *pair)
        for number, question in enumerate(questions)
        for pair in combinations(range(len(question["texts"])), 2)
    ]
    pairs = [
        (questions[n]["query"], questions[n]["texts"][i], questions[n]["texts"][j])
        for n, i, j in keys
    ]
    rows = [{"scores": question["scores"], "votes": {}, "tokens": {}} for question in questions]
    for (n, i, j), judgment in zip(
        keys,
        judge.judge(pairs, num_votes, True, settings.temperature, settings.max_completion_length),
        strict=True,
    ):
        orders = [
            [game for game in judgment.games if game["order"] == order]
            for order in ([0, 1], [1, 0])
        ]
        rows[n]["votes"][i, j] = [[vote_of(game) for game in order] for order in orders]
        rows[n]["tokens"][i, j] = [[game["tokens"] for game in order] for order in orders]
    return rows


def leads(row, num_votes):
    """(n, n) booleans: the first num_votes votes in each order prefer the answer of the row to that of the column."""
    size = len(row["scores"])
    ahead = np.zeros((size, size), bool)
    for (i, j), orders in row["votes"].items():
        winner = majority(sum((votes[:num_votes] for votes in orders), []))
        if winner is not None:
            ahead[(i, j) if winner == 0 else (j, i)] = True
    return ahead


def has_circle(ahead):
    reach = closure(ahead)
    return bool((reach & reach.T & ~np.eye(len(ahead), dtype=bool)).any())


def circles(tables):
    """(pairs with a winner, triples in which each pair has one, circles among those) of leads of triples, (triples, 3, 3)."""
    decided = (tables | tables.swapaxes(1, 2)).sum((1, 2)) == 6
    return (
        int(tables.sum()),
        int(decided.sum()),
        int((decided & (tables.sum(2) == 1).all(1)).sum()),
    )  # in a circle everybody wins once


def shown_by(rows):
    """What the votes of triples show: shares of valid votes that are right (None where points are equal) and that name the first place, how
    often two valid votes of the same pair and order agree, and votes without a verdict."""
    right = points = first = valid = agree = both = missing = 0
    for row in rows:
        for (i, j), orders in row["votes"].items():
            gap = row["scores"][i] - row["scores"][j]
            for place, votes in enumerate(orders):  # place: which of the two answers stands first
                zeros, ones = votes.count(0), votes.count(1)
                valid, missing, first = (
                    valid + zeros + ones,
                    missing + votes.count(None),
                    first + (zeros, ones)[place],
                )
                right, points = (
                    right + (zeros if gap > 0 else ones) * (gap != 0),
                    points + (zeros + ones) * (gap != 0),
                )
                agree, both = (
                    agree + zeros * (zeros - 1) + ones * (ones - 1),
                    both + (zeros + ones) * (zeros + ones - 1),
                )
    return {
        "right": right / points if points else None,
        "first": first / valid,
        "agree": agree / max(both, 1),
        "missing": missing / (valid + missing),
    }


# ---- a judge that cannot prefer in circles ----


def sigmoid(x):
    return 0.5 + 0.5 * np.tanh(x / 2)


def chances(points, noise, b, c, s):
    """(triples, 3 pairs, 2 orders): the probability of a vote for the pair's first answer. points, noise: (triples, 3)."""
    strengths = b * points + s * noise
    gaps = np.stack(
        [strengths[:, i] - strengths[:, j] for i, j in combinations(range(3), 2)], axis=1
    )
    return sigmoid(gaps[:, :, None] + np.array([c, -c]))


def fit(rows, shown, seed=0):
    """(b, c, s) with which the expectations are those `shown`, b and s at least 0: Newton's method with differences for derivatives. Where no
    such judge has them (votes that agree less than coins), the nearest one."""
    points = np.tile([row["scores"] for row in rows], (max(1, 2000 // len(rows)), 1)).astype(float)
    noise = np.random.default_rng(seed).normal(size=points.shape)
    gaps = np.stack([points[:, i] - points[:, j] for i, j in combinations(range(3), 2)], axis=1)
    free = (
        [0, 1, 2] if shown["right"] is not None else [1, 2]
    )  # where points are equal, b says nothing
    wanted = np.array([shown[name] for name in ("right", "first", "agree")], dtype=float)[free]

    def missed(values):
        p = chances(points, noise, *values)
        right = np.where(gaps[:, :, None] > 0, p, 1 - p)[gaps != 0].mean() if 0 in free else 0
        return (
            np.array(
                [right, (p[:, :, 0] + 1 - p[:, :, 1]).mean() / 2, (p**2 + (1 - p) ** 2).mean()]
            )[free]
            - wanted
        )

    values = np.array([0.5 * (0 in free), 0.0, 0.5])
    for _ in range(40):
        error = missed(values)
        slopes = (
            np.stack([missed(values + 1e-3 * np.eye(3)[index]) - error for index in free], axis=1)
            / 1e-3
        )
        step, length = np.zeros(3), 1.0
        step[free] = -np.linalg.lstsq(slopes, error, rcond=None)[0]
        while True:  # halve a step that leads away
            tried = np.clip(values + length * step, [0, -20, 0], 20)
            if np.linalg.norm(missed(tried)) <= np.linalg.norm(error) or length < 1e-3:
                break
            length /= 2
        values = tried
    return tuple(values.tolist())


def simulated(rows, parameters, missing, num_votes, times=50, seed=1):
    """`circles` of judges with these parameters on the same triples, `times` times."""
    rng = np.random.default_rng(seed)
    points = np.tile([row["scores"] for row in rows], (times, 1)).astype(float)
    p = chances(points, rng.normal(size=points.shape), *parameters)
    valid = rng.binomial(num_votes, 1 - missing, p.shape)
    votes = rng.binomial(valid, p)
    lead = (2 * votes - valid).sum(2)  # (triples, 3 pairs)
    tables = np.zeros((len(points), 3, 3), bool)
    for pair, (i, j) in enumerate(combinations(range(3), 2)):
        tables[:, i, j], tables[:, j, i] = lead[:, pair] > 0, lead[:, pair] < 0
    return circles(tables)


# ---- tables ----


def share_and_error(part, whole):
    share = part / whole if whole else float("nan")
    return f"{share:.3f} +- {np.sqrt(share * (1 - share) / whole):.3f}" if whole else "-"


def triple_lines(kind, rows, num_votes):
    shown = shown_by(rows)
    parameters = fit(rows, shown)
    right = "-" if shown["right"] is None else f"{shown['right']:.3f}"
    print(
        f"{kind}: {len(rows)} triples; votes: right {right}, for the first place {shown['first']:.3f}, two of a pair and order agree "
        f"{shown['agree']:.3f}, missing {shown['missing']:.3f}; fitted b {parameters[0]:.2f} c {parameters[1]:.2f} s {parameters[2]:.2f}",
        flush=True,
    )
    for votes in dict.fromkeys((1, num_votes)):
        pairs, decided, found = circles(np.array([leads(row, votes) for row in rows]))
        _, chance_decided, chance = simulated(rows, parameters, shown["missing"], votes)
        yield (
            f"| {kind} | {votes} | {right} | {pairs / 3 / len(rows):.3f} | {decided} of {len(rows)} | {found} | "
            f"{share_and_error(found, decided)} | 0.250 | {chance / max(chance_decided, 1):.3f} |"
        )


def group_lines(kind, rows, num_votes):
    circular = np.array([has_circle(leads(row, num_votes)) for row in rows])
    print(f"{kind}: {len(rows)} groups, {circular.sum()} with a circle", flush=True)
    best = np.array(
        [
            [
                np.mean(
                    [
                        row["scores"][
                            pick(
                                row,
                                schedule,
                                None,
                                recorded_play(row, votes, "never", seed, Counter()),
                                seed,
                            )
                        ]
                        == max(row["scores"])
                        for seed in range(DRAWINGS)
                    ]
                )
                for schedule in ("full", "knockout")
                for votes in (1, num_votes)
            ]
            for row in rows
        ]
    )
    for name, chosen in (
        ("all", circular >= 0),
        ("with a circle", circular),
        ("without", ~circular),
    ):
        part = best[chosen]  # (groups, 4)
        cells = (
            [
                f"{mean:.3f} +- {error:.3f}"
                for mean, error in zip(part.mean(0), part.std(0) / np.sqrt(len(part)))
            ]
            if len(part)
            else ["-"] * 4
        )
        yield f"| {kind} | {name} | {len(part)} | {' | '.join(cells)} |"


def report(judge, settings):
    """Yields the lines of cycles.md."""
    draws = {kind: random.Random(f"cycles:{settings.seed}:{kind}") for kind in KINDS}
    yield "| triples | votes in each order | votes right | pairs with a winner | triples decided | circles | share | coins | without circles by nature |"
    yield "|" + "---|" * 9
    for kind in KINDS:
        rows = judged(
            judge,
            [draw_answers(draws[kind], kind, 3) for _ in range(settings.triples)],
            settings,
            settings.num_votes,
        )
        yield from triple_lines(kind, rows, settings.num_votes)
    votes = settings.group_votes
    yield f"\n| groups of 8 | judge's majorities | groups | Elo, 1 vote | Elo, {votes} votes | knockout, 1 vote | knockout, {votes} votes |"
    yield "|" + "---|" * 7
    for kind in KINDS:
        rows = judged(
            judge,
            [draw_answers(draws[kind], kind, 8) for _ in range(settings.groups)],
            settings,
            votes,
        )
        yield from group_lines(kind, rows, votes)


def main(argv=None):
    settings = cli.parse_settings(Settings, argv, description=__doc__)
    for name in ("triples", "groups", "group_votes"):
        if getattr(settings, name) < 1:
            raise BadInput(f"--{name}: must be at least 1, got {getattr(settings, name)}")
    check_judge(settings)
    lines = []
    for line in report(judge_of(settings), settings):
        print(line, flush=True)
        lines.append(line)
    Path(settings.out or HERE / "cycles.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
