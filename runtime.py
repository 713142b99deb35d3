"""What a training script needs around its loop: torchrun, device, FSDP2, fp32 masters, atomic checkpoints, exact resume.

Weights live in fp32, always: at a learning rate of 1e-6 a bf16 weight does not move. bf16 is the compute copy that sampler and trainer
share. One process keeps both copies itself; several keep fp32 shards (FSDP2), which it casts as it gathers them.

No random state needs saving: every draw (data order, placement, sampling) is a function of the seed, the step and an item's id.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from cli import BadInput, check_model_folder, note, parse_json, resolve_model, sole_writer
from lora import adapter_parameters, add_adapters, base_parameters, first_values, is_adapter, read_adapter, read_adapter_config, save_adapter
from model import Config, Model, base_folder, compute_dtype, read_weights


# ---------------------------------------------------------------------------------------------------------------- processes


@dataclass(frozen=True)
class Runtime:
    rank: int
    world_size: int
    device: torch.device
    dtype: torch.dtype  # of the compute copy
    at_end: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # what is let go of when the run ends

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
    world_size, local_rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: this PyTorch sees no GPU: use --device cpu, or install a CUDA build")
    device = torch.device("cuda", local_rank) if device == "cuda" else torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size > 1:
        # The first process may write a large checkpoint, or one process sample for long, while the others wait.
        backend = dict(backend="nccl", device_id=device) if device.type == "cuda" else dict(backend="gloo")
        dist.init_process_group(**backend, timeout=timedelta(hours=4))
    rank = int(os.environ.get("RANK", 0)) if world_size > 1 else 0
    runtime = Runtime(rank, world_size, device, compute_dtype(dtype, device))
    with runtime.at_end:
        yield runtime
    if world_size > 1:
        dist.barrier()  # without it a process that leaves early can abort the others at exit
        dist.destroy_process_group()


# ------------------------------------------------------------------------------------------------------------------ weights


class Policy:
    """The model that is trained: `model` computes, `masters` {name: fp32 parameter} are what the optimizer moves.

    fp32, one process: both are the same tensors. bf16, one process: `model` is a bf16 copy whose gradients flow into the masters, and
    `publish` copies the masters back after a step. Several processes: FSDP2 shards, cast to `dtype` as they are gathered.

    With LoRA (lora_rank above 0, or `folder` is an adapter, whose own rank and alpha then hold) the masters are the adapters alone, and the
    base model is there once, in the compute dtype.
    """

    def __init__(self, folder, runtime, gradient_checkpointing=False, lora_rank=0, lora_alpha=0, seed=0):
        self.runtime, self.folder = runtime, Path(folder)
        self.lora, self.base = lora_of(folder, lora_rank, lora_alpha), str(folder)
        if self.lora:
            self.base = read_adapter_config(folder)["base_model_name_or_path"] if is_adapter(folder) else self.base
            dtype = runtime.dtype if runtime.world_size == 1 else torch.float32
            self.model = load_model(folder, runtime, dtype, self.lora, seed)
            self.model.gradient_checkpointing = gradient_checkpointing
            self.masters = adapter_parameters(self.model)
            return
        self.model = load_model(folder, runtime, torch.float32)
        self.model.gradient_checkpointing = gradient_checkpointing
        self.masters = dict(self.model.named_parameters())
        if runtime.world_size == 1 and runtime.dtype != torch.float32:
            self.masters = {name: torch.nn.Parameter(weight.detach()) for name, weight in self.masters.items()}
            self.model.to(runtime.dtype)  # gives the model's parameters new storage; the masters keep the old one
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
            plain = add_adapters(plain, *self.lora) if self.lora else plain
        plain.load_state_dict({name: weight.detach() for name, weight in self.model.named_parameters()}, assign=True)
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
                weights = dict(self.model.named_parameters())
                for name, master in self.masters.items():
                    if weights[name] is not master:
                        weights[name].copy_(master)
        optimizer.zero_grad(set_to_none=True)
        return norm if math.isfinite(loss) else math.nan


def gradient_into(master):
    def move(weight):
        master.grad = weight.grad.float() if master.grad is None else master.grad.add_(weight.grad)  # fp32 sum of bf16 gradients
        weight.grad = None

    return move


def lora_of(folder, rank, alpha):
    """(rank, alpha) of the adapters to train, None without any; those of a folder that holds an adapter already are kept."""
    if is_adapter(folder):
        config = read_adapter_config(folder)
        return config["r"], config["lora_alpha"]
    return (rank, alpha) if rank else None


def load_model(folder, runtime, dtype, lora=None, seed=0):
    """A Model on this process's device; with several processes FSDP2 shards of it, which never hold more than one whole tensor.

    lora: (rank, alpha), for adapters that start at those of `folder`, or anew.
    """
    folder = resolve_model(folder)
    lora = lora or lora_of(folder, 0, 0)
    if runtime.world_size == 1:
        model = Model.from_pretrained(base_folder(folder), runtime.device, dtype)
        model = add_adapters(model, *lora) if lora else model
    else:
        model = load_shards(base_folder(folder), runtime, dtype, lora)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in (read_adapter(folder, model) if is_adapter(folder) else first_values(model, seed)) if lora else ():
            fill(parameters[name], tensor)
    return model


def load_shards(folder, runtime, dtype, lora):
    with torch.device("meta"):
        model = Model(Config.from_dict(check_model_folder(folder))).to(dtype)
        model = add_adapters(model, *lora) if lora else model
    # One unit a block; the rest (embedding, norm, head) is the root unit, which stays whole until its backward is done.
    mesh = dist.device_mesh.init_device_mesh(runtime.device.type, (runtime.world_size,))
    policy = MixedPrecisionPolicy(param_dtype=runtime.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in model.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    model.to_empty(device=runtime.device)
    parameters = base_parameters(model)
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


# -------------------------------------------------------------------------------------------------------------- checkpoints


def save_checkpoint(folder, step, policy, optimizer, tokenizer, judge_style=None):
    """Writes OUTPUT_DIR/checkpoint-STEP whole or not at all: a Hugging Face folder, with optimizer and step in its subfolder trainer/.

    (vLLM would take a second safetensors file beside the weights for weights.) Every process takes part in gathering, the first one
    writes. The folder gets its name only when all is on disk.
    """
    runtime, final = policy.runtime, Path(folder) / f"checkpoint-{step}"
    weights, moments = {}, {}
    for name, master in policy.masters.items():
        state = optimizer.state.get(master)  # none before the first step with a signal
        tensors = {"": master, "exp_avg.": state["exp_avg"], "exp_avg_sq.": state["exp_avg_sq"]} if state else {"": master}
        for prefix, tensor in tensors.items():
            gathered = full(tensor.detach())
            if runtime.is_main:
                (weights if prefix == "" else moments)[prefix + name] = gathered.cpu().contiguous()
    if runtime.is_main:
        partial = final.with_name(final.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        changes = {} if judge_style is None else {"judge_style": judge_style}
        if judge_style is not None and Path(judge_style).is_file():  # a prompt of the user's own travels with the model
            changes = {"judge_style": "judge_style.txt"}
        if policy.lora:
            save_adapter(partial, weights, *policy.lora, policy.base)
            write_json(partial / "config.json", policy.model.config.raw | changes)
        else:
            policy.model.save_pretrained(partial, state=weights, config_changes=changes)
        if changes.get("judge_style") == "judge_style.txt":
            shutil.copy(judge_style, partial / "judge_style.txt")
        (partial / "trainer").mkdir()
        save_file(moments, partial / "trainer" / "optimizer.safetensors")
        tokenizer.save_pretrained(partial)
        if (policy.folder / "generation_config.json").exists():  # holds stop tokens of chat models
            shutil.copy(policy.folder / "generation_config.json", partial)
        checksums = {str(path.relative_to(partial)): sha256(path) for path in sorted(partial.rglob("*")) if path.is_file()}
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
    with safe_open(Path(folder) / "trainer" / "optimizer.safetensors", framework="pt") as moments, torch.no_grad():
        names = set(moments.keys())
        for name, master in policy.masters.items():
            if f"exp_avg.{name}" in names:
                entry = {"step": torch.tensor(float(state["optimizer_steps"]), device=master.device)}
                for key in ("exp_avg", "exp_avg_sq"):
                    entry[key] = torch.zeros_like(master)
                    fill(entry[key], moments.get_tensor(f"{key}.{name}"))
                optimizer.state[master] = entry
    return state["step"]


def optimizer_steps(optimizer):
    return max((int(state["step"]) for state in optimizer.state.values()), default=0)


def newest_checkpoint(folder, runtime):
    """The complete checkpoint with the highest step, or None; one whose files do not have their checksums is passed over with a note.

    The first process decides for all. Raises BadInput on one that does not see the folder.
    """
    chosen = None
    found = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    for path in sorted(found, key=lambda path: -int(path.name.split("-")[1])) if runtime.is_main else []:
        try:
            checksums = json.loads((path / "trainer" / "state.json").read_text())["sha256"]
            broken = [name for name, digest in checksums.items() if sha256(path / name) != digest]
        except (OSError, ValueError, KeyError) as error:
            broken = [str(error)]
        if not broken:
            chosen = str(path)
            break
        note(f"{path}: damaged ({broken[0]}): passed over")
    if found and runtime.is_main and chosen is None:  # starting again would overwrite what might still be saved
        raise BadInput(f"--resume: no checkpoint in {folder} is intact: repair one, or start in another folder")
    chosen = runtime.gather(chosen)[0]
    if chosen and not Path(chosen).is_dir():
        raise BadInput(f"--output_dir: {chosen} is not there on this machine: all processes need the same folder")
    return Path(chosen) if chosen else None


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path):
    """Waits until a file or folder has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def write_whole(path, text):
    """A file that is there whole or not at all."""
    partial = Path(path).with_name(Path(path).name + ".partial")
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    partial.replace(path)


