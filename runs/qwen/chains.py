"""Right judgments as data for supervised training: the format stage of a small judge, and the control.

    python runs/qwen/chains.py OUT out/qwen/run-0/rollouts/1.jsonl out/qwen/run-0/rollouts/2.jsonl ...

Reads what train_grpo.py wrote about its steps and keeps each completion that ended by itself with the
right verdict: of every prompt at most `PER_PROMPT`, the shortest ones, and as many with verdict 1 as with
verdict 2. Writes {"messages": [...]} lines for train_sft.py.
"""

import hashlib
import json
import sys
from collections import defaultdict
from pathlib import Path

PER_PROMPT = 2


def right_chains(rows):
    """{verdict: [messages of a prompt with a right judgment behind it, ...]}."""
    found = defaultdict(list)
    for row in rows:
        right = [one for one in row["completions"] if one["verdict"] == row["right_verdict"]]
        ended = [one for one in right if one["finish_reason"] == "stop"]
        for one in sorted(ended, key=lambda one: one["tokens"])[:PER_PROMPT]:
            judgment = {"role": "assistant", "content": one["text"].strip()}
            found[row["right_verdict"]].append([*row["prompt"], judgment])
    return found


def balanced(found):
    """As many chains of either verdict, in an order that a hash decides."""
    number = min(len(found[1]), len(found[2]))
    chosen = found[1][:number] + found[2][:number]
    return sorted(chosen, key=lambda chain: hashlib.sha256(chain[-1]["content"].encode()).digest())


def main(out, *files):
    rows = [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]
    found = right_chains(rows)
    chains = balanced(found)
    lines = [json.dumps({"messages": chain}, ensure_ascii=False) + "\n" for chain in chains]
    Path(out).write_text("".join(lines), encoding="utf-8")
    total = sum(len(row["completions"]) for row in rows)
    print(
        f"{len(chains)} chains of {total} completions; right ones by verdict: {len(found[1])}, {len(found[2])}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
