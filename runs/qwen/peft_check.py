"""The same greedy verdicts from transformers with peft as from judge.py.

    python runs/qwen/peft_check.py models/qwen2.5-coder-1.5b ADAPTER PAIRS 50 320 float32

On the first 50 pairs, one game each, of at most 320 tokens. Both get the same prompt ids. bfloat16
is rounded differently in the two, so a text may change at a near tie, and its verdict with it.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from measures import command  # noqa: E402

from data import load_pairs  # noqa: E402
from judge import Judge  # noqa: E402
from sampler import Completion  # noqa: E402

ROWS = 25  # of transformers' batches, padded on the left


def their_games(model, backend, prompts, length):
    """What transformers writes after each prompt, read as judge.py reads its own completions."""
    stops = list(backend.stops)
    options = {"do_sample": False, "pad_token_id": stops[0], "eos_token_id": stops}
    longest = max(map(len, prompts))
    ids = torch.tensor([[stops[0]] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        output = model.generate(ids, attention_mask=mask, max_new_tokens=length, **options)
    games = []
    for prompt, tokens in zip(prompts, output[:, longest:].tolist()):
        ends = [place for place, token in enumerate(tokens) if token in stops]
        if ends:
            completion = Completion(tokens[: ends[0] + 1], [], "stop")
        else:
            completion = Completion(tokens, [], "length")
        games += backend.read(prompt, [completion])
    return games


def main(base, adapter, path, number, length, dtype):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    length = int(length)
    judge = Judge(base, adapter=adapter, dtype=dtype)
    pairs = load_pairs(path)[: int(number)]
    prompts = [judge.encode(pair, [0, 1], length) for pair in pairs]
    ours = judge.backend.generate(prompts, [(0,)] * len(prompts), 1, length, 0)
    judge.backend.model = None  # memory for the other one
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    model = PeftModel.from_pretrained(model, adapter).eval()
    same_verdicts = same_texts = 0
    for start in range(0, len(pairs), ROWS):
        theirs = their_games(model, judge.backend, prompts[start : start + ROWS], length)
        for pair, (own,), game in zip(pairs[start:], ours[start:], theirs):
            same_verdicts += game["verdict"] == own["verdict"]
            same_texts += game["text"] == own["text"]
            print(f"{pair.id}: peft {game['verdict']}, judge.py {own['verdict']}", flush=True)
    print(f"{same_verdicts} of {len(pairs)} verdicts and {same_texts} texts are the same")


if __name__ == "__main__":
    command(main)
