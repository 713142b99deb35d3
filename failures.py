"""What a command says when it fails: one line on standard error. cli.run loads it then."""

import difflib
import errno
import json
import os
import re
import sys
import time
import traceback
from pathlib import Path

from cli import CONTROL, ROOT

DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


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
    return f"{text} ({Path(own[-1].filename).name} line {own[-1].lineno})"


def print_failure(text, is_first=True):
    text = f"{Path(sys.argv[0]).name}: {text}".translate(CONTROL)
    if is_first:
        print(text, file=sys.stderr, flush=True)
    if "TORCHELASTIC_ERROR_FILE" in os.environ:  # torchrun ends with what this file says
        report = json.dumps({"message": {"message": text, "extraInfo": {"timestamp": time.time()}}})
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(report)
