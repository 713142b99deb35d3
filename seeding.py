"""What is the same in every process, on every machine and day: hashes, uniform numbers, a date.

Python's own `hash` of a text differs from process to process.
"""

import hashlib
import json
import operator
import random

# Chat templates that write today's date (`strftime_now`) get this one, which result files hold: a
# command that is repeated or resumed tomorrow has the same prompts.
CHAT_DATE = "2024-07-26"
# SplitMix64 (Steele, Lea, Flood 2014): its step between two states, and its shifts and factors.
GOLDEN = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def stable_hash(*texts):
    """64 bits of texts, message lists or integers."""
    return int(hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16], 16)


def uniform(text):
    """A number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def some_items(items, limit):
    """At most `limit` of some items with an id, drawn by it: a file may be sorted by source."""
    return sorted(items, key=lambda item: random.Random(f"eval:{item.id}").random())[:limit]


def hash64(*numbers):
    """Folds integers into 64 well-mixed bits, as an int64: the start of a row's random stream."""
    state = 0
    for number in numbers:
        state = ((state ^ operator.index(number) % 2**64) + GOLDEN) % 2**64
        for shift, factor in MIX:
            state = (state ^ state >> shift) * factor % 2**64
        state ^= state >> 31
    return signed(state)


def uniforms(streams, positions):
    """Numbers in [0, 1), fp32: number `position` of the random stream `stream`, both int64.

    It is the upper 24 bits of that output of SplitMix64, started at `stream`.
    """
    state = streams + (positions + 1) * signed(GOLDEN)  # int64 wraps around, as SplitMix64 asks
    for shift, factor in MIX:
        state = (state ^ shift_right(state, shift)) * signed(factor)
    state = state ^ shift_right(state, 31)
    return shift_right(state, 40).float() / 2**24


def shift_right(state, bits):
    """state >> bits as for unsigned numbers: >> of an int64 tensor repeats the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def signed(value):
    """A Python integer modulo 2^64 as the int64 with the same bits."""
    return (value + 2**63) % 2**64 - 2**63
