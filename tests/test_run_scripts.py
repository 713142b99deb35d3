"""Pairs about constraints that a program checks, and scripts of runs/ that parse."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "runs/smollm2"))

from rubric_chains import labelled_pairs, rule_siblings  # noqa: E402

# ---- training pairs ----


def rows_of(held_out):
    return labelled_pairs("test", 400, held_out, rule_siblings)


def meets(question, sentence):
    """Whether a sentence keeps the rule of a question, read from the question's text alone."""
    value = re.search('"(.+)"', question)[1]
    words = re.findall("[a-z]+", sentence.lower())
    return (value in words) == question.startswith("Use the word")


@pytest.mark.parametrize("held_out", [False, True])
def test_a_rule_holds_of_the_better_answer_alone(held_out):
    rows = rows_of(held_out)
    longer = 0
    for row in rows:
        better, worse = row["ab"[row["label"]]], row["ab"[1 - row["label"]]]
        assert meets(row["query"], better) and not meets(row["query"], worse), row
        longer += (len(better) > len(worse)) - (len(better) < len(worse))
    assert len(rows) == 400 and longer == 0  # the longer answer is better in half of the pairs


def test_training_and_test_rules_share_no_subject_and_no_word():
    queries = [[row["query"] for row in rows_of(held_out)] for held_out in (False, True)]
    for pattern in ("about a (.+)[.]$", '[Uu]se the word "(.+)"'):
        train, test = (
            {found[1] for query in side if (found := re.search(pattern, query))} for side in queries
        )
        assert train and test and not train & test


# ---- scripts ----


@pytest.mark.parametrize("path", sorted((ROOT / "runs").rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse(path):
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
