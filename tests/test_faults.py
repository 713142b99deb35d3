"""What goes wrong in a run by itself: numbers that are not finite. And what a run reports.

Runs that are stopped are in test_stops.py.
"""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import COIN, make_model_folder, make_scripted_folder, make_tokenizer

import progress
import train_grpo
import train_sft
from cli import BadInput
from distributed import Policy, Runtime
from extras import plot, train_dpo, view
from judge_task import game_metrics
from progress import progress_line, warnings_for
from rollout import token_pieces
from runlog import record
from sampler import Completion
from styles import Style, load_style

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
ALONE = Runtime(0, 1, torch.device("cpu"), torch.float32)
QUIET = os.environ | {"OMP_NUM_THREADS": "1"}
SHORT = dict(
    prompts_per_step=3,
    num_generations=4,
    max_completion_length=48,
    save_every=1,
    eval_every=0,
    device="cpu",
    dtype="float32",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("model") / "m", "llama", initializer_range=0.2)


def rows_of(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def grpo(**changes):
    train_grpo.main(train_grpo.Settings(**(SHORT | changes)))


def weights(folder):
    return load_file(folder / "model.safetensors")


# ---- numbers that are not finite ----


@pytest.mark.parametrize(
    "loss, gradient",
    [(1.0, 0.5), (math.nan, 0.5), (-math.inf, 0.5), (1.0, math.nan), (1.0, math.inf)],
)
def test_an_update_that_is_not_finite_is_left_out(folder, loss, gradient):
    policy = Policy(folder, Runtime(0, 1, torch.device("cpu"), torch.bfloat16))
    optimizer = torch.optim.AdamW(policy.masters.values(), lr=0.1)
    for value in (0.25, gradient):  # moments are there after the first
        before = {name: master.detach().clone() for name, master in policy.masters.items()}
        moments = [state["exp_avg"].clone() for state in optimizer.state.values()]
        for master in policy.masters.values():
            master.grad = torch.full_like(master, 0.25)
        policy.masters["norm.weight"].grad[0] = value
        norm = policy.step(optimizer, 1.0 if value == 0.25 else loss, 1e9)
        assert all(master.grad is None for master in policy.masters.values())
    finite = math.isfinite(loss) and math.isfinite(gradient)
    assert math.isfinite(norm) == finite
    for name, master in policy.masters.items():
        assert torch.equal(master, before[name]) != finite, name
        assert torch.equal(
            dict(policy.model.named_parameters())[name], master.to(torch.bfloat16)
        ), name
    assert all(
        torch.equal(old, state["exp_avg"]) != finite
        for old, state in zip(moments, optimizer.state.values())
    )


def spoil(monkeypatch, steps):
    """Makes the loss of these calls NaN; packs are large, so a step with a signal is one call."""
    calls, loss = [], train_grpo.grpo_loss
    monkeypatch.setattr(
        train_grpo,
        "grpo_loss",
        lambda *terms: loss(*terms) * (math.nan if calls.append(1) or len(calls) in steps else 1.0),
    )


def test_a_step_that_is_not_finite_is_counted_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, steps=(2, 3))
    grpo(
        output_dir=str(tmp_path / "run"), max_steps=4, learning_rate=1e-3, num_generations=8
    )  # so that each step has a group with a signal
    rows, told = rows_of(tmp_path / "run"), capsys.readouterr().err
    assert (
        [row["skipped_steps"] for row in rows] == [0, 1, 1, 0]
        and rows[1]["loss"] == rows[1]["grad_norm"] == 0
        and rows[0]["grad_norm"] > 0
    )
    assert {*rows[0]} == {*rows[1]} and rows[3]["num_tokens"] > rows[2]["num_tokens"] > rows[1][
        "num_tokens"
    ]  # all keys, and counts go on
    assert (
        told.count("an update was left out") == 2
        and f"{tmp_path / 'run' / 'rollouts' / '2.jsonl'}" in told
        and (tmp_path / "run" / "rollouts" / "2.jsonl").exists()
    )
    one, two, three, four = (tmp_path / "run" / f"checkpoint-{step}" for step in (1, 2, 3, 4))
    assert all(torch.equal(value, weights(three)[name]) for name, value in weights(one).items())
    assert (one / "trainer" / "optimizer.safetensors").read_bytes() == (
        three / "trainer" / "optimizer.safetensors"
    ).read_bytes()
    assert any(not torch.equal(value, weights(four)[name]) for name, value in weights(one).items())


