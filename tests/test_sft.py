"""train_sft.py: what it learns from, the loss, the command, resume, two processes, bad input."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from tiny_models import make_model_folder, make_tokenizer

import train_sft
from cli import BadInput
from distributed import Policy
from kernels.packed_attention import packed_attention
from model import Model, pack_groups
from train_sft import Settings, encode_row, learning_rate_at, packs_of

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("model") / "m", "llama")


@pytest.fixture()
def data(tmp_path):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"say {word}"},
                {"role": "assistant", "content": f"<think>hm</think>{word * 2}"},
            ]
        }
        for word in ("yes", "no", "one", "two")
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 3))
    return path


def sft(*arguments, launcher=(), check=True):
    command = [sys.executable, *launcher, str(ROOT / "train_sft.py"), *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    if check and done.returncode:
        pytest.fail(done.stderr[-3000:])
    return done


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "time" not in key} for row in rows]


def test_rows_become_prompt_and_completion_with_its_end():
    tokenizer = make_tokenizer()
    messages = [{"role": "user", "content": "hi"}]
    prompt, completion = encode_row(
        messages, "<think>a</think>b", tokenizer, tokenizer.eos_token_id
    )
    whole = tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": "<think>a</think>b"}], return_dict=False
    )
    assert prompt + completion == whole[: len(prompt) + len(completion)]
    assert (
        completion[-1] == tokenizer.eos_token_id
        and tokenizer.convert_tokens_to_ids("</think>") in completion
    )
    assert encode_row("plain", "text", tokenizer, 7) == (
        tokenizer.encode("plain"),
        [*tokenizer.encode("text"), 7],
    )


def test_a_tag_that_the_template_has_opened_is_not_written_twice():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "assistant\\n' }}", "assistant\\n<think>\\n' }}"
    )
    _, completion = encode_row([{"role": "user", "content": "hi"}], "<think>\nab", tokenizer, 7)
    assert completion == [*tokenizer.encode("ab"), 7]


@pytest.mark.parametrize("budget", [10_000, 40, 1])
def test_loss_and_gradient_are_the_mean_over_completion_tokens(
    folder, budget, tmp_path, monkeypatch
):
    rows = [
        ([5, 6, 7], [[8, 9]], "line 1"),
        ([10], [[11, 12, 13, 14]], "line 2"),
        ([20, 21], [[22]], "line 3"),
    ]
    model = Model.from_pretrained(folder, dtype=torch.float32)
    losses = []
    for prompt, (
        completion,
    ), _ in rows:  # the textbook: cross-entropy of whole sequences, prompt positions left out
        pack = pack_groups([(prompt + completion, [])])
        logits = model(pack.tokens, pack.positions, packed_attention(pack)) @ model.head_weight.T
        losses.append(
            torch.nn.functional.cross_entropy(
                logits[len(prompt) - 1 : -1], torch.tensor(completion), reduction="sum"
            )
        )
    expected = sum(losses) / 7
    expected.backward()
    gradients = {}

    def keep_gradients(policy, optimizer, loss, max_grad_norm):
        gradients.update({name: master.grad for name, master in policy.masters.items()})
        return 1.0

    monkeypatch.setattr(Policy, "step", keep_gradients)
    monkeypatch.setattr(train_sft, "prepare", lambda settings: ([("", "", "")], None))
    monkeypatch.setattr(train_sft, "usable_rows", lambda *arguments: rows)
    options = dict(micro_batch_tokens=budget, batch_size=3, max_steps=1, dtype="float32")
    train_sft.main(Settings(str(folder), output_dir=str(tmp_path / "run"), **options))
    (row,) = rows_of(tmp_path / "run")
    assert row["num_tokens"] == 7 and row["loss"] == pytest.approx(expected.item(), rel=1e-5)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-4, atol=1e-6)


def test_packs_hold_every_row_once_within_the_budget():
    rows = [([1] * length, [[2] * (length % 4 + 1)], f"line {length}") for length in range(1, 30)]
    for budget in (1, 40, 1000):
        packs = list(packs_of(rows, budget))
        assert sorted(row for pack in packs for row in pack) == sorted(rows)
        assert all(
            len(pack) == 1 or sum(len(p) + len(c) for p, (c,), _ in pack) <= budget
            for pack in packs
        )


def test_learning_rate_warms_up_and_falls_to_a_tenth():
    settings = Settings(learning_rate=1.0, warmup_steps=4, max_steps=12, schedule="cosine")
    assert [learning_rate_at(step, settings) for step in (1, 2, 4)] == [0.25, 0.5, 1.0]
    assert learning_rate_at(8, settings) == pytest.approx(0.55) and learning_rate_at(
        12, settings
    ) == pytest.approx(0.1)
    assert learning_rate_at(9, Settings(learning_rate=1.0)) == 1.0


def test_the_command_learns_resumes_and_saves_what_transformers_loads(folder, data, tmp_path):
    flags = [
        "--model",
        folder,
        "--train_data",
        data,
        "--batch_size",
        4,
        "--learning_rate",
        "3e-3",
        "--dtype",
        "float32",
        "--judge_style",
        "direct",
        "--save_every",
        15,
    ]
    sft(*flags, "--max_steps", 30, "--output_dir", tmp_path / "whole")
    rows = rows_of(tmp_path / "whole")
    assert len(rows) == 30 and rows[-1]["loss"] < rows[0]["loss"] / 2
    folder_30 = tmp_path / "whole" / "checkpoint-30"
    assert json.loads((folder_30 / "config.json").read_text())["judge_style"] == "direct"
    transformers.AutoModelForCausalLM.from_pretrained(folder_30)
    # 2N steps equal N, resume, N: take the later half away
    subprocess.run(["cp", "-r", tmp_path / "whole", tmp_path / "half"], check=True)
    subprocess.run(["rm", "-r", tmp_path / "half" / "checkpoint-30"], check=True)
    sft(*flags, "--max_steps", 30, "--output_dir", tmp_path / "half", "--resume")
    assert rows_of(tmp_path / "half") == rows
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    sft(*flags, "--max_steps", 30, "--output_dir", tmp_path / "two", launcher=two)
    assert [row["loss"] for row in rows_of(tmp_path / "two")] == pytest.approx(
        [row["loss"] for row in rows], rel=1e-3
    )


BAD = {
    "no data": ([], "--train_data"),
    "no file": (["--train_data", "none.jsonl"], "none.jsonl"),
    "empty": (["--train_data", "{d}/empty.jsonl"], "empty.jsonl"),
    "half a line": (["--train_data", "{d}/half.jsonl"], "line 2"),
    "no fields": (["--train_data", "{d}/fields.jsonl"], "line 1.*instruction"),
    "no assistant": (["--train_data", "{d}/user.jsonl"], "line 1.*assistant"),
    "numbers for messages": (["--train_data", "{d}/numbers.jsonl"], "line 1.*prompt"),
    "no messages": (["--train_data", "{d}/none.jsonl"], "line 1.*prompt"),
    "half a character": (["--train_data", "{d}/surrogate.jsonl"], "line 1.*completion"),
    "empty prompt": (["--train_data", "{d}/blank.jsonl"], "line 1.*prompt"),
    "decay": (["--train_data", "{d}/half.jsonl", "--weight_decay", "nan"], "--weight_decay"),
    "steps": (["--train_data", "{d}/half.jsonl", "--max_steps", "0"], "--max_steps"),
    "rate": (["--train_data", "{d}/half.jsonl", "--learning_rate", "nan"], "--learning_rate"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, tmp_path):
    row = '{"prompt": "a", "completion": "b"}\n'
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "half.jsonl").write_text(row + row[:9])
    (tmp_path / "fields.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    (tmp_path / "user.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    (tmp_path / "numbers.jsonl").write_text('{"prompt": [1, 2], "completion": "x"}\n')
    (tmp_path / "none.jsonl").write_text('{"prompt": [], "completion": "x"}\n')
    (tmp_path / "surrogate.jsonl").write_text('{"prompt": "a", "completion": "\\ud800"}\n')
    (tmp_path / "blank.jsonl").write_text('{"prompt": "", "completion": ""}\n')
    flags, words = BAD[name]
    done = sft(
        *[flag.format(d=tmp_path) for flag in flags], "--output_dir", tmp_path / "run", check=False
    )
    assert (
        done.returncode == 2
        and len(done.stderr.splitlines()) == 1
        and re.search(words, done.stderr)
    ), done.stderr
    assert not (tmp_path / "run").exists()


def test_a_model_without_an_end_is_refused(monkeypatch):
    tokenizer = SimpleNamespace(eos_token_id=None)
    for stops in ((7, 9), ()):
        monkeypatch.setattr(train_sft, "stop_token_ids", lambda tokenizer, folder, s=stops: s)
        if stops:
            assert train_sft.end_token(tokenizer, "model") == 7
    with pytest.raises(BadInput, match="model: no token ends a text: name one as eos_token"):
        train_sft.end_token(tokenizer, "model")
