"""What a user can get wrong: exit code 2 and one line that names the place and the fix.

There is no traceback, nothing is written, and torch is not imported.
"""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

import pytest

import cli
import failures
from extras.ask import Sample
from extras.make_data import Clean
from judge import JudgeCommandSettings

ROOT = Path(__file__).parents[1]
PAIR = {"query": "347+586", "a": "933", "b": "923", "label": 0}
LINE = json.dumps(PAIR) + "\n"
JUDGE = ["judge.py", "--query", "q", "--a", "x", "--b", "y"]
TRAIN = ["train_grpo.py", "--output_dir", "{run}"]
CONFIG = json.loads((ROOT / "tiny" / "base" / "config.json").read_text())


def model_folder(**changes):
    """Files of a model folder with a changed config.json; no weights, since nobody reads them."""
    return {"m/config.json": json.dumps(CONFIG | changes), "m/model.safetensors": ""}


INDEX = {
    "m/config.json": json.dumps(CONFIG),
    "m/model.safetensors.index.json": json.dumps(
        {"weight_map": {"x": "model-00001-of-00002.safetensors"}}
    ),
}
# name: (files to make, command, words that the line must hold)
CASES = {
    "no such flag": ({}, [*JUDGE, "--votes", "3"], ["--votes", "--num_votes"]),
    "abbreviated flag": ({}, [*JUDGE, "--temp", "1"], ["--temp"]),
    "flag twice": ({}, [*JUDGE, "--a", "z"], ["--a", "2 times"]),
    "stray word": ({}, [*JUDGE, "hello"], ["hello"]),
    "not a number": ({}, [*JUDGE, "--num_votes", "many"], ["--num_votes", "many"]),
    "no votes": ({}, [*JUDGE, "--num_votes", "0"], ["--num_votes", "1"]),
    "negative temperature": ({}, [*JUDGE, "--temperature", "-1"], ["--temperature"]),
    "identical answers": (
        {},
        ["judge.py", "--query", "q", "--a", "x", "--b", "x"],
        ["--a", "--b", "identical"],
    ),
    "answer missing": ({}, ["judge.py", "--query", "q", "--a", "x"], ["--b"]),
    "no file behind @": (
        {},
        ["judge.py", "--query", "@{d}/none.txt", "--a", "x", "--b", "y"],
        ["--query", "none.txt"],
    ),
    "empty file behind @": (
        {"q.txt": " \n"},
        ["judge.py", "--query", "@{d}/q.txt", "--a", "x", "--b", "y"],
        ["--query", "q.txt", "empty"],
    ),
    "binary file behind @": (
        {"q.txt": b"\xff\xfe\x00"},
        ["judge.py", "--query", "@{d}/q.txt", "--a", "x", "--b", "y"],
        ["q.txt", "UTF-8"],
    ),
    "standard input twice": (
        {},
        ["judge.py", "--query", "q", "--a", "-", "--b", "-"],
        ["--a", "--b", "standard input"],
    ),
    "unknown style": ({}, [*JUDGE, "--style", "nonsense"], ["--style", "nonsense", "rrm"]),
    "style without placeholder": (
        {"s.txt": "verdict: boxed\n=== user\n{query} {answer_1}\n"},
        [*JUDGE, "--style", "{d}/s.txt"],
        ["s.txt", "answer_2"],
    ),
    "no such model": ({}, [*JUDGE, "--model", "./none"], ["--model", "none"]),
    "unknown architecture": (
        model_folder(model_type="gpt2", architectures=["GPT2LMHeadModel"]),
        [*JUDGE, "--model", "{d}/m"],
        ["gpt2", "config.json"],
    ),
    "unknown scaling": (
        model_folder(rope_parameters={"rope_type": "yarn"}),
        [*JUDGE, "--model", "{d}/m"],
        ["yarn", "config.json"],
    ),
    "missing shard": (INDEX, [*JUDGE, "--model", "{d}/m"], ["model-00001-of-00002.safetensors"]),
    "config is no JSON": (
        {"m/config.json": "{'a': 1}"},
        [*JUDGE, "--model", "{d}/m"],
        ["config.json", "JSON"],
    ),
    "pickled weights": (
        {"m/config.json": json.dumps(CONFIG), "m/pytorch_model.bin": "x"},
        [*JUDGE, "--model", "{d}/m"],
        ["safetensors"],
    ),
    "no file of pairs": (
        {},
        ["judge.py", "--pairs", "{d}/none.jsonl", "--out", "{d}/o.jsonl"],
        ["none.jsonl"],
    ),
    "pairs without out": ({"p.jsonl": LINE}, ["judge.py", "--pairs", "{d}/p.jsonl"], ["--out"]),
    "empty pairs": (
        {"p.jsonl": ""},
        ["judge.py", "--pairs", "{d}/p.jsonl", "--out", "{d}/o.jsonl"],
        ["p.jsonl"],
    ),
    "half a line": (
        {"p.jsonl": LINE + LINE[:20]},
        ["judge.py", "--pairs", "{d}/p.jsonl", "--out", "{d}/o.jsonl"],
        ["p.jsonl", "line 2"],
    ),
    "missing field": (
        {"p.jsonl": LINE + '{"query": "q", "a": "x"}\n'},
        ["judge.py", "--pairs", "{d}/p.jsonl", "--out", "{d}/o.jsonl"],
        ["line 2", "b"],
    ),
    "wrong type": (
        {"p.jsonl": '{"query": "q", "a": 3, "b": "x"}\n'},
        ["judge.py", "--pairs", "{d}/p.jsonl", "--out", "{d}/o.jsonl"],
        ["line 1", "a"],
    ),
    "wrong label": (
        {"p.jsonl": json.dumps(PAIR | {"label": 7}) + "\n"},
        [*TRAIN, "--train_data", "{d}/p.jsonl"],
        ["line 1", "label"],
    ),
    "no labels": (
        {"p.jsonl": json.dumps(PAIR | {"label": None}) + "\n"},
        [*TRAIN, "--train_data", "{d}/p.jsonl"],
        ["p.jsonl", "label"],
    ),
    "no train data": ({}, [*TRAIN, "--model", str(ROOT / "tiny" / "base")], ["--train_data"]),
    "output_dir not empty": ({"run/x": "1"}, TRAIN, ["--output_dir", "not empty", "--resume"]),
    "output_dir is a file": ({"run": "1"}, TRAIN, ["--output_dir", "file"]),
    "output_dir empty": ({}, ["train_grpo.py", "--output_dir", ""], ["--output_dir", "empty"]),
    "an empty value": ({}, [*JUDGE, "--base_url", ""], ["--base_url is empty", "unset"]),
    "an empty model": ({}, ["judge.py", "--pairs", "x", "--model", ""], ["--model is empty"]),
    "a value of blanks": ({}, [*TRAIN, "--judge_model", " "], ["--judge_model is empty"]),
    "empty predictions": ({}, ["evaluate.py", "--predictions", ""], ["--predictions is empty"]),
    "output_dir cannot be made": (
        {"file": "1"},
        ["train_grpo.py", "--output_dir", "{d}/file/run"],
        ["--output_dir", "file"],
    ),
    "resume in a stranger's folder": (
        {"run/thesis.tex": "1"},
        [*TRAIN, "--resume"],
        ["--output_dir", "other files"],
    ),
    "run for a model": (
        {"m/config.json": '{"settings": {}}'},
        [*JUDGE, "--model", "{d}/m"],
        ["--model", "checkpoint"],
    ),
    "text that begins with a dash": (
        {},
        ["judge.py", "--query", "q", "--a", "-x", "--b", "y"],
        ["--a", "=-"],
    ),
    "temperature next to nothing": (
        {},
        [*JUDGE, "--temperature", "1e-40"],
        ["--temperature", "0.01"],
    ),
    "group of one": ({}, [*TRAIN, "--num_generations", "1"], ["--num_generations", "2"]),
    "unknown loss": ({}, [*TRAIN, "--loss_type", "ppo"], ["--loss_type", "dr_grpo"]),
    "learning rate zero": ({}, [*TRAIN, "--learning_rate", "0"], ["--learning_rate"]),
    "unknown reward": ({}, [*TRAIN, "--reward", "best"], ["--reward", "best"]),
    "no such reward module": (
        {},
        [*TRAIN, "--reward", "no_such_module:f"],
        ["--reward", "no_such_module"],
    ),
    "reporter not installed": (
        {},
        [*TRAIN, "--report_to", "wandb"],
        ["--report_to", "wandb", "pip install"],
    ),
    "no labels to evaluate with": (
        {"p.jsonl": json.dumps(PAIR | {"label": None}) + "\n"},
        [*TRAIN, "--eval_data", "{d}/p.jsonl"],
        ["--eval_data", "label"],
    ),
    "resume without folder": ({}, ["train_grpo.py", "--resume"], ["--resume", "--output_dir"]),
}


