"""What a completion is worth: plain functions with the signature that users of TRL know.

    reward(prompts, completions, **columns) -> list[float]

One entry a completion; a prompt's completions stand side by side, and every column is a list as long as `completions`. Prompts and
completions are texts or message lists. A function of your own, in a module on the Python path, is given to the trainer as
`--reward MODULE:FUNCTION`. Three of ours need no labels, one label or a judge:

    verdict_reward, consistency_reward     for training a judge: is its verdict right, is it right in both orders
    answer_reward                          for training a solver on questions with known answers
    judge_reward(judge)                    for training a solver on questions alone: a pairwise judge compares a group's answers
"""

import bisect
import importlib.util
import itertools
import json
import os
import random
import sys

from chat import encode_chat
from checkpoint import check_model_folder, resolve_model
from cli import BadInput, note
from data import Pair, load_pairs, load_questions, place, to_messages
from elo import elo
from judge import Judge
from seeding import stable_hash
from styles import default_style, judge_messages, load_style
from verdicts import parse_verdict

SCALES = "shrunk", "win_rate", "elo"
SHRINK = 2.0  # how many times the noise counts in `match_rewards` (runs/reward)


# ---- rewards of a judge in training ----


def verdict_reward(prompts, completions, right_verdict, style, **columns):
    """+1 for the right verdict, -1 for a wrong one and for none (RRM section 3.2; RM-R1 section 2.3.2: no extra reward for the format).

    completions: generated texts, with "<think>" in front where the prompt opened it; right_verdict: 1 or 2 each; style: judging style each.
    """
    verdicts = [parse_verdict(text, name) for text, name in zip(completions, style, strict=True)]
    return [
        1.0 if verdict == right else -1.0
        for verdict, right in zip(verdicts, right_verdict, strict=True)
    ]


def consistency_reward(prompts, completions, right_verdict, style, pair, order, **columns):
    """+1 where the verdict is right and so is its twin, the completion of equal number in the pair's other order; else -1 (J1, arXiv 2505.10320).

    A judge that names the first place with probability p, whatever it reads, is right half of the time under verdict_reward for any p: nothing
    holds it, and it drifts to one place. Here both are right with probability p (1 - p), so its gradient leads back to p = 1/2.
    pair: a data.Pair each; order: [0, 1] or [1, 0] each. Both orders of a pair must be there, with as many completions.
    """
    rewards, numbers = verdict_reward(prompts, completions, right_verdict, style), {}
    for index, (item, shown) in enumerate(zip(pair, order, strict=True)):
        numbers.setdefault(item.id, {0: [], 1: []})[shown[0]].append(index)
    for name, (first, second) in ((name, both.values()) for name, both in numbers.items()):
        if len(first) != len(second):
            raise ValueError(
                f"pair {name}: {len(first)} completions in one order, {len(second)} in the other: the reward needs both orders"
            )
        for twins in zip(first, second):
            worst = min(rewards[index] for index in twins)
            rewards[twins[0]] = rewards[twins[1]] = worst
    return rewards


# ---- what both rewards of a solver read ----


def final_answer(completion, opened_think=False):
    """The text behind the thinking, without outer blanks: "" while a <think> is open (the policy was cut off before it answered).

    completion: a text, or messages, of which the last one counts; opened_think: the prompt has written "<think>" already.
    """
    text = completion if isinstance(completion, str) else completion[-1]["content"]
    before, closed, answer = ("<think>" * opened_think + text).rpartition("</think>")
    return "" if "<think>" in answer else answer.strip()


def answer_reward(prompts, completions, answer, correct=None, **columns):
    """1 for an answer that equals the reference, else 0. answer: the reference of each; correct: results of `check_answers` if known.

    A verifier that fails (None) pays nothing and is counted apart by the trainer, as reward/verifier_error. With {0, 1} the mean is the
    accuracy; the advantages of a group are those of {-1, +1} (RRM section 3.2) once they are divided by its standard deviation.
    """
    if correct is None:
        from verify import check_answers

        correct = check_answers(
            [final_answer(completion) for completion in completions], list(answer)
        )
    return [float(right is True) for right in correct]


# ---- a pairwise judge as reward ----


