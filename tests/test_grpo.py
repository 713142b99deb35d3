"""The arithmetic of GRPO against values worked out by hand, and the step as a whole on small random models."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

from data import Pair
from model import Model, pack_groups, packed_attention
from rewards import load_reward, verdict_reward
from rollouts import Group, pair_stream
from runtime import Policy, Runtime
from sampler import Completion
from train_grpo import Settings, accumulate, group_advantages, grpo_loss, kl_divergence, micro_batches, policy_losses, score, sequence_weights, update

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
ALONE = Runtime(0, 1, torch.device("cpu"), torch.float32)


# ---- pure functions ----


def test_group_advantages_by_hand():
    rewards = torch.tensor([[1.0, -1.0, -1.0, -1.0], [1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, -1.0]])
    advantages = group_advantages(rewards)
    # row 0: mean -1/2, squares 9/4 + 3/4 = 3, std sqrt(3/3) = 1; row 1: mean 0, std sqrt(4/3)
    torch.testing.assert_close(advantages[0], torch.tensor([1.5, -0.5, -0.5, -0.5]) / 1.0001)
    torch.testing.assert_close(advantages[1], torch.tensor([1.0, 1.0, -1.0, -1.0]) / (math.sqrt(4 / 3) + 1e-4))
    assert advantages[2].tolist() == [0.0] * 4  # exactly
    assert group_advantages(torch.full((1, 3), 0.1)).tolist() == [[0.0] * 3]  # 0.1 * 3 / 3 is not 0.1 in fp32
    torch.testing.assert_close(group_advantages(rewards, "none")[0], torch.tensor([1.5, -0.5, -0.5, -0.5]))


@pytest.mark.parametrize(
    "ratio, advantage, expected",
    [(1.5, 1.0, -1.2), (1.5, -1.0, 1.5), (0.5, 1.0, -0.5), (0.5, -1.0, 0.8), (1.1, 2.0, -2.2), (20.0, -1.0, 20.0)],
)
def test_clipped_surrogate_takes_the_worse_of_the_two(ratio, advantage, expected):
    loss = policy_losses(torch.tensor([ratio]).log(), torch.zeros(1), torch.tensor([advantage]), 0.2, 0.2)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_the_two_clips_are_separate():
    losses = policy_losses(torch.tensor([1.5, 0.5]).log(), torch.zeros(2), torch.tensor([1.0, -1.0]), 0.3, 0.28)
    torch.testing.assert_close(losses, torch.tensor([-1.28, 0.7]))


def test_gradient_is_that_of_the_policy_gradient_on_policy():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    policy_losses(logprobs, logprobs.detach(), torch.tensor([0.5, -2.0]), 0.2, 0.2).sum().backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([-0.5, 2.0]))  # the loss itself is near 0, its gradient is not
    clipped = torch.tensor([0.0], requires_grad=True)
    policy_losses(clipped, torch.tensor([-1.0]), torch.tensor([1.0]), 0.2, 0.2).sum().backward()
    assert clipped.grad.item() == 0.0


def test_kl_by_hand_and_its_gradient():
    logprobs = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    kl = kl_divergence(logprobs, torch.tensor([-1.0, -2.0, -0.5]))
    torch.testing.assert_close(kl, torch.tensor([0.0, math.exp(-1), math.exp(0.5) - 1.5]))
    kl.sum().backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([0.0, 1 - math.exp(-1), 1 - math.exp(0.5)]))


def test_kl_estimates_the_divergence():
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.4, 0.4, 0.2])
    expectation = (p * kl_divergence(p.log(), q.log())).sum()
    torch.testing.assert_close(expectation, (p * (p / q).log()).sum())


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_weights_are_the_textbook_means(loss_type):
    lengths, values = torch.tensor([2.0, 5.0, 1.0]), [torch.randn(2), torch.randn(5), torch.randn(1)]
    weights = sequence_weights(lengths, loss_type, 3, 8.0, 10)
    got = sum(weight * value.sum() for weight, value in zip(weights, values))
    expected = {
        "grpo": torch.stack([value.mean() for value in values]).mean(),
        "dapo": torch.cat(values).mean(),
        "dr_grpo": torch.cat(values).sum() / (3 * 10),
    }[loss_type]
    torch.testing.assert_close(got, expected)


def test_importance_weights_are_cut_above_and_carry_no_gradient():
    logprobs = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    sampled = torch.tensor([-1.0, -1.0 - math.log(1.5), -9.0])  # ratios 1, 1.5, e^8
    loss = grpo_loss(logprobs, logprobs.detach(), sampled, None, torch.tensor([0, 0, 0]), torch.tensor([1.0]), torch.tensor([1.0]), Settings(importance_cap=2.0))
    loss.backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([-1.0, -1.5, -2.0]))


def test_kl_enters_with_beta():
    arguments = (torch.tensor([-1.0]), torch.tensor([-1.0]), torch.tensor([-1.0]), torch.tensor([-2.0]))
    loss = grpo_loss(*arguments, torch.tensor([0]), torch.tensor([0.0]), torch.tensor([0.5]), Settings(beta=0.1))
    assert loss.item() == pytest.approx(0.5 * 0.1 * math.exp(-1), rel=1e-6)


def test_entropy_of_uniform_logits_is_log_vocabulary():
    from kernels.logprob import token_logprobs

    _, entropy = token_logprobs(torch.zeros(3, 8), torch.randn(77, 8), torch.tensor([0, 5, 76]))
    torch.testing.assert_close(entropy, torch.full((3,), math.log(77)))


# ---- rewards and groups ----


def test_verdict_reward():
    texts = ["<think>a</think>\\boxed{Assistant 1}", "\\boxed{Assistant 2}", "no idea", "<think>\\boxed{Assistant 1}"]
    assert verdict_reward(["p"] * 4, texts, right_verdict=[1, 1, 1, 1], style=["rrm"] * 4) == [1.0, -1.0, -1.0, -1.0]


def test_pair_stream_sees_every_pair_once_an_epoch_balanced_and_reproducible():
    pairs = [Pair(f"p{i}", [{"role": "user", "content": str(i)}], ("a", "b"), i % 2) for i in range(40)]
    stream = pair_stream(pairs, 3)
    epochs = [[next(stream) for _ in range(40)] for _ in range(2)]
    for epoch in epochs:
        assert {pair.id for pair, _ in epoch} == {pair.id for pair in pairs}
        first = [order.index(pair.label) == 0 for pair, order in epoch]  # the better answer stands there
        assert all(sum(couple) == 1 for couple in zip(first[::2], first[1::2]))  # in half of every even step, not of the epoch alone
        assert 5 <= sum(first[::2]) <= 15  # and the index does not tell where
    assert [pair.id for pair, _ in epochs[0]] != [pair.id for pair, _ in epochs[1]]
    orders = [{pair.id: order for pair, order in epoch} for epoch in epochs]
    assert orders[0] != orders[1]
    odd = pair_stream([*pairs[:3], Pair("tie", [], ("a", "b"), 0.5)], 3)
    assert {pair.id for pair, _ in (next(odd) for _ in range(4))} == {"p0", "p1", "p2", "tie"}
    again = pair_stream(pairs, 3)
    assert [next(again)[0].id for _ in range(40)] == [pair.id for pair, _ in epochs[0]]


# ---- steps ----


@pytest.fixture()
def folder(tmp_path):
    torch.manual_seed(0)
    config = transformers.Qwen3Config(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                                      num_key_value_heads=2, head_dim=8, tie_word_embeddings=True, initializer_range=0.2)  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def made_up_groups(policy, advantages, temperature=1.0, seed=0):
    """Groups with random completions whose sampling log-probs are the model's own; advantages: one list a group."""
    generator, groups = torch.Generator().manual_seed(seed), []
    for number, row in enumerate(advantages):
        prompt = torch.randint(0, 61, (5 + 3 * number,), generator=generator).tolist()
        group = Group(Pair(str(number), [], ("a", "bb"), 0), [0, 1], [], prompt)
        lengths = torch.randint(1, 12, (len(row),), generator=generator).tolist()
        tokens = [torch.randint(0, 61, (length,), generator=generator).tolist() for length in lengths]
        layout = pack_groups([(prompt, tokens)])
        with torch.no_grad():
            logprobs, _ = policy.model(layout.tokens, layout.positions, packed_attention(layout), layout.predictors, layout.targets, temperature)
        pieces = logprobs.split(lengths)
        group.completions = [Completion(piece, values.tolist(), "stop") for piece, values in zip(tokens, pieces)]
        group.advantages = row
        groups.append(group)
    return groups


