"""Splits by question: no question is in both parts, however many pairs it has.

train, test = split_by_question(load_pairs("pairs.jsonl"), held_out=200)
"""

from cli import BadInput
from questions import question_key, split_off
from seeding import uniform


def split_by_question(items, held_out, seed=0):
    """(train, test) without a common question, whatever the order of rows. Raises BadInput.

    `held_out`: a number (int) or a share (float) of the questions. A share takes the questions
    whose hash is below it (at least one, not all), so each is on the same side in every file.
    """
    hashes = {}
    for key in map(question_key, items):
        hashes[key] = uniform(f"split:{seed}:{key}")
    number = held_out if isinstance(held_out, int) else 0
    if isinstance(held_out, float) and 0 < held_out < 1:
        number = sum(value < held_out for value in hashes.values())
        number = min(max(number, 1), len(hashes) - 1)
    if not 0 < number < len(hashes):
        raise BadInput(
            f"held_out is {held_out} with {len(hashes)} questions: hold out a share below 1 "
            f"or a number below {len(hashes)}"
        )
    return split_off(items, number, seed)
