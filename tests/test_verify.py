"""verify.py: equal answers, undecidable ones, and a verifier that hangs, dies or is missing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import verify
from verify import check_answers, quick_check, stated_answer

ROOT = Path(verify.__file__).parent
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
        (r"\boxed{}", ""),
        ("6*7\n#### 42", "42"),
        ("#### 1\n#### 2\nbye", "2"),
        ("####", ""),
        (r"#### 3 \boxed{4}", "4"),
        ("", None),
    ],
)
def test_what_a_solution_states(text, stated):
    assert stated_answer(text) == stated


SAME = [
    ("18", "18"),
    ("#### 1,234", "1234"),
    (r"\boxed{\frac{1}{2}}", "0.5"),
    (r"\boxed{x=3}", "3"),
    (r"\boxed{2, 1}", "1,2"),
    ("$18", "18"),
    (r"\boxed{50\%}", "0.5"),
    (r"\boxed{\sqrt{12}}", r"2\sqrt{3}"),
    (r"\boxed{18\text{ apples}}", "18"),
    ("The answer is 18 apples.", "18"),
    ("it is 17, no: 18", "18"),
    (r"\boxed{3.5}", "3 1/2"),
    (r"\boxed{2500}", "2.5e3"),
    (r"\boxed{x^2+1}", "1+x^2"),
    (r"\boxed{(B)}", "B"),
    (r"\boxed{\text{Evelyn}}", "evelyn"),
    ("#### 42", '["41", "42"]'),
    (r"\boxed{[1,2)}", r"\left[1, 2\right)"),
    (r"\boxed{0.3333333333}", "1/3"),
    (r"\boxed{7}", r"long solution \boxed{7}"),
    (r"I thought of \boxed{3}. No: \boxed{4}", "4"),
    ("yes", r"\text{Yes}"),
    ("-0", "0"),
]
DIFFERENT = [
    ("17", "18"),
    (r"\boxed{3}. No: \boxed{4}", "3"),
    (r"\boxed{18", "18"),
    ("", "18"),
    ("no number at all", "18"),
    (r"\boxed{-4}", "4"),
    (r"\boxed{5}", "5 m/s"),
    ("(C)", "B"),
    ("no", "Yes"),
    ("True", "false"),
    ("#### 40", '["41", "42"]'),
    (r"\boxed{(1,2)}", "[1,2]"),
    (r"\boxed{\pi}", "3.14"),
    (r"\boxed{}", "18"),
    (r"\boxed{3 1/2}", "2"),
    ("1e3", "100"),
    (r"\boxed{4\sqrt{3}}", r"2\sqrt{3}"),
]
UNKNOWN = [
    (r"\boxed{act}", "cat"),
    (r"\boxed{respiration}", "photosynthesis"),
    (r"\boxed{7}", "no solution"),
    (r"\boxed{7}", ""),
]


def test_same_different_and_undecided_in_one_call():
    """act and cat: math-verify multiplies letters, and calls these two equal."""
    cases = (
        [(*case, True) for case in SAME]
        + [(*case, False) for case in DIFFERENT]
        + [(*case, None) for case in UNKNOWN]
    )
    answers, references, expected = zip(*cases)
    found = check_answers(answers, references, timeout=60)
    assert [case for case, verdict in zip(cases, found) if verdict is not case[2]] == []
    assert len(expected) == 44 and quick_check("1,2", "2,1") == quick_check("ab", "b") == "ask"
    with pytest.raises(ValueError):
        check_answers(["1"], [])


def test_a_hang_costs_its_own_verdict_alone_and_leaves_no_process():
    """9^(9^(9^9)) holds Python inside one multiplication, where no signal handler runs."""
    answers = [r"\boxed{2+2}", r"\boxed{9^{9^{9^{9}}} - 1}", r"\boxed{\frac{8}{2}}", r"\boxed{3+2}"]
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
    """check_answers in a process where math_verify is this text."""
    (tmp_path / "math_verify.py").write_text(module)
    code = (
        "import cli, verify; cli.run(lambda: print(verify.check_answers([r'\\boxed{1+1}'], ['2'])))"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )


def test_a_verifier_that_is_missing_or_broken_says_so(tmp_path):
    """A broken installation would turn every answer into None, or into a wrong one.

    math-verify's own defaults do the latter.
    """
    missing = run_elsewhere(tmp_path, "raise ImportError(\"No module named 'math_verify'\")")
    assert (
        missing.returncode == 2
        and "pip install math-verify" in missing.stderr
        and "Traceback" not in missing.stderr
    )
    broken = run_elsewhere(
        tmp_path, "def parse(*a, **k): raise ValueError\ndef verify(*a, **k): return False"
    )
    assert broken.returncode == 1 and "finds 4/2 unequal to 2" in broken.stderr
    words = run_elsewhere(
        tmp_path, "print('hello')\ndef parse(*a, **k): return [2]\ndef verify(*a, **k): return True"
    )
    assert (
        words.returncode == 0 and words.stdout == "[True]\n"
    )  # what a library prints is no verdict


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
