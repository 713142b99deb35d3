"""extras/report.py: calibration by hand, and a page of a finished evaluation."""

import json

import pytest
from test_benchmarks import single

from cli import BadInput
from extras import scoring
from extras.benchmarks import BENCHMARKS

report = pytest.importorskip("extras.report")


def test_brier_and_reliability_by_hand():
    pairs = [(f"q{n}", 0.9, n % 10 < 6) for n in range(400)]  # sure at 0.9, right in 60 %
    raw, calibrated = report.brier(pairs)
    assert raw == pytest.approx(0.6 * 0.01 + 0.4 * 0.81) and calibrated == pytest.approx(
        0.24, abs=0.005
    )  # the best constant: 0.6 * 0.4
    assert report.reliability(pairs) == [(400, pytest.approx(0.9), pytest.approx(0.6))]
    turned = [(question, 1 - p, not right) for question, p, right in pairs]
    assert report.brier(turned) == (pytest.approx(raw), pytest.approx(calibrated))
    assert report.reliability([("a", 0.5, True), ("b", 0.3, False), ("c", 1.0, True)]) == [
        (1, 0.5, 0.5),
        (1, 0.7, 1.0),
        (1, 1.0, 1.0),
    ]
    assert report.brier(pairs[:1])[1] is None


def test_page(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    rows = [single(str(n), "math", n % 3 and 1, 0) for n in range(30)]
    for row in rows[:10]:
        row["matches"][0]["games"][0]["p_verdict"] = 0.8
    results = {"benchmark": "judgebench"} | scoring.summarise(BENCHMARKS["judgebench"], rows)
    names = []
    for name in "ab":
        (tmp_path / name).mkdir()
        names.append(str(tmp_path / name / "results.json"))
        (tmp_path / name / "results.json").write_text(
            json.dumps(
                {"settings": {"predictions": None, "model": "m"}, "results": results, "rows": rows}
            )
        )
    report.main([*names, "--out", str(tmp_path / "page.png")])
    out = capsys.readouterr().out
    assert (
        (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"
        and "vote share: Brier" in out
        and "verdict token: Brier" in out
    )
    (tmp_path / "other.json").write_text("{}")
    other = {"settings": {}, "results": {"benchmark": "llmbar"}, "rows": []}
    (tmp_path / "llmbar.json").write_text(json.dumps(other))
    for arguments, words in (
        ([], "no results.json given"),
        ([tmp_path / "other.json"], "give the one in the --output_dir"),
        ([tmp_path / "nowhere.json"], "nowhere"),
        ([names[0], tmp_path / "llmbar.json"], "is of the benchmark llmbar, and"),
        ([tmp_path / "judged.jsonl"], "extras.view FILE"),
    ):
        with pytest.raises(BadInput, match=words):
            report.main(list(map(str, arguments)))


def test_parts_without_data_are_left_out():
    """Parts of the page without data are left out.

    Games of another tool have no tokens. One evaluation makes no curve. Rows that humans tied
    have no outcomes and nothing to calibrate.
    """

    def titles(rows, count=1):
        from matplotlib.figure import Figure

        results, found = (
            {"benchmark": "pandalm"} | scoring.summarise(BENCHMARKS["pandalm"], rows),
            [],
        )
        for draw in report.panels(
            [{"settings": {}, "results": results, "rows": rows}] * count, ["a", "b"]
        ):
            axis = Figure().subplots()
            draw(axis)
            assert axis.has_data()
            found.append(axis.get_title())
        return [title.split(",")[0] for title in found]

    pytest.importorskip("matplotlib")
    rows = [single(str(n), "all", n % 2, 0) for n in range(6)]
    parts = [
        "the benchmark's rule",
        "pairs with a better answer",
        "outcomes of pairs",
        "confidence against accuracy",
    ]
    assert (
        titles(rows) == [*parts, "tokens of a game"] and titles(rows, 2)[-1] == "accuracy"
    )  # accuracy, three classes (%) against tokens
    for game in (game for row in rows for game in row["matches"][0]["games"]):
        game.pop("tokens")
    assert titles(rows) == titles(rows, 2) == parts
    tied = single("1", "all", 0, 0, scores=(0.5, 0.5))
    tied["matches"][0]["games"] = [{"order": [0, 1], "verdict": None, "status": "tie"}]
    assert titles([tied]) == parts[:1]
