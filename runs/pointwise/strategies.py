"""Two kinds of judge that learn from the same pairs, and ways to value a group of answers.

    OUT=FOLDER python train_grpo.py --reward solve:runs.pointwise.strategies:weak_1_votes_2 ...

A *pairwise* judge says which of two answers is better. A *pointwise* judge scores one answer by
itself. A strategy is how many votes or matches a group gets: see STRATEGIES. A reward is named
START_SEED_STRATEGY; `pointwise.py` makes its judge. OUT/usage counts what the judge wrote.
"""

import functools
import json
import os
import random
import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tiny"), str(ROOT / "runs/reward")]
import world  # noqa: E402

from data import Pair  # noqa: E402
from extras.rank_file import rank_together  # noqa: E402
from extras.score import Scorer  # noqa: E402
from judge import Judge  # noqa: E402
from rewards import compare_groups, final_answer, group_spans, match_rewards, score_without_judge  # noqa: E402
from schedules import run_schedule  # noqa: E402
from seeding import stable_hash  # noqa: E402
from tournament import knockout  # noqa: E402

SUMS = {"levels": (2, 3), "share_lines": 0}
SCALES = {"binary": 1, "graded": 4}  # the highest score; the lowest is 0
POINTWISE = "votes_1", "votes_2", "votes_4"
PAIRWISE = "opponents_1", "opponents_2", "opponents_4", "opponents_7", "knockout", "halving"
STRATEGIES = POINTWISE + PAIRWISE
HALVING_GAMES = 12  # of a group of eight: four among all, four among the best four, four of two
LIMIT = 96  # tokens of a judgment
STEPS = 200  # of a judge's training

# ---- what the judges learn from ----


def rows(kind, seed):
    """Conversations without end: a pair is one row for a pairwise judge, else one for each answer.

    kind: pairwise, or the scale of a pointwise judge. All kinds with a seed see the same pairs.
    """
    rng = random.Random(f"pointwise:{seed}")
    while True:
        _, _, queries, tasks, answers, held_out = world.siblings(rng, **SUMS)
        if held_out:
            continue
        for index in (0, 1):
            order = rng.choice([[0, 1], [1, 0]])
            shown = [answers[place] for place in order]
            if kind == "pairwise":
                messages = world.judge_messages(queries[index], shown)
                text = world.judgment(tasks[index], shown, order.index(index))
                yield {"messages": [*messages, {"role": "assistant", "content": text}]}
                continue
            for answer in shown:
                prompt = f"{queries[index]} first: {answer} better?"
                turns = ("user", prompt), ("assistant", rating(tasks[index], answer, kind))
                yield {"messages": [{"role": role, "content": text} for role, text in turns]}


def rating(task, answer, scale):
    """The judgment of one answer: its columns up to the first one that is wrong, and a score.

    binary: 1 if the answer is right, else 0. graded: 4 if it is right, else its right columns
    before the first wrong one, at most 3.
    """
    value, right = world.number_of(answer), world.result(*task)
    num_columns = max(len(str(value)), len(str(right)))
    parts, fitting = [], 0
    for column, (text, expected) in zip(range(num_columns), world.columns(*task)):
        digit = world.digit(value, column)
        parts.append(f"{world.LABELS[column]} {text} {digit}{'ny'[digit == expected]}")
        if digit != expected:
            break
        fitting += 1
    score = SCALES[scale] if value == right else 0
    if scale == "graded" and value != right:
        score = min(fitting, 3)
    return f"<think> {' '.join(parts)}</think>\\boxed{{{score}}}"


# ---- strategies ----


def kind_of(strategy):
    return "graded" if strategy in POINTWISE else "pairwise"


def load(kind, folder):
    """A Judge or a Scorer; it puts a prompt file with its scale into its folder."""
    if kind == "pairwise":
        return Judge(str(folder), style="tiny", dtype="float32")
    prompt = Path(folder) / "score.txt"
    prompt.write_text(f"scale: 0 {SCALES[kind]}\n=== user\n{{query}} first: {{answer}} better?\n")
    return Scorer(str(folder), style=str(prompt), dtype="float32")


def usage_of(judge):
    """{calls, prompt_tokens, completion_tokens} since the judge was loaded."""
    backend = judge.judge.backend if isinstance(judge, Scorer) else judge.backend
    names = "calls", "prompt_tokens", "completion_tokens"
    return {name: getattr(backend.usage, name) for name in names}


