"""What model.py can run: the rules that a model from elsewhere has to keep.

checkpoint.py and chat.py load this file for every model but the embedded ones.
"""

import re

from safetensors import SafetensorError, safe_open

import checkpoint
from chat import encode_chat
from checkpoint import INDEX, rope_parameters, weight_files
from cli import BadInput, parse_json, read_text

SIZES = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads".split()
COUNTS = "max_position_embeddings num_key_value_heads head_dim sliding_window".split()
FIELD_TYPES = {  # of the fields that model.py knows; config.json may leave them out, but no size
    str: ("model_type", "hidden_act"),
    list: ("architectures", "layer_types"),
    dict: ("rope_scaling", "rope_parameters"),
    int: (*SIZES, *COUNTS),  # all are above 0
    bool: ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window"),
    (int, float): ("rms_norm_eps", "rope_theta", "partial_rotary_factor", "max_window_layers"),
}
PLAIN_DTYPES = "BF16", "F16", "F32", "F64"
ROPE_NUMBERS = {  # RoPE type -> its positive numbers
    "default": ["rope_theta"],
    "llama3": "rope_theta factor low_freq_factor high_freq_factor "
    "original_max_position_embeddings".split(),
}
# A field with one of these words in its name may change what the network computes. It is refused
# unless model.py knows it, its value is neutral, or it has one of the words in HARMLESS.
COMPUTES = re.compile(
    "attn|attention|qk|kv|head|rope|rotary|posi|alibi|norm|scal|multipl|factor|soft|clip|mup|logit"
    "|embed|residual|parallel|skip|layer|window|chunk|sink|gate|bias|activ|expert|moe|router|quant"
    "|compress|mlp|ffn|lora|dim|ntk|yarn|unit|mamba|recurr|cross|shared|depth|width|vision|text_con"
    "|auto_map",
    re.IGNORECASE,
)
HARMLESS = re.compile("dropout|flash|cache|attn_implementation|output_")


def check_config(path, config):
    """Raises BadInput unless model.py can run a model with this config.json, a dict."""
    if "settings" in config:
        raise BadInput(
            f"--model: {path.parent} is the folder of a run: give one of its checkpoints, "
            f"{path.parent}/checkpoint-STEP"
        )
    for kind, fields in FIELD_TYPES.items():
        for field in fields:
            value = config.get(field)
            fits = type(value) is int and value > 0 if kind is int else isinstance(value, kind)
            if not fits and (value is not None or field in SIZES):
                raise wrong_field(path, field, config)
    model_type = config.get("model_type")
    expected = checkpoint.ARCHITECTURES.get(model_type)
    architecture = (config.get("architectures") or [expected])[0]
    if expected is None or architecture != expected:
        raise BadInput(
            f"{path}: architecture {architecture!r} (model_type {model_type!r}) is not supported: "
            "use a Llama, Qwen2 or Qwen3 causal language model"
        )
    if config["num_attention_heads"] % (config.get("num_key_value_heads") or 1):
        raise wrong_field(path, "num_key_value_heads", config)
    for feature in unsupported_features(config):
        raise BadInput(f"{path}: {feature} is not supported: use a checkpoint without it")


def wrong_field(path, field, config):
    return BadInput(
        f"{path}: field {field!r} is {config.get(field)!r:.80}: take the file from the model's page"
    )


