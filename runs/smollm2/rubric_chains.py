"""Chains in RM-R1's format (prompts/rm_r1.txt) that a program writes: what the stand-in teacher of runs/rm_r1_smollm2.sh is taught.

    python runs/smollm2/rubric_chains.py OUT_FOLDER [TEACHER_ROWS ASKED_PAIRS RL_PAIRS]

teacher.jsonl  rows for train_sft.py: a judging prompt and the right chain. Every third prompt carries the note that the second teacher gets (the
               verdict and another judge's wrong chain); in every fourth of those the chain speaks of the note, which extras.make_data has to find
asked.jsonl    other pairs, for `make_data chains`          rl.jsonl  pairs for GRPO

Pairs are those of constraints.py (type Chat: a rubric about the rule) and, one in four, sums (type Reasoning: a solution). No question is in two of
the files; subjects and words of the teacher's constraints are in neither of the others.
"""

import json
import random
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runs" / "smollm2")]

import constraints  # noqa: E402
from constraints import CASES, MARKS, is_met, words_of  # noqa: E402

from extras.ask import hinted  # noqa: E402
from styles import judge_messages, load_style  # noqa: E402

STYLE = "rm_r1"
RULES = {
    "words": r"Use (at most|at least) (\d+) words",
    "word": r'Use the word "(\w+)"',
    "avoid": r'Do not use the word "(\w+)"',
    "start": r'Begin with the word "(\w+)"',
    "mark": r"End with (an? [a-z ]+) and",
    "case": r"Use only ([a-z-]+) letters",
    "mention": r"Mention (an? [a-z]+) in",
}
SUM = re.compile(r"A shop has (\d+) apples and gets (\d+) more\.")


# ---- pairs ----


def sum_pairs(seed, count, held_out):
    """`count` rows about sums, siblings side by side as in constraints.py: the right answer of one question is the wrong one of the other."""
    rng, rows = random.Random(f"sums:{seed}:{held_out}"), []
    while len(rows) < count:
        numbers = [(rng.randint(11, 59), rng.randint(11, 39)) for _ in range(2)]
        answers = [f"It has {x + y} apples." for x, y in numbers]
        if answers[0] == answers[1]:
            continue
        turned = rng.randrange(2)
        a, b = answers[::-1] if turned else answers
        for index, (x, y) in enumerate(numbers):
            rows.append(
                {
                    "id": f"sum-{seed}-{len(rows)}",
                    "query": f"A shop has {x} apples and gets {y} more. How many apples does it have now?",
                    "a": a,
                    "b": b,
                    "label": index ^ turned,
                    "source": "sum",
                }
            )
    return rows


def mixed_pairs(seed, count, held_out, taken=()):
    """`count` pairs, one in four a sum, without questions in `taken`; their own questions are added to it. Siblings stay together."""
    sums = count // 8 * 2
    parts = []
    for pairs, wanted in (
        (constraints.pairs(seed, 4 * count, held_out), count - sums),
        (sum_pairs(seed, 4 * count, held_out), sums),
    ):
        kept = []
        for first, second in zip(pairs[::2], pairs[1::2]):
            if len(kept) < wanted and first["query"] not in taken and second["query"] not in taken:
                kept += [first, second]
        parts += kept[:wanted]
    taken |= {row["query"] for row in parts}
    groups = [parts[index : index + 2] for index in range(0, len(parts), 2)]
    random.Random(f"mixed:{seed}").shuffle(groups)
    return [row for group in groups for row in group]


# ---- chains ----


def rule_of(query):
    """(kind, value) as constraints.is_met takes them, read from the question as a judge would."""
    for kind, pattern in RULES.items():
        if found := re.match(pattern, query):
            return kind, (found[1], int(found[2])) if kind == "words" else found[1]
    raise ValueError(f"no rule in {query!r}")


