"""Pairs about a rule that a program can check: `End with a period and write one sentence ...`.

Pairs come as siblings, as in tiny/world.py: two questions about the same subject whose better
answers are each other's worse one. So whatever is true of the answers alone is true of a better
answer as often as of a worse one, and a judge has to read the rule. Subjects and words belong to
the training or to the test side by their hash.
"""

import random
import re

from seeding import uniform

SUBJECTS = """a farmer|a nurse|a teacher|a sailor|a baker|a painter|a pilot|a child|a doctor
a singer|a soldier|a judge|a tailor|a student|a writer|a fisherman|a gardener|a driver|a waiter
a king|a queen|a hunter|a thief|a neighbor|a musician|a guard|a lawyer|a dancer|a miner
a shepherd|a butcher|a tourist|a clerk|a prince|a merchant|a captain""".replace("\n", "|")
WORDS = """silver window letter garden mirror candle bridge winter ladder basket blanket pocket
engine market forest island shadow bottle ticket hammer needle village desert harbor curtain
button castle valley pillow rocket temple meadow lantern carpet puzzle feather wallet statue
tunnel kitchen violin helmet stadium camera compass notebook umbrella scarf anchor trumpet"""
OPENERS = "Yesterday Today Suddenly Often Sometimes Tonight Later Finally Usually Once".split()
THINGS = "dog cat horse rabbit tiger bread cheese soup rice cake car truck bus train boat".split()
COLORS = "red blue green yellow purple orange pink brown white black".split()
VERBS = """carried carry|found find|sold sell|watched watch|lost lose|bought buy|liked like
saw see|drew draw|cleaned clean|hid hide|wanted want""".replace("\n", "|").split("|")
PLACES = """near the river|behind the school|in the old house|at the station|on the hill
after a long day|before the rain came|with a good friend|in the morning
without saying a word""".replace("\n", "|").split("|")
MARKS = {"a question mark": "?", "an exclamation mark": "!", "a period": "."}
QUESTIONS = {  # kind of rule -> question
    "word": 'Use the word "{value}" in one sentence about {subject}.',
    "avoid": 'Do not use the word "{value}" in one sentence about {subject}.',
    "words": "Use {value} words in one sentence about {subject}.",
    "mark": "End with {value} and write one sentence about {subject}.",
}
KINDS = list(QUESTIONS)


def on_side(names, held_out):
    """One name in four belongs to the test questions."""
    return [name for name in names if (uniform(f"constraint:{name}") < 0.25) == held_out]


def words_of(sentence):
    return re.findall(r"[a-z]+", sentence.lower())


def draw_values(rng, kind, held_out):
    """Two different values of a rule, for the two siblings."""
    if kind == "words":
        return [f"at most {rng.randint(5, 7)}", f"at least {rng.randint(9, 11)}"]
    return rng.sample(list(MARKS) if kind == "mark" else on_side(WORDS.split(), held_out), 2)


def is_met(kind, value, sentence):
    words = words_of(sentence)
    if kind == "words":
        number = int(value.split()[-1])
        return len(words) <= number if value.startswith("at most") else len(words) >= number
    if kind == "mark":
        return sentence.endswith(MARKS[value])
    return (value in words) == (kind == "word")


def draw_sentence(rng, subject, names):
    """A sentence about the subject, which often has one of `names` in it."""
    past, verb = rng.choice(VERBS).split()
    thing = rng.choice(names) if names and rng.random() < 0.8 else rng.choice(THINGS)
    if rng.random() < 0.3:
        thing = f"{rng.choice(COLORS)} {thing}"
    who, mark = subject.replace("a ", "the ", 1), rng.choice("..?!")
    words = f"did {who} {verb} the {thing}" if mark == "?" else f"{who} {past} the {thing}"
    for place in rng.sample(PLACES, rng.choice([0, 1, 1, 2])):
        words += f" {place}"
    if mark != "?" and rng.random() < 0.4:
        words = f"{rng.choice(OPENERS)} {words}"
    return words[0].upper() + words[1:] + mark


def siblings(rng, held_out):
    """(kind, two questions, two sentences): the better answer of question k is sentence k."""
    while True:
        subject, kind = rng.choice(on_side(SUBJECTS.split("|"), held_out)), rng.choice(KINDS)
        values = draw_values(rng, kind, held_out)
        names = values if kind in ("word", "avoid") else []
        for _ in range(50):
            sentences = [draw_sentence(rng, subject, names) for _ in values]
            met = [[is_met(kind, value, sentence) for sentence in sentences] for value in values]
            if met == [[True, False], [False, True]]:
                question = QUESTIONS[kind]
                queries = [question.format(value=value, subject=subject) for value in values]
                return kind, queries, sentences


def sibling_rows(rng, name, source, queries, answers):
    """Two labelled rows with the same answers in the same places: the place says nothing."""
    turned = rng.randrange(2)
    a, b = answers[::-1] if turned else answers
    rows = []
    for index, query in enumerate(queries):
        row = {"id": f"{name}-{index}", "query": query, "a": a, "b": b, "label": index ^ turned}
        rows.append(row | {"source": source})
    return rows


def pairs(seed, count, held_out):
    """`count` labelled rows as data.py reads them, siblings next to each other."""
    rng, rows, seen = random.Random(f"constraints:{seed}:{held_out}"), [], set()
    while len(rows) < count:
        kind, queries, sentences = siblings(rng, held_out)
        if (*queries, *sentences) not in seen:
            seen.add((*queries, *sentences))
            name = f"constraint-{'test' if held_out else 'train'}-{len(rows)}"
            rows += sibling_rows(rng, name, f"constraint {kind}", queries, sentences)
    return rows