def values_of(judge, strategy, questions, groups):
    """What a strategy finds each answer worth, [question][answer].

    groups: the completions of each question. An empty answer loses without being judged.
    """
    prompts = [[{"role": "user", "content": question}] for question in questions]
    name, _, number = strategy.partition("_")
    if name == "votes":
        return rated(judge, prompts, groups, int(number))
    if name == "opponents":
        spans = group_spans([number for number, group in enumerate(groups) for _ in group])
        flat = [prompt for prompt, group in zip(prompts, groups) for _ in group]
        texts = [text for group in groups for text in group]
        options = {"opponents": int(number), "max_completion_length": LIMIT, "spans": spans}
        values, _ = compare_groups(judge, flat, texts, **options)
        return [values[start:end] for start, end in spans]
    contest = {"knockout": rounds_won, "halving": ratings_by_halving}[name]
    tasks = [
        functools.partial(contest, prompt, [final_answer(text) for text in group])
        for prompt, group in zip(prompts, groups)
    ]
    return rank_together(tasks, lambda: judge)


def rated(scorer, prompts, groups, votes):
    """The mean score of each answer; equal answers to a question are scored once."""
    answers = [[final_answer(text) for text in group] for group in groups]
    wanted = {}
    for number, group in enumerate(answers):
        wanted |= {(number, answer): (prompts[number], answer) for answer in group if answer}
    scores = scorer.score(list(wanted.values()), votes, max_completion_length=LIMIT)
    values = {(number, ""): 0.0 for number in range(len(groups))}
    for key, score in zip(wanted, scores):
        values[key] = 0.5 if score is None else score / scorer.highest
    return [[values[number, answer] for answer in group] for number, group in enumerate(answers)]


def matches_of(prompt, answers, judge):
    """play(pairs) for `knockout` and `run_schedule`: one game a match, one order."""
    met = Counter()

    def play(pairs):
        scores, asked = {}, {}
        for number, (i, j) in enumerate(pairs):
            scores[number] = score_without_judge(answers[i], answers[j])
            if scores[number] is None:
                met[i, j] += 1  # a pair that meets again gets a new game
                name = f"{stable_hash(prompt, answers, i, j, met[i, j]):016x}"
                asked[number] = Pair(name, prompt, (answers[i], answers[j]))
        if asked:
            pairs = list(asked.values())
            judgments = judge.judge(pairs, both_orders=False, max_completion_length=LIMIT)
            for number, judgment in zip(asked, judgments):
                scores[number] = judgment.p_first
        return list(scores.values())

    return play


def rounds_won(prompt, answers, judge):
    """The share of the rounds that each answer has won in a knockout."""
    bracket = knockout(len(answers), matches_of(prompt, answers, judge))
    winners = [winner for matches in bracket.rounds for *_, winner in matches]
    return [winners.count(player) / len(bracket.rounds) for player in range(len(answers))]


def ratings_by_halving(prompt, answers, judge):
    """Elo ratings of the matches of a halving schedule, on the scale of `match_rewards`."""
    play = matches_of(prompt, answers, judge)
    matches = run_schedule(len(answers), play, "halving", HALVING_GAMES)
    values, _ = match_rewards(matches, len(answers), "elo")
    return values


# ---- rewards ----


def judge_folder(kind, start, seed):
    out = Path(os.environ.get("OUT", ROOT / "out/pointwise"))
    return out / "runs" / f"{kind}_{start}-{seed}" / f"checkpoint-{STEPS}"


def __getattr__(name):
    """The reward START_SEED_STRATEGY, such as base_1_opponents_2."""
    found = re.fullmatch(rf"(base|weak)_(\d+)_({'|'.join(STRATEGIES)})", name)
    if not found:
        raise AttributeError(f"{name}: a reward is START_SEED_STRATEGY, such as weak_1_votes_2")
    start, seed, strategy = found.groups()
    kind = kind_of(strategy)
    folder = judge_folder(kind, start, seed)
    judge = load(kind, folder)
    usage = folder.parents[2] / "usage" / f"{name}.json"
    usage.parent.mkdir(exist_ok=True)

    def reward(prompts, completions, **columns):
        spans = group_spans(prompts)
        questions = [prompts[first][-1]["content"] for first, _ in spans]
        groups = [completions[first:end] for first, end in spans]
        values = values_of(judge, strategy, questions, groups)
        usage.write_text(json.dumps(usage_of(judge)))
        return [value for group in values for value in group]

    return reward
