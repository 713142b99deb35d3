"""Ours beside what one would use instead: the same weights, in one process, by turns; each row says how it was checked as well.

    python -m extras.bench sampler    sampler.py              transformers' generate, and its continuous batching with --continuous
    python -m extras.bench logprob    kernels/logprob.py      all logits at once; torch.compile, liger-kernel, cut-cross-entropy on a GPU
    python -m extras.bench step       one step of train_grpo  one of TRL's GRPOTrainer (pip install trl)
    python -m extras.bench packing    shared prompts          the same completions packed without sharing, and padded
    python -m extras.bench judge      judge.py                a loop that calls generate for one prompt after the other
    python -m extras.bench plan       memory and time on 8 to 1,024 GPUs by calculation (extras/plan.py)

--random_shape makes weights of Qwen2's shapes, for machines without a hub; --json prints one object. `ratio`: the arm's time over ours, median
and range over the repeats, on the wall and (on a CPU) in processor time, which other work disturbs less. `of_limit`: the time that this machine's
own rates (measured at the start) allow, over the time taken. Exit code 1 where a check fails. runs/bench.sh has the commands.
"""

import json
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

import cli
from checkpoint import check_model_folder, resolve_model
from cli import BadInput, note, setting

BENCHMARKS = "sampler", "logprob", "step", "packing", "judge", "plan"
SHAPES = {
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
DEFAULTS = {  # what a flag is that was not given
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
        None, "sampler, step, plan: prompts (8, 2; plan: 128, or one a GPU)"
    )
    generations: Optional[int] = setting(None, "sampler, step, plan: completions of each (8)")
    prompt_tokens: Optional[int] = setting(
        None, "tokens of a prompt, about (sampler 300, step 250, plan 1024)"
    )
    new_tokens: Optional[int] = setting(
        None, "tokens of a completion (256; step 128; judge: at most; plan: at most, 8192)"
    )
    continuous: bool = setting(False, "sampler: run transformers' continuous batching as well")
    tokens: int = setting(4096, "logprob: tokens")
    grid: str = setting(
        "4/256/128,8/256/128,16/1024/256",
        "packing: G/prompt/completion, separated by commas; full = 18 of them",
    )
    data: Optional[str] = setting(
        None, "step, judge: preference pairs in any format of data.py; default: 12 short ones"
    )
    pairs: int = setting(100, "judge: pairs at most")
    votes: int = setting(3, "judge: completions in each order")
    micro_batch_tokens: int = setting(8192, "packing, plan: tokens of a forward pass at most")
    gradient_checkpointing: bool = setting(False, "plan: keep block inputs only")
    gpus: str = setting("8,64,1024", "plan: numbers of GPUs")
    gpu_memory: float = setting(141, "plan: 1e9 bytes a GPU")
    mean_tokens: int = setting(2048, "plan: tokens of a completion in the mean")
    seed: int = setting(0, "of weights, prompts and draws")
    json: bool = setting(False, "print one JSON object")


# ---- models ----


def model_folder(settings, scratch):
    """The folder of the model; with --random_shape one in `scratch` that holds random bf16 weights and the tokenizer of --model."""
    folder = resolve_model(settings.model)
    check_model_folder(folder)
    if settings.random_shape is None:
        return folder
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from chat import load_tokenizer

    shape = SHAPES[settings.random_shape] | (
        {"num_hidden_layers": settings.layers} if settings.layers else {}
    )
    torch.manual_seed(settings.seed)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("qwen2", max_position_embeddings=32768, **shape), dtype=torch.bfloat16
    )
    model.save_pretrained(scratch)
    load_tokenizer(folder).save_pretrained(scratch)
    return Path(scratch)


# ---- the benchmarks: each returns rows ----


def logprob_gap(peer, prompts, results, temperature=1.0):
    """(mean, largest) distance between the log-probs of our completions (the first of four prompts) and what transformers makes of them."""
    import torch

    gaps = []
    for prompt, (completion, *_) in list(zip(prompts, results))[:4]:
        ids = torch.tensor([prompt + completion.tokens], device=peer.device)
        with torch.inference_mode():
            hidden = peer.base_model(ids).last_hidden_state[0, len(prompt) - 1 : -1].float()
            logprobs = (
                hidden @ peer.get_output_embeddings().weight.float().T / temperature
            ).log_softmax(-1)  # its own logits are bf16
        gaps.append(
            (
                logprobs.gather(1, ids[0, len(prompt) :, None])[:, 0].cpu()
                - torch.tensor(completion.logprobs)
            ).abs()
        )
    gaps = torch.cat(gaps)
    return gaps.mean().item(), gaps.max().item()


