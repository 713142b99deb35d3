"""What a training script needs around its loop: torchrun, device, FSDP2, fp32 masters, checkpoints.

Trained weights are kept in fp32: at a learning rate of 1e-6 a bf16 weight does not move. Sampler
and trainer share a copy in the dtype of the computation. One process keeps both copies itself.
Several processes keep fp32 shards (FSDP2), which are cast when they are gathered.

No random state is saved: every draw (data order, placement, sampling) is a function of the seed
and of what it is for, such as an epoch, a step or an item's id.
"""

import contextlib
import math
import os
import shutil
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from checkpoint import save_model_folder, with_adapter
from model import Model, choose_device, compute_dtype
from runlog import sha256, sync, write_json
from styles import STYLES

MOMENTS = "exp_avg", "exp_avg_sq"  # of AdamW

# ---- processes ----


@dataclass(frozen=True)
class Runtime:
    """This process among all processes of the run, and what it computes on."""

    rank: int
    world_size: int
    device: torch.device
    dtype: torch.dtype  # of the compute copy
    at_exit: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def is_main(self):
        return self.rank == 0

    def gather(self, value):
        """The list of every process's value (anything that can be pickled), in rank order."""
        parts = [value]
        if self.world_size > 1:
            parts = [None] * self.world_size
            dist.all_gather_object(parts, value)
        return parts

    def barrier(self):
        """Returns when every process has come this far."""
        self.gather(None)

    def sum(self, *numbers):
        """The sum of each number over all processes, as floats."""
        return [float(sum(parts)) for parts in zip(*self.gather(numbers))]

    def sum_by_name(self, numbers):
        """{name: number} -> {name: sum}; all processes give the same names in the same order."""
        return dict(zip(numbers, self.sum(*map(float, numbers.values()))))

    def max(self, number):
        return max(self.gather(number))


@contextlib.contextmanager
def start(device="auto", dtype="auto"):
    """Joins the processes that torchrun started and leaves them at the end; yields a Runtime.

    Without torchrun this process is alone. Raises BadInput for a GPU that is not there.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    rank = int(os.environ.get("RANK", 0)) if world_size > 1 else 0
    device = choose_device(device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if world_size > 1:
        # Processes wait while the first one writes a large checkpoint, or one samples for long.
        timeout, gpu = timedelta(hours=4), device if device.type == "cuda" else None
        dist.init_process_group("nccl" if gpu else "gloo", timeout=timeout, device_id=gpu)
    runtime = Runtime(rank, world_size, device, compute_dtype(dtype, device))
    with runtime.at_exit:
        yield runtime
    if world_size > 1:
        dist.barrier()  # without it a process that leaves early can abort the others at exit
        dist.destroy_process_group()


# ---- the model that is trained ----


class Policy:
    """The model that is trained: `model` computes, the optimizer moves `masters`.

    masters is {name: fp32 parameter}, of the adapter alone with LoRA:

        one process, fp32    the parameters of `model` themselves
        one process, bf16    copies in fp32. Gradients go from `model` to its masters during
                             backward, values go from the masters to `model` after each step
        several processes    the parameters of `model` themselves: fp32 shards (sharding.py), of
                             which FSDP2 gathers bf16 copies where it computes

    adapter: a new one (lora.new_adapter); the one that `folder` holds is found.
    """

    def __init__(self, folder, runtime, gradient_checkpointing=False, adapter=None):
        self.runtime = runtime
        self.folder = Path(folder)
        has_copy = runtime.world_size == 1 and runtime.dtype != torch.float32
        _, adapter = with_adapter(self.folder, adapter)
        # A frozen base has no masters, so it need not be in memory in fp32.
        dtype = runtime.dtype if has_copy and adapter else torch.float32
        self.model = load_model(folder, runtime, dtype, adapter)
        self.model.gradient_checkpointing = gradient_checkpointing
        self.masters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.copies = []  # [(parameter of model, its master), ...]
        if has_copy:
            for name, weight in self.masters.items():
                self.masters[name] = torch.nn.Parameter(weight.detach())
                self.copies.append((weight, self.masters[name]))
            self.model.to(runtime.dtype)  # new storage; the masters keep the old one
            for weight, master in self.copies:
                # PyTorch calls it as soon as backward has the gradient of this one weight.
                weight.register_post_accumulate_grad_hook(partial(move_gradient, master))

    def gathered(self):
        """A context that yields a plain Model to sample from, with all weights on this process."""
        if self.runtime.world_size == 1:
            return contextlib.nullcontext(self.model)
        from sharding import gathered

        return gathered(self.model)

    def step(self, optimizer, loss, max_grad_norm):
        """One optimizer step on gradients whose global norm is scaled down to max_grad_norm.

        loss: this process's part. Returns the norm before scaling, a float. Where the loss of all
        or the norm is not finite, it returns NaN or infinity on every process, and weights and
        moments stay as they are: one bad batch must not cost the run.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.masters.values(), max_grad_norm)
        norm = unsharded(norm).item()
        (loss,) = self.runtime.sum(loss)
        if math.isfinite(loss) and math.isfinite(norm):
            optimizer.step()
            with torch.no_grad():
                for weight, master in self.copies:
                    weight.copy_(master)
        optimizer.zero_grad(set_to_none=True)
        return norm if math.isfinite(loss) else math.nan