def run_case(name, folder):
    files, command, words = CASES[name]
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(folder.rglob("*"))
    script, *arguments = [
        word.format(d=folder, run=folder / "run") if "{" in word else word for word in command
    ]
    # a torch that raises when it is imported shows that it is not
    (folder.parent / f"{folder.name}-path").mkdir()
    (folder.parent / f"{folder.name}-path" / "torch.py").write_text(
        "raise SystemExit('torch was imported')"
    )
    environment = os.environ | {
        "PYTHONPATH": str(folder.parent / f"{folder.name}-path"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        capture_output=True,
        text=True,
        input="text\n",
        env=environment,
        cwd=folder,
    )
    return done, before == sorted(folder.rglob("*"))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """All cases, two at a time: each costs about a second of imports."""
    folders = {name: tmp_path_factory.mktemp("case") for name in CASES}
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(CASES, pool.map(lambda name: run_case(name, folders[name]), CASES)))


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gets_one_clear_line(name, outcomes):
    done, untouched = outcomes[name]
    lines = [
        line for line in done.stderr.splitlines() if not line.startswith("data: ")
    ]  # what a loader counted is no error
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and done.stdout == "", done.stderr
    assert all(word in lines[0] for word in CASES[name][2]), lines[0]
    assert "Traceback" not in done.stderr and "usage:" not in done.stderr
    assert untouched, "something was written"


