"""python evaluate.py with a cheap judge over every benchmark.

Also resume, schedules, intervals, predictions, forced verdicts, and bad input.
"""

import csv
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_benchmarks import FILES, match, single, write
from tiny_models import COIN, VERDICTS, make_scripted_folder

import backends
import cli
import judge as judge_file
from extras import evaluate, scoring
from extras.benchmarks import BENCHMARKS, load
from extras.scoring import votes_of

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
QUICK = ["--max_completion_length", 12, "--device", "cpu", "--dtype", "float32"]
QUESTIONS = [
    {
        "query": f"{n}+{n}?",
        "candidates": [str(2 * n), str(2 * n + 1), "x" * (n % 3 + 1)],
        "scores": [n % 2, 0, 1],
    }
    for n in range(9)
]


@pytest.fixture(scope="session")
def coin(tmp_path_factory):
    return make_scripted_folder(tmp_path_factory.mktemp("models") / "coin", COIN)


@pytest.fixture(scope="session")
def coin_judge(coin):
    return judge_file.Judge(str(coin), device="cpu", dtype="float32")


@pytest.fixture
def run(monkeypatch, capsys, coin, coin_judge):
    """The command in this process, with one loaded judge: (exit code, stdout, stderr)."""
    monkeypatch.setattr(evaluate, "judge_of", lambda *settings: coin_judge)
    monkeypatch.setattr(evaluate, "CHUNK_ITEMS", 4)

    def call(*arguments):
        words = list(map(str, arguments))
        if not {"--model", "--predictions"} & set(words):
            words += ["--model", str(coin)]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
        code = 0
        try:
            cli.run(evaluate.main)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def questions(tmp_path):
    return write(tmp_path / "questions.jsonl", QUESTIONS)


def rows_of(folder):
    return json.loads((Path(folder) / "results.json").read_text())["rows"]


# ---- end to end ----


@pytest.mark.parametrize("name", FILES)
def test_every_benchmark(run, tmp_path, name):
    data = write(tmp_path / f"{name}.jsonl", FILES[name])
    code, out, err = run(
        "--benchmark", name.split()[0], "--data", data, "--output_dir", tmp_path / "out", *QUICK
    )
    assert code == 0 and "95 % interval" in out and "longest" in out, err
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(found["made_with"]) == {"commit", "python", "torch", "transformers", "numpy"}
    assert (
        found["settings"]["style"] == "rrm"
        and found["settings"]["seed"] == 0
        and found["results"]["benchmark"] == name.split()[0]
    )
    for row in found["rows"]:
        for one in row["matches"]:
            assert sorted(game["order"] for game in one["games"]) == [
                [0, 1],
                [1, 0],
            ]  # both orders by default


