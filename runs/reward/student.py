"""The solver that the rewards of this folder train: a base of its own in the tiny world, which solves sums, not always well.

    python runs/reward/student.py init FOLDER              random weights that are not those the judge began with
    python runs/reward/student.py rows COUNT FILE [KIND]   conversations for train_sft.py; KIND: reader (default) or forgetful
    python runs/reward/student.py questions COUNT FILE     training questions, without answers
    python runs/reward/student.py test COUNT FILE          held-out questions with answers

Of its rows 45 % work the sum out, 30 % work a sum out that differs in one digit (a slip of reading), 25 % guess one of the two numbers at
once. Each of these answers one time in four with the totals of the columns before the number, `13,13,9: 933`: so length says nothing
about quality. The forgetful student is the same, but in place of slips of reading it leaves out every carry and borrow, in 60 % of its rows:
where there is one, its most frequent answer is wrong. Only answers without their thinking are compared, so whether a number was worked out cannot be seen either.
"""

import itertools
import json
import random
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tiny")]
import world  # noqa: E402

LEVELS = 2, 3  # digits of the larger number, as in the judge's own pairs
SHARES = {
    "reader": {"works": 0.45, "slips": 0.3, "guesses": 0.25},
    "forgetful": {"works": 0.3, "forgets": 0.6, "guesses": 0.1},
}


def draw_question(rng, held_out):
    """(question, sum, another sum that is a slip away), all on one side of the world's split."""
    while True:
        task = world.draw_sum(rng, rng.choice(LEVELS))
        slip = world.sibling_sum(rng, task)
        if slip and world.is_test(world.key(task)) == held_out == world.is_test(world.key(slip)):
            return f"{task[1]}{rng.choice(world.SIGNS[task[0]])}{task[2]}", task, slip


def without_carry(task):
    """(working, answer) of a sum in which no column knows of the one before; the last one is written in full."""
    sign, a, b = task
    totals, parts = [], []
    for column, label in zip(range(len(str(a if sign == "*" else max(a, b)))), world.LABELS):
        x, y = world.digit(a, column), b if sign == "*" else world.digit(b, column)
        x += 10 * (sign == "-" and x < y)
        totals.append({"+": x + y, "-": x - y, "*": x * y}[sign])
        parts.append(f"{label} {x}{sign}{y}={totals[-1]}")
    value = sum(total % 10 * 10**column for column, total in enumerate(totals[:-1])) + totals[
        -1
    ] * 10 ** (len(totals) - 1)
    return f"<think> {' '.join(parts)}</think>", value, totals


def rows(kind="reader", seed=0):
    """Conversations without end."""
    rng = random.Random(f"student:{seed}")
    while True:
        question, task, slip = draw_question(rng, held_out=False)
        way = rng.choices(list(SHARES[kind]), SHARES[kind].values())[0]
        done = slip if way == "slips" or way == "guesses" and rng.random() < 0.5 else task
        work = (
            "" if way == "guesses" else world.solve(rng, done).partition("</think>")[0] + "</think>"
        )
        answer = world.sum_answer(rng, done)
        if way == "forgets":
            work, value, totals = without_carry(task)
            answer = f"{','.join(map(str, totals))}: {value}" if ":" in answer else str(value)
        yield {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": work + answer},
            ]
        }


def questions(held_out):
    """Different questions without end; those that are held out have answers."""
    rng, seen = random.Random(f"questions:{held_out}"), set()
    while True:
        question, task, _ = draw_question(rng, held_out)
        if world.key(task) not in seen:
            seen.add(world.key(task))
            yield {
                "question": question,
                **({"answer": str(world.result(*task))} if held_out else {}),
            }


def make_init(folder):
    """The shape of the judge's first weights, each matrix shuffled: another draw from the same distribution."""
    import torch
    from make import make_init

    from model import Model

    make_init(folder)
    model, generator = (
        Model.from_pretrained(folder, dtype=torch.float32),
        torch.Generator().manual_seed(1),
    )
    with torch.no_grad():
        for weight in (weight for weight in model.parameters() if weight.dim() == 2):
            weight.copy_(
                weight.flatten()[torch.randperm(weight.numel(), generator=generator)].view_as(
                    weight
                )
            )
    model.save_pretrained(folder)


def main(command, *arguments):
    if command == "init":
        return make_init(*arguments)
    count, path, *kind = arguments
    stream = {
        "rows": lambda: rows(*kind),
        "questions": lambda: questions(False),
        "test": lambda: questions(True),
    }[command]()
    Path(path).write_text(
        "".join(json.dumps(row) + "\n" for row in itertools.islice(stream, int(count)))
    )


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) > 1 else print(__doc__)
