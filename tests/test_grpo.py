"""GRPO's arithmetic by hand, and a whole step on small random models."""

import dataclasses
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
from loop import ADVANTAGES, ALONE, load, made_up_groups, run_loop

from chat import load_tokenizer
from checkpoint import resolve_model
from cli import BadInput
from data import Pair, Question
from distributed import Runtime
from judge_task import Comparison, JudgeTask, comparison_stream, verdict_reward
from model import Model
from rewards import consistency_reward
from rollout import Group, MicroBatch, chunks, rewards, step_metrics
from sampler import Completion
from solve_task import Exercise, SolveTask
from train_grpo import (
    IMPORTANCE_CAP,
    Settings,
    check_numbers,
    fill_in,
    group_advantages,
    grpo_loss,
    kl_divergence,
    policy_losses,
    prepare,
    sequence_weights,
)

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]


# ---- pure functions ----


def test_group_advantages_by_hand():
    rewards = torch.tensor(
        [[1.0, -1.0, -1.0, -1.0], [1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, -1.0]]
    )
    advantages = group_advantages(rewards)
    # row 0: mean -1/2, squares 9/4 + 3/4 = 3, std sqrt(3/3) = 1; row 1: mean 0, std sqrt(4/3)
    torch.testing.assert_close(advantages[0], torch.tensor([1.5, -0.5, -0.5, -0.5]) / 1.0001)
    torch.testing.assert_close(
        advantages[1], torch.tensor([1.0, 1.0, -1.0, -1.0]) / (math.sqrt(4 / 3) + 1e-4)
    )
    assert advantages[2].tolist() == [0.0] * 4  # exactly
    assert group_advantages(torch.full((1, 3), 0.1)).tolist() == [
        [0.0] * 3
    ]  # 0.1 * 3 / 3 is not 0.1 in fp32
    torch.testing.assert_close(
        group_advantages(rewards, "none")[0], torch.tensor([1.5, -0.5, -0.5, -0.5])
    )


NAN = float("nan")  # in a row of rewards: the function gave None


def test_a_completion_without_reward_counts_nowhere():
    rows = [
        [1.0, NAN, 0.0, 2.0],  # scored: mean 1, squares 0 + 1 + 1 = 2, std sqrt(2 / 2) = 1
        [NAN, 3.0, NAN, 3.0],  # equal rewards
        [NAN, NAN, 5.0, NAN],  # nothing to compare with
        [NAN, NAN, NAN, NAN],
        [0.1, 0.1, 0.1, NAN],  # 0.1 * 3 / 3 is not 0.1 in fp32
    ]
    rewards = torch.tensor(rows)
    expected = torch.zeros(5, 4)
    expected[0] = torch.tensor([0.0, 0.0, -1.0, 1.0])
    torch.testing.assert_close(group_advantages(rewards, "none"), expected)
    assert group_advantages(rewards, "none")[1:].tolist() == expected[1:].tolist()  # exactly
    torch.testing.assert_close(group_advantages(rewards), expected / 1.0001)
    assert group_advantages(rewards)[1:].tolist() == expected[1:].tolist()


def test_advantages_without_some_rewards_are_those_of_trl():
    """The lines of TRL 1.16 between its rewards and its advantages, on random groups."""
    trl = pytest.importorskip("trl.trainer.utils")
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randint(-1, 3, (200, 5), generator=generator).float()
    rewards[torch.rand(200, 5, generator=generator) < 0.4] = NAN
    assert rewards.isnan().all(dim=1).any() and (rewards.isfinite().sum(dim=1) == 1).any()
    for scale in "group", "none":
        advantages = rewards - torch.nanmean(rewards, dim=1, keepdim=True)
        if scale == "group":
            advantages = advantages / (trl.nanstd(rewards, dim=1, keepdim=True) + 1e-4)
        theirs = torch.nan_to_num(advantages, nan=0.0)
        torch.testing.assert_close(group_advantages(rewards, scale), theirs, rtol=1e-4, atol=2e-5)


