"""The same greedy verdicts from transformers with peft as from judge.py.

    python runs/qwen/peft_check.py models/qwen2.5-coder-1.5b ADAPTER PAIRS 50 320

On the first 50 pairs, one game each, of at most 320 tokens. Both get the same prompt ids. bf16 is
rounded differently in the two, so a text may change at a near tie. Compared are the verdicts.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from data import load_pairs  # noqa: E402
from judge import Judge  # noqa: E402
from sampler import Completion  # noqa: E402


def their_game(model, backend, prompt, length):
    """What transformers writes after a prompt, read as judge.py reads its own completions."""
    stops = list(backend.stops)
    options = {"do_sample": False, "pad_token_id": stops[0], "eos_token_id": stops}
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, **options
        )
    tokens = output[0, len(prompt) :].tolist()
    reason = "stop" if tokens[-1] in stops else "length"
    (game,) = backend.read(prompt, [Completion(tokens, [], reason)])
    return game


def main(base, adapter, path, number, length):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    length = int(length)
    judge = Judge(base, adapter=adapter, dtype="bfloat16")
    pairs = load_pairs(path)[: int(number)]
    prompts = [judge.encode(pair, [0, 1], length) for pair in pairs]
    ours = judge.backend.generate(prompts, [(0,)] * len(prompts), 1, length, 0)
    judge.backend.model = None  # memory for the other one
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(model, adapter).eval()
    same_verdicts = same_texts = 0
    for pair, prompt, (own,) in zip(pairs, prompts, ours):
        theirs = their_game(model, judge.backend, prompt, length)
        same_verdicts += theirs["verdict"] == own["verdict"]
        same_texts += theirs["text"] == own["text"]
        print(f"{pair.id}: peft {theirs['verdict']}, judge.py {own['verdict']}", flush=True)
    print(f"{same_verdicts} of {len(pairs)} verdicts and {same_texts} texts are the same")


if __name__ == "__main__":
    main(*sys.argv[1:])
