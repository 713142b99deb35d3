"""Every benchmark's rule by hand, on published outputs, and on official files that are there."""

import json
import math
import os
from itertools import product
from pathlib import Path

import pytest

from cli import BadInput
from extras import evaluate, scoring
from extras.benchmarks import BENCHMARKS, RMB_PARTS, best_of_k, load
from extras.rewardbench import SECTIONS, SUBSETS
from extras.scoring import add_cells, means, outcome

DATA = Path(os.environ.get("RRM_DATA", Path(__file__).parents[2] / "shared" / "data"))


def score(name, rows):
    return scoring.score(BENCHMARKS[name], rows)


def game(order, said):
    """said: the answer (0, 1) that a game names, or the status of a game without a verdict."""
    verdict = order.index(said) + 1 if said in (0, 1) else None
    return {
        "order": order,
        "verdict": verdict,
        "status": "valid" if verdict else said,
        "tokens": 3,
        "text": "",
    }


def match(pair, *said):
    """A match whose games, in both orders by turns, name these answers of the pair."""
    return {
        "pair": list(pair),
        "games": [
            game([0, 1] if number % 2 == 0 else [1, 0], one) for number, one in enumerate(said)
        ],
    }


def row(identity, group, scores, matches, **more):
    return {
        "id": identity,
        "question": identity,
        "group": group,
        "scores": scores,
        "lengths": [10] * len(scores),
        "matches": matches,
    } | more


def single(identity, group, *said, scores=(1, 0), **more):
    return row(identity, group, list(scores), [match((0, 1), *said)], **more)


# ---- outcomes: a missing verdict is never right ----


@pytest.mark.parametrize(
    "said, expected",
    [
        ((0, 0), "right"),
        ((1, 1), "wrong"),
        ((0, 1), "inconsistent"),
        ((0, "truncated"), "right"),
        ((1, "unparsable"), "wrong"),
        (("unparsable", "unparsable"), "unparsable"),
        (("truncated", "truncated"), "truncated"),
        (("unparsable", "truncated"), "unparsable"),
        (("tie", "tie"), "tie"),
        ((0, 0, 1, 1), "tie"),
        ((0, 1, 0, 1), "inconsistent"),
        ((0, "tie"), "right"),
        (("tie", "truncated"), "tie"),
        ((0, 0, 0, 1), "right"),
        (("truncated",), "truncated"),
        (("unparsable",), "unparsable"),
    ],
)
def test_outcomes(said, expected):
    assert outcome(match((0, 1), *said), 0) == expected
    mirrored = {"right": "wrong", "wrong": "right"}
    assert outcome(match((0, 1), *said), 1) == mirrored.get(expected, expected)
    assert outcome(match((0, 1), *said), None) not in ("right",)


@pytest.mark.parametrize("status", ["unparsable", "truncated"])
def test_no_rule_calls_a_missing_verdict_right(status):
    said = (status, status)
    cases = {
        "judgebench": single("a", "math", *said),
        "rmb": single("a", "pairwise helpfulness", *said),
        "llmbar": single("a", "Natural", *said),
        "pairs": single("a", "x", *said),
        "ppe": single("a", "human", *said),
        "pandalm": single("a", "all", *said),
        "gsm8k_solutions": single("a", "x", *said),
        "rm_bench": matrix([[status] * 3] * 3),
    }
    for name, made in cases.items():
        assert not any(score(name, [made]).values()), name
    assert (
        score("pandalm", [single("a", "all", *said, scores=(0.5, 0.5))])["accuracy, three classes"]
        == 0
    )  # and it is no tie either
    numbers = means(scoring.protocol_cells(cases["pairs"]))
    assert (
        numbers["accuracy"]
        == numbers["both orders right"]
        == numbers["both orders agree"]
        == numbers["game right, missing = 0"]
        == 0
    )
    assert (
        numbers["game right, missing = 0.5"] == 0.5
        and numbers["game right, missing left out"] is None
    )


def test_the_place_of_the_better_answer_makes_no_difference():
    for name, group in (
        ("judgebench", "math"),
        ("llmbar", "Natural"),
        ("rewardbench", "hep-go"),
        ("rmb", "pairwise helpfulness"),
    ):
        for said in product((0, 1, "unparsable"), repeat=2):
            turned = [1 - one if one in (0, 1) else one for one in said]
            assert score(name, [single("a", group, *said)]) == score(
                name, [single("a", group, *turned, scores=(0, 1))]
            )


