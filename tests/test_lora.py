"""LoRA: gradients by hand and against full fine-tuning, PEFT's files both ways, training and resume."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import lora
from cli import BadInput
from judge import Judge
from model import Model, pack_groups, packed_attention
from runtime import Policy, Runtime, load_checkpoint, save_checkpoint
from sampler import generate
from tiny_models import make_model_folder, make_tokenizer

torch.set_num_threads(1)
ALONE = Runtime(0, 1, torch.device("cpu"), torch.float32)
BF16 = Runtime(0, 1, torch.device("cpu"), torch.bfloat16)
ROOT = Path(__file__).parents[1]
PROMPT, COMPLETIONS = list(range(20, 40)), [[41, 42, 43, 44], [45, 46]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("base"), "qwen2")


def stirred(folder, runtime=ALONE, rank=4, alpha=8):
    """A policy whose adapters are at work: B is not zero."""
    policy = Policy(folder, runtime, lora_rank=rank, lora_alpha=alpha)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.masters.items():
            if name.endswith("lora_B"):
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return policy


def loss_of(model):
    layout = pack_groups([(PROMPT, COMPLETIONS)])
    attend = packed_attention(layout)
    logprobs, _ = model(layout.tokens, layout.positions, attend, layout.predictors, layout.targets)
    weights = torch.tensor([1.0, -2.0, 0.5, 1.0, 3.0, -1.0])
    return (logprobs * weights).sum()


def test_the_product_by_hand():
    """x (1, 2), W the identity, rank 1, A = [1 2], B = [3 0]^T, scale 2: h = 5, y = x + 2 h B."""
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    a, b = (
        torch.tensor([[1.0, 2.0]], requires_grad=True),
        torch.tensor([[3.0], [0.0]], requires_grad=True),
    )
    y = lora.LoraProduct.apply(x, torch.eye(2), torch.tensor([10.0, 20.0]), a, b, 2.0)
    assert y.tolist() == [[1 + 2 * 5 * 3 + 10.0, 22.0]]
    (y * torch.tensor([[1.0, 4.0]])).sum().backward()  # g = [1 4], g B = 3
    assert x.grad.tolist() == [[1 + 2 * 3 * 1.0, 4 + 2 * 3 * 2.0]]
    assert a.grad.tolist() == [[2 * 3 * 1.0, 2 * 3 * 2.0]]
    assert b.grad.tolist() == [[2 * 1 * 5.0], [2 * 4 * 5.0]]


def test_gradients_are_those_of_full_fine_tuning_projected(folder):
    """With dW of the merged weights: dA = scale B^T dW and dB = scale dW A^T, for every layer."""
    policy = stirred(folder)
    loss_of(policy.model).backward()
    merged = lora.merge(stirred(folder).model).requires_grad_(True)
    loss = loss_of(merged)
    torch.testing.assert_close(loss, loss_of(policy.model))
    loss.backward()
    full, masters, scale = dict(merged.named_parameters()), policy.masters, 8 / 4
    layers = [name.removesuffix(".lora_A") for name in masters if name.endswith("lora_A")]
    assert len(layers) == 2 * len(lora.TARGETS)
    for name in layers:
        gradient, a, b = (
            full[f"{name}.weight"].grad,
            masters[f"{name}.lora_A"],
            masters[f"{name}.lora_B"],
        )
        torch.testing.assert_close(a.grad, scale * b.T @ gradient, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(b.grad, scale * gradient @ a.T, atol=1e-5, rtol=1e-4)
    frozen = lora.base_parameters(policy.model).values()
    assert all(weight.grad is None and not weight.requires_grad for weight in frozen)


def test_training_starts_with_the_base_model(folder):
    base = Model.from_pretrained(folder, dtype=torch.float32)
    policy = Policy(folder, ALONE, lora_rank=8, lora_alpha=16)
    assert loss_of(base).item() == pytest.approx(loss_of(policy.model).item(), abs=1e-6)
    again = Policy(folder, ALONE, lora_rank=8, lora_alpha=16).masters
    assert all(torch.equal(value, again[name]) for name, value in policy.masters.items())
    other = Policy(folder, ALONE, lora_rank=8, lora_alpha=16, seed=1).masters
    assert not any(
        torch.equal(value, other[name])
        for name, value in policy.masters.items()
        if "lora_A" in name
    )


def test_a_small_adapter_changes_a_bf16_model(folder):
    """Merged into bf16 weights, an adapter this small would be rounded away for most entries."""
    base = Model.from_pretrained(folder, dtype=torch.bfloat16)
    policy = Policy(folder, BF16, lora_rank=8, lora_alpha=32)
    with torch.no_grad():
        for name, parameter in policy.masters.items():
            if name.endswith("lora_B"):
                parameter.fill_(1e-5)
    before = {name: value.clone() for name, value in lora.base_parameters(policy.model).items()}
    gap = (loss_of(policy.model) - loss_of(base)).abs().item()
    merged = dict(lora.merge(policy.model).named_parameters())
    changed = [
        (merged[name] != before[name]).float().mean() for name in before if "_proj.weight" in name
    ]
    assert gap > 0 and max(changed) < 0.5


@pytest.mark.parametrize("runtime", [ALONE, BF16])
def test_sampler_and_trainer_agree(folder, runtime):
    policy = stirred(folder, runtime)
    (completions,) = generate(policy.model, [PROMPT], num_generations=4, max_new_tokens=24, seed=3)
    layout = pack_groups([(PROMPT, [completion.tokens for completion in completions])])
    attend = packed_attention(layout)
    logprobs, _ = policy.model(
        layout.tokens, layout.positions, attend, layout.predictors, layout.targets
    )
    sampled = torch.tensor([value for completion in completions for value in completion.logprobs])
    limit = 1e-4 if runtime is ALONE else 0.05
    assert (logprobs.detach() - sampled).abs().max() < limit


def step(policy, optimizer, number=1):
    for _ in range(number):
        loss_of(policy.model).backward()
        policy.step(optimizer, 0.0, 1.0)


def adam(policy):
    return torch.optim.AdamW(policy.masters.values(), lr=1e-2, weight_decay=0.0)


@pytest.mark.parametrize("runtime", [ALONE, BF16])
def test_a_resumed_run_goes_on_exactly(folder, runtime, tmp_path):
    policy = Policy(folder, runtime, lora_rank=4, lora_alpha=8)
    optimizer = adam(policy)
    step(policy, optimizer, 2)
    save_checkpoint(tmp_path, 2, policy, optimizer, make_tokenizer(), "rrm_short")
    step(policy, optimizer, 2)
    resumed = Policy(tmp_path / "checkpoint-2", runtime)
    assert resumed.lora == (4, 8) and resumed.base == str(folder)
    optimizer = adam(resumed)
    assert load_checkpoint(tmp_path / "checkpoint-2", resumed, optimizer) == 2
    step(resumed, optimizer, 2)
    for name, value in policy.masters.items():
        assert value.dtype == torch.float32 and torch.equal(value, resumed.masters[name]), name


def test_peft_computes_the_same_from_our_files_and_we_from_its(folder, tmp_path):
    peft = pytest.importorskip("peft")
    policy = stirred(folder)
    save_checkpoint(tmp_path, 1, policy, adam(policy), make_tokenizer())
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "checkpoint-1").eval()
    tokens = torch.tensor([PROMPT])
    layout = pack_groups([(PROMPT, [])])

    def logits(model):
        with torch.no_grad():
            hidden = model(layout.tokens, layout.positions, packed_attention(layout))
        return hidden @ model.head_weight.T

    with torch.no_grad():
        expected = theirs(tokens).logits[0]
    torch.testing.assert_close(logits(policy.model), expected, atol=1e-4, rtol=1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    read = Model.from_pretrained(folder, dtype=torch.float32, adapter=tmp_path / "theirs")
    torch.testing.assert_close(logits(read), expected, atol=1e-4, rtol=1e-4)
    named = Model.from_pretrained(tmp_path / "checkpoint-1", dtype=torch.float32)
    torch.testing.assert_close(logits(named), expected, atol=1e-4, rtol=1e-4)
    merged = lora.merge(named)
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)


def test_a_judge_loads_an_adapter_either_way(folder, tmp_path):
    policy = stirred(folder)
    save_checkpoint(tmp_path, 1, policy, adam(policy), make_tokenizer(), "rrm_short")
    given, named, base = (
        Judge(folder, adapter=tmp_path / "checkpoint-1", dtype="float32"),
        Judge(tmp_path / "checkpoint-1", dtype="float32"),
        Judge(folder, dtype="float32"),
    )
    assert [judge.style.name for judge in (given, named, base)] == ["rrm_short", "rrm_short", "rrm"]
    losses = [loss_of(judge.model).item() for judge in (given, named, base)]
    assert losses[0] == losses[1] == pytest.approx(loss_of(policy.model).item(), abs=1e-5)
    assert abs(losses[2] - losses[0]) > 1e-2
    (judgment,) = given.judge([("What is 6 * 7?", "42", "48")], max_completion_length=4)
    assert len(judgment.games) == 2


def test_files_hold_the_adapter_alone(folder, tmp_path):
    policy = stirred(folder)
    save_checkpoint(tmp_path, 1, policy, adam(policy), make_tokenizer())
    names = {path.name for path in (tmp_path / "checkpoint-1").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "trainer"} <= names
    assert "model.safetensors" not in names
    tensors = load_file(tmp_path / "checkpoint-1" / "adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * len(lora.TARGETS)
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in tensors


@pytest.mark.parametrize(
    "change, complaint", [({"peft_type": "IA3"}, "IA3"), ({"use_dora": True}, "use_dora")]
)
def test_other_kinds_of_adapters_are_refused(folder, tmp_path, change, complaint):
    lora.save_adapter(tmp_path, stirred(folder).masters, 4, 8, folder)
    config = json.loads((tmp_path / lora.CONFIG).read_text()) | change
    (tmp_path / lora.CONFIG).write_text(json.dumps(config))
    with pytest.raises(BadInput, match=complaint):
        Model.from_pretrained(folder, adapter=tmp_path)


def test_an_adapter_of_another_model_is_refused(folder, tmp_path):
    lora.save_adapter(tmp_path / "adapter", stirred(folder).masters, 4, 8, folder)
    other = make_model_folder(tmp_path / "other", "qwen2", intermediate_size=96)
    with pytest.raises(BadInput, match="another"):
        Model.from_pretrained(other, adapter=tmp_path / "adapter")


@pytest.mark.slow
def test_the_commands_train_resume_and_judge(tmp_path):
    """train_grpo.py stopped and resumed writes the adapter of a run in one go; judge.py reads it."""

    def call(*arguments):
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    sizes = ("--prompts_per_step", 2, "--num_generations", 4, "--eval_every", 0, "--save_every", 1)
    options = (*sizes, "--lora_rank", 2, "--lora_alpha", 8, "--learning_rate", 1e-2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    call("train_grpo.py", *options, "--max_steps", 2, "--output_dir", whole)
    call("train_grpo.py", *options, "--max_steps", 1, "--output_dir", parts)
    call("train_grpo.py", *options, "--max_steps", 2, "--output_dir", parts, "--resume")
    files = [folder / "checkpoint-2" / lora.WEIGHTS for folder in (whole, parts)]
    assert files[0].read_bytes() == files[1].read_bytes()
    question = (
        "--query",
        "347+586",
        "--a",
        933,
        "--b",
        923,
        "--max_completion_length",
        60,
        "--json",
    )
    on_top = call(
        "judge.py", "--model", "tiny-base", "--adapter", whole / "checkpoint-2", *question
    )
    assert on_top == call("judge.py", "--model", whole / "checkpoint-2", *question)


def test_supervised_and_preference_training_move_the_adapters(folder):
    """The loss falls, and of the weights nothing but A and B has changed."""
    from extras import train_dpo
    from train_sft import Settings, train_step

    for kind in ("sft", "dpo"):
        policy = Policy(folder, ALONE, lora_rank=4, lora_alpha=8)
        base = lora.base_parameters(policy.model)
        before, optimizer = {name: value.clone() for name, value in base.items()}, adam(policy)
        if kind == "sft":
            rows = [(PROMPT, [COMPLETIONS[0]], "row")]
            steps = [train_step(policy, optimizer, rows, Settings()) for _ in range(8)]
        else:
            reference = Model.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
            rows, settings = [(PROMPT, COMPLETIONS, "row")], train_dpo.Settings()
            steps = [
                train_dpo.train_step(policy, reference, optimizer, rows, settings) for _ in range(8)
            ]
        assert steps[-1]["loss"] < steps[0]["loss"] - 0.01
        assert all(torch.equal(value, before[name]) for name, value in base.items())
