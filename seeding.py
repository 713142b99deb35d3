"""Stable hashes and uniform numbers from texts and integers: the same in every process, on every machine."""

import hashlib
import json


def stable_hash(*texts):
    """64 bits of texts or message lists: the same in every process, on every machine."""
    return int(hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16], 16)


GOLDEN = 0x9E3779B97F4A7C15  # SplitMix64 (Steele, Lea, Flood 2014): the odd step between two states


MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def signed(value):
    """A Python integer modulo 2^64 as the int64 that has its bits."""
    return (value + 2**63) % 2**64 - 2**63


def hash64(*numbers):
    """Folds integers into 64 well-mixed bits, on the host: the start of a row's random stream."""
    state = 0
    for number in numbers:
        state = ((state ^ number % 2**64) + GOLDEN) % 2**64
        for shift, factor in MIX:
            state = (state ^ state >> shift) * factor % 2**64
        state ^= state >> 31
    return signed(state)


def uniform(key):  # in [0, 1), from a text; Python's own hash differs from process to process
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