def test_the_real_command_without_torch_for_predictions(tmp_path, questions):
    said = write(
        tmp_path / "said.jsonl",
        [
            {"id": f"questions-{n + 1}-{i}-{j}", "winner": "a"}
            for n in range(9)
            for i in (0, 2)
            for j in (0, 1, 2)
        ],
    )
    script = (
        "import sys, runpy\n"
        "try: runpy.run_path('evaluate.py', run_name='__main__')\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    words = [
        sys.executable,
        "-c",
        script,
        "--benchmark",
        "gsm8k_solutions",
        "--data",
        questions,
        "--predictions",
        said,
        "--json",
    ]
    ran = subprocess.run(
        words, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0 and ran.stderr.endswith("False\n"), ran.stderr
    printed = json.loads(ran.stdout)
    pairs = sum(len(item.matches) for item in load("gsm8k_solutions", questions))
    assert printed["rule"]["pairs"][0] == 1.0 and printed["outcomes"]["right"] == pairs
    assert printed["counts"]["rule"]["pairs"] == printed["counts"]["protocol"]["accuracy"] == pairs
    assert not (tmp_path / "results.json").exists()  # without --output_dir nothing is written


def test_a_log_file_shows_that_the_work_goes_on(run, monkeypatch, tmp_path, questions):
    """Without a terminal there is no bar, but a line every half minute (here: every step)."""
    arguments = [
        "--benchmark",
        "gsm8k_solutions",
        "--data",
        questions,
        "--strategy",
        "pairs",
        "--num_votes",
        2,
        *QUICK,
        "--output_dir",
    ]
    assert "of 9 items\n" not in run(*arguments, tmp_path / "quick")[2]  # less than half a minute
    monkeypatch.setattr(backends, "NOTE_SECONDS", 0)
    err = run(*arguments, tmp_path / "slow")[2]
    assert re.findall(r"judging: (\d+) of 9 items", err) == ["4", "8", "9"]
    games = [tuple(map(int, found)) for found in re.findall(r"judging: (\d+) of (\d+) games", err)]
    totals = [
        4 * sum(len(item.matches) for item in load("gsm8k_solutions", questions)[start : start + 4])
        for start in (0, 4, 8)
    ]
    assert sorted({total for _, total in games}) == sorted(set(totals)) and all(
        0 <= done <= total for done, total in games
    )
    assert [
        done for (done, total), (later, _) in zip(games, games[1:] + [(0, 0)]) if later < done
    ] == totals  # each call ends with all of its games


# ---- the same file, whatever happens ----

KILLED = """
import os, sys
from extras import evaluate
evaluate.CHUNK_ITEMS, calls, judge_items = 4, [], evaluate.judge_items
def judge_or_exit(*arguments):
    calls.append(1)
    if len(calls) == 3:
        os._exit(9)
    return judge_items(*arguments)
evaluate.judge_items = judge_or_exit
evaluate.main(sys.argv[1:])
"""


def test_killed_and_resumed_is_the_same_file(run, monkeypatch, tmp_path, questions, coin):
    arguments = [
        "--benchmark",
        "gsm8k_solutions",
        "--data",
        questions,
        "--strategy",
        "pairs",
        *QUICK,
        "--output_dir",
    ]
    assert run(*arguments, tmp_path / "whole")[0] == 0
    whole = (tmp_path / "whole" / "results.json").read_bytes()
    code, _, err = run(*arguments, tmp_path / "whole")  # nothing is left to do
    assert (
        code == 0
        and "to judge" not in err
        and (tmp_path / "whole" / "results.json").read_bytes() == whole
    )
    words = [
        sys.executable,
        "-c",
        KILLED,
        *map(str, arguments),
        tmp_path / "killed",
        "--model",
        coin,
    ]
    ran = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    partial = (tmp_path / "killed" / "rows.jsonl").read_bytes()
    assert ran.returncode == 9 and partial.count(b"\n") == 9, ran.stderr  # a head and two chunks
    assert (
        run(*arguments, tmp_path / "killed")[0] == 0
        and (tmp_path / "killed" / "results.json").read_bytes() == whole
    )
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["results.json"]
    judged, judge_items = [], evaluate.judge_items
    monkeypatch.setattr(
        evaluate,
        "judge_items",
        lambda items, *rest: (
            judged.append([item.id for item in items]) or judge_items(items, *rest)
        ),
    )
    chunks = [[f"questions-{n}" for n in range(start, min(start + 4, 10))] for start in (1, 5, 9)]
    for length, todo in ((0, 0), (len(partial) - 1, 1)):  # what a kill can leave
        folder = tmp_path / f"cut-{length}"
        folder.mkdir()
        (folder / "rows.jsonl").write_bytes(partial[:length])
        assert (
            run(*arguments, folder)[0] == 0 and (folder / "results.json").read_bytes() == whole
        ), length
        assert (
            judged == chunks[todo:]
        )  # a chunk of which a part is there is judged whole, as the first time
        judged.clear()
    folder = tmp_path / "stopped"  # stopped again at once: what there was stays
    folder.mkdir()
    (folder / "rows.jsonl").write_bytes(partial)
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "judge_items", lambda *_: sys.exit(130))
        assert run(*arguments, folder)[0] == 130 and (folder / "rows.jsonl").read_bytes() == partial
    for more, problem in [
        (["--seed", 1], "--seed: "),
        (["--temperature", 0.7], "--temperature: "),
        (["--limit", 5], "--limit: "),
    ]:
        code, _, err = run(*arguments, tmp_path / "whole", *more)
        assert (
            code == 2
            and problem in err.splitlines()[-1]
            and (tmp_path / "whole" / "results.json").read_bytes() == whole
        )
    write(Path(questions), QUESTIONS[1:])
    code, _, err = run(*arguments, tmp_path / "whole")
    assert code == 2 and "--data: " in err.splitlines()[-1]


def test_one_at_a_time_and_all_together(run, monkeypatch, tmp_path, questions):
    arguments = ["--benchmark", "gsm8k_solutions", "--data", questions, *QUICK]
    for chunk in (1, 100):
        monkeypatch.setattr(evaluate, "CHUNK_ITEMS", chunk)
        for strategy in ("elo", "knockout"):
            run(*arguments, "--strategy", strategy, "--output_dir", tmp_path / f"{strategy}{chunk}")
    assert rows_of(tmp_path / "elo1") == rows_of(tmp_path / "elo100") and rows_of(
        tmp_path / "knockout1"
    ) == rows_of(tmp_path / "knockout100")