ADVANTAGES = [[1.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-0.7, 0.7, 1.2], [0.3, -0.2, -2.0]]


def gradient(policy):
    return torch.cat([master.grad.flatten() for master in policy.masters.values()])


def totals_of(groups):
    lengths = [len(completion.tokens) for group in groups for completion in group.completions]
    return float(len(lengths)), float(sum(lengths))


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_gradients_do_not_depend_on_micro_batches(folder, loss_type):
    gradients = []
    for budget in (10_000, 60, 1):
        policy, settings = Policy(folder, ALONE), Settings(loss_type=loss_type, micro_batch_tokens=budget, max_completion_length=12)
        groups = made_up_groups(policy, ADVANTAGES)
        batches = list(micro_batches(groups, budget))
        sums, _ = accumulate(policy, None, batches, [], totals_of(groups), settings)
        gradients.append(gradient(policy))
        assert sums[1].item() == totals_of(groups)[1]
    assert len(batches) == 12  # a budget of 1: every completion by itself
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() <= 1e-5 * gradients[0].norm()


def test_micro_batches_hold_every_completion_once_within_the_budget(folder):
    groups = made_up_groups(Policy(folder, ALONE), ADVANTAGES)
    for budget in (1, 30, 50, 1000):
        batches = list(micro_batches(groups, budget))
        seen = [(group.pair.id, index) for batch in batches for group, chosen in batch for index in chosen]
        assert seen == [(group.pair.id, index) for group in groups for index in range(3)]
        for batch in batches:
            size = sum(len(group.prompt) + sum(len(group.completions[i].tokens) for i in chosen) for group, chosen in batch)
            assert size <= budget or sum(len(chosen) for _, chosen in batch) == 1


