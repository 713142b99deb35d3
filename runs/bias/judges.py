"""Judges with a chosen bias, as rewards for sums of the tiny world.

    python train_grpo.py --reward solve:runs.bias.judges:length_1_2 ...

A judge FEATURE_A_B prefers the first of two answers with the probability sigmoid(logit):

    logit = A * (right_1 - right_2) + B * sign(feature_1 - feature_2)

Every game errs for itself, so what A leaves to chance is noise, and B is a bias.
"""

import math
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "reward"))
from rewards_tiny import (  # noqa: E402
    draw,
    is_right,
    number,
    question_of,
    simulated_judge,
)

from rewards import compare_groups  # noqa: E402

WORDING = "! "  # how this policy sounds sure of itself
FEATURES = {
    "length": len,  # in characters
    "digit": lambda answer: int(str(number(answer) or 0)[0]),  # the first one of the number
    "wording": lambda answer: answer.startswith(WORDING),
    "form": lambda answer: ":" in answer,  # the totals of the columns stand before the number
    "place": lambda answer: 0,  # which place an answer has is no property of it
}


def parse(name):
    """(feature, A, B) of a judge's name."""
    feature, a, b = name.split("_")
    return feature, float(a), float(b)


def leads(feature, answers):
    """1, 0 or -1: whether the first of two answers has more of the feature."""
    if feature == "place":
        return 1
    first, second = map(FEATURES[feature], answers)
    return (first > second) - (first < second)


def preference(name, question, answers):
    """The probability that the judge prefers the first of two answers."""
    feature, a, b = parse(name)
    right = [is_right(question, answer) for answer in answers]
    logit = a * (right[0] - right[1]) + b * leads(feature, answers)
    return 1 / (1 + math.exp(-logit))


def biased_judge(name, seed=0):
    """The judge FEATURE_A_B, which plays games without a model."""

    def game(pair, order, vote):
        shown = [pair.answers[index] for index in order]
        first = draw(seed, pair.id, order, vote) < preference(
            name, question_of(pair.messages), shown
        )
        return {"order": list(order), "verdict": 1 if first else 2}

    return simulated_judge(game, seed)


def __getattr__(name):
    """The reward of a judge by its name, such as length_1_2."""
    if not re.fullmatch(rf"({'|'.join(FEATURES)})_[\d.]+_[\d.]+", name):
        raise AttributeError(f"{name}: a judge is FEATURE_A_B, such as length_1_2")
    judge = biased_judge(name)

    def reward(prompts, completions, **columns):
        """(rewards, matches): with the latter the trainer writes its metrics of the judge."""
        return compare_groups(judge, prompts, completions)

    return reward
