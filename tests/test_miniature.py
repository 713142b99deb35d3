"""runs/miniature: tasks and games of the tiny world, and the page made from the stored results."""

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "runs/miniature"), str(ROOT / "runs")]
import games  # noqa: E402

TEST = ROOT / "tiny/test.jsonl"


def test_the_sibling_has_the_same_two_answers_and_the_other_one_is_better():
    tasks = games.load_tasks(TEST, 8)
    assert [task["order"] for task in tasks] == [[0, 1], [1, 0]] * 8
    for task, sibling in zip(tasks[:2] + tasks[4:6], tasks[2:4] + tasks[6:8]):
        assert task["sibling"] == sibling["sibling"] and task["id"] != sibling["id"]
        assert set(games.shown_answers(task)) == set(games.shown_answers(sibling))
        better = {games.shown_answers(one)[games.better_place(one) - 1] for one in (task, sibling)}
        assert better == set(games.shown_answers(task))


def test_games_begin_as_they_are_told_and_know_who_is_right():
    pytest.importorskip("torch")
    judge, tasks = games.load_judge("tiny"), games.load_tasks(TEST, 4)
    played = games.play(judge, tasks, start="<think>", votes=2)
    assert len(played) == 2 * len(tasks)
    for game in played:
        assert game["text"].startswith("<think>") and game["think_tokens"] >= 8
        assert game["right"] == (game["verdict"] == games.better_place(game))
    guesses = games.play(judge, tasks, start="\\boxed{Assistant ")
    assert all(game["think_tokens"] == 0 for game in guesses)


def test_a_majority_counts_valid_verdicts_alone():
    right, wrong = {"verdict": 1, "right": True}, {"verdict": 2, "right": False}
    missing = {"verdict": None, "right": False}
    assert games.majority_right([right, missing, missing]) == 1
    assert games.majority_right([right, wrong, missing]) == 0.5
    assert games.majority_right([wrong, missing]) == 0


def test_the_committed_page_is_that_of_the_committed_results(tmp_path, monkeypatch):
    import importlib.util

    # Other folders of runs/ have a table.py too, so this one is not imported by its name.
    spec = importlib.util.spec_from_file_location("page", ROOT / "runs/miniature/table.py")
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    shutil.copytree(table.HERE, tmp_path / "miniature")
    page = (table.HERE / "README.md").read_text()
    monkeypatch.setattr(table, "HERE", tmp_path / "miniature")
    table.main()
    assert (tmp_path / "miniature/README.md").read_text() == page
    assert page.count("\n## ") == 7 and "| not run |" not in page
