"""extras/train_dpo.py: the loss by hand and against separate unpacked sequences.

Also labels of a judge, the command with resume, and bad input.
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
from tiny_models import make_model_folder, make_tokenizer

from cli import BadInput
from data import Pair, load_pairs
from distributed import Policy, Runtime
from extras.train_dpo import Settings, add_judgments, dpo_terms, encode_pair, packs_of, train_step
from kernels.packed_attention import packed_attention
from model import Model, pack_groups
from seeding import stable_hash

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
ALONE = Runtime(0, 1, torch.device("cpu"), torch.float32)
ROWS = [
    ([5, 6, 7], [[8, 9], [10]], "pair 1"),
    ([11], [[12], [13, 14, 15, 16]], "pair 2"),
    ([20, 21], [[22], [23]], "pair 3"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("model") / "m", "llama", initializer_range=0.2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {
            "id": f"p{n}",
            "query": f"say {n}",
            "a": "yes" * (n % 3 + 1),
            "b": "no, never",
            "label": n % 2,
        }
        for n in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_loss_and_rewards_by_hand():
    losses, chosen, rejected = dpo_terms(
        torch.tensor([-1.0, -3.0, -2.0, -2.0]), torch.tensor([-2.0, -1.0, -2.0, -2.0]), 0.5
    )
    assert chosen.tolist() == [0.5, 0.0] and rejected.tolist() == [-1.0, 0.0]
    torch.testing.assert_close(losses, torch.tensor([math.log(1 + math.exp(-1.5)), math.log(2)]))


def textbook(model, prompt, completion):
    """The log-prob of one completion from all logits of one unpacked sequence."""
    pack = pack_groups([(prompt + completion, [])])
    logits = model(pack.tokens, pack.positions, packed_attention(pack)) @ model.head_weight.T
    return (
        logits[len(prompt) - 1 : -1]
        .log_softmax(-1)
        .gather(1, torch.tensor(completion)[:, None])
        .sum()
    )


@pytest.mark.parametrize("budget", [10_000, 9, 1])
def test_a_step_is_that_of_separate_sequences(folder, budget):
    policy, reference = (
        Policy(folder, ALONE),
        Model.from_pretrained(folder, dtype=torch.float32).requires_grad_(False),
    )
    with torch.no_grad():  # away from the start, where every loss is log 2
        for master in policy.masters.values():
            master.mul_(1.1)
    plain = Model.from_pretrained(folder, dtype=torch.float32)
    plain.load_state_dict(
        {name: master.detach().clone() for name, master in policy.masters.items()}
    )
    ratios = [
        [
            textbook(plain, prompt, answer) - textbook(reference, prompt, answer)
            for answer in answers
        ]
        for prompt, answers, _ in ROWS
    ]
    expected = torch.stack(
        [-torch.log(1 / (1 + torch.exp(-0.3 * (chosen - rejected)))) for chosen, rejected in ratios]
    ).mean()
    expected.backward()
    gradients, optimizer = {}, torch.optim.AdamW(policy.masters.values())
    optimizer.step = lambda: gradients.update(
        {name: master.grad.clone() for name, master in policy.masters.items()}
    )
    row = train_step(
        policy,
        reference,
        optimizer,
        ROWS,
        Settings(beta=0.3, micro_batch_tokens=budget, max_grad_norm=1e9),
    )
    assert (
        row["loss"] == pytest.approx(expected.item(), rel=1e-5)
        and abs(row["loss"] - math.log(2)) > 1e-3
    )
    assert (
        row["rewards/accuracies"] == sum(bool(chosen > rejected) for chosen, rejected in ratios) / 3
    )
    assert row["rewards/chosen"] == pytest.approx(
        0.3 * sum(chosen.item() for chosen, _ in ratios) / 3, rel=1e-4
    )
    assert row["rewards/margins"] == pytest.approx(row["rewards/chosen"] - row["rewards/rejected"])
    assert row["num_tokens"] == 6 + 10  # prompts once, whichever way they are packed
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-4, atol=1e-6)


def test_packs_hold_every_pair_once_within_the_budget():
    rows = [([1] * size, [[2] * (size % 4 + 1), [3]], f"pair {size}") for size in range(1, 30)]
    for budget in (1, 40, 1000):
        packs = list(packs_of(rows, budget))
        assert sorted(row for pack in packs for row in pack) == sorted(rows)
        assert all(
            len(pack) == 1 or sum(len(p) + len(c) + len(r) for p, (c, r), _ in pack) <= budget
            for pack in packs
        )


def test_the_better_answer_is_chosen():
    tokenizer = make_tokenizer()
    pair = Pair("p", [{"role": "user", "content": "hi"}], ("worse", "better"), 1)
    prompt, (chosen, rejected), place = encode_pair(pair, tokenizer, tokenizer.eos_token_id)
    assert (tokenizer.decode(chosen), tokenizer.decode(rejected)) == (
        "better<|im_end|>",
        "worse<|im_end|>",
    ) and "hi" in tokenizer.decode(prompt)
    assert place == "pair p"


def judgment(pair, winner, consistent=True):
    return {
        "id": pair.id,
        "pair": f"{stable_hash(pair.messages, pair.answers):016x}",
        "winner": winner,
        "consistent": consistent,
    }


def test_a_judge_labels_the_pairs(data, tmp_path):
    path = tmp_path / "judged.jsonl"
    winners = ["a", "b", None, "b"] * 3
    rows = [
        judgment(pair, winner, consistent=number != 1)
        for number, (pair, winner) in enumerate(zip(load_pairs(data), winners))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    pairs = load_pairs(data)
    add_judgments(pairs, path)
    assert [pair.label for pair in pairs] == [0, 1, None, 1] * 3
    add_judgments(pairs, path, consistent_only=True)
    assert [pair.label for pair in pairs] == [0, None, None, 1] + [0, 1, None, 1] * 2
    pairs[3].answers = ("other", "answers")
    with pytest.raises(BadInput, match="line 9 judges another pair p3"):
        add_judgments(pairs, path)
    with pytest.raises(BadInput, match="no judgment of 1 pairs, the first is new"):
        add_judgments([Pair("new", [], ("a", "b"))], path)
    path.write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[0]) + "\n")
    with pytest.raises(BadInput, match="line 2: id .* stands already at line 1"):
        add_judgments(pairs, path)


def dpo(*arguments, launcher=(), check=True):
    command = [sys.executable, "-m", *launcher, "extras.train_dpo", *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    if check and done.returncode:
        pytest.fail(done.stderr[-3000:])
    return done


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "time" not in key} for row in rows]


def test_the_command_learns_resumes_and_runs_on_two_processes(folder, data, tmp_path):
    flags = [
        "--model",
        folder,
        "--train_data",
        data,
        "--batch_size",
        5,
        "--learning_rate",
        "1e-3",
        "--dtype",
        "float32",
        "--save_every",
        6,
        "--max_steps",
        12,
    ]
    dpo(*flags, "--output_dir", tmp_path / "whole")
    rows = metrics(tmp_path / "whole")
    assert (
        len(rows) == 12
        and rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
        and rows[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    )
    assert rows[-1]["loss"] < 0.55 and rows[-1]["rewards/margins"] > 0.3
    subprocess.run(["cp", "-r", tmp_path / "whole", tmp_path / "half"], check=True)
    subprocess.run(["rm", "-r", tmp_path / "half" / "checkpoint-12"], check=True)
    dpo(*flags, "--output_dir", tmp_path / "half", "--resume")
    assert (
        metrics(tmp_path / "half") == rows
    )  # to the last digit; the reference is still the starting model
    two = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")
    dpo(*flags[:-1], 3, "--output_dir", tmp_path / "two", launcher=two)
    for row, other in zip(metrics(tmp_path / "two"), rows):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)


BAD = {
    "no data": ([], "--train_data"),
    "no labels": (["--train_data", "{d}/unlabelled.jsonl"], "unlabelled.jsonl.*judgments"),
    "judgments of others": (
        ["--train_data", "{d}/unlabelled.jsonl", "--judgments", "{d}/other.jsonl"],
        "other.jsonl has no judgment of 1 pairs",
    ),
    "beta": (["--train_data", "{d}/unlabelled.jsonl", "--beta", "0"], "--beta"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, tmp_path):
    (tmp_path / "unlabelled.jsonl").write_text('{"query": "q", "a": "x", "b": "y"}\n')
    (tmp_path / "other.jsonl").write_text(
        '{"id": "else", "pair": "0", "winner": "a", "consistent": true}\n'
    )
    flags, words = BAD[name]
    done = dpo(
        *[flag.format(d=tmp_path) for flag in flags], "--output_dir", tmp_path / "run", check=False
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("data:")]
    assert done.returncode == 2 and len(lines) == 1 and re.search(words, lines[0]), done.stderr
    assert not (tmp_path / "run").exists()
