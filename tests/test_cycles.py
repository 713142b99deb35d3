"""runs/ranking/cycles.py: what its triples are, circles counted by hand, and judges of which it is known whether they go in circles."""

import random
import sys
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "runs" / "ranking"), str(ROOT / "tiny")]

import cycles  # noqa: E402
import world  # noqa: E402

SETTINGS = cycles.Settings(num_votes=5, triples=40, groups=6)


class Judge:
    """Prefers by `chance`(query, answer i, answer j), the probability of a vote for i; `first` is added to that of the answer in front."""

    def __init__(self, chance, first=0.0):
        self.chance, self.first, self.rng = chance, first, random.Random(0)

    def judge(self, pairs, num_votes, *options):
        return [
            SimpleNamespace(
                games=[
                    {
                        "order": order,
                        "tokens": 7,
                        "verdict": 1
                        if self.rng.random() < self.place(query, answers, order)
                        else 2,
                    }
                    for order in ([0, 1], [1, 0])
                    for _ in range(num_votes)
                ]
            )
            for query, *answers in pairs
        ]

    def place(self, query, answers, order):
        return self.chance(query, *(answers[index] for index in order)) + self.first


def constraints(query):
    parts = [part.rsplit(" x", 1) for part in query.split(", ")]
    named = [(text.partition(" "), int(weight)) for text, weight in parts]
    return [
        (kind, int(value) if kind == "max" else value, weight) for (kind, _, value), weight in named
    ]


def by_points(query, first, second):
    one, other = (world.quality(constraints(query), answer) for answer in (first, second))
    return float(one > other) if one != other else float(first > second)


def by_next_constraint(query, first, second):
    """Rock, paper, scissors: whoever meets, or alone misses, constraint n beats who does so with constraint n + 1."""
    sets = [
        [world.is_met(kind, value, answer) for kind, value, _ in constraints(query)]
        for answer in (first, second)
    ]
    one, other = (met.index(sum(met) == 1) for met in sets)
    return float((other - one) % 3 == 1)


@pytest.mark.parametrize("kind", cycles.KINDS)
def test_what_the_answers_are(kind):
    rng = random.Random(0)
    for size in [3] * 20 + [8] * 4:
        drawn = cycles.draw_answers(rng, kind, size)
        task = constraints(drawn["query"])
        assert world.is_test(world.key(task)) and len(set(drawn["texts"])) == size == len(
            drawn["texts"]
        )
        assert list(drawn["scores"]) == [world.quality(task, text) for text in drawn["texts"]]
        met = [
            tuple(world.is_met(name, value, text) for name, value, _ in task)
            for text in drawn["texts"]
        ]
        without_order = [
            three
            for three in combinations(range(size), 3)
            if len({drawn["scores"][i] for i in three}) == 1 and len({met[i] for i in three}) == 3
        ]
        assert bool(without_order) == (kind == "points equal")
        if size == 8:
            assert sorted(drawn["scores"])[-2] < max(drawn["scores"])
        elif kind == "points differ":
            assert len(set(drawn["scores"])) == 3


def test_circles_by_hand():
    circle = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], bool)
    line = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]], bool)
    open_pair = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]], bool)
    assert cycles.circles(np.array([circle, line, open_pair, circle.T])) == (11, 3, 2)
    assert [cycles.has_circle(table) for table in (circle, line, open_pair)] == [True, False, False]
    row = {"scores": [1, 0], "votes": {(0, 1): [[0, 0, None], [1, 0, 1]]}}
    assert (
        cycles.leads(row, 1).sum() == 0
        and cycles.leads(row, 2)[0, 1]
        and cycles.leads(row, 3)[0, 1]
    )
    shown = cycles.shown_by(
        [row]
    )  # right 3 of 5; first place: two of two, and two of three with answer 1 in front
    assert shown == {"right": 3 / 5, "first": 4 / 5, "agree": (2 + 2) / (2 + 6), "missing": 1 / 6}


def lines_of(judge):
    lines = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in cycles.report(judge, SETTINGS)
        if line.startswith("| points")
    ]
    return lines[:4], lines[4:]


def test_judges_that_never_and_always_go_in_circles(capsys):
    triples, groups = lines_of(Judge(by_points))
    assert [line[4:6] for line in triples] == [["40 of 40", "0"]] * 4 and triples[0][2] == "1.000"
    assert [line[2] for line in groups if line[1] == "with a circle"] == ["0", "0"] and groups[0][
        3:
    ] == ["1.000 +- 0.000"] * 4
    rows = cycles.judged(
        Judge(by_next_constraint),
        [cycles.draw_answers(random.Random(n), "points equal", 3) for n in range(20)],
        SETTINGS,
        5,
    )
    assert cycles.circles(np.array([cycles.leads(row, 5) for row in rows])) == (60, 20, 20)


def test_coins_and_a_fitted_judge(capsys):
    judge = Judge(lambda *answers: 0.5, first=0.1)
    rows = cycles.judged(
        judge,
        [cycles.draw_answers(random.Random(n), "points differ", 3) for n in range(150)],
        SETTINGS,
        5,
    )
    pairs, decided, found = cycles.circles(np.array([cycles.leads(row, 5) for row in rows]))
    assert abs(found / decided - 0.25) < 4 * (0.25 * 0.75 / decided) ** 0.5
    shown = cycles.shown_by(rows)
    assert abs(shown["first"] - 0.6) < 0.03
    _, decided, found = cycles.simulated(rows, cycles.fit(rows, shown), 0.0, 5)
    assert abs(found / decided - 0.25) < 0.06  # coins are a judge without preference
    # a judge with known parameters: the fit finds them again
    wanted, rng = (0.8, -0.5, 1.0), np.random.default_rng(0)
    rows = [{"scores": rng.permutation([0, 1, 3]).tolist()} for _ in range(1500)]
    points = np.array([row["scores"] for row in rows], float)
    p = cycles.chances(points, rng.normal(size=points.shape), *wanted)
    for number, row in enumerate(rows):
        votes = (rng.random((3, 2, 5)) >= p[number][:, :, None]).astype(int).tolist()
        row["votes"] = dict(zip(combinations(range(3), 2), votes))
    assert cycles.fit(rows, cycles.shown_by(rows)) == pytest.approx(wanted, abs=0.12)