@pytest.mark.parametrize("loss_type, factor", [("grpo", 0.5), ("dr_grpo", 0.5), ("dapo", None)])
def test_zero_variance_groups_count_in_the_divisor_but_cost_no_work(folder, loss_type, factor, monkeypatch):
    """Adding groups without signal must scale the gradient exactly as if their zero losses had been computed."""
    gradients, work = [], []
    forward = Model.forward
    monkeypatch.setattr(Model, "forward", lambda self, tokens, *rest: work.append(len(tokens)) or forward(self, tokens, *rest))
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    for advantages in (ADVANTAGES[:1], [ADVANTAGES[0], [0.0, 0.0, 0.0]]):
        policy, settings = Policy(folder, ALONE), Settings(loss_type=loss_type, max_grad_norm=1e9, max_completion_length=12)
        groups = made_up_groups(policy, advantages)
        work.clear()
        monkeypatch.setattr(torch.optim.AdamW, "zero_grad", lambda self, **_: gradients.append(gradient(policy)))
        update(policy, None, torch.optim.AdamW(policy.masters.values()), groups, settings)
        assert sum(work) == len(groups[0].prompt) + sum(len(c.tokens) - 1 for c in groups[0].completions)
        tokens = totals_of(groups)[1]
        factor_of_tokens = factor or totals_of(groups[:1])[1] / tokens
    expected = gradients[0] * factor_of_tokens
    assert (gradients[1] - expected).norm() <= 1e-5 * expected.norm()


