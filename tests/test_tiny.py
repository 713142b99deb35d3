"""The embedded world: its labels are right, and only the question tells the better answer.

No test question is ever trained on.
"""

import itertools
import json
import random
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "tiny"
sys.path.insert(0, str(FOLDER))
import world  # noqa: E402

from chat import load_tokenizer  # noqa: E402
from styles import load_style  # noqa: E402

SETS = {
    name: [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]
    for name in ("train", "test")
}
ALL = [row for rows in SETS.values() for row in rows]
SIGNS = {"plus": "+", "minus": "-", "times": "*"}


def asked(query):
    """What a query asks, whatever its wording: written apart from the generator, to check it."""
    if match := re.fullmatch(r"(\d+)(?: (plus|minus|times) |([-+*]))(\d+)", query):
        a, word, sign, b = match.groups()
        return int(a), SIGNS.get(word, sign), int(b)
    return tuple(sorted(query.split(", ")))


def points(query, line):
    """The quality of a line, worked out from the text of the query."""
    total, words = 0, line.lower().split()
    for constraint in query.split(", "):
        kind, *value, weight = constraint.split(" ")
        met = {
            "has": value and value[0] in words,
            "no": value and value[0] not in words,
            "lower": line == line.lower(),
            "starts": value and words[0] == value[0],
            "ends": value and words[-1] == value[0],
            "max": kind == "max" and len(words) <= int(value[0]),
        }[kind]
        total += int(weight[1:]) * bool(met)
    return total


def is_better(row, place):
    query, answer, other = row["query"], row["ab"[place]], row["ab"[1 - place]]
    if row["family"] == "lines":
        return points(query, answer) > points(query, other)
    a, sign, b = asked(query)
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return int(answer.split()[-1]) == value != int(other.split()[-1])


@pytest.mark.parametrize("name", SETS)
def test_every_label_is_right(name):
    for row in SETS[name]:
        assert is_better(row, row["label"]) and not is_better(row, 1 - row["label"]), row


def test_the_files_are_those_that_the_generator_makes():
    assert SETS["test"][:60] == world.pairs("test", 60, True, levels=(2, 3))
    assert SETS["train"][:500] == world.pairs("train", 500, False, levels=(2, 3))


def test_no_question_is_in_both_sets_nor_in_what_the_base_learned_from():
    held_out = {asked(row["query"]) for row in SETS["test"]}
    assert len(held_out) > 300
    assert held_out.isdisjoint(asked(row["query"]) for row in SETS["train"])
    learned = itertools.islice(world.rows("thinker", 1.0), 20000)
    assert held_out.isdisjoint(
        asked(messages[0]["content"].split(" first: ")[0]) for messages in learned
    )


def test_whatever_is_better_is_as_often_worse():
    """Siblings: two answers occur under two questions that decide between them in opposite ways.

    So every rule that looks at the answers alone is right in exactly half of the pairs.
    """
    for rows in SETS.values():
        wins = defaultdict(Counter)
        for row in rows:
            wins[frozenset((row["a"], row["b"]))][row["ab"[row["label"]]]] += 1
        assert all(len(count) == 2 and len(set(count.values())) == 1 for count in wins.values())


def test_a_linear_model_of_the_answers_alone_is_at_chance():
    """A perceptron on hashed character n-grams of both answers, over five epochs.

    Siblings stay on one side of the split.
    """
    rows = SETS["train"][:3000]
    texts = sorted({frozenset((row["a"], row["b"])) for row in rows}, key=sorted)
    tested = {pair for pair in texts if random.Random(f"fold {sorted(pair)}").random() < 0.3}
    weights = Counter()

    def features(row):
        counts = Counter()
        for name, sign in (("a", 1), ("b", -1)):
            text = f"^{row[name]}$"
            for n in (1, 2, 3):
                for start in range(len(text) - n + 1):
                    counts[text[start : start + n]] += sign
        return counts

    split = [[], []]
    for row in rows:
        split[frozenset((row["a"], row["b"])) in tested].append(
            (features(row), 1 if row["label"] == 0 else -1)
        )
    for epoch in range(5):
        random.Random(epoch).shuffle(split[0])
        for counts, target in split[0]:
            if target * sum(weights[gram] * value for gram, value in counts.items()) <= 0:
                for gram, value in counts.items():
                    weights[gram] += target * value
    scores = [
        target * sum(weights[gram] * value for gram, value in counts.items())
        for counts, target in split[1]
    ]
    right = sum((score > 0) + (score == 0) / 2 for score in scores) / len(scores)
    assert len(scores) > 700 and any(scores) and abs(right - 0.5) < 0.02


def test_length_and_place_say_nothing():
    for rows in SETS.values():
        unequal = [row for row in rows if len(row["a"]) != len(row["b"])]
        longer = sum((len(row["a"]) > len(row["b"])) == (row["label"] == 0) for row in unequal)
        assert longer == len(unequal) / 2
        assert abs(sum(row["label"] for row in rows) / len(rows) - 0.5) < 0.03


def test_the_working_leads_to_the_right_verdict():
    """In all thinking that the base learns, the last marks or totals name the better answer."""
    rng = random.Random(3)
    for _ in range(300):
        family, _, queries, tasks, answers, _ = world.siblings(rng, levels=(1, 2, 3, 4))
        for index in (0, 1):
            text = world.think(tasks[index], answers)
            if family == "sums":
                assert text[-3] + text[-1] == ("yn", "ny")[index]
                for left, right in re.findall(r"(\d[-+*\d]*)=(\d+)", text):
                    assert eval(left) == int(right)
            else:
                totals = [
                    int(re.findall(rf"{name} [\w ]+? [yn](\d+)", text)[-1])
                    for name in ("first", "second")
                ]
                assert totals == [points(queries[index], answer) for answer in answers]


def test_the_working_of_a_line():
    task = [
        ("has", "fig", 3),
        ("no", "tea", 2),
        ("max", 3, 1),
        ("lower", "", 2),
        ("starts", "oat", 1),
        ("ends", "ham", 3),
    ]
    lines = ["Oat fig tea ham", "rice pea"]
    assert world.think(task, lines) == (
        " has fig first Oat fig y3 second rice pea n0"
        " no tea first Oat fig tea n3 second rice pea y2 max 3 first 4 n3 second 2 y3"
        " lower first Oat n3 second rice y5 starts oat first Oat y4 second rice n5"
        " ends ham first ham y7 second pea n5"
    )
    assert (
        [world.quality(task, line) for line in lines]
        == [7, 5]
        == [points(world.line_query(task), line) for line in lines]
    )


def test_each_word_and_digit_of_the_world_is_one_token():
    tokenizer = load_tokenizer(FOLDER / "base")
    for word in [*world.WORDS, *world.KINDS, *world.LABELS]:
        assert (
            len(tokenizer.encode(f" {word}", add_special_tokens=False))
            == len(tokenizer.encode(word, add_special_tokens=False))
            == 1
        ), word
    assert len(tokenizer.encode("347+586", add_special_tokens=False)) == 7


def test_the_rows_use_the_prompt_that_the_judge_uses():
    assert load_style("tiny").user.strip().replace("{query}", "Q").format(
        answer_1="A", answer_2="B"
    ) == world.PROMPT.format(query="Q", answer_1="A", answer_2="B")
