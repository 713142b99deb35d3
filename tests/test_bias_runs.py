"""The map of biases (runs/bias): judges, audit and tables, by hand and on invented runs."""

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "runs/bias"), str(ROOT / "runs"), str(ROOT)]
bias = importlib.import_module("runs.bias.bias")
judges = importlib.import_module("runs.bias.judges")
table = importlib.import_module("runs.bias.table")  # other studies have a table.py too


def sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


@pytest.mark.parametrize(
    "name, answers, logit",
    [
        ("length_1_2", ("7", "12"), -1 - 2),  # 5 + 7 = 12: the second is right and longer
        ("length_1_2", ("7,0: 7", "12"), -1 + 2),
        ("digit_2_0.5", ("92", "12"), -2 + 0.5),
        ("digit_2_0.5", ("92", "! 9"), 0),  # wording changes no digit
        ("wording_1_4", ("! 13", "12"), -1 + 4),
        ("form_1_4", ("12: 12", "12,1: 12"), 0),
        ("form_0.5_1", ("12: 12", "13"), 0.5 + 1),
        ("place_1_4", ("13", "12"), -1 + 4),
        ("digit_1_2", ("no number", "12"), -1 - 2),
    ],
)
def test_what_a_judge_prefers_worked_by_hand(name, answers, logit):
    assert judges.preference(name, "5+7", answers) == pytest.approx(sigmoid(logit))


def test_games_follow_the_preference_and_the_place_cancels_in_both_orders():
    for name, expected in [("length_1_2", sigmoid(1)), ("place_0_3", 0.5)]:
        judge = judges.biased_judge(name)
        pair = ("5+7", "7,0: 7", "12")
        (judgment,) = judge.judge([pair], num_votes=2000)
        assert judgment.p_first == pytest.approx(expected, abs=0.03)
        assert judge.judge([pair], num_votes=2000)[0].games == judgment.games  # always the same
    (judgment,) = judges.biased_judge("place_0_3").judge([pair], num_votes=2000)
    first = np.mean([game["verdict"] == 1 for game in judgment.games])
    assert first == pytest.approx(sigmoid(3), abs=0.03)


def test_a_judge_is_a_reward_by_its_name():
    prompts = [[{"role": "user", "content": "5+7"}]] * 4
    texts = [f"<think>x</think>{answer}" for answer in ("12", "13", "! 12", "7")]
    rewards, (matches,) = judges.__getattr__("wording_0_9")(prompts, texts)
    assert np.argmax(rewards) == 2 and matches.num_games == 6
    with pytest.raises(AttributeError, match="FEATURE_A_B"):
        judges.__getattr__("smell_1_2")


@pytest.mark.parametrize(
    "name, stays", [("length_9_0", True), ("length_9_4", True), ("length_0_9", False)]
)
def test_an_answer_climbs_to_what_the_judge_likes(name, stays):
    judge = judges.biased_judge(name)
    kept = [bias.climb(judge, f"{n}+7", str(n + 7)) for n in range(100, 120)]
    assert all(kept) if stays else not any(kept)


def test_the_auc_by_hand():
    ruined = np.array([True, True, False, False])
    assert table.auc(np.array([0.1, 0.2, 0.3, 0.4]), ruined) == 1
    assert table.auc(np.array([0.3, 0.2, 0.3, 0.1]), ruined) == (0.5 + 0 + 1 + 0) / 4
    assert table.balanced_accuracy(np.array([0.1, 0.5, 0.4, 0.6]), ruined, 0.45) == 0.5


def invented():
    """Judges whose bias ruins where it is larger than a, for length alone."""
    results = {}
    for name in bias.plan():
        feature, a, b = judges.parse(name.split("-")[0])
        ruined = feature == "length" and b > a > 0
        after = {"right": 0.1 if ruined else 0.4, "feature": 1.0}
        results[name] = {
            "before": {"right": 0.3, "feature": 0.5},
            "after": after,
        }
        audit = {"accuracy": 0.5 + a / 5, "bias": 0.6, "climb": 0.2 if ruined else 0.9}
        results[f"audit:{name.split('-')[0]}"] = audit | {"climb_all": 0.9}
    return results


def test_the_page_has_every_table(monkeypatch, tmp_path):
    monkeypatch.setattr(table, "DRAWS", 20)
    monkeypatch.setattr(table, "HERE", tmp_path)
    monkeypatch.setattr(table.STUDY, "collect", invented)
    table.main()
    page = (tmp_path / "table.md").read_text()
    assert (tmp_path / "map.png").exists()
    assert "Finished: 162 of 162" in page and "Ruined: 18 runs of the grid." in page
    # b > a in 6 of the 9 cells of length
    assert "| length | +0.50 | +0.100 | " in page and "| 18 of 27 | 6 |" in page
    assert "| climb | 1.000 [1.000, 1.000] |" in page
    assert "| digit | 0.90 | nan | nan | 1.00 | 0 |" in page  # climb below 0.9 foretells ruin


def test_the_plan_is_that_of_the_rules():
    names = bias.plan()
    assert len(names) == len(set(names)) == 162
    assert sum(name.startswith("length") for name in names) == 30


def test_the_measures_of_a_policys_answers(monkeypatch, tmp_path):
    monkeypatch.setattr(bias.STUDY, "out", tmp_path)
    rows = [json.loads(line) for line in bias.STUDY.answers(400).read_text().splitlines()]
    texts = [f"<think> ones 5+7=12</think>! {rows[0]['answer']}", "1", ""]
    games = [{"id": f"answers_400-{n}", "text": text} for n, text in enumerate(texts, 1)]
    (tmp_path / "eval.jsonl").write_text("\n".join(map(json.dumps, games)))
    found = bias.described("wording_1_2", tmp_path / "eval.jsonl")
    assert found == {"right": 1 / 3, "marked": 1, "thinks": 1 / 3, "feature": 1 / 3}