def test_three_steps_in_a_row_end_the_run_also_when_it_was_resumed_between_them(
    tmp_path, monkeypatch, capsys
):
    run, base = tmp_path / "run", weights(ROOT / "tiny" / "base")
    spoil(monkeypatch, steps=range(1, 100))
    grpo(output_dir=str(run), max_steps=2)
    with pytest.raises(
        FloatingPointError, match=r"steps in a row, 1 to 3, .*rollouts/3.jsonl.*--learning_rate"
    ):
        grpo(output_dir=str(run), max_steps=9, resume=True)
    rows = rows_of(run)
    assert [row["skipped_steps"] for row in rows] == [1, 1, 1] and "NaN" not in (
        run / "metrics.jsonl"
    ).read_text()
    assert len((run / "rollouts" / "3.jsonl").read_text().splitlines()) == 3
    assert all(
        torch.equal(value, base[name]) for name, value in weights(run / "checkpoint-2").items()
    )


TWO = """
import math, os, sys
import cli, train_grpo
loss = train_grpo.grpo_loss
train_grpo.grpo_loss = lambda *terms: (
    loss(*terms) * (math.nan if os.environ["RANK"] == "1" else 1.0)
)
settings = train_grpo.Settings(
    output_dir=sys.argv[1], prompts_per_step=8, num_generations=4, max_completion_length=48,
    eval_every=0, device="cpu", max_steps=9,
)
cli.run(lambda: train_grpo.main(settings))
"""


