"""Right judgments as data for supervised training: the format of a small judge, and the control.

    python runs/qwen/chains.py OUT out/qwen/run-0/rollouts/1.jsonl ...

Reads the rollouts of train_grpo.py and keeps completions that ended by themselves with the right
verdict: the PER_PROMPT shortest ones of each prompt, and as many with verdict 1 as with verdict 2.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measures import read_rows, write_rows  # noqa: E402

from seeding import uniform  # noqa: E402

PER_PROMPT = 2


def right_chains(groups):
    """{verdict: [messages of a prompt and a right judgment, ...]}"""
    chains = {1: [], 2: []}
    for group in groups:
        verdict, right = group["right_verdict"], []
        for completion in group["completions"]:
            if completion["verdict"] == verdict and completion["finish_reason"] == "stop":
                right.append(completion)
        right.sort(key=lambda completion: completion["tokens"])
        for completion in right[:PER_PROMPT]:
            judgment = {"role": "assistant", "content": completion["text"].strip()}
            chains[verdict].append([*group["prompt"], judgment])
    return chains


def balanced(chains):
    """As many chains of either verdict, in an order that a hash decides."""
    number = min(map(len, chains.values()))
    chosen = chains[1][:number] + chains[2][:number]
    return sorted(chosen, key=lambda chain: uniform(f"chain:{chain[-1]['content']}"))


def main(out, *files):
    chains = right_chains(group for file in files for group in read_rows(file))
    chosen = balanced(chains)
    write_rows(out, [{"messages": chain} for chain in chosen])
    print(f"{len(chosen)} chains; right ones by verdict: {len(chains[1])}, {len(chains[2])}")


if __name__ == "__main__":
    main(*sys.argv[1:])