def bench_sampler(settings, folder, device, dtype, limits):
    import torch

    from extras.peers import (
        alternate,
        load_both,
        peer_continuous,
        peer_generate,
        random_prompts,
        rollout_seconds,
        rows_of,
    )
    from extras.plan import sizes_of
    from sampler import generate

    model, peer = load_both(folder, device, dtype)
    prompts, rows, new = (
        random_prompts(settings, model.config.vocab_size),
        settings.prompts * settings.generations,
        settings.new_tokens,
    )
    arms = {
        "ours": lambda: generate(model, prompts, settings.generations, new, seed=settings.seed),
        "generate": lambda: peer_generate(peer, prompts, settings.generations, new, 1.0),
    }
    if settings.continuous:
        arms["continuous"] = lambda: peer_continuous(peer, prompts, settings.generations, new)
    torch.manual_seed(settings.seed)
    generate(model, prompts[:1], 2, 2)
    peer_generate(peer, prompts[:1], 2, 2, 1.0)
    runs = alternate(arms, settings.repeats, device)
    results = runs["ours"][-1]["result"]
    mean, largest = logprob_gap(peer, prompts, results)
    text, passed = (
        f"log-probs {mean:.1e} ({largest:.1e})",
        largest <= 1e-3 if dtype == torch.float32 else mean <= 0.1,
    )
    if dtype == torch.float32:
        short = min(new, 16)
        same = [
            generate(model, [prompt], 1, short, temperature=0.0)[0][0].tokens
            == peer_generate(peer, [prompt], 1, short, 0.0)[0].tolist()
            for prompt in prompts[:2]
        ]
        text, passed = f"{text}, greedy tokens equal: {all(same)}", passed and all(same)
    counts = {
        name: sum(map(len, measured[-1]["result"]))
        for name, measured in runs.items()
        if name != "ours"
    }  # the same work for all
    checks = {name: (f"{count} tokens", count == rows * new) for name, count in counts.items()} | {
        "ours": (text, passed)
    }
    floor = rollout_seconds(sizes_of(model.config.raw), prompts, rows, new, dtype.itemsize, *limits)
    shape = dict(
        prompts=settings.prompts,
        generations=settings.generations,
        prompt_tokens=settings.prompt_tokens,
        new_tokens=new,
    )
    table = rows_of(runs, floor, device, checks, **shape)
    return [row | {"tokens_per_second": rows * new / row["seconds"]} for row in table]


def bench_judge(settings, folder, device, dtype, limits):
    import torch

    from chat import load_tokenizer
    from extras.peers import (
        alternate,
        load_both,
        load_items,
        peer_generate,
        rollout_seconds,
        rows_of,
    )
    from extras.plan import sizes_of
    from judge import Judge, as_pair
    from styles import judge_messages
    from verdicts import BOTH_ORDERS, parse_verdict

    model, peer = load_both(folder, device, dtype)
    tokenizer = load_tokenizer(folder)
    judge, items = (
        Judge(model, tokenizer, "rrm", seed=settings.seed),
        load_items(settings, settings.pairs),
    )
    pairs = [
        pair
        for pair in map(as_pair, items)
        if max(len(judge.encode(pair, order, 1)) for order in BOTH_ORDERS) + settings.new_tokens
        <= judge.context
    ]

    if not pairs:
        raise BadInput(
            f"--data: none of {len(items)} pairs leaves room for --new_tokens {settings.new_tokens} in the context: give less, or other data"
        )
    games = [(pair, order) for pair in pairs for order in BOTH_ORDERS]
    messages = [
        judge_messages(judge.style, pair.messages, *(pair.answers[index] for index in order))
        for pair, order in games
    ]

    def encode():
        return [
            tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
            for message in messages
        ]

    def loop():  # what one writes first: a prompt after the other, its votes as one batch
        replies = []
        for prompt in encode():
            for row in peer_generate(
                peer, [prompt], settings.votes, settings.new_tokens, 0.6, judge.backend.stops
            ).tolist():
                length = next(
                    (index for index, token in enumerate(row) if token in judge.backend.stops),
                    len(row),
                )
                replies.append((tokenizer.decode(row[:length]), min(length + 1, len(row))))
        return replies

    prompts = [judge.encode(pair, order, settings.new_tokens) for pair, order in games]
    torch.manual_seed(settings.seed)
    peer_generate(peer, prompts[:1], 1, 2, 0.6)
    runs = alternate(
        {
            "ours": lambda: judge.judge(
                pairs, settings.votes, max_completion_length=settings.new_tokens
            ),
            "loop": loop,
        },
        settings.repeats,
        device,
    )
    records = [record for judgment in runs["ours"][-1]["result"] for record in judgment.games]
    replies, same = runs["loop"][-1]["result"], encode() == prompts
    tokens = [sum(record["tokens"] for record in records), sum(length for _, length in replies)]
    valid = (
        sum(record["verdict"] is not None for record in records),
        sum(parse_verdict(text, judge.style) is not None for text, _ in replies),
    )
    checks = {
        "ours": (
            f"prompts equal: {same}, {valid[0]} verdicts",
            same and len(records) == len(replies),
        ),
        "loop": (f"{valid[1]} verdicts", True),
    }
    floor = rollout_seconds(
        sizes_of(model.config.raw),
        prompts,
        len(records),
        tokens[0] / len(records),
        dtype.itemsize,
        *limits,
    )
    rows = rows_of(
        runs,
        floor,
        device,
        checks,
        pairs=len(pairs),
        votes=settings.votes,
        new_tokens=settings.new_tokens,
    )
    return [row | {"tokens_per_game": count / len(records)} for row, count in zip(rows, tokens)]


