"""LoRA (Hu et al. 2021, arXiv 2106.09685): trains two thin matrices beside each weight of the blocks.

    y = x W^T + bias + scale * (x A^T) B^T      A (rank, in), B (out, rank), scale = alpha / rank

W stays as it is, in the compute dtype. A and B are fp32, B is zero at the start, so training begins
with exactly the base model. Sampler and trainer both compute the line above, so they agree as well as
they do without LoRA.

Why A and B are not added into W: W has bf16 values, and their spacing is 1/128 of their size or less.
After the first steps scale * B A is far below half of that spacing for nearly every entry, so the sum
would round back to W and the model would not change at all. The extra products cost about 1 % of the
arithmetic at rank 8. `merge` is there for programs that cannot read adapters.

Files have PEFT's format: adapter_config.json and adapter_model.safetensors.
"""

import hashlib
import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cli import BadInput, parse_json, read_text

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class LoraProduct(torch.autograd.Function):
    """x W^T + bias + scale (x A^T) B^T, with gradients for x, A and B but never for W or bias.

    With h = x A^T (tokens, rank) and g the gradient of the result (tokens, out):
        dx = g W + scale (g B) A        dA = scale (g B)^T x        dB = scale g^T h
    These are the projections of full fine-tuning's dW = g^T x: dA = scale B^T dW, dB = scale dW A^T.
    dW itself (out, in) is never formed, which saves a third of the training's arithmetic.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale):
        a, b = a.to(x.dtype), b.to(x.dtype)
        h = x @ a.T  # (tokens, rank)
        ctx.save_for_backward(x, weight, a, b, h)
        ctx.scale = scale
        return nn.functional.linear(x, weight, bias).addmm_(h, b.T, alpha=scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        x, weight, a, b, h = ctx.saved_tensors
        through_b = g @ b  # (tokens, rank)
        dx = (g @ weight).addmm_(through_b, a, alpha=ctx.scale) if ctx.needs_input_grad[0] else None
        da = ctx.scale * (through_b.T @ x).float()  # (rank, in)
        db = ctx.scale * (g.T @ h).float()  # (out, rank)
        return dx, None, None, da, db, None


class LoraLinear(nn.Module):
    """A linear layer `base`, frozen, with the two matrices beside it."""

    def __init__(self, base, rank, alpha):
        super().__init__()
        self.base, self.scale = base, alpha / rank
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    def forward(self, x):
        if torch.is_grad_enabled():
            a, b = self.lora_A, self.lora_B
            return LoraProduct.apply(x, self.base.weight, self.base.bias, a, b, self.scale)
        h = x @ self.lora_A.to(x.dtype).T  # the sampler may have repacked `base`, so it is called
        return self.base(x).addmm_(h, self.lora_B.to(x.dtype).T, alpha=self.scale)


# ---- a model with adapters ----


def add_adapters(model, rank, alpha):
    """Freezes the model and puts a LoraLinear around every linear layer of its blocks; A is not set."""
    model.requires_grad_(False)
    for parent in list(model.layers.modules()):
        for target in TARGETS:
            if isinstance(base := getattr(parent, target, None), nn.Linear):
                setattr(parent, target, LoraLinear(base, rank, alpha))
    return model


def first_values(model, seed=0):
    """Yields (name, tensor) to start from: A uniform in +-1/sqrt(in) as in PEFT, B zero.

    A depends on the seed and its name alone, so any number of processes starts alike.
    """
    for name, parameter in adapter_parameters(model).items():
        if name.endswith("lora_B"):
            yield name, torch.zeros(parameter.shape)
            continue
        digest = hashlib.sha256(f"lora:{seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        uniform = torch.rand(parameter.shape, generator=generator)
        yield name, (2 * uniform - 1) / math.sqrt(parameter.shape[1])


def adapter_parameters(model):
    """{name: parameter} of A and B of every layer, which are what an optimizer moves."""
    return {name: value for name, value in model.named_parameters() if ".lora_" in name}


def base_parameters(model):
    """{name without LoRA: parameter} of the base model's own weights."""
    named = model.named_parameters()
    return {name.replace(".base.", "."): value for name, value in named if ".lora_" not in name}


@torch.no_grad()
def merge(model):
    """Adds every adapter into its weight and takes it out again: a plain Model, for other programs."""
    for parent in list(model.layers.modules()):
        for target in TARGETS:
            if isinstance(layer := getattr(parent, target, None), LoraLinear):
                weight = layer.base.weight
                delta = layer.scale * (layer.lora_B.float() @ layer.lora_A.float())
                weight.copy_(weight.float() + delta)
                setattr(parent, target, layer.base)
    return model


# ---- PEFT's files ----


def save_adapter(folder, tensors, rank, alpha, base_model):
    """tensors: {name: tensor} as in `adapter_parameters`. base_model: the base's folder or hub name."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base_model),
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(TARGETS),
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    files = {
        f"base_model.model.model.{name}.weight": value.detach().cpu().contiguous()
        for name, value in tensors.items()
    }
    save_file(files, folder / WEIGHTS, metadata={"format": "pt"})


def read_adapter_config(folder):
    """{r, lora_alpha, base_model_name_or_path, ...}; BadInput for kinds of LoRA this code lacks."""
    place = Path(folder) / CONFIG
    config = parse_json(read_text(place, "--adapter"), place)
    if config.get("peft_type") != "LORA":
        raise BadInput(f"{place}: peft_type is {config.get('peft_type')!r}: only LORA is supported")
    for name in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"):
        if config.get(name):
            raise BadInput(f"{place}: {name} is {config[name]!r}: only plain LoRA is supported")
    return config


def is_adapter(folder):
    """Whether a folder holds an adapter instead of whole weights."""
    return Path(folder, CONFIG).exists() and not any(Path(folder).glob("model*.safetensors"))


def read_adapter(folder, model):
    """Yields (name, tensor) for every adapter parameter of `model`; BadInput where they do not fit."""
    tensors, prefix = load_file(Path(folder) / WEIGHTS), "base_model.model.model."
    tensors = {name.removeprefix(prefix).removesuffix(".weight"): t for name, t in tensors.items()}
    wanted = adapter_parameters(model)
    strange = sorted(tensors.keys() - wanted.keys())
    strange += [
        name for name in tensors.keys() & wanted.keys() if tensors[name].shape != wanted[name].shape
    ]
    if strange:
        raise BadInput(
            f"{folder}: {strange[0]} does not fit the model: is it an adapter of another one?"
        )
    for name, parameter in wanted.items():  # a layer without adapter: zeros
        yield name, tensors.get(name, torch.zeros(parameter.shape))


def load_adapter(model, folder):
    """Adds the adapter of a folder to a model that has none. Returns the model."""
    config = read_adapter_config(folder)
    add_adapters(model, config["r"], config["lora_alpha"])
    parameters = adapter_parameters(model)
    with torch.no_grad():
        for name, tensor in read_adapter(folder, model):
            parameters[name].copy_(tensor)
    return model
