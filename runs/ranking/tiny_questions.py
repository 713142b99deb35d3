"""Held-out questions of the tiny world with 16 answers each, to be ranked: python runs/ranking/tiny_questions.py > questions.jsonl

100 sums of two and three digits: an answer is right with a chance of 0.3, else a plausible slip, with or without its working (score 1 or 0).
100 lines with three constraints, written at random with the demanded words in them more often than not; the score is the number of points.
Every second one of these is `tied`: at least three of the answers, and none better, have three points, some for the heaviest constraint and some for the
two others, and no order among them is right. A sum of points cannot run in circles, but verdicts on such answers can.
"""

import json
import random
import sys
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tiny"))
import world  # noqa: E402

NUM_ANSWERS = 16


def sum_question(rng):
    while True:
        task = world.draw_sum(rng, rng.choice((2, 3)))
        if world.is_test(world.key(task)):
            break
    slips = [
        slip
        for slip in (world.sibling_sum(rng, task) for _ in range(8))
        if slip and world.result(*slip) != world.result(*task)
    ]
    tasks = [task if rng.random() < 0.3 else rng.choice(slips) for _ in range(NUM_ANSWERS)]
    sign, a, b = task
    texts = [world.sum_answer(rng, drawn) for drawn in tasks]
    return f"{a}{rng.choice(world.SIGNS[sign])}{b}", texts, [int(drawn == task) for drawn in tasks]


def met_by(constraints, line):
    return frozenset(
        constraint for constraint in constraints if world.is_met(*constraint[:2], line)
    )


def line_question(rng, tied):
    """Weights are 1, 2 and 3, so there are two ways to 3 points: a tied question has nothing better among its answers, and both ways."""
    while True:
        constraints = world.draw_constraints(rng, 3)
        if not world.is_test(world.key(constraints)):
            continue
        lines = (world.draw_line(rng, constraints) for _ in range(400))
        lines = list(
            islice(
                (line for line in lines if not tied or world.quality(constraints, line) <= 3),
                NUM_ANSWERS,
            )
        )
        points = [world.quality(constraints, line) for line in lines]
        best = [line for line, value in zip(lines, points) if value == max(points)]
        if (
            len(lines) == NUM_ANSWERS
            and (len(best) >= 3 and len({met_by(constraints, line) for line in best}) == 2) == tied
        ):
            return world.line_query(constraints), lines, points


def questions(num_each=100, seed="ranking"):
    rng, seen, rows = random.Random(seed), set(), []
    while len(rows) < 2 * num_each:
        kind = ("sum", "tied", "sum", "line")[len(rows) % 4]
        query, texts, scores = (
            sum_question(rng) if kind == "sum" else line_question(rng, kind == "tied")
        )
        if query in seen or len(set(scores)) == 1:  # nothing to choose
            continue
        seen.add(query)
        rows.append(
            {"id": f"{kind}-{len(rows)}", "query": query, "candidates": texts, "scores": scores}
        )
    return rows


if __name__ == "__main__":
    for row in questions():
        print(json.dumps(row))
