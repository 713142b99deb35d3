"""What a command says that does not do its work: the manual, or one line on why it failed.

cli.py loads this file only then, and a training where the numbers of a step are not finite.
"""

import atexit
import dataclasses
import difflib
import errno
import json
import math
import os
import re
import shutil
import sys
import textwrap
import time
import traceback
import typing
from pathlib import Path

from cli import ROOT, BadInput, note, setting_types, visible

DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def manual(settings_class, description):
    """What --help prints: two paragraphs of the docstring, and each setting with its default."""
    lines = ["\n\n".join(description.split("\n\n")[:2]), ""]
    types = setting_types(settings_class)
    width = shutil.get_terminal_size((100, 50)).columns  # 100: in a pipe
    for field in dataclasses.fields(settings_class):
        if field.metadata["group"]:
            lines.append(f"{field.metadata['group']}:")
        kind, notes = types[field.name], []
        placeholder = {bool: "", int: "N", float: "X", str: "TEXT"}.get(kind, "NAME")
        if placeholder == "NAME":
            notes.append(", ".join(typing.get_args(kind)))
        if field.default not in (None, "") and field.default is not False:
            notes.append(f"default: {field.default}")
        text = field.metadata["help"] + (f" ({'; '.join(notes)})" if notes else "")
        flag = f"  --{field.name} {placeholder}"
        lines += textwrap.wrap(f"{flag:30} {text}", width, subsequent_indent=31 * " ")
    return "\n".join(lines)


def suggestion(argument, flags):
    """A hint for an unknown argument: the one flag of which it is a misspelling, or a part."""
    name = argument.split("=")[0].replace("-", "_").strip("_").lower()
    known = [flag.removeprefix("--") for flag in flags]
    meant = [flag for flag in (f"num_{name}", f"max_{name}") if flag in known]
    if not re.search("[0-9]", name):  # beta1 is no misspelling of beta
        meant += difflib.get_close_matches(name, known, cutoff=0.88)
    if not argument.startswith("-") or len(meant) != 1:
        return "--help lists every flag"
    return f"did you mean --{meant[0]}?"


def exit_code(error, memory=""):
    """Prints what went wrong in one line and returns the exit code of the command.

    2 for bad input, 130 for Ctrl-C, 1 for a missing package, too little memory (`memory` says what
    to do), a full disk, numbers that are not finite and a closed pipe. Any other exception is a
    bug: None, and nothing is printed.
    """
    if isinstance(error, KeyboardInterrupt):
        note("interrupted")
        return 130
    if isinstance(error, BrokenPipeError):  # the reader (head, less) has seen enough
        sys.stderr.close()
        return 1
    if isinstance(error, BadInput):
        is_first = os.environ.get("LOCAL_RANK", "0") == "0"  # of its machine, whose files are wrong
        print_failure(" ".join(str(error).split()), is_first)
        return 2
    if isinstance(error, ModuleNotFoundError):
        print_failure(f"{error}: pip install it, or all of requirements.txt")
        return 1
    advice = advice_on(error, memory)
    if advice is None:
        return None
    print_failure(describe(error) + advice)
    return 1


def advice_on(error, memory):
    """What to do about a failure that is not a bug in the code; None for every other exception."""
    if isinstance(error, FloatingPointError):
        return ""  # its message says what to do
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f": {memory}"  # torch.OutOfMemoryError goes by name: torch may not be imported
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return f": {memory}"  # PyTorch on a CPU
    # safetensors has no errno; its text holds "(os error 28)"
    number = getattr(error, "errno", None)
    if number in DISK_FULL or any(f"(os error {code})" in str(error) for code in DISK_FULL):
        return ": make room and call again; a training goes on with --resume"
    return None


def describe(error):
    """An exception on one line, with the last line of this project that it passed through."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).resolve().parent == ROOT]
    names = [Path(frame.filename).name for frame in own]
    doing = "while sampling, " if "sampler.py" in names else ""
    return f"{text} ({doing}{names[-1]} line {own[-1].lineno})"


def print_failure(text, is_first=True):
    text = visible(f"{Path(sys.argv[0]).name}: {text}")
    if is_first:
        print(text, file=sys.stderr, flush=True)
    if "TORCHELASTIC_ERROR_FILE" in os.environ:  # torchrun ends with what this file says
        report = json.dumps({"message": {"message": text, "extraInfo": {"timestamp": time.time()}}})
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(report)


def without_nan(row, source):
    """Notes that a step left an update out. Returns its metrics, with 0 for NaN and infinity."""
    note(
        f"step {row['step']}: an update was left out, loss {row['loss']} and gradient norm "
        f"{row['grad_norm']} are not both finite: see {source}"
    )
    return {name: value if math.isfinite(value) else 0.0 for name, value in row.items()}


def stop_after_three(folder, rows, runtime, source):
    """Ends a training whose last three steps left an update out."""
    if len(rows) < 3 or not all(row.get("skipped_steps") for row in rows[-3:]):
        return
    runtime.barrier()  # nobody leaves before the first process has written
    if not runtime.is_main:
        sys.exit(1)
    last = rows[-1]["step"]
    raise FloatingPointError(
        f"three steps in a row, {last - 2} to {last}, had a loss or gradient that is not finite: "
        f"see {source}; start again, from a checkpoint in {folder} as --model, with a lower "
        "--learning_rate or --dtype float32"
    )


def leave_at_once():
    """Ends a process of torchrun with exit code 0, without Python's own shutdown.

    Threads of gloo outlive their process group. If one of them frees a tensor during Python's
    shutdown, the process aborts.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