def test_metrics_count_scored_completions():
    rows = []
    for rewards_of_group in [1.0, None, 0.0], [None, None, 2.0], [None] * 3:
        games = [
            {"reward": reward, "tokens": 2, "finish_reason": "stop"} for reward in rewards_of_group
        ]
        rows.append({"prompt_tokens": 1, "completions": games})
    batch = SimpleNamespace(old_logprobs=torch.zeros(1), sampling_logprobs=torch.zeros(1), scale=1)
    sums = {"loss": 0.0, "tokens": 4, "sampling/importance_sampling_ratio/mean": 4.0}
    sums["sampling/importance_sampling_ratio/squares"] = 4.0
    found = step_metrics(rows, [[batch]], sums, range(5), ALONE)
    assert found["reward"] == 1.0 and found["completions/unscored_ratio"] == pytest.approx(6 / 9)
    assert found["reward_std"] == pytest.approx(math.sqrt(0.5) / 3)
    assert found["frac_reward_zero_std"] == pytest.approx(2 / 3)  # of one reward nothing is learned


@pytest.mark.parametrize(
    "flags, scale",
    [
        ({}, "group"),
        ({"loss_type": "dapo"}, "group"),
        ({"loss_type": "dr_grpo"}, "none"),
        ({"reward": "judge"}, "none"),
        ({"loss_type": "dr_grpo", "scale_rewards": "group"}, "group"),
        ({"scale_rewards": "none"}, "none"),
    ],
)
def test_auto_divides_by_the_deviation_but_for_dr_grpo_and_a_judge(flags, scale):
    assert fill_in(Settings(**flags)).scale_rewards == scale


@pytest.mark.parametrize(
    "ratio, advantage, expected",
    [
        (1.5, 1.0, -1.2),
        (1.5, -1.0, 1.5),
        (0.5, 1.0, -0.5),
        (0.5, -1.0, 0.8),
        (1.1, 2.0, -2.2),
        (20.0, -1.0, 20.0),
    ],
)
def test_clipped_surrogate_takes_the_worse_of_the_two(ratio, advantage, expected):
    loss = policy_losses(
        torch.tensor([ratio]).log(), torch.zeros(1), torch.tensor([advantage]), 0.2, 0.2
    )
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_the_two_clips_are_separate():
    losses = policy_losses(
        torch.tensor([1.5, 0.5]).log(), torch.zeros(2), torch.tensor([1.0, -1.0]), 0.3, 0.28
    )
    torch.testing.assert_close(losses, torch.tensor([-1.28, 0.7]))


def test_gradient_is_that_of_the_policy_gradient_on_policy():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    policy_losses(logprobs, logprobs.detach(), torch.tensor([0.5, -2.0]), 0.2, 0.2).sum().backward()
    torch.testing.assert_close(
        logprobs.grad, torch.tensor([-0.5, 2.0])
    )  # the loss itself is near 0, its gradient is not
    clipped = torch.tensor([0.0], requires_grad=True)
    policy_losses(clipped, torch.tensor([-1.0]), torch.tensor([1.0]), 0.2, 0.2).sum().backward()
    assert clipped.grad.item() == 0.0


def test_kl_by_hand_and_its_gradient():
    logprobs = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    kl = kl_divergence(logprobs, torch.tensor([-1.0, -2.0, -0.5]))
    torch.testing.assert_close(kl, torch.tensor([0.0, math.exp(-1), math.exp(0.5) - 1.5]))
    kl.sum().backward()
    torch.testing.assert_close(
        logprobs.grad, torch.tensor([0.0, 1 - math.exp(-1), 1 - math.exp(0.5)])
    )


def test_kl_estimates_the_divergence():
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.4, 0.4, 0.2])
    expectation = (p * kl_divergence(p.log(), q.log())).sum()
    torch.testing.assert_close(expectation, (p * (p / q).log()).sum())


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_weights_are_the_textbook_means(loss_type):
    lengths, values = (
        torch.tensor([2.0, 5.0, 1.0]),
        [torch.randn(2), torch.randn(5), torch.randn(1)],
    )
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
    pack = SimpleNamespace(sequence_ids=torch.tensor([0, 0, 0]))
    batch = MicroBatch(pack, torch.tensor([1.0]), torch.tensor([1.0]), sampled, (1, 3))
    batch.old_logprobs = logprobs.detach()
    grpo_loss(logprobs, batch, Settings()).backward()
    assert IMPORTANCE_CAP == 2.0
    torch.testing.assert_close(logprobs.grad, torch.tensor([-1.0, -1.5, -2.0]))