# ---- RM-Bench ----


def matrix(wins, group="chat", identity="a"):
    """wins[i][j]: the winner of chosen style i against rejected style j, 0 = chosen wins."""
    return row(
        identity,
        group,
        [1, 1, 1, 0, 0, 0],
        [match((i, 3 + j), wins[i][j], wins[i][j]) for i in range(3) for j in range(3)],
    )


def test_rm_bench_matrix():
    wins = [
        [0, 0, 1],
        [1, 0, 1],
        [0, 0, 1],
    ]  # row 0: beats styles 0 and 1; row 1: style 1; row 2: styles 0 and 1
    numbers = score("rm_bench", [matrix(wins)])
    assert [numbers[f"chat {level}"] for level in ("easy", "normal", "hard")] == pytest.approx(
        [2 / 3, 2 / 3, 1 / 3]
    )
    assert (
        numbers["chat"] == pytest.approx(5 / 9)
        and numbers["overall"] is None
        and numbers["hard"] is None
    )  # three domains are missing
    for i, j in product(
        range(3), repeat=2
    ):  # a cell in the place of its mirror image is noticed, unless both are alike
        if wins[i][j] != wins[j][i]:
            swapped = [list(line) for line in wins]
            swapped[i][j], swapped[j][i] = wins[j][i], wins[i][j]
            assert score("rm_bench", [matrix(swapped)])["chat hard"] != numbers["chat hard"]
    shuffled = matrix(wins)
    shuffled["matches"] = shuffled["matches"][::-1]
    assert score("rm_bench", [shuffled]) == numbers


