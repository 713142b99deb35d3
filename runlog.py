"""The folder of a run: config.json, metrics.jsonl, progress, resume. No torch at import."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cli import BadInput, note, parse_json, read_text


def check_output_dir(folder, settings, free_to_change=()):
    """Refuses a folder that holds something (without --resume), or a run made with other settings (with it)."""
    if not str(folder).strip():
        raise BadInput("--output_dir: is empty: give a folder (is a variable of the shell unset?)")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--output_dir: {folder} is a file: give a folder")
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise BadInput(f"--output_dir: {parent} cannot hold a new folder: give a folder elsewhere")
    if not settings.resume and folder.is_dir() and any(folder.iterdir()):
        raise BadInput(
            f"--output_dir: {folder} is not empty: give another folder, or --resume to go on with the run in it"
        )
    config = folder / "config.json"
    if (
        settings.resume
        and not config.exists()
        and folder.is_dir()
        and {path.name for path in folder.iterdir()} - {"config.json.partial"}
    ):
        raise BadInput(
            f"--output_dir: {folder} holds other files and no run of this command: give the folder of a run, or a new one"
        )
    if settings.resume and config.exists():
        before = parse_json(read_text(config, "--output_dir"), config).get("settings")
        if not isinstance(before, dict):
            raise BadInput(
                f"--output_dir: {config} was not written by this command: give the folder of a run, or a new one"
            )
        for name, value in dataclasses.asdict(settings).items():
            if name not in free_to_change and before.get(name, value) != value:
                raise BadInput(
                    f"--{name}: the run in {folder} has {before[name]!r}, now it is {value!r}: use the old value or another folder"
                )


@contextlib.contextmanager
def sole_writer(path):
    """Holds a file or folder for as long as it is written to: two runs started into one would mix their rows. Raises BadInput where another
    process holds it. The system lets go of it when a process ends, however it ends."""
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


def newest_checkpoint(folder, runtime):
    """The complete checkpoint with the highest step, or None; one whose files do not have their checksums is passed over with a note.

    The first process decides for all. Raises BadInput on one that does not see the folder.
    """
    chosen = None
    found = [
        path
        for path in Path(folder).glob("checkpoint-*")
        if re.fullmatch(r"checkpoint-\d+", path.name)
    ]
    for path in (
        sorted(found, key=lambda path: -int(path.name.split("-")[1])) if runtime.is_main else []
    ):
        try:
            checksums = json.loads((path / "trainer" / "state.json").read_text())["sha256"]
            broken = [name for name, digest in checksums.items() if sha256(path / name) != digest]
        except (OSError, ValueError, KeyError) as error:
            broken = [str(error)]
        if not broken:
            chosen = str(path)
            break
        note(f"{path}: damaged ({broken[0]}): passed over")
    if (
        found and runtime.is_main and chosen is None
    ):  # starting again would overwrite what might still be saved
        raise BadInput(
            f"--resume: no checkpoint in {folder} is intact: repair one, or start in another folder"
        )
    chosen = runtime.gather(chosen)[0]
    if chosen and not Path(chosen).is_dir():
        raise BadInput(
            f"--output_dir: {chosen} is not there on this machine: all processes need the same folder"
        )
    return Path(chosen) if chosen else None


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path):
    """Waits until a file or folder has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def write_whole(path, text):
    """A file that is there whole or not at all."""
    partial = Path(path).with_name(Path(path).name + ".partial")
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    partial.replace(path)


def write_json(path, value):
    """NaN is refused: no other program could read it."""
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def open_run(folder, settings, step, runtime):
    """The folder of a run, new or gone on with: config.json (all settings, the versions of what computes, the commit of this code) and
    metrics.jsonl up to `step`. Returns its rows, on every process."""
    import torch
    import transformers

    rows = None
    if runtime.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        runtime.at_exit.enter_context(sole_writer(folder))
        git = ["git", "-C", Path(__file__).parent, "rev-parse", "HEAD"]
        commit = (
            shutil.which("git")
            and subprocess.run(git, capture_output=True, text=True).stdout.strip()
        )
        versions = {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        write_json(
            folder / "config.json",
            {"settings": settings, "versions": versions, "commit": commit or None},
        )
        rows = cut_rows_past(folder / "metrics.jsonl", step)
    return runtime.gather(rows)[0]


def cut_rows_past(path, step):
    """Drops the rows of a metrics.jsonl past `step`, and a half-written last one: that work is done again. Returns the rows kept."""
    rows, lines = (
        [],
        path.read_text().split("\n")[:-1] if path.exists() else [],
    )  # a line without its newline was cut off by the kill
    for number, line in enumerate(lines, start=1):
        row = parse_json(line, f"{path} line {number}")
        if row.get("step", step + 1) > step:
            break
        rows.append(row)
    write_whole(path, "".join(line + "\n" for line in lines[: len(rows)]))
    return rows


def record(folder, rows, row, runtime, source):
    """Adds a step's metrics to `rows` and to metrics.jsonl; num_tokens of the step become those of the run. Returns the row as written.

    skipped_steps is 1 where loss or gradient norm are not finite, so that `Policy.step` has left the weights alone; what is not finite is
    then written as 0, since JSON has no NaN, and a note names `source`, what the step was computed from. Three such steps in a row end
    the run: FloatingPointError, when all is on disk.
    """
    before = rows[-1].get("num_tokens", 0) if rows else 0
    row |= {
        "num_tokens": row["num_tokens"] + before,
        "skipped_steps": int(not math.isfinite(row["loss"] + row["grad_norm"])),
    }
    if row["skipped_steps"]:
        note(
            f"step {row['step']}: no update, loss {row['loss']} and gradient norm {row['grad_norm']} are not both finite: see {source}"
        )
        row = {name: value if math.isfinite(value) else 0.0 for name, value in row.items()}
    rows.append(row)
    if runtime.is_main:
        append_json_line(folder / "metrics.jsonl", row)
    if len(rows) >= 3 and all(row.get("skipped_steps") for row in rows[-3:]):
        runtime.barrier()  # nobody leaves before the first process has written
        if not runtime.is_main:
            sys.exit(1)
        raise FloatingPointError(
            f"three steps in a row, {row['step'] - 2} to {row['step']}, had a loss or gradient that is not finite: see {source}; start "
            f"again, from a checkpoint in {folder} as --model, with a lower --learning_rate or --dtype float32"
        )
    return row


def append_json_line(path, row):
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


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
    return lambda step, metrics: [
        writer.add_scalar(name, value, step) for name, value in metrics.items()
    ]


def check_same(before, settings, path, flag):
    """BadInput where a file was made with other settings than the present ones."""
    for name, value in settings.items():
        if before.get(name) != value:
            raise BadInput(
                f"--{name}: {path} was made with {before.get(name)!r}, not {value!r}: use that, or another {flag}"
            )


def own_rows(path, flag, beginning):
    """Yields (line number, row) of a JSON-lines file that a command adds to, creating it. A last line that was cut off is removed when the
    caller has taken all rows without complaint, if it begins as those of the command do: no other file is shortened. Raises BadInput."""
    try:
        with open(path, "a+b") as file:
            file.seek(0)
            *lines, rest = file.read().split(b"\n")
    except OSError as error:
        raise BadInput(
            f"{flag}: {path} cannot be written ({error.strerror}): give another file"
        ) from error
    cut_off = rest.startswith(beginning[: len(rest)])
    for number, line in enumerate(lines if cut_off else [*lines, rest], start=1):
        yield number, parse_json(line, f"{flag}: {path} line {number}")
    if rest:
        os.truncate(path, os.path.getsize(path) - len(rest))
