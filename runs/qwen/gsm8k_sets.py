"""Splits the GSM8K training questions into three sets that share no question.

    python runs/qwen/gsm8k_sets.py data/gsm8k/train.jsonl out/qwen/questions

Writes train.jsonl, dev.jsonl and test.jsonl in GSM8K's own format. The set of a question is a hash
of its words without its numbers, so questions that differ in numbers alone stay together. `dev` is
for choices (prompt, settings). `test` is judged when the choices are made.
"""

import hashlib
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measures import command, read_rows, write_rows  # noqa: E402

SHARES = {"test": 0.15, "dev": 0.05}  # train: the rest


def words_of(question):
    """Lower-case words without numbers: the same for copies of a question with other numbers."""
    return " ".join(re.findall("[a-z]+", question.lower()))


def set_of(question):
    """train, dev or test."""
    digest = hashlib.sha256(f"split:{words_of(question)}".encode()).hexdigest()
    place = int(digest[:12], 16) / 16**12
    for name, share in SHARES.items():
        if place < share:
            return name
        place -= share
    return "train"


def main(source, folder):
    sets = {"train": [], "dev": [], "test": []}
    for row in read_rows(source, ["question"]):
        sets[set_of(row["question"])].append(row)
    for name, rows in sets.items():
        write_rows(Path(folder) / f"{name}.jsonl", rows)
        print(f"{name}: {len(rows)} questions")


if __name__ == "__main__":
    command(main)
