"""Each option of a training does what its formula says, by hand or on small random models."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from loop import ADVANTAGES, ALONE, load, made_up_groups, run_loop
from safetensors.torch import load_file
from tiny_models import make_model_folder

from chat import encode_chat, load_tokenizer, stop_token_ids
from checkpoint import resolve_model
from cli import BadInput
from data import Pair
from distributed import Policy, Runtime, restore
from judge_task import JudgeTask
from model import pack_groups
from resume import find_damage, prune
from rollout import drop_long, evaluate
from runlog import open_run
from sharding import deal, deal_groups
from solve_task import judge_and_server
from train_grpo import IMPORTANCE_CAP, Settings, check_numbers, fill_in, prepare
from training_options import split_by_number, with_signal

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
FLAT = [0.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("model"), "qwen2")


def test_importance_weights_are_counted(folder):
    """Mean, share that is truncated, and (sum of w)^2 / (n * sum of w^2), over all tokens."""
    groups = made_up_groups(load(folder), ADVANTAGES[:1])
    values = []
    for number, completion in enumerate(groups[0].completions):
        for index in range(len(completion.tokens)):
            shift = (0.3, -0.5, 1.5)[(number + index) % 3]  # log of the weight
            completion.logprobs[index] -= shift
            values.append(min(torch.tensor(shift).exp().item(), IMPORTANCE_CAP))
    row = run_loop(folder, groups, learning_rate=1e-9).row
    name, weights = "sampling/importance_sampling_ratio", torch.tensor(values)
    assert row[f"{name}/mean"] == pytest.approx(weights.mean().item(), rel=1e-4)
    clipped = (weights == IMPORTANCE_CAP).float().mean().item()
    assert 0 < clipped < 1 and row[f"{name}/clipped_ratio"] == pytest.approx(clipped)
    share = weights.sum() ** 2 / (len(weights) * weights.square().sum())
    assert row[f"{name}/effective_sample_size"] == pytest.approx(share.item(), rel=1e-4)
    row = run_loop(folder, made_up_groups(load(folder), ADVANTAGES)).row  # equal log-probs
    assert row[f"{name}/mean"] == pytest.approx(1, abs=1e-5) and row[f"{name}/clipped_ratio"] == 0
    assert row[f"{name}/effective_sample_size"] == pytest.approx(1, abs=1e-5)


# ---- several updates on one rollout ----


def test_mini_batches_keep_the_old_logprobs_of_the_rollout(folder):
    """Each update follows the loss of its own prompts, against the policy before the first one."""
    groups = made_up_groups(load(folder), ADVANTAGES)
    options = dict(learning_rate=0.02, epsilon=0.05)
    seen = run_loop(folder, groups, num_mini_batches=2, **options)
    assert len(seen.gradients) == 2 and seen.row["sampling/logp_diff_max"] < 1e-5
    first = run_loop(folder, made_up_groups(load(folder), ADVANTAGES)[:2], **options)
    assert torch.allclose(seen.gradients[0], first.gradients[0], rtol=1e-4, atol=1e-7)

    model = first.policy.model  # as it is at the second update
    loss = torch.zeros(())
    for group in groups[2:]:
        completions = [completion.tokens for completion in group.completions]
        logprobs, _ = model.logprobs(pack_groups([(group.prompt, completions)]), 1.0)
        parts = logprobs.split([len(tokens) for tokens in completions])
        for part, completion, advantage in zip(parts, group.completions, group.advantages):
            ratio = (part - torch.tensor(completion.logprobs)).exp()
            clipped = ratio.clamp(0.95, 1.05)
            loss = loss - (ratio * advantage).minimum(clipped * advantage).mean() / 6
    model.zero_grad()
    loss.backward()
    expected = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    assert torch.allclose(seen.gradients[1], expected, rtol=1e-3, atol=1e-6)
    assert seen.row["clip_ratio/low_mean"] + seen.row["clip_ratio/high_mean"] > 0


def test_a_mini_batch_without_signal_makes_no_update(folder):
    groups = made_up_groups(load(folder), [FLAT, FLAT, *ADVANTAGES[2:]])
    seen = run_loop(folder, groups, num_mini_batches=2, num_iterations=3)
    assert len(seen.gradients) == 3 and len(seen.mini_batches) == 1
    groups = made_up_groups(load(folder), [FLAT] * 4)
    seen = run_loop(folder, groups, num_mini_batches=2)
    assert seen.gradients == [] and seen.row["entropy"] > 0


def test_mini_batches_do_not_depend_on_the_processes():
    everyone = [SimpleNamespace(number=number) for number in (0, 1, 3, 4, 5, 8, 9)]
    alone = SimpleNamespace(gather=lambda value: [value])
    parts = split_by_number(everyone, 3, alone)
    assert [[group.number for group in part] for part in parts] == [[0, 1, 3], [4, 5], [8, 9]]
    shares = everyone[::2], everyone[1::2]
    both = SimpleNamespace(gather=lambda _: [[g.number for g in share] for share in shares])
    divided = [split_by_number(share, 3, both) for share in shares]
    for part, one, other in zip(parts, *divided):
        assert {g.number for g in part} == {g.number for g in one + other}


def test_more_mini_batches_than_prompts_are_refused():
    with pytest.raises(BadInput, match="--num_mini_batches: must be at most 32"):
        check_numbers(fill_in(Settings(num_mini_batches=33)))


# ---- dynamic sampling ----


def test_groups_without_variance_are_drawn_again(folder):
    """The step trains on what it kept and on the new prompts, as if they had come at once."""
    rows = [ADVANTAGES[0], FLAT, FLAT, ADVANTAGES[2], ADVANTAGES[3]]
    groups = made_up_groups(load(folder), rows)
    seen = run_loop(folder, groups, prompts_per_step=2, dynamic_sampling=2)
    assert seen.row["sampling/redrawn_groups"] == 2  # 1 is flat, 2 is flat too, 3 is not
    assert seen.row["frac_reward_zero_std"] == 0 and seen.drawn == 4
    kept = [groups[0], groups[3]]
    expected = run_loop(folder, kept, prompts_per_step=2)
    assert torch.allclose(seen.gradients[0], expected.gradients[0], rtol=1e-5, atol=1e-8)
    off = run_loop(folder, groups, prompts_per_step=2)
    assert off.row["sampling/redrawn_groups"] == 0 and off.row["frac_reward_zero_std"] == 0.5


def test_dynamic_sampling_is_bounded(folder):
    groups = made_up_groups(load(folder), [FLAT] * 3)
    seen = run_loop(folder, groups, prompts_per_step=3, dynamic_sampling=2)
    assert seen.row["sampling/redrawn_groups"] == 6 and seen.drawn == 9
    assert seen.row["frac_reward_zero_std"] == 1 and seen.row["grad_norm"] == 0


def test_both_orders_of_a_pair_are_drawn_again_together():
    groups = [SimpleNamespace(advantages=row) for row in (FLAT, ADVANTAGES[0], FLAT, FLAT)]
    assert with_signal(SimpleNamespace(adjacent_groups=2), groups) == groups[:2]
    assert with_signal(SimpleNamespace(adjacent_groups=1), groups) == groups[1:2]


# ---- prompts ----


def test_pairs_with_long_prompts_are_dropped_and_counted(capsys):
    settings = fill_in(Settings(max_prompt_length=60))
    task = JudgeTask(settings)
    tokenizer = load_tokenizer(resolve_model("tiny-base"))
    task.load(tokenizer, (), None)
    pairs = []
    for number, size in enumerate((1, 2, 40, 3, 80)):
        messages = [{"role": "user", "content": "1+1" * size}]
        pairs.append(Pair(str(number), messages, ("2", "3"), 0))
    config = SimpleNamespace(raw={"max_position_embeddings": 1024})
    policy = SimpleNamespace(model=SimpleNamespace(config=config))
    kept = drop_long(policy, task, pairs, settings, "--train_data")
    assert [pair.id for pair in kept] == ["0", "1", "3"]
    longest = max(len(encode_chat(tokenizer, p)) for pair in kept for p in task.all_prompts(pair))
    assert longest <= 60
    said = capsys.readouterr().err
    assert "--train_data: 2 of 5 dropped: prompt longer than 60 tokens" in said
    with pytest.raises(BadInput, match="raise --max_prompt_length"):
        drop_long(policy, task, pairs[2:3], settings, "--train_data")
    config.raw["max_position_embeddings"] = 96 + longest  # what the context leaves
    assert len(drop_long(policy, task, kept, fill_in(Settings()), "--train_data")) == 3
    config.raw["max_position_embeddings"] -= 1
    assert len(drop_long(policy, task, kept, fill_in(Settings()), "--train_data")) == 2
    config.raw["max_position_embeddings"] = 96
    with pytest.raises(BadInput, match="--max_completion_length: must be below .* 96"):
        drop_long(policy, task, kept, fill_in(Settings()), "--train_data")


# ---- many processes ----


def test_the_longest_goes_first_to_the_smallest_share():
    assert deal([3, 5, 1, 4, 3], 2) == [1, 0, 1, 1, 0]  # 5 + 3 and 4 + 3 + 1
    assert deal([7], 3) == [0] and deal([], 2) == []
    sizes = [1000, *[10] * 100]  # in turn, two processes would get 1500 and 500
    shares = deal(sizes, 2)
    sums = [sum(size for size, own in zip(sizes, shares) if own == share) for share in (0, 1)]
    assert sums == [1000, 1000]


def test_each_group_goes_to_one_process(folder):
    groups = made_up_groups(load(folder), ADVANTAGES)
    for number, group in enumerate(groups):
        group.number = number
    sampled = [groups[1:], groups[:1]]  # by two processes
    shares = []
    for rank in range(2):
        runtime = Runtime(rank, 2, torch.device("cpu"), torch.float32)
        object.__setattr__(runtime, "gather", lambda own: sampled)
        shares.append(deal_groups(sampled[rank], runtime))
    sizes = []
    for share in shares:
        tokens = [len(c.tokens) for group in share for c in group.completions]
        sizes.append(sum(tokens) + sum(len(group.prompt) for group in share))
    assert {group.number for share in shares for group in share} == {0, 1, 2, 3}
    assert max(sizes) <= 1.5 * min(sizes)


# ---- checkpoints ----


def test_the_last_checkpoints_and_the_best_one_stay(tmp_path):
    scores = {0: 0.5, 10: 0.7, 20: 0.9, 30: 0.8, 40: 0.9, 50: 0.6, 60: 0.6}
    rows, left = [], {}
    for step, score in scores.items():
        rows.append({"step": step, "eval/judge/accuracy": score})
        rows.append({"step": step + 5})  # without evaluation
        for saved in (step, step + 5):
            (tmp_path / f"checkpoint-{saved}" / "trainer").mkdir(parents=True)
        prune(tmp_path, 2, rows)
        left[step] = sorted(int(path.name[11:]) for path in tmp_path.iterdir())
    assert left[10] == [10, 15] and left[20] == [20, 25] and left[30] == [20, 30, 35]
    assert left[40] == [40, 45] and left[60] == [40, 60, 65]
    (tmp_path / "checkpoint-99").mkdir()  # damaged, of a step that is still to come
    (tmp_path / "checkpoint-7.partial" / "trainer").mkdir(parents=True)  # of a call that was killed
    prune(tmp_path, 1, rows)
    assert sorted(path.name[11:] for path in tmp_path.iterdir()) == ["40", "65", "99"]


SAVER = """
import sys
from types import SimpleNamespace
import torch
import failures
from distributed import Policy, restore, save_checkpoint, start
from resume import newest_checkpoint

