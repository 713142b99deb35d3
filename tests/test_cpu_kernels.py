"""kernels/cpu.py and kv_cache.py: each operation against its plain lines, and without the file."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import random_model

import kv_cache
from kernels import cpu, logprob
from model import pack_groups
from sampler import generate

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
has_bf16 = torch.cpu._is_avx512_bf16_supported()


def random_prompts(count, longest):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [torch.randint(0, 211, (length,), generator=generator).tolist() for length in lengths]


def flat(results, field):
    return [value for row in results for completion in row for value in getattr(completion, field)]


SCRIPT = """
import json, sys, torch
import kernels
from model import Model, pack_groups
from sampler import generate
torch.set_num_threads(1)
model = Model.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
prompts = [list(range(5 + k, 60 + 9 * k)) for k in range(4)]
rows = generate(model, prompts, 2, 60, temperature=0)
texts = [[completion.tokens for completion in row] for row in rows]
pack = pack_groups(list(zip(prompts, texts)))
logprobs, entropy = model.logprobs(pack, 0.7)
(logprobs.sum() + entropy.sum()).backward()
print(json.dumps({
    "exists": kernels.HAS_CPU_KERNELS,
    "greedy": texts,
    "sampled": [x for row in rows for completion in row for x in completion.logprobs],
    "logprobs": logprobs.tolist(),
    "entropy": entropy.tolist(),
    "gradient": [weight.grad.norm().item() for weight in model.parameters()],
}))
"""


def run_script(folder):
    command = [sys.executable, "-c", SCRIPT, str(ROOT / "tiny" / "judge")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_everything_works_without_the_file(tmp_path):
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels", ignore=lambda *_: ["__pycache__"])
    (tmp_path / "kernels" / "cpu.py").unlink()
    found, expected = run_script(tmp_path), run_script(ROOT)
    assert expected["exists"] and not found["exists"]
    assert found["greedy"] == expected["greedy"]
    for name in ("sampled", "logprobs", "entropy"):
        assert found[name] == pytest.approx(expected[name], abs=1e-4), name
    assert found["gradient"] == pytest.approx(expected["gradient"], rel=1e-2)


@pytest.mark.parametrize("block, most_blocks", [(1, 100), (16, 8), (256, 8), (16, 1)])
def test_key_blocks_of_any_size_give_the_same_tokens(monkeypatch, block, most_blocks):
    """Blocks of one token, blocks that end inside rows and prompts, and one block for all.

    They are compared with the call that small tables get.
    """
    model, prompts = random_model("qwen2"), random_prompts(7, longest=70)
    options = dict(stop_token_ids=range(0, 211, 40), seed=3, max_rows=5)
    expected = generate(model, prompts, 6, 80, **options)
    monkeypatch.setattr(kv_cache, "BLOCK", block)
    monkeypatch.setattr(kv_cache, "MOST_BLOCKS", most_blocks)
    monkeypatch.setattr(kv_cache, "ONE_CALL_BELOW", 0)
    found = generate(model, prompts, 6, 80, **options)
    assert flat(found, "tokens") == flat(expected, "tokens")
    assert max(len(completion.tokens) for row in found for completion in row) > 64
    torch.testing.assert_close(
        torch.tensor(flat(found, "logprobs")),
        torch.tensor(flat(expected, "logprobs")),
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("is_small", [True, False])
def test_attention_to_a_table_equals_a_softmax(is_small, monkeypatch):
    monkeypatch.setattr(kv_cache, "ONE_CALL_BELOW", 10**9 if is_small else 0)
    model, generator = random_model("qwen2"), torch.Generator().manual_seed(0)
    config, num_rows, num_tokens = model.config, 3, 128
    table = kv_cache.KeyValueTable(model, 5, 192, kv_cache.BLOCK)
    shape = (num_rows, num_tokens, config.num_kv_heads, config.head_dim)
    keys, values = (torch.randn(shape, generator=generator) for _ in range(2))
    for position in range(num_tokens):
        index = table.index(torch.arange(num_rows), torch.full((num_rows,), position))
        table.write(1, index, keys[:, position], values[:, position])
    table.move_row(2, 4)
    table.move_row(4, 2)
    queries = torch.randn(num_rows, config.num_kv_heads, 4, config.head_dim, generator=generator)
    mask = torch.zeros(num_rows, num_tokens)
    mask[torch.rand(mask.shape, generator=generator) < 0.3] = -torch.inf
    output, lse = table.attend(1, queries, mask)
    keys, values = keys.double().transpose(1, 2), values.double().transpose(1, 2)
    scores = queries.double() @ keys.transpose(2, 3) * config.head_dim**-0.5 + mask[:, None, None]
    torch.testing.assert_close(output.double(), scores.softmax(-1) @ values, atol=1e-6, rtol=0)
    expected_lse = scores.logsumexp(-1, keepdim=True)
    torch.testing.assert_close(lse.double(), expected_lse, atol=1e-6, rtol=0)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("rows, columns", [(30, 7), (7, 30)])
def test_matmul_in_fp32_of_bf16_matrices(rows, columns, accumulate, monkeypatch):
    monkeypatch.setattr(cpu, "CAST_ROWS", 8)
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(rows, 20, generator=generator).bfloat16()
    b = torch.randn(20, columns, generator=generator).bfloat16()
    before = torch.randn(rows, columns, generator=generator)
    expected = a.double() @ b.double() + (before if accumulate else 0)
    for second in (b, b.float()):
        out = before.clone()
        assert logprob.matmul_fp32(a, second, out, accumulate) is out
        torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("is_fast", [True, False])
@pytest.mark.parametrize("rows", [1, 9])
def test_a_linear_layer_in_fp32_of_bf16_matrices(rows, is_fast, monkeypatch):
    if is_fast and not has_bf16:
        pytest.skip("needs a processor that multiplies bf16")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: is_fast)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(301, 48, generator=generator).bfloat16()
    x = torch.randn(rows, 48, generator=generator).bfloat16()
    with torch.inference_mode():
        found = cpu.fp32_linear(weight)(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), x.double() @ weight.double().T, atol=1e-5, rtol=0)
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"  # as before


def spied(monkeypatch, name):
    """A list that grows with each call of a function of kernels.cpu."""
    calls, function = [], getattr(cpu, name)

    def spy(*arguments):
        calls.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(cpu, name, spy)
    return calls


@pytest.mark.skipif(not has_bf16, reason="needs a processor that multiplies bf16")
def test_reordered_weights_give_the_plain_products(monkeypatch):
    model, x = random_model("qwen2", torch.bfloat16), torch.randn(8, 48).bfloat16()
    reordered = model.with_weights(model.state_dict())
    cpu.reorder_weights(reordered)
    with torch.inference_mode():
        plain = model.layers[0].self_attn.q_proj(x)
        assert torch.equal(reordered.layers[0].self_attn.q_proj(x), plain)
    assert reordered.head_weight.data_ptr() == model.head_weight.data_ptr()  # no second copy
    calls = spied(monkeypatch, "reordered_linear")
    results = generate(model, random_prompts(3, 40), 2, 10, seed=1)
    assert len(calls) > 100
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    calls.clear()
    without = generate(model, random_prompts(3, 40), 2, 10, seed=1)
    assert flat(without, "tokens") == flat(results, "tokens") and not calls


@pytest.mark.skipif(not has_bf16, reason="needs a processor that multiplies bf16")
def test_a_model_that_only_samples_is_reordered_once(monkeypatch):
    """It holds no weight twice, and its tokens and log-probs are those of the model it was."""
    model, prompts = random_model("qwen2", torch.bfloat16), random_prompts(3, 40)
    calls = spied(monkeypatch, "reorder_weights")
    expected = [generate(model, prompts, 2, 10, seed=seed) for seed in (1, 2)]
    assert len(calls) == 2 and model.fp32_head is None  # a copy each time: it may be trained
    pack = pack_groups([(prompts[0], [[3, 4, 5]])])
    with torch.inference_mode():
        plain, _ = model.logprobs(pack)
    ready = cpu.with_reordered_weights(model)
    assert cpu.with_reordered_weights(ready) is ready
    assert all(name.endswith(("norm.weight", ".bias")) for name in ready.layers.state_dict())
    found = [generate(ready, prompts, 2, 10, seed=seed) for seed in (1, 2)]
    assert len(calls) == 3
    for ours, theirs in zip(found, expected):
        assert flat(ours, "tokens") == flat(theirs, "tokens")
        assert flat(ours, "logprobs") == flat(theirs, "logprobs")
    with torch.inference_mode():
        assert torch.equal(ready.logprobs(pack)[0], plain)
