"""Pairs about constraints that a program checks, and scripts of runs/ that parse."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "runs/smollm2"))

import constraints  # noqa: E402

# ---- training pairs ----


def meets(question, sentence):
    """Whether a sentence keeps the rule of a question, read from the question's text alone."""
    words = re.findall("[a-z]+", sentence.lower())
    if value := re.search('"(.+)"', question):
        return (value[1] in words) == question.startswith("Use the word")
    if number := re.search(r"Use at (most|least) (\d+) words", question):
        return len(words) <= int(number[2]) if number[1] == "most" else len(words) >= int(number[2])
    mark = re.search("End with an? ([a-z]+)", question)[1]
    return sentence[-1] == {"question": "?", "exclamation": "!", "period": "."}[mark]


@pytest.mark.parametrize("held_out", [False, True])
def test_a_constraint_holds_of_the_better_answer_alone(held_out):
    rows = constraints.pairs(3, 240, held_out)
    longer = 0
    for row in rows:
        better, worse = row["ab"[row["label"]]], row["ab"[1 - row["label"]]]
        assert meets(row["query"], better) and not meets(row["query"], worse), row
        longer += (len(better) > len(worse)) - (len(better) < len(worse))
    assert len(rows) == 240 and longer == 0  # the longer answer is better in half of the pairs


def queries_of(held_out):
    return [row["query"] for row in constraints.pairs(0, 400, held_out)]


def test_training_and_test_constraints_share_no_subject_and_no_word():
    sides = queries_of(False), queries_of(True)
    for pattern in ("about (.+)[.]$", '[Uu]se the word "(.+)"'):
        train, test = (
            {found[1] for query in side if (found := re.search(pattern, query))} for side in sides
        )
        assert train and test and not train & test


# ---- scripts ----


@pytest.mark.parametrize("path", sorted((ROOT / "runs").rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse(path):
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
