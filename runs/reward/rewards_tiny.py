"""Rewards for sums of the tiny world that know the right answer, or a judge of known accuracy.

    python train_grpo.py --reward solve:runs.reward.rewards_tiny:NAME ...

    oracle       1 for the right number, else 0
    majority     1 for a most frequent number of its group, else 0
    coin         1 or 0, whatever the answer
    fresh_75     judge_reward with a judge that prefers a right answer to a wrong one in 75 % of its
                 games; each game errs for itself
    fixed_75     the same, but two answers to a question get one verdict, however often they meet
    longer_75    in half of its games the judge takes the longer answer, in the others the better
                 one: 75 % where length says nothing about quality

Between two right or two wrong answers these judges toss a coin.
"""

import random
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tiny")]
import world  # noqa: E402

from data import place  # noqa: E402
from judge import as_pair  # noqa: E402
from rewards import compare_groups, final_answer, group_spans  # noqa: E402
from seeding import stable_hash  # noqa: E402
from verdicts import BOTH_ORDERS, conclude  # noqa: E402


def solution(question):
    """The right number of a question."""
    a, written, b = re.fullmatch(r"(\d+)(\D+)(\d+)", question).groups()
    sign = next(sign for sign, spellings in world.SIGNS.items() if written in spellings)
    return world.result(sign, int(a), int(b))


def number(answer):
    """The number that an answer without its thinking ends with, or None."""
    last = answer.split(" ")[-1]
    return int(last) if re.fullmatch(r"\d{1,9}", last) else None


def is_right(question, completion):
    return number(final_answer(completion)) == solution(question)


def question_of(messages):
    return messages[-1]["content"]


def draw(*keys):
    """A number in [0, 1), always the same for the same keys."""
    return random.Random(stable_hash(*keys)).random()


# ---- rewards that know the answer, or nothing ----


def oracle(prompts, completions, **columns):
    pairs = zip(prompts, completions, strict=True)
    return [float(is_right(question_of(prompt), text)) for prompt, text in pairs]


def majority(prompts, completions, **columns):
    rewards = []
    for start, end in group_spans(prompts):
        numbers = [number(final_answer(text)) for text in completions[start:end]]
        counts = Counter(value for value in numbers if value is not None)
        most = max(counts.values(), default=0)
        rewards += [float(value is not None and counts[value] == most) for value in numbers]
    return rewards


def coin(prompts, completions, **columns):
    keys = zip(map(question_of, prompts), range(len(prompts)), completions, strict=True)
    return [float(draw(*key) < 0.5) for key in keys]


# ---- judges of a given accuracy ----


def noisy_verdict(kind, accuracy, question, shown, *keys):
    """1 or 2: the place that the judge names. keys: what its errors depend on."""
    right = [number(answer) == solution(question) for answer in shown]
    by_length = kind == "longer" and draw(*keys, "length") < 2 * (1 - accuracy)
    if by_length and len(shown[0]) != len(shown[1]):
        return 1 if len(shown[0]) > len(shown[1]) else 2
    if by_length or right[0] == right[1]:
        return 1 if draw(*keys, "coin") < 0.5 else 2
    better = 1 if right[0] else 2
    return better if kind == "longer" or draw(*keys, "error") < accuracy else 3 - better


def simulated_judge(game, seed):
    """What `compare_groups` asks of a Judge; game(pair, order, vote) gives its record of a game."""

    def judge(pairs, num_votes=1, both_orders=True, temperature=0.6, max_completion_length=1024):
        judgments = []
        for pair in map(as_pair, pairs):
            orders = BOTH_ORDERS if both_orders else [place(pair, seed)]
            games = [game(pair, order, vote) for order in orders for vote in range(num_votes)]
            judgments.append(conclude(games))
        return judgments

    return SimpleNamespace(judge=judge, seed=seed, tokenizer=None)


def noisy_judge(kind, accuracy, seed=0):
    """A judge of a kind and an accuracy; see the top of this file."""

    def game(pair, order, vote):
        question, shown = question_of(pair.messages), [pair.answers[index] for index in order]
        keys = seed, pair.id, order, vote
        if kind == "fixed":  # one verdict for two answers, whatever their order
            shown = sorted(shown)
            keys = seed, question, *shown
        verdict = noisy_verdict(kind, accuracy, question, shown, *keys)
        turned = shown[0] != pair.answers[order[0]]
        return {"order": list(order), "verdict": 3 - verdict if turned else verdict}

    return simulated_judge(game, seed)


def __getattr__(name):
    """The judges by name, such as fresh_75."""
    found = re.fullmatch(r"(fresh|fixed|longer)_(\d{2,3})", name)
    if not found or not 50 <= int(found[2]) <= 100:
        raise AttributeError(f"{name}: oracle, majority, coin, or fresh_75, of 50 to 100 %")
    judge = noisy_judge(found[1], int(found[2]) / 100)

    def reward(prompts, completions, **columns):
        """(rewards, matches): with the latter the trainer writes its metrics of the judge."""
        return compare_groups(judge, prompts, completions)

    return reward
