"""A trained judge in transformers: python runs/smollm2/same_verdicts.py MODEL [PAIRS_FOLDER] [MAX_COMPLETION_LENGTH]

100 prompts (both orders of ten pairs of each of five test sets), answered greedily in fp32 by our sampler and, one at a time, by
transformers' generate on the prompt that its own chat template makes. Prints how many prompts, texts and verdicts are the same; exit code 1
if a verdict differs.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from data import Pair  # noqa: E402
from extras.benchmarks import load  # noqa: E402
from judge import Judge
from styles import judge_messages  # noqa: E402
from verdicts import parse_verdict  # noqa: E402

SETS = {
    "constraints": "pairs",
    "gsm8k": "gsm8k_solutions",
    "pandalm": "pandalm",
    "llmbar/Natural": "llmbar",
    "rmb": "rmb",
}


def first_pairs(folder, count=10):
    """The best and the worst answer of the first items of each set."""
    for name, benchmark in SETS.items():
        for item in load(benchmark, str(folder / f"{name}.jsonl"))[:count]:
            best, worst = (item.scores.index(end(item.scores)) for end in (max, min))
            yield Pair(
                f"{name}:{item.id}", item.messages, (item.answers[best], item.answers[worst])
            )


@torch.no_grad()
def main(folder, pairs_folder="out/smollm2/data/eval", max_completion_length=96):
    judge, length = Judge(folder, dtype="float32"), int(max_completion_length)
    pairs = list(first_pairs(Path(pairs_folder)))
    ours = judge.judge(pairs, temperature=0, max_completion_length=length)
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
    )
    prompts = texts = verdicts = without = total = 0
    for pair, judgment in zip(pairs, ours):
        for game in judgment.games:
            messages = judge_messages(
                judge.style, pair.messages, *(pair.answers[index] for index in game["order"])
            )
            prompt = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )["input_ids"]
            answer = model.generate(prompt, do_sample=False, max_new_tokens=length)[
                0, prompt.shape[1] :
            ]
            text = tokenizer.decode(answer, skip_special_tokens=True)
            verdict = parse_verdict(text, judge.style)
            total += 1
            prompts += prompt[0].tolist() == judge.encode(pair, game["order"], length)
            texts += text.strip() == game["text"].strip()
            verdicts += verdict == game["verdict"]
            without += verdict is None
    print(
        f"{total} prompts: {prompts} tokenised alike, {texts} texts the same, {verdicts} verdicts the same ({without} without one)"
    )
    return verdicts != total


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
