"""runs/qwen: questions never move between sets, games resume, a table worked by hand."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import COIN, make_scripted_folder

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "runs/qwen"))
import table  # noqa: E402
from questions import set_of, words_of  # noqa: E402


def test_a_question_with_other_numbers_stays_in_its_set():
    texts = [
        "Tom has 3 apples and buys 4.",
        "Tom has 12 apples and buys 50.",
        "tom has  $7 apples, and buys 1!",
    ]
    assert len({words_of(text) for text in texts}) == len({set_of(text) for text in texts}) == 1
    shares = [set_of(f"{chr(97 + i % 26)} question about {chr(97 + i // 26)}") for i in range(676)]
    assert 60 < shares.count("test") < 150 and 10 < shares.count("dev") < 70


def game(order, verdict, forced=None, tokens=10):
    return {"order": order, "verdict": verdict, "forced": forced or verdict, "tokens": tokens}


def test_measures_by_hand():
    """Label 0: right in the first order; no verdict in the second, where 1 is forced and 2 is right."""
    games = [game([0, 1], 1), game([1, 0], None, forced=1, tokens=30)]
    assert table.measures(games, 0) == [0.5, 0.5, 0.0, 0.5, 1.0, 20.0]
    assert table.measures([game([0, 1], 2), game([1, 0], 1)], 1) == [1, 1, 1, 1, 0.5, 10]


def test_intervals_draw_questions():
    values = np.array([[1.0], [1.0], [0.0], [0.0]])
    mean, low, high = table.bootstrap(values, ["a", "a", "b", "b"])[:, 0]
    assert (mean, low, high) == (0.5, 0.0, 1.0)  # two questions, however many pairs they have
    assert table.bootstrap(values[:2], ["a", "a"])[:, 0].tolist() == [1, 1, 1]


def write_pairs(path, questions):
    rows = [
        {
            "id": f"{path.stem}-{i}",
            "query": text,
            "a": f"It is {i}.",
            "b": "I do not know",
            "label": i % 2,
        }
        for i, text in enumerate(questions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def call(script, *arguments):
    command = [sys.executable, str(ROOT / "runs/qwen" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_games_are_kept_and_tabulated(tmp_path):
    folder = make_scripted_folder(tmp_path / "coin", COIN)
    letters = "abcdefghijkl"
    test = write_pairs(tmp_path / "test.jsonl", [f"test {letter}" for letter in letters[:10]])
    train = write_pairs(tmp_path / "train.jsonl", [f"train {letter}" for letter in letters])
    common = (
        "--model",
        folder,
        "--pairs",
        test,
        "--out",
        tmp_path / "games.jsonl",
        "--style",
        "rrm_short",
    )
    options = ("--max_completion_length", 24, "--dtype", "float32")
    first = call("games.py", *common, *options, "--limit", 4)
    assert first.returncode == 0, first.stderr
    kept = (tmp_path / "games.jsonl").read_text()
    again = call("games.py", *common, *options)
    assert "4 of 10 pairs are judged already" in again.stderr, again.stderr
    whole = (tmp_path / "games.jsonl").read_text()
    assert whole.startswith(kept) and whole.count("\n") == 10
    games = [game for line in whole.splitlines() for game in json.loads(line)["games"]]
    assert all(game["forced"] in (1, 2) for game in games)
    assert any(game["verdict"] is None for game in games)
    refused = call("games.py", *common, *options, "--temperature", 0.9)
    assert refused.returncode == 2 and "other settings" in refused.stderr
    arguments = ("--pairs", test, "--train", train, f"one={tmp_path / 'games.jsonl'}")
    shown = call("table.py", *arguments, f"two={tmp_path / 'games.jsonl'}")
    assert shown.returncode == 0, shown.stderr
    assert "share no question" in shown.stdout and "| two | 10 | 0.0 [0.0, 0.0] |" in shown.stdout
    mixed = call("table.py", "--pairs", test, "--train", test, f"one={tmp_path / 'games.jsonl'}")
    assert mixed.returncode == 2 and "in both sets" in mixed.stderr


@pytest.mark.parametrize("name", ["solve_first", "solve_lines", "check_steps"])
def test_styles_load(name):
    from chat import load_style

    assert load_style(name).verdict == "boxed"


def test_changed_numbers_by_hand():
    from changed import changed, computed

    question = "Ann has 13 pens and buys 5 boxes of 6 pens. How many pens has she?"
    answer = "She buys 5*6=<<5*6=30>>30 pens.\nShe has 13+30=<<13+30=43>>43 pens.\n#### 43"
    assert computed([("5*6", "30"), ("13+30", "43")], {"13": "10", "5": "4"}) == [24, 34]
    text, result = changed(question, answer)
    ann, boxes, size = (int(word) for word in text.split() if word.isdigit())
    assert result == str(ann + boxes * size) != "43"


@pytest.mark.parametrize(
    "question, answer",
    [
        ("Half of 18 pens?", "<<18/2=9>>9\n#### 8"),  # the marks do not give the answer
        (
            "He meows 3 times, then a third of it. Sum?",
            "<<3/3=1>>1 <<3+1=4>>4\n#### 4",
        ),  # 3 may be a word's
        ("He has five pens and 5 cups.", "<<5+5=10>>10\n#### 10"),
        ("It costs $7.50 for 11 pens", "no marks\n#### 82"),
    ],
)
def test_what_cannot_be_changed_safely_is_left_out(question, answer):
    from changed import changed

    assert changed(question, answer) is None


def test_best_of_plays_resumes_and_counts(tmp_path):
    from best_of import picks, result_of

    assert [result_of(text) for text in ("so \\boxed{1,200}", "Answer: $12.50", "no number")] == [
        "1200.0",
        "12.5",
        None,
    ]
    row = {
        "id": "q",
        "messages": [{"role": "user", "content": "How many?"}],
        "candidates": ["It is 4", "It is 5", "It is 5", "cut off", "I think 6"],
        "status": ["right", "wrong", "wrong", "truncated", "wrong"],
    }
    found = picks(row, {"judge": {"pick": 0}}, None, 0)
    assert found == {
        "first answer": 1,
        "mean of 8": 0.2,
        "majority of 8": 0,
        "pass@8 (any right)": 1,
        "judge": 1,
    }
    own = {"candidates": ["so 5", "so 4", "so 4"], "status": ["wrong", "right", "right"]}
    few, many = picks(row, {}, own, 1), picks(row, {}, own, 3)
    assert few["judge's own solution, equal tokens"] == few["candidate that agrees with it"] == 0
    assert many["judge's own solution, equal tokens"] == many["candidate that agrees with it"] == 1
    folder = make_scripted_folder(tmp_path / "coin", COIN)
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row | {"id": f"q{n}"}) + "\n" for n in range(3)))
    out = tmp_path / "best.jsonl"
    options = (
        "--model",
        folder,
        "--answers",
        answers,
        "--out",
        out,
        "--style",
        "rrm_short",
        "--dtype",
        "float32",
    )
    assert call("best_of.py", *options, "--limit", 1).returncode == 0
    first = out.read_text()
    assert call("best_of.py", *options).returncode == 0
    assert out.read_text().startswith(first) and out.read_text().count("\n") == 3
    for line in out.read_text().splitlines():
        matches = json.loads(line)["matches"]
        assert all({i, j} != {1, 2} for i, j, _ in matches)  # equal results never meet
    shown = call("best_of.py", "--answers", answers, "--table", out)
    assert "| pass@8 (any right) | 100.0 [100.0, 100.0] |" in shown.stdout, shown.stderr


def test_right_chains_are_balanced_and_short():
    from chains import balanced, right_chains

    def one(verdict, tokens, reason="stop"):
        return {"verdict": verdict, "tokens": tokens, "finish_reason": reason, "text": f" {tokens} tokens "}

    prompt = [{"role": "user", "content": "Which one?"}]
    first = [one(1, 30), one(1, 10), one(1, 20), one(2, 5), one(None, 4), one(1, 3, "length")]
    rows = [
        {"right_verdict": 1, "prompt": prompt, "completions": first},
        {"right_verdict": 2, "prompt": prompt, "completions": [one(2, 40), one(1, 1)]},
    ]
    found = right_chains(rows)
    assert [chain[-1]["content"] for chain in found[1]] == ["10 tokens", "20 tokens"]
    chains = balanced(found)
    assert sorted(chain[-1]["content"] for chain in chains) == ["10 tokens", "40 tokens"]
    assert all(chain[0] == prompt[0] and chain[-1]["role"] == "assistant" for chain in chains)
