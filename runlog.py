"""Files that survive a kill: JSON lines, and the folder of a training run.

What only a resumed run needs is in resume.py. This file imports no torch.
"""

import contextlib
import hashlib
import importlib.util
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from cli import BadInput
from seeding import CHAT_DATE, stable_hash

# ---- files that a kill cannot spoil ----


def write_atomically(path, text):
    """Writes a new file that replaces the old one only when all of it is on disk."""
    partial = Path(path).with_name(Path(path).name + ".partial")
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    partial.replace(path)


def write_json(path, value):
    """NaN is refused: no other program could read it."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sync(path):
    """Returns when a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_line(row):
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def json_lines(rows):
    return "".join(json_line(row) + "\n" for row in rows)


def append_rows(path, rows, is_new=True):
    """Adds rows to a JSON-lines file and returns when they are on disk.

    A last line without its newline is what a kill left of a row: it is removed first.
    Raises BadInput where a file that is not new has gone.
    """
    if not is_new and not os.path.exists(path):
        raise BadInput(f"{path}: was deleted while this command wrote to it: call again")
    with open(path, "a+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json_lines(rows).encode())
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def sole_writer(path):
    """Locks a file or folder while it is written to: two runs in one would mix their rows.

    Raises BadInput where another process holds the lock, which the system frees when it ends.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise BadInput(f"{path}: another process is writing to it: let it end") from error
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(handle)


# ---- the folder of a run ----


def check_run(settings, **data):
    """Checks --output_dir, --resume and --report_to before anything is written. Raises BadInput.

    Without --resume the folder must be new or empty. With it, a run in it must have the same data
    and settings. data: {flag: items that were loaded}. Returns their hashes.
    """
    if settings.report_to != "none" and importlib.util.find_spec(settings.report_to) is None:
        raise BadInput(f"--report_to: pip install {settings.report_to}, which is missing")
    if settings.resume and not settings.output_dir:
        raise BadInput("--resume: needs --output_dir, the folder of the run to continue")
    hashes = {}
    origin = {"name": None, "source": None}  # where data lie is not what they are
    for flag, items in data.items():
        rows = (item if isinstance(item, tuple) else vars(item) | origin for item in items)
        hashes[flag] = f"{stable_hash(*(stable_hash(repr(row)) for row in rows)):016x}"
    if any(vars(settings).get(name) for name in ("lora_rank", "adapter", "beta", "judge_model")):
        from resume import model_hashes

        hashes |= model_hashes(settings)
    # Only the first process looks: the others might already see what it writes.
    if settings.output_dir is None or os.environ.get("RANK", "0") != "0":
        return hashes
    folder = Path(settings.output_dir)
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise BadInput(f"--output_dir: {parent} is a file or read-only: give another folder")
    if folder.exists() and any(folder.iterdir()):
        if not settings.resume:
            raise BadInput(f"--output_dir: {folder} is not empty: give another, or --resume")
        from resume import check_same_run

        check_same_run(folder, settings, hashes)
    return hashes


def find_run(settings, runtime, kind):
    """(folder of the run, its newest checkpoint or None); fills in settings.output_dir."""
    if settings.output_dir is None:
        settings.output_dir = runtime.gather(time.strftime(f"out/{kind}-%Y%m%d-%H%M%S"))[0]
    folder = Path(settings.output_dir)
    if not settings.resume:
        return folder, None
    from resume import newest_checkpoint

    return folder, newest_checkpoint(folder, runtime, settings.max_steps)


def open_run(folder, settings, step, runtime, data):
    """Starts the folder of a run or goes on with it. Returns metrics.jsonl up to `step`, as rows.

    Writes config.json: settings, data, versions of what computes, the code, and when and where
    each call ran. The lock on the folder is held until the run ends.
    """
    rows = []
    if runtime.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        runtime.at_exit.enter_context(sole_writer(folder))
        versions = {name: version(name) for name in ("torch", "transformers")}
        versions |= {"python": sys.version.split()[0], "chat_date": CHAT_DATE}
        versions["MKL_CBWR"] = os.environ.get("MKL_CBWR")
        config = {"settings": settings, "data": data, "versions": versions, "commit": commit()}
        paths = {flag: settings.get(flag) or "" for flag in ("train_data", "eval_data")}
        paths = {flag: os.path.abspath(p) for flag, p in paths.items() if os.path.exists(p)}
        call = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": platform.node()}
        call |= {"commit": config["commit"], "diff": None}
        diff = git("diff", "HEAD", "--", ".")  # what was changed since the commit
        if diff:
            call["diff"] = f"code-{hashlib.sha256(diff.encode()).hexdigest()[:8]}.diff"
            write_atomically(folder / call["diff"], diff)
        config |= {"data_paths": paths, "calls": [call]}
        if settings["resume"]:
            from resume import continue_run

            rows = continue_run(folder, config, step)
        write_json(folder / "config.json", config)
        runtime.at_exit.callback(end_call, folder, config, time.time())
    rows = runtime.gather(rows)[0]
    if not (folder / "config.json").exists():
        raise BadInput(f"--output_dir: {folder} is not shared with {platform.node()}: mount it")
    return rows


def end_call(folder, config, started):
    """Writes into config.json how long a call took, unless it is killed."""
    config["calls"][-1]["seconds"] = round(time.time() - started)
    if folder.exists():  # nobody removed it meanwhile
        write_json(folder / "config.json", config)


def commit():
    """The commit of this code, or None where git or its repository is missing."""
    return git("rev-parse", "HEAD").strip() or None


def git(*arguments):
    if shutil.which("git") is None:
        return ""
    command = ["git", "-C", Path(__file__).parent, *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace").stdout


def record(folder, rows, row, runtime, source):
    """Adds a step's metrics to `rows` and metrics.jsonl; returns the row as written.

    num_tokens of the step become those of the run. skipped_steps is 1 where loss or gradient norm
    are not finite: then `Policy.step` left an update out. source: what the step was computed
    from. Raises FloatingPointError after three such steps in a row, when all is on disk.
    """
    row["num_tokens"] += rows[-1].get("num_tokens", 0) if rows else 0
    skipped = not math.isfinite(row["loss"] + row["grad_norm"])
    row["skipped_steps"] = int(skipped)
    if skipped:
        from failures import stop_after_three, without_nan

        row = without_nan(row, source)
    rows.append(row)
    if runtime.is_main:
        append_rows(folder / "metrics.jsonl", [row], is_new=len(rows) == 1)
    if skipped:
        stop_after_three(folder, rows, runtime, source)
    return row


def reporter(settings):
    """A function (step, metrics) that copies metrics to where --report_to says."""
    if settings.report_to == "none" or os.environ.get("RANK", "0") != "0":
        return lambda step, metrics: None
    from plugins import load_extra

    return load_extra("reporting").metrics_writer(settings)
