"""Hugging Face folders: model names, the rules for config.json, weights in and out.

This file imports no torch, so that commands check their model folder before the slow imports.
"""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from cli import BadInput, parse_json, read_text
from runlog import write_json

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
TINY = Path(__file__).resolve().parent / "tiny"  # the embedded models
INDEX = "model.safetensors.index.json"
PLAIN_DTYPES = "BF16", "F16", "F32", "F64"


# ---- names ----


def is_embedded(name):
    """Whether a model name is one of the models in tiny/."""
    return str(name) == "tiny" or str(name).startswith("tiny-")


def resolve_model(name, flag="--model"):
    """Returns the local folder of a model. Raises BadInput.

    name: a folder, a hub name (downloaded once, without pickled weights) or an embedded model:
    `tiny` is the folder tiny/judge, `tiny-base` is tiny/base.
    """
    folder = Path(name)
    if is_embedded(name):
        folder = TINY / (str(name)[5:] or "judge")
    if folder.is_dir():
        return folder
    from hub import download

    return download(name, flag)


# ---- config.json ----


def check_model_folder(folder):
    """Returns the config.json of a model folder as a dict.

    Raises BadInput unless model.py can run the model and all of its weight files are there.
    """
    base, _ = with_adapter(Path(folder))
    path = Path(folder) / "config.json"
    config = parse_json(read_text(path, "--model"), path)
    if "settings" in config:
        raise BadInput(
            f"--model: {folder} is the folder of a run: give one of its checkpoints, "
            f"{folder}/checkpoint-STEP"
        )
    if not Path(folder).resolve().is_relative_to(TINY):  # ours need no check
        from config_rules import check_config

        check_config(path, config)
    weight_files(base)
    return config


def rope_parameters(config):
    """RoPE as transformers 5 spells and reads it: an older rope_scaling stands above it."""
    rope = {"rope_theta": config.get("rope_theta", 10000.0)}
    rope |= config.get("rope_scaling") or config.get("rope_parameters") or {}
    rope.setdefault("rope_type", rope.get("type", "default"))  # the oldest spelling
    return rope


# ---- weights ----


def with_adapter(folder, adapter=None):
    """(folder of the base model, the lora.Adapter on it or None). Raises BadInput.

    adapter: a folder or a new Adapter. Where `folder` holds one, it names its base.
    """
    if adapter is None and not (folder / "adapter_config.json").exists():
        return folder, None
    from lora import find_adapter

    return find_adapter(folder, adapter)


def weight_files(folder):
    """The safetensors files of a model folder, by the rule of transformers. Raises BadInput.

    Other files may lie in the folder as well: adapters, consolidated.safetensors.
    """
    single = folder / "model.safetensors"
    if single.exists() and not (folder / INDEX).exists():
        return [single]
    from config_rules import sharded_files

    return sharded_files(folder)


def read_weights(model, folder):
    """Yields (parameter name, tensor) of a folder's weights, one tensor at a time.

    Raises BadInput unless they are exactly the parameters of `model`, with their shapes.
    """
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    missing = {name for name in shapes if ".lora_" not in name}
    if model.config.tied:  # some folders store the head a second time
        shapes["lm_head.weight"] = shapes["embed_tokens.weight"]
    found, tied = set(), []  # names; the tensors that have to be equal
    for path in weight_files(Path(folder)):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  safe_open is not iterable
                    name, stored = key.removeprefix("model."), file.get_slice(key)
                    if name.endswith("rotary_emb.inv_freq"):
                        continue  # old folders store the frequencies of RoPE
                    shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
                    if shape != shapes.get(name) or dtype not in PLAIN_DTYPES:
                        raise BadInput(
                            f"{path}: tensor {key!r} is {shape} of {dtype}, config.json asks for "
                            f"{shapes.get(name)} of {', '.join(PLAIN_DTYPES)}: they do not match"
                        )
                    if name in found:
                        raise BadInput(f"{path}: tensor {key!r} is stored twice: remove one")
                    found.add(name)
                    tensor = file.get_tensor(key)
                    if model.config.tied and name in ("embed_tokens.weight", "lm_head.weight"):
                        tied.append(tensor)
                    if name in missing:
                        yield name, tensor
        except SafetensorError as error:
            raise BadInput(
                f"{path}: not a complete safetensors file ({error}): download it again"
            ) from error
    missing -= found
    if missing:
        raise BadInput(
            f"{folder}: {len(missing)} of {len(shapes)} tensors are missing, such as "
            f"{min(missing)!r}: download the folder again"
        )
    if not all(tensor.equal(tied[0]) for tensor in tied):
        raise BadInput(
            f"{folder}/config.json: tie_word_embeddings is true, but lm_head.weight differs from "
            "embed_tokens.weight: write false to use both"
        )
    if model.adapter:
        yield from model.adapter.weights(model)


def stored_weights(weights):
    """{name in the files of transformers: tensor}"""
    stored = {}
    for name, tensor in weights.items():
        key = name if name.startswith(("lm_head.", "score.")) else "model." + name
        stored[key] = tensor.detach().cpu().contiguous()
    return stored


def save_model_folder(folder, weights, config, config_changes=None, adapter=None):
    """Writes config.json and model.safetensors, which transformers and vLLM load.

    weights: {parameter name: tensor}; {}: they are there, in fp32. config: the one that the model
    was loaded with. adapter: its own, if any; then it alone is saved, for PEFT.
    """
    from safetensors.torch import save_file  # imports torch

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = config | (config_changes or {})
    if adapter:
        adapter.save(folder, weights, config)
        return
    if weights:
        stored = stored_weights(weights)
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    dtype = next((str(tensor.dtype)[6:] for tensor in weights.values()), "float32")
    config.pop("torch_dtype", None)  # the older name of the field
    write_json(folder / "config.json", config | {"dtype": dtype})