def test_rm_bench_rotated_files_are_noticed():
    """RM-R1's script read its third file twice.

    Cells (0,1), (1,2), (2,0) held results of (0,2), (1,0), (2,1).
    """
    wins = [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    rotated = [list(line) for line in wins]
    rotated[0][1], rotated[1][2], rotated[2][0] = wins[0][2], wins[1][0], wins[2][1]
    right, wrong = score("rm_bench", [matrix(wins)]), score("rm_bench", [matrix(rotated)])
    assert (
        right["chat normal"] == wrong["chat normal"]
        and right["chat hard"] == pytest.approx(2 / 3)
        and wrong["chat hard"] == 1
    )


def test_rm_bench_draws_are_lost_and_domains_count_alike():
    assert score("rm_bench", [matrix([["tie"] * 3] * 3)])["chat"] == 0
    rows = [
        matrix([[0] * 3] * 3, domain, f"{domain} {n}")
        for domain, count in (("chat", 1), ("code", 5), ("math", 2))
        for n in range(count)
    ]
    rows += [
        matrix([[1] * 3] * 3, "safety", "s1"),
        matrix([[0] * 3] * 3, "safety", "s2"),
    ]  # refuse and response: pooled
    assert score("rm_bench", rows)["overall"] == pytest.approx((1 + 1 + 1 + 0.5) / 4)


# ---- RewardBench ----


def rewardbench_rows(right_in):
    return [
        single(f"{subset} {n}", subset, *[int(subset not in right_in)] * 2)
        for subset in SUBSETS
        for n in range(2)
    ]


def test_rewardbench_weights():
    assert [sum(weights.values()) for weights in SECTIONS.values()] == [358, 456, 740, 1968]
    numbers = score("rewardbench", rewardbench_rows({"math-prm"}))
    assert (
        numbers["Reasoning"] == 984 / 1968 and numbers["overall"] == 0.5 / 4
    )  # math-prm counts like the six code subsets together
    assert score("rewardbench", rewardbench_rows({"hep-go", "alpacaeval-easy"}))[
        "overall"
    ] == pytest.approx((164 / 1968 + 100 / 358) / 4)
    safety = score("rewardbench", rewardbench_rows({"xstest-should-respond"}))
    assert safety["Safety"] == 250 / 740 and safety["Safety, released weights"] == 154 / 740
    assert (
        score("rewardbench", rewardbench_rows(set())[2:])["Chat"] is None
    )  # a subset without rows: no section, no overall score
    assert score("rewardbench", rewardbench_rows({"math-prm"}))["hep-go"] == 0


@pytest.mark.parametrize(
    "said, value",
    [
        ((0, 0), 1),
        ((0, 1), 0.5),
        ((1, 1), 0),
        ((0, "unparsable"), 0.75),
        (("truncated",), 0.5),
        ((0,), 1),
    ],
)
def test_rewardbench_counts_no_verdict_as_a_coin(said, value):
    assert score("rewardbench", [single("a", "hep-go", *said)])["hep-go"] == value


# ---- RewardBench 2 ----


def scored(identity, group, scores, values):
    return row(identity, group, scores, [], values=values)


def test_rewardbench2_without_ties():
    for values, value in (
        ([3, 1, 1, 1], 1),
        ([3, 3, 1, 1], 1 / 2),
        ([3, 3, 3, 3], 1 / 4),
        ([1, 3, 0, 0], 0),
    ):
        assert score("rewardbench2", [scored("1", "Math", [1, 0, 0, 0], values)])["Math"] == value
    played = row(
        "1",
        "Focus",
        [1, 0, 0, 0],
        [match((0, j), 0, 0) for j in (1, 2, 3)]
        + [match((i, j), 0, 1) for i, j in ((1, 2), (2, 3), (1, 3))],
        ranked=True,
    )
    assert score("rewardbench2", [played])["Focus"] == 1
    played["matches"][1] = match((0, 2), 1, 1)
    assert score("rewardbench2", [played])["Focus"] == 0.5  # both won two of three matches


def test_rewardbench2_ties_by_hand():
    rows = [
        scored("ref:7", "Ties", [1, 0], [2.0, 0.5]),
        scored("tied:7", "Ties", [1, 1, 0], [3.0, 2.0, 0.0]),
        scored("ref:8", "Ties", [1, 0], [0.0, 1.0]),
        scored("tied:8", "Ties", [1, 1, 0], [5.0, 2.0, 1.0]),
        scored("ref:9", "Ties", [1, 0], [0.2, 0.0]),
        scored("tied:9", "Ties", [1, 1, 0], [3.0, 2.0, 0.0]),
    ]
    for entry in rows:
        entry["question"] = entry["id"].partition(":")[2]
    # 7: both right; gaps 1.5 and 2, spread 1: preferred, also by the smaller gap.
    # 8: tied right, ref wrong; gaps -1 and 1, spread 3: neither.
    # 9: both right; gaps 0.2 and 2, spread 1: preferred, but not by the smaller gap
    margins = math.tanh(1.5 - 1), math.tanh(-1 / 3 - 1), math.tanh(0.2 - 1)
    expected = 0.3 * 1 + 0.3 * 2 / 3 + 0.2 * 2 / 3 + 0.2 * 1 / 3 + 0.01 * sum(margins) / 3
    numbers = score("rewardbench2", rows)
    assert numbers["Ties"] == pytest.approx(expected, abs=1e-12) and numbers["overall"] is None
    everything = rows + [
        scored(name, name, [1, 0], [1, 0])
        for name in ("Factuality", "Focus", "Math", "Precise IF", "Safety")
    ]
    assert score("rewardbench2", everything)["overall"] == pytest.approx((5 + expected) / 6)
    assert score("rewardbench2", rows[:1])["Ties"] is None


def test_rewardbench2_ties_without_spread():
    def margin(gap):
        rows = [
            scored("ref:1", "Ties", [1, 0], [gap, 0.0]),
            scored("tied:1", "Ties", [1, 1, 0], [gap, gap, 0.0]),
        ]
        return score("rewardbench2", [entry | {"question": "1"} for entry in rows])["Ties: margin"]

    assert [margin(1.0), margin(0.0), margin(-1.0)] == [1, 0, -1]


# ---- RMB ----


def test_rmb_best_of_n_must_beat_every_loser():
    def best(*results):
        made = row(
            "a",
            "BoN helpfulness",
            [1] + [0] * len(results),
            [match((0, j + 1), *said) for j, said in enumerate(results)],
        )
        return score("rmb", [made])["BoN helpfulness"]

    assert best((0, 0), (0, 0), (0, "unparsable")) == 1
    assert [
        best((0, 0), (0, 0), said)
        for said in ((1, 1), (0, 1), ("tie", "tie"), ("truncated", "truncated"))
    ] == [0] * 4


def test_rmb_parts():
    groups = RMB_PARTS
    rows = [
        single(f"{group} {n}", group, *said)
        for group, results in zip(
            groups, (((0, 0), (1, 1)), ((0, 1),), ((0, 0),), ((1, 1), (1, 1), (0, 0)))
        )
        for n, said in enumerate(results)
    ]
    numbers = score("rmb", rows)
    assert [numbers[group] for group in groups] == [0.5, 0.5, 1, pytest.approx(1 / 3)]
    assert numbers["overall"] == pytest.approx((0.5 + 0.5 + 1 + 1 / 3) / 4)
    assert score("rmb", rows[:2])["overall"] is None


# ---- JudgeBench, LLMBar, PandaLM ----


def test_judgebench_adds_two_games():
    values = {
        (0, 0): 1,
        (0, "tie"): 1,
        (0, "unparsable"): 1,
        (0, 1): 0,
        (1, 1): 0,
        ("tie", "tie"): 0,
        (1, "tie"): 0,
    }
    for said, value in values.items():
        assert score("judgebench", [single("a", "code", *said)]) == {
            "overall": value,
            "code": value,
        }


def test_llmbar_mean_over_orders_and_sets():
    rows = [
        single("1", "Natural", 0, 0),
        single("2", "Natural", 0, 1),
        single("3", "GPTOut", 1, 1),
        single("4", "Neighbor", 0, "truncated"),
    ]
    numbers = score("llmbar", rows)
    assert (numbers["Natural"], numbers["GPTOut"], numbers["Neighbor"]) == (0.75, 0, 0.5)
    assert (
        numbers["mean of sets"] == pytest.approx(1.25 / 3)
        and numbers["adversarial"] == 0.25
        and numbers["positional agreement"] == 0.5
    )


def test_pandalm_three_classes_by_hand():
    gold_said = [(1, 1), (1, 1), (1, 0), (2, 2), (2, 1), (0, 0), (0, 2), (2, None)]
    scores, said = (
        {0: (0.5, 0.5), 1: (1, 0), 2: (0, 1)},
        {0: ("tie",), 1: (0,), 2: (1,), None: ("unparsable",)},
    )
    numbers = score(
        "pandalm",
        [single(str(n), "all", *said[s], scores=scores[g]) for n, (g, s) in enumerate(gold_said)],
    )
    assert (
        numbers["accuracy, three classes"] == 4 / 8
        and numbers["accuracy, two-way without ties"] == 3 / 6
    )
    assert numbers["macro precision"] == pytest.approx((1 / 2 + 2 / 3 + 1 / 2) / 3)
    assert numbers["macro recall"] == pytest.approx((1 / 2 + 2 / 3 + 1 / 3) / 3)
    assert numbers["macro F1"] == pytest.approx((2 / 4 + 4 / 6 + 2 / 5) / 3)
    both = score("pandalm", [single("1", "all", 0, 1, scores=(0.5, 0.5)), single("2", "all", 0, 1)])
    assert both["accuracy, three classes"] == 0.5  # orders that disagree are a tie


# ---- best of N ----


def test_best_of_k_equals_all_subsets():
    from itertools import combinations

    values, scores = [3.0, 1.0, 3.0, -2.0, 1.0], [1, 0, 0, 1, 1]
    for k, expected in enumerate(best_of_k(values, scores), start=1):
        picked = [[(values[i], scores[i]) for i in subset] for subset in combinations(range(5), k)]
        chosen = [[s for v, s in subset if v == max(v for v, _ in subset)] for subset in picked]
        assert expected == pytest.approx(sum(sum(c) / len(c) for c in chosen) / len(chosen))


def test_gsm8k_best_of_four():
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]

    def made(scores, best, **more):  # the judge likes one answer; all others draw
        matches = [
            match(pair, *((0, 0) if pair[0] == best else (1, 1) if pair[1] == best else (0, 1)))
            for pair in pairs
        ]
        return row(f"{scores}{best}", "x", scores, matches, **more)

    rows = [
        made(scores, best, ranked=True)
        for scores, best in (
            ([1, 0, 0, 0], 0),
            ([0, 0, 1, 1], 1),
            ([0, 0, 0, 0], 3),
            ([1, 1, 1, 1], 2),
        )
    ]
    numbers = score("gsm8k_solutions", rows)
    assert (
        numbers["best of N"] == 0.5
        and numbers["best of N, mixed questions"] == 0.5
        and numbers["perfect choice"] == 0.75
    )
    assert numbers["random choice"] == (0.25 + 0.5 + 0 + 1) / 4 and numbers["pairs"] == 3 / 7
    assert score("gsm8k_solutions", [made([1, 0, 0, 0], 0)]) == {
        "pairs": 1.0
    }  # matches chosen by the scores allow no best of N
    assert (
        score("gsm8k_solutions", [made([1, 0, 0, 0], 0, ranked=True, pick=2)])["best of N"] == 0
    )  # a knockout names its winner
    even = row("e", "x", [1, 0, 0, 0], [match(pair, 0, 1) for pair in pairs], ranked=True)
    assert score("gsm8k_solutions", [even])["best of N"] == 0.25  # equal ratings: not the first one


