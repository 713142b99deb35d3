"""Pairs about a rule that a program can check: `Use the word "silver" in one sentence about a farmer.` and two sentences.

    python runs/smollm2/constraints.py train 600 out/smollm2/data/constraints_train.jsonl
    python runs/smollm2/constraints.py test 200 out/smollm2/data/constraints_test.jsonl

Pairs come as siblings, as in tiny/world.py: two questions about the same subject whose better answers are each other's worse one. Whatever is
true of the answers alone (length, wording, ending) is therefore true of a better answer as often as of a worse one, and a judge has to read
the rule. Subjects and words fall on the side of a split by their hash, so a test question names a subject, and a word, that no training
question names; the kinds of rules are the same on both sides.
"""

import hashlib
import json
import random
import re
import sys
from pathlib import Path

SUBJECTS = """a farmer|a nurse|a teacher|a sailor|a baker|a painter|a pilot|a child|a doctor|a singer|a soldier|a judge|a tailor|a student|a writer|
a fisherman|a gardener|a driver|a waiter|a king|a queen|a hunter|a thief|a neighbor|a musician|a guard|a lawyer|a dancer|a miner|a shepherd|
a butcher|a tourist|a clerk|a prince|a merchant|a captain""".replace("\n", "").split("|")
WORDS = """silver window letter garden mirror candle bridge winter ladder basket blanket pocket engine market forest island shadow bottle
ticket hammer needle village desert harbor curtain button castle valley pillow rocket temple meadow lantern carpet puzzle feather wallet
statue tunnel kitchen violin helmet stadium camera compass notebook umbrella scarf anchor trumpet""".split()
OPENERS = "Yesterday Today Suddenly Often Sometimes Tonight Later Finally Usually Once Recently Soon Again Slowly".split()
THINGS = {
    "an animal": "dog cat horse rabbit tiger goat sheep monkey duck lion".split(),
    "a food": "bread cheese soup rice cake apple pizza salad pie potato".split(),
    "a vehicle": "car truck bus train bicycle boat wagon taxi tractor airplane".split(),
    "a color": "red blue green yellow purple orange pink brown white black".split(),
}
VERBS = [
    ("carried", "carry"),
    ("found", "find"),
    ("sold", "sell"),
    ("watched", "watch"),
    ("lost", "lose"),
    ("bought", "buy"),
    ("liked", "like"),
    ("saw", "see"),
    ("drew", "draw"),
    ("cleaned", "clean"),
    ("hid", "hide"),
    ("wanted", "want"),
]
PLACES = [
    "near the river",
    "behind the school",
    "in the old house",
    "at the station",
    "on the hill",
    "after a long day",
    "before the rain came",
    "with a good friend",
    "in the morning",
    "without saying a word",
]
MARKS = {"a question mark": "?", "an exclamation mark": "!", "a period": "."}
CASES = {"capital": str.isupper, "lower-case": str.islower}
KINDS = ["word", "avoid", "start", "mark", "words", "case", "mention"]


def is_test(name):
    """One subject, and one word, in four belongs to the test questions."""
    return hashlib.sha256(name.encode()).digest()[0] < 64


def words_of(sentence):
    return re.findall(r"[a-z]+", sentence.lower())


# ---- rules ----


def draw_rules(rng, kind, held_out):
    """Two rules (kind, value) of one kind with different values, for the two siblings."""
    if kind == "words":
        return [(kind, ("at most", rng.randint(5, 7))), (kind, ("at least", rng.randint(9, 11)))]
    values = {
        "word": WORDS,
        "avoid": WORDS,
        "start": OPENERS,
        "mark": list(MARKS),
        "case": list(CASES),
        "mention": list(THINGS),
    }[kind]
    if kind in ("word", "avoid"):
        values = [value for value in values if is_test(value) == held_out]
    return [(kind, value) for value in rng.sample(values, 2)]


def is_met(kind, value, sentence):
    words = words_of(sentence)
    if kind == "words":
        return len(words) <= value[1] if value[0] == "at most" else len(words) >= value[1]
    if kind == "case":
        return CASES[value](sentence)
    if kind == "mark":
        return sentence.endswith(MARKS[value])
    if kind == "mention":
        return not set(THINGS[value]).isdisjoint(words)
    return {
        "word": value in words,
        "avoid": value not in words,
        "start": words[0] == value.lower(),
    }[kind]


