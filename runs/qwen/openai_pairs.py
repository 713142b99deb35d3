"""Pairs of OpenAI's solutions of GSM8K's test questions, made by four models of 2021.

    python runs/qwen/openai_pairs.py data/gsm8k/model_solutions.jsonl OUT QUESTIONS

Writes one pair for each of QUESTIONS questions: a right and a wrong solution. Neither the length of
a solution nor the model that wrote it predicts which one is right.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measures import command, read_rows  # noqa: E402

from extras.mixture import as_json, choose_pairs  # noqa: E402

GENERATORS = "6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"
CALCULATION = re.compile(r"<<.*?>>")  # notes of the authors' calculator, as in <<3*4=12>>


def row_of(number, row):
    """A row as `extras.make_data sample` writes it."""
    return {
        "id": f"test-{number}",
        "messages": [{"role": "user", "content": row["question"]}],
        "source": "gsm8k_test",
        "candidates": [CALCULATION.sub("", row[name]["solution"]) for name in GENERATORS],
        "status": ["right" if row[name]["is_correct"] else "wrong" for name in GENERATORS],
        "generators": list(GENERATORS),
    }


def main(source, out, limit):
    rows = read_rows(source, ["question", *GENERATORS])
    pairs, counts = choose_pairs([row_of(*entry) for entry in enumerate(rows)])
    pairs = pairs[: int(limit)]  # in the order of a hash
    Path(out).write_text("\n".join(map(as_json, pairs)) + "\n", encoding="utf-8")
    print(f"{len(pairs)} pairs of {counts}")


if __name__ == "__main__":
    command(main)
