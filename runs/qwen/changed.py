"""GSM8K questions with other numbers, so that a memorised answer is a wrong one.

    python runs/qwen/changed.py out/qwen/questions/test.jsonl out/qwen/questions/changed.jsonl
    python runs/qwen/changed.py TEST CHANGED out/qwen/pairs_test.jsonl    # of these pairs alone

GSM8K's solutions mark their arithmetic, as in <<48/2=24>>. A whole number that the question has
once, in digits, and that a mark uses gets a new value. The marks are computed again, where a mark
that uses an earlier result gets the new one. A question is kept if its old numbers give the
published answer and its new ones give positive whole numbers in every mark.
"""

import hashlib
import random
import re
import sys
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measures import command, read_rows, write_rows  # noqa: E402

from cli import BadInput  # noqa: E402

MARK = re.compile(r"<<([^=<>]+)=([^<>]+)>>")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
WHOLE_NUMBER = r"(?<![\d.,/$%])({})(?![\d.,/%]|\s*percent)"
# A solution may take these from a word (half, third, week, dozen, hour), so they stay.
CONSTANTS = {1, 2, 3, 4, 7, 12, 24, 30, 52, 60, 100, 365, 1000}
WORDS = {"5": "fi(ve|fth)", "6": "six", "8": "eigh(t|th)", "9": "nin(e|th)", "10": "ten"}
ATTEMPTS = 50


def value_of(expression):
    """The value of an expression of numbers, + - * / and brackets, as a Fraction; else None."""
    if not re.fullmatch(r"[\d.+\-*/() ]+", expression) or re.search(r"\*\*|//", expression):
        return None
    exact = NUMBER.sub(lambda number: f"Fraction('{number[0]}')", expression)
    try:
        return Fraction(eval(exact, {"__builtins__": {}, "Fraction": Fraction}))
    except (SyntaxError, TypeError, ValueError, ArithmeticError):
        return None


def changeable(question, marks):
    """The numbers of a question, as texts, that may be changed."""
    in_marks, results = set(), set()
    for expression, result in marks:
        in_marks.update(NUMBER.findall(expression))
        results.add(result.strip())
    everything = NUMBER.findall(question)
    found = []
    for number in re.findall(WHOLE_NUMBER.format(r"\d+"), question):
        is_single = everything.count(number) == 1 and number in in_marks - results
        in_words = number in WORDS and re.search(rf"(?i)\b{WORDS[number]}", question)
        if is_single and int(number) not in CONSTANTS and not in_words:
            found.append(number)
    return found


def compute(marks, changes):
    """The value of each mark after `changes`, {old number: new number}; None if one has none."""
    new_numbers, values = dict(changes), []
    for expression, result in marks:
        replaced = NUMBER.sub(
            lambda number: f"({new_numbers.get(number[0], number[0])})", expression
        )
        value = value_of(replaced)
        if value is None:
            return None
        values.append(value)
        new_numbers[result.strip()] = str(value)
    return values


def change(question, answer):
    """(question, answer) with other numbers, or None where that is not safe."""
    marks = MARK.findall(answer)
    published = answer.rpartition("####")[2].strip().replace(",", "")
    numbers = changeable(question, marks)
    before = compute(marks, {})
    if not numbers or not published.isdigit() or not before or before[-1] != int(published):
        return None
    rng = random.Random(hashlib.sha256(question.encode()).hexdigest())
    for _ in range(ATTEMPTS):
        changes = {number: str(new_number(int(number), rng)) for number in numbers}
        after = compute(marks, changes)
        if is_sound(question, changes, before, after):
            for old, new in changes.items():  # no new number is in the question yet
                question = re.sub(WHOLE_NUMBER.format(old), new, question)
            return question, str(after[-1])
    return None


def is_sound(question, changes, before, after):
    """Whether new numbers give whole results, another answer, and no number that is there."""
    if after is None or after[-1] == before[-1]:
        return False
    new_numbers = set(changes.values())
    are_new = len(new_numbers) == len(changes) and new_numbers.isdisjoint(NUMBER.findall(question))
    return are_new and all(value > 0 and value.denominator == 1 for value in after)


def new_number(number, rng):
    """Another whole number of about the same size."""
    low, high = max(2, number // 2), max(4, number * 3 // 2 + 1)
    return rng.choice([value for value in range(low, high + 1) if value != number])


def main(source, target, pairs=None):
    rows, kept = read_rows(source, ("question", "answer")), []
    if pairs:
        of_pairs = {pair["messages"][-1]["content"] for pair in read_rows(pairs, ("messages",))}
        rows = [row for row in rows if row["question"] in of_pairs]
        if not rows:
            raise BadInput(f"{pairs}: asks no question of {source}: give the pairs made from it")
    for row in rows:
        changed = change(row["question"], row["answer"])
        if changed:
            kept.append({"question": changed[0], "answer": f"#### {changed[1]}"})
    write_rows(target, kept)
    print(f"{len(kept)} of {len(rows)} questions with other numbers")


if __name__ == "__main__":
    command(main)
