"""python judge.py: one pair, a file of pairs that is interrupted and resumed, bad input."""

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tiny_models import COIN, make_model_folder, make_scripted_folder

import backends
import cli
import failures
import judge
import judge_file
import sampler
from data import Pair
from judge import Judge
from verdicts import conclude

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="session")
def coin(tmp_path_factory):
    return make_scripted_folder(tmp_path_factory.mktemp("models") / "coin", COIN)


@pytest.fixture(scope="session")
def coin_judge(coin):
    return Judge(str(coin), device="cpu", dtype="float32")


# ---- one pair ----

ASK = ["--query", "What is 6 * 7?", "--a", "42", "--b", "48"]
QUICK = ["--max_completion_length", "40", "--device", "cpu", "--dtype", "float32"]


def command(*arguments, stdin=None):
    words = [sys.executable, ROOT / "judge.py", *map(str, arguments)]
    return subprocess.run(
        words,
        input=stdin,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def inline(monkeypatch, capsys, *arguments):
    """The command within this process: (exit code, standard output, standard error)."""
    monkeypatch.setattr(sys, "argv", ["judge.py", *map(str, arguments)])
    code = 0
    try:
        cli.run(judge.main)
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_json_output(coin, coin_judge, tmp_path):
    (tmp_path / "b.txt").write_text("48\n")
    arguments = [
        "--query",
        "-",
        "--a",
        "42",
        "--b",
        f"@{tmp_path / 'b.txt'}",
        "--model",
        coin,
        "--num-votes",
        3,
        "--json",
        *QUICK,
    ]
    ran = command(*arguments, stdin="What is 6 * 7?\n")
    assert ran.returncode == 0 and ran.stderr == ""
    printed = json.loads(ran.stdout)
    assert (
        list(printed) == ["winner", "p_first", "consistent", "games"] and len(printed["games"]) == 6
    )
    assert list(printed["games"][0]) == [
        "order",
        "verdict",
        "status",
        "text",
        "tokens",
        "think_tokens",
    ]
    (expected,) = coin_judge.judge(
        [("What is 6 * 7?", "42", "48")], num_votes=3, max_completion_length=40
    )
    assert printed == asdict(expected) and printed["winner"] == expected.winner


def test_output_for_people(monkeypatch, capsys, coin):
    code, out, err = inline(monkeypatch, capsys, *ASK, "--model", coin, "--num_votes", 2, *QUICK)
    assert (
        code == 0
        and err == ""
        and out.count("--- game") == 4
        and out.count("A is Assistant 1, B is Assistant 2") == 2
    )
    assert "<think> hm" in out and "\033" not in out
    code, out, err = inline(monkeypatch, capsys, *ASK, "--model", coin, "--one_order", *QUICK)
    assert out.count("--- game") == 1 and out.endswith("one order only\n")


@pytest.mark.parametrize(
    "verdicts, words",
    [
        ([1, 2], "A is better: 2 of 2 votes, both orders agree"),
        ([2, 1], "B is better: 2 of 2 votes, both orders agree"),
        ([None, None], "No winner: no valid vote, 2 of 2 games truncated"),
        ([1, 1], "No winner: 1 for A, 1 for B, the orders do not agree"),
        (["tie", "tie"], "A tie: 2 of 2 votes, both orders agree"),
        (["tie", 1], "B is better: 1 of 2 votes, the orders do not agree"),
        ([1, 1, "tie"], "No winner: 1 for A, 1 for B, 1 for a tie, the orders do not agree"),
        ([None, 2], "A is better: 1 of 1 vote, 1 of 2 games truncated, the orders do not agree"),
    ],
)
def test_the_outcome_in_words(verdicts, words):
    games = [
        {"order": order, "verdict": verdict, "status": "valid" if verdict else "truncated"}
        for order, verdict in zip(([0, 1], [1, 0], [0, 1]), verdicts)
    ]
    assert judge.describe(conclude(games)) == words


def test_orders_to_the_terminal_are_not_carried_out(capsys):
    judge.show(
        conclude(
            [
                {
                    "order": [0, 1],
                    "verdict": None,
                    "status": "unparsable",
                    "text": "\033[2Jbye\x9b1m\n\tend",
                    "tokens": 3,
                }
            ]
        )
    )
    out = capsys.readouterr().out
    assert "\033" not in out and "\x9b" not in out and "bye" in out and "\n\tend" in out
    cli.note("pair \033[2J\rx")
    failures.print_failure("line 3: id \x9b1m is written twice")
    assert not set("\033\r\x9b") & set(capsys.readouterr().err)


def test_reference_and_rubric(monkeypatch, capsys, tmp_path, coin):
    """From the flags or from the columns of a file, which come first; unused columns are named."""
    prompts = []
    encode = backends.LocalBackend.encode

    def seen(self, messages):
        prompts.append(messages[-1]["content"])
        return encode(self, messages)

    monkeypatch.setattr(backends.LocalBackend, "encode", seen)
    options = ["--model", coin, "--style", "rubric", *QUICK]
    code, _, err = inline(monkeypatch, capsys, *ASK, *options, "--reference", "42", "--one_order")
    assert (code, err) == (0, "") and "use other words:\n42\n" in prompts[-1]
    assert "Criteria of" not in prompts[-1]

    path, out = tmp_path / "pairs.csv", tmp_path / "out.jsonl"
    path.write_text("query,a,b,rubric,topic\nq1,x,y,be brief,z\nq2,x,y,,z\n")
    files = ["--pairs", path, "--out", out]
    prompts.clear()
    code, _, err = inline(monkeypatch, capsys, *files, *options, "--rubric", "be right")
    columns = "not in the prompt: rubric (unless the style shows it), topic)\n"
    assert code == 0 and columns in err and err.count("topic") == 1
    assert [prompt.partition("answer:\n")[2][:8] for prompt in prompts[::2]] == [
        "be brief",
        "be right",
    ]
    # the same command goes on; with another rubric these are other judgments
    assert inline(monkeypatch, capsys, *files, *options, "--rubric", "be right")[0] == 0
    code, _, err = inline(monkeypatch, capsys, *files, *options, "--rubric", "be kind")
    assert code == 2 and "line 2 is of pair pairs-3, not pair 2 of the input" in err
    # a style that does not read the column
    code, _, err = inline(monkeypatch, capsys, *files[:3], tmp_path / "b", "--model", coin, *QUICK)
    assert code == 0 and columns in err and "be brief" not in prompts[-4]


BAD = [
    ([*ASK, "--reference", "42"], "--reference: the style rrm has no {reference}"),
    ([*ASK, "--style", "rrm", "--rubric", "r"], "--rubric: the style rrm has no {rubric}"),
    (["--query", "q", "--a", "x"], "--b missing"),
    ([], "--query, --a, --b missing"),
    ([*ASK[:4], "--b", "42"], "identical"),
    (["--query", " ", "--a", "x", "--b", "y"], "--query is empty"),
    ([*ASK, "--pairs", "PAIRS", "--out", "OUT"], "for one pair, or --pairs"),
    (["--pairs", "PAIRS"], "--out"),
    (["--out", "OUT"], "--pairs"),
    ([*ASK, "--out", "OUT"], "for one pair, or --pairs"),
    ([*ASK, "--num_votes", "0"], "--num_votes: must be at least 1"),
    ([*ASK, "--stop", "likely"], "unknown argument"),
    ([*ASK, "--temperature", "-1"], "--temperature: must be 0 (greedy) or at least 0.01"),
    ([*ASK, "--temperature", "nan"], "--temperature: must be 0 (greedy) or at least 0.01, got nan"),
    ([*ASK, "--num_votes", "two"], "num_votes"),
    ([*ASK, "--num_votes", "4", "--temperature", "0"], "--num_votes 4: at --temperature 0"),
    ([*ASK, "--max_completion_length", "0"], "--max_completion_length: must be at least 1"),
    ([*ASK, "--device", "tpu"], "tpu"),
    ([*ASK[:4], "--b", "@nowhere.txt"], "nowhere.txt"),
    ([*ASK[:4], "--b", "@EMPTY"], "is empty"),
    ([*ASK, "--style", "rmm"], "no style is called 'rmm'"),
    ([*ASK, "--model", "./nowhere"], "no such folder ./nowhere"),
    ([*ASK, "--model", "EMPTYDIR"], "config.json"),
    ([*ASK, "--votes", "3"], "unknown argument '--votes'"),
    ([*ASK, "--base_urls", "http://localhost"], "did you mean --base_url?"),
    ([*ASK, "--base_url", "localhost:1"], "no address"),
    ([*ASK, "extra"], "unknown argument 'extra'"),
    (["--pairs", "nowhere.jsonl", "--out", "OUT"], "nowhere.jsonl: no such file"),
    (["--pairs", "PAIRS", "--out", "PAIRS"], "is the input"),
    (["--pairs", "BROKEN", "--out", "OUT"], "broken.jsonl line 2"),
    (["--pairs", "NOFIELD", "--out", "OUT"], "nofield.jsonl line 1"),
    (["--pairs", "EMPTY", "--out", "OUT"], "empty"),
    (["--pairs", "PAIRS", "--out", "NOFOLDER"], "cannot be written"),
    (["--pairs", "PAIRS", "--out", "EMPTYDIR"], "cannot be"),
    (["--pairs", "DATA", "--out", "INDATA"], "lies in its folder"),
    (["--pairs", "PAIRS", "--out", "NOTES"], "notes.txt"),
    (["--pairs", "PAIRS", "--out", "OTHER"], "no row that this command wrote"),
]


@pytest.mark.parametrize(
    "command",
    ["judge.py", "train_grpo.py", "train_sft.py", "tournament.py --candidates x", "evaluate.py"],
)
def test_a_missing_package_is_one_line(command):
    """Without the packages of requirements.txt: -S leaves site-packages out."""
    ran = subprocess.run(
        [sys.executable, "-S", *command.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 1 and len(ran.stderr.splitlines()) == 1, ran.stderr
    assert ": No module named '" in ran.stderr and "requirements.txt" in ran.stderr


@pytest.fixture
def places(tmp_path, folder):
    rows = [{"query": "q", "a": "x", "b": "y"}, {"query": "r", "a": "x", "b": "y"}]
    texts = {
        "PAIRS": ("pairs.jsonl", "".join(json.dumps(row) + "\n" for row in rows)),
        "BROKEN": ("broken.jsonl", json.dumps(rows[0]) + '\n{"query": \n'),
        "NOFIELD": ("nofield.jsonl", '{"query": "q", "a": "x"}\n'),
        "EMPTY": ("empty.jsonl", ""),
        "OTHER": ("other.jsonl", '{"id": 1}\n'),
        "NOTES": ("notes.txt", "my notes\nand more, without an end"),
    }
    found = {"OUT": tmp_path / "out.jsonl", "NOFOLDER": tmp_path / "no" / "out.jsonl"}
    found |= {"EMPTYDIR": tmp_path / "empty", "DATA": tmp_path / "data"}
    found["EMPTYDIR"].mkdir()
    found["DATA"].mkdir()
    found["INDATA"] = found["DATA"] / "out.jsonl"
    for name, (file, text) in texts.items():
        found[name] = tmp_path / file
        found[name].write_text(text)
    return found | {"MODEL": folder}


def fill(arguments, places):
    filled = [
        f"@{places[word[1:]]}"
        if word[1:] in places and word[0] == "@"
        else str(places.get(word, word))
        for word in arguments
    ]
    return filled if "--model" in filled else [*filled, "--model", str(places["MODEL"])]


@pytest.mark.parametrize("arguments, problem", BAD)
def test_bad_input_is_one_line_and_exit_code_2(monkeypatch, capsys, places, arguments, problem):
    before = places["NOTES"].read_text()
    monkeypatch.setattr(backends, "load_model", None)  # none of these comes so far
    code, out, err = inline(monkeypatch, capsys, *fill(arguments, places))
    lines = [line for line in err.splitlines() if not line.startswith("data: ")]
    assert (
        (code, out, len(lines)) == (2, "", 1)
        and lines[0].startswith("judge.py: ")
        and problem in lines[0]
    )
    assert places["NOTES"].read_text() == before  # a file that is not ours is left as it was


MANY_COMMANDS = """
import json, runpy, sys
for case in json.loads(sys.argv[1]):
    sys.argv = ["judge.py", *case]
    try:
        runpy.run_path("judge.py", run_name="__main__")
    except SystemExit as stop:
        print(stop.code, "torch" in sys.modules)
"""


def test_bad_input_of_the_real_command(places):
    """One process for all: what it prints, and that torch was not imported for it."""
    cases = [fill(arguments, places) for arguments, _ in BAD[:20:3]]
    ran = subprocess.run(
        [sys.executable, "-c", MANY_COMMANDS, json.dumps(cases)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ran.stdout.splitlines() == ["2 False"] * len(cases) and len(
        ran.stderr.splitlines()
    ) == len(cases)
    alone = command("--query", "q", "--a", "x", "--b", "x")
    assert (alone.returncode, alone.stdout, len(alone.stderr.splitlines())) == (2, "", 1)


def test_judge_is_imported_without_torch():
    script = "import sys, judge; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout == "False\n"


# ---- files ----


@pytest.fixture
def pairs_file(tmp_path):
    rows = [
        {"query": f"What is {n} + {n}?", "a": str(2 * n), "b": "ünïcode \u2028 🙂" + "x" * n}
        for n in range(11)
    ]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "?"},
    ]
    rows[3] = {"id": "my own", "messages": messages, "a": "", "b": "!"}
    rows[4]["id"], rows[5]["label"] = "same", 0.5
    rows[7]["id"] = "same"
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def batch(monkeypatch, capsys, coin, pairs_file):
    monkeypatch.setattr(judge_file, "CHUNK_PAIRS", 4)

    def run(out, *more, source=pairs_file):
        votes = [] if "--num_votes=8" in more else ["--num_votes", 2]
        return inline(
            monkeypatch,
            capsys,
            "--pairs",
            source,
            "--out",
            out,
            "--model",
            coin,
            *votes,
            *QUICK,
            *more,
        )

    return run


def test_a_file_of_pairs(batch, tmp_path, coin_judge, pairs_file):
    code, out, err = batch(tmp_path / "out.jsonl")
    assert code == 0 and out == "" and "pairs 11" in err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().split("\n")[:-1]]
    assert (
        len(rows) == 11
        and len({row["id"] for row in rows}) == 11
        and [row["id"] for row in rows][3:5] == ["my own", "same"]
    )
    assert {row["winner"] for row in rows} == {"a", "b", None}
    for row in rows:
        votes = [game["order"][game["verdict"] - 1] for game in row["games"] if game["verdict"]]
        lead = votes.count(0) - votes.count(1)
        assert (
            row["winner"] == (None if lead == 0 else "a" if lead > 0 else "b")
            and row["settings"]["num_votes"] == 2
        )
    pair = Pair(
        rows[0]["id"], [{"role": "user", "content": "What is 0 + 0?"}], ("0", "ünïcode \u2028 🙂")
    )
    assert (
        asdict(coin_judge.judge([pair], num_votes=2, max_completion_length=40)[0])["games"]
        == rows[0]["games"]
    )
    code, out, err = batch(tmp_path / "out.jsonl", "--json")  # all there
    summary = json.loads(out)
    assert (summary["pairs"], summary["a"] + summary["b"] + summary["no_winner"]) == (
        11,
        11,
    ) and "11 of 11 pairs are there already" in err
    assert summary["orders_agree"] == sum(row["consistent"] for row in rows)
    games = [game for row in rows for game in row["games"]]
    assert (summary["games"], summary["tokens"]) == (44, sum(game["tokens"] for game in games))


def test_a_spreadsheet(batch, tmp_path, pairs_file):
    """--out x.csv has texts, winner and votes; x.csv.jsonl is what a second call goes on from."""
    out = tmp_path / "out.csv"
    assert batch(out)[0] == 0
    judged = [json.loads(line) for line in Path(f"{out}.jsonl").read_text().splitlines()]
    content = out.read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert len(rows) == len(judged) == 11
    for row, judgment, line in zip(rows, judged, pairs_file.read_text().splitlines()):
        pair = json.loads(line)
        assert (row["a"], row["b"]) == (pair["a"], pair["b"])
        assert row["winner"] == (judgment["winner"] or "")
        assert float(row["p_first"]) == judgment["p_first"]
        votes = [int(row[f"votes_{name}"]) for name in ("a", "b", "tie")]
        assert sum(votes) + int(row["no_verdict"]) == len(judgment["games"]) == 4
    assert rows[3]["query"] == "User:\nHi\n\nAssistant:\nHello\n\nUser:\n?"
    out.unlink()
    code, _, err = batch(out)  # nothing is judged again
    assert code == 0 and "11 of 11 pairs are there already" in err
    assert out.read_text(encoding="utf-8-sig") == content
    # a table of somebody's is not overwritten
    (tmp_path / "mine.csv").write_text("a,b\n")
    code, _, err = batch(tmp_path / "mine.csv")
    assert code == 2 and "mine.csv exists, without" in err
    assert (tmp_path / "mine.csv").read_text() == "a,b\n"


KILLED = """
import os, sys, judge, judge_file, sampler
judge_file.CHUNK_PAIRS, calls, generate = 4, [], sampler.generate

def generate_twice(*arguments, **options):
    calls.append(1)
    if len(calls) == 3:
        os._exit(9)
    return generate(*arguments, **options)

sampler.generate = generate_twice
judge.main(sys.argv[1:])
"""


def test_an_interrupted_file_is_finished_to_the_same_bytes(
    batch, tmp_path, monkeypatch, pairs_file, coin
):
    batch(tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == 10]
    in_a_character = whole.index("🙂".encode()) + 2
    lengths = [
        0,
        1,
        5,
        9,
        in_a_character,
        ends[0],
        ends[0] + 3,
        ends[3],
        ends[4] - 1,
        ends[5] + 200,
        ends[9],
        len(whole) - 1,
        len(whole),
    ]
    for length in lengths:
        (tmp_path / "part.jsonl").write_bytes(whole[:length])  # what a kill can leave
        assert batch(tmp_path / "part.jsonl")[0] == 0
        assert (tmp_path / "part.jsonl").read_bytes() == whole, length
    # a kill in the middle of the run: finished chunks are on disk and are not judged again
    arguments = [
        "--pairs",
        pairs_file,
        "--out",
        tmp_path / "killed.jsonl",
        "--model",
        coin,
        "--num_votes",
        2,
        *QUICK,
    ]
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, arguments)], cwd=ROOT, capture_output=True
    )
    assert ran.returncode == 9 and (tmp_path / "killed.jsonl").read_bytes() == whole[: ends[7]]
    real, calls = sampler.generate, []

    def generate(model, prompts, *rest, **options):
        calls.append(len(prompts))
        return real(model, prompts, *rest, **options)

    monkeypatch.setattr(sampler, "generate", generate)
    assert batch(tmp_path / "killed.jsonl")[0] == 0 and calls == [6]
    assert (tmp_path / "killed.jsonl").read_bytes() == whole
    (tmp_path / "killed.jsonl").write_bytes(
        whole[: ends[4]]
    )  # a chunk of which a part is there is judged whole, as the first time
    assert batch(tmp_path / "killed.jsonl")[0] == 0 and calls == [6, 8, 6]