@pytest.mark.parametrize("script", ["judge.py", "train_grpo.py"])
def test_help_is_the_manual(script):
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == ""
    assert f"    python {script}" in done.stdout  # an example from the docstring
    assert "(default: 0.6)" in done.stdout or "(default: 1.0)" in done.stdout
    assert "(default: None)" not in done.stdout
    flags = re.findall(r"^  (--\w\S*)", done.stdout, re.MULTILINE)
    assert "--model" in flags and len(flags) == len(set(flags)) and "--num-votes" not in done.stdout
    headings = re.findall(r"^(\w.*):$", done.stdout, re.MULTILINE)
    assert len(headings) > 3, headings


@dataclass
class Some:
    on: bool = cli.setting(False, "a switch")
    kind: Literal["x", "y"] = cli.setting("x", "a choice")
    size: Optional[int] = cli.setting(None, "50% of a number", group="numbers")
    text: Optional[str] = cli.setting(None, "a text")


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], Some()),
        (["--on"], Some(on=True)),
        (["--on", "false", "--kind=y"], Some(kind="y")),
        (["--on=True", "--size", "-3"], Some(on=True, size=-3)),
        (["--text", "__on", "--size=3"], Some(text="__on", size=3)),
        (["--text=--on"], Some(text="--on")),
    ],
)
def test_every_type_of_setting(arguments, expected):
    assert cli.parse_settings(Some, arguments) == expected


def test_hints_name_a_flag_that_could_be_meant():
    flags = "--num_votes --base_url --max_steps --max_length --stop --beta --epsilon".split()
    for argument, hint in {
        "--votes": "did you mean --num_votes?",
        "--base-urls=x": "did you mean --base_url?",
        "--steps": "did you mean --max_steps?",
        "--max": "--help lists every flag",  # two flags could be meant
        "--max-stesp": "did you mean --max_steps?",
        "--Max_Steps=3": "did you mean --max_steps?",
        "--top_p": "--help lists every flag",  # not --stop
        "--beta1": "--help lists every flag",
        "--min_steps": "--help lists every flag",
        "--epsilon_low": "--help lists every flag",
        "--url": "--help lists every flag",
        "--batch_size": "--help lists every flag",
        "votes": "--help lists every flag",
    }.items():
        assert failures.suggestion(argument, flags) == hint, argument


def test_dashes_and_underscores_are_alike():
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "judge.py"),
            "--query=347+586",
            "--a=933",
            "--b=923",
            "--num-votes=2",
            "--max-completion-length=5",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(json.loads(done.stdout)["games"]) == 4


def test_an_empty_text_is_a_value_where_its_setting_says_so():
    assert cli.parse_settings(JudgeCommandSettings, ["--a", "", "--b="]).a == ""
    assert cli.parse_settings(Sample, ["--instruction", ""]).instruction == ""
    assert cli.parse_settings(Clean, ["--against", "", "--drop_sources", " "]).against == ""
    with pytest.raises(cli.BadInput, match="--data is empty"):
        cli.parse_settings(Clean, ["--data", ""])


def test_torchrun_ends_with_the_line(tmp_path):
    """Of all that torchrun prints about a failure, the last lines say what was wrong."""
    command = ["torchrun", "--nproc_per_node", "2", "train_grpo.py", "--top_p", "3"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # without it torchrun begins with a warning
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    line = "train_grpo.py: unknown argument '--top_p': --help lists every flag"
    assert done.returncode == 1 and done.stderr.startswith(line)
    assert line in done.stderr[-1500:] and done.stderr.count("Traceback") == 1  # torchrun's own


def test_what_one_process_alone_meets_is_in_torchruns_last_lines(tmp_path):
    script = tmp_path / "one.py"
    script.write_text(
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import cli\n"
        "def main():\n"
        "    if os.environ['RANK'] == '1':\n"
        "        raise cli.BadInput('x.json: is gone: bring it back')\n"
        "    time.sleep(30)\n"
        "cli.run(main)\n"
    )
    command = ["torchrun", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "one.py: x.json: is gone: bring it back" in done.stderr[-1500:]
