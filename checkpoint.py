"""Hugging Face folders: model names, the rules for config.json, weights in and out.

This file imports no torch, so that commands check their model folder before the slow imports.
"""

from pathlib import Path

from safetensors import safe_open

from cli import parse_json, read_text
from runlog import write_json

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
TINY = Path(__file__).resolve().parent / "tiny"  # the embedded models
INDEX = "model.safetensors.index.json"


# ---- names ----


def is_embedded(name):
    """Whether a model name is one of the models in tiny/."""
    name = str(name)
    return name == "tiny" or (name.startswith("tiny-") and (TINY / name[5:]).is_dir())


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
    if is_from_elsewhere(folder):
        from config_rules import check_config

        check_config(path, config)
    weight_files(base)
    return config


def is_from_elsewhere(folder):
    """Whether a model folder has to be checked: the embedded ones are right."""
    return not Path(folder).resolve().is_relative_to(TINY)


def rope_parameters(config):
    """RoPE as transformers 5 spells and reads it: an older rope_scaling takes precedence."""
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
    if is_from_elsewhere(folder):
        from config_rules import check_weights

        check_weights(model, folder)
    names = dict(model.named_parameters())
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  safe_open is not iterable
                name = key.removeprefix("model.")
                if name in names:
                    yield name, file.get_tensor(key)
    if model.adapter:
        yield from model.adapter.weights(model)


def stored_weights(weights):
    """{name in the files of transformers: tensor}"""
    stored = {}
    for name, tensor in weights.items():
        key = name if name.startswith(("lm_head.", "score.")) else "model." + name
        stored[key] = tensor.detach().cpu().contiguous()
    return stored


def save_model_folder(folder, weights, config, adapter=None):
    """Writes config.json and model.safetensors, which transformers and vLLM load.

    weights: {parameter name: tensor}; {} if others have written them already, in fp32.
    config: that of config.json. adapter: the model's own, if any; it alone is then saved, for PEFT.
    """
    from safetensors.torch import save_file  # imports torch

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if adapter:
        adapter.save(folder, weights, config)
        return
    if weights:
        save_file(stored_weights(weights), folder / "model.safetensors", metadata={"format": "pt"})
    dtype = next((str(tensor.dtype)[6:] for tensor in weights.values()), "float32")
    config = {key: value for key, value in config.items() if key != "torch_dtype"}  # its old name
    write_json(folder / "config.json", config | {"dtype": dtype})
