"""The parts of `python -m extras.bench gpu` (bench_gpu.py). Each takes a Run and yields rows."""

import gc
import itertools
import json
import statistics
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

import sampler
import train_grpo
from chat import load_tokenizer
from distributed import Policy, Runtime
from extras import peers
from extras.bench_step import OwnStep, checksum_reward
from extras.bench_training import logprob_arms, packing_rows
from extras.peers import (
    measure,
    peer_generate,
    rollout_seconds,
    synchronize,
    training_operations,
)
from extras.plan import PEAK, sizes_of
from model import Config, Model, pack_groups
from rollout import Group

TINY_MODEL = Path(__file__).parents[1] / "tiny/base"
GENERATIONS = 16  # that share a prompt in the part decode
DECODE_SECONDS = 15  # that one measurement of the part decode may take
GOALS = {  # on one H100 or H200
    "decode qwen2-1.5b 1": 600,  # tokens a second
    "decode qwen2-1.5b 64": 20_000,
    "decode qwen2-1.5b 256": 40_000,
    "logprob forward": 0.016,  # seconds
    "packing": 2.5,  # times as fast as packed without sharing
    "step": 0.35,  # MFU of the update
}


def with_goal(run, row, name, metric):
    """The row, on a GPU with the goal of one of its metrics and whether it is reached."""
    if run.device.type != "cuda" or name not in GOALS:
        return row
    value, goal = row[metric], GOALS[name]
    if metric == "seconds":
        return row | {"goal": f"{metric} <= {goal}", "reached": value <= goal}
    return row | {"goal": f"{metric} >= {goal}", "reached": value >= goal}


def failure(error):
    text = str(error).strip().splitlines() or [""]
    return {"error": f"{type(error).__name__}: {text[0]:.300}", "ok": False}


def free_memory(device):
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def random_models(run, name, with_peer):
    """(our Model, transformers' or None) of a shape, on the device; they share their weights."""
    raw = run.config(name)
    with torch.device("meta"):
        model = Model(Config(raw))
    if not with_peer:
        model = model.to(run.dtype).to_empty(device=run.device).requires_grad_(False)
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.02)
            else:
                weight.fill_(0 if name.endswith("bias") else 1)
        return model, None
    config = AutoConfig.for_model(**raw)
    with run.device:
        peer = AutoModelForCausalLM.from_config(config, dtype=run.dtype).eval()
    peer.requires_grad_(False).generation_config = GenerationConfig(pad_token_id=0)
    weights = {key.removeprefix("model."): weight for key, weight in peer.state_dict().items()}
    names = [key for key, _ in model.named_parameters()]
    model.load_state_dict({key: weights[key] for key in names}, assign=True)
    return model, peer


def random_folder(run, name):
    """A model folder of a shape with random weights, and the tokenizer of the embedded model."""
    folder = run.scratch / name
    if not folder.exists():
        model, _ = random_models(run, name, with_peer=False)
        model.save_pretrained(folder)
        load_tokenizer(TINY_MODEL).save_pretrained(folder)
    return folder


def random_prompts(count, tokens, vocab_size=300):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(4, vocab_size, (count, tokens), generator=generator).tolist()


# ---- smoke ----


def smoke(run):
    yield sampler_against_trainer(run)
    yield resumed_training(run)
    yield fsdp_of_one_process(run)


def sampler_against_trainer(run):
    """In bf16 they differ by rounding: about 0.01 in the mean on a GPU."""
    model, _ = random_models(run, run.sizes.smoke, with_peer=False)
    prompts = random_prompts(4, run.sizes.context // 4)
    results = sampler.generate(model, prompts, 4, min(64, run.sizes.context // 2))
    groups = [(p, [c.tokens for c in group]) for p, group in zip(prompts, results)]
    with torch.no_grad():
        logprobs, _ = model.logprobs(pack_groups(groups, run.device))
    own = [x for group in results for completion in group for x in completion.logprobs]
    gaps = (logprobs.cpu() - torch.tensor(own)).abs()
    mean, most = gaps.mean().item(), gaps.max().item()
    row = {"what": "log-probs, sampler against trainer", "mean_gap": mean, "largest_gap": most}
    return row | {"ok": mean <= 0.02}


def resumed_training(run):
    """Two steps at once, and the second one resumed from the checkpoint of the first."""
    rows = []
    for name, calls in (("whole", [(2, False)]), ("resumed", [(1, False), (2, True)])):
        folder = run.scratch / name
        for max_steps, resume in calls:
            settings = train_grpo.Settings(
                output_dir=str(folder),
                max_steps=max_steps,
                resume=resume,
                save_every=1,
                eval_every=0,
                prompts_per_step=8,
                device=run.device.type,
                dtype=str(run.dtype)[6:],
            )
            train_grpo.main(settings)
        rows.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]))
    whole, resumed = rows
    row = {"what": "training and resume", "grad_norm": whole["grad_norm"]}
    row |= {"loss": whole["loss"], "loss_resumed": resumed["loss"]}
    row["logp_diff_mean"] = whole["sampling/logp_diff_mean"]
    same = abs(whole["reward"] - resumed["reward"]) <= 0.05
    return row | {"ok": same and whole["grad_norm"] > 0}


