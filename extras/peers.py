"""What the benchmarks share: measuring by turns, what the machine allows, transformers on the weights of our model, prompts."""

import os
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from checkpoint import check_model_folder
from data import Pair, load_pairs
from extras.probe import QUESTIONS
from model import Config, Model

# ---- measuring ----


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_in_use(device, peak=False):
    """Bytes now, or the highest since `reset_peak`: of the allocator on a GPU, of the process on Linux, else 0."""
    if device.type == "cuda":
        return (
            torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)
        )
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(
        int(line.split()[1]) * 1024
        for line in lines
        if line.startswith("VmHWM:" if peak else "VmRSS:")
    )


def reset_peak(device):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text(
            "5"
        )  # proc(5): the peak falls to what is in use now


def measure(function, device):
    """{seconds, cpu_seconds, peak_bytes (above what was in use before), result} of one call."""
    synchronize(device)
    reset_peak(device)
    before, wall, cpu = memory_in_use(device), time.perf_counter(), time.process_time()
    result = function()
    synchronize(device)
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_bytes": max(0, memory_in_use(device, peak=True) - before),
        "result": result,
    }


def alternate(arms, repeats, device):
    """{name: [measure(function), ...]} of {name: function}: A B A B, so that a machine that grows warmer or busier favours nobody."""
    runs = {name: [] for name in arms}
    for _ in range(repeats):
        for name, function in arms.items():
            if runs[name]:
                runs[name][-1]["result"] = (
                    None  # only the last is looked at: gradients of a large model are not kept twice
                )
            runs[name].append(measure(function, device))
    return runs


def rows_of(runs, limit_seconds, device, checks, **shape):
    """One row an arm; the first arm is ours. checks {arm: (text, passed)}; limit_seconds: what the machine's rates allow."""
    ours, rows = next(iter(runs.values())), []
    for name, measured in runs.items():

        def column(what, measured=measured):
            return [run[what] for run in measured]

        row = shape | {
            "arm": name,
            "seconds": statistics.median(column("seconds")),
            "seconds_range": [min(column("seconds")), max(column("seconds"))],
        }
        for what, key in (("seconds", "ratio"), ("cpu_seconds", "cpu_ratio")):
            if device.type == "cpu" or what == "seconds":
                ratios = [
                    theirs / max(own, 1e-9)
                    for theirs, own in zip(column(what), (run[what] for run in ours))
                ]
                row |= {key: statistics.median(ratios), f"{key}_range": [min(ratios), max(ratios)]}
        row |= {
            "cpu_seconds": statistics.median(column("cpu_seconds")),
            "peak_mib": max(column("peak_bytes")) / 2**20,
            "of_limit": limit_seconds / row["seconds"],
        }
        text, passed = checks.get(name, ("-", True))
        rows.append(row | {"check": text, "ok": bool(passed)})
    return rows


def machine_limits(device, dtype):
    """(operations a second of a large product in dtype, bytes a second that a sum reads): the best of five."""
    size = 8192 if device.type == "cuda" else 1536
    a, b = torch.randn(2, size, size, device=device).to(
        dtype
    )  # random: zeros take less power, and a GPU then runs faster
    numbers = torch.randn(2**30 if device.type == "cuda" else 2**26, device=device)
    product = min(measure(lambda: a @ b, device)["seconds"] for _ in range(5))
    reading = min(measure(lambda: numbers.sum(), device)["seconds"] for _ in range(5))
    return 2 * size**3 / product, numbers.nbytes / reading


def training_operations(sizes, tokens, targets):
    """Forward and backward without attention: 6 operations a weight and token, the head over targets alone."""
    return 6 * sizes.body * tokens + 6 * sizes.head * targets


def rollout_seconds(sizes, prompts, rows, new_tokens, itemsize, operations, bandwidth):
    """The least time for `rows` completions at once: a prompt computed once, weights or products a step, each key and value read once a step."""
    kv, weights = 2 * itemsize * sizes.layers * sizes.kv_width, sizes.body + sizes.head
    step = max(itemsize * weights / bandwidth, 2 * weights * rows / operations)
    return (
        2 * sizes.body * sum(map(len, prompts)) / operations
        + new_tokens * step
        + kv * (new_tokens * sum(map(len, prompts)) + rows * new_tokens**2 / 2) / bandwidth
    )


# ---- models and prompts ----


def load_both(folder, device, dtype):
    """(our Model, transformers' model): they share their weights. The latter's own sampling defaults are put away."""
    peer = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    peer.generation_config = GenerationConfig(pad_token_id=0)
    with torch.device("meta"):
        model = Model(Config.from_dict(check_model_folder(folder)))
    weights = {name.removeprefix("model."): weight for name, weight in peer.state_dict().items()}
    model.load_state_dict(
        {name: weights[name] for name, _ in model.named_parameters()}, assign=True
    )
    return model, peer


def random_prompts(settings, vocab_size):
    """Token ids; lengths lie evenly within 12 % of --prompt_tokens."""
    generator, count = torch.Generator().manual_seed(settings.seed), settings.prompts
    lengths = [
        max(1, round(settings.prompt_tokens * (1 + 0.24 * ((index + 0.5) / count - 0.5))))
        for index in range(count)
    ]
    return [
        torch.randint(vocab_size // 100, vocab_size, (length,), generator=generator).tolist()
        for length in lengths
    ]


def load_items(settings, limit):
    if settings.data:
        return load_pairs(settings.data, limit=limit, keep_ties=True)
    return [
        Pair(str(index), [{"role": "user", "content": question}], (right, wrong), 0)
        for index, (question, right, wrong) in enumerate(QUESTIONS)
    ][:limit]


def peer_generate(peer, prompts, generations, new_tokens, temperature, stops=()):
    """transformers' generate on prompts padded at the left -> (rows, tokens) of what was generated."""
    width = max(map(len, prompts))
    ids = torch.tensor(
        [[0] * (width - len(prompt)) + prompt for prompt in prompts], device=peer.device
    )
    mask = torch.tensor(
        [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=peer.device
    )
    sampling = (
        dict(do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
        if temperature
        else dict(do_sample=False)
    )
    options = GenerationConfig(
        max_new_tokens=new_tokens,
        num_return_sequences=generations,
        pad_token_id=0,
        eos_token_id=list(stops) or None,
        **sampling,
    )
    return peer.generate(ids, attention_mask=mask, generation_config=options)[:, width:]


def peer_continuous(peer, prompts, generations, new_tokens):
    """transformers' continuous batching, which has its own paged cache; a prompt is handed in once for each completion."""
    options = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=0,
        eos_token_id=-1,
    )
    outputs = peer.generate_batch(
        inputs=[prompt for prompt in prompts for _ in range(generations)],
        generation_config=options,
        progress_bar=False,
    )
    return [output.generated_tokens for output in outputs.values()]