def test_results_of_other_settings_or_pairs_are_not_mixed(batch, tmp_path, pairs_file):
    out = tmp_path / "out.jsonl"
    batch(out)
    whole = out.read_bytes()
    for more, problem in [
        (["--seed", "1"], "--seed: "),
        (["--temperature", "0.7"], "--temperature: "),
        (["--one_order"], "--one_order: "),
        (["--style", "direct"], "was made with 'rrm', not 'direct'"),
    ]:
        code, _, err = batch(out, *more)
        assert code == 2 and problem in err.splitlines()[-1] and out.read_bytes() == whole
    lines = pairs_file.read_text().split("\n")
    changed = "\n".join([lines[0].replace('"a": "0"', '"a": "1"'), *lines[1:]])
    for text, problem in [
        ("\n".join(lines[1:]), "line 1 is of pair"),
        (changed, "line 1 is of pair"),
        ("\n".join(lines[:8]), "line 9 is of pair"),
    ]:
        (tmp_path / "in.jsonl").write_text(text)
        code, _, err = batch(out)
        assert code == 2 and problem in err.splitlines()[-1] and out.read_bytes() == whole
    more = {"id": "new", "query": "q", "a": "x", "b": "y"}
    pairs_file.write_text(
        "\n".join(lines) + json.dumps(more) + "\n"
    )  # further pairs at the end are welcome
    assert (
        batch(out)[0] == 0
        and out.read_bytes().startswith(whole)
        and json.loads(out.read_text().split("\n")[-2])["id"] == "new"
    )