def question(rule, subject):
    kind, value = rule
    if kind == "words":
        return f"Use {value[0]} {value[1]} words in one sentence about {subject}."
    return {
        "word": f'Use the word "{value}" in one sentence about {subject}.',
        "avoid": f'Do not use the word "{value}" in one sentence about {subject}.',
        "start": f'Begin with the word "{value}" and write one sentence about {subject}.',
        "mark": f"End with {value} and write one sentence about {subject}.",
        "case": f"Use only {value} letters in one sentence about {subject}.",
        "mention": f"Mention {value} in one sentence about {subject}.",
    }[kind]


# ---- sentences ----


def draw_sentence(rng, subject, names):
    """A sentence about the subject of 4 to 14 words; one of `names`, if any, stands in it."""
    past, verb = rng.choice(VERBS)
    category = rng.choice(["an animal", "a food", "a vehicle"])
    thing = rng.choice(names) if names and rng.random() < 0.8 else rng.choice(THINGS[category])
    thing = f"{rng.choice(THINGS['a color'])} {thing}" if rng.random() < 0.3 else thing
    who, mark = subject.replace("a ", "the ", 1), rng.choice("..?!")
    words = f"did {who} {verb} the {thing}" if mark == "?" else f"{who} {past} the {thing}"
    words += "".join(f" {place}" for place in rng.sample(PLACES, rng.choice([0, 1, 1, 2])))
    if mark != "?" and rng.random() < 0.4:
        words = f"{rng.choice(OPENERS)} {words}"
    return words[0].upper() + words[1:] + mark


def restyled(rng, rule, sentence):
    """The sentence changed so that it keeps the rule, where the grammar above leaves that to rare luck."""
    kind, value = rule
    if kind == "case":
        return sentence.upper() if value == "capital" else sentence.lower()
    if kind == "start":
        body = (
            sentence.split(" ", 1)[1]
            if sentence.split(" ")[0] in OPENERS
            else sentence[0].lower() + sentence[1:]
        )
        return f"{value} {body}"
    return sentence


# ---- pairs ----


def siblings(rng, held_out):
    """(kind, two questions, two sentences): the better answer of question k is sentence k."""
    while True:
        subject = rng.choice([name for name in SUBJECTS if is_test(name) == held_out])
        kind = rng.choice(KINDS)
        rules = draw_rules(rng, kind, held_out)
        names = [value for _, value in rules] if kind in ("word", "avoid") else []
        for _ in range(50):
            sentences = [restyled(rng, rule, draw_sentence(rng, subject, names)) for rule in rules]
            if all(is_met(*rules[i], sentences[j]) == (i == j) for i in (0, 1) for j in (0, 1)):
                return kind, [question(rule, subject) for rule in rules], sentences


def pairs(seed, count, held_out):
    """`count` labelled rows as data.py reads them, siblings side by side."""
    rng, rows, seen = random.Random(f"constraints:{seed}:{held_out}"), [], set()
    while len(rows) < count:
        kind, queries, sentences = siblings(rng, held_out)
        if (*queries, *sentences) in seen:
            continue
        seen.add((*queries, *sentences))
        turned = rng.randrange(
            2
        )  # siblings show the same two sentences in the same places: the place says nothing either
        a, b = sentences[::-1] if turned else sentences
        for index, query in enumerate(queries):
            rows.append(
                {
                    "id": f"constraint-{'test' if held_out else 'train'}-{len(rows)}",
                    "query": query,
                    "a": a,
                    "b": b,
                    "label": index ^ turned,
                    "source": f"constraint {kind}",
                }
            )
    return rows


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("train", "test") or not sys.argv[2].isdigit():
        sys.exit("usage: python runs/smollm2/constraints.py train|test COUNT OUT.jsonl")
    Path(sys.argv[3]).parent.mkdir(parents=True, exist_ok=True)
    made = pairs(0, int(sys.argv[2]), sys.argv[1] == "test")
    Path(sys.argv[3]).write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
