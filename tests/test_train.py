"""train_grpo.py as a command: it learns, survives a kill, runs on two processes."""

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import train_grpo
import train_sft
from cli import BadInput
from data import Pair
from extras import train_dpo
from judge import Judge
from model import Model
from progress import changes, progress_line, show_progress, summarize

ROOT = Path(__file__).parents[1]
SHORT = [
    "--max_steps",
    "6",
    "--save_every",
    "2",
    "--prompts_per_step",
    "7",
    "--num_generations",
    "4",
    "--eval_every",
    "3",
    "--eval_limit",
    "10",
]
KEYS = set(
    """
    step loss reward reward_std frac_reward_zero_std kl entropy clip_ratio/low_mean
    clip_ratio/high_mean completions/mean_length completions/clipped_ratio
    completions/unscored_ratio grad_norm learning_rate num_tokens step_time
    judge/accuracy judge/position_bias judge/length_bias
    judge/parse_fail judge/think_empty judge/think_length sampling/logp_diff_mean
    sampling/logp_diff_max sampling/redrawn_groups sampling/importance_sampling_ratio/mean
    sampling/importance_sampling_ratio/clipped_ratio
    sampling/importance_sampling_ratio/effective_sample_size skipped_steps
    timing/rollout timing/reward timing/update timing/tokens_per_second
    """.split()
)


def command(*arguments, launcher=()):
    return [sys.executable, *launcher, str(ROOT / "train_grpo.py"), *map(str, arguments)]


def train(*arguments, launcher=(), check=True, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command(*arguments, launcher=launcher),
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        **options,
    )
    if check and done.returncode:
        pytest.fail(done.stderr[-3000:])
    return done


def metrics(folder, timings=False):
    """The rows of a run, without what a clock wrote."""
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return (
        rows
        if timings
        else [{key: value for key, value in row.items() if "tim" not in key} for row in rows]
    )


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("short") / "run"
    train("--output_dir", folder, *SHORT)
    return folder