def test_kl_enters_with_beta():
    logprobs, pack = torch.tensor([-1.0]), SimpleNamespace(sequence_ids=torch.tensor([0]))
    batch = MicroBatch(pack, torch.tensor([0.0]), torch.tensor([2.0]), logprobs, (1, 2))
    batch.old_logprobs, batch.ref_logprobs = logprobs, torch.tensor([-2.0])
    loss = grpo_loss(logprobs, batch, Settings(beta=0.1))
    assert loss.item() == pytest.approx(0.5 * 0.1 * math.exp(-1), rel=1e-6)


def test_entropy_of_uniform_logits_is_log_vocabulary():
    from kernels.logprob import token_logprobs

    _, entropy = token_logprobs(torch.zeros(3, 8), torch.randn(77, 8), torch.tensor([0, 5, 76]))
    torch.testing.assert_close(entropy, torch.full((3,), math.log(77)))


# ---- rewards and groups ----


def test_verdict_reward():
    texts = [
        "<think>a</think>\\boxed{Assistant 1}",
        "\\boxed{Assistant 2}",
        "no idea",
        "<think>\\boxed{Assistant 1}",
    ]
    assert verdict_reward(["p"] * 4, texts, right_verdict=[1, 1, 1, 1], style=["rrm"] * 4) == [
        1.0,
        -1.0,
        -1.0,
        -1.0,
    ]


def test_the_stream_shows_every_pair_once_an_epoch_balanced_and_reproducible():
    pairs = [
        Pair(f"p{i}", [{"role": "user", "content": str(i)}], ("a", "b"), i % 2) for i in range(40)
    ]
    stream = comparison_stream(pairs, 3)
    epochs = [[next(stream) for _ in range(40)] for _ in range(2)]
    for epoch in epochs:
        assert {item.id for item in epoch} == {pair.id for pair in pairs}
        first = [item.right_verdict == 1 for item in epoch]  # the better answer stands there
        assert all(
            sum(couple) == 1 for couple in zip(first[::2], first[1::2])
        )  # in half of every even step, not of the epoch alone
        assert 5 <= sum(first[::2]) <= 15  # and the index does not tell where
    assert [item.id for item in epochs[0]] != [item.id for item in epochs[1]]
    orders = [{item.id: item.order for item in epoch} for epoch in epochs]
    assert orders[0] != orders[1]
    odd = comparison_stream([*pairs[:3], Pair("tie", [], ("a", "b"), 0.5)], 3)
    assert {next(odd).id for _ in range(4)} == {"p0", "p1", "p2", "tie"}
    again = comparison_stream(pairs, 3)
    assert [next(again).id for _ in range(40)] == [item.id for item in epochs[0]]


# ---- steps ----


@pytest.fixture()
def folder(tmp_path):
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def totals_of(groups):
    lengths = [len(completion.tokens) for group in groups for completion in group.completions]
    return float(len(lengths)), float(sum(lengths))


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_gradients_do_not_depend_on_micro_batches(folder, loss_type):
    gradients = []
    for budget in (10_000, 60, 1):
        groups = made_up_groups(load(folder), ADVANTAGES)
        seen = run_loop(folder, groups, loss_type=loss_type, micro_batch_tokens=budget, beta=1e-9)
        gradients += seen.gradients
        assert seen.sums["tokens"] == totals_of(groups)[1]
    assert seen.num_batches == 12  # a budget of 1: every completion by itself
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() <= 1e-5 * gradients[0].norm()


def test_chunks_hold_every_completion_once_within_the_budget(folder):
    groups = made_up_groups(load(folder), ADVANTAGES)
    for budget in (1, 30, 50, 1000):
        batches = list(chunks(groups, budget))
        seen = []
        for part in (part for batch in batches for part in batch):
            seen += zip([part.item.id] * 3, map(id, part.completions), part.advantages)
        expected = []
        for group in groups:
            expected += zip([group.item.id] * 3, map(id, group.completions), group.advantages)
        assert seen == expected
        for batch in batches:
            size = sum(part.num_tokens() for part in batch)
            assert size <= budget or sum(len(part.completions) for part in batch) == 1


