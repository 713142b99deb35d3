"""A small world of checkable questions, in which a judge has to think.

It has two families of questions:
- Sums: `347+586`, `92 minus 57`, `38*7`. Their level is the number of digits of the larger number.
  An answer is a number, with or without its steps.
- Lines: `has fig x3, ends oat x2, max 4 x1` asks for a line of words. The quality of an answer is
  the sum of the weights of the constraints that it meets.

Pairs come as siblings: two questions with the same two answers, each of which is better for one of
them. Every property of the answers alone (length, wording, size) is therefore as frequent in better
answers as in worse ones, and a judge has to read the question.
"""

import hashlib
import random

LABELS = ["ones", "tens", "hundreds", "thousands", "myriads"]
SIGNS = {"+": ["+", " plus "], "-": ["-", " minus "], "*": ["*", " times "]}
WORDS = (
    "bean corn date egg fig ham ice jam kale leek lime mint nut oat pea plum rice soy tea yam"
).split()
VERDICTS = "\\boxed{Assistant 1}", "\\boxed{Assistant 2}"
PROMPT = "{query} first: {answer_1} second: {answer_2} better?"  # prompts/tiny.txt
KINDS = ["has", "no", "starts", "ends", "max", "lower"]


def is_test(text):
    """Every tenth question is in the test set, by a hash of its content (not of its wording)."""
    return hashlib.sha256(text.encode()).digest()[0] < 26


# ---- sums ----


def columns(sign, a, b):
    """Yields (text, digit of the result) for each column of a sum, from the ones on, for ever."""
    carry = 0
    while True:
        x, y = a % 10, b % 10
        if sign == "*":
            total = x * b + carry
            text, carry = f"{x}*{b}" + (f"+{carry}" if carry else "") + f"={total}", total // 10
        elif sign == "+":
            total = x + y + carry
            text, carry = f"{x}+{y}" + (f"+{carry}" if carry else "") + f"={total}", total // 10
        else:
            borrow, carry = carry, int(x - y - carry < 0)
            total = x + 10 * carry - y - borrow
            text = f"{x + 10 * carry}-{y}" + (f"-{borrow}" if borrow else "") + f"={total}"
        yield text, total % 10
        a, b = a // 10, b if sign == "*" else b // 10


def result(sign, a, b):
    return a + b if sign == "+" else a - b if sign == "-" else a * b


def digit(number, column):
    return number // 10**column % 10


def draw_sum(rng, level):
    """(sign, a, b) with `level` digits in the larger number."""
    low, high = (10 ** (level - 1) if level > 1 else 1), 10**level - 1
    sign = rng.choice("++--*")
    a = rng.randint(low, high)
    if sign == "*":
        return sign, a, rng.randint(2, 9)
    b = rng.randint(low if rng.random() < 0.7 else 1, high)
    return (sign, max(a, b), min(a, b)) if sign == "-" else (sign, a, b)


def sibling_sum(rng, sum_):
    """Another sum that differs in one digit of one number: its answer is a plausible mistake."""
    sign, a, b = sum_
    for _ in range(100):
        place = rng.randrange(len(str(a)))
        step = rng.choice([1, -1, 1, -1, 2, -2, 5, -5]) * 10**place
        other = (sign, a + step, b) if sign == "*" or rng.random() < 0.5 else (sign, a, b + step)
        _, c, d = other
        if c > 0 and d > 0 and len(str(max(c, d))) == len(str(max(a, b))) and result(*other) >= 0:
            return other
    return None


def sum_answer(rng, sum_):
    """The right number; one time in four after the totals of its columns."""
    value = result(*sum_)
    if rng.random() < 0.75:
        return str(value)
    work = columns(*sum_)
    totals = [next(work)[0].split("=")[1] for _ in str(max(sum_[1:]))]
    return f"{','.join(totals)}: {value}"


def number_of(answer):
    return int(answer.split(" ")[-1])


# ---- lines ----


def words_of(line):
    return line.split()