base, folder = sys.argv[1:]
tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
with start("cpu", "float32") as runtime:
    for step in (1, 2):  # the second one goes on from the files of the first
        checkpoint = newest_checkpoint(folder, runtime, 9)
        policy = Policy(checkpoint or base, runtime)
        optimizer = torch.optim.AdamW(policy.masters.values(), lr=0.1, weight_decay=0.0)
        assert restore(checkpoint, policy, optimizer, 5) == ((1, 7) if step == 2 else (0, 0))
        for index, master in enumerate(policy.masters.values()):
            master.grad = torch.ones_like(master) * (index % 5 + step - 3)
        policy.step(optimizer, 0.0, 1.0)
        save_checkpoint(folder, step, policy, optimizer, tokenizer, drawn=7)
    world_size = runtime.world_size
if world_size > 1:
    failures.leave_at_once()
"""


def test_each_process_writes_its_share_of_a_checkpoint(folder, tmp_path):
    """Two processes write the tensors of one; transformers and any number of processes read."""
    launchers = {
        "one": [sys.executable],
        "two": [sys.executable, "-m", "torch.distributed.run", "--standalone"],
    }
    launchers["two"].append("--nproc_per_node=2")
    script = tmp_path / "saver.py"
    script.write_text(SAVER)
    for name, launcher in launchers.items():
        subprocess.run(
            [*launcher, str(script), str(folder), str(tmp_path / name)],
            check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            timeout=240,
        )
    for step in (1, 2):
        one, two = (tmp_path / name / f"checkpoint-{step}" for name in ("one", "two"))
        assert find_damage(two) is None
        files = sorted(path for path in two.rglob("*.safetensors"))
        assert [path.relative_to(two).as_posix() for path in files] == [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "trainer/optimizer-00001-of-00002.safetensors",
            "trainer/optimizer-00002-of-00002.safetensors",
        ]
        sizes = [path.stat().st_size for path in files]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.3)  # dealt by size
        moments = load_file(one / "trainer" / "optimizer.safetensors")
        parts = [load_file(path) for path in files[2:]]
        assert parts[0].keys().isdisjoint(parts[1].keys())
        for name, tensor in (parts[0] | parts[1]).items():
            assert torch.allclose(tensor, moments.pop(name), rtol=1e-5, atol=1e-8), name
        assert moments == {}
        theirs = transformers.AutoModelForCausalLM.from_pretrained(two)
        assert theirs.dtype == torch.float32
        expected = transformers.AutoModelForCausalLM.from_pretrained(one).state_dict()
        for name, tensor in theirs.state_dict().items():
            assert torch.allclose(tensor, expected[name], rtol=1e-5, atol=1e-6), name
    damaged = tmp_path / "two" / "checkpoint-1"
    (damaged / "config.json").write_text("{}")
    assert {find_damage(damaged, rank, 2) for rank in range(2)} == {None, "config.json"}
    resumed = Policy(tmp_path / "two" / "checkpoint-2", ALONE)  # by one process
    optimizer = torch.optim.AdamW(resumed.masters.values())
    assert restore(resumed.folder, resumed, optimizer, 5) == (2, 7)
    for name, master in resumed.masters.items():
        moment = (parts[0] | parts[1])[f"exp_avg.{name}"]
        assert torch.equal(optimizer.state[master]["exp_avg"], moment)


# ---- held-out sets ----


def sums(path, numbers, **fields):
    rows = []
    for number in numbers:
        row = {"query": f"{number}+1", "a": str(number + 1), "b": str(number + 3), "label": 0}
        rows.append(row | fields)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_each_held_out_set_has_its_own_metrics(tmp_path):
    train = sums(tmp_path / "train.jsonl", range(300, 330))
    first, second = sums(tmp_path / "first.jsonl", range(6)), sums(tmp_path / "b.jsonl", range(9))
    options = dict(train_data=train, eval_limit=8, max_completion_length=16, seed=3)
    chosen = Settings(eval_data=f"{first}, other={second}", **options)
    settings, task, _, items, _ = prepare(chosen)
    assert [item.source for item in items] == ["first"] * 6 + ["other"] * 8  # 8 of 9
    tokenizer = load_tokenizer(resolve_model("tiny-base"))
    task.load(tokenizer, stop_token_ids(tokenizer), None)
    policy = Policy(resolve_model("tiny-base"), ALONE)

    def evaluated(items):
        return evaluate(policy, task, items, settings, tmp_path / "eval-0.jsonl")

    both = evaluated(items)
    for name, part in (("first", items[:6]), ("other", items[6:])):
        alone = evaluated(part)
        assert all(key.startswith("eval/") for key in alone)  # one set has no other name
        for key, value in alone.items():
            assert both[key.replace("eval/", f"eval_{name}/")] == pytest.approx(value), key
    for key in ("judge/accuracy", "judge/consistency", "completions/mean_length"):
        mean = (6 * both[f"eval_first/{key}"] + 8 * both[f"eval_other/{key}"]) / 14
        assert both[f"eval/{key}"] == pytest.approx(mean)
    assert len(both) == 3 * len(alone)


def test_held_out_sets_have_names_and_ids_of_their_own(tmp_path):
    train = sums(tmp_path / "train.jsonl", range(300, 330))
    (tmp_path / "x").mkdir()
    one = sums(tmp_path / "one.jsonl", range(2), id="same")
    two = sums(tmp_path / "x" / "one.jsonl", range(2), id="same")
    items = prepare(Settings(train_data=train, eval_data=f"{one},two={two}"))[3]
    assert {item.id for item in items} == {"same", "same-2", "two:same", "two:same-2"}
    for wrong in (f"{one},{two}", f"a={one},a={two}", f"={one}", f"a/b={one}", f"{one},"):
        with pytest.raises(BadInput, match="--eval_data: .*NAME=PATH"):
            prepare(Settings(train_data=train, eval_data=wrong))
    with pytest.raises(BadInput, match="missing.jsonl"):
        prepare(Settings(train_data=train, eval_data=f"{one},two={tmp_path}/missing.jsonl"))
    comma = sums(tmp_path / "with,comma=1.jsonl", range(3))  # the name of one file
    assert len(prepare(Settings(train_data=train, eval_data=comma))[3]) == 3


def test_a_machine_without_the_folder_of_the_run_says_so(tmp_path):
    runtime = Runtime(1, 2, torch.device("cpu"), torch.float32)
    object.__setattr__(runtime, "gather", lambda rows: [[]])
    with pytest.raises(BadInput, match="--output_dir: .*run is not shared with"):
        open_run(tmp_path / "run", {}, -1, runtime, {})


# ---- runs of earlier versions ----


def test_a_setting_that_an_older_run_lacks_has_its_default(tmp_path):
    """Else a run would go on in another way, and nothing would say so."""
    run = tmp_path / "run"
    run.mkdir()
    options = dict(output_dir=str(run), resume=True, eval_every=0)
    filled, *_, hashes = prepare(Settings(**options))
    before = vars(filled) | {"lora_alpha": None}
    for name in ("num_mini_batches", "dynamic_sampling", "max_prompt_length"):
        del before[name]
    (run / "config.json").write_text(json.dumps({"settings": before, "data": hashes}))
    prepare(Settings(**options, save_every=3))
    for name in ("num_mini_batches", "dynamic_sampling", "max_prompt_length"):
        with pytest.raises(BadInput, match=f"--{name}: .* was made with (0|1|None), not 9"):
            prepare(Settings(**options, **{name: 9}))


def test_an_older_run_with_a_judge_goes_on_with_its_style(tmp_path):
    pytest.importorskip("math_verify")
    run, data = tmp_path / "run", tmp_path / "asked.jsonl"
    run.mkdir()
    data.write_text('{"question": "1+1", "answer": "2"}\n')
    options = dict(train_data=str(data), output_dir=str(run), resume=True, eval_every=0)
    options |= dict(reward="judge", judge_model="tiny")
    filled, *_, hashes = prepare(Settings(**options, style="direct"))
    before = vars(filled) | {"style": "tiny", "judge_style": "direct"}
    hashes |= {"style": "of the policy's prompt", "judge_style": "of the judge's"}
    (run / "config.json").write_text(json.dumps({"settings": before, "data": hashes}))
    settings, task, *_ = prepare(Settings(**options, style="direct"))
    assert settings.style == "direct"
    with pytest.raises(BadInput, match="--style: .* was made with 'direct', not None"):
        prepare(Settings(**options))


def test_a_judge_behind_a_server_is_a_name_and_an_address(tmp_path, monkeypatch):
    """An older run had a flag for the address; it goes on with the same server."""
    pytest.importorskip("math_verify")
    monkeypatch.setattr("extras.endpoint.Endpoint.check_there", lambda endpoint: None)
    run, data = tmp_path / "run", tmp_path / "asked.jsonl"
    run.mkdir()
    data.write_text('{"question": "1+1", "answer": "2"}\n')
    judge = "org/judge@http://host:8000/v1"
    assert judge_and_server(Settings(judge_model=judge)) == ("org/judge", "http://host:8000/v1")
    assert judge_and_server(Settings(judge_model="a@b")) == ("a@b", None)
    options = dict(train_data=str(data), output_dir=str(run), resume=True, eval_every=0)
    options |= dict(reward="judge", judge_model=judge)
    filled, *_, hashes = prepare(Settings(**options))
    before = vars(filled) | dict(judge_model="org/judge", judge_base_url="http://host:8000/v1")
    (run / "config.json").write_text(json.dumps({"settings": before, "data": hashes}))
    assert prepare(Settings(**options))[0] == filled
    with pytest.raises(BadInput, match="--judge_model: .* was made with 'org/judge@http"):
        prepare(Settings(**(options | dict(judge_model="org/judge@http://other:8000/v1"))))
    with pytest.raises(BadInput, match="is no address"):
        prepare(Settings(**(options | dict(judge_model="org/judge@http://"))))
