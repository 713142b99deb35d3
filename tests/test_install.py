"""`pip install -e .`: one name in site-packages, every command, notebooks without PYTHONPATH."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOTEBOOK = """
import rrm
from judge import Judge
from elo import elo
import data
print(data.__file__, Judge().judge([("347+586", "933", "923")])[0].p_first)
"""


def call(arguments, folder, python=sys.executable, check=True):
    """Runs `rrm` as its mapping in pyproject.toml would have it, outside of the repository."""
    search = str(ROOT / PROJECT["tool"]["setuptools"]["package-dir"]["rrm"]).removesuffix("rrm")
    environment = os.environ | {"PYTHONPATH": search, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 or not check, done.stderr
    return done


def test_one_name_is_installed():
    assert PROJECT["tool"]["setuptools"]["packages"] == ["rrm"]
    assert "py-modules" not in PROJECT["tool"]["setuptools"]
    assert PROJECT["project"]["scripts"] == {"rrm": "rrm:main"}


def test_every_command_is_listed(tmp_path):
    listed = call(["-m", "rrm"], tmp_path).stdout.splitlines()[2:]
    names = [line.split()[0] for line in listed]
    assert {"judge", "tournament", "elo", "evaluate", "train_grpo", "train_sft"} <= set(names)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("extras/*.py")]:
        is_command = re.search(
            r'^if __name__ == "__main__":.*\n    .*cli\.run\(', path.read_text(), re.M
        )
        if path != ROOT / "extras" / "evaluate.py":  # evaluate.py starts it
            assert bool(is_command) == (path.stem in names), path
        if path.parent != ROOT and path.stem != "__init__":  # as extras/__init__.py says
            docstring = path.read_text().split('"""')[1]
            can_run = '\nif __name__ == "__main__":' in path.read_text()
            assert can_run == (f"-m extras.{path.stem}" in docstring), path
    assert all(len(line.split()) > 3 for line in listed)


def test_a_command_runs_as_its_file_does(tmp_path):
    (tmp_path / "data.py").write_text("1 / 0")  # a file of the user's with a name of ours
    (tmp_path / "matches.csv").write_text("i,j,score\n0,1,1\n1,2,1\n2,0,0.5\n")
    flags = ["--matches", "matches.csv", "--json"]
    own = call(["-m", "rrm", "elo", *flags], tmp_path)
    assert own.stdout == call([ROOT / "elo.py", *flags], tmp_path).stdout
    wrong = call(["-m", "rrm", "serve-reward", "--prot", "1"], tmp_path, check=False)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    wrong = call(["-m", "rrm", "juge"], tmp_path, check=False)
    assert (
        wrong.returncode == 2 and wrong.stderr == "rrm: no command 'juge': rrm --help lists them\n"
    )


def test_the_list_may_be_cut_off(tmp_path):
    search = str(ROOT / "extras")
    environment = os.environ | {"PYTHONPATH": search}
    command = f"{sys.executable} -u -m rrm | true"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stderr == ""


def test_a_module_of_the_same_name_is_named(tmp_path):
    (tmp_path / "data.py").write_text("")
    wrong = call(["-c", "import data, rrm"], tmp_path, check=False)
    assert wrong.stderr.endswith("import rrm before it, or rename that file\n")
    assert str(tmp_path / "data.py") in wrong.stderr


@pytest.mark.slow
def test_installed_in_an_environment_of_its_own(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (site / "shared.pth").write_text("\n".join(shared))  # torch, and all else, from here
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "-e", ROOT], check=True)
    found = {path.name for path in site.iterdir()}
    assert not found & {"data.py", "cli.py", "extras", "kernels", "judge.py"}
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    done = subprocess.run(
        [python, "notebook.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{ROOT / 'data.py'} 1.0\n"
    rrm = tmp_path / "venv" / "bin" / "rrm"
    done = subprocess.run([rrm, "plot"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "give the folder of one run" in done.stderr


COMMANDS = [*ROOT.glob("*.py"), *ROOT.glob("extras/*.py")]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_help_fits_a_screen(path):
    """--help of a command is one screen, in groups, and shows no default that is nothing."""
    if "cli.run(" not in path.read_text():
        return
    name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    done = subprocess.run(
        [sys.executable, "-m", name, "--help"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": ""},  # into a pipe
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "default: None" not in done.stdout and path.stem in done.stdout
    assert len(done.stdout.splitlines()) <= 53
