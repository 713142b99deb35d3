"""Rewards for sums of the tiny world that know the right answer, or pretend to: what a judge as reward is held against.

    python train_grpo.py --reward solve:runs.reward.rewards_tiny:NAME --scale_rewards none ...        (from the repository's folder)

    oracle       1 for the right number, else 0
    majority     1 for the number that is most frequent in its group, else 0 (equally frequent ones: 1 each)
    coin         1 or 0, whatever the answer
    tiny_elo     `judge_reward` with the embedded judge and another rating than `shrunk`; also tiny_win_rate
    fresh_75     `judge_reward` with a judge that prefers a right answer to a wrong one in 75 % of its games; each game errs for itself
    fixed_75     the same, but two answers to a question have one verdict, however often they meet: no number of games averages it out
    longer_75    in 2 * 25 % of its games the judge takes the longer answer, in the others the better one: 75 % where length says nothing

Between two right or two wrong answers these judges throw a coin (longer: in the games that are not about length). Only the judge differs
from the real one: schedule, ratings and draws are those of rewards.py; fixed_75_elo or _win_rate takes another rating than `shrunk`.
"""

import functools
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
from judge import Judge, as_pair
from rewards import SCALES, compare_groups, final_answer, group_spans  # noqa: E402
from seeding import stable_hash  # noqa: E402
from verdicts import BOTH_ORDERS, conclude  # noqa: E402

SUM = re.compile(r"(\d+)(\+|-|\*| plus | minus | times )(\d+)")


def solution(question):
    """The right number of a question."""
    a, sign, b = SUM.fullmatch(question).groups()
    return world.result(
        next(name for name, signs in world.SIGNS.items() if sign in signs), int(a), int(b)
    )


def number(answer):
    """The number that an answer without its thinking ends with, None if it ends otherwise."""
    words = answer.split(" ")
    return int(words[-1]) if re.fullmatch(r"\d{1,9}", words[-1]) else None


def question_of(prompt):
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def oracle(prompts, completions, **columns):
    return [
        float(number(final_answer(text)) == solution(question_of(prompt)))
        for prompt, text in zip(prompts, completions, strict=True)
    ]


def majority(prompts, completions, **columns):
    numbers, rewards = [number(final_answer(text)) for text in completions], []
    for start, end in group_spans(prompts):
        counts = Counter(value for value in numbers[start:end] if value is not None)
        rewards += [
            float(value is not None and counts[value] == max(counts.values()))
            for value in numbers[start:end]
        ]
    return rewards


def coin(prompts, completions, **columns):
    return [
        float(random.Random(stable_hash(question_of(prompt), index, text)).random() < 0.5)
        for index, (prompt, text) in enumerate(zip(prompts, completions, strict=True))
    ]


def noisy_verdict(kind, accuracy, question, shown, draw):
    """1 or 2. draw(name): a number in [0, 1), the same for the same name where errors are fixed."""
    right = [number(answer) == solution(question) for answer in shown]
    if kind == "longer" and draw("length") < 2 * (1 - accuracy) and len(shown[0]) != len(shown[1]):
        return 1 if len(shown[0]) > len(shown[1]) else 2
    if right[0] == right[1] or kind == "longer" and draw("length") < 2 * (1 - accuracy):
        return 1 if draw("coin") < 0.5 else 2
    better = 1 if right[0] else 2
    return better if kind == "longer" or draw("error") < accuracy else 3 - better


def noisy_judge(kind, accuracy, seed=0):
    """What `judge_reward` asks of a Judge: `judge`, `seed`, and no tokenizer."""

    def judge(pairs, num_votes=1, both_orders=True, temperature=0.6, max_completion_length=1024):
        judgments = []
        for pair in map(as_pair, pairs):
            question, games = question_of(pair.messages), []
            for order in BOTH_ORDERS if both_orders else [place(pair, seed)]:
                shown = [pair.answers[index] for index in order]
                for vote in range(num_votes):
                    if (
                        kind == "fixed"
                    ):  # a function of the two answers as a set, so the verdict is found for them in sorted order
                        first = noisy_verdict(
                            kind,
                            accuracy,
                            question,
                            sorted(shown),
                            draws(seed, question, *sorted(shown)),
                        )
                        verdict = first if shown == sorted(shown) else 3 - first
                    else:
                        verdict = noisy_verdict(
                            kind, accuracy, question, shown, draws(seed, pair.id, order, vote)
                        )
                    games.append({"order": list(order), "verdict": verdict})
            judgments.append(conclude(games))
        return judgments

    return SimpleNamespace(judge=judge, seed=seed, tokenizer=None)


def draws(*keys):
    return lambda name: random.Random(stable_hash(*keys, name)).random()


def compare_groups_of(judge, prompts, completions, scale, max_completion_length=1024, **columns):
    """(rewards, GroupMatches): with the latter the trainer writes its metrics of the judge."""
    return compare_groups(
        judge, prompts, completions, scale=scale, max_completion_length=max_completion_length
    )


@functools.cache
def tiny_judge():
    return Judge("tiny", dtype="float32")


def tiny_elo(prompts, completions, **columns):
    return compare_groups_of(tiny_judge(), prompts, completions, "elo", 96)


def tiny_win_rate(prompts, completions, **columns):
    return compare_groups_of(tiny_judge(), prompts, completions, "win_rate", 96)


def __getattr__(name):
    """Judges by name, such as fresh_75."""
    found = re.fullmatch(f"(fresh|fixed|longer)_(\\d{{2,3}})(?:_({'|'.join(SCALES)}))?", name)
    if not found or not 50 <= int(found[2]) <= 100:
        raise AttributeError(
            f"{name}: there are oracle, majority, coin, and fresh_, fixed_, longer_ with an accuracy of 50 to 100"
        )
    judge = noisy_judge(found[1], int(found[2]) / 100)
    return functools.partial(compare_groups_of, judge, scale=found[3] or "shrunk")
