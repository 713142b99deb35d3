"""Checks every step of a judgment of the tiny world. rules.md defines the terms.

check("347+586", ["933", "923"], "<think> ones 7+6=13 3y3y tens 4+8+1=13 3y2n</think>...")
    steps        [["ones 7+6=13", "true"], ["ones first 3y", "true"], ...]
    counts       {"true": 6, "false": 0, "irrelevant": 0, "missing": 0}
    score        1.0: the share of true steps among all of these
    reasons      "right", "wrong" or "guess"
    conclusion   1 or 2: the answer that the judgment's own marks favour; None: neither
"""

import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runs"), str(ROOT / "tiny")]
import world  # noqa: E402

PLACES = "first", "second"
WORKING = re.compile(r"(\d+)([-+*])(\d+)([-+]\d+)?=(\d+)")


def read_task(query):
    """The (sign, a, b) of a sum, or the constraints of a line, from the text of a question."""
    found = re.fullmatch(r"(\d+)(\D+)(\d+)", query)
    if found:
        sign = next(sign for sign, spelt in world.SIGNS.items() if found[2] in spelt)
        return sign, int(found[1]), int(found[3])
    constraints = []
    for part in query.split(", "):
        kind, *value, weight = part.split()
        value = value[0] if value else ""
        constraints.append((kind, int(value) if kind == "max" else value, int(weight[1:])))
    return constraints


# ---- what a judgment says: [(key, claim)]; the key None marks text that is no step ----


def normal(working):
    """The working of a column, the operands of + and * in order of size."""
    found = WORKING.fullmatch(working)
    if not found:
        return None
    a, sign, b, carry, total = found.groups()
    if sign != "-":
        a, b = sorted([int(a), int(b)])
    return f"{a}{sign}{b}{carry or ''}={total}"


def read_sum(words):
    column, steps = None, []
    for word in words:
        marks = re.fullmatch(r"(\d[ny])(\d[ny])?", word)
        if word in world.LABELS:
            column = word
        elif column and normal(word):
            steps.append(((column, "work"), normal(word)))
        elif column and marks:
            steps += [
                ((column, place), mark) for place, mark in zip(PLACES, marks.groups()) if mark
            ]
        else:
            steps.append((None, word))
    return steps


def read_line(words):
    """The words of a header and of a claim are collected until the next keyword or mark."""
    header, in_header, place, said, steps = None, False, None, [], []
    for word in [*words, None]:
        if place and word and re.fullmatch(r"[ny]\d+", word):
            key = (" ".join(header), place) if header else None
            steps.append((key, " ".join([*said, word])))
            place, said = None, []
        elif word is None or word in PLACES or word in world.KINDS:
            if place or said:  # a claim without its end, or words that belong to nothing
                steps.append((None, " ".join(said)))
            in_header = word in world.KINDS
            header = [word] if in_header else header
            place, said = word if word in PLACES else None, []
        elif in_header:
            header.append(word)
        else:
            said.append(word)
    return steps


# ---- what is true ----


def true_of_sum(sum_, answers, said):
    """{key: true claim} of every step that the verdict needs."""
    numbers, found = [world.number_of(answer) for answer in answers], {}
    for index, (working, right) in zip(range(len(world.LABELS)), world.columns(*sum_)):
        column, marks = world.LABELS[index], []
        found[column, "work"] = normal(working)
        for place, number in zip(PLACES, numbers):
            digit = world.digit(number, index)
            marks.append("ny"[digit == right])
            found[column, place] = f"{digit}{marks[-1]}"
        if marks[0] != marks[1]:
            break
    return found


def true_of_line(constraints, answers, said):
    """The same; the points so far are those of the constraints in the order that was written."""
    headers = {" ".join(f"{part[0]} {part[1]}".split()): part for part in constraints}
    written = [key[0] for key, _ in said if key and key[0] in headers]
    totals, found = [0, 0], {}
    for header in dict.fromkeys([*written, *headers]):
        kind, value, weight = headers[header]
        for index, (place, line) in enumerate(zip(PLACES, answers)):
            met = world.is_met(kind, value, line)
            totals[index] += weight * met
            quoted = world.what_counts(kind, value, line)
            found[header, place] = f"{quoted} {'ny'[met]}{totals[index]}"
    return found


def concluded(said, is_sum):
    """1 or 2: the answer that what is said favours; None if it favours neither."""
    points, marks = {}, {}
    for key, claim in said:
        if key and is_sum and key[1] in PLACES:
            marks.setdefault(key[0], {})[key[1]] = claim[-1]
            pair = [marks[key[0]].get(place) for place in PLACES]
            if sorted(map(str, pair)) == ["n", "y"]:
                return pair.index("y") + 1
        elif key and not is_sum:
            points[key[1]] = int(claim.split()[-1][1:])
    if len(points) < 2 or points["first"] == points["second"]:
        return None
    return 1 if points["first"] > points["second"] else 2


def check(query, answers, text):
    """answers: in the order in which they were shown. text: the completion of the judge."""
    task = read_task(query)
    is_sum = isinstance(task, tuple)
    words = text.partition("<think>")[2].partition("</think>")[0].split()
    said = (read_sum if is_sum else read_line)(words)
    truth = (true_of_sum if is_sum else true_of_line)(task, answers, said)
    steps, seen = [], set()
    for key, claim in said:
        status = "irrelevant"
        if key in truth and key not in seen:
            status = "true" if claim == truth[key] else "false"
        seen.add(key)
        steps.append([" ".join([*(part for part in key or () if part != "work"), claim]), status])
    steps += [[f"{' '.join(key)}: {truth[key]}", "missing"] for key in truth if key not in seen]
    counts = {"true": 0, "false": 0, "irrelevant": 0, "missing": 0}
    counts |= Counter(status for _, status in steps)
    reasons = "right" if counts["true"] == len(truth) else "wrong"
    if counts["true"] + counts["false"] == 0:
        reasons = "guess"
    return {
        "steps": steps,
        "counts": counts,
        "score": counts["true"] / len(steps),
        "reasons": reasons,
        "conclusion": concluded(said, is_sum),
    }


def reasons_reward(prompts, completions, right_verdict, pair, order, verdict, **columns):
    """2 x step score - 1 for a right verdict, -1 for any other. For train_grpo.py --reward."""
    rewards = []
    for text, right, item, shown, given in zip(completions, right_verdict, pair, order, verdict):
        answers = [item.answers[index] for index in shown]
        score = check(item.messages[-1]["content"], answers, text)["score"] if given == right else 0
        rewards.append(2.0 * score - 1.0)
    return rewards
