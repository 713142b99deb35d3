"""extras/report.py: calibration by hand, and a page of a finished evaluation."""

import json

import pytest
from test_benchmarks import single

from cli import BadInput
from extras import scoring
from extras.benchmarks import BENCHMARKS
from extras.words import result_words, settings_words, winner_words

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
    settings = {"predictions": None, "model": "m", "benchmark": "judgebench"}
    names = []
    for name in "ab":
        (tmp_path / name).mkdir()
        names.append(str(tmp_path / name / "results.json"))
        (tmp_path / name / "results.json").write_text(
            json.dumps({"settings": settings, "results": results, "rows": rows})
        )
    report.main([*names, "--out", str(tmp_path / "page.png")])
    out = capsys.readouterr().out
    assert (
        (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"
        and "vote share: Brier" in out
        and "verdict token: Brier" in out
    )
    (tmp_path / "other.json").write_text("{}")
    other = {"settings": {"benchmark": "llmbar"}, "results": {}, "rows": []}
    (tmp_path / "llmbar.json").write_text(json.dumps(other))
    (tmp_path / "half.json").write_text(json.dumps({"settings": settings, "rows": rows}))
    (tmp_path / "none.json").write_text(json.dumps({"settings": settings, "rows": []}))
    for arguments, words in (
        ([], "no results.json given"),
        ([tmp_path / "other.json"], "is no results.json of evaluate.py"),
        ([tmp_path / "nowhere.json"], "nowhere"),
        ([names[0], tmp_path / "llmbar.json"], "is of --benchmark llmbar, not judgebench"),
        ([tmp_path / "judged.jsonl"], "extras.view FILE"),
        ([tmp_path / "half.json"], "half.json lacks numbers of an evaluation"),
        ([tmp_path / "none.json"], "none.json has no rows"),
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
            [{"settings": {}, "results": results, "rows": rows}] * count, ["a", "b"][:count]
        ):
            axis = Figure().subplots()
            draw(axis)
            assert axis.has_data()
            found.append(axis.get_title(loc="left"))
        return found

    pytest.importorskip("matplotlib")
    rows = [single(str(n), "all", n % 2, 0) for n in range(6)]
    parts = ["Score", "Details", "Outcomes", "Calibration"]
    assert titles(rows) == [*parts, "Tokens of a game"]
    assert titles(rows, 2) == [*parts, "Tokens of a game", "Score and cost"]
    for game in (game for row in rows for game in row["matches"][0]["games"]):
        game.pop("tokens")
    assert titles(rows) == titles(rows, 2) == parts
    tied = single("1", "all", 0, 0, scores=(0.5, 0.5))
    tied["matches"][0]["games"] = [{"order": [0, 1], "verdict": None, "status": "tie"}]
    assert titles([tied]) == parts[:1]


def evaluation(num_right, size=40, model="m", **settings):
    """A results.json of judgebench, as a dict, in which the first pairs are judged right."""
    rows = []
    for n in range(size):
        better = n % 2
        votes = better, better if n < num_right else 1 - better
        rows.append(single(str(n), "math", *votes, scores=(1 - better, better)))
    results = {"benchmark": "judgebench"} | scoring.summarise(BENCHMARKS["judgebench"], rows)
    settings = {"predictions": None, "model": model, "num_votes": 2, "temperature": 0.6} | settings
    return {"settings": settings, "results": results, "rows": rows}


def test_the_top_says_result_model_and_settings():
    title, (line,) = report.heading([evaluation(36, model="models/judge")], ["a"])
    assert title.startswith("judgebench: judge, overall 90.0 % (95 %: 7")
    assert "40 items, above the best trivial judge (" in title
    assert line == "40 questions; votes 2, temperature 0.6"
    title, _ = report.heading([evaluation(20)], ["a"])
    assert "not clearly above the best trivial judge" in title
    stored = evaluation(20, predictions="x/judged.jsonl")
    title, (line,) = report.heading([stored], ["a"])
    assert "verdicts of judged.jsonl" in title and "settings are unknown" in line


def test_why_there_is_no_score():
    tied = [single("1", "math", 0, 0, scores=(0.5, 0.5))]
    results = scoring.summarise(BENCHMARKS["pairs"], tied)
    assert result_words(results) == "no score: rows or matches are missing, or all are ties"


def test_a_solver_has_no_judging_style():
    assert settings_words({"style": "tiny", "reward": "verdict"}) == "style tiny, reward verdict"
    for reward in ("answer", "solve:mine:reward"):
        assert settings_words({"style": "tiny", "reward": reward}) == f"reward {reward}"


def test_the_winner_of_several_is_named_in_words():
    """A lead on the same questions is clear where its interval is above 0."""
    found, rule = [evaluation(20), evaluation(36), evaluation(35)], BENCHMARKS["judgebench"]
    names = ["low", "high", "near"]
    said = winner_words(found, names, rule)
    assert said.startswith("best overall: high 90.0 %, then near 87.5 %: no clear lead (95 %")
    assert "a clear lead (95 %: +2" in winner_words(found[:2], names, rule)
    assert winner_words(found[:1], names, rule) == ""
    for row in found[1]["rows"]:
        row["id"] += " of another file"
    assert winner_words(found[:2], names, rule).endswith("they share no items")


def test_every_evaluation_is_in_every_panel():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    names = ["x", "y", "z"]
    for draw in report.panels([evaluation(36), evaluation(20), evaluation(8)], names):
        axis = Figure().subplots()
        draw(axis)
        if axis.get_title(loc="left") == "Outcomes":
            assert [label.get_text() for label in axis.get_yticklabels()] == names[::-1]
            continue
        drawn = {line.get_color() for line in axis.get_lines()}
        drawn |= {colour_of(patch) for patch in axis.patches}
        assert set(report.COLOURS[:3]) <= drawn, axis.get_title(loc="left")


def test_an_evaluation_keeps_its_colour_where_another_one_has_no_data():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    silent = evaluation(36)
    for row in silent["rows"]:
        for game in row["matches"][0]["games"]:
            game.pop("tokens")
    draw = report.panels([silent, evaluation(20)], ["x", "y"])[4]
    axis = Figure().subplots()
    draw(axis)
    assert axis.get_title(loc="left") == "Tokens of a game"
    assert {colour_of(patch) for patch in axis.patches} == {report.COLOURS[1]}


def colour_of(patch):
    from matplotlib.colors import to_hex

    return to_hex(patch.get_edgecolor()).upper()


def test_names_tell_files_apart():
    files = ["out/a/results.json", "out/b/results.json"]
    assert report.short_names(files) == ["a", "b"]
    assert report.short_names(["p/x/results.json", "q/x/results.json"]) == ["p/x", "q/x"]


def test_a_folder_stands_for_its_results(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    from extras import evaluate, view

    pairs = [{"id": f"p{n}", "query": "q", "a": "x", "b": f"y{n}", "label": 0} for n in range(4)]
    verdicts = [{"id": f"p{n}", "winner": "ab"[n % 2]} for n in range(4)]
    for name, rows in (("pairs", pairs), ("verdicts", verdicts)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    data = ["--benchmark", "pairs", "--data", str(tmp_path / "pairs.jsonl")]
    folder = str(tmp_path / "out")
    verdicts = str(tmp_path / "verdicts.jsonl")
    evaluate.main([*data, "--predictions", verdicts, "--output_dir", folder])
    report.main([folder])
    view.main([folder])
    assert (tmp_path / "out" / "results.png").exists() and (tmp_path / "out" / "view.html").exists()
    capsys.readouterr()
    evaluate.main(["--predictions", folder, "--compare", folder])
    assert "results.json minus " in capsys.readouterr().out
