"""elo.py: the files of matches that it reads, and its command."""

import gzip
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import elo as elo_file
from cli import BadInput
from elo import bradley_terry, elo, read_matches

ROOT = Path(__file__).parents[1]


# ---- files ----


def write(tmp_path, text, name="m.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def test_formats_agree(tmp_path):
    expected = [(0, 1, 1.0), (1, 2, 0.0), (0, 2, 0.5)], ["pizza", "burger", "sushi"]
    rows = [("pizza", "burger", "left"), ("burger", "sushi", "right"), ("pizza", "sushi", "tie")]
    assert (
        read_matches(
            write(
                tmp_path, "id,left,right,winner\n" + "".join(f"7,{','.join(row)}\n" for row in rows)
            )
        )
        == expected
    )
    lines = "\n".join(json.dumps(dict(zip(("left", "right", "winner"), row))) for row in rows)
    assert read_matches(write(tmp_path, lines + "\n\n")) == expected
    assert (
        read_matches(
            write(
                tmp_path,
                "\ufeffi, j, score\r\npizza, burger, 1\r\n"
                "burger, sushi, 0.0\r\npizza, sushi, 5e-1\r\n",
            )
        )
        == expected
    )
    arena = {"left": "model_a", "right": "model_b", "tie": "tie (bothbad)"}
    objects = [
        {"model_a": i, "model_b": j, "turn": 1, "winner": arena[word]} for i, j, word in rows
    ]
    assert read_matches(write(tmp_path, json.dumps(objects), "arena.json")) == expected
    zipped = gzip.compress(json.dumps(objects).encode())
    (tmp_path / "arena.json.gz").write_bytes(zipped)
    assert read_matches(tmp_path / "arena.json.gz") == expected
    pyarrow = pytest.importorskip("pyarrow")
    columns = pyarrow.Table.from_pylist(objects)
    importlib.import_module("pyarrow.parquet").write_table(columns, tmp_path / "arena.parquet")
    assert read_matches(str(tmp_path / "arena.parquet")) == expected
    for tie in "tie", "both_bad":
        text = f"winner,model_a,model_b\nmodel_a, 007 ,7\n{tie},7,007\n"
        assert read_matches(write(tmp_path, text)) == ([(0, 1, 1.0), (1, 0, 0.5)], ["007", 7])
    numbers = '{"i": 4, "j": "0", "score": 1}\n{"i": 0, "j": 2, "score": 0.25}\n'
    assert read_matches(write(tmp_path, numbers)) == ([(0, 1, 1.0), (1, 2, 0.25)], [4, 0, 2])


BAD_FILES = {
    "empty": ("", "holds no matches"),
    "header only": ("i,j,score\n", "holds no matches"),
    "score 2": ("i,j,score\n0,1,1\n0,1,2\n", "line 3: score is '2'"),
    "nan": ("i,j,score\n0,1,nan\n", "line 2: score is 'nan'"),
    "json nan": ('{"i": 0, "j": 1, "score": NaN}', "line 1: score is nan"),
    "true": ('{"i": 0, "j": 1, "score": true}', "line 1: score is True"),
    "dots": ("i,j,score\n0,1,1.2.3\n", "line 2: score"),
    "infinite": ("i,j,score\n0,1,1e999\n", "line 2: score"),
    "no score": ("i,j,score\n0,1\n", "line 2: does not fit line 1"),
    "negative": ("i,j,score\n0,-1,1\n", "line 2: j is -1"),
    "no player": ("i,j,score\n,1,1\n", "line 2: i is ''"),
    "null": ('{"i": null, "j": 1, "score": 1}', "line 1: i is None"),
    "list": ('{"i": [1], "j": 1, "score": 1}', "line 1: i is [1]"),
    "fraction": ('{"i": 0.5, "j": 1, "score": 1}', "line 1: i is 0.5"),
    "itself": ("i,j,score\n0,1,1\n\n2,2,1\n", "line 4: 2 plays against itself"),
    "winner": (
        "left,right,winner\na,b,left\na,b,model_a\n",
        "line 3: winner is 'model_a': expected left or right or tie",
    ),
    "winner of another type": ('{"left": "a", "right": "b", "winner": 1}', "line 1: winner is 1"),
    "column": (
        "i,j,result\n0,1,1\n",
        "line 1: columns are i, j, result: expected one of i, j, score or left, right, winner or",
    ),
    "two meanings": (
        "i,j,score,left,right,winner\na,b,1,a,b,right\n",
        "line 1: columns are i, j, score, left, right, winner: expected one of",
    ),
    "no header": ("ann,bob,left\n", "line 1: columns are ann, bob, left"),
    "spread": ('i,j\n"a\nb",1\n', "line 1: columns are i, j:"),
    "half a line": ('{"i": 0, "j": 1, "score": 1}\n{"i": 0', "line 2"),
    "json list": ("[[0, 1, 1]]", "row 1: [0, 1, 1]: expected an object"),
    "arena": (
        "model_a,model_b,winner\na,b,tie\na,b,draw\n",
        "line 3: winner is 'draw': expected model_a or model_b or tie or tie (bothbad)",
    ),
    "missing field": ('{"i": 0, "j": 1, "score": 1}\n{"i": 0, "score": 1}', "line 2"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_malformed_files_are_refused_by_line(name, tmp_path):
    text, words = BAD_FILES[name]
    with pytest.raises(BadInput) as refusal:
        read_matches(write(tmp_path, text))
    assert (
        "m.csv" in str(refusal.value)
        and words in str(refusal.value)
        and "\n" not in str(refusal.value)
    )


# ---- command ----

QUICK = [
    "--query",
    "347+586",
    "--max_completion_length",
    "60",
    "--device",
    "cpu",
    "--dtype",
    "float32",
]
WORDS = ["fig", "ice", "date", "apple", "bean"]


def command(*arguments, script="elo.py", **environment):
    words = [sys.executable, ROOT / script, *map(str, arguments)]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment,
    )


def test_rating_a_file_needs_no_torch(tmp_path):
    path = write(
        tmp_path,
        "left,right,winner\npizza,burger,left\nburger,sushi,right\npizza,sushi,tie\nsushi,burger,left\n",
    )
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "torch.py").write_text("raise SystemExit('torch was imported')")
    done = command("--matches", path, "--json", PYTHONPATH=str(tmp_path / "no"))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (
        result["num_matches"] == 4 and result["best"] == result["ranking"][0]["player"] == "sushi"
    )
    matches, names = read_matches(path)
    with pytest.warns(UserWarning):
        strengths = bradley_terry(matches, 3)
    rows = {row["player"]: row for row in result["ranking"]}
    assert [rows[name]["elo"] for name in names] == pytest.approx(elo(matches, 3))
    assert [rows[name]["strength"] for name in names] == pytest.approx(strengths)
    assert rows["burger"]["win_rate"] == 0 and rows["burger"]["matches"] == 3
    table = command("--matches", path)
    assert (
        table.stdout.startswith("rating: Bradley-Terry on the scale of Elo")
        and table.stdout.count("\n") == 6
    )
    assert "no circles to look for" in table.stdout and "draw against strength 0" in table.stderr
    order = [line.split()[-1] for line in table.stdout.splitlines()[2:5]]
    assert (
        order
        == [row["player"] for row in result["ranking"]]
        == sorted(names, key=lambda name: -rows[name]["strength"])
    )


STANDALONE = """
import sys
from pathlib import Path
import elo
import tournament
own = lambda: sorted(
    name for name, module in sys.modules.items()
    if getattr(module, "__file__", None)
    and Path(module.__file__).parent == Path(elo.__file__).parent
)
imported = own()
elo.main(["--matches", sys.argv[1]])
assert own() == imported, own()
print(*imported, "torch" in sys.modules)
"""


def test_ratings_and_knockouts_stand_alone(tmp_path):
    """Seven files without the others are enough to import both modules and to rate a file."""
    files = ["cli", "elo", "match_files", "schedules", "strengths", "tables", "tournament"]
    for name in files:
        shutil.copy(ROOT / f"{name}.py", tmp_path)
    matches = write(tmp_path, "i,j,score\n0,1,1\n1,0,1\n")
    done = subprocess.run(
        [sys.executable, "-c", STANDALONE, matches], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{' '.join(files)} False"


def test_an_interrupted_ranking_resumes_and_other_schedules_use_its_matches(tmp_path):
    candidates, cache = write(tmp_path, "\n".join(WORDS), "c.txt"), tmp_path / "cache.jsonl"
    once = command(*QUICK, "--candidates", candidates, "--json")
    assert once.returncode == 0, once.stderr
    result = json.loads(once.stdout)
    assert result["num_matches"] == 10 and sorted(
        row["text"] for row in result["ranking"]
    ) == sorted(WORDS)
    strengths = [round(row["strength"], 9) for row in result["ranking"]]
    assert strengths == sorted(
        strengths, reverse=True
    )  # as with --matches; the best answer is the one with the highest Elo
    assert result["best"] == max(result["ranking"], key=lambda row: row["elo"])["player"]

    whole = command(*QUICK, "--candidates", candidates, "--json", "--cache", cache)
    lines = cache.read_bytes().splitlines(keepends=True)
    assert json.loads(whole.stdout) == result and len(lines) == 10
    cache.write_bytes(b"".join(lines[:4]) + lines[4][:20])  # killed while writing the fifth
    again = command(*QUICK, "--candidates", candidates, "--json", "--cache", cache)
    assert json.loads(again.stdout) == result and cache.read_bytes() == b"".join(lines)

    # Every match is known now: another order of the candidates and the other command need no
    # judge, hence no torch.
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "torch.py").write_text("raise SystemExit('torch was imported')")
    shuffled, blocked = (
        write(tmp_path, "\n".join(WORDS[::-1]), "d.txt"),
        {"PYTHONPATH": str(tmp_path / "no")},
    )
    other = command(
        *QUICK,
        "--candidates",
        shuffled,
        "--schedule",
        "random",
        "--games",
        7,
        "--json",
        "--cache",
        cache,
        **blocked,
    )
    knockout = command(
        *QUICK,
        "--candidates",
        shuffled,
        "--json",
        "--cache",
        cache,
        script="tournament.py",
        **blocked,
    )
    assert other.returncode == knockout.returncode == 0, other.stderr + knockout.stderr
    assert (
        json.loads(other.stdout)["num_matches"] == 7
        and json.loads(knockout.stdout)["num_matches"] == 4
    )
    assert cache.read_bytes() == b"".join(lines)
    assert command(
        *QUICK, "--candidates", candidates, "--num_votes", 2, "--cache", cache, **blocked
    ).stderr.endswith("torch was imported\n")


def test_a_pair_that_meets_again_is_judged_anew(tmp_path):
    candidates, cache = write(tmp_path, "fig\nice\n", "c.txt"), tmp_path / "cache.jsonl"
    done = command(
        *QUICK[:2],
        *QUICK[4:],
        "--temperature",
        2,
        "--max_completion_length",
        20,
        "--candidates",
        candidates,
        "--schedule",
        "leaders",
        "--games",
        24,
        "--json",
        "--cache",
        cache,
    )
    rows = [json.loads(line) for line in cache.read_text().splitlines()]
    assert (
        done.returncode == 0
        and [row["repetition"] for row in rows] == list(range(24))
        and len({row["score"] for row in rows}) > 1
    )


BAD_COMMANDS = [
    ([], "--query and --candidates are needed"),
    (["--query", "q"], "needed"),
    (["--candidates", "C"], "needed"),
    (["--matches", "M", "--query", "q"], "--query: does not go with --matches"),
    (["--num-votes=2", "--matches=M"], "--num-votes: does not go with --matches"),
    (["--matches"], "--matches"),
    (["--matches", ""], "--matches is empty"),
    (["--matches", "M", "--out", "x.jsonl"], "--out: x.jsonl exists or does not end in .csv"),
    (["--matches", "M", "--out", "none/x.csv"], "--out: none/x.csv: there is no such folder"),
    (["--matches", "./none.csv"], "none.csv"),
    (["--matches", "BAD"], "bad.csv line 3: score is '2'"),
    (["--matches", "M", "--candidates", "C"], "--candidates: does not go with --matches"),
    (["--query", " ", "--candidates", "C"], "--query is empty"),
    (["--query", "q", "--candidates", "EMPTY"], "empty.txt is empty"),
    (["--query", "q", "--candidates", "C", "--schedule", "best"], "best"),
    (["--query", "q", "--candidates", "C", "--games", "5"], "--games"),
    (["--query", "q", "--candidates", "C", "--schedule", "random", "--games", "0"], "--games"),
    (["--query", "q", "--candidates", "C", "--num_votes", "0"], "--num_votes"),
    (["--query", "q", "--candidates", "BADC"], "badc.jsonl line 2"),
    (["--query", "q", "--candidates", "C", "--cache", "C"], "c.txt line 1"),
    (["--query", "q", "--candidates", "C", "--model", "./none"], "none"),
    (["--query", "q", "--candidates", "C", "--style", "rmm"], "rmm"),
]


def test_a_folder_without_permission_is_refused_before_judging(monkeypatch, tmp_path):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    paths = str(write(tmp_path, "a\nb", "c.txt")), str(tmp_path / "out.csv")
    with pytest.raises(BadInput, match="--out: .*out.csv cannot be written there"):
        elo_file.main(["--query", "q", "--candidates", paths[0], "--out", paths[1]])


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    files = {
        "C": ("c.txt", "a\nb"),
        "M": ("m.csv", "i,j,score\n0,1,1\n"),
        "BAD": ("bad.csv", "i,j,score\n0,1,1\n0,1,2\n"),
        "EMPTY": ("empty.txt", " \n"),
        "BADC": ("badc.jsonl", '"a"\n{"score": "b"}\n'),
    }
    paths = {key: write(tmp_path, text, name) for key, (name, text) in files.items()}
    for arguments, words in BAD_COMMANDS:
        with pytest.raises(BadInput) as refusal:
            elo_file.main([paths.get(word, word) for word in arguments])
        assert words in str(refusal.value) and "\n" not in str(refusal.value), (
            arguments,
            str(refusal.value),
        )
    assert capsys.readouterr().out == "" and Path(paths["C"]).read_text() == "a\nb"
    done = command("--matches", paths["BAD"])
    assert (
        done.returncode == 2
        and done.stdout == ""
        and done.stderr.count("\n") == 1
        and "bad.csv line 3: score is '2'" in done.stderr
    )
