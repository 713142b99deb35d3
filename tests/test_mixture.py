"""extras.mixture by hand: repeated and contaminated pairs, pairs made, mixed and described."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from data import Pair
from extras import mixture

DATA = Path(mixture.__file__).parent.parent.parent / "shared" / "data"


def pair(name="p", question="q", answers=("good", "bad"), label=0, **more):
    return Pair(name, [{"role": "user", "content": question}], answers, label, **more)


# ---- cleaning ----


def test_deduplication():
    given = [
        pair("1"),
        pair("2", answers=("good ", " bad")),
        pair("3", answers=("bad", "good"), label=1),
        pair("4", question=" Q "),
        pair("5", question="r"),
        pair("6", "s"),
        pair("7", "s", ("bad", "good"), 0),
        pair("8", "t", ("a + b", "a - b")),
        pair("9", "t", ("x", "x ")),
        pair("10", "u", label=None),
    ]
    kept, counts = mixture.deduplicate(
        given
    )  # 6 and 7: the same two answers, each called the better one once; 4: asked in another case
    assert [item.id for item in kept] == ["1", "5", "8", "10"] and counts == {
        "repeated": 3,
        "contradictory": 2,
        "identical answers": 1,
    }


LONG = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in "
    "May. How many clips did she sell altogether?"
)
SHORT = "What is 6 * 7?"


@pytest.mark.parametrize(
    "text, found",
    [
        (LONG, True),
        (LONG.upper().replace(",", " ;"), True),
        (f"Solve this: {LONG} Think step by step.", True),
        (" ".join(LONG.split()[:16]), True),
        (" ".join(LONG.split()[12:]), True),
        (LONG.replace("clips", "pens").replace("48", "50").replace("half", "twice"), False),
        ("How many clips did she sell altogether in the end?", False),
        (SHORT, True),
        ("what is 6 7", True),
        (f"Well, {SHORT}", False),
        ("", False),
        ("!?", False),
    ],
)
def test_contamination(text, found):
    assert mixture.contaminated([text], mixture.index_ngrams([LONG, SHORT, "", "..."])) == found


# ---- pairs from checked answers ----


@pytest.mark.parametrize(
    "answer, reference, sure",
    [
        ("10 / 2 = 5\n\nAnswer: 5", "7", True),
        ("so it is \\boxed{-15}", "3", True),
        ("Answer: She sells 4 cakes", "14", True),
        ("Answer: $1,200", "200", True),
        ("Answer: 2.5", "2", True),
        ("Answer: It takes 2 hours to travel 180 miles.", "2", False),
        ("Answer: He pays $1,035 on Saturday and Sunday", "1,035", False),
        ("First he adds.\n3. The result is the number that is sold.", "220", False),  # no result
        ("He has 40 * 3 = 120 cars and 50 * 4 = 200 bikes.", "320", False),  # not the asked sum
        ("what people call wrong", None, True),
    ],
)
def test_which_answers_are_surely_wrong(answer, reference, sure):
    """Some answers that the verifier calls wrong say the right thing, or nothing."""
    assert mixture.states_another_result(answer, reference) == sure


def answers(name, *entries):
    """A row of `sample` from (candidate, status, generator)."""
    texts, status, generators = zip(*entries)
    return {
        "id": name,
        "messages": [{"role": "user", "content": name}],
        "answer": "1",
        "source": "s",
        "candidates": list(texts),
        "status": list(status),
        "generators": list(generators),
    }


def test_which_questions_make_pairs():
    rows = [
        answers(
            "mixed",
            ("r", "right", "m"),
            ("ww", "wrong", "m"),
            ("e", "verifier error", "m"),
            ("t", "truncated", "m"),
        ),
        answers("always", ("r", "right", "m"), ("s", "right", "m")),
        answers("never", ("w", "wrong", "m"), ("e", "verifier error", "m")),
        answers("unknown", ("e", "verifier error", "m"), ("t", "truncated", "m")),
        answers("same", ("r r", "right", "m"), ("r  r", "wrong", "m")),
        answers("mirror", ("rr", "right", "m"), ("w", "wrong", "m")),
    ]
    pairs, counts = mixture.choose_pairs(rows)
    assert {item.messages[0]["content"] for item in pairs} == {"mixed", "mirror"}
    for item in pairs:  # a verifier error is no wrong answer
        assert (
            set(item.answers) in ({"r", "ww"}, {"rr", "w"})
            and item.answers[item.label][0] == "r"
            and item.meta["generators"] == ["m", "m"]
        )
    assert counts == {
        "questions": 6,
        "no wrong answer": 2,
        "no right answer": 1,
        "no checked answer": 1,
        "dropped for balance": 0,
        "pairs": 2,
    }


def test_pairs_are_balanced_by_length_and_generator():
    """Neither length nor generator predicts the label of the pairs.

    Right answers are twice as long here, and the strong model is right three times as often.
    """
    rng, rows = random.Random(1), []
    for number in range(600):
        entries = []
        for index in range(6):
            generator = ("strong", "weak")[index % 2]
            right = rng.random() < (0.75 if generator == "strong" else 0.25)
            entries.append(
                (
                    "x" * rng.randint(1, 40) * (2 if right else 1) + str(index),
                    "right" if right else "wrong",
                    generator,
                )
            )
        rows.append(answers(f"q{number}", *entries))
    pairs, counts = mixture.choose_pairs(rows, per_question=2, seed=5)
    numbers = mixture.describe(pairs)
    assert (
        numbers["longer is better"] == 0.5
        and numbers["better generator wins"] == 0.5
        and abs(numbers["first is better"] - 0.5) < 0.05
    )
    solved = sum({"right", "wrong"} <= set(row["status"]) for row in rows)
    assert len(pairs) > 1.1 * solved and counts["dropped for balance"] + len(pairs) <= 2 * solved
    assert (
        len(mixture.choose_pairs(rows, seed=5)[0]) > 0.9 * solved
    )  # one pair a question: hardly any is lost
    naive = [
        (row, i, j)
        for row in rows
        for i, j in itertools.product(range(6), range(6))
        if (row["status"][i], row["status"][j]) == ("right", "wrong")
    ]
    assert sum(
        len(row["candidates"][i]) > len(row["candidates"][j]) for row, i, j in naive
    ) > 0.7 * len(naive)  # without it
    used = Counter(
        (item.id.rpartition("-")[0].rpartition("-")[0], answer)
        for item in pairs
        for answer in item.answers
    )
    assert max(used.values()) == 1
    again, _ = mixture.choose_pairs(rows[::-1], per_question=2, seed=5)
    assert again == pairs and mixture.choose_pairs(rows, 2, seed=6)[0] != pairs


def test_two_answers_without_a_reference():
    rows = [
        answers("a", ("x", "unchecked", "m"), ("x ", "unchecked", "m"), ("y", "unchecked", "m")),
        answers("b", ("x", "unchecked", "m"), ("y", "truncated", "m")),
        answers("c", ("", "empty", "m"), ("", "refused", "m")),
    ]
    pairs, counts = mixture.two_each(rows)
    assert [(sorted(item.answers), item.label) for item in pairs] == [
        (["x", "y"], None)
    ] and counts["without two different answers"] == 2


# ---- mixing and reporting ----


def test_mixing_by_weights():
    sources = [
        [pair(f"{name}{number}", source=name) for number in range(count)]
        for name, count in (("a", 90), ("b", 100), ("c", 10))
    ]
    assert Counter(item.source for item in mixture.mix(sources, [3, 2, 1])) == {
        "a": 30,
        "b": 20,
        "c": 10,
    }  # c is used up
    assert Counter(item.source for item in mixture.mix(sources, [1, 1, 1], size=20)) == {
        "a": 7,
        "b": 7,
        "c": 6,
    }
    mixed = mixture.mix(sources, [1, 1, 0.1], size=50)
    assert (
        mixed
        == mixture.mix([source[::-1] for source in sources], [1, 1, 0.1], size=50)
        != mixture.mix(sources, [1, 1, 0.1], size=50, seed=1)
    )
    assert len({item.id for item in mixed}) == 50
    with pytest.raises(ValueError, match="at most 60"):
        mixture.mix(sources, [3, 2, 1], size=61)


def test_few_training_questions_of_gsm8k_are_near_copies_of_test_questions():
    """Three of 7,473: stamps of Bella and Max, and two trains; nothing that only sounds alike."""
    if not DATA.is_dir():
        pytest.skip("no data folder beside the project")
    train, test = (
        [
            json.loads(line)["question"]
            for line in (DATA / "gsm8k" / name).read_text().split("\n")
            if line
        ]
        for name in ("train.jsonl", "model_solutions.jsonl")
    )
    index = mixture.index_ngrams(test)
    assert [
        question.split()[:3] for question in train if mixture.contaminated([question], index)
    ] == [["Bella", "bought", "stamps"], ["A", "train", "travels"], ["A", "train", "travels"]]


def test_question_blind_accuracy_finds_a_style_and_only_that():
    pytest.importorskip("sklearn")
    rng = random.Random(0)
    vague = [f"{rng.choice('abcdefgh')} {rng.choice('abcdefgh')}" for _ in range(240)]
    honest = [
        pair(f"p{n}", f"q{n}", (f"{vague[n]} one", f"{vague[-n]} one"), rng.randrange(2))
        for n in range(120)
    ]
    styled = [
        pair(
            f"p{n}",
            f"q{n}",
            tuple(f"{vague[n]} {'sure' if side == n % 2 else 'perhaps'}" for side in (0, 1)),
            n % 2,
        )
        for n in range(120)
    ]
    assert (
        mixture.question_blind(styled) > 0.95 and abs(mixture.question_blind(honest) - 0.5) < 0.15
    )
    assert mixture.question_blind(honest[:40]) is None


def test_describe_by_hand():
    pairs = [
        pair("1", "qq", ("aaaa", "b"), 0),
        pair("2", "qq", ("aaaa", "b"), 1, meta={"generators": ["g", "h"]}),
        pair("3", "r", ("a", "b"), 1, meta={"generators": ["g", "h"]}),
        pair("4", "r", ("a", "bb"), None),
    ]
    assert mixture.describe(pairs) == {
        "pairs": 4,
        "labelled": 3,
        "questions": 2,
        "prompt characters": 1.5,
        "better characters": 2.0,
        "worse characters": 2.0,
        "multi-turn": 0.0,
        "first is better": 1 / 3,
        "longer is better": 0.5,
        "better generator wins": 1.0,
    }
