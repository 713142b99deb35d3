"""Final answers against references, by math-verify in child processes with a deadline.

    check_answers(["so it is \\boxed{\\frac{1}{2}}", "#### 7"], ["0.5", "8"])        # [True, False]

math-verify guards itself by a signal handler. That fails in threads and cannot stop every hang, and
by default a failure inside it looks like a wrong answer. So it runs unguarded here, in worker
processes that import no torch. Each worker sets itself an alarm with the system's own effect,
death, so nothing it computes can outlive its deadline. The next task then gets a new worker. The
result of a task that was not decided is None.
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
# An answer from the same set as the reference is right or wrong, whatever it spells.
CLOSED = [{"true", "false"}, {"yes", "no"}, set("abcdefghij")]
workers, lock = [], threading.Lock()  # idle ones; they stay for the next call


def check_answers(answers, references, timeout=10.0, num_workers=None):
    """Does each text end in an answer that equals its reference? A list of True, False or None.

    None: the verifier failed or cannot tell.
    answers: whole solutions. The last \\boxed{...} counts, else what follows the last "####", else
    what math-verify finds near the end.
    references: LaTeX, numbers, words, or a JSON list of texts of which one must fit (Skywork-OR1).
    timeout: seconds for one comparison. num_workers: processes; None: up to 4, by cores and work.
    Raises BadInput where math-verify is not installed.
    """
    found, tasks = [[] for _ in answers], deque()
    for results, answer, reference in zip(found, answers, references, strict=True):
        stated = stated_answer(answer)
        for option in alternatives(reference):
            verdict = quick_check(answer.strip() if stated is None else stated, option)
            if verdict != "ask":
                results.append(verdict)
                continue
            text = answer[-TAIL:] if stated is None else f"\\boxed{{{plain(stated)}}}"
            tasks.append((results, text, f"\\boxed{{{plain(option)}}}"))
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    num_workers = num_workers or max(1, min(4, cores, len(tasks) // 32))
    if tasks:
        with lock, ThreadPoolExecutor(num_workers) as pool:  # these threads only wait
            jobs = [pool.submit(work_off, tasks, timeout) for _ in range(num_workers)]
            for job in jobs:
                job.result()
    return [best_of(results) for results in found]


def best_of(results):
    """The result of an answer from those against each of its references."""
    if True in results:
        return True
    return None if None in results else False


# ---- what needs no algebra ----


def stated_answer(text):
    """The content of the last \\boxed{...}, else the line after the last "####", else None.

    "" for a box that is never closed.
    """
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
    """The texts of a JSON list such as '["18"]', else the reference alone.

    Of a reference that is a whole solution, its stated answer.
    """
    if reference.lstrip().startswith('["'):
        try:
            return [str(option) for option in json.loads(reference)]
        except (ValueError, RecursionError):
            pass
    return [stated_answer(reference) or reference]


def plain(text):
    """The text without dollar signs, outer blanks and a final period.

    3 1/2 is written as LaTeX, because math-verify reads it as 31/2.
    """
    text = text.replace("\\$", "").replace("$", "").strip().rstrip(".")
    return re.sub(r"(?<![\d./])(\d+) (\d+)/(\d+)(?![\d./])", r"\1\\frac{\2}{\3}", text)


def normalized(text):
    """The text in lower case, without blanks, \\text{} and the parentheses of a choice (B)."""
    text = re.sub(r"\\text\w*\{([^{}]*)\}", r"\1", plain(text))
    text = "".join(text.casefold().split())
    return re.sub(r"^\((\w)\)$", r"\1", text)


def as_fraction(number):
    return Fraction(*map(Fraction, number.replace(",", "").split("/")))


def quick_check(answer, reference):
    """True, False or None where equal texts, numbers or words decide; "ask" if math-verify has to.

    Words are never handed on: math-verify multiplies their letters, so "act" would equal "cat".
    """
    answer, reference = normalized(answer), normalized(reference)
    if answer == reference or not answer:
        return answer == reference and reference != ""
    if any({answer, reference} <= options for options in CLOSED):
        return False
    is_short = len(answer + reference) < 4000  # Python refuses longer integers
    if is_short and NUMBER.fullmatch(answer) and NUMBER.fullmatch(reference):
        given, expected = as_fraction(answer), as_fraction(reference)
        if given == expected or given.denominator == expected.denominator == 1:
            return given == expected
    has_word = re.search(r"[^\W\d_]{3}", re.sub(r"\\[a-z]+", "", reference))
    has_digit = re.search(r"\d", reference)
    return None if has_word and not has_digit else "ask"


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
        reason = line or "look above for its last words"
        raise RuntimeError(
            f"the process that runs math-verify ended before its first task: {reason}"
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
    """What math-verify says of two texts: True, False or None.

    None: it can read nothing in the reference, or it fails.
    """
    from math_verify import parse, verify

    try:
        gold = parse(reference, parsing_timeout=None, raise_on_error=True)
        stated = parse(answer, parsing_timeout=None, raise_on_error=True)
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
    except ImportError as error:
        print(str(error), file=output, flush=True)
        return
    # With a broken installation every result would be None, and a training would not learn why.
    if compare("\\boxed{\\frac{4}{2}}", "\\boxed{x = 2}") is not True:
        print("it finds 4/2 unequal to 2", file=output, flush=True)
        return
    print("ready", file=output, flush=True)
    for line in sys.stdin:
        timeout, answer, reference = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        verdict = compare(answer, reference)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(verdict), file=output, flush=True)


if __name__ == "__main__":
    serve()