# ---- schedules ----


def test_schedules_choose_their_matches(run, tmp_path, questions):
    arguments = ["--benchmark", "gsm8k_solutions", "--data", questions, *QUICK]
    for strategy, matches in (("elo", 3), ("knockout", 2), ("pairs", None), ("swiss", 4)):
        assert (
            run(
                *arguments,
                "--strategy",
                strategy,
                *["--games", 4] * (strategy == "swiss"),
                "--output_dir",
                tmp_path / strategy,
            )[0]
            == 0
        )
        for row in rows_of(tmp_path / strategy):
            better = sum(a > b for a in row["scores"] for b in row["scores"])
            assert len(row["matches"]) == (better if matches is None else matches)
            assert (row["pick"] is not None) == (strategy == "knockout") and row["ranked"] == (
                strategy != "pairs"
            )
    played = {
        (row["id"], *one["pair"]): one["games"]
        for row in rows_of(tmp_path / "elo")
        for one in row["matches"]
    }
    for row in rows_of(tmp_path / "pairs") + rows_of(
        tmp_path / "knockout"
    ):  # a match is the same whichever schedule asks for it
        assert all(one["games"] == played[row["id"], *one["pair"]] for one in row["matches"])
    again = [row["matches"] for row in rows_of(tmp_path / "swiss")]
    repeated = [
        (a, b)
        for matches in again
        for a in matches
        for b in matches
        if a is not b and a["pair"] == b["pair"]
    ]
    assert repeated and any(
        a["games"] != b["games"] for a, b in repeated
    )  # a second meeting is judged anew


def test_the_winner_of_a_knockout_won_its_matches(run, tmp_path, questions):
    run(
        "--benchmark",
        "gsm8k_solutions",
        "--data",
        questions,
        "--strategy",
        "knockout",
        "--num_votes",
        3,
        *QUICK,
        "--output_dir",
        tmp_path / "k",
    )
    for row in rows_of(tmp_path / "k"):
        final = row["matches"][-1]
        lead = votes_of(final).count(0) - votes_of(final).count(1)
        assert row["pick"] in final["pair"] and (
            lead == 0 or row["pick"] == final["pair"][int(lead < 0)]
        )


def test_coins_of_a_knockout_are_counted(run, tmp_path, questions):
    code, out, _ = run(
        "--benchmark",
        "pairs",
        "--data",
        questions,
        "--strategy",
        "knockout",
        *QUICK,
        "--output_dir",
        tmp_path / "k",
        "--json",
    )
    shares = [evaluate.share(one) for row in rows_of(tmp_path / "k") for one in row["matches"]]
    printed = json.loads(out)
    assert code == 0 and 0 < shares.count(0.5) < len(shares) == 18
    assert (
        printed["protocol"]["matches decided by a coin"][0] == pytest.approx(shares.count(0.5) / 18)
        and list(printed["rule"])[0] == "best of N"
    )
    run(
        "--benchmark",
        "pairs",
        "--data",
        questions,
        "--strategy",
        "elo",
        *QUICK,
        "--output_dir",
        tmp_path / "e",
    )
    assert (
        "matches decided by a coin"
        not in json.loads((tmp_path / "e" / "results.json").read_text())["results"]["protocol"]
    )