def test_two_processes_agree_to_leave_a_step_out_and_to_stop(tmp_path):
    """The loss of the second process alone is NaN."""
    (tmp_path / "two.py").write_text(TWO)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        tmp_path / "two.py",
        tmp_path / "run",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=QUIET | {"PYTHONPATH": str(ROOT)}, timeout=300
    )
    assert done.returncode == 1 and [row["skipped_steps"] for row in rows_of(tmp_path / "run")] == [
        1,
        1,
        1,
    ], done.stderr[-2000:]
    lines = [
        line for line in done.stderr.splitlines() if line.startswith("two.py")
    ]  # what torchrun adds is its own
    assert (
        len(lines) == 1 and "three steps in a row" in lines[0] and "rollouts/3.jsonl" in lines[0]
    ), done.stderr[-2000:]
    assert [
        len((tmp_path / "run" / "rollouts" / f"{step}.jsonl").read_text().splitlines())
        for step in (1, 2, 3)
    ] == [8, 8, 8]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A model that computes NaN wherever it reads <think>."""
    folder = make_model_folder(
        tmp_path_factory.mktemp("model") / "m", "llama", tie_word_embeddings=False
    )
    tensors = weights(folder)
    tensors["model.embed_tokens.weight"][make_tokenizer().convert_tokens_to_ids("<think>")] = (
        math.nan
    )
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_supervised_training_names_the_rows(damaged, tmp_path, capsys):
    def sft(name, completions, steps, **changes):
        data = tmp_path / f"{name}.jsonl"
        data.write_text(
            "".join(
                json.dumps({"prompt": "say it", "completion": completion}) + "\n"
                for completion in completions
            )
        )
        train_sft.main(
            train_sft.Settings(
                model=damaged,
                train_data=str(data),
                output_dir=str(tmp_path / name),
                max_steps=steps,
                batch_size=1,
                learning_rate=1e-3,
                device="cpu",
                dtype="float32",
                **changes,
            )
        )
        return rows_of(tmp_path / name), capsys.readouterr().err

    rows, told = sft("mixed", ["one", "<think> two", "three"], 3)
    assert (
        sorted(row["skipped_steps"] for row in rows) == [0, 0, 1]
        and [row["num_tokens"] for row in rows][2] > 0
    )
    assert re.findall(r"an update was left out.*see (.*)", told) == [
        f"{tmp_path / 'mixed.jsonl'} line 2"
    ]
    with pytest.raises(FloatingPointError, match=r"bad.jsonl line \d"):
        sft("bad", ["<think> one", "<think> two"], 9)
    assert [row["skipped_steps"] for row in rows_of(tmp_path / "bad")] == [1, 1, 1]


def test_dpo_names_the_pairs(damaged, tmp_path, capsys):
    rows = [
        {
            "id": f"p{n}",
            "query": "say it",
            "a": "yes" if n != 1 else "<think> yes",
            "b": "no",
            "label": 0,
        }
        for n in range(3)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_dpo.main(
        train_dpo.Settings(
            model=damaged,
            train_data=str(tmp_path / "pairs.jsonl"),
            output_dir=str(tmp_path / "run"),
            max_steps=3,
            batch_size=1,
            device="cpu",
            dtype="float32",
        )
    )
    assert sorted(row["skipped_steps"] for row in rows_of(tmp_path / "run")) == [0, 0, 1]
    assert re.findall(r"an update was left out.*see (.*)", capsys.readouterr().err) == ["pair p1"]


def test_a_reward_that_is_not_finite_is_refused_with_its_completion(tmp_path, monkeypatch):
    (tmp_path / "nan_reward.py").write_text(
        "def reward(prompts, **columns):\n"
        "    return [1.0] * 5 + [float('nan')] * (len(prompts) - 5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput, match="returned nan for completion 6 of .*boxed"):
        grpo(output_dir=str(tmp_path / "run"), max_steps=1, reward="nan_reward:reward")


def test_rows_of_a_run_are_counted_on(tmp_path):
    rows = []
    for step, loss in enumerate((1.0, math.nan, math.inf), start=1):
        record(
            tmp_path,
            rows,
            {"step": step, "loss": loss, "grad_norm": 1.0, "num_tokens": 10},
            ALONE,
            "here",
        )
    record(
        tmp_path, rows, {"step": 4, "loss": 1.0, "grad_norm": 1.0, "num_tokens": 10}, ALONE, "here"
    )
    assert rows == rows_of(tmp_path) and [row["num_tokens"] for row in rows] == [10, 20, 30, 40]
    assert [row["skipped_steps"] for row in rows] == [0, 1, 1, 0] and [
        row["loss"] for row in rows
    ] == [1.0, 0.0, 0.0, 1.0]


# ---- warnings ----

GOOD = {
    "reward": 0.5,
    "entropy": 0.5,
    "completions/clipped_ratio": 0.1,
    "frac_reward_zero_std": 0.4,
    "judge/accuracy": 0.7,
    "judge/parse_fail": 0.1,
    "judge/think_empty": 0.3,
    "sampling/logp_diff_mean": 0.02,
    "skipped_steps": 0,
}


def warned(*changes, **every):
    return warnings_for(
        [{"step": 0, "eval/judge/accuracy": 0.5}]
        + [GOOD | every | change | {"step": step} for step, change in enumerate(changes, start=1)]
    )


def test_a_healthy_run_gets_no_warnings():
    assert (
        warned(*[{}] * 8)
        == []
        == warnings_for([])
        == warnings_for([{"step": 0, "eval/judge/accuracy": 0.5}])
    )
    assert (
        warned(*[{"judge/think_empty": 1.0}] * 3) == []
    )  # a judge that never thought: style direct
    assert warned({}, *[{"entropy": 0.01}] * 4) == []  # four steps with few groups say little


FAULTS = {
    "entropy": ([{}] + [{"entropy": 0.04}] * 5, "entropy 0.04, 0.50 at first.*--learning_rate"),
    "length": (
        [{"completions/clipped_ratio": 0.6, "judge/parse_fail": 0.7}],
        "clipped_ratio 0.60.*--max_completion_length",
    ),
    "format": ([{"judge/parse_fail": 0.8}], "judge/parse_fail 0.80.*train_sft.py"),
    "too easy": (
        [{"frac_reward_zero_std": 1.0, "judge/accuracy": 1.0}] * 3,
        "frac_reward_zero_std 1.00.*too easy.*--temperature",
    ),
    "too hard": (
        [{"frac_reward_zero_std": 1.0, "judge/accuracy": 0.2}] * 3,
        "frac_reward_zero_std 1.00.*too hard.*--temperature",
    ),
    "guessing": ([{}, {"judge/think_empty": 0.95}], "judge/think_empty 0.95, 0.30 at first"),
    "place": (
        [{}, {"judge/position_bias": -0.5}],
        "judge/position_bias -0.50, 0.00 at first.*--reward consistency",
    ),
    "gap": ([{"sampling/logp_diff_mean": 0.3}], "logp_diff_mean 0.30.*float32"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_one_warning_that_says_what_to_change(name):
    changes, words = FAULTS[name]
    (line,) = warned(*changes)
    assert re.search(words, line) and "\n" not in line
    assert warned(*changes, {}, {}, {}, {}, {}) == []  # over
    assert (
        warned(*changes, changes[-1] | {"skipped_steps": 1}) == []
    )  # a step without numbers says nothing


def test_no_verdicts_at_all_and_a_solver():
    lines = warned(
        *[{"frac_reward_zero_std": 1.0, "judge/accuracy": 0.0, "judge/parse_fail": 1.0}] * 3
    )
    assert len(lines) == 2 and all("train_sft.py" in line for line in lines)
    solver = {key: value for key, value in GOOD.items() if "judge/" not in key} | {
        "reward/oracle": 0.1,
        "reward/unanswered": 0.9,
    }
    (line,) = warnings_for([solver | {"step": 1}])
    assert line.startswith("reward/unanswered 0.90")


def test_the_same_warning_waits_for_twenty_steps(capsys):
    rows, told = [], {}
    for step in range(1, 45):
        rows.append(
            GOOD
            | {
                "step": step,
                "step_time": 1.0,
                "judge/parse_fail": 0.9,
                "completions/mean_length": 5,
                "grad_norm": 0,
                "timing/tokens_per_second": 9,
            }
        )
        progress.show_progress(rows, 50, told)
    lines = capsys.readouterr().err.splitlines()
    assert [
        index for index, line in enumerate(lines) if line.startswith("warning: judge/parse_fail")
    ] == [1, 22, 43]  # behind steps 1, 21, 41


# ---- metrics and rollouts ----


def test_thinking_and_format_by_hand():
    record = {
        "verdict": 1,
        "right": 1,
        "longer": None,
        "text": "<type>Chat</type>",
        "think_tokens": 10,
    }
    reasoning = "<type>Reasoning</type><solution>2</solution><eval>a</eval><answer>[[A]]</answer>"
    records = [
        record,
        record | {"think_tokens": 31},
        record | {"verdict": None, "think_tokens": 900},
        record | {"text": reasoning, "think_tokens": 1},
    ]
    plain = game_metrics(records, load_style("rrm"))
    assert plain["judge/think_length"] == 14.0 and not any("type" in name for name in plain)
    rates = game_metrics(records, load_style("rm_r1"))
    assert rates == plain | {
        "judge/type_reasoning": 0.25,
        "judge/type_chat": 0.75,
        "judge/format": 0.25,
    }
    nothing = game_metrics([], Style("own", "answer_tag", "", "<type>{query}{answer_1}{answer_2}"))
    assert nothing == dict.fromkeys(rates, 0.0)  # all keys, no NaN


def test_a_run_in_rm_r1s_style_has_the_rates_in_every_row(tmp_path):
    model = make_scripted_folder(tmp_path / "coin", COIN, max_position_embeddings=8192)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        "".join(
            json.dumps({"query": f"say {n}", "a": "yes", "b": "no", "label": 0}) + "\n"
            for n in range(2)
        )
    )
    grpo(
        model=str(model),
        style="rm_r1",
        train_data=str(pairs),
        eval_data=str(pairs),
        output_dir=str(tmp_path / "run"),
        max_steps=2,
        eval_every=1,
        prompts_per_step=1,
    )
    rows = rows_of(tmp_path / "run")
    keys = {"judge/think_length", "judge/type_reasoning", "judge/type_chat", "judge/format"}
    assert all(keys <= row.keys() for row in rows[1:]) and all(
        {f"eval/{key}" for key in keys} <= row.keys() for row in rows
    )
    assert {*rows[1]} == {*rows[2]}
    told = view.make_page(
        tmp_path / "run" / "rollouts" / "eval-2.jsonl"
    )  # held-out judgments with what was judged
    (card, *others) = json.loads(re.search(r'id="data">(.*?)</script>', told)[1])["cards"]
    assert (
        len(others) == 1
        and [title for title, _ in card["texts"]] == ["user", "answer a, better", "answer b"]
        and card["texts"][0][1].startswith("say")
    )
    assert len(card["games"]) == 2 and not card["outcome"].startswith(
        ("for", "no")
    )  # the better answer is known


@pytest.mark.parametrize("opened", [False, True])
def test_texts_of_tokens_join_to_the_text(opened):
    tokenizer = make_tokenizer()
    text = "naïve 🙂🙂 – <think>日本 the answer</think> \\boxed{Assistant 1}\n"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    stop = tokenizer.eos_token_id
    logprobs = [-0.001 * index for index in range(len(tokens))]
    pieces = token_pieces(
        tokenizer, Completion([*tokens, stop], [*logprobs, -9.0], "stop"), opened, (stop,)
    )
    assert "".join(piece for piece, _ in pieces) == "<think>" * opened + text
    assert sum(value for _, value in pieces) == pytest.approx(
        sum(logprobs), abs=0.0005 * len(pieces)
    ) and len(pieces) < len(tokens)
    assert "🙂" in [piece for piece, _ in pieces] and all(
        piece and "\ufffd" not in piece for piece, _ in pieces
    )
    cut = token_pieces(
        tokenizer, Completion(tokens[:2] + tokens[2:4], logprobs[:4], "length"), opened, (stop,)
    )
    assert "".join(piece for piece, _ in cut) == "<think>" * opened + tokenizer.decode(tokens[:4])


def test_rollouts_colour_the_first_group_and_speeds_agree(tmp_path, capsys):
    grpo(output_dir=str(tmp_path / "run"), max_steps=2)
    first, *others = [
        json.loads(line)
        for line in (tmp_path / "run" / "rollouts" / "1.jsonl").read_text().splitlines()
    ]
    for completion in first["completions"]:
        assert "".join(piece for piece, _ in completion["logprobs"]) == completion["text"] and all(
            value <= 0 for _, value in completion["logprobs"]
        )
    assert not any(
        "logprobs" in completion for group in others for completion in group["completions"]
    )
    games = json.loads(re.search(r'id="data">(.*?)</script>', view.make_page(tmp_path / "run"))[1])[
        "cards"
    ][0]["games"]
    assert all(game["logprobs"] for game in games)
    rows, curves = rows_of(tmp_path / "run"), plot.read_metrics(tmp_path / "run")
    for row in rows:
        speed = (
            row["completions/mean_length"] * 12 / row["step_time"]
        )  # generated tokens of the step, without prompts
        assert (
            row["timing/tokens_per_second"] == pytest.approx(speed) == curves["speed"][row["step"]]
        )
        assert f"{speed:.0f} tokens/s" in progress_line(row)
