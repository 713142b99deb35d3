"""What a new GPU does, measured in a given time. Run by `python -m extras.bench gpu`.

Results are JSON lines, written as they come. A part that fails leaves its error as a result, and
the next one begins. Sizes fit the time that is left. Weights are random, made on the GPU.

    smoke      the sampler's log-probs against the trainer's; a training that is resumed; FSDP
    roofline   bytes and operations a second of this machine: what the others are compared with
    logprob    kernels/logprob.py at 16k tokens; the bare products; liger-kernel if it imports
    decode     tokens a second at a context of 2k, and transformers' generate
    packing    training on a shared prompt, packed without sharing, padded
    step       a whole step of GRPO
    decode_more the part decode for 7B and 0.5B
"""

import contextlib
import faulthandler
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers

from extras.bench_gpu_parts import (
    decode,
    failure,
    free_memory,
    logprob,
    packing,
    roofline,
    smoke,
    step,
)
from extras.peers import synchronize

SHAPES = {
    "tiny": dict(
        smoke="tiny",
        decode=["tiny"],
        decode_more=[],
        rows=[1, 4],
        context=48,
        most_new_tokens=24,
        peer_tokens=8,
        logprob=(64, 32, 300),  # tokens, hidden size, vocabulary
        model="tiny",  # of the parts packing and step
        packing="4/40/12",  # completions, prompt tokens, completion tokens
        step=(2, 4, 24, 12),  # prompts, completions of each, prompt tokens, completion tokens
        micro_batch_tokens=256,
    ),
    "full": dict(
        smoke="qwen2-0.5b",
        decode=["qwen2-1.5b"],
        decode_more=["qwen2-7b", "qwen2-0.5b"],
        rows=[1, 64, 256],
        context=2048,
        most_new_tokens=2048,
        peer_tokens=64,
        logprob=(16384, 1536, 151936),
        model="qwen2-1.5b",
        packing="16/2048/512",
        step=(8, 16, 1024, 512),
        micro_batch_tokens=16384,
    ),
}


@dataclass
class Run:
    """What the parts share."""

    device: torch.device
    dtype: torch.dtype
    sizes: SimpleNamespace
    shapes: dict  # {name: the fields of a config.json}
    deadline: float  # by time.monotonic()
    scratch: Path
    limits: tuple = (1.0, 1.0)  # operations and bytes a second; the part roofline measures them

    def left(self):
        return self.deadline - time.monotonic()

    def config(self, name):
        return {"model_type": "qwen2", "max_position_embeddings": 32768} | self.shapes[name]


PARTS = {  # {name: (function, seconds that it needs at least)}, the most valuable first
    "smoke": (smoke, 30),
    "roofline": (roofline, 5),
    "logprob": (logprob, 20),
    "decode": (lambda run: decode(run, run.sizes.decode), 60),
    "packing": (packing, 40),
    "step": (step, 60),
    "decode_more": (lambda run: decode(run, run.sizes.decode_more), 60),
}


def run_part(run, name, report):
    """Reports the rows of a part; whether the GPU still answers afterwards."""
    function, needed = PARTS[name]
    if run.left() < needed:
        report({"part": name, "skipped": f"needs {needed} s, {run.left():.0f} s left"})
        return True
    try:
        with contextlib.redirect_stdout(sys.stderr):  # of trainings
            for row in function(run):
                report({"part": name} | row)
    except Exception as error:
        report({"part": name} | failure(error))
    try:
        free_memory(run.device)
        synchronize(run.device)
    except Exception:  # an illegal access ends all further work of a process
        return False
    return True


def restart(settings, names, minutes):
    """This program in a new process, for the parts that are left. Does not return."""
    words = [sys.executable, "-m", "extras.bench", "gpu", "--parts", ",".join(names)]
    words += ["--minutes", str(minutes), "--shapes", settings.shapes, "--device", settings.device]
    words += ["--dtype", settings.dtype, *(["--out", settings.out] if settings.out else [])]
    os.execv(sys.executable, words)


def versions(device):
    found = {"torch": torch.__version__, "transformers": transformers.__version__}
    found["machine"] = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        found["machine"] = torch.cuda.get_device_name(device)
        found["gpu_gb"] = torch.cuda.get_device_properties(device).total_memory / 1e9
    for name in ("triton", "liger_kernel", "flash_attn"):
        found[name] = "not installed"
        if importlib.util.find_spec(name):
            found[name] = importlib.metadata.version(name.replace("_", "-"))
    return found


def bench_gpu(settings, shapes, device, dtype):
    """Runs the parts; whether all checks passed. After a fault of the GPU a new process goes on."""
    # a part that never ends: where it hung, and the end
    faulthandler.dump_traceback_later(settings.minutes * 60 + 45, exit=True, file=sys.__stderr__)
    try:
        return run_parts(settings, shapes, device, dtype)
    finally:
        faulthandler.cancel_dump_traceback_later()


def run_parts(settings, shapes, device, dtype):
    started, failed, stdout = time.monotonic(), False, sys.stdout
    out = open(settings.out, "a") if settings.out else contextlib.nullcontext()  # noqa: SIM115
    with out as file, tempfile.TemporaryDirectory() as scratch:

        def report(row):
            nonlocal failed
            failed |= not row.get("ok", True)
            line = json.dumps(row | {"at_s": round(time.monotonic() - started, 1)})
            for stream in filter(None, (stdout, file)):
                print(line, file=stream, flush=True)

        report({"part": "start"} | versions(device) | {"dtype": str(dtype)[6:]})
        sizes = SimpleNamespace(**SHAPES[settings.shapes])
        deadline = started + settings.minutes * 60
        run = Run(device, dtype, sizes, shapes, deadline, Path(scratch))
        names = settings.parts.split(",")
        for index, name in enumerate(names):
            if not run_part(run, name, report) and names[index + 1 :]:
                shutil.rmtree(scratch)
                restart(settings, ["roofline", *names[index + 1 :]], run.left() / 60)
    return not failed
