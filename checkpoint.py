"""Hugging Face folders: names of models, what config.json must say, weights in and out. No torch at import."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from cli import BadInput, parse_json, read_text

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def is_embedded(name):
    return str(name) == "tiny" or str(name).startswith("tiny-")


def resolve_model(name):
    """A model name -> its local folder: a path, an embedded model (`tiny`, the judge; `tiny-base`, what it was trained from; all in tiny/)
    or a hub name, which is downloaded once."""
    folder = (
        Path(__file__).parent / "tiny" / (str(name)[5:] or "judge")
        if is_embedded(name)
        else Path(name)
    )
    if folder.is_dir():
        return folder
    if str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
        raise BadInput(
            f"--model: no such folder {name}: give a Hugging Face folder or a hub name such as Qwen/Qwen3-0.6B"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:  # weights as safetensors only: pickles are not even downloaded
        return Path(
            snapshot_download(
                name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise BadInput(
            f"--model: {name} is no folder here and the hub did not give it ({reason}): check the name or the network"
        ) from error


def check_model_folder(folder):
    """The config.json of a model folder as a dict, once it is known that model.py can run it and that its weights are all there."""
    folder = Path(folder)
    raw = parse_json(read_text(folder / "config.json", "--model"), folder / "config.json")
    place, kind = folder / "config.json", raw.get("model_type")
    if "settings" in raw:
        raise BadInput(
            f"--model: {folder} is the folder of a run: give one of its checkpoints, {folder}/checkpoint-STEP"
        )
    kinds = dict(
        model_type=str,
        architectures=list,
        rope_scaling=dict,
        rope_parameters=dict,
        layer_types=list,
        max_position_embeddings=int,
    )
    for field in kinds:
        if not isinstance(raw.get(field), (kinds[field], type(None))):
            raise BadInput(
                f"{place}: field {field!r} is {raw[field]!r:.80}: take the file from the model's page"
            )
    if (
        kind not in ARCHITECTURES
        or (raw.get("architectures") or [ARCHITECTURES[kind]])[0] != ARCHITECTURES[kind]
    ):
        found = kind if kind not in ARCHITECTURES else raw["architectures"][0]
        raise BadInput(
            f"{place}: architecture {found!r} is not supported: use a Llama, Qwen2 or Qwen3 causal language model"
        )
    rope = (
        {"rope_type": "default"}
        | (raw.get("rope_scaling") or {})
        | (raw.get("rope_parameters") or {})
    )
    rope_type = rope.get("type", rope["rope_type"])
    refused = {
        f"RoPE scaling {rope_type!r}": rope_type not in ("default", "llama3"),
        "a partial rotary embedding": rope.get(
            "partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)
        )
        != 1.0,
        "sliding-window attention": raw.get("use_sliding_window")
        or "sliding_attention" in (raw.get("layer_types") or []),
        f"activation {raw.get('hidden_act')!r}": raw.get("hidden_act", "silu") != "silu",
        "quantised weights": bool(raw.get("quantization_config")),
    }
    for feature, present in refused.items():
        if present:
            raise BadInput(f"{place}: {feature} is not supported: use a checkpoint without it")
    for field in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    ):
        if not isinstance(raw.get(field), int) or raw[field] <= 0:
            raise BadInput(
                f"{place}: field {field!r} must be a positive integer, found {raw.get(field)!r}: take the file from the model's page"
            )
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = parse_json(read_text(index, "--model"), index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(
            isinstance(shard, str) for shard in weight_map.values()
        ):
            raise BadInput(
                f"{index}: field 'weight_map' is missing or no map to file names: download the file again"
            )
        for shard in sorted(set(weight_map.values())):
            if not (folder / shard).exists():
                raise BadInput(
                    f"{folder}: shard {shard} is missing, which {index.name} names: download the folder again"
                )
    elif not any(folder.glob("*.safetensors")):
        raise BadInput(
            f"{folder}: no *.safetensors file: pickled weights (*.bin, *.pt) are not read; convert them to safetensors first"
        )
    return raw


def read_weights(model, folder):
    """Yields (parameter name, tensor) of a folder's safetensors; BadInput unless they are exactly the parameters of `model`."""
    wanted, seen = dict(model.named_parameters()), set()
    index = Path(folder) / "model.safetensors.index.json"
    paths = sorted(Path(folder).glob("*.safetensors"))
    if index.exists():
        paths = [
            Path(folder) / name
            for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))
        ]
    elif (
        Path(folder) / "model.safetensors"
    ).exists():  # not the adapters and second copies that may lie beside it
        paths = [Path(folder) / "model.safetensors"]
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():
                    name = key.removeprefix("model.")
                    if name.endswith("rotary_emb.inv_freq") or (
                        name == "lm_head.weight" and name not in wanted
                    ):
                        continue  # old folders store RoPE, some store a tied head a second time
                    shape, expected = (
                        tuple(file.get_slice(key).get_shape()),
                        wanted[name].shape if name in wanted else (),
                    )
                    if name not in wanted:
                        raise BadInput(
                            f"{path}: unexpected tensor {key!r}: the weights are not those of the architecture in config.json"
                        )
                    if shape != tuple(expected):
                        raise BadInput(
                            f"{path}: tensor {key!r} is {shape}, config.json asks for {tuple(expected)}: they do not match"
                        )
                    seen.add(name)
                    yield name, file.get_tensor(key)
        except SafetensorError as error:
            raise BadInput(
                f"{path}: not a whole safetensors file ({error}): download it again"
            ) from error
    missing = sorted(wanted.keys() - seen)
    if missing:
        raise BadInput(
            f"{folder}: tensor {missing[0]!r} and {len(missing) - 1} more are missing: download the folder again"
        )
