"""The model against transformers, and packed groups against padded sequences."""

import json
import os
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from cli import BadInput
from kernels.logprob import token_logprobs
from kernels.packed_attention import packed_attention
from model import Model, pack_groups
from rollout import MicroBatch
from sampler import generate
from train_grpo import Settings, grpo_loss

torch.set_num_threads(1)
SIZES = dict(
    vocab_size=199,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=2048,
)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KINDS = {
    "llama tied": ("llama", dict(tie_word_embeddings=True)),
    "llama untied": ("llama", dict(tie_word_embeddings=False)),
    "llama biased": ("llama", dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=False)),
    "llama 3 rope": ("llama", dict(rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "qwen2": ("qwen2", dict(tie_word_embeddings=True)),
    # heads * head_dim is not hidden_size
    "qwen3": ("qwen3", dict(head_dim=16, tie_word_embeddings=False)),
}


def build(kind, folder, initializer_range=0.02, **save_options):
    """A random transformers model saved to `folder`, and the model itself in fp32."""
    model_type, changes = KINDS[kind]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **SIZES, **changes)
    config.initializer_range = initializer_range
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    # biases start at 0 and norms at 1: a forgotten one would not show
    for name, parameter in theirs.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.3)
    theirs.save_pretrained(folder, **save_options)
    return theirs


