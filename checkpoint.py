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
FIELD_TYPES = {  # of the fields that config.json may leave out
    "model_type": str,
    "architectures": list,
    "rope_scaling": dict,
    "rope_parameters": dict,
    "layer_types": list,
    "max_position_embeddings": int,
}
SIZES = (  # positive integers, required
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
FETCHED = "qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b", "smollm2-135m"  # extras/fetch.py makes them
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]  # no pickles
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000


# ---- names ----


def is_embedded(name):
    """Whether a model name is one of the models in tiny/."""
    return str(name) == "tiny" or str(name).startswith("tiny-")


def resolve_model(name):
    """Returns the local folder of a model. Raises BadInput.

    name: a folder, a hub name (downloaded once, without pickled weights) or an embedded model:
    `tiny` is the folder tiny/judge, `tiny-base` is tiny/base.
    """
    folder = Path(name)
    if is_embedded(name):
        folder = Path(__file__).parent / "tiny" / (str(name)[5:] or "judge")
    if folder.is_dir():
        return folder
    if folder.name in FETCHED:
        raise BadInput(
            f"--model: no such folder {name}: make it with python -m extras.fetch {folder.name} "
            f"{name}"
        )
    if str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
        raise BadInput(
            f"--model: no such folder {name}: give a Hugging Face folder or a hub name such as "
            "Qwen/Qwen3-0.6B"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (OSError, ValueError) as error:  # what the hub's client raises
        reason = str(error).strip().splitlines()[0][:200]
        raise BadInput(
            f"--model: {name} is not a folder, and the hub did not give it ({reason}): check the "
            "name or the network"
        ) from error


# ---- config.json ----


def check_model_folder(folder):
    """Returns the config.json of a model folder as a dict.

    Raises BadInput unless model.py can run the model and all of its weight files are there.
    """
    path = Path(folder) / "config.json"
    config = parse_json(read_text(path, "--model"), path)
    if "settings" in config:
        raise BadInput(
            f"--model: {folder} is the folder of a run: give one of its checkpoints, "
            f"{folder}/checkpoint-STEP"
        )
    for field, kind in FIELD_TYPES.items():
        if not isinstance(config.get(field), (kind, type(None))):
            raise wrong_field(path, field, config)
    model_type = config.get("model_type")
    expected = ARCHITECTURES.get(model_type)
    architecture = (config.get("architectures") or [expected])[0]
    if expected is None or architecture != expected:
        raise BadInput(
            f"{path}: architecture {architecture!r} (model_type {model_type!r}) is not supported: "
            "use a Llama, Qwen2 or Qwen3 causal language model"
        )
    for feature in unsupported_features(config):
        raise BadInput(f"{path}: {feature} is not supported: use a checkpoint without it")
    for field in SIZES:
        if not isinstance(config.get(field), int) or config[field] <= 0:
            raise wrong_field(path, field, config)
    weight_files(Path(folder))
    return config


def wrong_field(path, field, config):
    return BadInput(
        f"{path}: field {field!r} is {config.get(field)!r:.80}: take the file from the model's page"
    )


def rope_parameters(config):
    """RoPE as transformers 5 spells it, also from the fields of older folders on the hub."""
    rope = {"rope_type": "default", "rope_theta": config.get("rope_theta", 10000.0)}
    rope |= config.get("rope_scaling") or {}
    rope |= config.get("rope_parameters") or {}
    rope["rope_type"] = rope.get("type", rope["rope_type"])  # the oldest spelling
    return rope


def unsupported_features(config):
    """Yields the features that a config.json asks for and model.py does not have."""
    rope = rope_parameters(config)
    if rope["rope_type"] not in ("default", "llama3"):
        yield f"RoPE scaling {rope['rope_type']!r}"
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        yield "a partial rotary embedding"
    layer_types = config.get("layer_types") or []
    if config.get("use_sliding_window") or "sliding_attention" in layer_types:
        yield "sliding-window attention"
    if config.get("hidden_act", "silu") != "silu":
        yield f"activation {config['hidden_act']!r}"
    if config.get("quantization_config"):
        yield "quantised weights"


# ---- weights ----


def weight_files(folder):
    """The safetensors files of a model folder. Raises BadInput where one is missing."""
    index = folder / INDEX
    if not index.exists():
        single = folder / "model.safetensors"
        if single.exists():  # adapters and second copies may lie in the folder as well
            return [single]
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise BadInput(
                f"{folder}: no *.safetensors file: pickled weights (*.bin, *.pt) are not read; "
                "convert them to safetensors first"
            )
        return files
    weight_map = parse_json(read_text(index, "--model"), index).get("weight_map")
    is_map = isinstance(weight_map, dict)
    if not is_map or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise BadInput(
            f"{index}: field 'weight_map' is missing or does not map tensors to file names: "
            "download the file again"
        )
    files = [folder / shard for shard in sorted(set(weight_map.values()))]
    for path in files:
        if not path.exists():
            raise BadInput(
                f"{folder}: shard {path.name} of {INDEX} is missing: download the folder again"
            )
    return files


def read_weights(model, folder):
    """Yields (parameter name, tensor) of a folder's weights, one tensor at a time.

    Raises BadInput unless they are exactly the parameters of `model`, with their shapes.
    """
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    missing = set(shapes)
    for path in weight_files(Path(folder)):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  safe_open is not iterable
                    name = key.removeprefix("model.")
                    if name.endswith("rotary_emb.inv_freq"):
                        continue  # old folders store the frequencies of RoPE
                    if name == "lm_head.weight" and name not in shapes:
                        continue  # some folders store a tied head a second time
                    shape = tuple(file.get_slice(key).get_shape())
                    if shape != shapes.get(name):
                        raise BadInput(
                            f"{path}: tensor {key!r} is {shape}, config.json asks for "
                            f"{shapes.get(name)}: they do not match"
                        )
                    missing.discard(name)
                    yield name, file.get_tensor(key)
        except SafetensorError as error:
            raise BadInput(
                f"{path}: not a complete safetensors file ({error}): download it again"
            ) from error
    if missing:
        raise BadInput(
            f"{folder}: tensor {min(missing)!r} and {len(missing) - 1} more are missing: download "
            "the folder again"
        )


def save_model_folder(folder, weights, config, config_changes=None):
    """Writes config.json and (sharded) safetensors that transformers and vLLM load.

    weights: {parameter name: tensor}. config: the config.json that the model was loaded with.
    """
    from safetensors.torch import save_file  # imports torch

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards = split_into_shards(weights)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        weight_map = {key: name for name, shard in zip(names, shards) for key in shard}
        write_json(folder / INDEX, {"metadata": {}, "weight_map": weight_map})
    for name, shard in zip(names, shards):
        save_file(shard, folder / name, metadata={"format": "pt"})
    dtype = str(next(iter(shards[0].values())).dtype).removeprefix("torch.")
    config = {key: value for key, value in config.items() if key != "torch_dtype"}
    write_json(folder / "config.json", config | {"dtype": dtype} | (config_changes or {}))


def split_into_shards(weights):
    """[{checkpoint key: tensor on the CPU}, ...], each of at most MAX_SHARD_BYTES where it can."""
    shards, shard_bytes = [{}], 0
    for name, tensor in weights.items():
        if shards[-1] and shard_bytes + tensor.nbytes > MAX_SHARD_BYTES:
            shards.append({})
            shard_bytes = 0
        key = name if name.startswith(("lm_head.", "score.")) else "model." + name
        shards[-1][key] = tensor.detach().cpu().contiguous()
        shard_bytes += tensor.nbytes
    return shards
