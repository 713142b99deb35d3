"""Our code compared with what one would use instead: same weights, one process, in turns.

    python -m extras.bench sampler    sampler.py and transformers' generate (and --continuous)
    python -m extras.bench logprob    kernels/logprob.py and all logits at once; on a GPU also
                                      torch.compile, liger-kernel, cut-cross-entropy
    python -m extras.bench step       a step of train_grpo.py and of TRL's GRPOTrainer (needs trl)
    python -m extras.bench packing    shared prompts, packed without sharing, padded
    python -m extras.bench judge      judge.py and a loop that calls generate for each prompt
    python -m extras.bench gpu        all of it on a new GPU in --minutes (extras/bench_gpu.py)
    python -m extras.bench plan       memory and time on 8 to 1,024 GPUs by calculation

Each row has a check of its results; the exit code is 1 where one fails. `ratio` is the arm's time
over ours: median and range over the repeats. On a CPU `cpu_ratio` is the same in processor time,
which other work disturbs less. `of_limit` is the time that this machine's rates allow (measured at
the start), over the time taken.

--random_shape makes weights of Qwen2's shapes, for machines without a hub. --json prints one
object. runs/bench.sh has the commands.
"""

import json
import math
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

import cli
from checkpoint import check_model_folder, resolve_model
from cli import BadInput, note, setting