def test_a_pair_that_is_too_long_is_truncated_and_the_others_judged(
    batch, monkeypatch, capsys, tmp_path, pairs_file, coin
):
    batch(tmp_path / "before.jsonl")
    big = {"query": "q", "a": "x " * 5000, "b": "y"}
    pairs_file.write_text(pairs_file.read_text() + json.dumps({"id": "big\033[2J"} | big) + "\n")
    code, out, err = batch(tmp_path / "out.jsonl", "--json")
    assert code == 0 and "pair big\ufffd[2J: its prompt has" in err and "\033" not in err
    assert "counted as truncated" in err
    *rows, last = (tmp_path / "out.jsonl").read_bytes().splitlines(keepends=True)
    assert b"".join(rows) == (tmp_path / "before.jsonl").read_bytes()
    games = json.loads(last)["games"]
    assert [(game["status"], game["tokens"]) for game in games] == [("truncated", 0)] * 4
    code, out, err = inline(
        monkeypatch, capsys, "--query", "q", "--a", big["a"], "--b", "y", "--model", coin, *QUICK
    )
    assert (
        code == 2 and out == "" and "its prompt has" in err
    )  # where there is nothing else to judge, it is an error


# ---- a real model ----


def test_the_command_of_the_readme(real_model):
    arguments = [
        "--query",
        "What is the capital of France?",
        "--a",
        "Paris.",
        "--b",
        "Lyon.",
        "--max_completion_length",
        24,
        "--json",
    ]
    ran = command("--model", real_model, *arguments)
    assert ran.returncode == 0, ran.stderr
    printed = json.loads(ran.stdout)
    assert [game["order"] for game in printed["games"]] == [[0, 1], [1, 0]] and all(
        0 < game["tokens"] <= 24 for game in printed["games"]
    )
    assert (
        printed["winner"] in ("a", "b", None)
        and 0 <= printed["p_first"] <= 1
        and printed["consistent"] in (True, False)
    )


def test_the_embedded_judge_says_where_its_world_ends(monkeypatch, capsys):
    tiny = Judge("tiny")
    monkeypatch.setattr(judge, "judge_of", lambda settings: tiny)
    for query, a, b, world in (
        ("347+586", "933", "923", True),
        ("has fig x3, max 4 x1", "fig oat", "Rice tea", True),
        ("What is the capital of France?", "Paris", "Lyon", False),
    ):
        tiny.backend.small_world = True
        code, _, err = inline(
            monkeypatch, capsys, "--query", query, "--a", a, "--b", b, "--max_completion_length", 96
        )
        assert code == 0 and ("knows sums and lines" in err) == (not world), err
