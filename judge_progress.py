"""How far a long judging is: a bar on a terminal, a note now and then elsewhere."""

import math
import os
import time

from tqdm import tqdm

from cli import note


def note_every(seconds):
    """A `note` for long work without a bar: silent until so many seconds have passed."""
    last = time.monotonic()

    def say(message):
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            note(message)

    return say


class Progress:
    """How much of a long work is done: a bar on a terminal, elsewhere a note every 30 seconds."""

    def __init__(self, doing, unit, total, done=0, quiet=False):
        self.doing, self.unit, self.total, self.done = doing, unit, total, done
        is_first = os.environ.get("RANK", "0") == "0"
        self.bar = tqdm(
            desc=doing,
            unit=unit,
            total=total,
            initial=done,
            leave=False,
            dynamic_ncols=True,
            disable=quiet or not is_first or None,  # None: a bar only on a terminal
        )
        self.note = note_every(math.inf if quiet else 30)

    def move_to(self, done):
        self.bar.update(done - self.done)
        self.done = done
        if self.bar.disable:
            self.note(f"{self.doing}: {done} of {self.total} {self.unit}s")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()


def note_rest(usage, prices, done, left, unit):
    """Notes after the first chunk of a long work what the rest will take."""
    if left > done:
        words = usage.scaled(left / done).in_words(*prices)
        note(f"the other {left} {unit}s will take about {words}")