def is_met(kind, value, line):
    words = words_of(line.lower())
    if kind == "max":
        return len(words) <= value
    if kind == "lower":
        return line == line.lower()
    return {
        "has": value in words,
        "no": value not in words,
        "starts": words[:1] == [value],
        "ends": words[-1:] == [value],
    }[kind]


def quality(constraints, line):
    return sum(weight for kind, value, weight in constraints if is_met(kind, value, line))


def draw_weights(rng, count):
    return rng.sample([1, 2, 3] + [3] * (count - 3), count)


def draw_constraints(rng, count):
    kinds = rng.sample(KINDS, count)
    weights = draw_weights(rng, count)
    words = rng.sample(WORDS, count)
    return [
        (kind, rng.randint(2, 5) if kind == "max" else "" if kind == "lower" else word, weight)
        for kind, word, weight in zip(kinds, words, weights)
    ]


def draw_line(rng, constraints):
    """Words; those of the constraints are mostly in the places where they matter."""
    line = [rng.choice(WORDS) for _ in range(rng.randint(2, 6))]
    for kind, value, _ in constraints:
        if kind in ("has", "no") and rng.random() < 0.5:
            line[rng.randrange(len(line))] = value
        if kind in ("starts", "ends") and rng.random() < 0.6:
            line[0 if kind == "starts" else -1] = value
    if rng.random() < 0.35:
        line[0] = line[0].capitalize()
    return " ".join(line)


def line_query(constraints):
    return ", ".join(
        " ".join(str(part) for part in (kind, value) if part != "") + f" x{weight}"
        for kind, value, weight in constraints
    )


# ---- pairs ----


def sum_siblings(rng, level):
    """(queries, sums, answers, whether held out) of two siblings; answer k is right for sum k."""
    while True:
        first = draw_sum(rng, level)
        second = sibling_sum(rng, first)
        if (
            second
            and result(*first) != result(*second)
            and is_test(key(first)) == is_test(key(second))
        ):
            sign = rng.choice(SIGNS[first[0]])
            queries = [f"{a}{sign}{b}" for _, a, b in (first, second)]
            return (
                queries,
                [first, second],
                [sum_answer(rng, first), sum_answer(rng, second)],
                is_test(key(first)),
            )


def key(task):
    """What is asked, whatever the wording."""
    if isinstance(task, tuple):
        return "".join(map(str, task))
    return " ".join(sorted(line_query([part]) for part in task))


def line_siblings(rng, count):
    while True:
        first = draw_constraints(rng, count)
        second = draw_constraints(rng, count)
        if rng.random() < 0.5:  # siblings that only differ in weights are harder
            second = [
                (kind, value, weight)
                for (kind, value, _), weight in zip(first, draw_weights(rng, count))
            ]
        if is_test(key(first)) != is_test(key(second)):
            continue
        for _ in range(20):
            lines = [draw_line(rng, first + second) for _ in range(2)]
            gaps = [quality(task, lines[0]) - quality(task, lines[1]) for task in (first, second)]
            if gaps[0] * gaps[1] < 0:
                lines = lines if gaps[0] > 0 else lines[::-1]
                return (
                    [line_query(first), line_query(second)],
                    [first, second],
                    lines,
                    is_test(key(first)),
                )


def siblings(rng, levels=(1, 2, 3), lines=(1, 2, 3), share_lines=0.4):
    if rng.random() < share_lines:
        count = rng.choice(lines)
        return "lines", count, *line_siblings(rng, count)
    level = rng.choice(levels)
    return "sums", level, *sum_siblings(rng, level)


# ---- thinking ----


def think_sum(sum_, numbers):
    """Each column: its steps, and the digits of both answers with y or n.

    It stops where one answer is right and the other is not.
    """
    parts = []
    for column, (text, right) in enumerate(columns(*sum_)):
        digits = [digit(number, column) for number in numbers]
        marks = ["ny"[value == right] for value in digits]
        parts.append(f"{LABELS[column]} {text} {digits[0]}{marks[0]}{digits[1]}{marks[1]}")
        if marks[0] != marks[1] or column + 1 == len(LABELS):
            return " " + " ".join(parts)


