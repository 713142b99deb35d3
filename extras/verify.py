"""Final answers against references: equality.py in child processes with a deadline.

    check_answers(["so it is \\boxed{\\frac{1}{2}}", "#### 7"], ["0.5", "8"])        # [True, False]

Texts, words and numbers are compared at once. Formulas need math-verify's parser and sympy, which
may hang or eat all memory. So they are compared in worker processes that import no torch. Each
worker sets itself an alarm with the system's own effect, death, so nothing it computes can outlive
its deadline. The next task then gets a new worker. The result of a task that was not decided is
None.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from cli import ROOT, BadInput
from extras.equality import alternatives, best_of, candidates, quick_check

workers, lock = [], threading.Lock()  # idle ones; they stay for the next call


def check_answers(answers, references, timeout=10.0, num_workers=None):
    """Does each text end in an answer that equals its reference? A list of True, False or None.

    None: there is no reference, or the verifier cannot read it, or it met its deadline.
    answers: whole solutions. references: LaTeX, numbers, words, or a JSON list of texts of which
    one must fit (Skywork-OR1).
    timeout: seconds for one comparison. num_workers: processes; None: up to 4, by cores and work.
    Raises BadInput where math-verify is not installed.
    """
    found, tasks = [[] for _ in answers], deque()
    for results, answer, reference in zip(found, answers, references, strict=True):
        for candidate in candidates(answer):
            for option in alternatives(str(reference)):
                verdict = quick_check(candidate, option)
                if verdict == "ask":
                    tasks.append((results, candidate, option))
                else:
                    results.append(verdict)
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    num_workers = num_workers or max(1, min(4, cores, len(tasks) // 32))
    if tasks:
        with lock, ThreadPoolExecutor(num_workers) as pool:  # these threads only wait
            jobs = [pool.submit(work_off, tasks, timeout) for _ in range(num_workers)]
            for job in jobs:
                job.result()
    return [best_of(results) for results in found]


# ---- the processes ----


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
        [sys.executable, "-m", "extras.formulas"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process, which ends its workers
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