@pytest.mark.parametrize("loss_type, factor", [("grpo", 0.5), ("dr_grpo", 0.5), ("dapo", None)])
def test_zero_variance_groups_count_in_the_divisor_but_cost_no_work(
    folder, loss_type, factor, monkeypatch
):
    """Groups without signal scale the gradient as if their zero losses had been computed."""
    gradients, work = [], []
    forward = Model.forward

    def counted_forward(self, tokens, *rest):
        work.append(len(tokens))
        return forward(self, tokens, *rest)

    for advantages in (ADVANTAGES[:1], [ADVANTAGES[0], [0.0, 0.0, 0.0]]):
        groups = made_up_groups(load(folder), advantages)
        work.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Model, "forward", counted_forward)
            gradients += run_loop(folder, groups, loss_type=loss_type).gradients
        assert sum(work) == len(groups[0].prompt) + sum(
            len(c.tokens) - 1 for c in groups[0].completions
        )
        factor_of_tokens = factor or totals_of(groups[:1])[1] / totals_of(groups)[1]
    expected = gradients[0] * factor_of_tokens
    assert (gradients[1] - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("budget", [10_000, 1])
def test_a_step_without_signal_changes_nothing_and_measures_every_token(folder, budget):
    groups = made_up_groups(load(folder), [[0.0] * 3] * 2)
    seen = run_loop(folder, groups, micro_batch_tokens=budget, learning_rate=0.1)
    assert seen.row["grad_norm"] == 0.0 and seen.gradients == []
    assert seen.sums["tokens"] == totals_of(groups)[1]
    assert seen.row["entropy"] > 0 and seen.row["sampling/logp_diff_max"] < 1e-5
    before = dict(load(folder).named_parameters())
    assert all(torch.equal(before[name], new) for name, new in seen.policy.masters.items())


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(folder):
    groups = made_up_groups(load(folder), ADVANTAGES)
    groups[0].completions[0].logprobs[0] = float("nan")
    seen = run_loop(folder, groups, num_iterations=3, learning_rate=0.1)
    assert seen.row["skipped_steps"] == 1 and len(seen.gradients) == 1
    assert all(master.grad is None for master in seen.policy.masters.values())
    before = dict(load(folder).named_parameters())
    assert all(torch.equal(before[name], new) for name, new in seen.policy.masters.items())


def test_the_loss_is_a_mean_over_iterations(folder):
    losses = []
    for iterations in (1, 3):
        groups = made_up_groups(load(folder), ADVANTAGES)
        seen = run_loop(folder, groups, num_iterations=iterations, learning_rate=1e-30)
        losses.append(seen.row["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and abs(losses[0]) > 1e-3


def test_with_beta_groups_without_variance_are_trained(folder):
    groups = made_up_groups(load(folder), [[0.0] * 3] * 2)
    seen = run_loop(folder, groups, beta=0.1, scale_reference=1.5)
    assert seen.row["grad_norm"] > 1e-4 and seen.row["kl"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_step_changes_every_parameter_of_masters_and_copy(folder, dtype):
    before = dict(load(folder).named_parameters())
    runtime = Runtime(0, 1, torch.device("cpu"), dtype)
    groups = made_up_groups(load(folder), ADVANTAGES)
    policy = run_loop(folder, groups, runtime, learning_rate=0.1).policy
    for name, master in policy.masters.items():
        assert master.dtype == torch.float32 and not torch.equal(master, before[name]), name
        assert torch.equal(dict(policy.model.named_parameters())[name], master.to(dtype)), name


def test_small_learning_rates_move_bf16_training(folder):
    """A bf16 weight of 1 does not notice steps of 1e-6; its fp32 master does."""
    runtime = Runtime(0, 1, torch.device("cpu"), torch.bfloat16)
    groups = made_up_groups(load(folder), ADVANTAGES)
    policy = run_loop(folder, groups, runtime, learning_rate=1e-6, num_iterations=3).policy
    start = load(folder).norm.weight
    assert 1e-6 < (policy.masters["norm.weight"] - start).abs().max() < 1e-5


def test_the_second_update_on_a_rollout_clips_against_the_first(folder):
    options = dict(epsilon=0.1, learning_rate=0.05)
    row = run_loop(
        folder, made_up_groups(load(folder), ADVANTAGES), num_iterations=3, **options
    ).row
    assert row["clip_ratio/low_mean"] + row["clip_ratio/high_mean"] > 0
    assert row["sampling/logp_diff_max"] < 1e-5  # the sampler is compared with what sampled
    row = run_loop(folder, made_up_groups(load(folder), ADVANTAGES), **options).row
    assert row["clip_ratio/low_mean"] + row["clip_ratio/high_mean"] == 0  # on-policy: ratios are 1


def test_rewards_get_whole_groups_and_columns():
    groups = []
    for n in range(2):
        comparison = Comparison(Pair(str(n), [], ("a", "bb"), 1), [1, 0])
        group = Group(comparison, [{"role": "user", "content": str(n)}], [1], 0)
        group.records = [{"text": f"{n}{index}", "verdict": None} for index in range(3)]
        groups.append(group)
    settings = Settings(num_generations=3, style="rrm", prompts_per_step=2)
    task, seen = JudgeTask(settings), {}

    def reward(prompts, completions, right_verdict, style, **columns):
        seen.update(prompts=prompts, completions=completions, right=right_verdict, style=style)
        return [1.0, -1.0, 1.0, -1.0, -1.0, -1.0]

    task.reward_function = reward
    table = rewards(task, groups, settings)
    assert table.tolist() == [[1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]]
    assert seen["completions"] == ["00", "01", "02", "10", "11", "12"]
    assert seen["right"] == [1] * 6 and seen["style"] == ["rrm"] * 6
    assert seen["prompts"][2] == groups[0].messages and seen["prompts"][3] == groups[1].messages


@pytest.mark.parametrize("reward", ["verdict", "consistency", "solve"])
def test_a_completion_that_was_cut_off_earns_nothing_even_behind_its_verdict(reward):
    """A verdict and an answer that are right; the same tokens with and without a stop token."""
    tokenizer = load_tokenizer(resolve_model("tiny-base"))
    text, stop = "s</think>\\boxed{Assistant 1} y", tokenizer.eos_token_id
    if reward == "solve":
        task, items = SolveTask(Settings(reward="answer")), []
        text = "s</think>7"
        items = [Exercise(Question("q", [], answer="7"))]
    else:
        task = JudgeTask(Settings(reward=reward, style="rrm", prompts_per_step=2))
        pair = Pair("p", [], ("a", "b"), 0)
        items = [Comparison(pair, [0, 1])]
    task.load(tokenizer, (stop,), None)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    whole = Completion([*tokens, stop], [0.0] * (len(tokens) + 1), "stop")
    cut = Completion(tokens, [0.0] * len(tokens), "length")
    groups = [Group(item, [{"role": "user", "content": "q"}], [1], 0) for item in items]
    for group in groups:
        group.records = [task.read(completion, True) for completion in (whole, cut)]
    if reward == "consistency":  # the twins are right, and the second one was cut off here
        groups.append(Group(Comparison(pair, [1, 0]), groups[0].messages, [1], 0))
        second = tokenizer.encode(text.replace("1", "2"), add_special_tokens=False)
        whole = Completion([*second, stop], [0.0] * (len(second) + 1), "stop")
        groups[1].records = [task.read(whole, True) for _ in range(2)]
    least = 0.0 if reward == "solve" else -1.0
    assert task.rewards(groups) == [1.0, least] * len(groups)


def test_a_reward_by_name():
    settings = dict(style="rrm", prompts_per_step=2)
    assert JudgeTask(Settings(**settings)).reward_function is verdict_reward
    own = JudgeTask(Settings(reward="rewards:consistency_reward", **settings)).reward_function
    assert own.__wrapped__ is consistency_reward  # its results are read by rewards.read_rewards


# ---- several processes ----


@pytest.mark.parametrize("processes", [2])
def test_gradients_of_two_processes_equal_those_of_one(folder, tmp_path, processes):
    """The same rollouts on two processes, of which one has more groups and more packs.

    One group has no signal.
    """
    script = [str(Path(__file__).parent / "gradient_worker.py"), str(folder)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, *script, str(tmp_path / "one.json")],
        check=True,
        env=environment,
        timeout=120,
    )
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
    ]
    subprocess.run(
        [*launcher, *script, str(tmp_path / "two.json")], check=True, env=environment, timeout=240
    )
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert one.keys() == two.keys() and len(one) == 13
    for case in one:
        first, second = torch.tensor(one[case]["gradient"]), torch.tensor(two[case]["gradient"])
        assert (first - second).norm() <= 1e-5 * first.norm(), case
        assert one[case]["loss"] == pytest.approx(two[case]["loss"], rel=1e-5), case
        for name, value in one[case]["metrics"].items():  # KL and log-prob gaps: all rounding
            assert two[case]["metrics"][name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
        assert first.norm() > 1e-4, case


# ---- held-out questions ----


def write_pairs(path, questions, each=3):
    rows = []
    for number in range(questions * each):  # the pairs of a question do not stand together
        query = f"What is {number % questions}?"
        rows.append({"query": query, "a": "yes", "b": f"no {number}", "label": number % 2})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_part_of_the_training_questions_is_held_out(tmp_path, capsys):
    data = write_pairs(tmp_path / "pairs.jsonl", 40)
    settings, _, train, held_out, _ = prepare(Settings(train_data=data))
    assert settings.eval_data == "held_out" and (len(train), len(held_out)) == (108, 12)
    queries = [{pair.messages[0]["content"] for pair in part} for part in (train, held_out)]
    assert len(queries[1]) == 4 and not queries[0] & queries[1]
    said = capsys.readouterr().err
    assert "4 of 40 questions of --train_data are held out" in said and "--eval_data none" in said
    # neither the seed nor the order of the rows decides
    lines = Path(data).read_text().splitlines(keepends=True)
    (tmp_path / "turned.jsonl").write_text("".join(lines[::-1]))
    turned = prepare(Settings(train_data=str(tmp_path / "turned.jsonl"), seed=3))[3]
    assert {pair.messages[0]["content"] for pair in turned} == queries[1]
    assert len(prepare(Settings(train_data=data, eval_limit=2))[2]) == 114  # two questions
    for never in ({"eval_data": "none"}, {"eval_every": 0}):
        *_, train, held_out, _ = prepare(Settings(train_data=data, **never))
        assert (len(train), held_out) == (120, [])
    few = write_pairs(tmp_path / "few.jsonl", 9)
    capsys.readouterr()
    *_, train, held_out, _ = prepare(Settings(train_data=few))
    assert (len(train), held_out) == (27, []) and "too few" in capsys.readouterr().err


def test_one_question_is_on_one_side_however_its_accents_are_written(tmp_path):
    rows = []
    for number in range(120):
        word = ("caf\u00e9", "cafe\u0301")[number // 30 % 2]  # 30 questions in two spellings
        rows.append({"query": f"{word} {number % 30}", "a": "x", "b": f"{number}", "label": 0})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    *_, train, held_out, _ = prepare(Settings(train_data=str(path)))
    numbers = [
        {pair.messages[0]["content"].split()[1] for pair in part} for part in (train, held_out)
    ]
    assert len(numbers[1]) == 3 and not numbers[0] & numbers[1]


def test_the_embedded_data_has_its_own_held_out_part():
    settings, _, train, held_out, _ = prepare(Settings())
    assert settings.eval_data is None and (len(train), len(held_out)) == (8000, 200)
    *_, train, held_out, _ = prepare(Settings(eval_data="none"))
    assert (len(train), len(held_out)) == (8000, 0)
    with pytest.raises(BadInput):  # of a variable of the shell that is not set
        prepare(Settings(eval_data=""))


def test_a_run_of_an_older_version_gets_no_other_split(tmp_path):
    """Versions before held nothing out."""
    data = write_pairs(tmp_path / "pairs.jsonl", 40)

    def resumed(before, **changes):
        folder = tmp_path / "run"
        settings = Settings(train_data=data, resume=True, output_dir=str(folder), **changes)
        old = dataclasses.asdict(fill_in(settings)) | before
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"settings": old}))
        return prepare(settings)

    with pytest.raises(BadInput, match="--eval_data: .* made with 'none', not 'held_out'"):
        resumed({"eval_data": None})
    *_, train, held_out, _ = resumed({"eval_data": None}, eval_data="none")
    assert (len(train), held_out) == (120, [])
    assert len(resumed({}, eval_data=data)[3]) == 120


@pytest.mark.parametrize(
    "name, least", [("temperature", 0.01), ("beta", 0.0), ("eval_every", 0), ("num_generations", 2)]
)
def test_the_least_value_of_a_number(name, least):
    check_numbers(fill_in(Settings(**{name: least})))
    for value in (least - 0.001, NAN, math.inf) if type(least) is float else (least - 1,):
        with pytest.raises(BadInput, match=f"--{name}: must be at least {least}, got {value}"):
            check_numbers(fill_in(Settings(**{name: value})))


@pytest.mark.parametrize("value", [0.0, -1.0, NAN, math.inf])
def test_a_rate_is_above_0(value):
    with pytest.raises(BadInput, match=f"--learning_rate: must be above 0, got {value}"):
        check_numbers(fill_in(Settings(learning_rate=value)))
