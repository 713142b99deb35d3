"""What a training script needs around its loop: torchrun, device, FSDP2, fp32 masters, atomic checkpoints, exact resume.

Weights live in fp32, always: at a learning rate of 1e-6 a bf16 weight does not move. bf16 is the compute copy that sampler and trainer
share. One process keeps both copies itself; several keep fp32 shards (FSDP2), which it casts as it gathers them.

No random state needs saving: every draw (data order, placement, sampling) is a function of the seed, the step and an item's id.
"""

import contextlib
import json
import math
import os
import shutil
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from checkpoint import check_model_folder, read_weights, resolve_model, save_model_folder
from cli import BadInput
from model import Config, Model, compute_dtype
from runlog import sha256, sync, write_json


@dataclass(frozen=True)
class Runtime:
    rank: int
    world_size: int
    device: torch.device
    dtype: torch.dtype  # of the compute copy
    at_end: contextlib.ExitStack = field(
        default_factory=contextlib.ExitStack
    )  # what is let go of when the run ends

    @property
    def is_main(self):
        return self.rank == 0

    def sum(self, *numbers):
        """The sum of each number over all processes, as floats (fp64, so that counts stay exact)."""
        values = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(values)
        return values.tolist()

    def max(self, number):
        value = torch.tensor(float(number), dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value.item()

    def gather(self, thing):
        """The list of every process's `thing` (anything that JSON can hold), in rank order, on every process."""
        if self.world_size == 1:
            return [thing]
        parts = [None] * self.world_size
        dist.all_gather_object(parts, json.dumps(thing))
        return [json.loads(part) for part in parts]


@contextlib.contextmanager
def start(device="auto", dtype="auto"):
    """Joins the processes that torchrun started (one alone without it) and leaves them in order; yields a Runtime."""
    world_size, local_rank = (
        int(os.environ.get("WORLD_SIZE", 1)),
        int(os.environ.get("LOCAL_RANK", 0)),
    )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput(
            "--device cuda: this PyTorch sees no GPU: use --device cpu, or install a CUDA build"
        )
    device = torch.device("cuda", local_rank) if device == "cuda" else torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size > 1:
        # The first process may write a large checkpoint, or one process sample for long, while the others wait.
        backend = (
            dict(backend="nccl", device_id=device)
            if device.type == "cuda"
            else dict(backend="gloo")
        )
        dist.init_process_group(**backend, timeout=timedelta(hours=4))
    rank = int(os.environ.get("RANK", 0)) if world_size > 1 else 0
    runtime = Runtime(rank, world_size, device, compute_dtype(dtype, device))
    with runtime.at_end:
        yield runtime
    if world_size > 1:
        dist.barrier()  # without it a process that leaves early can abort the others at exit
        dist.destroy_process_group()


class Policy:
    """The model that is trained: `model` computes, `masters` {name: fp32 parameter} are what the optimizer moves.

    fp32, one process: both are the same tensors. bf16, one process: `model` is a bf16 copy whose gradients flow into the masters, and
    `publish` copies the masters back after a step. Several processes: FSDP2 shards, cast to `dtype` as they are gathered.
    """

    def __init__(self, folder, runtime, gradient_checkpointing=False):
        self.runtime, self.folder = runtime, Path(folder)
        self.model = load_model(folder, runtime, torch.float32)
        self.model.gradient_checkpointing = gradient_checkpointing
        self.masters = dict(self.model.named_parameters())
        if runtime.world_size == 1 and runtime.dtype != torch.float32:
            self.masters = {
                name: torch.nn.Parameter(weight.detach()) for name, weight in self.masters.items()
            }
            self.model.to(
                runtime.dtype
            )  # gives the model's parameters new storage; the masters keep the old one
            for name, weight in self.model.named_parameters():
                weight.register_post_accumulate_grad_hook(gradient_into(self.masters[name]))

    @contextlib.contextmanager
    def whole(self):
        """Yields a plain Model with all weights on this process, to sample from. Shards are gathered once, and let go afterwards."""
        if self.runtime.world_size == 1:
            yield self.model
            return
        units = [module for module in self.model.modules() if isinstance(module, FSDPModule)]
        for unit in units:
            unit.unshard()
        with torch.device("meta"):
            plain = Model(self.model.config)
        plain.load_state_dict(
            {name: weight.detach() for name, weight in self.model.named_parameters()}, assign=True
        )
        yield plain
        del plain
        for unit in units:
            unit.reshard()

    def step(self, optimizer, loss, max_grad_norm):
        """One optimizer step on gradients whose global norm is scaled down to max_grad_norm; returns the norm before that as a float.

        loss: this process's part. Where the loss of all or the norm is not finite, NaN or infinity is returned, on every process, and
        weights and moments stay as they are: one bad batch must not cost the run.
        """
        norm = full(torch.nn.utils.clip_grad_norm_(self.masters.values(), max_grad_norm)).item()
        (loss,) = self.runtime.sum(loss)
        if math.isfinite(loss) and math.isfinite(norm):
            optimizer.step()
            with torch.no_grad():  # the compute copy follows the masters
                for name, weight in self.model.named_parameters():
                    if weight is not self.masters[name]:
                        weight.copy_(self.masters[name])
        optimizer.zero_grad(set_to_none=True)
        return norm if math.isfinite(loss) else math.nan


def gradient_into(master):
    def move(weight):
        master.grad = (
            weight.grad.float() if master.grad is None else master.grad.add_(weight.grad)
        )  # fp32 sum of bf16 gradients
        weight.grad = None

    return move


def load_model(folder, runtime, dtype):
    """A Model on this process's device; with several processes FSDP2 shards of it, which never hold more than one whole tensor."""
    if runtime.world_size == 1:
        return Model.from_pretrained(folder, runtime.device, dtype)
    folder = resolve_model(folder)
    with torch.device("meta"):
        model = Model(Config.from_dict(check_model_folder(folder))).to(dtype)
    # One unit a block; the rest (embedding, norm, head) is the root unit, which stays whole until its backward is done.
    mesh = dist.device_mesh.init_device_mesh(runtime.device.type, (runtime.world_size,))
    policy = MixedPrecisionPolicy(
        param_dtype=runtime.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in model.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    register_fsdp_forward_method(model, "logprobs")  # gathers the head before it is read
    model.to_empty(device=runtime.device)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in read_weights(model, folder):
            fill(parameters[name], tensor)
    return model


def fill(parameter, tensor):
    """Copies a whole tensor into a parameter, or this process's part of it (FSDP2 cuts the first dimension) into its shard."""
    if isinstance(parameter, DTensor):
        pieces = tensor.chunk(parameter.device_mesh.size())
        rank = parameter.device_mesh.get_local_rank()
        parameter, tensor = parameter.to_local(), pieces[rank] if rank < len(pieces) else tensor[:0]
    parameter.copy_(tensor)


def full(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def save_checkpoint(folder, step, policy, optimizer, tokenizer, judge_style=None):
    """Writes OUTPUT_DIR/checkpoint-STEP whole or not at all: a Hugging Face folder, with optimizer and step in its subfolder trainer/.

    (vLLM would take a second safetensors file beside the weights for weights.) Every process takes part in gathering, the first one
    writes. The folder gets its name only when all is on disk.
    """
    runtime, final = policy.runtime, Path(folder) / f"checkpoint-{step}"
    weights, moments = {}, {}
    for name, master in policy.masters.items():
        state = optimizer.state.get(master)  # none before the first step with a signal
        tensors = (
            {"": master, "exp_avg.": state["exp_avg"], "exp_avg_sq.": state["exp_avg_sq"]}
            if state
            else {"": master}
        )
        for prefix, tensor in tensors.items():
            gathered = full(tensor.detach())
            if runtime.is_main:
                (weights if prefix == "" else moments)[prefix + name] = gathered.cpu().contiguous()
    if runtime.is_main:
        partial = final.with_name(final.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        changes = {} if judge_style is None else {"judge_style": judge_style}
        if (
            judge_style is not None and Path(judge_style).is_file()
        ):  # a prompt of the user's own travels with the model
            changes = {"judge_style": "judge_style.txt"}
        save_model_folder(partial, weights, policy.model.config.raw, changes)
        if changes.get("judge_style") == "judge_style.txt":
            shutil.copy(judge_style, partial / "judge_style.txt")
        (partial / "trainer").mkdir()
        save_file(moments, partial / "trainer" / "optimizer.safetensors")
        tokenizer.save_pretrained(partial)
        if (policy.folder / "generation_config.json").exists():  # holds stop tokens of chat models
            shutil.copy(policy.folder / "generation_config.json", partial)
        checksums = {
            str(path.relative_to(partial)): sha256(path)
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        state = {"step": step, "optimizer_steps": optimizer_steps(optimizer), "sha256": checksums}
        write_json(partial / "trainer" / "state.json", state)
        for path in partial.rglob("*"):
            sync(path)
        shutil.rmtree(final, ignore_errors=True)  # a damaged one that was passed over
        partial.rename(final)
        sync(final.parent)
    runtime.sum(0)  # nobody goes on before it is on disk


def load_checkpoint(folder, policy, optimizer):
    """Puts optimizer moments back; the weights were loaded as the model itself. Returns the step. Any number of processes."""
    state = json.loads((Path(folder) / "trainer" / "state.json").read_text())
    with (
        safe_open(Path(folder) / "trainer" / "optimizer.safetensors", framework="pt") as moments,
        torch.no_grad(),
    ):
        names = set(moments.keys())
        for name, master in policy.masters.items():
            if f"exp_avg.{name}" in names:
                entry = {
                    "step": torch.tensor(float(state["optimizer_steps"]), device=master.device)
                }
                for key in ("exp_avg", "exp_avg_sq"):
                    entry[key] = torch.zeros_like(master)
                    fill(entry[key], moments.get_tensor(f"{key}.{name}"))
                optimizer.state[master] = entry
    return state["step"]


def optimizer_steps(optimizer):
    return max((int(state["step"]) for state in optimizer.state.values()), default=0)
