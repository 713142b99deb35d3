"""extras/scoring.py: intervals, paired comparisons, numbers by hand, trivial judges."""

import pytest
import torch
from test_benchmarks import single

from extras import scoring
from extras.benchmarks import BENCHMARKS
from extras.scoring import add_cells, means, question_cells, votes_of

torch.set_num_threads(1)


def test_intervals_draw_questions_not_pairs():
    rows = [
        single(str(n), "x", n % 3 and 1, n % 3 and 1) | {"question": f"q{n // 10}"}
        for n in range(40)
    ]
    copies = [row | {"id": row["id"] + "b"} for row in rows]
    one, two = (
        scoring.intervals([question_cells(scoring.protocol_cells, part)], means)
        for part in (rows, rows + copies)
    )
    assert one["accuracy"] == two["accuracy"]  # every pair twice: nothing new is known
    alone = scoring.intervals(
        [
            question_cells(
                scoring.protocol_cells, [row | {"question": row["id"]} for row in rows + copies]
            )
        ],
        means,
    )["accuracy"]
    assert alone[0] == one["accuracy"][0] == pytest.approx(14 / 40) and alone[2] - alone[1] > 0
    single_question = scoring.intervals([question_cells(scoring.protocol_cells, rows[:10])], means)[
        "accuracy"
    ]
    assert single_question[:2] != single_question[1:]  # one question: little is known
    assert single_question[1] < 0.2 and single_question[2] > 0.8
    # standard error of a share over 400 independent questions: sqrt(0.25 / 400) = 0.025
    wide = scoring.intervals(
        [
            question_cells(
                scoring.protocol_cells, [single(str(n), "x", n % 2, n % 2) for n in range(400)]
            )
        ],
        means,
    )["accuracy"]
    assert wide[2] - wide[1] == pytest.approx(2 * 1.96 * 0.025, rel=0.1)


@pytest.mark.parametrize(
    "right, low, high",
    [  # the wider of scipy.stats.binomtest(right, 20).proportion_ci(method="wilson"), and of mid-P
        (0, 0.0, 0.1611252),
        (1, 0.0024950, 0.2361307),
        (19, 0.7638693, 0.9975050),
        (20, 0.8388748, 1.0),
    ],
)
def test_intervals_have_a_width_at_the_edges(right, low, high):
    rows = [single(str(n), "x", 0 if n < right else 1, 0) for n in range(20)]
    table = question_cells(scoring.protocol_cells, rows)
    found = scoring.intervals([table], means)
    assert found["accuracy"][0] == right / 20
    # a share of a few errors takes its scatter from the draws: 3 % of noise
    assert found["accuracy"][1:] == pytest.approx([low, high], abs=0.01)
    assert found["games an item"][0] == found["games an item"][1] == found["games an item"][2]


def test_protocol_numbers_by_hand():
    rows = [
        single("1", "x", 0, 0) | {"lengths": [9, 5]},
        single("2", "x", 0, 1) | {"lengths": [5, 9]},
        single("3", "x", 0, "truncated") | {"lengths": [5, 5]},
        single("4", "x", 1, 1, scores=(0, 1)) | {"lengths": [1, 2]},
        single("5", "x", 0, 1, scores=(0.5, 0.5)),
    ]
    numbers = means(add_cells(map(scoring.protocol_cells, rows)))
    assert (
        numbers["accuracy"] == 3 / 4
        and numbers["both orders right"] == 2 / 4
        and numbers["both orders agree"] == 2 / 4
    )
    assert [numbers[f"game right, missing {kind}"] for kind in ("= 0", "= 0.5", "left out")] == [
        6 / 8,
        6.5 / 8,
        6 / 7,
    ]
    assert [
        numbers[f"accuracy, better is {kind}"] for kind in ("longer", "shorter", "as long")
    ] == [1, 0, 1]
    assert (
        numbers["Brier score, vote share"] == pytest.approx((0 + 0.25 + 0.0625 + 0) / 4)
        and numbers["games an item"] == 2
    )
    assert (
        numbers["game names the first"] == (1 + 2 + 1 + 1) / 7
    )  # answer 0 stands first in game 1, second in game 2
    assert numbers["truncated"] == 0 and numbers["inconsistent"] == 1 / 4


def test_trivial_judges():
    row = single("1", "math", 0, 0) | {"lengths": [3, 8]}
    names = {
        kind: scoring.baseline(BENCHMARKS["judgebench"], row, kind)["matches"][0]
        for kind in scoring.BASELINES
    }
    assert [votes_of(names[kind]) for kind in ("longest", "shortest", "first")] == [
        [1, 1],
        [0, 0],
        [0, 0],
    ]
    firsts = [
        votes_of(
            scoring.baseline(BENCHMARKS["rewardbench"], row | {"id": str(n)}, "first")["matches"][0]
        )[0]
        for n in range(400)
    ]
    assert (
        150 < sum(firsts) < 250
    )  # RewardBench stores the better answer first: its place there must not count
    equal = [
        row | {"id": str(n), "scores": [n % 3 > 0, n % 3 == 0], "lengths": [3, 3]}
        for n in range(10)
    ]
    for name in ("judgebench", "pairs", "llmbar"):
        beside = scoring.summarise(BENCHMARKS[name], equal)["baselines"]
        assert [beside[kind]["accuracy"] for kind in ("longest", "shortest")] == [0.5, 0.5]
        assert (
            name == "pairs" or beside["first"]["accuracy"] == 0.6
        )  # pairs: no place, as with RewardBench
        assert next(iter(beside["longest"].values())) == 0.5  # by the rule of the benchmark as well
