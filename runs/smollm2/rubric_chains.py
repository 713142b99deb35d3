"""Chains in RM-R1's format that a program writes: what the stand-in teacher is taught.

    python runs/smollm2/rubric_chains.py OUT_FOLDER [TEACHER_ROWS ASKED_PAIRS RL_PAIRS]

teacher.jsonl  rows for train_sft.py: a judging prompt and the right chain. Every third prompt has
               the note that the second teacher gets (the verdict and another judge's wrong chain).
               In a quarter of those the chain mentions the note, which make_data has to find.
asked.jsonl    other pairs, for `make_data chains`
rl.jsonl       pairs for GRPO

Three in four pairs are those of constraints.py (type Chat: a rubric about the rule), the others
sums (type Reasoning: a solution). No question is in two of the files.
"""

import random
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runs"), str(ROOT / "runs/smollm2")]

import constraints  # noqa: E402
from constraints import MARKS, is_met, words_of  # noqa: E402
from measures import write_rows  # noqa: E402

from extras.ask import hinted  # noqa: E402
from styles import judge_messages, load_style  # noqa: E402

RULES = {  # kind of rule -> where its value is in the question
    "words": r"Use (at \w+ \d+) words",
    "word": r'Use the word "(\w+)"',
    "avoid": r'Do not use the word "(\w+)"',
    "mark": r"End with (an? [a-z ]+) and",
}
RUBRICS = {"words": "uses {} words", "word": "uses the word {}", "avoid": "avoids the word {}"}
RUBRICS["mark"] = "ends with {}"
SUM = "A shop has {} apples and gets {} more. How many apples does it have now?"


# ---- pairs ----


def sum_pairs(seed, count, held_out):
    """`count` rows about sums: the right answer of one sibling is the wrong one of the other."""
    rng, rows = random.Random(f"sums:{seed}:{held_out}"), []
    while len(rows) < count:
        numbers = [(rng.randint(11, 59), rng.randint(11, 39)) for _ in range(2)]
        answers = [f"It has {x + y} apples." for x, y in numbers]
        if answers[0] != answers[1]:
            queries = [SUM.format(x, y) for x, y in numbers]
            name = f"sum-{seed}-{len(rows)}"
            rows += constraints.sibling_rows(rng, name, "sum", queries, answers)
    return rows


def mixed_pairs(seed, count, held_out, taken):
    """`count` pairs, one in four a sum, without questions in `taken`; theirs are added to it."""
    sums = count // 8 * 2
    groups = []
    for pairs, share in (
        (constraints.pairs(seed, 4 * count, held_out), count - sums),
        (sum_pairs(seed, 4 * count, held_out), sums),
    ):
        new = [
            siblings
            for siblings in zip(pairs[::2], pairs[1::2])
            if not {row["query"] for row in siblings} & taken
        ]
        groups += new[: share // 2]
    taken |= {row["query"] for siblings in groups for row in siblings}
    random.Random(f"mixed:{seed}").shuffle(groups)
    return [row for siblings in groups for row in siblings]


# ---- chains ----


def rule_of(query):
    """(kind, value) of a rule, read from the question as a judge would."""
    for kind, pattern in RULES.items():
        if found := re.match(pattern, query):
            return kind, found[1]
    raise ValueError(f"no rule in {query!r}")


def finding(kind, value, sentence):
    """What decides whether the sentence keeps the rule."""
    if kind == "words":
        return f"has {len(words_of(sentence))} words"
    if kind == "mark":
        return "ends with " + next(name for name in MARKS if sentence.endswith(MARKS[name]))
    return f'{"has" if value in words_of(sentence) else "lacks"} "{value}"'


def read_pair(query, answers):
    """(first lines of the chain, place of the better answer, what decides about each answer)."""
    if query.startswith("A shop has"):
        x, y = map(int, re.findall(r"\d+", query))
        head = f"<type>Reasoning</type>\n<solution> {x} + {y} = {x + y} </solution>"
        stated = [int(re.search(r"\d+", answer)[0]) for answer in answers]
        return head, stated.index(x + y), [f"says {number}" for number in stated]
    kind, value = rule_of(query)
    head = f"<type>Chat</type>\n<rubric> 80% {RUBRICS[kind].format(value)}, 20% clear language "
    head += "<justify> The client asked for it. </justify> </rubric>"
    met = [is_met(kind, value, sentence) for sentence in answers]
    if sum(met) != 1:
        raise ValueError(f"{query!r}: {sum(met)} of the two sentences keep the rule")
    return head, met.index(True), [finding(kind, value, sentence) for sentence in answers]


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
    folder, taken = Path(folder), set()
    taught = mixed_pairs(1, teacher, False, taken)
    write_rows(folder / "teacher.jsonl", teacher_rows(taught))
    for seed, name, count in ((2, "asked", asked), (3, "rl", rl)):
        pairs = mixed_pairs(seed, count, True, taken)
        rows = [row | {"id": f"{name}-{row['id']}"} for row in pairs]
        # rl.jsonl is the last file, so that its presence means that all are there.
        write_rows(folder / f"{name}.jsonl.partial", rows).rename(folder / f"{name}.jsonl")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 5 or not all(number.isdigit() for number in sys.argv[2:]):
        sys.exit(__doc__)
    main(sys.argv[1], *map(int, sys.argv[2:]))