def write_json(path, value):
    """NaN is refused: no other program could read it."""
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


# ----------------------------------------------------------------------------------------------------------------- run files


def open_run(folder, settings, step, runtime):
    """The folder of a run, new or gone on with: config.json (all settings, the versions of what computes, the commit of this code) and
    metrics.jsonl up to `step`. Returns its rows, on every process."""
    import transformers

    rows = None
    if runtime.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        runtime.at_end.enter_context(sole_writer(folder))
        git = ["git", "-C", Path(__file__).parent, "rev-parse", "HEAD"]
        commit = shutil.which("git") and subprocess.run(git, capture_output=True, text=True).stdout.strip()
        versions = {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__}
        write_json(folder / "config.json", {"settings": settings, "versions": versions, "commit": commit or None})
        rows = cut_rows_past(folder / "metrics.jsonl", step)
    return runtime.gather(rows)[0]


def cut_rows_past(path, step):
    """Drops the rows of a metrics.jsonl past `step`, and a half-written last one: that work is done again. Returns the rows kept."""
    rows, lines = [], path.read_text().split("\n")[:-1] if path.exists() else []  # a line without its newline was cut off by the kill
    for number, line in enumerate(lines, start=1):
        row = parse_json(line, f"{path} line {number}")
        if row.get("step", step + 1) > step:
            break
        rows.append(row)
    write_whole(path, "".join(line + "\n" for line in lines[: len(rows)]))
    return rows