def test_sweep(run, tmp_path, questions):
    arguments = [
        "--benchmark",
        "gsm8k_solutions",
        "--data",
        questions,
        "--limit",
        5,
        *QUICK,
        "--output_dir",
        tmp_path / "s",
    ]
    sweep = "--sweep", "strategy=knockout,elo num_votes=1,2 seed=0,1"
    code, out, err = run(*arguments, *sweep, "--out", tmp_path / "s.csv")
    assert code == 0, err
    with open(tmp_path / "s.csv", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0", "1"] * 4 and rows[7]["strategy"] == "elo"
    tokens = sorted(float(row["tokens an item"]) for row in rows)
    assert [f"{value:.1f}" for value in tokens] == [
        line.split()[0] for line in out.splitlines()[1:]
    ]
    tokens = [float(line.split()[0]) for line in out.splitlines()[1:]]
    assert (
        len(tokens) == 8 and tokens == sorted(tokens) and "strategy=elo-num_votes=2-seed=0" in out
    )
    first, other = (
        rows_of(tmp_path / "s" / f"strategy=knockout-num_votes=2-seed={seed}") for seed in (0, 1)
    )
    assert first != other and len(first[0]["matches"][0]["games"]) == 4


def test_a_sweep_over_ties_ends_with_empty_values(run, tmp_path):
    data = write(tmp_path / "d.jsonl", [{"query": "Q", "a": "x", "b": "y", "label": 0.5}])
    arguments = ["--benchmark", "pairs", "--data", data, *QUICK, "--output_dir", tmp_path / "s"]
    code, out, err = run(*arguments, "--sweep", "num_votes=1,2", "--out", tmp_path / "s.csv")
    assert code == 0 and out.splitlines()[1].split()[1:4] == ["-", "-", "..."], err
    with open(tmp_path / "s.csv", encoding="utf-8-sig") as file:
        assert [row["accuracy"] for row in csv.DictReader(file)] == ["", ""]


def test_a_sweep_compares_by_a_number_that_all_have(run, tmp_path, questions):
    arguments = ["--benchmark", "pairs", "--data", questions, *QUICK, "--output_dir"]
    sweep = "--sweep", "strategy=elo,pairs", "--limit", 2, "--out", tmp_path / "s.csv"
    code, out, err = run(*arguments, tmp_path / "s", *sweep)
    assert code == 0 and out.split()[3] == "overall", err


# ---- predictions ----


def test_comparison_is_paired(run, tmp_path):
    first = [single(str(n), "math", n % 2, n % 2) for n in range(200)]
    second = [
        single(str(n), "math", n % 2, n % 2) if n % 20 else single(str(n), "math", 1, 1)
        for n in range(200)
    ]  # differs in ten items
    found = scoring.compared(BENCHMARKS["judgebench"], first, second)
    assert found["items"] == 200 and found["rule"]["overall"][0] == pytest.approx(10 / 200)
    low, high = found["rule"]["overall"][1:]
    assert 0 < low < 0.05 < high < 0.1  # unpaired, the interval would be 0.2 wide
    assert all(
        value == [0, 0, 0]
        for value in scoring.compared(BENCHMARKS["judgebench"], first, first)["rule"].values()
    )
    for name, rows in (("a", first), ("b", second[:150])):
        (tmp_path / f"{name}.json").write_text(
            json.dumps({"settings": {"benchmark": "judgebench"}, "data": "", "rows": rows})
        )
    code, out, err = run("--predictions", tmp_path / "b.json", "--compare", tmp_path / "a.json")
    assert code == 0 and "150 items\n" in out and "-5.33" in out, err  # 8 of 150 went lost
    assert (
        f"Differences: {tmp_path / 'b.json'} minus {tmp_path / 'a.json'}; points are percentage"
        in out
    )
    other = [row | {"question": "?"} for row in first]
    (tmp_path / "c.json").write_text(
        json.dumps({"settings": {"benchmark": "judgebench"}, "data": "", "rows": other})
    )
    code, _, err = run("--predictions", tmp_path / "c.json", "--compare", tmp_path / "a.json")
    assert code == 2 and "no item is in both" in err


def test_judge_py_and_evaluate_play_the_same_games(run, monkeypatch, tmp_path, questions, coin):
    words = [
        "judge.py",
        "--pairs",
        questions,
        "--out",
        tmp_path / "judged.jsonl",
        "--model",
        coin,
        *QUICK,
    ]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    cli.run(judge_file.main)
    arguments = ["--benchmark", "gsm8k_solutions", "--data", questions, "--output_dir"]
    assert run(*arguments, tmp_path / "said", "--predictions", tmp_path / "judged.jsonl")[0] == 0
    assert run(*arguments, tmp_path / "played", "--strategy", "pairs", *QUICK)[0] == 0
    assert rows_of(tmp_path / "said") == rows_of(tmp_path / "played")
    code, out, err = run("--predictions", tmp_path / "played" / "results.json", "--json")
    assert (
        code == 0
        and json.loads(out)
        == json.loads((tmp_path / "played" / "results.json").read_text())["results"]
    ), err


def test_forms_of_predictions(tmp_path):
    data = write(
        tmp_path / "d.jsonl", [FILES["judgebench"][0] | {"pair_id": f"p{n}"} for n in range(4)]
    )
    said = [
        {"pair_id": "p0", "judgments": [{"decision": "A>B"}, {"decision": "A>B"}]},
        {"pair_id": "p1", "judgments": [{"decision": "A=B"}, {"decision": "B>A"}]},
        {"pair_id": "p2", "judgments": [{"decision": None}, None]},  # null: the judge failed
    ]  # and nothing about p3
    path = write(tmp_path / "s.jsonl", said)
    rows = evaluate.predicted_rows(path, load("judgebench", data), "judgebench")
    assert [votes_of(row["matches"][0]) for row in rows] == [
        [0, 1],
        ["tie", 0],
        [None, None],
        [None, None],
    ]
    statuses = [[game["status"] for game in row["matches"][0]["games"]] for row in rows]
    assert statuses == [["valid"] * 2, ["valid"] * 2, ["unparsable"] * 2, ["unparsable"] * 2]
    said = [1, "2", 0, "Tie", "garbage", None]  # as the files of PandaLM write them
    data = write(tmp_path / "p.jsonl", [FILES["pandalm"][0] | {"idx": n} for n in range(len(said))])
    rows_said = [{"idx": n, "gpt_result": verdict} for n, verdict in enumerate(said)]
    rows = evaluate.predicted_rows(write(tmp_path / "g.jsonl", rows_said), load("pandalm", data))
    games = [row["matches"][0]["games"][0] for row in rows]
    assert [(game["verdict"], game["status"]) for game in games] == [
        (1, "valid"),
        (2, "valid"),
        ("tie", "valid"),
        ("tie", "valid"),
        (None, "unparsable"),
        (None, "unparsable"),
    ]


PAIRS_TO_JUDGE = [{"id": f"p{n}", "query": f"Q{n}", "a": "x", "b": "y", "label": 0} for n in (0, 1)]


@pytest.mark.parametrize(
    "name",
    [
        "said.jsonl",
        "said.json",
        "said.jsonl.gz",
        "said.csv",
        "said.tsv",
        "said.parquet",
        "said",
        "s.txt",
    ],
)
def test_predictions_have_any_ending(run, tmp_path, name):
    data, path = write(tmp_path / "d.jsonl", PAIRS_TO_JUDGE), tmp_path / name
    said = [{"id": "p0", "winner": "a"}, {"id": "p1", "winner": None}]
    lines = "".join(json.dumps(row) + "\n" for row in said)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif name.endswith(".parquet"):
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(said), path)
    elif name.endswith(("csv", "tsv")):
        text = "id,winner,p_first\np0,a,1\np1,,0.5\n"
        path.write_text(text.replace(",", "\t") if name.endswith("tsv") else text)
    else:
        path.write_text(json.dumps(said) if name.endswith(".json") else lines, encoding="utf-8-sig")
    code, out, err = run("--benchmark", "pairs", "--data", data, "--predictions", path, "--json")
    assert code == 0, err
    printed = json.loads(out)
    assert printed["rule"]["overall"][0] == 0.5 and printed["outcomes"]["unparsable"] == 1
    assert printed["protocol"]["game names the first"] is None  # the places are not known


