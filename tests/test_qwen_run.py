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