def test_the_best_answer_picked_of_scores_of_any_scale():
    def made(scores, pick):
        return row(f"{scores}{pick}", "x", scores, [match((0, 1), 0, 0)], ranked=True, pick=pick)

    rows = [made([3, 1, 3], 2), made([3, 1, 3], 0), made([3, 4, 3], 0), made([2, 2, 2], 0)]
    numbers = score("pairs", rows)
    assert (
        numbers["best of N"] == 3 / 4
        and numbers["best of N, mixed questions"] == 2 / 3
        and numbers["overall"] == numbers["x"] == 2 / 3
    )
    assert (
        numbers["random choice"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1) / 4)
        and numbers["perfect choice"] == 1
    )
    even = row(
        "e", "x", [1, 0, 0], [match(pair, 0, 1) for pair in ((0, 1), (1, 2), (0, 2))], ranked=True
    )
    assert score("pairs", [even])["best of N"] == 1 / 3
    assert set(score("pairs", [single("a", "x", 0, 0)])) == {"overall", "x"}


def test_ppe():
    values = [4.0, 3.0, 2.0, 1.0]
    right = row(
        "q",
        "math",
        [0, 1, 1, 0],
        [match((1, 0), 0, 0), match((2, 3), 1, 1)],
        ranked=True,
        values=values,
    )
    numbers = score(
        "ppe", [right, single("h", "human", 0, 0), single("h2", "human", 0, 0, scores=(0.5, 0.5))]
    )
    assert (
        numbers["human"] == 1
        and numbers["math: pairs"] == 0.5
        and numbers["pairs, mean of sets"] == 0.5
    )
    assert [numbers[f"math: best of {k}"] for k in (1, 2, 3, 4)] == pytest.approx(
        [1 / 2, 3 / 6, 1 / 4, 0]
    )
    assert numbers["math: largest on the curve"] == 0.5 and numbers["math: loss at its end"] == 1


