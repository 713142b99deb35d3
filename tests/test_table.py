"""extras/table.py: means over seeds, intervals and paired differences, worked by hand."""

import json

import numpy as np
import pytest

from cli import BadInput
from extras import table
from extras.intervals import mean_interval, t_quantile


def run(folder, rows, items=None, step=8, **settings):
    """A run folder with these rows, and an evaluation whose pairs were judged right or wrong."""
    (folder / "rollouts").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"settings": settings}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = []
    for name, right in (items or {}).items():
        games = []
        for order, is_right in zip(([0, 1], [1, 0]), right):
            verdict = order.index(1) + 1 if is_right else order.index(0) + 1
            games.append({"order": order, "verdict": verdict, "tokens": 10})
        row = {"id": name, "label": 1, "games": games, "consistent": right[0] == right[1]}
        lines.append(json.dumps(row) + "\n")
    (folder / "rollouts" / f"eval-{step}.jsonl").write_text("".join(lines))
    return str(folder)


def evaluated(accuracy, step=8):
    first = {"step": 0, "eval/judge/accuracy": 0.0}
    return [first, {"step": step, "reward": 1.0, "eval/judge/accuracy": accuracy}, {"step": 9}]


def test_student_by_the_tables():
    for degrees, known in ((1, 12.706), (2, 4.303), (9, 2.262), (10, 2.228), (15, 2.131)):
        assert t_quantile(degrees) == pytest.approx(known, abs=1e-3)
    assert t_quantile(120) == pytest.approx(1.980, abs=1e-3)
    assert mean_interval([0.9, 1.0]) == pytest.approx([0.95 - 0.6353, 0.95 + 0.6353], abs=1e-4)


@pytest.mark.parametrize("size", [2, 3, 12])
def test_the_interval_over_seeds_covers_95_percent(size):
    draws = np.random.default_rng(size).normal(0.8, 0.1, (4000, size))
    covered = [low <= 0.8 <= high for low, high in map(mean_interval, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


def test_seeds_are_paired(tmp_path):
    """Both settings scatter over seeds by 0.3, their difference by 0.01: that alone counts."""
    folders = []
    for name, values in (("low", (0.5, 0.65, 0.8)), ("high", (0.6, 0.76, 0.9))):
        for seed, value in enumerate(values):
            folder = tmp_path / f"{name}-{seed}"
            folders.append(run(folder, evaluated(value), lr=name))
    rows = table.compare(folders)["metrics"]["judge/accuracy"]
    low, high = rows["low (seeds 0, 1, 2)"], rows["high (seeds 0, 1, 2)"]
    assert low["mean"] == pytest.approx(0.65) and low["over"] == "3 seeds"
    assert low["interval"] == pytest.approx([0.65 - 0.3726, 1.0], abs=1e-3)  # a share: at most 1
    minus = high["minus_first"]
    assert minus["difference"] == pytest.approx(0.31 / 3) and minus["over"] == "3 seeds"
    assert minus["interval"] == pytest.approx([0.0890, 0.1177], abs=1e-3)
    assert table.in_words(minus) == "higher" and "minus_first" not in low


def test_one_seed_is_compared_item_by_item(tmp_path, capsys):
    """Run b is right wherever run a is, and on 20 items more."""
    right, half, wrong = (True, True), (True, False), (False, False)
    items = {f"q{n}": right if n < 50 else half if n < 60 else wrong for n in range(100)}
    better = items | {f"q{n}": right for n in range(60, 80)}
    folders = [
        run(tmp_path / "a", evaluated(0.55), items),
        run(tmp_path / "b", evaluated(0.75), better),
    ]
    values = table.item_values(folders[0], 8)
    assert np.mean(list(values["judge/accuracy"].values())) == pytest.approx(0.55)
    assert np.mean(list(values["judge/consistency"].values())) == pytest.approx(0.9)
    rows = table.compare(folders)["metrics"]["judge/accuracy"]
    assert rows["a"]["over"] == "100 items" and rows["a"]["interval"][0] == pytest.approx(
        0.46, abs=0.02
    )
    minus = rows["b"]["minus_first"]
    assert minus["difference"] == pytest.approx(0.2) and minus["over"] == "100 items"
    assert minus["interval"] == pytest.approx([0.12, 0.28], abs=0.02)
    table.main(folders)
    shown = capsys.readouterr().out
    assert "minus the first setting" in shown and "+0.200" in shown and "higher, 100 items" in shown
    table.main([*folders, "--json"])
    assert json.loads(capsys.readouterr().out)["settings"] == {"a": {"": 8}, "b": {"": 8}}


def test_a_tie_is_not_right(tmp_path):
    folder = run(tmp_path / "a", evaluated(0.5), {"p": (True, True)})
    path = tmp_path / "a" / "rollouts" / "eval-8.jsonl"
    row = json.loads(path.read_text())
    row["games"][0]["verdict"] = "tie"
    path.write_text(json.dumps(row) + "\n")
    assert table.item_values(folder, 8)["judge/accuracy"] == {"p": 0.5}


def test_the_best_setting_in_words(tmp_path):
    """Named with its lead, and with what the interval of the lead is over."""
    folders = []
    for name, values in (("low", (0.5, 0.65, 0.8)), ("high", (0.6, 0.76, 0.9))):
        for seed, value in enumerate(values):
            folders.append(run(tmp_path / f"{name}-{seed}", evaluated(value), lr=name))
    assert table.best_setting(table.group_seeds(folders)) == (
        "best held-out accuracy: high (seeds 0, 1, 2) 0.753, then low (seeds 0, 1, 2) 0.650: "
        "higher (95 %: +0.089 to +0.118, 3 seeds)"
    )
    other = run(tmp_path / "other", [{"step": 1, "reward": 0.0}])
    assert table.best_setting(table.group_seeds([folders[0], other])) == ""


def test_all_right_is_not_sure_to_be_all(tmp_path):
    folder = run(tmp_path / "a", evaluated(1.0), {f"q{n}": (True, True) for n in range(20)})
    low, high = table.compare([folder])["metrics"]["judge/accuracy"]["a"]["interval"]
    assert (low, high) == (pytest.approx(0.839, abs=1e-3), 1.0)


def test_what_cannot_be_compared(tmp_path, capsys):
    with pytest.raises(BadInput, match="give the folders of runs"):
        table.main([])
    empty = run(tmp_path / "a", [{"step": 1, "reward": 0.0}])
    with pytest.raises(BadInput, match="no held-out results: give a run of train_grpo.py with"):
        table.main([empty])
    rows = [*evaluated(0.5), {"eval/judge/accuracy": 0.5}]
    with pytest.raises(BadInput, match="metrics.jsonl line 4 has no step"):
        table.main([run(tmp_path / "stepless", rows)])
    other = run(tmp_path / "b", evaluated(0.5))
    table.main([other])
    assert capsys.readouterr().out.splitlines()[1].split() == ["b", "0.500", "1", "run"]
