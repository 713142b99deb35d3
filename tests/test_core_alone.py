"""The core runs without extras/ and runs/, and never imports them."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = sorted([*ROOT.glob("*.py"), *ROOT.glob("kernels/*.py")])
MATCHES = "left,right,winner\nfig,plum,left\nplum,fig,tie\nfig,pear,left\n"
IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """A copy of what the core consists of: its files, the prompts, the embedded models."""
    folder = tmp_path_factory.mktemp("core")
    for name in ("kernels", "prompts", "tiny"):
        shutil.copytree(ROOT / name, folder / name)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    (folder / "matches.csv").write_text(MATCHES)
    return folder


def run(core, *command):
    environment = os.environ | {"PYTHONPATH": ""}
    arguments = [sys.executable, *command]
    done = subprocess.run(arguments, cwd=core, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_file_of_the_core_imports_extras():
    assert len(CORE) > 25
    for path in CORE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in ("extras", "runs"), f"{path} line {node.lineno}"


def test_every_file_imports(core):
    run(core, "-c", IMPORT_ALL, *sorted(path.stem for path in ROOT.glob("*.py")))


def test_a_judge_trains(core):
    flags = "--max_steps 1 --prompts_per_step 2 --eval_every 0 --output_dir out"
    assert run(core, "train_grpo.py", *flags.split()) == f"{Path('out/checkpoint-1')}\n"
    assert (core / "out" / "checkpoint-1" / "model.safetensors").exists()


def test_a_judge_judges(core):
    answers = run(core, "judge.py", "--query", "347+586", "--a", "933", "--b", "923")
    assert "A is better" in answers


def test_matches_are_rated(core):
    assert "fig" in run(core, "elo.py", "--matches", "matches.csv")


def test_a_flag_that_needs_an_extra_says_so(core):
    arguments = [sys.executable, "evaluate.py", "--benchmark", "pairs"]
    done = subprocess.run(arguments, cwd=core, capture_output=True, text=True)
    assert done.returncode == 2
    assert "extras/evaluate.py, which is missing" in done.stderr
