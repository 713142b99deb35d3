"""Pairs and chains in RM-R1's format that a program writes: what the stand-in teacher is taught.

    python runs/smollm2/rubric_chains.py OUT_FOLDER [TEACHER_ROWS ASKED_PAIRS RL_PAIRS]

teacher.jsonl  rows for train_sft.py: a judging prompt and the right chain. Every third prompt has
               the note that the second teacher gets (the verdict and another judge's wrong chain).
               In a quarter of those the chain mentions the note, which make_data has to find.
asked.jsonl    other pairs, for `make_data chains`
rl.jsonl       pairs for GRPO

Three in four pairs are about a rule that a program can check (type Chat: a rubric), the others
about sums (type Reasoning: a solution). Pairs come as siblings: two questions whose better answers
are each other's worse one, so a judge has to read the question. No question is in two of the files.
"""

import random
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runs")]

from measures import write_rows  # noqa: E402

from extras.ask import hinted  # noqa: E402
from seeding import uniform  # noqa: E402
from styles import judge_messages, load_style  # noqa: E402

# No word is a part of another or of a subject.
SUBJECTS = """farmer nurse teacher sailor baker painter pilot child doctor singer soldier judge
tailor student writer fisherman driver waiter king queen hunter thief neighbor musician
guard lawyer dancer miner shepherd butcher tourist clerk prince merchant captain""".split()
WORDS = """silver window letter garden mirror candle bridge winter ladder basket blanket pocket
engine market forest island shadow bottle ticket hammer needle village desert harbor curtain
button castle valley pillow rocket temple meadow lantern carpet puzzle feather wallet""".split()
VERBS = "carried found sold watched lost bought liked saw drew cleaned hid wanted".split()
RULES = {  # kind -> (question, what the rubric says)
    "word": ('Use the word "{}" in one sentence about a {}.', "uses the word {}"),
    "avoid": ('Do not use the word "{}" in one sentence about a {}.', "avoids the word {}"),
}
SUM = "A shop has {} apples and gets {} more. How many apples does it have now?"


# ---- pairs ----


def on_side(names, held_out):
    """One name in four belongs to the test questions, by its hash."""
    return [name for name in names if (uniform(f"constraint:{name}") < 0.25) == held_out]


def rule_siblings(rng, held_out):
    """(kind, two questions, two sentences): the better answer of question k is sentence k."""
    subject, kind = rng.choice(on_side(SUBJECTS, held_out)), rng.choice(list(RULES))
    words = rng.sample(on_side(WORDS, held_out), 2)
    sentences = [f"The {subject} {rng.choice(VERBS)} the {word}." for word in words]
    asked = words if kind == "word" else words[::-1]
    return kind, [RULES[kind][0].format(word, subject) for word in asked], sentences


def sum_siblings(rng, held_out):
    while True:
        numbers = [(rng.randint(11, 59), rng.randint(11, 39)) for _ in range(2)]
        answers = [f"It has {x + y} apples." for x, y in numbers]
        if answers[0] != answers[1]:
            return "sum", [SUM.format(x, y) for x, y in numbers], answers


def labelled_pairs(name, count, held_out, siblings, taken=()):
    """`count` different labelled rows, none of them about a question in `taken`."""
    rng, rows, seen = random.Random(f"{name}:{siblings.__name__}"), [], set()
    while len(rows) < count:
        kind, queries, answers = siblings(rng, held_out)
        if set(queries) & set(taken) or (*queries, *answers) in seen:
            continue
        seen.add((*queries, *answers))
        turned = rng.randrange(2)  # both questions show the same answers in the same places
        a, b = answers[::-1] if turned else answers
        for index, query in enumerate(queries):
            row = {"id": f"{name}-{kind}-{len(rows)}", "query": query, "a": a, "b": b}
            rows.append(row | {"label": index ^ turned, "source": kind})
    return rows


def mixed_pairs(name, count, held_out, taken=()):
    """`count` pairs, one in four about sums."""
    sums = count // 8 * 2
    rows = labelled_pairs(name, count - sums, held_out, rule_siblings, taken)
    rows += labelled_pairs(name, sums, held_out, sum_siblings, taken)
    random.Random(name).shuffle(rows)
    return rows


# ---- chains ----


def read_pair(query, answers):
    """(first lines of the chain, place of the better answer, what decides about each answer).

    All of it is read from the question, as a judge would.
    """
    if query.startswith("A shop has"):
        x, y = map(int, re.findall(r"\d+", query))
        head = f"<type>Reasoning</type>\n<solution> {x} + {y} = {x + y} </solution>"
        stated = [int(re.search(r"\d+", answer)[0]) for answer in answers]
        return head, stated.index(x + y), [f"says {number}" for number in stated]
    word, kind = re.search(r'"(\w+)"', query)[1], "avoid" if "Do not" in query else "word"
    head = f"<type>Chat</type>\n<rubric> 80% {RULES[kind][1].format(word)}, 20% clear language "
    head += "<justify> The client asked for it. </justify> </rubric>"
    has_word = [word in answer for answer in answers]
    found = [f'{"has" if has else "lacks"} "{word}"' for has in has_word]
    return head, has_word.index(kind == "word"), found


def chain(query, answers, known=False, wrong=False):
    """The judgment of answers[0] (Chatbot A) and answers[1] in the format of prompts/rm_r1.txt.

    known: it mentions a note that gave the verdict, which a chain must not. wrong: it has the
    other verdict, and findings that would support it.
    """
    head, right, found = read_pair(query, answers)
    if wrong:
        right, found = 1 - right, found[::-1]
    note = " As I was told, the note above says so." if known else ""
    parts = " ".join(
        f"<quote_{side}>{answer}</quote_{side}> <summary_{side}>{words}</summary_{side}>"
        for side, answer, words in zip("AB", answers, found)
    )
    verdict = "AB"[right]
    evaluation = f"<eval> {parts} So {verdict} is better.{note} </eval>"
    return f"{head}\n{evaluation}\n<answer>[[{verdict}]]</answer>"


def teacher_rows(pairs):
    """Rows for train_sft.py; in a third of them the teacher is the second one."""
    style, rows = load_style("rm_r1"), []
    for number, pair in enumerate(pairs):
        query, answers = pair["query"], (pair["a"], pair["b"])
        messages = judge_messages(style, query, *answers)
        if number % 3 == 2:
            wrong = chain(query, answers, wrong=True)
            messages = hinted(messages, pair["label"] + 1, wrong, style)
        text = chain(query, answers, known=number % 12 == 11)
        rows.append({"messages": [*messages, {"role": "assistant", "content": text}]})
    return rows


def main(folder, teacher=48, asked=16, rl=16):
    pairs = mixed_pairs("teacher", teacher, held_out=False)
    asked_pairs = mixed_pairs("asked", asked, held_out=True)
    taken = {row["query"] for row in pairs + asked_pairs}
    rl_pairs = mixed_pairs("rl", rl, held_out=True, taken=taken)
    write_rows(Path(folder) / "teacher.jsonl", teacher_rows(pairs))
    write_rows(Path(folder) / "asked.jsonl", asked_pairs)
    # The last: if it is there, all are complete.
    write_rows(Path(folder) / "rl.jsonl.partial", rl_pairs).rename(Path(folder) / "rl.jsonl")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
