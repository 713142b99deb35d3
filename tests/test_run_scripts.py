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
    value = re.search('"(.+)"', question)
    if value and question.startswith("Use the word"):
        return value[1] in words
    if value and question.startswith("Do not use"):
        return value[1] not in words
    if value:
        return words[0] == value[1].lower()
    if number := re.search(r"Use at (most|least) (\d+) words", question):
        return len(words) <= int(number[2]) if number[1] == "most" else len(words) >= int(number[2])
    if question.startswith("End with"):
        return (
            sentence[-1]
            == {"question": "?", "exclamation": "!", "period": "."}[
                re.search("End with an? (?:([a-z]+))", question)[1]
            ]
        )
    if question.startswith("Use only"):
        return sentence == (sentence.upper() if "capital" in question else sentence.lower())
    kind = re.search("Mention an? (animal|food|vehicle|color)", question)[1]
    things = {
        "animal": "dog cat horse rabbit tiger goat sheep monkey duck lion",
        "food": "bread cheese soup rice cake apple pizza salad pie potato",
        "vehicle": "car truck bus train bicycle boat wagon taxi tractor airplane",
        "color": "red blue green yellow purple orange pink brown white black",
    }[kind]
    return bool(set(things.split()) & set(words))


@pytest.mark.parametrize("held_out", [False, True])
def test_a_constraint_holds_of_the_better_answer_alone(held_out):
    rows = constraints.pairs(3, 240, held_out)
    for row in rows:
        question, answers = row["query"], (row["a"], row["b"])
        assert [meets(question, answer) for answer in answers] == [
            row["label"] == 0,
            row["label"] == 1,
        ], row
    lengths = [
        len((row["a"], row["b"])[row["label"]]) - len((row["a"], row["b"])[1 - row["label"]])
        for row in rows
    ]
    assert len(rows) == 240 and sum(length > 0 for length in lengths) == sum(
        length < 0 for length in lengths
    )


def test_training_and_test_constraints_share_no_subject_and_no_word():
    sides = [
        [row["query"] for row in constraints.pairs(0, 400, held_out)] for held_out in (False, True)
    ]
    subjects = [{re.search("about (.+)[.]$", question)[1] for question in side} for side in sides]
    words = [
        {found[1] for question in side if (found := re.search('[Uu]se the word "(.+)"', question))}
        for side in sides
    ]
    assert (
        all(subjects) and all(words) and not subjects[0] & subjects[1] and not words[0] & words[1]
    )


# ---- scripts ----


@pytest.mark.parametrize("path", sorted((ROOT / "runs").rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse(path):
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
