"""GSM8K questions with other numbers, so that a memorised answer is a wrong one.

    python runs/qwen/changed.py out/qwen/questions/test.jsonl out/qwen/questions/changed.jsonl

GSM8K's solutions hold their arithmetic in marks such as <<48/2=24>>. A number that stands once in the
question, in digits, and is used in the marks gets a new value; the marks are computed again, and where
a mark used an earlier result it gets the new one. A question is kept where the old numbers give the
published answer and the new ones give positive whole numbers throughout. The changed question has the
answer of the last mark and no worked solution.
"""

import hashlib
import json
import random
import re
import sys
from fractions import Fraction
from pathlib import Path

MARK = re.compile(r"<<([^=<>]+)=([^<>]+)>>")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
# A solution may take these from a word (half, a third, a week, a dozen, an hour, percent), so they stay.
CONSTANTS = {2, 3, 4, 7, 12, 24, 30, 52, 60, 100, 365, 1000}
WORDS = {5: "fi(ve|fth)", 6: "six", 8: "eigh(t|th)", 9: "nin(e|th)", 10: "ten"}


def value_of(expression):
    """An arithmetic expression of numbers, + - * / and brackets as a Fraction; None for anything else."""
    if not re.fullmatch(r"[\d.+\-*/() ]+", expression) or "**" in expression or "//" in expression:
        return None
    exact = NUMBER.sub(lambda number: f"Fraction('{number[0]}')", expression)
    try:
        return Fraction(eval(exact, {"__builtins__": {}, "Fraction": Fraction}))  # digits alone
    except (SyntaxError, TypeError, ValueError, ZeroDivisionError, ArithmeticError):
        return None


def changeable(question, marks):
    """The whole numbers that stand once in the question, in digits, and are used in the marks.

    Left out: 1, numbers that a solution may have from a word, and results of other marks.
    """
    in_question = re.findall(r"(?<![\d.,/$%])\d+(?![\d.,/%]|\s*(?:%|percent))", question)
    everything = NUMBER.findall(question)
    used = {number for expression, _ in marks for number in NUMBER.findall(expression)}
    results = {result for _, result in marks}
    alone = [number for number in in_question if everything.count(number) == 1 and int(number) > 1]
    alone = [number for number in alone if int(number) not in CONSTANTS]
    alone = [n for n in alone if not re.search(rf"(?i)\b{WORDS.get(int(n), 'x{99}')}", question)]
    return [number for number in alone if number in used and number not in results]


def computed(marks, changes):
    """[value of each mark] when the numbers in `changes` {old: new} are replaced; None if one cannot be."""
    known, values = dict(changes), []
    for expression, result in marks:
        replaced = NUMBER.sub(lambda number: f"({known.get(number[0], number[0])})", expression)
        value = value_of(replaced)
        if value is None:
            return None
        values.append(value)
        known[result.strip()] = value.numerator if value.denominator == 1 else f"{value}"
    return values


def changed(question, answer):
    """(question, answer) with other numbers, or None where that cannot be done safely."""
    marks, reference = MARK.findall(answer), answer.rpartition("####")[2].strip().replace(",", "")
    numbers = changeable(question, marks)
    if not numbers or not reference.isdigit():
        return None
    before = computed(marks, {})
    if before is None or before[-1] != int(reference):
        return None
    rng = random.Random(hashlib.sha256(question.encode()).hexdigest())
    for _ in range(50):
        changes = {number: str(new_number(int(number), rng)) for number in numbers}
        values = computed(marks, changes)
        kept = set(changes.values()).isdisjoint(NUMBER.findall(question))
        if kept and values and all(value > 0 and value.denominator == 1 for value in values):
            if values[-1] != before[-1] and len(set(changes.values())) == len(changes):
                pattern = r"(?<![\d.,/$%])(" + "|".join(numbers) + r")(?![\d.,/%])"
                return re.sub(pattern, lambda found: changes[found[1]], question), str(values[-1])
    return None


def new_number(number, rng):
    """Another whole number of about the same size."""
    low, high = max(2, number // 2), max(4, number * 3 // 2 + 1)
    return rng.choice([value for value in range(low, high + 1) if value != number])


def main(source, target):
    rows = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]
    found = [changed(row["question"], row["answer"]) for row in rows]
    lines = [
        json.dumps({"question": pair[0], "answer": f"#### {pair[1]}"}, ensure_ascii=False)
        for pair in found
        if pair
    ]
    Path(target).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    print(f"{len(lines)} of {len(rows)} questions with other numbers")


if __name__ == "__main__":
    main(*sys.argv[1:])