def finding(kind, value, sentence):
    """What about the sentence decides whether it keeps the rule."""
    if kind == "words":
        return f"has {len(words_of(sentence))} words"
    if kind in ("word", "avoid"):
        return f'{"has" if value in words_of(sentence) else "lacks"} "{value}"'
    if kind == "start":
        return f"begins with {sentence.split()[0]}"
    if kind == "mark":
        return f"ends with {next((name for name, mark in MARKS.items() if sentence.endswith(mark)), 'no mark')}"
    if kind == "case":
        return (
            f"has {next((name for name, fits in CASES.items() if fits(sentence)), 'mixed')} letters"
        )
    return f"names {value if is_met(kind, value, sentence) else f'no {value.split()[1]}'}"


def chain(query, answers, known=False, wrong=False):
    """The whole judgment of answers[0] (Chatbot A) and answers[1] in the format of prompts/rm_r1.txt. known: it speaks of a note that told it the
    verdict, which a chain must not; wrong: with the other verdict, and findings that would support it. ValueError for a question of no known kind."""
    if total := SUM.match(query):
        x, y = int(total[1]), int(total[2])
        head = f"<type>Reasoning</type>\n<solution> {x} + {y} = {x + y} </solution>"
        said = [re.search(r"\d+", answer)[0] for answer in answers]
        right, found = said.index(str(x + y)), [f"says {number}" for number in said]
    else:
        kind, value = rule_of(query)
        rule = (
            " ".join(map(str, value)) + " words"
            if kind == "words"
            else f"only {value} letters"
            if kind == "case"
            else value
        )
        name = {
            "word": "uses the word",
            "avoid": "avoids the word",
            "start": "begins with",
            "mark": "ends with",
            "mention": "mentions",
        }.get(kind, "uses")
        head = (
            f"<type>Chat</type>\n<rubric> 80% {name} {rule}, 20% clear language "
            "<justify> The client asked for it. </justify> </rubric>"
        )
        met = [is_met(kind, value, sentence) for sentence in answers]
        if sum(met) != 1:
            raise ValueError(f"{query!r}: {sum(met)} of the two sentences keep the rule")
        right, found = met.index(True), [finding(kind, value, sentence) for sentence in answers]
    if wrong:
        right, found = 1 - right, found[::-1]
    told = " As I was told, the note above says so." if known else ""
    parts = " ".join(
        f"<quote_{side}>{answer}</quote_{side}> <summary_{side}>{words}</summary_{side}>"
        for side, answer, words in zip("AB", answers, found)
    )
    return f"{head}\n<eval> {parts} So {'AB'[right]} is better.{told} </eval>\n<answer>[[{'AB'[right]}]]</answer>"


def teacher_rows(pairs):
    """Rows for train_sft.py; in a third of them the teacher is the second one."""
    style, rows = load_style(STYLE), []
    for number, pair in enumerate(pairs):
        answers = pair["a"], pair["b"]
        messages = judge_messages(style, pair["query"], *answers)
        told = number % 3 == 2
        if told:
            messages = hinted(
                messages, pair["label"] + 1, chain(pair["query"], answers, wrong=True), style
            )
        text = chain(pair["query"], answers, known=told and number % 12 == 11)
        rows.append({"messages": [*messages, {"role": "assistant", "content": text}]})
    return rows


def main(folder, teacher=48, asked=16, rl=16):
    taken = set()
    parts = {
        "teacher": mixed_pairs(1, teacher, False, taken),
        "asked": mixed_pairs(2, asked, True, taken),
        "rl": mixed_pairs(3, rl, True, taken),
    }
    assert len({row["query"] for rows in parts.values() for row in rows}) == sum(
        len({row["query"] for row in rows}) for rows in parts.values()
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        rows = (
            teacher_rows(rows)
            if name == "teacher"
            else [row | {"id": f"{name}-{row['id']}"} for row in rows]
        )
        partial = Path(folder) / f"{name}.jsonl.partial"
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        partial.replace(Path(folder) / f"{name}.jsonl")
    print(
        json.dumps(
            {name: len(rows) for name, rows in parts.items()} | {"questions in two of them": 0}
        )
    )


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 5 or not all(number.isdigit() for number in sys.argv[2:]):
        sys.exit(
            "usage: python runs/smollm2/rubric_chains.py OUT_FOLDER [TEACHER_ROWS ASKED_PAIRS RL_PAIRS]"
        )
    main(sys.argv[1], *map(int, sys.argv[2:]))
