"""verify.py: equal answers, undecidable ones, and a verifier that hangs, dies or is missing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli import ROOT
from extras import verify
from extras.equality import quick_check, stated_answer
from extras.verify import check_answers

DATA = ROOT.parent / "shared" / "data"


@pytest.mark.parametrize(
    "text, stated",
    [
        (r"so \boxed{7}.", "7"),
        (r"\boxed{1} or rather \boxed{ 2 }", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} ok", r"\frac{1}{\sqrt{2}}"),
        ("no mark 7", None),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{5", ""),
        (r"\boxed{}", None),
        ("6*7\n#### 42", "42"),
        ("#### 1\n#### 2\nbye", "2"),
        ("#### Step 3\n#### 2\n#### 4. Check", "4. Check"),
        ("####", None),
        (r"#### 3 \boxed{4}", "4"),
        ("", None),
    ],
)
def test_what_a_solution_states(text, stated):
    assert stated_answer(text) == stated


def table():
    """[(text, reference, equal), ...] of answers.jsonl."""
    cases = []
    for line in Path(__file__).with_name("answers.jsonl").read_text().split("\n")[:-1]:
        row = json.loads(line)
        for equal, texts in ((True, row["equal"]), (False, row["different"])):
            for text in texts:
                whole = f"\\boxed{{{text}}}" if row["in"] == "box" else text
                cases.append((whole, row["reference"], equal))
    return cases


def test_the_table():
    """No wrong answer is paid for, and each way to write a right one is known."""
    cases = table()
    assert len(cases) > 750
    answers, references, expected = zip(*cases)
    found = check_answers(answers, references, timeout=60)
    assert [(*case, right) for case, right in zip(cases, found) if right is not case[2]] == []
    # a reference is equal to itself, also where it is a formula
    own = {row for row in references if not row.startswith('["')}
    boxes = [f"\\boxed{{{reference}}}" for reference in own]
    assert check_answers(boxes, own) == [True] * len(own)


def test_what_cannot_be_decided():
    """None: no reference, or one that the parser cannot read."""
    assert check_answers(["7", r"\boxed{7x}"], ["", r"\frac{1}{"]) == [None, None]
    assert check_answers([r"\boxed{\frac{1}{}"], ["7x"]) == [False]
    assert quick_check("2x+1", "1+2x") == "ask" and quick_check("ab", "ba") is False
    with pytest.raises(ValueError):
        check_answers(["1"], [])


def test_a_hang_costs_its_own_verdict_alone_and_leaves_no_process():
    """9^(9^(9^9)) holds Python inside one multiplication, where no signal handler runs."""
    answers = [r"\boxed{2+2}", r"\boxed{9^{9^{9^{9}}} - 1}", r"\boxed{\frac{8}{2}}", r"\boxed{3+2}"]
    verify.end_workers()
    check_answers(answers[:1], ["4"], timeout=60)
    before = {worker.pid for worker in verify.workers}
    started = time.monotonic()
    assert check_answers(answers, ["4"] * 4, timeout=3, num_workers=1) == [True, None, True, False]
    assert time.monotonic() - started < 60
    (worker,) = verify.workers[-1:]  # a new one, idle
    assert worker.pid not in before and worker.poll() is None
    for pid in before - {worker.pid for worker in verify.workers}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_worker_that_was_killed_is_replaced():
    check_answers([r"\boxed{1+1}"], ["2"], timeout=60)
    for worker in verify.workers:
        worker.kill()
        worker.wait()
    assert check_answers(
        [r"\boxed{1+1}", r"\boxed{1+2}"], ["2", "3"], timeout=60, num_workers=1
    ) == [None, True]
    assert check_answers([r"\boxed{1+1}"] * 9, ["2"] * 9, timeout=60, num_workers=3) == [True] * 9


def run_elsewhere(tmp_path, module):
    """check_answers in a process where the parser of math-verify is this text."""
    (tmp_path / "latex2sympy2_extended.py").write_text(module)
    code = (
        "import cli; from extras.verify import check_answers; "
        "cli.run(lambda: print(check_answers([r'\\boxed{1+1}'], ['2'])))"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )


def test_a_verifier_that_is_missing_or_broken_says_so(tmp_path):
    """A broken installation would turn every answer into None, or into a wrong one."""
    missing = run_elsewhere(tmp_path, "raise ImportError(\"No module named 'sympy'\")")
    assert missing.returncode == 2 and "pip install math-verify" in missing.stderr
    assert "Traceback" not in missing.stderr
    broken = run_elsewhere(tmp_path, "def latex2sympy(*a, **k): raise ValueError")
    assert broken.returncode == 1 and "finds 4/2 unequal to 2" in broken.stderr
    noisy = run_elsewhere(
        tmp_path,
        "import sys\nprint('hello')\nsys.path.remove(__file__.rpartition('/')[0])\n"
        "del sys.modules[__name__]\nimport latex2sympy2_extended",
    )
    # what a library prints is no verdict
    assert noisy.returncode == 0 and noisy.stdout == "[True]\n", noisy.stderr


def test_published_labels():
    """OpenAI's labels of GSM8K solutions, and the answers of MATH-500 inside their solutions."""
    if not DATA.is_dir():
        pytest.skip("no data folder beside the project")
    rows = [
        json.loads(line)
        for line in (DATA / "gsm8k" / "model_solutions.jsonl").read_text().split("\n")[:150]
    ]
    cases = [
        (
            value["solution"],
            row["ground_truth"].rpartition("A:")[2].replace(",", ""),
            value["is_correct"],
        )
        for row in rows
        for value in row.values()
        if isinstance(value, dict)
    ]
    solutions, references, labels = zip(*cases)
    assert len(labels) == 600 and check_answers(solutions, references, timeout=60) == list(labels)
    rows = [
        json.loads(line)
        for line in (DATA / "math500" / "test.jsonl").read_text().split("\n")
        if line
    ]
    assert (
        check_answers([row["solution"] for row in rows], [row["answer"] for row in rows])
        == [True] * 500
    )