def unsupported_features(config):
    """Yields what a config.json asks for and model.py does not have."""
    rope = rope_parameters(config)
    numbers = ROPE_NUMBERS.get(rope["rope_type"])
    if numbers is None or rope.get("type", rope["rope_type"]) != rope["rope_type"]:
        yield f"RoPE scaling {rope.get('type', rope['rope_type'])!r}"
        return
    for name in numbers:
        if not isinstance(rope.get(name), (int, float)) or not rope[name] > 0:
            yield f"RoPE with {name} {rope.get(name)!r:.60}"
    for name in sorted(rope.keys() - {"rope_type", "type", "partial_rotary_factor", *numbers}):
        if rope[name] is not None:
            yield f"RoPE {rope['rope_type']!r} with {name}"
    if rope.get("partial_rotary_factor", config.get("partial_rotary_factor")) not in (None, 1):
        yield "a partial rotary embedding"
    if has_sliding_window(config):
        yield "sliding-window attention"
    if not isinstance(config.get("rms_norm_eps", 1e-6), float):
        yield f"rms_norm_eps {config['rms_norm_eps']!r}"
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        yield f"activation {config['hidden_act']!r}"
    if config.get("is_causal") is False:
        yield "attention to later tokens"
    if config.get("mlp_bias") and config["model_type"] != "llama":
        yield "field 'mlp_bias'"
    known = set().union(*FIELD_TYPES.values())
    for name, value in config.items():
        is_neutral = not value or value == 1 and value is not True
        if COMPUTES.search(name) and not (name in known or HARMLESS.search(name) or is_neutral):
            yield f"field {name!r} ({value!r:.60}; remove it if it changes nothing)"


def has_sliding_window(config):
    """Whether a layer sees less than the whole context, by the rules of transformers and vLLM."""
    if set(config.get("layer_types") or []) - {"full_attention"}:
        return True
    if config["model_type"] == "llama":  # has no such switch: any window counts
        return config.get("sliding_window") is not None or bool(config.get("use_sliding_window"))
    has_window = config.get("use_sliding_window") and config.get("sliding_window", 4096) is not None
    return has_window and (config.get("max_window_layers", 28) or 0) < config["num_hidden_layers"]


def check_tokenizer(folder, tokenizer):
    """Raises BadInput for a tokenizer without a chat template, or of another model."""
    if not tokenizer.chat_template:
        raise BadInput(
            f"{folder}: its tokenizer has no chat template: use the instruct version of the "
            "model, or put the template into the folder as chat_template.jinja"
        )
    path = folder / "config.json"
    if not path.exists():
        return
    size = parse_json(read_text(path, "model"), path).get("vocab_size", 2**62)
    # Compare ids of a real text: some tokenizers have more padding tokens than their model.
    question = "Which of these two answers is the better one, and why?"
    largest = max(encode_chat(tokenizer, [{"role": "user", "content": question}]))
    if largest >= size:
        raise BadInput(
            f"{folder}: its tokenizer writes id {largest}, the model knows {size}: they do not "
            "belong together; copy the tokenizer's files from its base model"
        )


def sharded_files(folder):
    """The safetensors files that the index of a model folder names. Raises BadInput."""
    index, single = folder / INDEX, folder / "model.safetensors"
    if not index.exists():
        raise BadInput(
            f"{folder}: neither model.safetensors nor {INDEX} is there: other names and pickled "
            "weights (*.bin, *.pt) are not read; convert or rename them first"
        )
    weight_map = parse_json(read_text(index, "--model"), index).get("weight_map")
    is_map = isinstance(weight_map, dict)
    if not is_map or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise BadInput(
            f"{index}: field 'weight_map' is missing or does not map tensors to file names: "
            "download the file again"
        )
    files = [folder / shard for shard in sorted(set(weight_map.values()))]
    if single.exists() and single not in files:
        raise BadInput(
            f"{folder}: holds {single.name} and also {INDEX} with other files: remove the older"
        )
    for path in files:
        if not path.exists():
            raise BadInput(
                f"{folder}: shard {path.name} of {INDEX} is missing: download the folder again"
            )
    return files


def check_weights(model, folder):
    """Raises BadInput unless a folder's tensors are exactly the parameters of `model`."""
    shapes = {}
    for name, weight in model.named_parameters():
        if ".lora_" not in name:
            shapes[name] = tuple(weight.shape)
    missing = set(shapes)
    if model.config.tied:  # some folders store the head a second time
        shapes["lm_head.weight"] = shapes["embed_tokens.weight"]
    found, tied = set(), []  # names; the tensors that have to be equal
    for path in weight_files(folder):
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
                    if model.config.tied and name in ("embed_tokens.weight", "lm_head.weight"):
                        tied.append(file.get_tensor(key))
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