def test_a_step_without_signal_changes_nothing_and_reports_all_metrics(folder):
    policy = Policy(folder, ALONE)
    before = [master.detach().clone() for master in policy.masters.values()]
    optimizer = torch.optim.AdamW(policy.masters.values(), lr=0.1)
    sums, largest, grad_norm = update(policy, None, optimizer, made_up_groups(policy, [[0.0] * 3] * 2), Settings())
    assert grad_norm == 0.0 and sums[1] > 0 and sums[2] > 0 and largest < 1e-5
    assert all(torch.equal(old, new) for old, new in zip(before, policy.masters.values()))


def test_the_metrics_of_a_step_without_signal_cover_every_token(folder):
    for budget in (10_000, 1):
        policy, settings = Policy(folder, ALONE), Settings(micro_batch_tokens=budget)
        groups = made_up_groups(policy, [[0.0] * 3] * 2)
        sums, _, _ = update(policy, None, torch.optim.AdamW(policy.masters.values()), groups, settings)
        assert sums[1].item() == totals_of(groups)[1]


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(folder):
    policy = Policy(folder, ALONE)
    before = [master.detach().clone() for master in policy.masters.values()]
    groups = made_up_groups(policy, ADVANTAGES)
    groups[0].completions[0].logprobs[0] = float("nan")
    optimizer = torch.optim.AdamW(policy.masters.values(), lr=0.1)
    _, _, grad_norm = update(policy, None, optimizer, groups, Settings(num_iterations=3))
    assert not math.isfinite(grad_norm) and not optimizer.state and all(master.grad is None for master in policy.masters.values())
    assert all(torch.equal(old, new) for old, new in zip(before, policy.masters.values()))


