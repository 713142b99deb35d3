"""Files that survive a kill: the folder of a run, and JSON lines that a second call goes on with.

This file imports no torch.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cli import BadInput, note, parse_json, read_text

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


def append_rows(path, rows):
    """Adds rows to a JSON-lines file and returns when they are on disk.

    A last line without its newline is what a kill left of a row: it is removed first.
    """
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


def resumable_rows(path, flag, prefix=b""):
    """Yields (line number, row) of a JSON-lines file that append_rows adds to; creates the file.

    A last line without its newline is left out if it begins with `prefix`, as the rows of the
    command do: a file of another kind is refused before append_rows could shorten it.
    Raises BadInput for a file that cannot be written and for a line that is not a JSON object.
    """
    try:
        with open(path, "a+b") as file:
            file.seek(0)
            *lines, last = file.read().split(b"\n")
    except OSError as error:
        raise BadInput(
            f"{flag}: {path} cannot be written ({error.strerror}): give another file"
        ) from error
    if not last.startswith(prefix[: len(last)]):
        lines.append(last)
    for number, line in enumerate(lines, start=1):
        yield number, parse_json(line, f"{flag}: {path} line {number}")


def check_same(before, settings, path, flag):
    """Raises BadInput where a file was made with other settings than the present ones."""
    for name, value in settings.items():
        if before.get(name) != value:
            raise BadInput(
                f"--{name}: {path} was made with {before.get(name)!r}, not {value!r}: use that, or "
                f"another {flag}"
            )


@contextlib.contextmanager
def sole_writer(path):
    """Locks a file or folder while it is written to: two runs in one would mix their rows.

    Raises BadInput where another process holds the lock. The system frees it when a process ends,
    however it ends.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(
                f"{path}: another process is writing to it: let it end, or give another name"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


# ---- the folder of a run ----


def check_run(settings, free_to_change=()):
    """Checks --output_dir, --resume and --report_to before anything is written. Raises BadInput."""
    if settings.report_to != "none" and importlib.util.find_spec(settings.report_to) is None:
        raise BadInput(
            f"--report_to: {settings.report_to} is not installed: pip install {settings.report_to}"
        )
    if settings.resume and not settings.output_dir:
        raise BadInput("--resume: needs --output_dir, the folder of the run to continue")
    # The other processes might already see what the first one writes.
    if settings.output_dir is not None and os.environ.get("RANK", "0") == "0":
        check_output_dir(settings.output_dir, settings, free_to_change)


def check_output_dir(output_dir, settings, free_to_change=()):
    """Checks --output_dir before anything is written. Raises BadInput.

    Without --resume the folder must be new or empty. With it, a run in it must have the same
    settings, but for the names in free_to_change.
    """
    if not str(output_dir).strip():
        raise BadInput("--output_dir: is empty: give a folder (is a variable of the shell unset?)")
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--output_dir: {folder} is a file: give a folder")
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise BadInput(f"--output_dir: {parent} cannot hold a new folder: give a folder elsewhere")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not settings.resume:
        if names:
            raise BadInput(
                f"--output_dir: {folder} is not empty: give another folder, or --resume to go on "
                "with the run in it"
            )
        return
    if "config.json" in names:
        check_run_settings(folder, dataclasses.asdict(settings), free_to_change)
    elif names - {"config.json.partial"}:
        raise BadInput(
            f"--output_dir: {folder} holds other files and no run of this command: give the folder "
            "of a run, or a new one"
        )


def check_run_settings(folder, settings, free_to_change):
    config = folder / "config.json"
    before = parse_json(read_text(config, "--output_dir"), config).get("settings")
    if not isinstance(before, dict):
        raise BadInput(
            f"--output_dir: {config} was not written by this command: give the folder of a run, or "
            "a new one"
        )
    fixed = {
        name: value
        for name, value in settings.items()
        if name in before and name not in free_to_change
    }
    check_same(before, fixed, folder, "--output_dir")


def newest_checkpoint(folder, runtime):
    """The newest complete checkpoint, or None; a damaged one is passed over with a note.

    The first process decides for all. Raises BadInput where all checkpoints are damaged, and on a
    process that does not see the folder.
    """
    chosen = newest_intact(folder) if runtime.is_main else None
    chosen = runtime.gather(chosen)[0]
    if chosen and not Path(chosen).is_dir():
        raise BadInput(
            f"--output_dir: {chosen} is not there on this machine: all processes need the same "
            "folder"
        )
    return Path(chosen) if chosen else None


def newest_intact(folder):
    found = {
        int(path.name.split("-")[1]): path
        for path in Path(folder).glob("checkpoint-*")
        if re.fullmatch(r"checkpoint-\d+", path.name)
    }
    for step in sorted(found, reverse=True):
        damage = find_damage(found[step])
        if damage is None:
            return str(found[step])
        note(f"{found[step]}: damaged ({damage}): passed over")
    if found:  # starting again would overwrite what might still be saved
        raise BadInput(
            f"--resume: no checkpoint in {folder} is intact: repair one, or start in another folder"
        )
    return None


def find_damage(checkpoint):
    """The name of a file that does not have its checksum, or what else is wrong; else None."""
    try:
        checksums = json.loads((checkpoint / "trainer" / "state.json").read_text())["sha256"]
        for name, checksum in checksums.items():
            if sha256(checkpoint / name) != checksum:
                return name
    except (OSError, ValueError, KeyError) as error:
        return str(error)
    return None


def open_run(folder, settings, step, runtime):
    """Starts the folder of a run or goes on with it. Returns metrics.jsonl up to `step`, as rows.

    Writes config.json: all settings, the versions of what computes, the commit of this code.
    The lock on the folder is held until the run ends.
    """
    import torch
    import transformers

    rows = None
    if runtime.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        runtime.at_exit.enter_context(sole_writer(folder))
        versions = {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        config = {"settings": settings, "versions": versions, "commit": commit()}
        write_json(folder / "config.json", config)
        rows = cut_rows_past(folder / "metrics.jsonl", step)
    return runtime.gather(rows)[0]


def commit():
    """The commit of this code, or None where git or its repository is missing."""
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", Path(__file__).parent, "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def cut_rows_past(path, step):
    """Drops the rows of a metrics.jsonl past `step`, which are done again. Returns the others."""
    rows = []
    for _, row in resumable_rows(path, "--output_dir"):
        if row.get("step", step + 1) > step:
            break
        rows.append(row)
    write_atomically(path, json_lines(rows))
    return rows


def record(folder, rows, row, runtime, source):
    """Adds a step's metrics to `rows` and metrics.jsonl; returns the row as written.

    num_tokens of the step become those of the run. skipped_steps is 1 where loss or gradient norm
    are not finite, so that `Policy.step` left the weights alone. Such numbers are written as 0,
    since JSON has no NaN, and a note names `source`: what the step was computed from.
    Raises FloatingPointError after three such steps in a row, when all is on disk.
    """
    before = rows[-1].get("num_tokens", 0) if rows else 0
    skipped = not math.isfinite(row["loss"] + row["grad_norm"])
    row |= {"num_tokens": row["num_tokens"] + before, "skipped_steps": int(skipped)}
    if skipped:
        note(
            f"step {row['step']}: no update, loss {row['loss']} and gradient norm "
            f"{row['grad_norm']} are not both finite: see {source}"
        )
        row = {name: value if math.isfinite(value) else 0.0 for name, value in row.items()}
    rows.append(row)
    if runtime.is_main:
        append_rows(folder / "metrics.jsonl", [row])
    if len(rows) >= 3 and all(row.get("skipped_steps") for row in rows[-3:]):
        runtime.barrier()  # nobody leaves before the first process has written
        if not runtime.is_main:
            sys.exit(1)
        raise FloatingPointError(
            f"three steps in a row, {row['step'] - 2} to {row['step']}, had a loss or gradient "
            f"that is not finite: see {source}; start again, from a checkpoint in {folder} as "
            "--model, with a lower --learning_rate or --dtype float32"
        )
    return row


def reporter(settings):
    """A function (step, metrics) that copies metrics to where --report_to says."""
    if settings.report_to == "none" or os.environ.get("RANK", "0") != "0":
        return lambda step, metrics: None
    if settings.report_to == "wandb":
        import wandb

        run = wandb.init(dir=settings.output_dir, config=vars(settings))
        return lambda step, metrics: run.log(metrics, step=step)

    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(settings.output_dir)

    def write_scalars(step, metrics):
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return write_scalars
