"""The solver that the rewards of this folder train: it solves sums of the tiny world, not always.

    python runs/reward/student.py init FOLDER                random weights, not the judge's own
    python runs/reward/student.py rows COUNT FILE [KIND]     conversations for train_sft.py
    python runs/reward/student.py questions COUNT FILE       training questions, without answers
    python runs/reward/student.py test COUNT FILE            held-out questions with answers

A `reader` works out 45 % of its sums. In 30 % it works out a sum that differs in one digit (a slip
of reading), and in 25 % it guesses one of the two numbers. A `forgetful` student leaves out every
carry and borrow in 60 % of its rows, so where there is one, its most frequent answer is wrong. One
answer in four gives the totals of its columns before the number, as in `13,13,9: 933`, so length
says nothing about quality.
"""

import random
import sys
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tiny"), str(ROOT / "runs"), str(ROOT)]
import world  # noqa: E402
from measures import write_rows  # noqa: E402

SHARES = {
    "reader": {"works": 0.45, "slips": 0.3, "guesses": 0.25},
    "forgetful": {"works": 0.3, "forgets": 0.6, "guesses": 0.1},
}


def draw_question(rng, held_out):
    """(question, sum, another sum that is a slip away), both on one side of the world's split."""
    while True:
        task = world.draw_sum(rng, rng.choice((2, 3)))  # digits, as in the judge's own pairs
        slip = world.sibling_sum(rng, task)
        if slip and world.is_test(world.key(task)) == held_out == world.is_test(world.key(slip)):
            return f"{task[1]}{rng.choice(world.SIGNS[task[0]])}{task[2]}", task, slip


def without_carry(task):
    """(working, column totals, answer) of a sum in which no column knows of the one before."""
    sign, a, b = task
    num_columns = len(str(a if sign == "*" else max(a, b)))
    steps, totals = [], []
    for column in range(num_columns):
        x, y = world.digit(a, column), b if sign == "*" else world.digit(b, column)
        if sign == "-" and x < y:
            x += 10
        totals.append(world.result(sign, x, y))
        steps.append(f"{world.LABELS[column]} {x}{sign}{y}={totals[-1]}")
    *lower, last = totals  # the last total is written in full
    value = last * 10 ** len(lower) + sum(total % 10 * 10**i for i, total in enumerate(lower))
    return f"<think> {' '.join(steps)}</think>", totals, value


def rows(kind="reader", seed=0):
    """Yields conversations without end."""
    rng = random.Random(f"student:{seed}")
    while True:
        question, task, slip = draw_question(rng, held_out=False)
        way = rng.choices(list(SHARES[kind]), SHARES[kind].values())[0]
        done = slip if way == "slips" or (way == "guesses" and rng.random() < 0.5) else task
        work = ""
        if way != "guesses":
            work = world.solve(rng, done).partition("</think>")[0] + "</think>"
        answer = world.sum_answer(rng, done)
        if way == "forgets":
            work, totals, value = without_carry(task)
            prefix = ",".join(map(str, totals)) + ": " if ":" in answer else ""
            answer = f"{prefix}{value}"
        turns = [("user", question), ("assistant", work + answer)]
        yield {"messages": [{"role": role, "content": text} for role, text in turns]}


def questions(held_out):
    """Yields different questions without end; those that are held out have answers."""
    rng, seen = random.Random(f"questions:{held_out}"), set()
    while True:
        question, task, _ = draw_question(rng, held_out)
        if world.key(task) not in seen:
            seen.add(world.key(task))
            row = {"question": question}
            if held_out:
                row["answer"] = str(world.result(*task))
            yield row


def make_init(folder):
    """The judge's first weights, each matrix shuffled: another draw of the same distribution."""
    import torch
    from make import make_init

    from model import Model

    make_init(folder)
    model = Model.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                order = torch.randperm(weight.numel(), generator=generator)
                weight.copy_(weight.flatten()[order].view_as(weight))
    model.save_pretrained(folder)


def main(command, *arguments):
    if command == "init":
        make_init(*arguments)
        return
    count, path, *kind = arguments
    stream = rows(*kind) if command == "rows" else questions(held_out=command == "test")
    write_rows(path, islice(stream, int(count)))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
