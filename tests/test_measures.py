"""The measures that the studies of runs/ share: means, intervals, tables."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
import measures  # noqa: E402


def test_a_grid_has_the_mean_of_each_unit_in_each_run():
    first = [
        {"question": "p", "right": True},
        {"question": "p", "right": False},
        {"question": "q", "right": True},
    ]
    second = [{"question": "p", "right": True}]
    cells = measures.grid([first, second], "right", "question")
    np.testing.assert_array_equal(cells, [[0.5, 1.0], [1.0, np.nan]])
    counted = measures.grid([first], lambda row: 2 if row["right"] else None, "question")
    np.testing.assert_array_equal(counted, [[2.0, 2.0]])


def test_intervals_hold_the_scatter_of_runs_and_draw_the_same_units_for_both():
    rng = np.random.default_rng(1)
    base = rng.random((1, 400))
    trained = base + np.array([[0.0], [0.1]])
    # The units cancel in the difference; what is left is the scatter of the two runs.
    assert measures.difference(trained, base) == pytest.approx((0.05, 0.0, 0.1))
    value, low, high = measures.accuracy(base)
    assert value == pytest.approx(base.mean())
    assert high - low == pytest.approx(2 * 1.96 * base.std() / 20, rel=0.1)


def test_games_of_an_evaluation(tmp_path):
    games = [
        {"order": [0, 1], "verdict": 1},
        {"order": [1, 0], "verdict": 1},
        {"order": [1, 0], "verdict": None},
    ]
    row = {"id": "r", "question": "q", "group": "g", "scores": [1.0, 0.0, 1.0]}
    row["matches"] = [{"pair": [0, 1], "games": games}, {"pair": [0, 2], "games": games}]
    result = {"settings": {"benchmark": "pairs"}, "rows": [row]}
    (tmp_path / "results.json").write_text(json.dumps(result))
    found = measures.evaluated_games(tmp_path / "results.json")
    assert [game["right"] for game in found] == [True, False, False]  # the tied match is left out
    assert found[0] == {"id": "r", "question": "q", "group": "g", "right": True}


def test_a_cell_of_a_table_cannot_break_it():
    table = measures.markdown_table(["a", "b"], [[1, "x|y\nz"]])
    assert table == "| a | b |\n| --- | --- |\n| 1 | x\\|y z |"