JUDGED = {"order": [0, 1], "status": "valid", "verdict": 1}
BAD_PREDICTIONS = [
    *(
        ({"winner": value}, "winner is ")
        for value in ("A", 0, "A>B", "model_a", 1.0, True, "B", [])
    ),
    ({"winner": float("nan")}, "winner is nan, expected one of"),
    ({"scores": ["7", "3"]}, "scores is ['7', '3'], expected a list with a number"),
    ({"scores": [7, {}]}, "scores is"),
    ({"scores": [True, False]}, "scores is"),
    ({"scores": "7, 3"}, "scores is"),
    ({"scores": [7, 3, 2]}, "has 3 scores, and the item 'p0' has 2 answers"),
    ({"scores": [7, 3], "winner": "b"}, "winner is 'b', but the verdicts beside it say 'a'"),
    ({"scores": [7, 3], "winner": "A"}, "winner is 'A'"),
    ({"winner": "a", "p_first": 1.5}, "p_first is 1.5"),
    ({"winner": "a", "p_first": -0.1}, "p_first is -0.1"),
    ({"winner": "a", "p_first": "0.9"}, "p_first is '0.9'"),
    ({"winner": "a", "p_first": 0.2}, "p_first is 0.2, which does not fit the winner 'a'"),
    ({"winner": "b", "games": [JUDGED]}, "winner is 'b', but the verdicts beside it say 'a'"),
    ({"winner": "a", "p_first": 0.5, "games": [JUDGED]}, "p_first is 0.5"),
    ({"winner": "a", "games": []}, "no judgment that --predictions reads"),
    ({"winner": "a", "games": [JUDGED], "pair": "0" * 16}, "judges other texts than --data"),
    ({"winner": "a", "query": "Q0", "a": "y", "b": "x"}, "or in the other order"),
    ({"id": None, "winner": "a"}, "no judgment"),
    ({"id": 1.5, "winner": "a"}, "no judgment"),
    ({"id": "p1", "winner": "a"}, "id 'p1' stands already at "),
    ({"scores": [7, 3]}, "has scores, unlike"),
    ({"pair_id": "p0", "id": None, "judgments": [{"decision": "A>>B"}]}, "decision is 'A>>B'"),
    ({"pair_id": "p0", "id": None, "judgments": [{}]}, "no judgment"),
    ({"idx": 0, "id": None, "x_result": "3"}, "x_result is '3', expected one of"),
    ({"idx": 0, "id": None, "x_result": "1", "y_result": "2"}, "no judgment"),
]


