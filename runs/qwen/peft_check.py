"""The same greedy verdicts from transformers with peft as from judge.py, on the first pairs of a file.

    python runs/qwen/peft_check.py models/qwen2.5-coder-1.5b ADAPTER PAIRS [NUMBER, default 50] [LENGTH, default 320]

Both get the same prompt ids. One game a pair, the first answer first. bf16 rounds differently in the two,
so that a text may leave the other at a near tie; what is compared is the verdict, and how many texts are equal.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from data import load_pairs  # noqa: E402
from judge import Judge  # noqa: E402
from votes import parse_verdict  # noqa: E402


def main(base, adapter, pairs, number=50, length=320):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    number, length = int(number), int(length)
    chosen = load_pairs(pairs)[:number]
    judge = Judge(base, adapter=adapter, dtype="bfloat16")
    prompts = [judge.encode(pair, [0, 1], length) for pair in chosen]
    drawn = judge.draw(prompts, [(0,)] * len(prompts), 1, length, 0)
    ours = [games[0] for games in drawn]
    style, tokenizer, stops = judge.style, judge.tokenizer, list(judge.stops)
    del judge
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(model, adapter).eval()
    same_verdicts = same_texts = 0
    for pair, prompt, game in zip(chosen, prompts, ours):
        ids = torch.tensor([prompt])
        options = dict(
            attention_mask=torch.ones_like(ids), pad_token_id=stops[0], eos_token_id=stops
        )
        with torch.inference_mode():
            out = model.generate(ids, max_new_tokens=length, do_sample=False, **options)
        tokens = [token for token in out[0, len(prompt) :].tolist() if token not in stops]
        text = tokenizer.decode(tokens, skip_special_tokens=False)
        verdict = parse_verdict(text, style)
        same_verdicts += verdict == game["verdict"]
        same_texts += text == game["text"]
        print(
            f"{pair.id}: {verdict} {game['verdict']} {'same text' * (text == game['text'])}",
            flush=True,
        )
    print(f"{same_verdicts} of {len(chosen)} verdicts and {same_texts} texts are the same")


if __name__ == "__main__":
    main(*sys.argv[1:])