# ---- the command ----


def check(settings, name):
    for flag, value in DEFAULTS.get(name, {}).items():
        if getattr(settings, flag) is None:
            setattr(settings, flag, value)
    for flag in (
        "repeats",
        "prompts",
        "generations",
        "prompt_tokens",
        "new_tokens",
        "tokens",
        "pairs",
        "votes",
        "micro_batch_tokens",
        "mean_tokens",
        "layers",
    ):
        value, least = getattr(settings, flag), 2 if flag == "generations" and name == "step" else 1
        if value is not None and value < least:
            raise BadInput(f"--{flag}: must be at least {least}, got {value}")
    for flag, count in (("grid", 3), ("gpus", 1)):
        for part in [] if getattr(settings, flag) == "full" else getattr(settings, flag).split(","):
            numbers = part.strip().split("/")
            if len(numbers) != count or not all(
                number.strip().isdigit() and int(number) > 0 for number in numbers
            ):
                raise BadInput(
                    f"--{flag}: {part!r} is not {'G/prompt/completion, such as 4/256/128' if count == 3 else 'a number of GPUs'}"
                )


def show(rows):
    """A table: one line a row, columns of all rows; ranges behind their medians."""
    columns = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if name not in ("ok", "command") and not name.endswith("_range")
    ]

    def cell(row, name):
        value, spread = row.get(name, "-"), row.get(f"{name}_range")
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
        return (
            text
            + (f" ({spread[0]:.3g}-{spread[1]:.3g})" if spread else "")
            + " FAILED" * (name == "check" and not row["ok"])
        )

    table = [columns, *([cell(row, name) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    print(
        "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip()
            for line in table
        )
    )
    for row in rows:
        if "command" in row:
            print(row["command"])


def main(argv=None):
    name, *flags = (sys.argv[1:] if argv is None else argv) or ["none"]
    flags = [name] * (name in ("-h", "--help")) + flags
    settings = cli.parse_settings(Settings, flags, description=__doc__)
    if name not in BENCHMARKS:
        raise BadInput(f"say first which: {', '.join(BENCHMARKS)}")
    check(settings, name)
    if name == "plan":
        from extras.plan import rows_for

        rows, head = rows_for(settings, SHAPES), {"benchmark": name}
    else:
        import torch
        import transformers

        from distributed import start
        from extras import bench_training
        from extras.peers import machine_limits

        functions = {
            "sampler": bench_sampler,
            "judge": bench_judge,
            "logprob": bench_training.bench_logprob,
            "packing": bench_training.bench_packing,
            "step": bench_training.bench_step,
        }
        with (
            start(settings.device, settings.dtype) as runtime,
            tempfile.TemporaryDirectory() as scratch,
        ):
            transformers.utils.logging.disable_progress_bar()
            device, dtype = runtime.device, runtime.dtype
            folder, limits = model_folder(settings, scratch), machine_limits(device, dtype)
            place = (
                torch.cuda.get_device_name(device)
                if device.type == "cuda"
                else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
            )
            head = {
                "benchmark": name,
                "machine": place,
                "dtype": str(dtype)[6:],
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "gflops": limits[0] / 1e9,
                "gb_per_second": limits[1] / 1e9,
                "repeats": settings.repeats,
                "seed": settings.seed,
                "model": settings.random_shape or settings.model,
            }
            note(
                ", ".join(
                    f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                    for key, value in head.items()
                )
            )
            rows = functions[name](settings, folder, device, dtype, limits)
    print(json.dumps(head | {"rows": rows}, allow_nan=False)) if settings.json else show(rows)
    if not all(row.get("ok", True) for row in rows):
        note("a check has failed")
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