BENCHMARKS = "sampler", "logprob", "step", "packing", "judge", "gpu", "plan"
TINY_SHAPE = dict(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
SHAPES = {
    "qwen2-0.5b": dict(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "qwen2-1.5b": dict(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "qwen2-7b": dict(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    ),
}
DEFAULTS = {  # of flags that depend on the benchmark
    "sampler": dict(prompts=8, generations=8, prompt_tokens=300, new_tokens=256),
    "step": dict(prompts=2, generations=8, prompt_tokens=250, new_tokens=128),
    "judge": dict(new_tokens=256),
    "plan": dict(generations=8, prompt_tokens=1024, new_tokens=8192),
}


@dataclass
class Settings:
    model: str = setting(
        "models/smollm2", "Hugging Face folder or hub name; with --random_shape its tokenizer alone"
    )
    random_shape: Optional[Literal[tuple(SHAPES)]] = setting(
        None, "random weights of this shape instead of the model's"
    )
    layers: Optional[int] = setting(None, "with --random_shape: fewer layers")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "auto: bf16 where the hardware is fast at it"
    )
    repeats: int = setting(3, "times that each arm runs")
    prompts: Optional[int] = setting(
        None, "sampler 8, step 2, plan 128 (at least one a GPU): number of prompts"
    )
    generations: Optional[int] = setting(None, "sampler, step, plan: completions of each (8)")
    prompt_tokens: Optional[int] = setting(
        None, "about so many tokens of a prompt (sampler 300, step 250, plan 1024)"
    )
    new_tokens: Optional[int] = setting(
        None, "tokens of a completion (256; step 128; plan 8192); judge, plan: at most"
    )
    continuous: bool = setting(False, "sampler: run transformers' continuous batching as well")
    tokens: int = setting(4096, "logprob: tokens")
    grid: str = setting(
        "4/256/128,8/256/128,16/1024/256",
        "packing: G/prompt/completion, joined by commas; full = 18 of them",
    )
    data: Optional[str] = setting(
        None, "step, judge: preference pairs in any format of data.py; default: 12 short ones"
    )
    pairs: int = setting(100, "judge: at most so many pairs")
    votes: int = setting(3, "judge: completions in each order")
    micro_batch_tokens: int = setting(
        8192, "packing, plan: at most so many tokens in a forward pass"
    )
    gradient_checkpointing: bool = setting(False, "plan: keep block inputs only")
    gpus: str = setting("8,64,1024", "plan: numbers of GPUs")
    reference: bool = setting(False, "plan: with a reference model, as --beta needs one")
    rates: Optional[str] = setting(None, "plan: the file that `extras.bench gpu --out` has written")
    gpu_memory: float = setting(141, "plan: memory of a GPU, in 1e9 bytes")
    mean_tokens: int = setting(2048, "plan: tokens of a completion in the mean")
    minutes: float = setting(12, "gpu: the time that it may take")
    parts: str = setting(
        "smoke,roofline,logprob,decode,packing,step,decode_more", "gpu: what to run, in this order"
    )
    shapes: Literal["full", "tiny"] = setting("full", "gpu: tiny rehearses it on a CPU")
    out: Optional[str] = setting(None, "gpu: a file to which the JSON lines are added")
    seed: int = setting(0, "of weights, prompts and draws")
    json: bool = setting(False, "print one JSON object")


def model_folder(settings, scratch):
    """The folder of the model.

    With --random_shape a folder in `scratch`: random bf16 weights, the tokenizer of --model.
    """
    folder = resolve_model(settings.model)
    check_model_folder(folder)
    if settings.random_shape is None:
        return folder
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from chat import load_tokenizer

    shape = dict(SHAPES[settings.random_shape])
    if settings.layers:
        shape["num_hidden_layers"] = settings.layers
    torch.manual_seed(settings.seed)
    config = AutoConfig.for_model("qwen2", max_position_embeddings=32768, **shape)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(scratch)
    load_tokenizer(folder).save_pretrained(scratch)
    return Path(scratch)


# ---- the command ----


COUNTS = (
    "repeats prompts generations prompt_tokens new_tokens tokens pairs votes micro_batch_tokens "
    "mean_tokens layers"
).split()


def check(settings, name):
    """Fills in the defaults of a benchmark. Raises BadInput."""
    for flag, value in DEFAULTS.get(name, {}).items():
        if getattr(settings, flag) is None:
            setattr(settings, flag, value)
    for flag in COUNTS:
        value, least = getattr(settings, flag), 1
        if flag == "generations" and name == "step":
            least = 2
        if value is not None and value < least:
            raise BadInput(f"--{flag}: must be at least {least}, got {value}")
    if settings.grid != "full":
        check_numbers("grid", settings.grid, 3, "G/prompt/completion, such as 4/256/128")
    check_numbers("gpus", settings.gpus, 1, "a number of GPUs")
    if not 0 < settings.minutes < math.inf:
        raise BadInput(f"--minutes: must be above 0, got {settings.minutes}")
    for part in settings.parts.split(","):
        if part not in Settings.parts.split(","):
            raise BadInput(f"--parts: {part!r} is not one of {Settings.parts}")


def check_numbers(flag, text, count, form):
    for part in text.split(","):
        numbers = [number.strip() for number in part.split("/")]
        if len(numbers) != count or not all(n.isdigit() and int(n) > 0 for n in numbers):
            raise BadInput(f"--{flag}: {part!r} is not {form}")


def cell(row, name):
    """The text of a value: the range after the median, and a check that failed as such."""
    value, spread = row.get(name, "-"), row.get(f"{name}_range")
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    if spread:
        text += f" ({spread[0]:.3g}-{spread[1]:.3g})"
    if name == "check" and not row["ok"]:
        text += " FAILED"
    return text


def show(rows):
    """Prints a table with the columns of all rows, then the commands of a plan."""
    columns = []
    for name in dict.fromkeys(name for row in rows for name in row):
        if name not in ("ok", "command") and not name.endswith("_range"):
            columns.append(name)
    table = [columns] + [[cell(row, name) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table)]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())
    for row in rows:
        if "command" in row:
            print(row["command"])


def run_benchmark(settings, name):
    """(rows, what is true of all of them) of a benchmark that measures."""
    import torch
    import transformers

    from distributed import start
    from extras import bench_inference, bench_step, bench_training
    from extras.peers import machine_limits

    functions = {
        "sampler": bench_inference.bench_sampler,
        "judge": bench_inference.bench_judge,
        "logprob": bench_training.bench_logprob,
        "packing": bench_training.bench_packing,
        "step": bench_step.bench_step,
    }
    transformers.utils.logging.disable_progress_bar()
    with (
        start(settings.device, settings.dtype) as runtime,
        tempfile.TemporaryDirectory() as scratch,
    ):
        device, dtype = runtime.device, runtime.dtype
        folder, limits = model_folder(settings, scratch), machine_limits(device, dtype)
        machine = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
        if device.type == "cuda":
            machine = torch.cuda.get_device_name(device)
        head = {
            "benchmark": name,
            "machine": machine,
            "dtype": str(dtype)[6:],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "gflops": limits[0] / 1e9,
            "gb_per_second": limits[1] / 1e9,
            "repeats": settings.repeats,
            "seed": settings.seed,
            "model": settings.random_shape or settings.model,
        }
        note(", ".join(f"{key} {cell(head, key)}" for key in head))
        return functions[name](settings, folder, device, dtype, limits), head


def run_gpu(settings):
    """The benchmark that prints its rows itself, as they come. Exits with 1 where a check fails."""
    from extras.bench_gpu import bench_gpu
    from model import choose_device, compute_dtype

    device = choose_device(settings.device)
    shapes = SHAPES | {"tiny": TINY_SHAPE}
    if not bench_gpu(settings, shapes, device, compute_dtype(settings.dtype, device)):
        sys.exit(1)


def main(argv=None):
    name, *flags = (sys.argv[1:] if argv is None else argv) or ["none"]
    if name in ("-h", "--help"):
        flags = [name]
    settings = cli.parse_settings(Settings, flags, description=__doc__)
    if name not in BENCHMARKS:
        raise BadInput(f"say first which: {', '.join(BENCHMARKS)}")
    check(settings, name)
    if name == "gpu":
        run_gpu(settings)
        return
    if name == "plan":
        from extras.plan import rows_for

        rows, head = rows_for(settings, SHAPES), {"benchmark": name}
    else:
        rows, head = run_benchmark(settings, name)
    if settings.json:
        print(json.dumps(head | {"rows": rows}, allow_nan=False))
    else:
        show(rows)
    if not all(row.get("ok", True) for row in rows):
        note("a check has failed")
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
