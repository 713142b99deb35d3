"""Kills, interrupts and starves train_grpo.py and evaluate.py, goes on with the same command, and compares what is on disk in the end.

    bash runs/kill_test.sh                 all of it; the table is runs/kill_test/README.md, the runs are in out/kill_test/

Equal means: metrics.jsonl without what a clock wrote, every byte of rollouts/ and the hashes of the last checkpoint's weights and moments
(train_grpo.py), or the bytes of results.json (evaluate.py), are those of the run that nobody disturbed; no file too many, none too few.
"""

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import platform
import random
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

OUT = ROOT / "out" / "kill_test"
STEPS = 5
TRAIN = [
    "train_grpo.py",
    "--max_steps",
    STEPS,
    "--save_every",
    2,
    "--prompts_per_step",
    6,
    "--num_generations",
    4,
    "--eval_every",
    3,
    "--eval_limit",
    6,
]
EVALUATE = ["evaluate.py", "--benchmark", "pairs", "--data", "tiny/test.jsonl", "--limit", 100]
IMPORTED = (
    "rollouts",
    "runtime",
    "transformers.models.auto.tokenization_auto",
    "transformers.hf_argparser",
)  # before a command is forked: the work counts
FORK = multiprocessing.get_context("fork")


# ---- one call of a command ----


def words_of(command, folder):
    resume = ["--resume"] if command is TRAIN else []  # evaluate.py goes on without being asked
    return [*map(str, command), "--output_dir", str(folder), *resume]


def run_script(words, log, limit):
    """The command in a process of its own, as `python SCRIPT ...` runs it, only that its imports are there already: they are forked."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def begin(command, folder, limit=None):
    """Starts a command; limit: the bytes that a file may have, as if the disk were full."""
    process = FORK.Process(
        target=run_script, args=(words_of(command, folder), OUT / f"{folder.name}.log", limit)
    )
    process.start()
    return process


def end(process):
    """Its exit code, once it has ended: minus the signal that killed it."""
    process.join(1800)
    return process.exitcode


def last_words(folder):
    return (OUT / f"{folder.name}.log").read_text()


def finish(command, folder):
    if end(begin(command, folder)) != 0:
        raise RuntimeError(f"{folder}: going on failed:\n{last_words(folder)[-2000:]}")


def torchrun(folder):
    with open(OUT / f"{folder.name}.log", "a") as log:
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
        ]
        return subprocess.Popen([*launcher, *words_of(TRAIN, folder)], stdout=log, stderr=log)


def seen(folder):
    """{path in the folder: (bytes, time of change)}; files may vanish while one looks."""
    found = {}
    for path in folder.rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if path.is_file():
            found[str(path.relative_to(folder))] = status.st_size, status.st_mtime_ns
    return found


def changes(runs, folder):
    """Yields the path that was written last, whenever something in the folder has changed, while runs() is true."""
    before = {}
    while runs():
        now = seen(folder)
        changed = sorted(
            path for path in now.keys() | before.keys() if now.get(path) != before.get(path)
        )
        if changed:
            before = now
            yield changed[-1]
        time.sleep(0.0003)


# ---- what is compared ----


def outcome(command, folder):
    """What a finished run has left on disk, without what a clock wrote."""
    if command is EVALUATE:
        return (folder / "results.json").read_bytes(), sorted(
            path.name for path in folder.iterdir()
        )
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = sorted(path.name for path in (folder / "rollouts").iterdir())
    texts = [(folder / "rollouts" / name).read_bytes() for name in names]
    last = folder / f"checkpoint-{STEPS}"
    weights = [
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (last / "model.safetensors", last / "trainer" / "optimizer.safetensors")
    ]
    return (
        [{key: value for key, value in row.items() if "tim" not in key} for row in rows],
        names,
        texts,
        weights,
    )


def progress(command, folder):
    """How far a stopped run had come."""
    path = folder / ("metrics.jsonl" if command is TRAIN else "rows.jsonl")
    lines = path.read_text().count("\n") if path.exists() else 0
    steps = sorted(
        int(path.name.split("-")[1])
        for path in folder.glob("checkpoint-*")
        if path.name.split("-")[1].isdecimal()
    )
    return f"{lines} rows" + (f", checkpoint {steps[-1]}" if steps else "")


# ---- the trials: each returns rows of the table, (command, what was done, last written, on disk, message or code, equal) ----


def killed(command, number, whole, events, duration, rng):
    """SIGKILL at a change of a file: at once, or up to a mean interval later. Drawn anew where the command was faster."""
    name = Path(command[0]).stem
    folder = OUT / f"{name}-kill-{number}"
    chosen, late = rng.randrange(events), number % 2 == 0
    delay = rng.uniform(0, duration / events) * late
    process, started, last = begin(command, folder), time.time(), "nothing yet"
    for count, last in enumerate(changes(process.is_alive, folder)):
        if count == chosen:
            break
    time.sleep(delay)
    process.kill()
    code = end(process)
    moment, on_disk = time.time() - started, progress(command, folder)
    if code == 0:
        shutil.rmtree(folder)
        return killed(command, number, whole, events, duration, rng)
    finish(command, folder)
    return [
        command[0],
        f"SIGKILL after {moment:.1f} s",
        last,
        on_disk,
        code,
        outcome(command, folder) == whole,
    ]


def interrupted(command, number, whole, events, rng):
    name = Path(command[0]).stem
    folder = OUT / f"{name}-interrupt-{number}"
    process, last = begin(command, folder), "nothing yet"
    for _, last in zip(range(rng.randrange(1, events)), changes(process.is_alive, folder)):
        pass
    os.kill(process.pid, signal.SIGINT)
    code, on_disk = end(process), progress(command, folder)
    quiet = "Traceback" not in last_words(folder)
    finish(command, folder)
    return [
        command[0],
        "SIGINT",
        last,
        on_disk,
        f"{code}, {'one line' if quiet else 'TRACEBACK'}",
        code == 130 and quiet and outcome(command, folder) == whole,
    ]


def starved(command, limit, whole):
    """No file may have more than `limit` bytes: what a full disk does, at a place that can be chosen."""
    folder = OUT / f"{Path(command[0]).stem}-full-{limit}"
    code = end(begin(command, folder, limit))
    on_disk, told = (
        progress(command, folder),
        last_words(folder).strip().split("\n")[-1].split(": ", 1)[-1],
    )
    said = told[:150] if "Traceback" not in last_words(folder) else "TRACEBACK"
    newest = max(seen(folder).items(), key=lambda entry: entry[1][1], default=("nothing",))[0]
    finish(command, folder)
    return [
        command[0],
        f"files of {limit:,} bytes at most",
        newest,
        on_disk,
        f"{code}, {said}",
        outcome(command, folder) == whole,
    ]


def workers_of(pid):
    """The processes that torchrun has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lost_rank(whole, rank):
    """One of two workers is killed after the first checkpoint: the other must not wait for it for ever."""
    folder = OUT / f"two-lost-{rank}"
    process = torchrun(folder)
    for last in changes(lambda: process.poll() is None, folder):
        if (folder / "checkpoint-2").exists():
            break
    os.kill(sorted(workers_of(process.pid))[rank], signal.SIGKILL)
    lost = time.time()
    code, on_disk = process.wait(timeout=1800), progress(TRAIN, folder)
    waited = time.time() - lost
    again = torchrun(folder).wait(timeout=1800)
    equal = again == 0 and outcome(TRAIN, folder) == whole
    return [
        "torchrun, 2 processes",
        f"SIGKILL of rank {rank}",
        last,
        on_disk,
        f"{code}, ended {waited:.1f} s later",
        equal,
    ]


