"""What the benchmarks share: measuring in turns, limits of the machine, transformers, prompts."""

import os
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from backends import for_sampling
from checkpoint import check_model_folder
from data import Pair, load_pairs
from extras.probe import QUESTIONS
from model import Config, Model

# ---- measuring ----


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_in_use(device, peak=False):
    """Bytes now, or the highest since `reset_peak`.

    Of the allocator on a GPU, of the process on Linux, else 0.
    """
    if device.type == "cuda":
        return (
            torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)
        )
    status = Path("/proc/self/status")
    field = "VmHWM:" if peak else "VmRSS:"
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak(device):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access("/proc/self/clear_refs", os.W_OK):
        # proc(5): the peak falls to what is in use now.
        Path("/proc/self/clear_refs").write_text("5")


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
    """{name: [measure(function), ...]} of {name: function}, in the order A B A B.

    A machine that grows warmer or busier then favours no arm. Only the last result of each arm is
    kept: gradients of a large model do not fit twice.
    """
    runs = {name: [] for name in arms}
    for _ in range(repeats):
        for name, function in arms.items():
            if runs[name]:
                runs[name][-1]["result"] = None
            runs[name].append(measure(function, device))
    return runs


def rows_of(runs, limit_seconds, device, checks, **shape):
    """One row an arm; the first arm is ours.

    checks: {arm: (text, passed)}. limit_seconds: what the machine's rates allow.
    """
    ours, rows = next(iter(runs.values())), []
    for name, measured in runs.items():
        row = shape | {"arm": name} | spread("seconds", [run["seconds"] for run in measured])
        row |= spread("ratio", ratios(measured, ours, "seconds"))
        if device.type == "cpu":
            row |= spread("cpu_ratio", ratios(measured, ours, "cpu_seconds"))
        row |= {
            "cpu_seconds": statistics.median(run["cpu_seconds"] for run in measured),
            "peak_mib": max(run["peak_bytes"] for run in measured) / 2**20,
            "of_limit": limit_seconds / row["seconds"],
        }
        text, passed = checks.get(name, ("-", True))
        rows.append(row | {"check": text, "ok": bool(passed)})
    return rows


def spread(name, values):
    return {name: statistics.median(values), f"{name}_range": [min(values), max(values)]}


def ratios(measured, ours, name):
    """Each run over the run of ours in the same turn."""
    return [theirs[name] / max(own[name], 1e-9) for theirs, own in zip(measured, ours)]


def machine_limits(device, dtype):
    """(operations a second of a large product, bytes a second that a sum reads), best of five."""
    size = 8192 if device.type == "cuda" else 1536
    # Random numbers: zeros take less power, and a GPU then runs faster.
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    numbers = torch.randn(2**30 if device.type == "cuda" else 2**26, device=device)
    product = min(measure(lambda: a @ b, device)["seconds"] for _ in range(5))
    reading = min(measure(lambda: numbers.sum(), device)["seconds"] for _ in range(5))
    return 2 * size**3 / product, numbers.nbytes / reading


def training_operations(sizes, tokens, targets):
    """Forward and backward without attention: 6 operations a weight and token.

    The head is computed for the targets alone.
    """
    return 6 * sizes.body * tokens + 6 * sizes.head * targets


def rollout_seconds(sizes, prompts, rows, new_tokens, itemsize, operations, bandwidth):
    """The least time for `rows` completions at once.

    A prompt is computed once. A step reads the weights, or computes its products, whatever takes
    longer, and reads each key and value once.
    """
    prompt_tokens = sum(map(len, prompts))
    kv, weights = 2 * itemsize * sizes.layers * sizes.kv_width, sizes.body + sizes.head
    step = max(itemsize * weights / bandwidth, 2 * weights * rows / operations)
    kv_reads = new_tokens * prompt_tokens + rows * new_tokens**2 / 2
    prefill = 2 * sizes.body * prompt_tokens / operations
    return prefill + new_tokens * step + kv * kv_reads / bandwidth


# ---- models and prompts ----


def load_both(folder, device, dtype):
    """(our Model as a judge loads it, transformers' model without its sampling defaults)."""
    peer = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    peer.generation_config = GenerationConfig(pad_token_id=0)
    with torch.device("meta"):
        model = Model(Config(check_model_folder(folder)))
    weights = {name.removeprefix("model."): weight for name, weight in peer.state_dict().items()}
    model.load_state_dict(
        {name: weights[name] for name, _ in model.named_parameters()}, assign=True
    )
    return for_sampling(model), peer


def random_prompts(settings, vocab_size):
    """Token ids; lengths are evenly spaced within 12 % of --prompt_tokens."""
    generator, prompts = torch.Generator().manual_seed(settings.seed), []
    for index in range(settings.prompts):
        deviation = 0.24 * ((index + 0.5) / settings.prompts - 0.5)
        length = max(1, round(settings.prompt_tokens * (1 + deviation)))
        ids = torch.randint(vocab_size // 100, vocab_size, (length,), generator=generator)
        prompts.append(ids.tolist())
    return prompts


def load_items(settings, limit):
    if settings.data:
        return load_pairs(settings.data, keep_ties=True)[:limit]
    pairs = []
    for index, (question, right, wrong) in enumerate(QUESTIONS[:limit]):
        messages = [{"role": "user", "content": question}]
        pairs.append(Pair(str(index), messages, (right, wrong), 0))
    return pairs


def peer_generate(peer, prompts, generations, new_tokens, temperature, stops=()):
    """transformers' generate on prompts padded at the left: the new tokens, (rows, tokens)."""
    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    ids, mask = torch.tensor([ids, mask], device=peer.device)  # (prompts, width) each
    sampling = dict(do_sample=False)
    if temperature:
        sampling = dict(do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
    options = GenerationConfig(
        max_new_tokens=new_tokens,
        num_return_sequences=generations,
        pad_token_id=0,
        eos_token_id=list(stops) or None,
        **sampling,
    )
    return peer.generate(ids, attention_mask=mask, generation_config=options)[:, width:]


def peer_continuous(peer, prompts, generations, new_tokens):
    """transformers' continuous batching with its paged cache.

    A prompt is handed in once for each completion.
    """
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
