"""What runs/smollm2 and runs/*.sh rest on: labels and splits of the training pairs, the choice of chains, the tables, scripts that parse."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import chat
from cli import BadInput
from data import Pair

ROOT = Path(chat.__file__).parent
sys.path.insert(0, str(ROOT / "runs/smollm2"))  # prepare.py and table.py import their neighbours


def script(name):
    """A program of runs/smollm2 as a module of its own name: runs/reward has a table.py as well."""
    spec = importlib.util.spec_from_file_location(
        f"smollm2_{name}", ROOT / f"runs/smollm2/{name}.py"
    )
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chains, constraints, prepare, table = map(script, ("chains", "constraints", "prepare", "table"))


# ---- training pairs ----


def meets(question, sentence):
    """Whether a sentence keeps the rule of a question, read from the question's text and not from the program that made it."""
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


def test_a_training_question_in_a_test_set_is_refused():
    train = [Pair("t1", [{"role": "user", "content": "What is  6 * 7?"}], ("42", "48"), 0)]
    prepare.check_disjoint(
        train,
        {"gsm8k": [Pair("q1", [{"role": "user", "content": "What is 6 * 8?"}], ("42", "48"), 0)]},
    )
    with pytest.raises(
        BadInput, match="training pair t1 asks the question of q2 in the test set pandalm"
    ):
        prepare.check_disjoint(
            train,
            {
                "pandalm": [
                    Pair("q2", [{"role": "user", "content": "what is 6 * 7?"}], ("1", "2"), 0)
                ]
            },
        )


# ---- chains ----


def record(verdict, text=None):
    text = text or f"Assistant 1 wrote more, Assistant 2 less. \\boxed{{Assistant {verdict}}}"
    return {"verdict": verdict, "text": text, "think_tokens": 12}


def test_the_strictest_rule_that_leaves_enough_is_taken():
    pairs = [Pair(name, [], ("x", "y"), 0) for name in "abc"]
    rows = {
        "a": {"records": [[record(1)] * 4, [record(2)] * 4]},  # right in both orders, four times
        "b": {
            "records": [[record(1), record(2)], [record(1), record(2)]]
        },  # never in both orders of a sample, once in each order
        "c": {"records": [[record(1)] * 4, [record(1)] * 4]},
    }  # always the first place
    left, taken, kept = chains.choose(pairs, rows, "boxed", 1, 2)
    assert list(left.values()) == [1, 1, 1, 2] and taken == "right in both orders in 3 samples"
    assert [(pair.id, order, place) for pair, order, place, _ in kept] == [("a", [0, 1], 1)] * 2 + [
        ("a", [1, 0], 2)
    ] * 2
    left, taken, kept = chains.choose(pairs, rows, "boxed", 2, 2)
    assert taken == "right in some sample of each order" and [
        (pair.id, place) for pair, _, place, _ in kept
    ] == [
        ("a", 1),
        ("a", 1),
        ("a", 2),
        ("a", 2),
        ("b", 1),
        ("b", 2),
    ]  # of each pair as many of one order as of the other


def test_what_is_no_chain():
    assert chains.is_chain(record(1), "boxed")
    for text in (
        "\\boxed{Assistant 1}",
        "Assistant 1 is right. \\boxed{Assistant 1}",
        "Assistant 1, Assistant 2. \\boxed{Assistant 1} And more.",
    ):
        assert not chains.is_chain(record(1, text), "boxed")
    assert not chains.is_chain(record(1) | {"think_tokens": 7}, "boxed") and not chains.is_chain(
        record(1) | {"verdict": None}, "boxed"
    )


def test_labels_are_written_for_both_orders(tmp_path):
    rows = [
        {"id": "p", "query": "Which is red?", "a": "grass", "b": "blood", "label": 1},
        {"id": "q", "query": "Which is wet?", "a": "rain", "b": "sand", "label": 0},
    ]
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "labels.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chains.main(["labels", "--data", str(pairs), "--out", str(out)])
    made = [json.loads(line)["messages"] for line in out.read_text().splitlines()]
    assert len(made) == 4 and [answer["content"] for _, answer in made] == [
        f"\\boxed{{Assistant {place}}}" for place in (2, 1, 1, 2)
    ]
    for (asked, answer), better in zip(
        made, ("blood", "blood", "rain", "rain")
    ):  # the named place is where the better answer stands
        assert f"Assistant {answer['content'][-2]}: {better}" in asked["content"]


# ---- tables ----


def test_the_check_that_a_chain_makes_itself():
    assert (
        table.own_check(
            'Assistant 1 wrote "a": no. Assistant 2 wrote "b: c": yes. \\boxed{Assistant 1}'
        )
        == 2
    )
    assert table.own_check('Assistant 1 wrote\n"a": yes.\nAssistant 2 wrote "b": no.') == 1
    for text in (
        'Assistant 1 wrote "a": yes. Assistant 2 wrote "b": yes.',
        'Assistant 1 wrote "a": no. Assistant 2 wrote "b": no.',
        'Assistant 1 wrote "a": yes.',
        "Assistant 2 is better.",
    ):
        assert table.own_check(text) is None


def test_the_judge_that_sees_words_alone_learns_from_the_training_pairs(tmp_path):
    pytest.importorskip("sklearn")

    def write(path, count, better):
        rows = [
            {
                "id": f"{better}{n}",
                "query": f"{better} {n}?",
                "a": f"{better} {n}",
                "b": f"perhaps {n}",
                "label": 0,
            }
            for n in range(count)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [
            {
                "id": row["id"],
                "question": row["query"],
                "scores": [1.0, 0.0],
                "matches": [{"pair": pair, "games": []}],
            }
            for row, pair in zip(rows, [[0, 1], [1, 0]] * count)
        ]

    write(tmp_path / "data/train.jsonl", 20, "sure")
    rows = {
        "constraints": write(tmp_path / "data/eval/constraints.jsonl", 6, "sure"),
        "pandalm": write(tmp_path / "data/eval/pandalm.jsonl", 6, ""),
    }
    results = {
        "format": {name: {"results": {"benchmark": "pairs"}, "rows": rows[name]} for name in rows}
    }
    assert table.blind_accuracy(results, tmp_path) == {
        "constraints": 1.0,
        "pandalm": 1.0,
    }  # "perhaps" was always the worse one
    results["format"]["pandalm"]["rows"] = [row | {"scores": [0.0, 1.0]} for row in rows["pandalm"]]
    assert table.blind_accuracy(results, tmp_path)["pandalm"] == 0.0


# ---- scripts ----


@pytest.mark.parametrize("path", sorted((ROOT / "runs").rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse(path):
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stage_that_is_not_there_shows_the_stages(tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "OUT": str(tmp_path / "out")}
    done = subprocess.run(
        ["bash", ROOT / "runs/smollm2/chain.sh", "fly"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 2 and "chain.sh think 0" in done.stdout
    done = subprocess.run(
        ["bash", ROOT / "runs/r1_distill.sh", "7b", "1"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "two GPUs" in done.stderr
