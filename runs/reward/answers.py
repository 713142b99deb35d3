"""A policy's own answers to questions, sampled at temperature 1."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from chat import decode_completion, encode_chat, load_tokenizer, stop_token_ids  # noqa: E402
from checkpoint import resolve_model  # noqa: E402
from model import Model  # noqa: E402
from sampler import generate  # noqa: E402
from seeding import stable_hash  # noqa: E402


def sample(folder, questions, num_generations, seed=0):
    """Completions [question][generation] as texts of at most 64 tokens."""
    folder = resolve_model(folder)
    tokenizer, model = load_tokenizer(folder), Model.from_pretrained(folder, "cpu", torch.float32)
    stops = stop_token_ids(tokenizer, folder)
    chats = [[{"role": "user", "content": question}] for question in questions]
    drawn = generate(
        model,
        [encode_chat(tokenizer, chat) for chat in chats],
        num_generations,
        max_new_tokens=64,
        stop_token_ids=stops,
        seed=[stable_hash(seed, question) % 2**63 for question in questions],
    )
    return [
        [decode_completion(tokenizer, completion.tokens, stops) for completion in group]
        for group in drawn
    ]