def move_gradient(master, weight):
    """Adds a bf16 weight's gradient to its master's, in fp32, and frees it.

    So micro-batches add up in fp32, and no second gradient of all weights is in memory.
    """
    if master.grad is None:
        master.grad = torch.zeros_like(master)
    master.grad += weight.grad
    weight.grad = None


def new_policy(settings, runtime, folder):
    """The Policy that a trainer's settings ask for, from a model folder or a checkpoint."""
    adapter = None
    if settings.lora_rank or settings.adapter:
        from lora import new_adapter

        adapter = new_adapter(settings)
    return Policy(folder, runtime, settings.gradient_checkpointing, adapter)


def load_model(folder, runtime, dtype, adapter=None):
    """A Model on this process's device; with several processes FSDP2 shards of it."""
    if runtime.world_size == 1:
        return Model.from_pretrained(folder, runtime.device, dtype, adapter)
    from sharding import load_shards

    return load_shards(folder, runtime, dtype, adapter)


def unsharded(tensor):
    """The whole of a DTensor; every process takes part."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


# ---- checkpoints of a training ----


def restore(checkpoint, policy, optimizer, items_per_step):
    """(steps done, items drawn for them) of a checkpoint; the optimizer gets its moments.

    (0, 0) where there is none.
    """
    if checkpoint is None:
        return 0, 0
    from resume import load_checkpoint

    state = load_checkpoint(checkpoint, policy, optimizer)
    return state["step"], state.get("drawn", state["step"] * items_per_step)


def save_checkpoint(folder, step, policy, optimizer, tokenizer, judge_style=None, drawn=None):
    """Writes OUTPUT_DIR/checkpoint-STEP, which gets its name when all of it is on disk.

    It is a Hugging Face folder. Optimizer and step are in its subfolder trainer/, because vLLM
    takes every safetensors file next to the weights for weights. Each process writes its share.
    """
    runtime = policy.runtime
    final = Path(folder) / f"checkpoint-{step}"
    unfinished = final.with_name(final.name + ".partial")
    if runtime.is_main:
        shutil.rmtree(unfinished, ignore_errors=True)
        (unfinished / "trainer").mkdir(parents=True)
    runtime.barrier()
    weights, hashes = {}, {}
    if runtime.world_size > 1 and not policy.model.adapter:  # an adapter is one small file
        from sharding import write_share

        hashes = write_share(unfinished, policy, optimizer)
    else:
        weights, moments = gather_state(policy, optimizer, policy.masters)
        if runtime.is_main:
            save_file(moments, unfinished / "trainer" / "optimizer.safetensors")
    if runtime.is_main:
        write_model(unfinished, policy, weights, tokenizer, judge_style)
        write_state(unfinished, step, optimizer, hashes, drawn)
        for path in unfinished.rglob("*"):
            sync(path)
        shutil.rmtree(final, ignore_errors=True)  # a damaged one that was passed over
        unfinished.rename(final)
        sync(final.parent)
    runtime.barrier()


def gather_state(policy, optimizer, names):
    """Two dicts of full tensors, those of `names`: weights, and the moments of AdamW."""
    weights, moments = {}, {}
    for name, master in policy.masters.items():
        weight = unsharded(master.detach())
        if name in names:
            weights[name] = weight
        if optimizer.state.get(master):  # not before the first step with a signal
            for moment in MOMENTS:
                tensor = unsharded(optimizer.state[master][moment])
                if name in names:
                    moments[f"{moment}.{name}"] = tensor.cpu().contiguous()
    return weights, moments


def write_model(folder, policy, weights, tokenizer, judge_style):
    config = dict(policy.model.config.raw)
    if judge_style is not None:
        config["judge_style"] = judge_style.name
        if judge_style.name not in STYLES:  # the user's prompt goes along
            (folder / "judge_style.txt").write_text(judge_style.as_text(), encoding="utf-8")
            config["judge_style"] = "judge_style.txt"
    save_model_folder(folder, weights, config, policy.model.adapter)
    tokenizer.save_pretrained(folder)
    generation_config = policy.folder / "generation_config.json"
    if generation_config.exists():  # holds the stop tokens of chat models
        shutil.copy(generation_config, folder)


def write_state(folder, step, optimizer, hashes, drawn):
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        hashes[name] = hashes.get(name) or sha256(path)
    state = {
        "step": step,
        "optimizer_steps": max((int(s["step"]) for s in optimizer.state.values()), default=0),
        "sha256": hashes,
    }
    if drawn is not None:
        state["drawn"] = drawn
    write_json(folder / "trainer" / "state.json", state)