@pytest.mark.parametrize("row, problem", BAD_PREDICTIONS)
def test_predictions_that_nobody_can_read_are_refused(run, tmp_path, row, problem):
    data = write(tmp_path / "d.jsonl", PAIRS_TO_JUDGE)
    row = {name: value for name, value in ({"id": "p0"} | row).items() if value is not None}
    first = [] if "scores is" in problem or "has 3" in problem else [{"id": "p1", "winner": "a"}]
    said = write(tmp_path / "s.jsonl", [*first, row])
    code, out, err = run("--benchmark", "pairs", "--data", data, "--predictions", said)
    last = err.splitlines()[-1]
    assert (code, out) == (2, "") and problem in last, err
    assert f"s.jsonl line {len(first) + 1}: " in last or "s.jsonl line 1: " in last


def test_predictions_of_another_benchmark_are_refused(run, tmp_path):
    data = write(tmp_path / "d.jsonl", [FILES["rewardbench"][0]])  # its ids are numbers too
    said = write(tmp_path / "s.jsonl", [{"idx": 1, "pandalm_result": "1"}])
    code, _, err = run("--benchmark", "rewardbench", "--data", data, "--predictions", said)
    assert code == 2 and "s.jsonl line 1: no judgment" in err.splitlines()[-1]
    empty = write(tmp_path / "e.jsonl", [])
    code, _, err = run("--benchmark", "rewardbench", "--data", data, "--predictions", empty)
    assert code == 2 and "holds no judgments" in err.splitlines()[-1]


def test_predictions_without_a_pair_and_pairs_without_a_prediction_are_named(run, tmp_path):
    data = write(tmp_path / "d.jsonl", PAIRS_TO_JUDGE)
    said = [
        {"id": "p0", "games": [JUDGED, JUDGED | {"order": [1, 0], "verdict": 2}]},
        {"id": "zz", "games": [JUDGED]},
    ]
    path = write(tmp_path / "s.jsonl", said)
    code, out, err = run("--benchmark", "pairs", "--data", data, "--predictions", path, "--json")
    assert code == 0 and "1 of 2 pairs have a prediction" in err
    assert "1 without one count as unparsable (the first: 'p1')" in err
    assert "1 predictions are of no pair of --data (the first: 'zz')" in err
    printed = json.loads(out)
    assert printed["protocol"]["both orders agree"][0] == 0.5
    assert printed["counts"]["protocol"]["both orders agree"] == 2
    assert printed["counts"]["protocol"]["game right, missing = 0"] == 4
    rows = [{"id": "p0", "games": said[0]["games"]}, {"id": "p1", "games": [JUDGED]}]
    path = write(tmp_path / "s.jsonl", rows)
    code, out, err = run("--benchmark", "pairs", "--data", data, "--predictions", path, "--json")
    assert "1 have one order alone, the other one counts as unparsable (the first: 'p1')" in err
    assert json.loads(out)["protocol"]["both orders right"][0] == 0.5


def test_identical_answers_are_a_tie_for_both_commands(run, monkeypatch, tmp_path, coin):
    rows = [{"prompt": f"Q{n}", "chosen": "x", "rejected": ["y", " x"][n % 2]} for n in range(4)]
    data = write(tmp_path / "d.jsonl", rows)
    words = ["judge.py", "--pairs", data, "--out", tmp_path / "said", "--model", coin, *QUICK]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    cli.run(judge_file.main)
    arguments = ["--benchmark", "pairs", "--data", data, "--output_dir"]
    assert run(*arguments, tmp_path / "played", *QUICK)[0] == 0
    code, _, err = run(*arguments, tmp_path / "read", "--predictions", tmp_path / "said")
    assert code == 0 and "2 pairs of identical answers are ties unless judged" in err
    assert "4 of 4 pairs have a prediction" in err
    assert rows_of(tmp_path / "played") == rows_of(tmp_path / "read")
    verdicts = [game["verdict"] for game in rows_of(tmp_path / "read")[1]["matches"][0]["games"]]
    assert verdicts == ["tie", "tie"]


