"""LoRA: trains two thin matrices beside each weight, and leaves the weight as it is.

A linear layer computes y = x @ W.T + bias. LoRA (Hu et al. 2021, arXiv 2106.09685) adds to that

    h = x @ A.T                       A (rank, in_features)
    y = y + alpha / rank * h @ B.T    B (out_features, rank)

A starts at random and B at zero, so training starts with exactly the base model. Only A and B have
gradients and moments of Adam. With dW, the gradient that full training would have for W, and
scale = alpha / rank, theirs are dA = scale * B.T @ dW and dB = scale * dW @ A.T. Autograd never
computes dW itself, because W is frozen.

Why not W + scale * B @ A, one matrix as before? The weights of a base model are bf16, and the
distance to the next bf16 number is up to 1/128 of a weight. What a training step adds is mostly
smaller. So many sums would round back to W, the others would change by more than they should, and
the sampler would use another model than the trainer. Therefore both compute the two lines above,
and they agree as they do without LoRA.

An adapter is a folder in PEFT's format: adapter_config.json, adapter_model.safetensors. This file
is loaded only where an adapter is used, and torch only where it meets a model.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from checkpoint import resolve_model
from cli import BadInput, parse_json, read_text
from runlog import write_json

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model.model."  # of the names of tensors in PEFT's files
ALPHA = 32.0  # of new adapters
# Any other field of adapter_config.json belongs to a variant of LoRA, and has to be empty.
PLAIN_FIELDS = """peft_type task_type base_model_name_or_path r lora_alpha target_modules bias
    init_lora_weights lora_dropout inference_mode auto_mapping revision peft_version megatron_core
    qalora_group_size""".split()
PLAIN_VALUES = {
    "peft_type": ["LORA"],
    "bias": ["none"],
    "init_lora_weights": [True, False, "gaussian"],  # others change the weights of the base
}


# ---- the two lines ----


def add_product(layer, inputs, output):
    """What a linear layer with A and B returns in place of its output (tokens, out_features)."""
    (x,) = inputs  # (tokens, in_features)
    a, b = layer.lora_A.to(x.dtype), layer.lora_B.to(x.dtype)
    h = x @ a.T  # (tokens, rank)
    return output.addmm(h, b.T, alpha=layer.lora_scale)  # output + scale * h @ b.T


def first_value(name, shape, seed):
    """What an A or B starts with: B is zero, A uniform in +-1/sqrt(in_features), as in PEFT.

    A depends on the seed and its name alone, so all processes start alike.
    """
    import torch

    if name.endswith("lora_B"):
        return torch.zeros(shape)
    digest = hashlib.sha256(f"lora:{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(shape[1])


@dataclass(frozen=True)
class Adapter:
    """Where A and B of a model's layers come from, and PEFT's adapter_config.json."""

    config: dict
    folder: Path | None = None  # that holds A and B; None: they are new
    seed: int = 0  # of new ones

    def add_to(self, model):
        """Freezes a model, and gives its layers A and B, which have no values yet.

        Raises BadInput for a rank above the model's hidden size.
        """
        import torch

        model.requires_grad_(False)
        rank, alpha = self.config["r"], self.config["lora_alpha"]
        if rank > model.config.hidden_size:
            raise BadInput(
                f"LoRA rank {rank}: is above the model's hidden size, {model.config.hidden_size}: "
                "give a lower --lora_rank, or another adapter"
            )
        for name, layer in model.layers.named_modules():
            if name.rpartition(".")[2] in self.config["target_modules"]:
                out_features, in_features = layer.weight.shape
                layer.lora_A = torch.nn.Parameter(layer.weight.new_empty(rank, in_features))
                layer.lora_B = torch.nn.Parameter(layer.weight.new_empty(out_features, rank))
                layer.lora_scale = alpha / rank
                layer.register_forward_hook(add_product)

    def weights(self, model):
        """Yields (parameter name, tensor) for every A and B of a model. Raises BadInput."""
        shapes = {}
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                shapes[name] = tuple(parameter.shape)
        if self.folder is not None:
            yield from read_tensors(self.folder / WEIGHTS, shapes)
            return
        for name, shape in shapes.items():
            yield name, first_value(name, shape, self.seed)

    def save(self, folder, weights, model_config):
        """Writes A and B among `weights`, {parameter name: tensor}, in PEFT's format.

        model_config: the config.json that makes the folder a model of ours too.
        """
        from safetensors.torch import save_file

        tensors = {}
        for name, tensor in weights.items():
            if ".lora_" in name:
                tensors[f"{PREFIX}{name}.weight"] = tensor.detach().cpu().contiguous()
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        write_json(folder / CONFIG, self.config)
        write_json(folder / "config.json", model_config)


# ---- folders and flags ----


def read_tensors(path, shapes):
    """Yields (parameter name, tensor) of an adapter's file, which must hold just these shapes."""
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(
            f"{path}: not a complete safetensors file ({error}): copy it again"
        ) from error
    found = {}
    for key, tensor in tensors.items():
        found[key.removeprefix(PREFIX).removesuffix(".weight")] = tensor
    for name in sorted(found.keys() | shapes.keys()):
        shape = tuple(found[name].shape) if name in found else "missing"
        if shape != shapes.get(name):
            raise BadInput(
                f"{path}: {name} is {shape}, expected {shapes.get(name, 'nothing')}: is it an "
                "adapter of another model?"
            )
    yield from found.items()