def logits_of(model, tokens):
    pack = pack_groups([(tokens, [])])
    with torch.no_grad():
        return model(pack.tokens, pack.positions, packed_attention(pack)) @ model.head_weight.T


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_greedy_tokens_equal_transformers(kind, tmp_path):
    theirs = build(kind, tmp_path)
    ours = Model.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.randint(0, 199, (128,)).tolist()
    with torch.no_grad():
        expected = theirs(torch.tensor([tokens])).logits[0]
    assert expected.std() > 0.1  # else any model would agree
    torch.testing.assert_close(logits_of(ours, tokens), expected, atol=1e-4, rtol=0)
    prompt = tokens[:20]
    greedy = theirs.generate(
        torch.tensor([prompt]),
        max_new_tokens=64,
        min_new_tokens=64,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert generate(ours, [prompt], 1, 64, temperature=0)[0][0].tokens == greedy[0, 20:].tolist()


def test_real_model_equals_transformers(real_model):
    folder = real_model
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    eager = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    ours = Model.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = Path(__file__).read_text() + Path(transformers.__file__).read_text()
    tokens = tokenizer.encode(text)[:512]
    assert len(tokens) == 512
    for length in (128, 512):
        with torch.no_grad():
            sdpa, plain = (
                model(torch.tensor([tokens[:length]])).logits[0] for model in (theirs, eager)
            )
        bound = 1e-4
        if length > 128:  # twice the rounding error of transformers itself
            bound = 2 * (sdpa - plain).abs().max().item()
        assert (logits_of(ours, tokens[:length]) - sdpa).abs().max().item() <= bound
    theirs.generation_config.eos_token_id = None  # always 64 tokens
    for question in (
        "What is the capital of France?",
        "Write two sentences about rain.",
        "2 + 2 * 3 = ?",
    ):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        # pad is eos here: without a mask transformers would hide every eos token
        prompt_tensor = torch.tensor([prompt])
        greedy = theirs.generate(
            prompt_tensor,
            attention_mask=torch.ones_like(prompt_tensor),
            max_new_tokens=64,
            do_sample=False,
        )
        assert (
            generate(ours, [prompt], 1, 64, temperature=0)[0][0].tokens
            == greedy[0, len(prompt) :].tolist()
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sharded_folders_of_every_dtype_load(dtype, tmp_path):
    theirs = build("llama untied", tmp_path / "whole").to(dtype)
    theirs.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    ours = Model.from_pretrained(tmp_path / "sharded", dtype=torch.float32)
    for name, parameter in theirs.float().named_parameters():
        mine = dict(ours.named_parameters())[name.removeprefix("model.")]
        assert torch.equal(mine, parameter), name


@pytest.mark.parametrize("kind", KINDS)
def test_saved_folder_loads_in_transformers(kind, tmp_path):
    theirs = build(kind, tmp_path / "theirs")
    Model.from_pretrained(tmp_path / "theirs", dtype=torch.float32).save_pretrained(
        tmp_path / "ours"
    )
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    tokens = torch.arange(50)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, theirs(tokens).logits)


def test_old_spelling_of_rope_is_the_same_model(tmp_path):
    build("llama 3 rope", tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    tokens = list(range(100))
    new = logits_of(Model.from_pretrained(tmp_path, dtype=torch.float32), tokens)
    scaling = {**raw.pop("rope_parameters")}
    raw |= {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert torch.equal(logits_of(Model.from_pretrained(tmp_path, dtype=torch.float32), tokens), new)
    raw["rope_scaling"] = None  # the scaling matters, or this test would show nothing
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert not torch.allclose(
        logits_of(Model.from_pretrained(tmp_path, dtype=torch.float32), tokens), new, atol=1e-3
    )


def change_config(folder, **changes):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))


OLD_LLAMA3 = {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
ACCEPTED = {  # config.json as folders on the hub have it; what differs from what `build` wrote
    "rope: the older scaling counts": (
        "llama untied",
        dict(rope_scaling=OLD_LLAMA3, rope_theta=500.0),
    ),
    "rope: the older scaling with its own base": (
        "llama untied",
        dict(rope_scaling=LLAMA3, rope_theta=500.0),
    ),
    "rope: the oldest name": (
        "llama untied",
        dict(rope_scaling={"type": "default"}, rope_theta=500.0),
    ),
    "null scaling": ("llama 3 rope", dict(rope_scaling=None, rope_theta=500.0)),
    "an empty scaling": ("llama 3 rope", dict(rope_scaling={}, rope_theta=500.0)),
    "rope: base beside the rest": ("qwen2", dict(rope_parameters=None, rope_theta=500.0)),
    "rope: base in the rest": ("qwen2", dict(rope_parameters={"rope_theta": 90.0}, rope_theta=5.0)),
    "all of the head rotates": ("qwen2", dict(partial_rotary_factor=1.0)),
    "swish": ("llama tied", dict(hidden_act="swish")),
    "window without use": ("qwen2", dict(sliding_window=8, use_sliding_window=False)),
    "window on no layer": (
        "qwen2",
        dict(sliding_window=8, use_sliding_window=True, max_window_layers=3, layer_types=None),
    ),
    "no window to use": ("qwen3", dict(use_sliding_window=True, sliding_window=None)),
    "usual remarks": (
        "llama tied",
        {
            "rope_interleaved": False,
            "pretraining_tp": 1,
            "_attn_implementation_autoset": True,
            "attention_dropout": 0.1,
            "unsloth_version": "2025.1",
            "is_llama_config": True,
            "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
            "task_specific_params": {"a": 1},
            "use_cache": True,
            "kv_cache_dtype": "fp8",
            "use_flash_attn": True,
            "initializer_range": 0.02,
            "embd_pdrop": 0.1,
            "temperature": 0.7,
            "max_sequence_length": 99,
            "eos_token_id": [1, 2],
            "id2label": {"0": "a"},
            "quantization_config": None,
            "logit_scale": 1.0,
        },
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_fields_that_are_accepted_mean_what_transformers_makes_of_them(name, tmp_path):
    kind, changes = ACCEPTED[name]
    before = logits_of_saved(build(kind, tmp_path, initializer_range=0.1))
    change_config(tmp_path, **changes)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    expected = logits_of_saved(theirs)
    ours = logits_of(Model.from_pretrained(tmp_path, dtype=torch.float32), list(range(100)))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    if name.startswith("rope"):  # these fields do matter
        assert not torch.allclose(before, expected, atol=1e-2)


def logits_of_saved(theirs):
    with torch.no_grad():
        return theirs(torch.arange(100)[None]).logits[0]


def test_a_qwen3_without_head_dim_has_128(tmp_path):
    torch.manual_seed(0)
    sizes = SIZES | dict(num_hidden_layers=1, head_dim=128)
    config = transformers.AutoConfig.for_model("qwen3", **sizes)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    theirs.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    del raw["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    ours = logits_of(Model.from_pretrained(tmp_path, dtype=torch.float32), list(range(100)))
    torch.testing.assert_close(ours, logits_of_saved(theirs), atol=1e-4, rtol=0)


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def as_int8(tensors):
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name].mul(100).to(torch.int8)


def shards_without_index(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model-00001-of-00001.safetensors")
    save_file(tensors, folder / "consolidated.safetensors")


def index_of_other_files(folder):
    save_file(load_file(folder / "model.safetensors"), folder / "other.safetensors")
    index = {"weight_map": {"model.norm.weight": "other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


CONFIG_REFUSALS = [  # (changes of config.json, the word that the message must have)
    (dict(model_type="mistral"), "mistral"),
    (dict(architectures=["LlamaForSequenceClassification"]), "LlamaForSequenceClassification"),
    (dict(rope_parameters={"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}), "yarn"),
    (dict(rope_scaling={"type": "linear", "factor": 2.0}), "linear"),
    (dict(rope_scaling={"type": "dynamic", "factor": 2.0}), "dynamic"),
    (dict(rope_scaling={"rope_type": "longrope", "short_factor": [1.0]}), "longrope"),
    (dict(rope_scaling={"type": "mrope", "mrope_section": [2, 1, 1]}), "mrope"),
    (dict(rope_scaling={"rope_type": "default", "type": "llama3"}), "llama3"),
    (dict(rope_scaling={"factor": 4.0}), "factor"),
    (dict(rope_scaling={"rope_type": "llama3", "factor": 4.0}), "low_freq_factor"),
    (dict(rope_scaling=LLAMA3 | {"factor": "8"}), "factor"),
    (dict(rope_scaling=LLAMA3 | {"attention_factor": 1.2}), "attention_factor"),
    (dict(rope_parameters={"full_attention": {"rope_theta": 5.0}}), "full_attention"),
    (dict(rope_parameters={"rope_theta": 5.0, "partial_rotary_factor": 0.5}), "partial rotary"),
    (dict(rope_parameters=None, rope_theta=0), "rope_theta"),
    (dict(partial_rotary_factor=0.5), "partial rotary"),
    (dict(use_sliding_window=True), "sliding"),
    (dict(sliding_window=64), "sliding"),
    (dict(layer_types=["full_attention", "sliding_attention", "full_attention"]), "sliding"),
    (dict(layer_types=["full_attention", "linear_attention", "full_attention"]), "sliding"),
    (
        dict(model_type="qwen2", architectures=None, use_sliding_window=True, max_window_layers=2)
        | dict(layer_types=None),
        "sliding",
    ),
    (dict(model_type="qwen2", architectures=None, mlp_bias=True), "mlp_bias"),
    (dict(hidden_act="gelu"), "gelu"),
    (dict(is_causal=False), "later tokens"),
    (dict(auto_map={"AutoModelForCausalLM": "modeling.Model"}), "auto_map"),
    (dict(quantization_config={"bits": 4}), "quantization_config"),
    (dict(use_qk_norm=True), "use_qk_norm"),
    (dict(clip_qkv=8.0), "clip_qkv"),
    (dict(logit_scale=0.5), "logit_scale"),
    (dict(logits_scaling=8.0), "logits_scaling"),
    (dict(final_logit_softcapping=30.0), "final_logit_softcapping"),
    (dict(query_pre_attn_scalar=256), "query_pre_attn_scalar"),
    (dict(attention_multiplier=0.5), "attention_multiplier"),
    (dict(residual_multiplier=0.22), "residual_multiplier"),
    (dict(embedding_multiplier=12), "embedding_multiplier"),
    (dict(scale_depth=1.4), "scale_depth"),
    (dict(no_rope_layers=[1, 1, 0]), "no_rope_layers"),
    (dict(rope_interleaved=True), "rope_interleaved"),
    (dict(num_local_experts=8), "num_local_experts"),
    (dict(attention_chunk_size=8192), "attention_chunk_size"),
    (dict(vocab_size=None), "vocab_size"),
    *((dict(num_key_value_heads=value), "num_key_value_heads") for value in (4, -2, "2", 2.0)),
    *((dict(head_dim=value), "head_dim") for value in (-8, 0, "8")),
    *((dict(rms_norm_eps=value), "rms_norm_eps") for value in (None, [1e-6])),
    (dict(dim_model_base=256), "dim_model_base"),
    (dict(use_dynamic_ntk=True), "use_dynamic_ntk"),
    (dict(add_unit_offset=True), "add_unit_offset"),
    (dict(norm_type="layernorm"), "norm_type"),
    (dict(hidden_activation="gelu"), "hidden_activation"),
    (dict(text_config={"rope_theta": 5.0}), "text_config"),
    (dict(rms_norm_eps="1e-6"), "rms_norm_eps"),
    (dict(tie_word_embeddings="false"), "tie_word_embeddings"),
    (dict(intermediate_size=96), "down_proj"),
    (dict(num_hidden_layers=4), "layers.3"),
    (dict(num_hidden_layers=2), "layers.2"),
    (dict(attention_bias=True), "bias"),
    (dict(tie_word_embeddings=True), "tie_word_embeddings"),
]
FOLDER_REFUSALS = {
    "half a config": (
        lambda f: (f / "config.json").write_text('{"model_type": "lla'),
        "config.json",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "no weights": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "safetensors",
    ),
    "truncated": (lambda f: os.truncate(f / "model.safetensors", 5000), "model.safetensors"),
    "no index": (shards_without_index, "index.json"),
    "two sets": (index_of_other_files, "index.json"),
    "missing": (
        lambda f: change_tensors(f, lambda t: t.pop("model.norm.weight")),
        "norm.weight",
    ),
    "no head": (lambda f: change_tensors(f, lambda t: t.pop("lm_head.weight")), "lm_head"),
    "twice": (
        lambda f: change_tensors(f, lambda t: t.update({"norm.weight": torch.ones(48)})),
        "stored twice",
    ),
    "more": (
        lambda f: change_tensors(f, lambda t: t.update({"model.scale": torch.ones(1)})),
        "model.scale",
    ),
    "integers": (lambda f: change_tensors(f, as_int8), "I8"),
}
REFUSALS = FOLDER_REFUSALS | {
    ", ".join(changes) + f" {number}": (
        lambda f, changes=changes: change_config(f, **changes),
        word,
    )
    for number, (changes, word) in enumerate(CONFIG_REFUSALS)
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_run_is_refused_in_one_line(name, tmp_path):
    build("llama untied", tmp_path)
    spoil, word = REFUSALS[name]
    spoil(tmp_path)
    with pytest.raises(BadInput, match=word.replace(".", r"\.")) as caught:
        Model.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_what_old_folders_hold_besides_is_passed_over(tmp_path):
    build("llama tied", tmp_path)
    before = logits_of(Model.from_pretrained(tmp_path, dtype=torch.float32), [1, 2, 3])
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "lm_head.weight": tensors["model.embed_tokens.weight"].clone(),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    save_file({"adapter": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    save_file({"norm.weight": torch.ones(2)}, tmp_path / "consolidated.safetensors")
    assert torch.equal(
        logits_of(Model.from_pretrained(tmp_path, dtype=torch.float32), [1, 2, 3]), before
    )


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_a_second_head_of_another_type_is_refused(dtype, tmp_path):
    build("llama tied", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].to(dtype)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match="lm_head.weight' is .* of [FI]8"):
        Model.from_pretrained(tmp_path)


@pytest.mark.parametrize("shard_size", ["1GB", "40KB"])
def test_a_head_that_differs_from_a_tied_embedding_is_refused(shard_size, tmp_path):
    theirs = build("llama untied", tmp_path, max_shard_size=shard_size)
    change_config(tmp_path, tie_word_embeddings=True)
    with pytest.raises(BadInput, match="tie_word_embeddings is true, but lm_head.weight differs"):
        Model.from_pretrained(tmp_path)
    change_config(tmp_path, tie_word_embeddings=False)  # as the message says
    ours = logits_of(Model.from_pretrained(tmp_path, dtype=torch.float32), list(range(100)))
    torch.testing.assert_close(ours, logits_of_saved(theirs), atol=1e-4, rtol=0)


def test_missing_shard_is_named(tmp_path):
    build("llama untied", tmp_path, max_shard_size="40KB")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(BadInput, match=lost.name):
        Model.from_pretrained(tmp_path)


def test_unknown_folder_and_hub_name_are_bad_input(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (str(tmp_path / "nothing"), "./nothing", "nothing"):
        with pytest.raises(BadInput, match="nothing"):
            Model.from_pretrained(name)


# ---- packed groups against padded sequences ----

GROUPS = [
    ([3, 4, 5, 6, 7], [[8, 9, 10], [11], [12, 13, 14, 15, 16, 17]]),
    ([20, 21], [[22, 23], [24, 25, 26]]),
    (list(range(30, 70)), [[1, 2], [5]]),
]


def test_pack_groups_is_the_example_of_its_docstring():
    pack = pack_groups([([5, 6], [[7, 8], [9]])])
    assert pack.tokens.tolist() == [5, 6, 7] and pack.positions.tolist() == [0, 1, 2]
    assert pack.targets.tolist() == [7, 8, 9] and pack.predictors.tolist() == [1, 2, 1]
    assert pack.sequence_ids.tolist() == [0, 0, 1]


def padded_logprobs(model, groups, temperature):
    """Log-probs as a textbook trainer computes them: each completion after its own prompt."""
    rows = []
    for prompt, completions in groups:
        for completion in completions:
            pack = pack_groups([(prompt + completion, [])])
            hidden = model(pack.tokens, pack.positions, packed_attention(pack))
            rows.append(
                token_logprobs(
                    hidden[len(prompt) - 1 : -1],
                    model.head_weight,
                    torch.tensor(completion),
                    temperature,
                )[0]
            )
    return torch.cat(rows)


def gradient_vector(model):
    vector = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    return vector


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("kind", ["llama tied", "qwen3"])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_packed_gradients_equal_padded_ones(loss_type, kind, beta, tmp_path):
    build(kind, tmp_path)
    model = Model.from_pretrained(tmp_path, dtype=torch.float32)
    settings = Settings(loss_type=loss_type, beta=beta, temperature=0.7, epsilon=0.05)
    settings.max_completion_length = 10
    generator = torch.Generator().manual_seed(1)
    pack = pack_groups(GROUPS)
    lengths = torch.tensor([float(len(c)) for _, completions in GROUPS for c in completions])
    advantages = torch.randn(len(lengths), generator=generator)
    totals = len(lengths), lengths.sum().item()
    old, sampled, ref = (
        -3 + 0.2 * torch.randn(len(pack.targets), generator=generator) for _ in range(3)
    )

    def loss_of(logprobs):
        old_logprobs = logprobs.detach() + 0.1 * (old + 3)  # some ratios are clipped
        sampling_logprobs = logprobs.detach() + 0.1 * (sampled + 3)
        ref_logprobs = logprobs.detach() + (ref + 3) if beta else None
        batch = MicroBatch(pack, advantages, lengths, sampling_logprobs, totals)
        batch.old_logprobs, batch.ref_logprobs = old_logprobs, ref_logprobs
        return grpo_loss(logprobs, batch, settings)

    packed, _ = model.logprobs(pack, 0.7)
    loss = loss_of(packed)
    loss.backward()
    packed_gradient = gradient_vector(model)
    padded = padded_logprobs(model, GROUPS, 0.7)
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)
    padded_loss = loss_of(padded)
    padded_loss.backward()
    padded_gradient = gradient_vector(model)
    torch.testing.assert_close(loss, padded_loss, atol=1e-6, rtol=1e-5)
    assert padded_gradient.norm() > 1e-3
    assert (packed_gradient - padded_gradient).norm() <= 1e-5 * padded_gradient.norm()


def test_checkpointed_gradients_are_the_same(tmp_path):
    build("qwen2", tmp_path)
    model, pack = Model.from_pretrained(tmp_path, dtype=torch.float32), pack_groups(GROUPS)
    gradients = []
    for model.gradient_checkpointing in (False, True):
        logprobs, entropy = model.logprobs(pack)
        (logprobs.sum() + entropy.sum()).backward()
        gradients.append(gradient_vector(model))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_completion_sees_its_prompt_and_itself_only(tmp_path):
    build("llama tied", tmp_path)
    model = Model.from_pretrained(tmp_path, dtype=torch.float32)

    def logprobs(groups):
        pack = pack_groups(groups)
        with torch.no_grad():
            return model.logprobs(pack)[0]

    before = logprobs([([1, 2, 3], [[4, 5, 6], [7, 8, 9]]), ([10, 11], [[12, 13]])])
    after = logprobs([([1, 2, 3], [[44, 5, 66], [7, 8, 9]]), ([10, 111], [[12, 13]])])
    # the second completion does not depend on the first one, or on the next group
    assert torch.equal(before[3:6], after[3:6])
    assert not torch.equal(before[:3], after[:3]) and not torch.equal(before[6:], after[6:])
