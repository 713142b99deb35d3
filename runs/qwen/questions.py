"""Splits the GSM8K training questions into three sets that share no question.

    python runs/qwen/questions.py data/gsm8k/train.jsonl out/qwen

Writes train.jsonl, dev.jsonl and test.jsonl in GSM8K's own format. A question's set is a hash of its
words without its numbers, so two questions that differ in nothing but numbers stay together. `dev` is
for choices (prompt, settings), `test` is judged once the choices are made.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

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
    for line in Path(source).read_text(encoding="utf-8").splitlines():
        sets[set_of(json.loads(line)["question"])].append(line)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, lines in sets.items():
        text = "".join(line + "\n" for line in lines)
        Path(folder, f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{name}: {len(lines)} questions")


if __name__ == "__main__":
    main(*sys.argv[1:])
