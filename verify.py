"""Final answers against references, by math-verify in child processes with a deadline.

    check_answers(["so it is \\boxed{\\frac{1}{2}}", "#### 7"], ["0.5", "8"])        # [True, False]

math-verify guards itself by a signal handler, which fails in threads and cannot stop every hang, and by default a failure inside it looks
like a wrong answer. Here it runs unguarded in worker processes that import no torch. Each sets itself an alarm with the system's own
effect, death, so that nothing it computes can outlive its deadline; the next task gets a new worker. What was not decided is None.
"""

import atexit
import json
import os
import re
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

from cli import BadInput

START_DEADLINE = 120.0  # seconds for a worker's imports, on a busy machine
MEMORY = 4 << 30  # bytes of address space for a worker: 9^(9^9) asks for more
TAIL = 2000  # characters at the end of an unmarked solution in which an answer is looked for
NUMBER = re.compile(
    r"[-+]?(\d+|\d{1,3}(,\d{3})+)?(\.\d*)?(?<=[\d.])([eE][-+]?\d{1,3})?(/[1-9]\d*)?"
)
CLOSED = [
    {"true", "false"},
    {"yes", "no"},
    set("abcdefghij"),
]  # an answer from the same set is right or wrong, whatever it spells
workers, lock = [], threading.Lock()  # idle ones; they stay for the next call


def check_answers(answers, references, timeout=10.0, num_workers=None):
    """[True | False | None, ...]: does each text end in an answer that equals its reference? None: the verifier failed or cannot tell.

    answers: whole solutions; the last \\boxed{...} counts, else what follows the last "####", else what math-verify finds near the end.
    references: LaTeX, numbers, words, or a JSON list of texts of which one must fit (Skywork-OR1). timeout: seconds for one comparison;
    num_workers: processes, None: up to 4, by the cores and the work. Raises BadInput where math-verify is not installed.
    """
    found, tasks = [[] for _ in answers], deque()
    for results, answer, reference in zip(found, answers, references, strict=True):
        stated = stated_answer(answer)
        for option in alternatives(reference):
            verdict = quick_check(answer.strip() if stated is None else stated, option)
            if verdict != "ask":
                results.append(verdict)
            else:
                tasks.append(
                    (
                        results,
                        answer[-TAIL:] if stated is None else f"\\boxed{{{plain(stated)}}}",
                        f"\\boxed{{{plain(option)}}}",
                    )
                )
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    num_workers = num_workers or max(1, min(4, cores, len(tasks) // 32))
    with lock, ThreadPoolExecutor(num_workers) as pool:  # these threads only wait
        for job in [
            pool.submit(work_off, tasks, timeout) for _ in range(num_workers if tasks else 0)
        ]:
            job.result()
    return [True if True in results else None if None in results else False for results in found]


# ---- what needs no algebra ----


def stated_answer(text):
    """The content of the last \\boxed{...} ("" if it is never closed), else the line behind the last "####", else None."""
    start = text.rfind("\\boxed{") + 7
    if start < 7:
        return text.rpartition("####")[2].strip().split("\n")[0] if "####" in text else None
    depth = 1
    for match in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):  # \{ and \} are no braces
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start : start + match.start()].strip()
    return ""


def alternatives(reference):
    """The texts of a JSON list such as '["18"]', else the reference alone: its box, if it is a whole solution."""
    if reference.lstrip().startswith('["'):
        try:
            return [str(option) for option in json.loads(reference)]
        except (ValueError, RecursionError):
            pass
    return [stated_answer(reference) or reference]


def plain(text):
    """Without dollar signs and blanks around it; 3 1/2 is written as LaTeX, since math-verify reads it as 31/2."""
    return re.sub(
        r"(?<![\d./])(\d+) (\d+)/(\d+)(?![\d./])",
        r"\1\\frac{\2}{\3}",
        text.replace("\\$", "").replace("$", "").strip().rstrip("."),
    )


def quick_check(answer, reference):
    """True, False or None where equal texts, numbers or words decide; "ask" where math-verify has to.

    Words are never handed on: math-verify multiplies their letters, so that "act" would equal "cat".
    """
    answer, reference = (
        "".join(re.sub(r"\\text\w*\{([^{}]*)\}", r"\1", plain(text)).casefold().split())
        for text in (answer, reference)
    )
    answer, reference = (re.sub(r"^\((\w)\)$", r"\1", text) for text in (answer, reference))  # (B)
    if answer == reference or not answer:
        return answer == reference and reference != ""
    if any({answer, reference} <= options for options in CLOSED):
        return False
    if (
        len(answer + reference) < 4000 and NUMBER.fullmatch(answer) and NUMBER.fullmatch(reference)
    ):  # Python refuses longer integers
        values = [
            Fraction(*map(Fraction, text.replace(",", "").split("/")))
            for text in (answer, reference)
        ]
        if values[0] == values[1] or values[0].denominator == values[1].denominator == 1:
            return values[0] == values[1]
    if re.search(r"[^\W\d_]{3}", re.sub(r"\\[a-z]+", "", reference)) and not re.search(
        r"\d", reference
    ):
        return None
    return "ask"


# ---- the workers ----


def work_off(tasks, timeout):
    """One worker takes tasks, (list for the result, answer, reference), until none is left."""
    worker = None
    while True:
        try:
            results, answer, reference = tasks.popleft()
        except IndexError:
            break
        worker = worker or take_worker()
        try:
            worker.stdin.write(json.dumps([timeout, answer, reference]) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        results.append(json.loads(line) if line else None)
        if not line:  # it met its deadline, or the limit of its memory
            end(worker)
            worker = None
    if worker:
        workers.append(worker)


def take_worker():
    if workers:
        return workers.pop()
    worker = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    line = worker.stdout.readline().strip()
    if line != "ready":
        end(worker)
        if "No module" in line:
            raise BadInput(
                f"checking answers needs the package math-verify ({line}): pip install math-verify"
            )
        raise RuntimeError(
            f"the process that runs math-verify ended before its first task: {line or 'look above for its last words'}"
        )
    return worker


def end(worker):
    worker.kill()
    worker.communicate()


@atexit.register
def end_workers():
    while workers:
        end(workers.pop())


def compare(answer, reference):
    """math-verify's word on two texts: True, False, or None where the reference holds nothing that it can read, or where it fails."""
    from math_verify import parse, verify

    try:
        gold, stated = (
            parse(text, parsing_timeout=None, raise_on_error=True) for text in (reference, answer)
        )
        return verify(gold, stated, timeout_seconds=None, raise_on_error=True) if gold else None
    except (Exception, RecursionError, MemoryError):
        return None


def serve():
    """A worker: reads [seconds, answer, reference] a line, writes true, false or null a line."""
    import logging
    import resource
    import signal

    signal.setitimer(signal.ITIMER_REAL, START_DEADLINE)
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)
    sys.setrecursionlimit(5000)
    try:
        import math_verify  # noqa: F401

        # an installation that is broken would make every result None, and a training run would not learn why
        problem = (
            ""
            if compare("\\boxed{\\frac{4}{2}}", "\\boxed{x = 2}") is True
            else "it finds 4/2 unequal to 2"
        )
    except ImportError as error:
        problem = str(error)
    print(problem or "ready", file=output, flush=True)
    for line in () if problem else sys.stdin:
        timeout, answer, reference = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        verdict = compare(answer, reference)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(verdict), file=output, flush=True)


if __name__ == "__main__":
    serve()