def fsdp_of_one_process(run):
    """Log-probs of sharded weights, a gradient, and sampling from the gathered weights."""
    from sharding import gathered, load_shards

    with tempfile.NamedTemporaryFile() as file:
        backend = "nccl" if run.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.FileStore(file.name, 1), rank=0, world_size=1)
        try:
            model = load_shards(
                TINY_MODEL, Runtime(0, 1, run.device, run.dtype), torch.float32, None
            )
            pack = pack_groups([([5, 6, 7], [[8, 9], [10, 11, 12]])], run.device)
            logprobs, _ = model.logprobs(pack)
            logprobs.sum().backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).full_tensor().item()
            plain = Model.from_pretrained(TINY_MODEL, run.device, run.dtype)
            expected, _ = plain.logprobs(pack)
            gap = (logprobs - expected).abs().max().item()
            with gathered(model) as whole:
                sampler.generate(whole, [[5, 6, 7]], 2, 8)
            synchronize(run.device)
        finally:
            dist.destroy_process_group()
    row = {"what": "FSDP of one process", "largest_gap": gap, "grad_norm": norm}
    return row | {"ok": gap <= 0.05 and norm > 0}


# ---- what the machine can do ----


def roofline(run):
    run.limits = peers.machine_limits(run.device, run.dtype)
    row = {"gflops": run.limits[0] / 1e9, "read_gb_per_second": run.limits[1] / 1e9}
    source = torch.empty(2**30 if run.device.type == "cuda" else 2**22, device=run.device)
    target = torch.empty_like(source)
    seconds = min(measure(lambda: target.copy_(source), run.device)["seconds"] for _ in range(5))
    yield row | {"copy_gb_per_second": 2 * source.nbytes / seconds / 1e9}


# ---- log-probs ----


def logprob(run):
    tokens, hidden_size, vocab = run.sizes.logprob
    hidden = torch.randn(tokens, hidden_size, device=run.device, dtype=run.dtype)
    weight = torch.randn(vocab, hidden_size, device=run.device, dtype=run.dtype) / hidden_size**0.5
    targets = torch.randint(vocab, (tokens,), device=run.device)
    arms = {name: arm for name, arm in logprob_arms(run.device).items() if name != "torch.compile"}
    bare = 2 * tokens * vocab * hidden_size / run.limits[0]

    def forward(arm):
        with torch.no_grad():
            arm(hidden, weight, targets)

    def forward_backward(arm):
        x, w = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
        torch.autograd.grad(arm(x, w, targets)[0].sum(), (x, w))

    for (name, arm), (work, products) in itertools.product(
        arms.items(), [(forward, 1), (forward_backward, 3)]
    ):
        row = {"arm": name, "pass": work.__name__, "tokens": tokens, "hidden": hidden_size}
        try:
            work(arm)  # warm-up: compiles
            runs = [measure(lambda: work(arm), run.device) for _ in range(10)]  # noqa: B023
        except Exception as error:  # of another package: ours is measured all the same
            yield row | failure(error)
            continue
        seconds = statistics.median(one["seconds"] for one in runs)
        row |= {"vocab": vocab, "seconds": seconds, "of_limit": products * bare / seconds}
        row["peak_mib"] = max(one["peak_bytes"] for one in runs) / 2**20
        is_ours = name == "ours" and products == 1
        yield with_goal(run, row, "logprob forward", "seconds") if is_ours else row


# ---- decoding ----


def decode(run, names):
    for name in names:
        model, peer = random_models(run, name, with_peer=True)
        for rows in run.sizes.rows:
            if run.left() < 4 * DECODE_SECONDS:
                yield {"model": name, "rows": rows, "skipped": f"{run.left():.0f} s left"}
                continue
            try:
                yield own_decode(run, name, model, rows)
            except Exception as error:
                yield {"arm": "ours", "model": name, "rows": rows} | failure(error)
            free_memory(run.device)
            try:
                yield peer_decode(run, name, peer, rows)
            except Exception as error:
                yield {"arm": "generate", "model": name, "rows": rows} | failure(error)
            free_memory(run.device)
        del model, peer
        free_memory(run.device)


def decode_seconds(generate, new_tokens, device):
    """Seconds of new_tokens - 1 decoding steps: the prompts, and a first token, are taken off."""
    first = measure(lambda: generate(1), device)["seconds"]
    return max(1e-9, measure(lambda: generate(new_tokens), device)["seconds"] - first)


