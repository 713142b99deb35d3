"""The study of pointwise and pairwise judges (runs/pointwise), by hand and on invented runs."""

import importlib
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "runs/pointwise"), str(ROOT / "runs"), str(ROOT)]
# other studies have a strategies.py and a table.py too
strategies = importlib.import_module("runs.pointwise.strategies")
pointwise = importlib.import_module("runs.pointwise.pointwise")
table = importlib.import_module("runs.pointwise.table")


@pytest.mark.parametrize(
    "answer, binary, graded, thinking",
    [
        ("16", 1, 4, " ones 9+7=16 6y tens 0+0+1=1 1y"),
        ("16: 16", 1, 4, " ones 9+7=16 6y tens 0+0+1=1 1y"),
        ("26", 0, 1, " ones 9+7=16 6y tens 0+0+1=1 2n"),
        ("15", 0, 0, " ones 9+7=16 5n"),
        ("116", 0, 2, " ones 9+7=16 6y tens 0+0+1=1 1y hundreds 0+0=0 1n"),
        ("6", 0, 1, " ones 9+7=16 6y tens 0+0+1=1 0n"),
    ],
)
def test_a_rating_worked_by_hand(answer, binary, graded, thinking):
    for scale, score in ("binary", binary), ("graded", graded):
        text = strategies.rating(("+", 9, 7), answer, scale)
        assert text == f"<think>{thinking}</think>\\boxed{{{score}}}"


def test_both_kinds_of_judge_see_the_same_pairs():
    def prompts(kind, count):
        rows = itertools.islice(strategies.rows(kind, 3), count)
        return [row["messages"][0]["content"] for row in rows]

    pairs, answers = prompts("pairwise", 20), prompts("graded", 40)
    for number, pair in enumerate(pairs):
        query, shown = pair.removesuffix(" better?").split(" first: ")
        for place, answer in enumerate(shown.split(" second: ")):
            assert answers[2 * number + place] == f"{query} first: {answer} better?"


class Knows:
    """A pairwise judge and a scorer that know the right answer; they count what they are asked."""

    highest = 4

    def __init__(self, right):
        self.right, self.asked, self.seed, self.tokenizer = right, 0, 0, None

    def judge(self, pairs, *_, **__):
        self.asked += len(pairs)
        found = []
        for pair in pairs:
            answers = pair.answers if hasattr(pair, "answers") else pair[1:]
            right = [answer == self.right for answer in answers]
            found.append(judgment(0.5 + 0.5 * (right[0] - right[1])))
        return found

    def score(self, answers, votes, **_):
        self.asked += len(answers) * votes
        return [4 * (answer == self.right) for _, answer in answers]


def judgment(p_first):
    return type("Judgment", (), {"p_first": p_first, "games": [{"verdict": 1, "tokens": 5}]})


@pytest.mark.parametrize("strategy", strategies.STRATEGIES)
def test_every_strategy_finds_the_one_right_answer(strategy):
    texts = ["<think>x</think>12", "13", "13", "14", "<think>open", "15", "16", "17"]
    judge = Knows("12")
    values, others = strategies.values_of(judge, strategy, ["5+7", "6+6"], [texts, texts[::-1]])
    assert values[0] == max(values) and others[7] == max(others)
    # of the seven answers 13 stands twice and one is empty: six are scored
    games = {"votes_1": 12, "votes_4": 48, "opponents_7": 2 * (28 - 1 - 7)}
    assert judge.asked == games.get(strategy, judge.asked)
    if strategy == "knockout":
        assert values[0] == 1 and sum(values) == pytest.approx(7 / 3)  # seven matches, three rounds


def test_a_reward_by_its_name_needs_a_strategy():
    with pytest.raises(AttributeError, match="START_SEED_STRATEGY"):
        strategies.__getattr__("weak_0_votes_3")


def test_the_lead_at_equal_tokens_by_hand():
    tokens = {"votes_1": 20, "votes_2": 40, "votes_4": 160}
    tokens |= {"opponents_1": 10, "opponents_2": 20, "opponents_4": 40, "opponents_7": 80}
    values = {"votes_1": 0.3, "votes_2": 0.4, "votes_4": 0.5}
    values |= {"opponents_1": 0.1, "opponents_2": 0.2, "opponents_4": 0.3, "opponents_7": 0.4}
    # 160 lies beyond the end of the line, where 0.4 stays
    assert table.lead_at_equal_tokens(tokens, values) == pytest.approx(0.1)
    assert table.on_line([10, 40], [0.0, 1.0], 20) == pytest.approx(0.5)  # over log tokens


def usage_of(tokens):
    return {"completion_tokens": tokens, "prompt_tokens": tokens, "calls": tokens / 40}


def invented():
    """Runs in which pointwise strategies gain 0.1 more than pairwise ones of as many tokens."""
    results, rng = {}, np.random.default_rng(0)
    costs = dict(zip(strategies.STRATEGIES, (200, 400, 800, 100, 200, 400, 700, 180, 300)))
    for name in pointwise.plan():
        what, _, rest = name.partition("_")
        cell = rest.split("-")[0]
        if what in ("judge", "scale"):
            results[name] = (
                {"opponents_1": 0.9} if "pairwise" in cell else {"votes_1": 0.9, "votes_4": 0.95}
            )
        elif what == "pick":
            usages = {strategy: usage_of(300 * cost) for strategy, cost in costs.items()}
            results[name] = {
                strategy: {
                    "right": (rng.random(300) < value_of(strategy, costs)).tolist(),
                    "usage": usages[strategy],
                }
                for strategy in costs
            }
            results[name] |= {key: {"right": [True] * 300} for key in ("first", "any")}
        else:
            strategy = cell.partition("_")[2]
            after = 0.4 + (value_of(strategy, costs) if strategy in costs else 0)
            results[name] = {"before": 0.4, "after": after}
            if strategy in costs:
                results[name]["usage"] = usage_of(640 * costs[strategy])
    return results


def value_of(strategy, costs):
    return 0.1 * math.log2(costs[strategy] / 100) + 0.1 * strategy.startswith("votes")


def test_the_page_has_every_table(monkeypatch, tmp_path):
    monkeypatch.setattr(table, "HERE", tmp_path)
    monkeypatch.setattr(table.STUDY, "collect", invented)
    table.main()
    page = (tmp_path / "table.md").read_text()
    assert (tmp_path / "tokens.png").exists() and "Judges from tiny/weak: 5 seeds" in page
    # 0.1 at 200 and at 400 tokens; at 800 the line has ended: 0.1 + 0.1 * log2(800 / 700)
    lead = 0.1 + 0.1 * math.log2(800 / 700) / 3
    assert f"gain of the policy, by completions | {lead:.3f} [{lead:.3f}," in page
    assert "| pairwise | opponents 1 | 0.900 [0.900, 0.900] |" in page
    # 1,500 of 2,400 answers were scored: if all are paid for, it takes 1.6 times the tokens
    usages = {"votes_1": {"pick": [usage_of(300 * 200)]}}
    assert table.mean_tokens(usages, "votes_1", "pick", "copies") == pytest.approx(200 * 1.6)
    assert table.mean_tokens(usages, "votes_1", "pick", "prompts") == pytest.approx(400)
    assert "Finished: 132 of 132" in page


def test_the_plan_is_that_of_the_rules():
    names = pointwise.plan()
    assert len(names) == len(set(names)) == 132
    assert sum(name.startswith("policy_base_") for name in names) == 9 * 5
