"""A scalar reward model: one number an answer, trained on pairs with the Bradley-Terry loss.

    python -m extras.train_scalar --train_data pairs.jsonl --output_dir out/scalar
    python -m extras.train_scalar --model MODEL --train_data pairs.jsonl --output_dir out/scalar

The chosen answer should get the higher score: loss = -log sigmoid(score_chosen - score_rejected).
The folder that it writes loads with transformers' AutoModelForSequenceClassification, and
`ScalarJudge(folder).play(query, candidates)` ranks answers in elo.py and tournament.py.
"""

import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import cli
from chat import encode_chat, load_tokenizer
from checkpoint import check_model_folder, resolve_model, save_model_folder
from cli import BadInput, note, setting
from data import load_pairs
from extras.results import check_writable
from model import Config, Model, pack_groups, packed_attention


@dataclass
class Settings:
    model: str = setting("tiny-base", "Hugging Face folder or hub name of a causal language model")
    train_data: Optional[str] = setting(None, "preference pairs: a file, a folder or a hub name")
    output_dir: Optional[str] = setting(None, "folder of the scalar model")
    max_steps: int = setting(100, "optimizer steps")
    batch_size: int = setting(32, "pairs a step")
    learning_rate: float = setting(1e-4, "of AdamW, constant")
    seed: int = setting(0, "decides the order of the pairs")


class ScalarModel(nn.Module):
    """The decoder without its output layer, and a linear head with one output."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.score = nn.Linear(model.config.hidden_size, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, sequences):
        """Lists of token ids -> scores (sequences,), read from each sequence's last token."""
        pack = pack_groups([(tokens, []) for tokens in sequences], self.model.device)
        hidden = self.model(pack.tokens, pack.positions, packed_attention(pack))
        last = [end - 1 for end in itertools.accumulate(length for length, _ in pack.pieces)]
        return self.score(hidden[last])[:, 0]  # (tokens, hidden_size) -> (sequences,)

    def save_pretrained(self, folder, tokenizer):
        """Writes a folder for AutoModelForSequenceClassification."""
        weights = self.model.state_dict()
        weights.pop("lm_head.weight", None)  # the scalar head takes its place
        raw = self.model.config.raw
        architecture = raw["architectures"][0].replace("CausalLM", "SequenceClassification")
        changes = {"architectures": [architecture], "num_labels": 1, "id2label": {"0": "score"}}
        changes |= {"label2id": {"score": 0}, "pad_token_id": tokenizer.pad_token_id}
        save_model_folder(folder, weights | {"score.weight": self.score.weight}, raw | changes)
        tokenizer.save_pretrained(folder)


class ScalarJudge:
    """Ranks answers by their scores: `knockout(len(answers), judge.play(query, answers))`."""

    def __init__(self, folder):
        self.tokenizer = load_tokenizer(folder)
        raw = json.loads((Path(folder) / "config.json").read_text())
        self.scalar = ScalarModel(Model(Config(raw)))
        weights = load_file(Path(folder) / "model.safetensors")
        missing, _ = self.scalar.load_state_dict(weights, strict=False)
        if set(missing) - {"model.lm_head.weight"}:
            raise BadInput(f"{folder}: tensor {missing[0]} is missing: it is no scalar model")

    @torch.no_grad()
    def scores(self, query, candidates):
        messages = [{"role": "user", "content": query}]
        return self.scalar([encode_answer(self.tokenizer, messages, text) for text in candidates])

    def play(self, query, candidates):
        scores = self.scores(query, candidates)

        def play_matches(pairs):
            return [torch.sigmoid(scores[i] - scores[j]).item() for i, j in pairs]

        return play_matches


def encode_answer(tokenizer, messages, answer):
    """Token ids of a chat that ends with the answer, without padding tokens at its end.

    transformers reads the score from the last token that is no padding token, and some templates
    end a turn with that token.
    """
    turns = [*messages, {"role": "assistant", "content": answer}]
    tokens = encode_chat(tokenizer, turns, add_generation_prompt=False)
    while tokens[-1] == tokenizer.pad_token_id:
        tokens.pop()
    return tokens


def prepare(settings):
    """(model folder, labelled pairs). Raises BadInput for what would fail after the training."""
    if not settings.train_data or not settings.output_dir:
        raise BadInput("--train_data and --output_dir are needed: give both")
    for name in ("max_steps", "batch_size"):
        if getattr(settings, name) < 1:
            raise BadInput(f"--{name}: must be at least 1, got {getattr(settings, name)}")
    if not 0 < settings.learning_rate < float("inf"):
        raise BadInput(f"--learning_rate: must be above 0, got {settings.learning_rate}")
    check_writable(settings.output_dir)
    if Path(settings.output_dir).exists() and any(Path(settings.output_dir).iterdir()):
        raise BadInput(f"--output_dir: {settings.output_dir} is not empty: give another folder")
    folder = resolve_model(settings.model)
    check_model_folder(folder)
    pairs = [pair for pair in load_pairs(settings.train_data) if pair.label in (0, 1)]
    if not pairs:
        raise BadInput(
            f"--train_data: {settings.train_data}: no pair has a better answer: label the pairs"
        )
    return folder, pairs


def train(settings):
    folder, pairs = prepare(settings)
    tokenizer = load_tokenizer(folder)
    torch.manual_seed(settings.seed)
    model = Model.from_pretrained(folder, dtype=torch.float32)
    if model.adapter:
        raise BadInput(f"--model: {folder} is a LoRA adapter: merge it into its base model first")
    scalar = ScalarModel(model)
    optimizer = torch.optim.AdamW(scalar.parameters(), settings.learning_rate, weight_decay=0.0)
    rng = random.Random(settings.seed)
    for step in range(1, settings.max_steps + 1):
        batch = rng.sample(pairs, min(settings.batch_size, len(pairs)))
        sequences = []
        for pair in batch:
            for index in (pair.label, 1 - pair.label):  # the better answer first
                sequences.append(encode_answer(tokenizer, pair.messages, pair.answers[index]))
        chosen, rejected = scalar(sequences).view(-1, 2).T  # (pairs,) each
        loss = -F.logsigmoid(chosen - rejected).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(scalar.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        accuracy = (chosen > rejected).float().mean().item()
        note(f"step {step}  loss {loss.item():.4f}  accuracy {accuracy:.3f}")
    scalar.save_pretrained(settings.output_dir, tokenizer)
    print(settings.output_dir)


def main(argv=None):
    train(cli.parse_settings(Settings, argv, description=__doc__))


if __name__ == "__main__":
    cli.run(main)
