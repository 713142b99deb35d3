"""Figures and pages about runs, by hand; the page in a real browser; the core without extras."""

import base64
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli import BadInput
from data import Pair
from extras import plot, split_arguments, view
from judge_file import head_of

ROOT = Path(__file__).parents[1]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_core_imports_without_extras(tmp_path):
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    for folder in ("kernels", "prompts"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    code = (
        "import importlib, importlib.util, pathlib, sys\n"
        "sys.argv = ['x']\n"
        "assert importlib.util.find_spec('extras') is None\n"
        "files = sorted(path.stem for path in pathlib.Path().glob('*.py'))\n"
        "assert 'train_grpo' in files and len(files) > 10\n"
        "for name in [*files, 'kernels.logprob']: importlib.import_module(name)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_arguments_that_stand_alone():
    assert split_arguments(["a", "--out", "x", "b", "--steps=1", "c", "--help"]) == (
        ["a", "b", "c"],
        ["--out", "x", "--steps=1", "--help"],
    )
    assert split_arguments(["--out"]) == ([], ["--out"])  # and the parser says what is missing


# ---- plot ----


def make_run(folder, values, settings=None, **columns):
    rows = [
        {
            "step": step,
            "reward": value,
            "kl": 0.0,
            "judge/accuracy": value,
            "loss": 1e-9,
            "num_tokens": 100 * step**2,
            "step_time": 2.0,
        }
        for step, value in enumerate(values, start=1)
    ]
    rows = [
        {"step": 0, "eval/judge/accuracy": 0.5},
        *rows[:-1],
        rows[-1] | {"eval/judge/accuracy": 0.75},
    ]
    write_rows(folder / "metrics.jsonl", [row | columns for row in rows])
    if settings is not None:
        (folder / "config.json").write_text(json.dumps({"settings": settings}))
    return folder


def test_curves_by_hand(tmp_path):
    curves = plot.read_metrics(make_run(tmp_path, [0.5, 0.25, 0.75]))
    assert curves["judge/accuracy"] == {1: 0.5, 2: 0.25, 3: 0.75} and curves[
        "eval/judge/accuracy"
    ] == {0: 0.5, 3: 0.75}
    assert curves["speed"] == {
        2: 150.0,
        3: 250.0,
    }  # (400 - 100) / 2, (900 - 400) / 2: step 1 of a resumed run would count all before it
    assert "loss" not in curves
    write_rows(
        tmp_path / "sft" / "metrics.jsonl",
        [{"step": 1, "loss": 2.5, "num_tokens": 9, "step_time": 1.0}],
    )
    assert plot.read_metrics(tmp_path / "sft") == {
        "step": {1: 1},
        "loss": {1: 2.5},
        "num_tokens": {1: 9},
        "step_time": {1: 1.0},
        "speed": {},
    }
    assert plot.running_mean([1, 2, 6], 3) == [1.5, 3, 4] and plot.running_mean([1, 2, 6], 1) == [
        1,
        2,
        6,
    ]


def test_seeds_of_one_setting(tmp_path):
    names = {
        "low-0": 1,
        "low-1": 1,
        "low-2": 9,
        "high": 1,
        "grpo-20260101-093000": 1,
        "grpo-20260101-101500": 1,
        "x/low-3": 1,
    }
    for name, beta in names.items():
        make_run(
            tmp_path / name,
            [1.0],
            {
                "beta": beta,
                "seed": name[-1],
                "output_dir": name,
                "save_every": int(name[-1] == "1"),
            },
        )
    groups = plot.group_seeds(
        [tmp_path / name for name in (*names, "low-0")]
    )  # low-2 has another beta; a time of day is no seed
    assert {
        label: [str(path.relative_to(tmp_path)) for path in paths]
        for label, paths in groups.items()
    } == {"low (seeds 0, 1)": ["low-0", "low-1"], **{name: [name] for name in [*names][2:]}}


def test_the_figure(tmp_path):
    pytest.importorskip("matplotlib")
    folders = [
        make_run(tmp_path / "a-0", [0.0, 0.5, 1.0]),
        make_run(tmp_path / "a-1", [0.5, 0.5]),
        make_run(tmp_path / "b", [0.25, 0.25, 0.25]),
    ]
    figure = plot.plot_runs(folders, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    shown = {axis.get_title(loc="left"): axis for axis in figure.axes if axis.get_visible()}
    assert list(shown) == [
        "Judge accuracy",
        "Reward",
        "Speed",
    ]  # KL is 0 throughout, the rest is not there
    assert (
        figure._supxlabel.get_text()
        == "thin: each seed, thick: mean over seeds; 0 throughout, not shown: KL to the first model"
    )
    lines = [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in shown["Reward"].lines
        if line.get_linewidth() > 1
    ]
    assert lines == [
        ([1, 2], [0.25, 0.5]),
        ([1, 2, 3], [0.25, 0.25, 0.25]),
    ]  # a mean only where both seeds are
    assert [
        len(line.get_xdata()) for line in shown["Reward"].lines if line.get_linewidth() < 1
    ] == [3, 2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a (seeds 0, 1)", "b"]
    assert [text.get_text() for text in shown["Judge accuracy"].get_legend().get_texts()] == [
        "training",
        "held out",
    ]


def test_what_cannot_be_drawn(tmp_path, monkeypatch):
    run = make_run(tmp_path / "a", [0.5])
    with pytest.raises(BadInput, match=r"nowhere.metrics.jsonl"):
        plot.plot_runs([tmp_path / "nowhere"], tmp_path / "x.png")
    with pytest.raises(BadInput, match="8 settings"):
        plot.plot_runs([tmp_path / name for name in "abcdefgh"], tmp_path / "x.png")
    with pytest.raises(BadInput, match="give the folder of one run"):
        plot.main([])
    write_rows(tmp_path / "b" / "metrics.jsonl", [{"loss": 1.0}])
    with pytest.raises(BadInput, match="without a step"):
        plot.plot_runs([tmp_path / "b"], tmp_path / "x.png")
    write_rows(tmp_path / "b" / "metrics.jsonl", [{"step": 1, "foo": 0.5}])
    with pytest.raises(BadInput, match="no metric to draw"):
        plot.plot_runs([tmp_path / "b"], tmp_path / "x.png")
    make_run(tmp_path / "b", [0.5], settings=5)
    with pytest.raises(BadInput, match="config.json: settings is 5, expected an object"):
        plot.plot_runs([tmp_path / "b"], tmp_path / "x.png")
    if importlib.util.find_spec("matplotlib"):
        for name, message in (("x.txt", "must end in"), ("no/x.png", "cannot write .*No such")):
            with pytest.raises(BadInput, match=f"--out: .*{message}"):
                plot.plot_runs([run], tmp_path / name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with pytest.raises(BadInput, match="pip install matplotlib"):
        plot.plot_runs([run], tmp_path / "x.png")


# ---- view ----


def completion(verdict, text="x", status=None, **extra):
    return {
        "verdict": verdict,
        "status": status or "valid",
        "text": text,
        "tokens": 3,
        "think_tokens": 1,
        "finish_reason": "stop",
    } | extra


def rollout(name, right=1, texts=("x", "y"), content="take fig"):
    return {
        "id": name,
        "order": [0, 1] if right == 1 else [1, 0],
        "right_verdict": right,
        "prompt": [{"role": "user", "content": content}],
        "completions": [
            completion(1, texts[0], reward=1.0, advantage=0.5),
            completion(2, texts[1], reward=-1.0, advantage=-0.5),
            completion(None, "z", "truncated", reward=-1.0, advantage=0.0),
        ],
    }


def data_of(page):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    )


def badges(cards):
    return [[game["badge"] for game in card["games"]] for card in cards]


def test_rollouts_by_hand(tmp_path):
    write_rows(tmp_path / "rollouts" / "2.jsonl", [rollout("p"), rollout("q"), rollout("q", 2)])
    solved = {
        "id": "s",
        "answer": "7",
        "correct": [True, False, None, False, False],
        "matches": [[0, 1, 0.75]],
        "prompt": [],
        "completions": [
            {"text": "t", "tokens": 1, "answered": True, "finish_reason": reason}
            for reason in ("stop", "stop", "stop", "length", "stop")
        ],
    }
    solved["completions"][4]["answered"] = False
    write_rows(tmp_path / "rollouts" / "10.jsonl", [solved])
    cards = data_of(view.make_page(tmp_path))["cards"]
    assert [(card["id"], card["step"]) for card in cards] == [("p", 2), ("q", 2), ("s", 10)]
    assert badges(cards) == [
        ["right", "wrong", "truncated"],
        ["right", "wrong", "truncated", "wrong", "right", "truncated"],
        ["right", "wrong", "unchecked", "truncated", "unanswered"],
    ]
    assert [game["side"] for game in cards[1]["games"]] == ["better answer first"] * 3 + [
        "better answer second"
    ] * 3
    assert (
        cards[0]["games"][1]["facts"] == "advantage -0.50, 3 tokens"
        and cards[0]["games"][1]["reward"] == -1.0
    )
    assert cards[2]["facts"] == ["reference 7"] and cards[2]["texts"] == [
        ["matches", "completion 1 against 2: 0.75"]
    ]
    answers = write_rows(
        tmp_path / "rollouts" / "eval-10.jsonl",
        [{"id": "e", "correct": False, "text": "t", "tokens": 1, "answered": True}],
    )
    assert badges(data_of(view.make_page(answers))["cards"]) == [["wrong"]]
    questions = tmp_path / "questions.jsonl"
    write_rows(questions, [{"id": "e", "question": "2+3", "answer": "5"}])
    (card,) = data_of(view.make_page(answers, data=str(questions)))["cards"]
    assert card["texts"] == [["user", "2+3"]] and card["facts"] == ["reference 5"]


def judgment(name, verdicts, consistent=True, texts=("Q", "good", "bad")):
    pair = Pair(name, [{"role": "user", "content": texts[0]}], texts[1:])
    games = [
        completion(verdict) | {"order": order} for verdict, order in zip(verdicts, ([0, 1], [1, 0]))
    ]
    return {
        "id": name,
        "pair": head_of(pair)["pair"],
        "winner": "a",
        "p_first": 1.0,
        "consistent": consistent,
        "games": games,
        "settings": {},
    }


def test_judgments_and_evaluations_by_hand(tmp_path):
    rows = [judgment("1", (1, 2)), judgment("2", (2, 1)), judgment("3", (1, 1), False)]
    judged, pairs = write_rows(tmp_path / "judged.jsonl", rows), tmp_path / "pairs.jsonl"
    cards = data_of(view.make_page(judged))["cards"]
    assert [card["outcome"] for card in cards] == ["for the first", "for the second", "no winner"]
    assert [card["words"] for card in cards] == [
        "answer a is better: 2 of 2 votes",
        "answer b is better: 2 of 2 votes",
        "no winner: 1 and 1 of 2 votes",
    ]
    assert data_of(view.make_page(judged))["summary"] == [
        "1 x answer a is better, 1 x answer b is better, 1 x no winner",
    ]
    assert badges(cards)[2] == ["for answer a", "for answer b"] and cards[2]["facts"] == [
        "1.00 for a",
        "orders disagree",
    ]
    write_rows(
        pairs, [{"id": name, "query": "Q", "chosen": "good", "rejected": "bad"} for name in "123"]
    )
    labelled = data_of(view.make_page(judged, data=str(pairs)))
    assert labelled["summary"][0].startswith("right: 1 of 3; 1 x answer a is better")
    cards = labelled["cards"]
    assert [card["outcome"] for card in cards] == ["right", "wrong", "inconsistent"] and badges(
        cards
    )[2] == ["right", "wrong"]
    assert {game["outcome"] for game in cards[2]["games"]} == {
        "inconsistent"
    }  # what the filter goes by
    assert [title for title, _ in cards[0]["texts"]] == [
        "user",
        "answer a, better",
        "answer b",
    ] and cards[0]["texts"][0][1] == "Q"
    row = {
        "id": "g",
        "group": "chat",
        "scores": [0.0, 1.0, 1.0],
        "matches": [
            {"pair": [2, 0], "games": judgment("", (1, 1))["games"]},
            {"pair": [1, 2], "games": judgment("", (1, 2))["games"]},
        ],
    }
    (tmp_path / "results.json").write_text(
        json.dumps({"settings": {}, "results": {}, "rows": [row]}, indent=1)
    )
    cards = data_of(view.make_page(tmp_path / "results.json"))["cards"]
    assert [card["outcome"] for card in cards] == [
        "inconsistent",
        "for the first",
    ]  # two equal answers: nobody is right
    assert badges(cards) == [["right", "wrong"], ["for answer 2", "for answer 2"]]
    assert (
        cards[0]["facts"] == ["chat", "scores 1 and 0"]
        and cards[0]["games"][0]["side"] == "answer 3 in first place"
    )


def test_data_of_other_texts_are_refused(tmp_path, capsys):
    """By the hash of a judgment, and by lengths and scores of an evaluation."""
    data = tmp_path / "pairs.jsonl"
    games = judgment("p", (1, 2))["games"]
    row = {"id": "p", "group": "x", "scores": [1.0, 0.0], "lengths": [4, 3]}
    rows = [judgment("p", (1, 2)), row | {"matches": [{"pair": [0, 1], "games": games}]}]
    for place, row in enumerate(rows):
        judged = write_rows(tmp_path / f"{place}.jsonl", [row])
        for texts in (("good", "bad", 0), ("bad", "good", 1), ("good", "worse", 0)):
            write_rows(data, [dict(zip(("a", "b", "label"), texts)) | {"id": "p", "query": "Q"}])
            if texts == ("good", "bad", 0):
                view.make_page(judged, data=str(data))
                continue
            with pytest.raises(BadInput, match="jsonl line 1: --data has other texts under the id"):
                view.make_page(judged, data=str(data))
    write_rows(data, [{"id": "q", "query": "Q", "a": "good", "b": "bad", "label": 0}])
    view.make_page(judged, data=str(data))
    assert "1 of 1 rows have no texts in" in capsys.readouterr().err


def test_the_top_of_a_page_says_result_model_and_settings(tmp_path):
    write_rows(tmp_path / "rollouts" / "2.jsonl", [rollout("p")])
    assert data_of(view.make_page(tmp_path))["summary"] == []
    values = [{"step": n, "judge/accuracy": n / 4, "reward": 0.0} for n in (1, 2)]
    write_rows(tmp_path / "metrics.jsonl", values)
    settings = {"model": "models/m", "reward": "verdict", "learning_rate": 1e-5, "beta": 0.0}
    (tmp_path / "config.json").write_text(json.dumps({"settings": settings}))
    assert data_of(view.make_page(tmp_path))["summary"] == [
        "in training, from the first to the last 1 of 2 steps: accuracy 0.250 -> 0.500",
        "m, reward verdict, learning rate 1e-05",
    ]
    row = judgment("1", (1, 2)) | {"settings": {"model": "m", "num_votes": 1}}
    judged = write_rows(tmp_path / "judged.jsonl", [row])
    assert data_of(view.make_page(judged))["summary"][1] == "m, votes 1"
    rule = {"overall": [0.9, 0.8, 0.95]}
    results = {"benchmark": "pairs", "items": 1, "rule": rule, "baselines": {}}
    results |= {"questions": 1, "protocol": {}, "outcomes": {}}
    content = {"settings": {"model": "m", "one_order": False}, "results": results}
    row = {"id": "g", "group": "x", "scores": [0.0, 1.0], "matches": []}
    row["matches"].append({"pair": [0, 1], "games": judgment("", (2, 1))["games"]})
    (tmp_path / "results.json").write_text(json.dumps(content | {"rows": [row]}))
    data = data_of(view.make_page(tmp_path / "results.json"))
    assert data_of(view.make_page(tmp_path)) == data  # the folder of an evaluation
    assert data["summary"] == [
        "pairs: m, overall 90.0 % (95 %: 80.0 to 95.0), 1 items",
        "both orders",
    ]
    assert data["cards"][0]["words"] == "answer 2 is better: 2 of 2 votes"
    under_way = write_rows(tmp_path / "rows.jsonl", [{"settings": {}, "data": "0"}, row])
    assert data_of(view.make_page(under_way))["cards"] == data["cards"]


def test_a_prompt_with_four_answers_is_a_card(tmp_path):
    """Rows of rewardbench2.py: a card for a placement, and one for the ratings of Ties."""
    game = {"verdict": "B", "status": "valid", "text": "so [[B]]", "tokens": 3}
    choice = {"order": [1, 0, 2, 3], "right": "B", "score": 1, "games": [game]}
    row = {"id": "1", "group": "Math", "scores": [1, 0, 0, 0], "matches": [], "choices": [choice]}
    rated = game | {"verdict": "7"}
    ratings = [{"answer": 0, "games": [rated]}, {"answer": 1, "games": [game | {"verdict": None}]}]
    ties = {"id": "ref:1", "group": "Ties", "scores": [1, 0], "matches": [], "values": [7, -1]}
    rows = [row, ties | {"ratings": ratings}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    cards = data_of(view.make_page(path))["cards"]
    assert [card["words"] for card in cards] == ["score 1: B is right", "ratings 7, -1"]
    assert badges(cards) == [["right"], ["rated 7", "valid"]]
    assert cards[0]["facts"] == ["Math", "A to D are answer 2, answer 1, answer 3, answer 4"]
    question = {"id": "1", "question": "Q", "candidates": list("wxyz"), "scores": [1, 0, 0, 0]}
    data = write_rows(tmp_path / "questions.jsonl", [question])
    (first, _) = data_of(view.make_page(path, data=str(data)))["cards"]
    texts = [["user", "Q"], ["answer 1", "w"], ["answer 2", "x"], ["answer 3", "y"]]
    assert first["texts"] == [*texts, ["answer 4", "z"]]


def test_a_large_run_is_thinned_and_says_so(tmp_path):
    for step in range(1, 61):
        write_rows(
            tmp_path / "rollouts" / f"{step}.jsonl",
            [rollout(f"{step}-{index}") for index in range(10)],
        )
    data = data_of(view.make_page(tmp_path))
    steps = sorted({card["step"] for card in data["cards"]})
    assert (len(steps), steps[0], steps[-1], len(data["cards"])) == (25, 1, 60, 250) and data[
        "left_out"
    ] == "25 of 60 steps (--steps)"
    size = (tmp_path / "rollouts" / "7.jsonl").stat().st_size
    data = data_of(view.make_page(tmp_path, steps="7", megabytes=size * 0.3 / 1e6))
    assert [card["id"] for card in data["cards"]] == ["7-0", "7-3", "7-6"] and data[
        "left_out"
    ].endswith("3 of 10 entries (--megabytes)")
    for steps in ("61", "1,x", ""):
        with pytest.raises(BadInput, match="--steps"):
            view.make_page(tmp_path, steps=steps)
    with pytest.raises(BadInput, match="--data: is for a file"):
        view.make_page(tmp_path, data="pairs.jsonl")
    with pytest.raises(BadInput, match="--steps: is for the folder of a run"):
        view.make_page(tmp_path / "rollouts" / "7.jsonl", steps="7")


EVIL = (
    '</script><script>document.title="owned"</script><img src=x onerror="document.title=1">'
    "<!-- <script> & @DATA@ \u2028"
)


def test_model_texts_stay_texts(tmp_path):
    write_rows(
        tmp_path / "@DATA@" / "rollouts" / "1.jsonl",
        [rollout(EVIL, texts=(EVIL, "\ud800 half a character"), content=EVIL)],
    )
    page = tmp_path / "page.html"
    view.main([str(tmp_path / "@DATA@"), "--out", str(page)])
    text = page.read_text(encoding="utf-8")
    card = data_of(text)["cards"][0]
    assert (card["id"], card["texts"][0][1], card["games"][0]["text"]) == (EVIL,) * 3 and card[
        "games"
    ][1]["text"][0] == "\ud800"
    assert (
        text.lower().count("<script") == text.lower().count("</script") == 2
        and "<img" not in text
        and "innerHTML" not in text
    )
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)[1]
    assert (
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in text
        and "default-src 'none'" in text
    )
    assert not re.search(r"https?://", text)


def test_what_is_no_run(tmp_path):
    odd = write_rows(tmp_path / "odd.jsonl", [{"id": "1", "winner": "a"}])
    good = write_rows(tmp_path / "good.jsonl", [rollout("p")])
    ranked = write_rows(tmp_path / "ranked.jsonl", [{"id": "1", "best": 0, "ranking": []}])
    match = {"i": "5e", "j": "7f", "repetition": 0, "score": 0.5}
    played = write_rows(tmp_path / "played.jsonl", [match])
    for name, rows in (("number", 5), ("list", [5])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": rows}))
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("id,winner\n1,a\n")
    for arguments, message in (
        ([tmp_path], "no rollouts/STEP.jsonl"),
        ([odd], "odd.jsonl line 1: is no rollout"),
        ([ranked], "ranked.jsonl line 1: is no rollout.*a ranking, a cache"),
        ([played], "played.jsonl line 1: is no rollout.*a ranking, a cache"),
        ([sheet], "sheet.csv is a spreadsheet"),
        ([tmp_path / "number.json"], "number.json: rows is 5, expected a list"),
        ([tmp_path / "list.json"], "list.json row 1: expected an object, got 5"),
        ([tmp_path / "no.jsonl"], "no.jsonl"),
        ([], "got 0 names"),
        ([good, "--megabytes", "0"], "--megabytes"),
        ([good, "--out", tmp_path / "no" / "x"], "--out: cannot write"),
    ):
        with pytest.raises(BadInput, match=message):
            view.main(list(map(str, arguments)))
    done = subprocess.run(
        [sys.executable, "-m", "extras.view", str(odd)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


# ---- the page in a browser ----


def browse(page, tmp_path, fragment=""):
    """The document's HTML once its scripts have run."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1200,900",
        "--virtual-time-budget=3000",
        "--dump-dom",
    ]
    command += [f"--user-data-dir={tmp_path / 'profile'}", page.as_uri() + fragment]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


USER = """
const log = [], every = selector => [...document.querySelectorAll(selector)];
const badges = card => [...card.querySelectorAll(".badge")].map(badge => badge.textContent);
const cardText = card => card.querySelector("b").textContent + ":" + badges(card);
const seen = () => every("article").map(cardText).join(" ");
const type = (id, value) => {
  const field = document.getElementById(id);
  field.value = value;
  field.dispatchEvent(new Event("input"));
  log.push(seen());
};
const click = word => {
  every(".chip").find(chip => chip.textContent.startsWith(word)).click();
  log.push(seen());
};
log.push(seen());
type("text", "NEEDLE");
log.push(every("mark").length + " " + every("details").map(fold => fold.open));
type("text", "a.b");
type("text", "");
click("wrong");
click("truncated");
click("wrong");
click("truncated");
type("low", "0");
type("low", "");
type("high", "-0.5");
type("high", "");
type("step", "2");
log.push(location.hash, document.getElementById("count").textContent);
type("step", "");
log.push(every(".sides h2").map(title => title.textContent).join(), every(".sides").length);
const tokenText = token => token.textContent + token.title + token.style.background;
log.push(every("pre span").map(tokenText).join("|"));
document.body.textContent = "LOG" + JSON.stringify(log) + "END";
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt install chromium")
def test_filters_and_search_in_a_browser(tmp_path):
    first, second = (
        rollout("one", texts=("<think>a needle here</think>\\boxed{Assistant 1}", "a+b")),
        rollout("two", 2, content="axb"),
    )
    first["completions"][0]["logprobs"] = [
        ["<think>a needle", 0.0],
        [" here</think>", -0.6931472],
        ["\\boxed{Assistant 1}", -2.302585],
    ]
    write_rows(tmp_path / "rollouts" / "1.jsonl", [first, rollout("both"), rollout("both", 2)])
    write_rows(tmp_path / "rollouts" / "2.jsonl", [second])
    page = tmp_path / "page.html"
    view.main([str(tmp_path), "--out", str(page)])
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8")).replace(
        "</body>", f"<script>{USER}</script></body>"
    )
    page.write_text(text, encoding="utf-8")
    shown = browse(page, tmp_path)
    log = iter(
        json.loads(
            re.search(r"LOG(.*)END", shown, re.DOTALL)[1]
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&")
        )
    )
    everything = next(log)
    assert (
        everything == "one:right,wrong,truncated both:right,wrong,truncated,wrong,right,truncated "
        "two:wrong,right,truncated"
    )
    assert (
        next(log) == "one:right" and next(log) == "1 false,true"
    )  # found in the thinking, which is unfolded for it
    assert next(log) == ""  # a dot is a dot
    assert next(log) == everything
    assert next(log) == "one:wrong both:wrong,wrong two:wrong"
    assert (
        next(log) == "one:wrong,truncated both:wrong,truncated,wrong,truncated two:wrong,truncated"
    )
    assert next(log) == "one:truncated both:truncated,truncated two:truncated"
    assert next(log) == everything
    assert (
        next(log) == "one:right both:right,wrong two:wrong"
    )  # rewards of 0 and more: the first of each group
    assert next(log) == everything
    assert (
        next(log) == "one:wrong,truncated both:wrong,truncated,right,truncated two:right,truncated"
    )
    assert next(log) == everything
    assert (
        next(log) == "two:wrong,right,truncated"
        and next(log) == "#step=2"
        and next(log) == "1 of 3 entries, 3 of 12 completions"
    )
    assert next(log) == everything
    assert next(log) == "better answer first,better answer second" and next(log) == 1
    assert next(log) == (
        "<think>a needleprobability 1.00rgba(213, 94, 0, 0)|"
        " here</think>probability 0.500rgba(213, 94, 0, 0.35)|"
        "\\boxed{Assistant 1}probability 0.100rgba(213, 94, 0, 0.63)"
    )


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt install chromium")
def test_a_link_to_a_filter_and_an_attack_in_a_browser(tmp_path):
    run = write_rows(
        tmp_path / "rollouts" / "1.jsonl",
        [rollout("one", texts=(EVIL, EVIL), content=EVIL), rollout("two")],
    ).parents[1]
    page = tmp_path / "page.html"
    view.main([str(run), "--out", str(page)])
    shown = browse(
        page, tmp_path, "#outcome=wrong&outcome=right&text=owned"
    )  # the page as it is, with its policy
    assert (
        shown.count("<article") == 1
        and shown.count('<div class="game"') == 2
        and "1 of 2 entries, 2 of 6 completions" in shown
    )
    assert (
        f"<title>{run}</title>" in shown
        and "<img" not in shown
        and shown.lower().count("<script") == 2
    )
    assert 'document.title="<mark>owned</mark>"&lt;/script&gt;&lt;img src=x' in shown
    judged = write_rows(
        tmp_path / "judged.jsonl", [judgment("1", (1, 2)), judgment("2", (1, 1), False)]
    )
    view.main([str(judged)])
    shown = browse(
        judged.with_suffix(".html"), tmp_path, "#outcome=no+winner"
    )  # of the whole entry, whatever its games say
    assert (
        "1 of 2 entries, 2 of 4 completions" in shown
        and "<h2>answer a in first place</h2>" in shown
    )