def own_decode(run, name, model, rows):
    """As many tokens as fit DECODE_SECONDS, around a mean context of sizes.context."""
    shared = min(rows, GENERATIONS)
    prompts, sizes = None, run.sizes

    def generate(new_tokens):
        return sampler.generate(model, prompts, shared, new_tokens, max_rows=rows)

    prompts = random_prompts(max(1, rows // shared), sizes.context)
    few = min(24, sizes.most_new_tokens)
    generate(few)  # warm-up: compiles, captures
    a_step = decode_seconds(generate, few, run.device) / (few - 1)
    new_tokens = int(max(few, min(sizes.most_new_tokens, DECODE_SECONDS / a_step)))
    prompts = [prompt[: max(1, sizes.context - new_tokens // 2)] for prompt in prompts]
    generate(few)
    seconds = decode_seconds(generate, new_tokens, run.device)
    shape = sizes_of(run.config(name))
    floor = rollout_seconds(shape, prompts, rows, new_tokens, run.dtype.itemsize, *run.limits)
    floor -= 2 * shape.body * sum(map(len, prompts)) / run.limits[0]  # the prompts' own time
    row = {"arm": "ours", "model": name, "rows": rows, "prompt_tokens": len(prompts[0])}
    row |= {"new_tokens": new_tokens, "tokens_per_second": rows * (new_tokens - 1) / seconds}
    row |= {"step_ms": 1e3 * seconds / (new_tokens - 1), "of_limit": floor / seconds}
    return with_goal(run, row, f"decode {name} {rows}", "tokens_per_second")


def peer_decode(run, name, peer, rows):
    shared, new_tokens = min(rows, GENERATIONS), run.sizes.peer_tokens
    prompts = random_prompts(max(1, rows // shared), run.sizes.context)

    def generate(new_tokens):
        return peer_generate(peer, prompts, shared, new_tokens, 1.0)

    generate(2)
    seconds = decode_seconds(generate, new_tokens, run.device)
    row = {"arm": "generate", "model": name, "rows": rows, "prompt_tokens": run.sizes.context}
    row |= {"new_tokens": new_tokens, "tokens_per_second": rows * (new_tokens - 1) / seconds}
    return row | {"step_ms": 1e3 * seconds / (new_tokens - 1)}


# ---- training ----


def mfu(run, operations, seconds):
    """Operations over the published peak of an H100 or H200; on a CPU over the measured rate."""
    return operations / seconds / (PEAK if run.device.type == "cuda" else run.limits[0])


def packing(run):
    model, _ = random_models(run, run.sizes.model, with_peer=False)
    model.requires_grad_(True)
    budget = run.sizes.micro_batch_tokens
    settings = SimpleNamespace(micro_batch_tokens=budget, repeats=2, seed=0)
    shape = run.sizes.packing
    packing_rows(model, shape, SimpleNamespace(**vars(settings) | {"repeats": 1}), run.limits)
    for row in packing_rows(model, shape, settings, run.limits):
        if row["arm"] == "shared prompt":
            row["mfu"] = row["of_limit"] * mfu(run, run.limits[0], 1)
        if row["arm"] == "packed":
            row = with_goal(run, row, "packing", "ratio")
        yield row


class NumberTask:
    """Prompts of random tokens. A reward for each completion, no two alike."""

    stops = ()

    def __init__(self):
        self.tokenizer = load_tokenizer(TINY_MODEL)

    def read(self, completion, opened_think):
        return {"text": str(completion.tokens)}

    def rewards(self, groups):
        return checksum_reward([r["text"] for group in groups for r in group.records])


def step(run):
    prompts, generations, prompt_tokens, new_tokens = run.sizes.step
    policy = Policy(random_folder(run, run.sizes.model), Runtime(0, 1, run.device, run.dtype))
    groups = [Group(None, [], prompt, seed=0) for prompt in random_prompts(prompts, prompt_tokens)]
    options = train_grpo.Settings(
        num_generations=generations,
        max_completion_length=new_tokens,
        prompts_per_step=prompts,
        scale_rewards="group",
        micro_batch_tokens=run.sizes.micro_batch_tokens,
    )
    own = OwnStep(policy, NumberTask(), groups, options, seed=0)
    own()  # warm-up
    seconds, peaks = [], []
    for _ in range(2):
        sampling = measure(own.sample, run.device)
        update = measure(own.update, run.device)
        seconds.append((sampling["seconds"], update["seconds"]))
        peaks.append(max(sampling["peak_bytes"], update["peak_bytes"]))
    rollout_s, update_s = min(seconds, key=sum)
    targets = prompts * generations * new_tokens
    shape = sizes_of(run.config(run.sizes.model))
    operations = training_operations(shape, prompts * prompt_tokens + targets, targets)
    row = {"model": run.sizes.model, "prompts": prompts, "generations": generations}
    row |= {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "rollout_s": rollout_s}
    row |= {"update_s": update_s, "step_s": rollout_s + update_s, "peak_gb": max(peaks) / 1e9}
    row["rollout_tokens_per_second"] = targets / rollout_s
    row["update_mfu"] = mfu(run, operations, update_s)
    yield with_goal(run, row, "step", "update_mfu")