# ---- budgets and confidence ----


def test_forced_verdicts_and_their_probability(tmp_path):
    script = {
        "": {"<think>": 1},
        "<think>": {" hm": 1},
        " hm": {" hm": 0.5, "</think>": 0.5 - 1e-9, "\n\n": 1e-9},
        "</think>": {VERDICTS[0]: 0.6, VERDICTS[1]: 0.2, " nothing é🙂": 0.2},
        "\n\n": {VERDICTS[0]: 0.1, VERDICTS[1]: 0.9},
    }
    folder = make_scripted_folder(tmp_path / "m", script, num_attention_heads=2)
    judge = judge_file.Judge(str(folder), device="cpu", dtype="float32")
    items = load(
        "llmbar",
        write(
            tmp_path / "x.jsonl",
            [{"input": f"Q{n}", "output_1": "a", "output_2": "b", "label": 1} for n in range(12)],
        ),
    )
    plain = evaluate.Settings(strategy="pairs", max_completion_length=5, temperature=1.0)
    games = {}
    for name in ("plain", "confidence", "force_verdict"):
        setattr(plain, name, True)
        games[name] = [
            game
            for row in evaluate.judge_items(items, plain, judge)
            for game in row["matches"][0]["games"]
        ]
    assert {game["status"] for game in games["plain"]} == {"valid", "truncated", "unparsable"}
    for before, read, forced in zip(*games.values()):
        assert "p_verdict" not in before and (before["status"], before["verdict"]) == (
            read["status"],
            read["verdict"],
        )
        if (
            before["status"] == "valid"
        ):  # behind the thinking it is 0.6 against 0.2, whichever was drawn
            assert (
                read["p_verdict"] == forced["p_verdict"] == pytest.approx(0.75, abs=1e-4)
                and "forced" not in forced
            )
        elif before["status"] == "truncated":
            # cut off behind a verdict, or in the thinking
            expected = 0.75 if "boxed" in before["text"] else 0.1
            assert forced["p_verdict"] == pytest.approx(expected, abs=1e-4)
            assert "p_verdict" not in read
            verdict = 1 if expected > 0.5 else 2
            assert (forced["verdict"], forced["status"], forced["forced"]) == (
                verdict,
                "valid",
                True,
            )
        else:
            assert forced == read == before  # it had its chance
    assert (
        scoring.verdict_share(
            {"games": [{"order": [0, 1], "p_verdict": 0.75}, {"order": [1, 0], "p_verdict": 0.75}]}
        )
        == 0.5
    )


def test_pairs_beyond_the_context_are_truncated_and_the_others_judged(
    tmp_path, monkeypatch, coin_judge
):
    rows = [
        {"input": "Q", "output_1": "a" * size, "output_2": "b", "label": 1} for size in (1, 3000, 2)
    ]
    monkeypatch.setattr(coin_judge, "context", 2500)
    settings = evaluate.Settings(strategy="pairs", max_completion_length=40)
    made = evaluate.judge_items(
        load("llmbar", write(tmp_path / "l.jsonl", rows)), settings, coin_judge
    )
    statuses = [[game["status"] for game in row["matches"][0]["games"]] for row in made]
    assert statuses[1] == ["truncated"] * 2 and "truncated" not in statuses[0] + statuses[2]


# ---- bad input ----