def group_spans(prompts, group_size=None):
    """[(start, end), ...] of the groups: equal prompts side by side. With group_size every group has exactly that size, and a prompt may
    have several. ValueError for a group that is split, mixed, or of another size."""
    keys = [json.dumps(prompt, sort_keys=True) for prompt in prompts]
    if group_size is None:
        ends = [0, *itertools.accumulate(len(list(same)) for _, same in itertools.groupby(keys))]
        spans = list(zip(ends, ends[1:]))
        first = {}
        for start, end in spans:
            if first.setdefault(keys[start], start) != start:
                raise ValueError(
                    f"prompts: completions of one prompt stand at {first[keys[start]]} and again at {start}: put them side by side"
                )
        return spans
    spans = [(start, start + group_size) for start in range(0, len(prompts), group_size)]
    for start, end in spans:
        if keys[start:end] != [keys[start]] * group_size:
            raise ValueError(
                f"prompts {start} to {min(end, len(keys)) - 1} are not {group_size} equal ones: give the completions of a prompt "
                "side by side, as many as num_generations"
            )
    return spans


def num_matches(size, opponents):
    """Matches in a group: each of `size` answers meets `opponents` others, one of them one more if both numbers are odd."""
    return -(-size * min(opponents, size - 1) // 2)


def draw_matches(size, opponents, rng):
    """[(i, j), ...] in random order, every two at most once (in groups above 2): each of `size` answers meets `opponents` others, or all
    if there are no more, and stands first as often as second, up to one. size - 1 opponents make the round robin.

    The answers sit in a circle in random order; each meets those at a few distances, the nearest among them, which connects all.
    """
    opponents, circle = min(opponents, size - 1), rng.sample(range(size), size)
    odd, far = opponents % 2, range(2, (size + 1) // 2)
    if odd and size % 2:  # half a tour of the circle is one match each, and one answer plays twice
        distances, tour = rng.sample(far, opponents // 2), [*circle, circle[0]]
        matches = list(zip(tour[::2], tour[1::2]))
    else:
        distances = [1, *rng.sample(far, opponents // 2 - 1)] if opponents > 1 else []
        matches = (
            [pair[:: rng.choice((1, -1))] for pair in zip(circle[: size // 2], circle[size // 2 :])]
            if odd
            else []
        )
    matches += [
        (circle[i], circle[(i + distance) % size]) for distance in distances for i in range(size)
    ]
    return rng.sample(matches, len(matches))


def match_rewards(matches, size, scale="shrunk"):
    """Rewards of a group's answers from its matches [(i, j, score of i), ...], and the reliability of its win rates, in [0, 1].

    win_rate    w_i, the mean score of answer i
    shrunk      1/2 + L (w_i - mean w), where L = S / (S + SHRINK * N) is the reliability, S the variance of the w_i, and N the variance
                that they would have if all n answers were equally good, so that a score x might as well have been 1 - x:
                N = 1 / (n - 1) * sum over i, and over i's matches, of (x - 1/2)^2 / (number of i's matches)^2
    elo         (rating - 1000) / 200 + 1/2, as in RRM's release; at k = 4 a win rate that knows the order of the matches

    Among equally good answers S is about N, never 0: divided by its root, as GRPO does, that noise weighs as much as the best signal.
    So the first two are for advantages *without* this division: there a group weighs by its spread (runs/reward has the measurement).
    """
    scores = [[] for _ in range(size)]
    for i, j, score in matches:
        scores[i].append(score)
        scores[j].append(1 - score)
    rates = [sum(row) / len(row) if row else 0.5 for row in scores]
    mean = sum(rates) / size
    spread = sum((rate - mean) ** 2 for rate in rates)
    noise = sum((score - 0.5) ** 2 / len(row) ** 2 for row in scores for score in row)
    reliability = spread / (spread + SHRINK * noise) if spread > 1e-12 else 0.0
    if scale == "elo":
        return [(rating - 1000) / 200 + 0.5 for rating in elo(matches, size)], reliability
    return (
        [0.5 + reliability * (rate - mean) for rate in rates] if scale == "shrunk" else rates
    ), reliability


def cut_answers(judge, messages, answers, max_completion_length):
    """The answers, each no longer than half of what the judge's context has left: of a longer one the end, as in RRM's release, since it
    holds the result. ValueError where there is no room at all."""

    def size(text):
        return len(encode_chat(judge.tokenizer, [{"role": "user", "content": text}]))

    if getattr(judge, "tokenizer", None) is None:  # behind an endpoint: its own limits hold
        return answers
    prompt = encode_chat(judge.tokenizer, judge_messages(judge.style, messages, "", ""))
    room = (
        judge.context - max_completion_length - len(prompt)
    ) // 2 - 8  # 8: an answer's ends may be spelt otherwise beside the template
    if room < 1:
        raise ValueError(
            f"question {messages[-1]['content'][:60]!r}: its judging prompt has {len(prompt)} tokens without answers, and the "
            f"judge's context is {judge.context}: leave the question out, or lower the judge's max_completion_length"
        )
    kept = []
    for answer in answers:  # no text has more tokens than bytes, so that few need to be looked at
        most = room + size("") if len(answer.encode()) > room else None
        start = (
            0
            if most is None
            else bisect.bisect_left(
                range(len(answer)), True, key=lambda start: size(answer[start:]) <= most
            )
        )
        kept.append(answer[start:])
    return kept


def plan_group(judge, prompt, completions, opponents, thinking, seed, max_completion_length):
    """{messages, answers, cut, matches, games, invalid}: the answers as the judge will see them, how many lost their beginning, and matches
    [[i, j, score of i], ...] with None for a score that the judge has to give."""
    messages = to_messages(prompt, "prompts", "judge_reward")
    opened = thinking or isinstance(prompt, str) and prompt.rstrip().endswith("<think>")
    whole = [final_answer(completion, opened) for completion in completions]
    answers = cut_answers(judge, messages, whole, max_completion_length)
    matches = []
    for i, j in draw_matches(
        len(answers), opponents, random.Random(stable_hash(seed, messages, answers))
    ):
        first, second = answers[i], answers[j]
        matches.append(
            [
                i,
                j,
                0.5 if first == second else float(first != "") if "" in (first, second) else None,
            ]
        )
    return {
        "messages": messages,
        "answers": answers,
        "cut": sum(map(str.__ne__, answers, whole)),
        "matches": matches,
        "games": 0,
        "invalid": 0,
    }


def judge_reward(
    judge,
    opponents=4,
    scale="shrunk",
    group_size=None,
    both_orders=False,
    num_votes=1,
    thinking=False,
    seed=0,
    temperature=0.6,
    max_completion_length=1024,
):
    """A reward function: the answers of a group meet each other before a pairwise `judge`, and their results are the rewards.

    opponents, scale: see `draw_matches` and `match_rewards`. group_size: num_generations; where given it is checked, so that a trainer
    that spreads a group over processes is found out. both_orders: each match in both orders, at twice the cost; else in one, balanced
    over an answer's matches. thinking: the policy's template opens <think> itself. The others go to `Judge.judge`.

    Thinking is stripped (`final_answer`) and long answers lose their beginning. A game without verdict is a draw; so are identical
    answers, unjudged; an empty answer loses to any other, unjudged. num_matches * num_votes * (1 or 2) games a group are the most there can
    be. Everything is seeded by seed, question and answers. `reward.last` tells about each group of the last call; known_spans: its groups
    as [(start, end), ...], where the caller knows them. Rewards are relative to their group: their mean says nothing about progress.
    """
    if scale not in SCALES or opponents < 1:
        raise ValueError(
            f"scale must be one of {', '.join(SCALES)} and opponents at least 1, got {scale!r} and {opponents}"
        )

    def reward(prompts, completions, log_metric=None, known_spans=None, **columns):
        groups = [
            plan_group(
                judge,
                prompts[start],
                completions[start:end],
                opponents,
                thinking,
                seed,
                max_completion_length,
            )
            for start, end in known_spans or group_spans(prompts, group_size)
        ]
        pairs, waiting = [], []
        for group in groups:
            messages, answers = group["messages"], group["answers"]
            for match in (match for match in group["matches"] if match[2] is None):
                i, j, _ = match
                pair = Pair(
                    f"{stable_hash(seed, messages, i, j, answers[i], answers[j]):016x}",
                    messages,
                    (answers[i], answers[j]),
                )
                turned = not both_orders and place(pair, judge.seed) == [
                    1,
                    0,
                ]  # `place` decides who stands first: so that it is i
                pair.answers = pair.answers[:: -1 if turned else 1]
                pairs.append(pair)
                waiting.append((group, match, turned))
        judgments = (
            judge.judge(pairs, num_votes, both_orders, temperature, max_completion_length)
            if pairs
            else []
        )
        for (group, match, turned), judgment in zip(waiting, judgments, strict=True):
            match[2] = 1 - judgment.p_first if turned else judgment.p_first
            group["games"] += len(judgment.games)
            group["invalid"] += sum(game["verdict"] is None for game in judgment.games)
        rewards = []
        for group in groups:
            values, group["reliability"] = match_rewards(
                group["matches"], len(group["answers"]), scale
            )
            rewards += values
        for name in (
            ("games", "invalid", "cut") if log_metric else ()
        ):  # TRL offers a place in its log
            log_metric(f"judge_reward/{name}", float(sum(group[name] for group in groups)))
        reward.last = groups
        return rewards

    reward.__name__, reward.judge = "judge_reward", judge
    return reward


# ---- for the trainer: by name, and what it is paid on ----

REWARDS = {"verdict": verdict_reward, "consistency": consistency_reward, "answer": answer_reward}


def load_reward(name, settings=None, device=None, dtype=None):
    """A reward of ours, or MODULE:FUNCTION, which is imported: the only place where the trainer runs code that it is given by name.

    judge: settings has the trainer's judge_... values; the judge is loaded whole on this process's device.
    """
    if name in REWARDS:
        return REWARDS[name]
    if name == "judge":
        remote = {"base_url": settings.judge_base_url} if settings.judge_base_url else {}
        judge = Judge(
            settings.judge_model,
            style=settings.judge_style,
            device=device,
            dtype=dtype,
            seed=settings.seed,
            **remote,
        )
        matches = num_matches(settings.num_generations, settings.judge_opponents)
        note(
            f"judge: {matches} matches a group, at most {matches * settings.prompts_per_step} judgments a step"
        )
        return judge_reward(
            judge,
            settings.judge_opponents,
            settings.judge_scale,
            settings.num_generations,
            seed=settings.seed,
            max_completion_length=settings.judge_max_completion_length,
        )
    module, _, function = name.partition(":")
    if not module or not function:
        raise BadInput(
            f"--reward: {name!r} is not known: use {', '.join([*REWARDS, 'judge'])}, or MODULE:FUNCTION for a function of your own"
        )
    sys.path.insert(0, os.getcwd())  # a module beside the user's files, wherever this script lies
    try:
        reward = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise BadInput(
            f"--reward: {name}: {error}: the module must be on the Python path and hold that function"
        ) from error
    if not callable(reward):
        raise BadInput(f"--reward: {name} is not a function")
    return reward


def check_reward(settings):
    """All that can be wrong with the trainer's reward before torch is imported; settles --task and --scale_rewards."""
    own = {"verdict": "judge", "consistency": "judge", "answer": "solve", "judge": "solve"}.get(
        settings.reward, settings.task
    )
    if settings.task == "auto":
        settings.task = "judge" if own == "auto" else own
    if own not in ("auto", settings.task):
        raise BadInput(
            f"--task {settings.task}: does not go with --reward {settings.reward}: answer and judge are for solve, verdict and "
            "consistency for judge, a function of your own for either"
        )
    if settings.task == "solve" and importlib.util.find_spec("math_verify") is None:
        raise BadInput(
            f"--reward {settings.reward}: checking answers needs the package math-verify: pip install math-verify"
        )
    if settings.scale_rewards == "auto":
        settings.scale_rewards = (
            "none" if settings.reward == "judge" and settings.judge_scale != "elo" else "group"
        )
    if settings.reward == "consistency" and settings.prompts_per_step % 2:
        raise BadInput(
            f"--prompts_per_step: {settings.prompts_per_step} is odd: with --reward consistency every pair comes in both orders"
        )
    if settings.reward != "judge":
        if settings.judge_model or settings.judge_base_url or settings.judge_style:
            raise BadInput(
                f"--judge_model, --judge_base_url, --judge_style: go with --reward judge, not {settings.reward}"
            )
        if settings.reward not in REWARDS:
            load_reward(settings.reward)
        return
    for name in ("judge_opponents", "judge_max_completion_length"):
        if getattr(settings, name) < 1:
            raise BadInput(f"--{name}: must be at least 1, got {getattr(settings, name)}")
    if not settings.judge_model:
        raise BadInput(
            "--judge_model: is needed with --reward judge: a judge's folder or hub name, or its name behind --judge_base_url"
        )
    if settings.judge_base_url:
        from endpoint import check_base_url

        check_base_url(settings.judge_base_url)
        load_style(settings.judge_style or "rrm")
    else:
        folder = resolve_model(settings.judge_model)
        load_style(settings.judge_style or default_style(folder, check_model_folder(folder)))


def load_items(settings, name, flag):
    """What --train_data or --eval_data holds for the task: labelled pairs, or questions. BadInput where nothing is left."""
    split, use = ("train", "training") if flag == "--train_data" else ("test", "evaluation")
    if settings.task == "judge":
        items = [pair for pair in load_pairs(name, split) if pair.label is not None]
        lacking = f"no pair has a label: {use} needs to know the better answer"
    else:
        items = load_questions(name, split)
        if settings.reward == "answer" or use == "evaluation":
            known = [question for question in items if question.answer is not None]
            if 0 < len(known) < len(items):
                note(f"{flag}: {len(items) - len(known)} questions without an answer left out")
            items = known
        lacking = f"no question has an answer: {use} needs one to compare with"
    if not items:
        raise BadInput(f"{flag}: {name}: {lacking}")
    return items