def read_adapter(folder):
    """The adapter of a folder. Raises BadInput for one that `add_product` does not compute."""
    path = folder / CONFIG
    config = parse_json(read_text(path, "--adapter"), path)
    for field, value in config.items():
        is_variant = value and field not in PLAIN_FIELDS
        if is_variant or value not in PLAIN_VALUES.get(field, [value]):
            raise BadInput(f"{path}: {field} is {value!r:.80}: only plain LoRA can be used")
    for field, kinds in (("r", [int]), ("lora_alpha", [int, float])):
        value = config.get(field)
        if type(value) not in kinds or not 0 < value < math.inf:
            raise BadInput(f"{path}: {field} is {value!r:.80}: expected a number above 0")
    layers = config.get("target_modules")
    if not isinstance(layers, list) or any(layer not in LAYERS for layer in layers):
        raise BadInput(f"{path}: target_modules is {layers!r:.80}: expected some of {LAYERS}")
    return Adapter(config, folder)


def check_rank(rank, adapter):
    if rank != adapter.config["r"]:
        raise BadInput(
            f"--lora_rank: {adapter.folder} is an adapter of rank {adapter.config['r']}: leave it "
            "out to train it further"
        )


def find_adapter(folder, adapter):
    """(folder of the base model, its Adapter or None): see `checkpoint.with_adapter`."""
    is_adapter = (folder / CONFIG).exists() and not any(folder.glob("model*.safetensors"))
    if not is_adapter:
        if adapter is None or isinstance(adapter, Adapter):
            return folder, adapter
        return folder, read_adapter(resolve_model(adapter, "--adapter"))
    own = read_adapter(folder)
    if isinstance(adapter, Adapter):  # it stands for the flags of a trainer
        check_rank(adapter.config["r"], own)
    elif adapter is not None:
        raise BadInput(f"--model: {folder} is an adapter itself: give its base model")
    if not (folder / "config.json").exists():
        raise BadInput(f"--model: {folder} is an adapter: give --model BASE --adapter {folder}")
    field = "base_model_name_or_path"
    name = own.config.get(field)
    try:
        if not isinstance(name, str):
            raise BadInput(f"{folder / CONFIG}: {field} is {name!r:.80}: expected a model")
        return resolve_model(name, f"{folder / CONFIG}: {field}"), own
    except BadInput as error:
        raise BadInput(f"{error}; or give --model BASE --adapter {folder}") from error


def new_adapter(settings):
    """The Adapter that --adapter of a trainer names, or a new one of --lora_rank. BadInput."""
    name = str(settings.model)
    if Path(name).is_dir():
        name = str(Path(name).resolve())  # the adapter shall find it from any folder
    if settings.adapter is not None:
        given = read_adapter(resolve_model(settings.adapter, "--adapter"))
        check_rank(settings.lora_rank or given.config["r"], given)
        return Adapter(given.config | {"base_model_name_or_path": name}, given.folder)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "r": settings.lora_rank,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(LAYERS),
        "inference_mode": True,
    }
    return Adapter(config, seed=settings.seed)