BAD = [
    ("--data D", "--benchmark: is missing: choose one of rewardbench, "),
    ("--benchmark xyz --data D", "'xyz' is none"),
    ("--benchmark llmbar", "--data is missing"),
    ("--benchmark rmb --data D", "does not belong to rmb"),
    ("--benchmark llmbar --data D", "does not belong to llmbar"),
    ("--benchmark llmbar --data nowhere.json", "nowhere.json"),
    ("--benchmark pairs --data D --limit 0", "--limit is 0"),
    ("--benchmark pairs --data D --num_votes 0", "--num_votes"),
    ("--benchmark pairs --data D --temperature 0.001", "--temperature"),
    ("--benchmark llmbar --data D --strategy elo", "fixes its pairs"),
    ("--benchmark gsm8k_solutions --data D --games 4", "--games"),
    ("--benchmark pairs --data D --output_dir HERE", "holds other files"),
    ("--benchmark pairs --data D --output_dir D/x", "cannot hold results"),
    ("--benchmark pairs --data D --model nowhere/at/all", "--model"),
    ("--benchmark pairs --data D --style nostyle", "--style"),
    ("--benchmark pairs --data D --predictions D", "no judgment that --predictions reads"),
    ("--benchmark pairs --data D --predictions nowhere.jsonl", "nowhere.jsonl"),
    ("--benchmark pairs --data D --predictions OTHER", "has none of the pairs"),
    ("--benchmark gsm8k_solutions --data D --sweep votes=1", "--sweep"),
    ("--benchmark gsm8k_solutions --data D --sweep num_votes=two", "--sweep"),
    ("--benchmark gsm8k_solutions --data D --sweep strategy=cup", "--strategy"),
    ("--benchmark pairs --data D --compare D", "--compare"),
    ("--benchmark gsm8k_solutions --data D --sweep stop=likely", "'stop=likely' is not understood"),
    ("--benchmark pairs --data UNLABELLED", "row new has no label"),
    (
        "--benchmark pairs --data D --predictions UNLABELLED",
        "line 1: no judgment that --predictions reads: expected id and winner",
    ),
    ("--benchmark pairs --data D --predictions OTHER --sweep num_votes=1", "leave out --sweep"),
    ("--benchmark pairs --data D --predictions OTHER --num-votes=1", "leave out --num_votes"),
    ("--predictions R2 --data nowhere.jsonl", "leave out --data"),
    ("--predictions R2 --output_dir new", "leave out --output_dir"),
    ("--predictions R2 --model nowhere", "leave out --model"),
    ("--predictions R", "r.json has no rows"),
    ("--predictions R2 --compare R", "r.json has no rows"),
    ("--predictions R3", "r3.json row 2 lacks fields of an evaluation"),
    ("--predictions R4", "r4.json is of benchmark 'foo', which is none"),
    ("--benchmark pairs --data D --sweep num_votes=1 --compare R2", "--compare: does not go with"),
    ("--benchmark pairs --data D --sweep SWEEP", "'num_votes=3' repeats a name or a value"),
    ("--benchmark pairs --data D --sweep num_votes=1,1", "repeats a name or a value"),
    ("--benchmark rmb --predictions R", "is of --benchmark pairs"),
    ("--benchmark pairs --data D --base_url http://x --confidence", "--confidence"),
    ("--benchmark pairs --data D --votes 3", "unknown argument"),
]


@pytest.mark.parametrize("arguments, problem", BAD)
def test_bad_input_is_one_line(run, monkeypatch, tmp_path, questions, arguments, problem):
    other = write(tmp_path / "other.jsonl", [{"id": "?", "winner": "a"}])
    good = single("1", "x", 0, 0)
    results = {"R": ("pairs", []), "R2": ("pairs", [good]), "R3": ("pairs", [good, 5])}
    for name, (benchmark, rows) in (results | {"R4": ("foo", [good])}).items():
        content = {"settings": {"benchmark": benchmark}, "data": "", "rows": rows}
        (tmp_path / f"{name.lower()}.json").write_text(json.dumps(content))
    unlabelled = write(
        tmp_path / "unlabelled.jsonl", [{"id": "new", "query": "q", "a": "x", "b": "y"}]
    )
    places = {
        "UNLABELLED": unlabelled,
        "D": questions,
        "HERE": str(tmp_path),
        "OTHER": other,
        "D/x": questions + "/x",
        "SWEEP": "num_votes=1,2 num_votes=3",
    }
    places |= {name: str(tmp_path / f"{name.lower()}.json") for name in ("R", "R2", "R3", "R4")}
    monkeypatch.setattr(evaluate, "judge_items", None)  # none of these comes so far
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*(places.get(word, word) for word in arguments.split()))
    lines = [line for line in err.splitlines() if line.startswith("evaluate.py: ")]
    assert (
        (code, out, len(lines)) == (2, "", 1)
        and problem in lines[0]
        and err.splitlines()[-1] == lines[0]
    )
    assert not (tmp_path / "results.json").exists()


def test_damaged_games_are_refused(run, tmp_path):
    data = write(tmp_path / "d.jsonl", [{"id": "1", "query": "Q", "a": "x", "b": "y", "label": 0}])
    good = match((0, 1), 0, 0)["games"]
    for change in ({"order": [0, 0]}, {"verdict": 3}, {"verdict": None}, {"status": "truncated"}):
        said = write(tmp_path / "s.jsonl", [{"id": "1", "games": [good[0] | change, good[1]]}])
        code, _, err = run("--benchmark", "pairs", "--data", data, "--predictions", said)
        assert code == 2 and "s.jsonl line 1: no judgment" in err.splitlines()[-1]