def test_the_loss_is_a_mean_over_iterations(folder):
    losses = []
    for iterations in (1, 3):
        policy = Policy(folder, ALONE)
        optimizer = torch.optim.AdamW(policy.masters.values(), lr=0.0, weight_decay=0.0)
        sums, _, _ = update(policy, None, optimizer, made_up_groups(policy, ADVANTAGES), Settings(num_iterations=iterations))
        losses.append(sums[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and abs(losses[0]) > 1e-3


def test_with_beta_groups_without_variance_are_trained(folder):
    policy = Policy(folder, ALONE)
    reference = Model.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        reference.norm.weight.mul_(1.5)
    optimizer = torch.optim.AdamW(policy.masters.values(), lr=0.01)
    sums, _, grad_norm = update(policy, reference, optimizer, made_up_groups(policy, [[0.0] * 3] * 2), Settings(beta=0.1))
    assert grad_norm > 1e-4 and sums[5] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_step_changes_every_parameter_of_masters_and_copy(folder, dtype):
    policy = Policy(folder, Runtime(0, 1, torch.device("cpu"), dtype))
    before = {name: master.detach().clone() for name, master in policy.masters.items()}
    optimizer = torch.optim.AdamW(policy.masters.values(), lr=0.1, weight_decay=0.0)
    update(policy, None, optimizer, made_up_groups(policy, ADVANTAGES), Settings())
    for name, master in policy.masters.items():
        assert master.dtype == torch.float32 and not torch.equal(master, before[name]), name
        assert torch.equal(dict(policy.model.named_parameters())[name], master.to(dtype)), name


def test_small_learning_rates_move_bf16_training(folder):
    """A bf16 weight of 1 does not notice steps of 1e-6; its fp32 master does."""
    policy = Policy(folder, Runtime(0, 1, torch.device("cpu"), torch.bfloat16))
    optimizer = torch.optim.AdamW(policy.masters.values(), lr=1e-6, weight_decay=0.0)
    start = policy.masters["norm.weight"].detach().clone()
    for _ in range(3):
        update(policy, None, optimizer, made_up_groups(policy, ADVANTAGES), Settings())
    assert 1e-6 < (policy.masters["norm.weight"] - start).abs().max() < 1e-5


def test_the_second_update_on_a_rollout_clips_against_the_first(folder):
    policy = Policy(folder, ALONE)
    optimizer = torch.optim.AdamW(policy.masters.values(), lr=0.05, weight_decay=0.0)
    sums, largest, _ = update(policy, None, optimizer, made_up_groups(policy, ADVANTAGES), Settings(num_iterations=3, epsilon=0.1))
    assert sums[3] + sums[4] > 0  # ratios have left the clip range
    assert largest < 1e-5  # the sampler is still compared with the weights that sampled
    policy = Policy(folder, ALONE)
    optimizer = torch.optim.AdamW(policy.masters.values(), lr=0.05, weight_decay=0.0)
    sums, _, _ = update(policy, None, optimizer, made_up_groups(policy, ADVANTAGES), Settings(epsilon=0.1))
    assert sums[3] + sums[4] == 0  # on-policy every ratio is 1


def test_score_hands_whole_groups_and_columns_to_the_reward():
    groups = [Group(Pair(str(n), [], ("a", "bb"), 1), [1, 0], [{"role": "user", "content": str(n)}], [1]) for n in range(2)]
    for group in groups:
        group.games = [{"text": f"{group.pair.id}{index}"} for index in range(3)]
    seen = {}

    def reward(prompts, completions, right_verdict, style, **columns):
        seen.update(prompts=prompts, completions=completions, right=right_verdict, style=style)
        return [1.0, -1.0, 1.0, -1.0, -1.0, -1.0]

    score(groups, reward, SimpleNamespace(num_generations=3, style="rrm", scale_rewards="none", reward="r"))
    assert seen["completions"] == ["00", "01", "02", "10", "11", "12"] and seen["right"] == [1] * 6 and seen["style"] == ["rrm"] * 6
    assert seen["prompts"][2] == groups[0].messages and seen["prompts"][3] == groups[1].messages
    assert groups[0].advantages == pytest.approx([2 / 3, -4 / 3, 2 / 3]) and groups[1].advantages == [0.0] * 3
    with pytest.raises(ValueError, match="finite"):  # NaN must not pass for a group without variance
        score(groups, lambda **_: [1.0, float("nan")] * 3, SimpleNamespace(num_generations=3, style="rrm", scale_rewards="none", reward="r"))
    with pytest.raises(ValueError, match="rewards"):
        score(groups, lambda **_: [1.0], SimpleNamespace(num_generations=3, style="rrm", scale_rewards="none", reward="r"))


def test_load_reward():
    assert load_reward("verdict") is verdict_reward
    assert load_reward("math:sqrt") is math.sqrt


# ---- several processes ----


@pytest.mark.parametrize("processes", [2])
def test_gradients_of_two_processes_equal_those_of_one(folder, tmp_path, processes):
    """Given the same rollouts: one group more on one process, one of them without signal, packs of different number."""
    script = [str(Path(__file__).parent / "gradient_worker.py"), str(folder)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *script, str(tmp_path / "one.json")], check=True, env=environment, timeout=120)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    subprocess.run([*launcher, *script, str(tmp_path / "two.json")], check=True, env=environment, timeout=240)
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert one.keys() == two.keys() and len(one) == 12
    for case in one:
        first, second = torch.tensor(one[case]["gradient"]), torch.tensor(two[case]["gradient"])
        assert (first - second).norm() <= 1e-5 * first.norm(), case
        assert one[case]["loss"] == pytest.approx(two[case]["loss"], rel=1e-5), case
        torch.testing.assert_close(torch.tensor(one[case]["sums"]), torch.tensor(two[case]["sums"]), rtol=1e-5, atol=1e-4)  # KL: all rounding
        assert first.norm() > 1e-4, case