def undisturbed(command, name):
    """(what it left, number of changes of files, seconds)."""
    folder, started, events = OUT / name, time.time(), 0
    process = begin(command, folder)
    for events, _ in enumerate(changes(process.is_alive, folder), start=1):
        pass
    if end(process) != 0:
        raise RuntimeError(last_words(folder)[-2000:])
    return outcome(command, folder), events, time.time() - started


def table(rows):
    head = [
        "command",
        "what was done",
        "changed last",
        "on disk then",
        "exit code",
        "equal in the end",
    ]
    lines = [[*row[:-1], "yes" if row[-1] else "**NO**"] for row in rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |"
        for line in (head, ["---"] * len(head), *lines)
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # what a shell starts in the background does not have it
    os.chdir(ROOT)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    torch.set_num_threads(1)
    for name in IMPORTED:
        importlib.import_module(name)
    rng, rows, started = random.Random(arguments.seed), [], time.time()

    def add(row):
        rows.append(row)
        print(*row, sep=" | ", flush=True)

    for command, limits in (TRAIN, (500, 6_000, 1_000_000, 5_000_000)), (EVALUATE, (2_000, 30_000)):
        whole, events, duration = undisturbed(command, f"{Path(command[0]).stem}-whole")
        other = OUT / f"{Path(command[0]).stem}-typed"
        code = subprocess.run(
            [sys.executable, *words_of(command, other)], capture_output=True
        ).returncode
        add(
            [
                command[0],
                "left alone, as typed in a shell",
                "",
                "",
                code,
                outcome(command, other) == whole,
            ]
        )
        for number in range(arguments.kills):
            add(killed(command, number, whole, events, duration, rng))
        for number in range(3):
            add(interrupted(command, number, whole, events, rng))
        for limit in limits:
            add(starved(command, limit, whole))
    if torchrun(OUT / "two-whole").wait() != 0:
        raise RuntimeError(last_words(OUT / "two-whole")[-2000:])
    whole = outcome(TRAIN, OUT / "two-whole")
    for rank in (1, 0):
        add(lost_rank(whole, rank))
    bad = sum(not row[-1] for row in rows)
    text = (
        Path(__file__).with_name("head.md").read_text()
        + f"\n`bash runs/kill_test.sh`, seed {arguments.seed}: {len(rows)} trials, {bad} not equal; "
        f"{(time.time() - started) / 60:.0f} minutes on one thread of {cpu_name()}, torch {torch.__version__}, Python {platform.python_version()}.\n\n"
        + table(rows)
        + "\n"
    )
    Path(__file__).with_name("README.md").write_text(text)
    sys.exit(1 if bad else 0)


def cpu_name():
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    main()