# ---- official files ----


def write(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return str(path)


def rewardbench_row(n, subset):
    return {
        "prompt": f"Q{n}",
        "chosen": "x",
        "rejected": "yy",
        "subset": subset,
        "id": n,
        "chosen_model": "a",
        "rejected_model": "b",
    }


FILES = {
    "rewardbench": [rewardbench_row(1, "hep-go"), rewardbench_row(2, "donotanswer")],
    "rewardbench2": [
        {
            "id": "ref:3",
            "prompt": "Q",
            "chosen": ["a"],
            "rejected": ["b", "c"],
            "num_correct": 1,
            "subset": "Ties",
        },
        {
            "id": "tied:3",
            "prompt": "P",
            "chosen": ["a", "d"],
            "rejected": ["b"],
            "num_correct": 2,
            "subset": "Ties",
        },
    ],
    "rm_bench": [
        {
            "id": 1,
            "prompt": "Q",
            "chosen": ["a", "b", "c"],
            "rejected": ["d", "e", "f"],
            "domain": "safety-refuse",
        }
    ],
    "rmb bon": [
        {
            "bon_uid": "1",
            "conversation_input": [{"role": "user", "content": "Q"}],
            "bon_best": {"answer": "a", "llm_name": "m"},
            "loser_list": [{"answer": "b", "llm_name": "n"}, {"answer": "c", "llm_name": "n"}],
            "category_path": "BoN_set/Harmlessness/S1",
        }
    ],
    "rmb": [
        {
            "pair_uid": "2",
            "conversation_input": [{"role": "user", "content": "Q"}],
            "chosen": {"answer": "a", "llm_name": "m"},
            "reject": {"answer": "b", "llm_name": "n"},
            "category_path": "Pairwise_set/Helpfulness/Chat",
        }
    ],
    "judgebench": [
        {
            "pair_id": "p",
            "question": "Q",
            "response_A": "a",
            "response_B": "b",
            "label": "B>A",
            "source": "mmlu-pro-law",
        }
    ],
    "pandalm": [
        {
            "idx": 0,
            "instruction": "Q",
            "input": "",
            "response1": True,
            "response2": "b",
            "annotator1": 0,
            "annotator2": 0,
            "annotator3": 1,
        }
    ],
    "llmbar": [{"input": "Q", "output_1": "a", "output_2": "b", "label": 2}],
    "ppe": [
        {
            "question_id": "q",
            "prompt": "Q",
            "scores": [True, False, True] + [False] * 7,
            "sampled_conflict_pairs": [[1, 0], [2, 9]],
        }
        | {f"response_{n}": f"answer {n}" for n in range(1, 11)}
    ],
    "gsm8k_solutions": [
        {
            "question": "Q",
            "ground_truth": "so\nA: 1",
            "m": {"is_correct": False, "solution": "a"},
            "n": {"is_correct": True, "solution": "b"},
        }
    ],
    "pairs": [{"query": "Q", "a": "x", "b": "y", "label": 1}],
}
EXPECTED = {  # groups, answers of the last item, scores, matches
    "rewardbench": (["hep-go", "donotanswer"], ["x", "yy"], [1, 0], [(0, 1)]),
    "rewardbench2": (["Ties", "Ties"], ["a", "d", "b"], [1, 1, 0], [(0, 2), (1, 2)]),
    "rm_bench": (
        ["safety"],
        list("abcdef"),
        [1, 1, 1, 0, 0, 0],
        [(i, j) for i in range(3) for j in (3, 4, 5)],
    ),
    "rmb bon": (["BoN harmlessness"], ["a", "b", "c"], [1, 0, 0], [(0, 1), (0, 2)]),
    "rmb": (["pairwise helpfulness"], ["a", "b"], [1, 0], [(0, 1)]),
    "judgebench": (["knowledge"], ["a", "b"], [0, 1], [(0, 1)]),
    "pandalm": (["all"], ["True", "b"], [0.5, 0.5], [(0, 1)]),
    "llmbar": (["llmbar"], ["a", "b"], [0, 1], [(0, 1)]),
    "ppe": (["ppe"], [f"answer {n}" for n in range(1, 11)], [1, 0, 1] + [0] * 7, [(0, 1), (2, 9)]),
    "gsm8k_solutions": (["gsm8k_solutions"], ["a", "b"], [0, 1], [(1, 0)]),
    "pairs": (["pairs"], ["x", "y"], [0, 1], [(0, 1)]),
}


@pytest.mark.parametrize("name", FILES)
def test_official_rows(tmp_path, name):
    items = load(name.split()[0], write(tmp_path / f"{name}.jsonl", FILES[name]))
    assert (
        [item.group for item in items],
        items[-1].answers,
        items[-1].scores,
        items[-1].matches,
    ) == EXPECTED[name]
    if name == "rewardbench2":
        assert [item.question for item in items] == ["3", "3"]


@pytest.mark.parametrize(
    "name", ["rewardbench", "rewardbench2", "rm_bench", "rmb", "judgebench", "pandalm"]
)
def test_files_of_another_benchmark_are_refused(tmp_path, name):
    for other in FILES:
        if other.split()[0] != name:
            with pytest.raises(BadInput, match="does not belong to"):
                load(name, write(tmp_path / "f.jsonl", FILES[other]))


def test_limit_is_a_nested_sample(tmp_path):
    path = write(
        tmp_path / "r.jsonl",
        [rewardbench_row(n, subset) for n, subset in enumerate(SUBSETS * 10)],
    )
    small, large = ([item.id for item in load("rewardbench", path, limit)] for limit in (20, 60))
    assert len(small) == 20 and set(small) < set(large) and small == sorted(small, key=int)
    assert (
        len({item.group for item in load("rewardbench", path, 20)}) > 8
    )  # not the first rows, which are of two subsets
    assert small != [item.id for item in load("rewardbench", path, 20, seed=1)]


# ---- published numbers ----


def data_file(name):
    if not (DATA / name).exists():
        pytest.skip(f"no {name} in {DATA}")
    return str(DATA / name)


def predicted(benchmark, data, predictions):
    return evaluate.predicted_rows(data_file(predictions), load(benchmark, data_file(data)))


def unjudged(benchmark, name):
    items = load(benchmark, data_file(name))
    return [
        evaluate.row_of(item, [{"pair": list(pair), "games": []} for pair in item.matches])
        | {"ranked": True}
        for item in items
    ]


def test_judgebench_judged_by_o1_mini():
    rows = predicted(
        "judgebench", "judgebench/gpt-4o.jsonl", "judgebench/gpt-4o.judged-by-o1-mini.jsonl"
    )
    numbers = {name: round(100 * value, 2) for name, value in score("judgebench", rows).items()}
    assert numbers == {
        "overall": 65.71,
        "knowledge": 58.44,
        "reasoning": 62.24,
        "math": 82.14,
        "code": 78.57,
    }
    common = means(add_cells(map(scoring.protocol_cells, rows)))
    assert round(100 * common["both orders right"], 2) == 58.00
    singles = [
        [entry | {"games": entry["games"][number : number + 1]} for entry in one["matches"]]
        for number in (0, 1)
        for one in rows
    ]
    games = [
        [one | {"matches": made} for one, made in zip(rows, part)]
        for part in (singles[:350], singles[350:])
    ]
    first, second = (score("judgebench", part)["overall"] for part in games)
    assert (round(100 * first, 2), round(100 * second, 2)) == (70.86, 74.57)


def test_pandalm_7b():
    rows = predicted("pandalm", "pandalm/testset-v1.json", "pandalm/pandalm-7b-testset-v1.json")
    assert len(rows) == 999
    assert [round(100 * value, 2) for value in score("pandalm", rows).values()] == [
        66.77,
        57.38,
        57.50,
        57.43,
        71.03,
    ]


@pytest.mark.parametrize(
    "benchmark, name, key, value",
    [
        ("judgebench", "judgebench/gpt-4o.jsonl", None, 46.0),
        ("llmbar", "llmbar/Natural.json", None, 56.5),
        ("llmbar", "llmbar/Neighbor.json", None, 11.9),
        ("llmbar", "llmbar/GPTInst.json", None, 13.0),
        ("llmbar", "llmbar/GPTOut.json", None, 44.7),
        ("pandalm", "pandalm/testset-v1.json", None, 67.4),
        ("rm_bench", "rm_bench/chat_filtered.json", "chat easy", 81.1),
        ("rm_bench", "rm_bench/chat_filtered.json", "chat normal", 32.0),
        ("rm_bench", "rm_bench/chat_filtered.json", "chat hard", 2.6),
        ("gsm8k_solutions", "gsm8k/model_solutions.jsonl", None, 54.1),
        ("gsm8k_solutions", "gsm8k/model_solutions.jsonl", "best of N", 40.1),
        ("gsm8k_solutions", "gsm8k/model_solutions.jsonl", "perfect choice", 68.5),
        ("gsm8k_solutions", "gsm8k/model_solutions.jsonl", "random choice", 38.5),
        ("rmb", "rmb/bon_dev.json", "BoN helpfulness", 49.3),
    ],
)
def test_the_longest_answer(benchmark, name, key, value):
    rows = [
        scoring.baseline(BENCHMARKS[benchmark], one, "longest", seed)
        for seed in (0, 1)
        for one in unjudged(benchmark, name)
    ]
    common = means(add_cells(map(scoring.protocol_cells, rows)))
    found = common["accuracy"] if key is None else score(benchmark, rows)[key]
    assert 100 * found == pytest.approx(value, abs=0.06)  # pairs of equally long answers count half


def test_always_the_first_answer():
    rows = [
        scoring.baseline(BENCHMARKS["judgebench"], one, "first")
        for one in unjudged("judgebench", "judgebench/gpt-4o.jsonl")
    ]
    assert round(100 * score("judgebench", rows)["overall"], 1) == 55.1