def what_counts(kind, value, line):
    """The part of a line that decides whether it meets a constraint.

    Its words up to the one that the constraint names, its first or last word, or their number.
    """
    words = words_of(line)
    if kind in ("has", "no"):
        lowered, end = words_of(line.lower()), len(words)
        if value in lowered:
            end = lowered.index(value) + 1
        return " ".join(words[:end])
    return {"max": str(len(words)), "ends": words[-1]}.get(kind, words[0])


def think_line(constraints, lines):
    """Each constraint, for both answers: what counts for it, met or not, the points so far."""
    parts, totals = [], [0, 0]
    for kind, value, weight in constraints:
        parts += [kind, str(value)] if value != "" else [kind]
        for index, line in enumerate(lines):
            met = is_met(kind, value, line)
            totals[index] += weight * met
            place = ("first", "second")[index]
            parts.append(f"{place} {what_counts(kind, value, line)} {'ny'[met]}{totals[index]}")
    return " " + " ".join(parts)


def think(task, answers):
    if isinstance(task, tuple):
        return think_sum(task, [number_of(answer) for answer in answers])
    return think_line(task, answers)


def solve(rng, task):
    """An answer to a question: a right number after its steps, or the best of 40 lines."""
    if not isinstance(task, tuple):
        return max((draw_line(rng, task) for _ in range(40)), key=lambda line: quality(task, line))
    value = result(*task)
    parts = [f"{label} {text}" for label, (text, _), _ in zip(LABELS, columns(*task), str(value))]
    return f"<think> {' '.join(parts)}</think>{value}"


def judgment(task, answers, better):
    return f"<think>{think(task, answers)}</think>{VERDICTS[better]}"


# ---- training rows ----


def judge_messages(query, answers):
    return [
        {
            "role": "user",
            "content": PROMPT.format(query=query, answer_1=answers[0], answer_2=answers[1]),
        }
    ]


def rows(seed, thinking, share_solving=0.1, **options):
    """Yields conversations to learn from, for ever; none is about a test question.

    thinking: the share of judgments that think; the others guess at once. None: judgments solve the
    question, but never compare the answers, and then guess. share_solving: the share of rows that
    answer a question instead.
    """
    rng = random.Random(f"rows:{seed}")
    while True:
        _, _, queries, tasks, answers, held_out = siblings(
            rng,
            **({"levels": (1, 2, 3, 3, 4), "lines": (1, 1, 2, 3), "share_lines": 0.6} | options),
        )
        if held_out:
            continue
        if rng.random() < share_solving:
            index = rng.randrange(2)
            yield [
                {"role": "user", "content": queries[index]},
                {"role": "assistant", "content": solve(rng, tasks[index])},
            ]
            continue
        for index in (0, 1):
            order = rng.choice([[0, 1], [1, 0]])
            shown = [answers[place] for place in order]
            text = rng.choice(VERDICTS)
            if thinking is None:
                work = (
                    solve(rng, tasks[index])
                    if isinstance(tasks[index], tuple)
                    else f"<think> {queries[index]}</think>"
                )
                text = work[: work.index("</think>")] + "</think>" + text
            elif rng.random() < thinking:
                text = judgment(tasks[index], shown, order.index(index))
            yield [*judge_messages(queries[index], shown), {"role": "assistant", "content": text}]


def pairs(seed, count, held_out, **options):
    """`count` labelled pairs, siblings next to each other, as data.py reads them."""
    rng, rows, seen = random.Random(f"pairs:{seed}"), [], set()
    while len(rows) < count:
        family, level, queries, tasks, answers, is_held_out = siblings(rng, **options)
        if is_held_out != held_out or (tuple(queries), tuple(answers)) in seen:
            continue
        seen.add((tuple(queries), tuple(answers)))
        for index, query in enumerate(queries):
            label = rng.randrange(2)  # the place in the file says nothing either
            a, b = (answers[index], answers[1 - index])[:: 1 if label == 0 else -1]
            rows.append(
                {
                    "id": f"{family}-{level}-{len(rows)}",
                    "query": query,
                    "a": a,
                    "b": b,
                    "label": label,
                    "family": family,
                    "level": level,
                }
            )
    return rows