def test_an_evaluation_is_what_a_judge_of_the_same_model_says(short_run):
    """Same prompts, draws and temperature, so the same texts, as judge.py and evaluate.py."""
    lines = (short_run / "rollouts" / "eval-0.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    settings = json.loads((short_run / "config.json").read_text())["settings"]
    assert settings["temperature"] == 1
    pairs = [Pair(row["id"], row["messages"], tuple(row["answers"])) for row in rows]
    judge = Judge("tiny-base", device="cpu", dtype="float32", seed=settings["seed"])
    judgments = judge.judge(pairs, max_completion_length=settings["max_completion_length"])
    assert len(rows) == 10
    for row, judgment in zip(rows, judgments):
        games = [{key: game[key] for key in ("order", "text")} for game in row["games"]]
        assert games == [{"order": list(g["order"]), "text": g["text"]} for g in judgment.games]


def test_the_default_command_learns_to_think(tmp_path):
    """In the first steps of the default run the judge learns to think, and accuracy rises."""
    done = train(
        "--output_dir",
        tmp_path / "run",
        "--max_steps",
        "16",
        "--eval_limit",
        "80",
        "--eval_every",
        "16",
    )
    first, last = (row for row in metrics(tmp_path / "run") if "eval/judge/accuracy" in row)
    assert (
        first["step"] == 0
        and first["eval/judge/accuracy"] < 0.82
        and first["eval/judge/think_empty"] > 0.3
    )
    assert last["eval/judge/accuracy"] > 0.86 and last["eval/judge/think_empty"] < 0.1
    assert last["eval/completions/mean_length"] > first["eval/completions/mean_length"] + 5
    assert done.stdout.strip() == str(
        tmp_path / "run" / "checkpoint-16"
    )  # the result, and nothing else, on standard output
    assert "held out, from step 0 to 16" in done.stderr and "judge.py --model" in done.stderr


def test_a_run_writes_what_it_promises(short_run):
    rows = metrics(short_run, timings=True)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert all({key for key in row if not key.startswith("eval/")} == KEYS for row in rows[1:])
    assert [row["step"] for row in rows if "eval/judge/accuracy" in row] == [0, 3, 6]
    assert {"eval/judge/accuracy", "eval/judge/consistency", "eval/judge/position_bias"} <= rows[
        0
    ].keys()
    assert "NaN" not in (short_run / "metrics.jsonl").read_text()
    assert max(row["sampling/logp_diff_max"] for row in rows[1:]) <= 1e-4
    assert all(
        row["clip_ratio/low_mean"] == row["clip_ratio/high_mean"] == 0 for row in rows[1:]
    )  # one update: on-policy
    config = json.loads((short_run / "config.json").read_text())
    assert (
        config["settings"]["prompts_per_step"] == 7
        and config["settings"]["learning_rate"] == 1e-4
        and config["versions"]["torch"] == torch.__version__
    )
    groups = [
        json.loads(line) for line in (short_run / "rollouts" / "3.jsonl").read_text().splitlines()
    ]
    assert len(groups) == 7 and all(len(group["completions"]) == 4 for group in groups)
    for group in groups:
        rewards = [
            1.0 if completion["verdict"] == group["right_verdict"] else -1.0
            for completion in group["completions"]
        ]
        assert rewards == [completion["reward"] for completion in group["completions"]]
        assert sum(completion["advantage"] for completion in group["completions"]) == pytest.approx(
            0, abs=1e-5
        )
    mean = sum(c["reward"] for group in groups for c in group["completions"]) / 28
    assert mean == pytest.approx(rows[3]["reward"])
    assert sum(len(group["completions"]) for group in groups) == 28


def test_checkpoints_load_in_transformers_with_fp32_masters(short_run):
    folder = short_run / "checkpoint-6"
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert (
        not report["missing_keys"]
        and not report["unexpected_keys"]
        and theirs.dtype == torch.float32
    )
    ours = Model.from_pretrained(folder, dtype=torch.float32)
    assert all(
        torch.equal(dict(theirs.named_parameters())["model." + n if "lm_head" not in n else n], p)
        for n, p in ours.named_parameters()
    )
    assert transformers.AutoTokenizer.from_pretrained(folder).chat_template
    assert json.loads((folder / "config.json").read_text())["judge_style"] == "tiny"
    assert not list(short_run.glob("*.partial"))
    judged = subprocess.run(
        [
            sys.executable,
            ROOT / "judge.py",
            "--model",
            folder,
            "--query",
            "347+586",
            "--a",
            "933",
            "--b",
            "923",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(json.loads(judged.stdout)["games"]) == 2


def test_the_same_command_gives_the_same_run(short_run, tmp_path):
    train("--output_dir", tmp_path / "again", *SHORT)
    assert metrics(tmp_path / "again") == metrics(short_run)


@pytest.mark.parametrize("after", ["checkpoint-2", "rollouts/4.jsonl", "checkpoint-4"])
def test_kill_and_resume_gives_the_metrics_of_the_run_left_alone(short_run, tmp_path, after):
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        command("--output_dir", folder, *SHORT),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.time() + 120
    while not (folder / after).exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it had not ended by itself
    (folder / "metrics.jsonl").open("a").write('{"step": 9, "rew')  # a row that the kill cut off
    train("--output_dir", folder, *SHORT, "--resume")
    assert metrics(folder) == metrics(short_run)  # to the last digit
    assert {path.name for path in (folder / "rollouts").iterdir()} == {
        path.name for path in (short_run / "rollouts").iterdir()
    }
    assert (folder / "checkpoint-6" / "model.safetensors").read_bytes() == (
        short_run / "checkpoint-6" / "model.safetensors"
    ).read_bytes()


EVERY_STEP = """
import importlib, shutil, sys
from pathlib import Path
import cli

def main():
    module, folder, *flags = importlib.import_module(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    flags += ["--max_steps=6", "--save_every=1", "--device=cpu", "--dtype=float32"]

    def train(name, *more):
        given = [*flags, "--output_dir", str(folder / name), *more]
        module.main(cli.parse_settings(module.Settings, given))

    train("alone")
    for step in range(1, 7):
        resumed = folder / f"from-{step}"
        shutil.copytree(folder / "alone" / f"checkpoint-{step}", resumed / f"checkpoint-{step}")
        for name in ("config.json", "metrics.jsonl"):
            shutil.copy(folder / "alone" / name, resumed)
        train(resumed.name, "--resume")

cli.run(main)
"""


def steps_that_resume_exactly(folder, module, *flags):
    """The steps of a run of six from which it was resumed and ended with the same bytes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("MKL_CBWR", None)  # the command sets it
    arguments = [sys.executable, "-c", EVERY_STEP, module, folder, *flags]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    names = ("model.safetensors", "trainer/optimizer.safetensors")

    def outcome(run):
        return metrics(run), [(run / "checkpoint-6" / name).read_bytes() for name in names]

    expected = outcome(folder / "alone")
    return [step for step in range(1, 7) if outcome(folder / f"from-{step}") == expected]


def test_a_run_resumes_exactly_from_each_of_its_steps(tmp_path):
    flags = "--prompts_per_step 2 --num_generations 4 --eval_every 0 --seed 7".split()
    flags += "--dynamic_sampling 1 --num_mini_batches 2".split()
    assert steps_that_resume_exactly(tmp_path, "train_grpo", *flags) == [1, 2, 3, 4, 5, 6]
    drawn = [2 + row["sampling/redrawn_groups"] for row in metrics(tmp_path / "alone")]
    state = tmp_path / "alone" / "checkpoint-6" / "trainer" / "state.json"
    assert json.loads(state.read_text())["drawn"] == sum(drawn) > 12
    config = json.loads((tmp_path / "alone" / "config.json").read_text())
    assert config["versions"]["MKL_CBWR"] == "AUTO,STRICT"


def test_supervised_training_resumes_exactly_from_each_of_its_steps(tmp_path):
    """One row a step, of one token: then the product with the output layer has one row.

    The sums of such a product depend on the alignment of the weights, and in the file of a
    checkpoint they are not aligned.
    """
    rows = [{"prompt": f"say {n}", "completion": ""} for n in range(1, 9)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ("--train_data", data, "--batch_size", "1", "--learning_rate", "1e-3")
    assert steps_that_resume_exactly(tmp_path, "train_sft", *flags) == [1, 2, 3, 4, 5, 6]


def test_loaded_weights_are_aligned_wherever_they_lie_in_their_file(tmp_path):
    first = Model.from_pretrained("tiny-base", dtype=torch.float32)
    for length in range(8):  # of a tensor's name, which shifts what comes behind it
        folder = tmp_path / str(length)
        first.save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        weights[f"model.layers.0.{'x' * 8 * length}rotary_emb.inv_freq"] = torch.zeros(1)
        save_file(weights, folder / "model.safetensors")
        model = Model.from_pretrained(folder, dtype=torch.float32)
        assert all(parameter.data_ptr() % 64 == 0 for parameter in model.parameters())


# ---- what --resume compares with the earlier call ----


@pytest.fixture
def small_data(tmp_path):
    """Files of 16 rows for each trainer: pairs, and a prompt with its completion."""
    pairs = (ROOT / "tiny" / "train.jsonl").read_text().splitlines()[:16]
    rows = [json.dumps({"prompt": f"say {n}", "completion": "yes"}) for n in range(16)]
    for name, lines in (("pairs.jsonl", pairs), ("rows.jsonl", rows)):
        (tmp_path / name).write_text("".join(line + "\n" for line in lines))
    return {"train_grpo": "pairs.jsonl", "train_sft": "rows.jsonl", "train_dpo": "pairs.jsonl"}


def few_steps(module, folder, data, **settings):
    """A run of one step, or more with max_steps, in this process."""
    common = dict(output_dir=str(folder), train_data=str(data), model="tiny-base", max_steps=1)
    common |= dict(device="cpu", dtype="float32")
    if module is train_grpo:
        common |= dict(prompts_per_step=2, num_generations=2, eval_every=0, eval_data="none")
        common |= dict(max_completion_length=8)
    else:
        common |= dict(batch_size=2)
    module.main(module.Settings(**common | settings))


@pytest.mark.parametrize("module", [train_grpo, train_sft, train_dpo])
def test_a_resumed_run_needs_its_data_and_may_have_other_memory_flags(
    module, small_data, tmp_path, capsys
):
    data = tmp_path / small_data[module.__name__.split(".")[-1]]
    run, more = tmp_path / "run", dict(max_steps=2, resume=True)
    few_steps(module, run, data)
    config = json.loads((run / "config.json").read_text())
    assert all(len(value) == 16 for value in config["data"].values())

    original = data.read_text()
    data.write_text("\n".join(original.splitlines()[:-1]) + "\n")  # a row less
    with pytest.raises(
        BadInput, match="--train_data: .* was trained with other content.* --output_dir"
    ):
        few_steps(module, run, data, **more)
    data.write_text(original.replace("1", "3", 1))  # a character
    with pytest.raises(BadInput, match="--train_data: .* other content"):
        few_steps(module, run, data, **more)
    data.unlink()

    moved = tmp_path / "moved.jsonl"
    moved.write_text(original)
    less_memory = dict(micro_batch_tokens=50, gradient_checkpointing=True)
    few_steps(module, run, moved, **more, **less_memory)
    assert [row["step"] for row in metrics(run)] == [1, 2]
    assert "no hash" not in capsys.readouterr().err

    config = json.loads((run / "config.json").read_text())
    del config["data"]  # as older versions wrote it
    config["settings"]["eval_temperature"] = 0.9  # a flag that is gone
    (run / "config.json").write_text(json.dumps(config))
    few_steps(module, run, moved, **more)
    said = capsys.readouterr().err
    assert "config.json: holds no hash of the data" in said
    assert "--eval_temperature 0.9 is no longer followed" in said


def test_another_prompt_behind_the_same_path_is_refused(small_data, tmp_path):
    style, run, data = tmp_path / "mine.txt", tmp_path / "run", tmp_path / "pairs.jsonl"
    style.write_text("verdict: boxed\n=== user\n{query} 2: {answer_2} 1: {answer_1}\n")
    few_steps(train_grpo, run, data, style=str(style))
    style.rename(tmp_path / "moved.txt")
    moved = dict(style=str(tmp_path / "moved.txt"), resume=True)
    few_steps(train_grpo, run, data, max_steps=2, **moved)
    (tmp_path / "moved.txt").write_text((tmp_path / "moved.txt").read_text().replace("2:", "Two:"))
    with pytest.raises(BadInput, match="--style: .*run was trained with other content"):
        few_steps(train_grpo, run, data, max_steps=3, **moved)


@pytest.mark.parametrize("flag", ["model", "judge_model", "style", "train_data"])
def test_what_a_run_reads_besides_its_checkpoint_has_to_stay_the_same(flag, small_data, tmp_path):
    """The reference of a KL term, the base of LoRA, a judge that is the reward, a rubric."""
    for name in ("base", "judge"):
        shutil.copytree(ROOT / "tiny" / name, tmp_path / name)
    style, data = tmp_path / "mine.txt", tmp_path / "pairs.jsonl"
    style.write_text("verdict: boxed\n=== user\n{query} 1: {answer_1} 2: {answer_2}\n")
    rows = [json.loads(line) | {"rubric": "be right"} for line in data.read_text().splitlines()]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = dict(reward="judge", judge_model=str(tmp_path / "judge"), style=str(style))
    kinds = {
        "model": [dict(beta=0.01), dict(lora_rank=2)],
        "judge_model": [judged],
        "style": [judged],
        "train_data": [dict(style="rubric")],
    }
    common = dict(train_data=str(data), model=str(tmp_path / "base"), eval_every=0)
    for number, kind in enumerate(kinds[flag]):
        run = tmp_path / f"run-{number}"
        settings = train_grpo.Settings(**common | kind, output_dir=str(run), resume=True)
        filled, *_, hashes = train_grpo.prepare(settings)
        run.mkdir()
        config = {"settings": vars(filled), "data": hashes}
        (run / "config.json").write_text(json.dumps(config))
        train_grpo.prepare(settings)
    changed = {"model": "base/merges.txt", "judge_model": "judge/model.safetensors"}
    path = tmp_path / changed.get(flag, style if flag == "style" else data)
    content = path.read_bytes() if path.exists() else b"#"  # merges.txt: half of a tokenizer
    path.write_bytes(content.replace(b"right", b"wrong").replace(b"1:", b"I:")[:-1] + b"\n\n")
    for number, kind in enumerate(kinds[flag]):
        run = tmp_path / f"run-{number}"
        settings = train_grpo.Settings(**common | kind, output_dir=str(run), resume=True)
        with pytest.raises(BadInput, match=f"--{flag}: .* was trained with other content"):
            train_grpo.prepare(settings)


def test_a_folder_that_is_deleted_ends_the_training(small_data, tmp_path, monkeypatch):
    run, grpo_loss = tmp_path / "run", train_grpo.grpo_loss

    def delete_then_loss(*terms):
        if (run / "checkpoint-1").exists():
            shutil.rmtree(run)
        return grpo_loss(*terms)

    monkeypatch.setattr(train_grpo, "grpo_loss", delete_then_loss)
    with pytest.raises(BadInput, match=r"metrics.jsonl: was deleted while this command wrote"):
        few_steps(train_grpo, run, tmp_path / "pairs.jsonl", max_steps=4, save_every=1)


@pytest.mark.parametrize("module", [train_grpo, train_sft, train_dpo])
def test_keep_leaves_the_last_checkpoints_and_a_resumed_run_may_change_it(
    module, small_data, tmp_path
):
    data, run = tmp_path / small_data[module.__name__.split(".")[-1]], tmp_path / "run"

    def checkpoints():
        return sorted(path.name for path in run.glob("checkpoint-*"))

    few_steps(module, run, data, max_steps=3, save_every=1, keep=2)
    assert checkpoints() == ["checkpoint-2", "checkpoint-3"]
    few_steps(module, run, data, max_steps=4, save_every=1, resume=True)
    assert checkpoints() == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    few_steps(module, run, data, max_steps=5, save_every=1, keep=1, resume=True)
    assert checkpoints() == ["checkpoint-5"]
    with pytest.raises(BadInput, match="--keep"):
        few_steps(module, tmp_path / "other", data, keep=-1)


def test_sft_with_a_constant_learning_rate_may_go_on_for_longer(small_data, tmp_path):
    data = tmp_path / "rows.jsonl"
    for schedule in ("constant", "cosine"):
        few_steps(train_sft, tmp_path / schedule, data, schedule=schedule)
    few_steps(train_sft, tmp_path / "constant", data, max_steps=2, resume=True)
    with pytest.raises(BadInput, match="--max_steps: .* was made with 1, not 2"):
        few_steps(train_sft, tmp_path / "cosine", data, max_steps=2, resume=True, schedule="cosine")


def test_what_a_run_was_made_with_before_stays_in_its_config(small_data, tmp_path, capsys):
    data, run = tmp_path / "pairs.jsonl", tmp_path / "run"
    few_steps(train_grpo, run, data)
    few_steps(train_grpo, run, data, max_steps=2, resume=True)
    config = json.loads((run / "config.json").read_text())
    assert "up to step" not in capsys.readouterr().err and config["earlier"] == []
    commit, numpy = config["commit"], config["versions"] | {"torch": "1.0"}
    (run / "config.json").write_text(json.dumps(config | {"commit": "abc", "versions": numpy}))
    few_steps(train_grpo, run, data, max_steps=3, resume=True)
    told = capsys.readouterr().err
    assert f"up to step 2 it was made with commit abc (now {commit}), torch 1.0 (now" in told
    few_steps(train_grpo, run, data, max_steps=4, resume=True)
    config = json.loads((run / "config.json").read_text())
    assert config["commit"] == commit
    assert config["earlier"] == [{"up_to_step": 2, "commit": "abc", "versions": numpy}]


def test_damaged_metrics_and_rollouts_are_said(small_data, tmp_path, capsys):
    data, run = tmp_path / "pairs.jsonl", tmp_path / "run"
    few_steps(train_grpo, run, data, max_steps=3)
    path, rollouts = run / "metrics.jsonl", run / "rollouts" / "2.jsonl"
    lines = path.read_text().splitlines(keepends=True)

    def resumed():
        capsys.readouterr()
        few_steps(train_grpo, run, data, max_steps=3, resume=True)
        return capsys.readouterr().err

    assert "metrics.jsonl" not in resumed()
    path.write_text(lines[0] + lines[1][:50] + "\n" + lines[2])
    with pytest.raises(BadInput, match="metrics.jsonl line 2: not valid JSON"):
        resumed()
    path.write_text(lines[0] + '{"step": "2"}\n' + lines[2])
    with pytest.raises(BadInput, match="metrics.jsonl line 2 has no step"):
        resumed()
    path.write_text(lines[0] + lines[2])
    assert "metrics.jsonl: holds 2 of the 3 steps so far: was it damaged" in resumed()
    path.unlink()
    assert "metrics.jsonl: holds 0 of the 3 steps so far" in resumed()
    path.write_text("".join(lines))
    rollouts.write_bytes(rollouts.read_bytes()[:-9])
    assert "rollouts/2.jsonl: cut off or missing, 1 such" in resumed()


def test_resume_without_a_run_starts_one_and_can_go_on_for_longer(short_run, tmp_path):
    shorter = [*SHORT, "--resume", "--output_dir", tmp_path / "run"]
    shorter[1] = "2"
    train(*shorter)
    train(*SHORT, "--resume", "--output_dir", tmp_path / "run")
    rows, expected = metrics(tmp_path / "run"), metrics(short_run)
    # the shorter run evaluates at its own last step
    assert [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in rows[1:]] == [
        {k: v for k, v in row.items() if not k.startswith("eval/")} for row in expected[1:]
    ]


def test_a_damaged_checkpoint_is_passed_over(short_run, tmp_path):
    subprocess.run(["cp", "-r", short_run, tmp_path / "run"], check=True)
    weights = tmp_path / "run" / "checkpoint-6" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    done = train("--output_dir", tmp_path / "run", *SHORT, "--resume")
    assert "checkpoint-6" in done.stderr and "passed over" in done.stderr
    assert metrics(tmp_path / "run") == metrics(short_run)


def test_a_prompt_of_the_users_own_travels_with_the_checkpoint(tmp_path):
    (tmp_path / "mine.txt").write_text(
        "verdict: boxed\n=== user\n{query} 2: {answer_1} 1: {answer_2}\n"
    )
    train(
        "--output_dir",
        tmp_path / "run",
        "--max_steps",
        "1",
        "--prompts_per_step",
        "2",
        "--eval_every",
        "0",
        "--style",
        "mine.txt",
        cwd=tmp_path,
    )
    folder = tmp_path / "run" / "checkpoint-1"
    (tmp_path / "mine.txt").unlink()
    judged = subprocess.run(
        [
            sys.executable,
            ROOT / "judge.py",
            "--model",
            folder,
            "--query",
            "347+586",
            "--a",
            "933",
            "--b",
            "923",
            "--json",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert judged.returncode == 0, judged.stderr


def test_a_folder_that_is_no_run_is_not_resumed(tmp_path):
    subprocess.run(["cp", "-r", ROOT / "tiny" / "base", tmp_path / "model"], check=True)
    before = (tmp_path / "model" / "config.json").read_text()
    done = train("--output_dir", tmp_path / "model", "--resume", *SHORT, check=False)
    assert (
        done.returncode == 2
        and "config.json" in done.stderr
        and (tmp_path / "model" / "config.json").read_text() == before
    )


def test_nothing_is_overwritten_where_no_checkpoint_is_intact(short_run, tmp_path):
    subprocess.run(["cp", "-r", short_run, tmp_path / "run"], check=True)
    for weights in (tmp_path / "run").glob("checkpoint-*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    done = train("--output_dir", tmp_path / "run", *SHORT, "--resume", check=False)
    assert (
        done.returncode == 2
        and "intact" in done.stderr
        and metrics(tmp_path / "run") == metrics(short_run)
    )


def test_a_machine_without_git_trains(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": "/nonexistent"}
    flags = [
        "--output_dir",
        tmp_path / "run",
        "--max_steps",
        "1",
        "--prompts_per_step",
        "2",
        "--eval_every",
        "0",
    ]
    subprocess.run(command(*flags), check=True, env=environment, capture_output=True)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["commit"] is None


def test_a_run_beyond_max_steps_is_not_called_finished(short_run):
    """It printed the name of a checkpoint that does not exist."""
    shorter = ["--max_steps", "1", *SHORT[2:], "--resume"]
    done = train("--output_dir", short_run, *shorter, check=False)
    assert done.returncode == 2 and "checkpoint-6 is a later step: give 6 or more" in done.stderr


def test_changed_settings_are_refused_by_name(short_run):
    done = train("--output_dir", short_run, *SHORT, "--resume", "--temperature", "0.9", check=False)
    assert (
        done.returncode == 2
        and re.search("--temperature: .*1.0.*0.9", done.stderr)
        and done.stderr.count("\n") <= 3
    )


def test_two_processes_give_the_run_of_one(short_run, tmp_path):
    """Same rollouts and losses; 7 pairs do not divide by 2. One process resumes what two saved."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    shorter = [*SHORT, "--output_dir", tmp_path / "two"]
    shorter[1] = "4"
    train(*shorter, launcher=launcher)
    train(*SHORT, "--output_dir", tmp_path / "two", "--resume")
    rows, expected = metrics(tmp_path / "two"), metrics(short_run)
    for row, other in zip(rows, expected, strict=True):
        for key in KEYS & row.keys():
            if "tim" not in key and key in other:
                bound = 1e-4 if "logp_diff" in key else 1e-5  # the former are rounding itself
                assert row[key] == pytest.approx(other[key], rel=1e-4, abs=bound), (
                    row["step"],
                    key,
                )
        for key in (key for key in other if key.startswith("eval/")):  # the pairs were shared out
            assert row["step"] == 4 or row[key] == pytest.approx(other[key], rel=1e-6), (
                row["step"],
                key,
            )


@pytest.mark.parametrize(
    "flags",
    [
        ["--beta", "0.05"],
        ["--loss_type", "dapo", "--epsilon_high", "0.28"],
        ["--loss_type", "dr_grpo", "--scale_rewards", "none"],
        ["--num_iterations", "3", "--epsilon", "0.001"],
        ["--num_mini_batches", "2", "--dynamic_sampling", "2"],
        ["--dtype", "bfloat16", "--gradient_checkpointing", "--micro_batch_tokens", "40"],
    ],
)
def test_the_variants_run(flags, tmp_path):
    train("--output_dir", tmp_path / "run", *SHORT, *flags)
    rows = metrics(tmp_path / "run")[1:]
    assert len(rows) == 6 and all(
        {key for key in KEYS if "tim" not in key} <= row.keys() for row in rows
    )
    if "--beta" in flags:
        assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and rows[-1]["kl"] > 1e-6
    if "--epsilon" in flags:
        assert any(row["clip_ratio/low_mean"] + row["clip_ratio/high_mean"] > 0 for row in rows)


def test_real_model_trains_on_real_solutions(real_model, tmp_path):
    """SmolLM2 on GSM8K solutions: a step in fp32, log-probs that agree, a checkpoint that loads."""
    data = (
        Path(os.environ.get("RRM_DATA", ROOT.parent / "shared" / "data"))
        / "gsm8k"
        / "model_solutions.jsonl"
    )
    if not data.exists():
        pytest.skip(
            "the GSM8K model solutions are not at hand: RRM_DATA names the folder of the data"
        )
    done = subprocess.run(
        command(
            "--model",
            real_model,
            "--train_data",
            data,
            "--max_steps",
            1,
            "--prompts_per_step",
            2,
            "--num_generations",
            3,
            "--max_completion_length",
            24,
            "--dtype",
            "float32",
            "--temperature",
            0.7,
            "--eval_every",
            0,
            "--output_dir",
            tmp_path / "run",
        ),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    row = metrics(tmp_path / "run")[0]
    assert row["sampling/logp_diff_max"] <= 1e-4 and row["num_tokens"] > 200
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-1")


def test_config_says_when_where_and_with_which_code(tmp_path, monkeypatch):
    """A changed file is in the diff beside config.json; a resumed run keeps its earlier calls."""
    import runlog

    class OneProcess:
        is_main = True

        def __init__(self):
            self.at_exit = contextlib.ExitStack()

        def gather(self, value):
            return [value]

    def call(diff, resume):
        monkeypatch.setattr(
            runlog, "git", lambda *words: diff if words[0] == "diff" else "c0ffee\n"
        )
        settings = {"resume": resume, "train_data": "pairs.jsonl", "eval_data": "some/hub"}
        runtime = OneProcess()
        runlog.open_run(tmp_path / "run", settings, 0, runtime, {})
        running = json.loads((tmp_path / "run" / "config.json").read_text())
        assert "seconds" not in running["calls"][-1]
        runtime.at_exit.close()
        return json.loads((tmp_path / "run" / "config.json").read_text())

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("")
    config = call("", resume=False)
    (first,) = config["calls"]
    assert config["commit"] == first["commit"] == "c0ffee" and first["diff"] is None
    assert first["host"] == platform.node() and first["seconds"] == 0
    assert abs(datetime.fromisoformat(first["started"]).timestamp() - time.time()) < 60
    assert config["data_paths"] == {"train_data": f"{tmp_path / 'pairs.jsonl'}"}
    again, second = call("-old\n+new\n", resume=True)["calls"]
    assert again == first and (tmp_path / "run" / second["diff"]).read_text() == "-old\n+new\n"


def test_a_summary_says_what_was_learned():
    """Held-out results where there are two, else the mean of the first and last ten steps."""
    rows = [{"step": n, "reward": 0.0, "loss": 0.0, "judge/accuracy": n / 40} for n in range(1, 41)]
    assert changes(rows, "eval/") is None
    assert changes(rows) == (
        "in training, from the first to the last 10 of 40 steps: accuracy 0.138 -> 0.887"
    )
    held_out = [{"step": 0, "eval/judge/accuracy": 0.5}, *rows]
    held_out[-1] |= {"eval/judge/accuracy": 0.75, "eval/completions/mean_length": 30.0}
    assert changes(held_out, "eval/") == (
        "held out, from step 0 to 40: accuracy 0.500 -> 0.750, tokens 30 -> 30"
    )
    sft = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    assert changes(sft).endswith("1 of 2 steps: loss 2.000 -> 1.000")
    assert changes(sft[:1]).endswith("1 of 1 steps: loss 2.000 -> 2.000")


def test_the_end_of_a_run_says_what_to_do_next(tmp_path, capsys):
    """Only a judge can be asked to judge."""
    settings = SimpleNamespace(model="M", max_steps=2)
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 2, "reward": 1.0, "reward/oracle": 0.5, "step_time": 3.0}\n')
    summarize(tmp_path, settings)
    look = f"look at it: python -m extras.plot {tmp_path}"
    assert capsys.readouterr().err.splitlines()[1:] == [look]  # only GRPO keeps texts
    (tmp_path / "rollouts").mkdir()
    summarize(tmp_path, settings)
    assert capsys.readouterr().err.splitlines()[1:] == [f"{look}, or extras.view for texts"]
    question = f"next: python judge.py --model {tmp_path}/checkpoint-2 --query Q --a A --b B\n"
    metrics.write_text('{"step": 2, "reward": 1.0, "judge/accuracy": 0.5}\n')
    summarize(tmp_path, settings)
    assert question in capsys.readouterr().err
    metrics.write_text('{"step": 2, "loss": 1.0}\n')
    summarize(tmp_path, settings)
    assert question not in capsys.readouterr().err
    settings.judge_style = "rrm"  # of train_sft.py, for judgments of a teacher
    summarize(tmp_path, settings)
    assert question in capsys.readouterr().err


def test_a_solver_without_a_judge_shows_none_of_its_numbers():
    row = {"reward": 0.5, "reward/judge_accuracy": 0.0, "reward/judge_matches": 0}
    assert progress_line(row) == "reward +0.500"
    row |= {"reward/judge_matches": 4, "reward/judge_accuracy": 1.0, "eval/reward/win_rate": 0.5}
    assert "judge 1.00 right  judged better than at first 0.500" in progress_line(row)


def test_a_step_says_how_much_is_left(capsys):
    rows = [{"step": n, "step_time": 2.0, "reward": 0.5, "skipped_steps": 1} for n in (1, 2, 3)]
    show_progress(rows, 33, {})
    assert capsys.readouterr().err == "step 3 of 33  reward +0.500  2.0 s, 0:01:00 left\n"
