"""The scalar reward model: trained on pairs, loaded by transformers, ranking through play."""

import json
import math
from pathlib import Path

import pytest
import torch
import transformers

from elo import elo, run_schedule
from extras import train_scalar
from extras.train_scalar import ScalarJudge, encode_answer
from tournament import knockout

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that learns a rule without a question: the answer "yes" is better than "no"."""
    base = tmp_path_factory.mktemp("scalar")
    rows = [
        {"query": f"{n}+{n}", "a": str(n % 3), "b": str(n % 3 + 5), "label": 0} for n in range(60)
    ]
    (base / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--train_data", base / "pairs.jsonl", "--output_dir", base / "model"]
    arguments += ["--max_steps", 12, "--learning_rate", 1e-3]
    train_scalar.main(list(map(str, arguments)))
    return base / "model"


def test_it_learns_and_ranks_through_play(folder):
    judge, answers = ScalarJudge(folder), ["7", "1", "6"]
    scores = judge.scores("8+8", answers).tolist()
    assert max(scores) == scores[1]
    play = judge.play("8+8", answers)
    assert play([(1, 0)])[0] == pytest.approx(1 / (1 + math.exp(scores[0] - scores[1])), abs=1e-6)
    assert knockout(3, play).winner == 1
    ratings = elo(run_schedule(3, play), 3)
    assert ratings.index(max(ratings)) == 1


def test_transformers_loads_it_with_the_same_scores(folder):
    judge = ScalarJudge(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32
    )
    assert model.config.num_labels == 1
    scores = judge.scores("8+8", ["1", "6 6"]).tolist()
    for answer, score in zip(["1", "6 6"], scores):
        messages = [{"role": "user", "content": "8+8"}]
        tokens = encode_answer(judge.tokenizer, messages, answer)
        with torch.no_grad():
            assert model(torch.tensor([tokens])).logits.item() == pytest.approx(score, abs=1e-4)


BAD = {
    "--output_dir {d}/new": "--train_data and --output_dir",
    "--train_data {d}/pairs --output_dir {d}/pairs.jsonl/x": "pairs.jsonl cannot hold results",
    "--train_data {d}/pairs --output_dir {d}/pairs.jsonl": "pairs.jsonl cannot hold results",
    "--train_data {d}/pairs --output_dir {d}": "is not empty",
    "--train_data {d}/unlabelled.jsonl --output_dir {d}/new": "no pair has a better answer",
    "--train_data {d}/pairs.jsonl --output_dir {d}/new --batch_size 0": "--batch_size: must be",
    "--train_data {d}/pairs.jsonl --output_dir {d}/new --max_steps 0": "--max_steps: must be",
    "--train_data {d}/pairs.jsonl --output_dir {d}/new --learning_rate -1": "--learning_rate: must",
    "--train_data {d}/pairs.jsonl --output_dir {d}/new --learning_rate nan": "--learning_rate: mus",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_line_before_the_training(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(train_scalar, "ScalarModel", None)  # none of these comes so far
    row = {"query": "q", "a": "x", "b": "y"}
    (tmp_path / "unlabelled.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row | {"label": 0}) + "\n")
    with pytest.raises(train_scalar.BadInput, match=BAD[arguments]):
        train_scalar.main(arguments.format(d=tmp_path).split())