def record(folder, rows, row, runtime, source):
    """Adds a step's metrics to `rows` and to metrics.jsonl; num_tokens of the step become those of the run. Returns the row as written.

    skipped_steps is 1 where loss or gradient norm are not finite, so that `Policy.step` has left the weights alone; what is not finite is
    then written as 0, since JSON has no NaN, and a note names `source`, what the step was computed from. Three such steps in a row end
    the run: FloatingPointError, when all is on disk.
    """
    before = rows[-1].get("num_tokens", 0) if rows else 0
    row |= {"num_tokens": row["num_tokens"] + before, "skipped_steps": int(not math.isfinite(row["loss"] + row["grad_norm"]))}
    if row["skipped_steps"]:
        note(f"step {row['step']}: no update, loss {row['loss']} and gradient norm {row['grad_norm']} are not both finite: see {source}")
        row = {name: value if math.isfinite(value) else 0.0 for name, value in row.items()}
    rows.append(row)
    if runtime.is_main:
        append_json_line(folder / "metrics.jsonl", row)
    if len(rows) >= 3 and all(row.get("skipped_steps") for row in rows[-3:]):
        runtime.sum(0)  # nobody leaves before the first process has written
        if not runtime.is_main:
            sys.exit(1)
        raise FloatingPointError(f"three steps in a row, {row['step'] - 2} to {row['step']}, had a loss or gradient that is not finite: see {source}; start "
                                 f"again, from a checkpoint in {folder} as --model, with a lower --learning_rate or --dtype float32")  # fmt: skip
    return row


def append_json_line(path, row):
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def reporter(settings):
    """A function (step, metrics) that copies metrics to where --report_to says."""
    if settings.report_to == "none" or os.environ.get("RANK", "0") != "0":
        return lambda step, metrics: None
    if settings.report_to == "wandb":
        import wandb

        run = wandb.init(dir=settings.output_dir, config=vars(settings))
        return lambda step, metrics: run.log(metrics, step=step)
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(settings.output_dir)
    return lambda step, metrics: [writer.add_scalar(name, value, step) for name, value in metrics.items()]
