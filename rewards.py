"""What a solver's completion is worth: plain functions with the signature that users of TRL know.

    reward(prompts, completions, **columns) -> list[float | None]

There is one reward for each completion; None if it cannot be scored. A prompt's completions stand
side by side, and every column is a list as long as `completions`. Prompts and completions are texts
or message lists.
A function of your own, in a module on the Python path, is given to the trainer as
`--reward MODULE:FUNCTION` (it trains a judge) or `--reward solve:MODULE:FUNCTION` (a solver).

    answer_reward           for questions with known answers
    judge_reward(judge)     for questions alone: a pairwise judge compares the answers of a group

    consistency_reward      for a judge: right in both orders of a pair

The default reward of a judge in training, verdict_reward, is in judge_task.py.
"""

import asyncio
import bisect
import functools
import inspect
import json
import math
import random
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from numbers import Real

from chat import encode_chat
from cli import BadInput
from data import Pair, place
from formats import to_messages
from judge_task import verdict_reward
from plugins import import_function, load_extra
from seeding import stable_hash
from styles import judge_messages

SCALES = "shrunk", "win_rate", "elo"
SHRINK = 2.0  # how many times the noise counts in `match_rewards` (runs/reward)
# what a reward function is called with, by name: JudgeTask.rewards and SolveTask.rewards
JUDGE_COLUMNS = "prompts", "completions", "right_verdict", "style", "pair", "order", "verdict"
SOLVER_COLUMNS = "prompts", "completions", "answer", "correct", "question"


# ---- of a judge in training ----


def consistency_reward(prompts, completions, right_verdict, style, pair, order, verdict=None, **_):
    """+1 where a verdict is right and its twin in the other order is right too, else -1.

    The twin is the completion with the same index in the pair's other order (J1, arXiv 2505.10320).
    A judge that names the first place with probability p, whatever it reads, is right half of the
    time under verdict_reward for any p. So nothing corrects its position bias. Here both are right
    with probability p (1 - p), so the gradient leads back to p = 1/2.
    pair: a data.Pair for each completion. order: [0, 1] or [1, 0] for each.
    Raises ValueError unless both orders of a pair have equally many completions.
    """
    rewards = verdict_reward(prompts, completions, right_verdict, style, verdict)
    indices_by_order = {}  # pair id -> the completions' indices in each order
    for index, (item, shown) in enumerate(zip(pair, order, strict=True)):
        both_orders = indices_by_order.setdefault(item.id, ([], []))
        both_orders[shown[0]].append(index)
    for name, (first, second) in indices_by_order.items():
        if len(first) != len(second):
            raise ValueError(
                f"pair {name}: {len(first)} completions in one order, {len(second)} in the other: "
                "the reward needs both orders"
            )
        for twins in zip(first, second):
            worst = min(rewards[index] for index in twins)
            for index in twins:
                rewards[index] = worst
    return rewards


# ---- a function of the user's own ----


def import_reward(name):
    """The reward function of --reward MODULE:FUNCTION, solve:MODULE:FUNCTION or consistency.

    `read_rewards` reads what the user's function returns. It may be an `async def`, and may return
    (rewards, matches of each group) like compare_groups. Raises BadInput for a name that cannot be
    imported, and for a function that does not take the columns.
    """
    if name == "consistency":
        return consistency_reward
    function = import_function(name.removeprefix("solve:"), "--reward")
    columns = SOLVER_COLUMNS if name.startswith("solve:") else JUDGE_COLUMNS
    try:
        inspect.signature(function).bind(**dict.fromkeys(columns))
    except TypeError as error:
        raise BadInput(
            f"--reward {name}: {error}: define it as f(prompts, completions, **columns)"
        ) from error

    @functools.wraps(function)
    def reward(prompts, completions, **columns):
        result = function(prompts=list(prompts), completions=list(completions), **columns)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        match result:
            case values, [GroupMatches(), *_] as groups:  # what compare_groups returns
                return read_rewards(values, prompts, completions, name), groups
        return read_rewards(result, prompts, completions, name)

    return reward


def read_rewards(result, prompts, completions, name):
    """The rewards that a function returned, as floats; NaN for None: a completion without a score.

    result: a list, tuple, generator, array or tensor of one number for each completion. A number is
    an int or float of Python, numpy or torch. Raises BadInput for all else.
    """
    values = result.tolist() if hasattr(result, "tolist") else result  # an array or a tensor
    expected = f"expected a list of {len(completions)} numbers, one for each completion"
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, Mapping, Set)):
        raise BadInput(f"--reward {name}: returned {type(result).__name__}, {expected}")
    values = list(values)
    if len(values) != len(completions):
        raise BadInput(f"--reward {name}: returned {len(values)} rewards, {expected}")
    rewards = []
    for number, value in enumerate(values, start=1):
        try:
            rewards.append(math.nan if value is None else as_reward(value))
        except (ValueError, RuntimeError) as error:  # the latter: a tensor of several numbers
            raise BadInput(
                f"--reward {name}: returned {value!r:.80} for completion {number} of "
                f"{len(values)}, {completions[number - 1]!r:.200} after "
                f"{prompts[number - 1]!r:.200}: return a finite number, or None for no score"
            ) from error
    return rewards


def as_reward(value):
    """A number of Python, numpy or torch as float. Raises an error for all else, bools too."""
    number = value.item() if hasattr(value, "item") else value
    # Nothing above 1e18 is a reward: its square is infinite in fp32. NaN is not below it either.
    if isinstance(number, bool) or not isinstance(number, Real) or not abs(number) <= 1e18:
        raise ValueError
    return float(number)


# ---- what both rewards of a solver read ----


def final_answer(completion, opened_think=False):
    """The text after the thinking, stripped; "" if a <think> is open, so if it was cut off there.

    completion: a text, or messages, of which the last one counts.
    opened_think: the prompt has written "<think>" already.
    """
    text = completion if isinstance(completion, str) else completion[-1]["content"]
    if opened_think:
        text = "<think>" + text
    answer = text.rpartition("</think>")[2]
    return "" if "<think>" in answer else answer.strip()


def answer_reward(prompts, completions, answer, correct=None, **columns):
    """1 for an answer that equals the reference, else 0.

    answer: the reference of each completion. correct: what `check_answers` said, if known.
    A verifier that fails (None) gives 0; the trainer counts it as reward/verifier_error. The mean
    reward is the accuracy. Divided by the group's standard deviation, the advantages are those of
    {-1, +1} (RRM section 3.2).
    """
    if correct is None:
        texts = [final_answer(completion) for completion in completions]
        correct = load_extra("verify").check_answers(texts, list(answer))
    return [float(right is True) for right in correct]


# ---- a pairwise judge as reward ----


def group_spans(prompts, group_size=None):
    """[(start, end), ...] of the groups: equal prompts side by side.

    With group_size every group has exactly that size, and a prompt may have several groups.
    Raises ValueError for a group that is split, mixed, or of another size.
    """
    keys = [json.dumps(prompt, sort_keys=True) for prompt in prompts]
    if group_size is None:
        starts = [i for i in range(len(keys)) if i == 0 or keys[i] != keys[i - 1]]
        is_wrong = len(set(keys)) < len(starts)
    else:
        starts = range(0, len(keys), group_size)
        is_wrong = any(keys[i : i + group_size] != [keys[i]] * group_size for i in starts)
    if is_wrong:
        raise ValueError(
            "prompts: the completions of a prompt must stand side by side, as many as "
            "num_generations"
        )
    return list(zip(starts, [*starts[1:], len(keys)]))


def num_matches(size, opponents):
    """Matches in a group of `size` answers that each meet `opponents` others.

    If both numbers are odd, one answer meets one more.
    """
    return math.ceil(size * min(opponents, size - 1) / 2)


def draw_matches(size, opponents, rng):
    """[(i, j), ...] in random order; each of `size` answers meets `opponents` others.

    It meets all others if there are no more. Two answers meet at most once (in groups above 2),
    and each stands first as often as second, give or take one.

    The answers sit in a circle in random order. Each meets those at a few distances. The nearest
    are among them, so all answers are connected.
    """
    opponents = min(opponents, size - 1)
    circle = rng.sample(range(size), size)
    is_odd = opponents % 2 == 1
    far_distances = range(2, (size + 1) // 2)
    matches, distances = [], []
    if is_odd and size % 2 == 1:
        # every second step of a tour is one match for each answer; the first one plays twice
        distances = rng.sample(far_distances, opponents // 2)
        tour = [*circle, circle[0]]
        matches = list(zip(tour[::2], tour[1::2]))
    else:
        if opponents > 1:
            distances = [1, *rng.sample(far_distances, opponents // 2 - 1)]
        if is_odd:  # one match with the answer on the opposite side
            for couple in zip(circle[: size // 2], circle[size // 2 :]):
                matches.append(couple[:: rng.choice((1, -1))])
    for distance in distances:
        matches += [(circle[i], circle[(i + distance) % size]) for i in range(size)]
    return rng.sample(matches, len(matches))


def match_rewards(matches, size, scale="shrunk"):
    """(rewards of a group's answers, reliability of their win rates in [0, 1]).

    matches: [(i, j, score of i), ...]. w_i is the win rate of answer i: its mean score.

    win_rate    w_i
    shrunk      1/2 + L (w_i - mean w), where L = S / (S + SHRINK * N) is the reliability, S the
                variance of the w_i, and N the variance that they would have if all n answers
                were equally good, so that a score x might as well have been 1 - x:
                N = 1 / (n - 1) * sum over i, and over i's matches, of
                (x - 1/2)^2 / (number of i's matches)^2
    elo         (rating - 1000) / 200 + 1/2, as in RRM's release; at k = 4 that is a win rate
                which depends on the order of the matches

    Among equally good answers S is about N, never 0. If GRPO divides by its root, that noise
    weighs as much as the best signal. So the first two are for advantages *without* this
    division: there a group weighs by its spread (measured in runs/reward).
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
    if scale == "shrunk":
        return [0.5 + reliability * (rate - mean) for rate in rates], reliability
    if scale == "win_rate":
        return rates, reliability
    from elo import elo

    return [(rating - 1000) / 200 + 0.5 for rating in elo(matches, size)], reliability


def cut_answers(judge, messages, answers, max_completion_length):
    """The answers, each within half of the room that the judge's context has for them.

    A longer answer keeps its end, as in RRM's release, because the end holds the result.
    Raises ValueError where there is no room at all.
    """
    if getattr(judge, "tokenizer", None) is None:  # behind a server: its own limits hold
        return answers

    def num_tokens(text):
        return len(encode_chat(judge.tokenizer, [{"role": "user", "content": text}]))

    prompt = encode_chat(judge.tokenizer, judge_messages(judge.style, messages, "", ""))
    # 8: the ends of an answer may become other tokens inside the prompt
    room = (judge.context - max_completion_length - len(prompt)) // 2 - 8
    if room < 1:
        raise ValueError(
            f"question {messages[-1]['content'][:60]!r}: its judging prompt has {len(prompt)} "
            f"tokens without answers, and the judge's context is {judge.context}: leave the "
            "question out, or lower the judge's max_completion_length"
        )
    limit = room + num_tokens("")

    def end_of(answer):
        def fits(start):
            return num_tokens(answer[start:]) <= limit

        if len(answer.encode()) <= room:  # no text has more tokens than bytes
            return answer
        return answer[bisect.bisect_left(range(len(answer)), True, key=fits) :]

    return [end_of(answer) for answer in answers]


@dataclass
class GroupMatches:
    """The answers of a group as a judge sees them, and the matches between them."""

    messages: list  # the question
    answers: list  # without thinking; a long one has lost its beginning
    matches: list  # [i, j, score of answer i]; None for a score that the judge has to give
    num_cut: int  # answers that lost their beginning
    num_games: int = 0
    num_invalid: int = 0  # games without a verdict
    num_tokens: int = 0  # of the judge's completions
    reliability: float = 0.0  # of the win rates, in [0, 1]; see match_rewards


def plan_group(judge, prompt, completions, opponents, thinking, seed, max_completion_length):
    """A GroupMatches, before anything is judged."""
    messages = to_messages(prompt, "prompts", "judge_reward")
    opened = thinking or isinstance(prompt, str) and prompt.rstrip().endswith("<think>")
    full_answers = [final_answer(completion, opened) for completion in completions]
    answers = cut_answers(judge, messages, full_answers, max_completion_length)
    rng = random.Random(stable_hash(seed, messages, answers))
    matches = []
    for i, j in draw_matches(len(answers), opponents, rng):
        matches.append([i, j, score_without_judge(answers[i], answers[j])])
    num_cut = sum(answer != full for answer, full in zip(answers, full_answers))
    return GroupMatches(messages, answers, matches, num_cut)


def score_without_judge(first, second):
    """The score of the first of two answers that are equal or of which one is empty, else None."""
    if first == second:
        return 0.5
    if first == "":
        return 0.0
    if second == "":
        return 1.0
    return None


def compare_groups(
    judge,
    prompts,
    completions,
    opponents=4,
    scale="shrunk",
    group_size=None,
    both_orders=False,
    num_votes=1,
    thinking=False,
    seed=0,
    temperature=0.6,
    max_completion_length=1024,
    spans=None,
):
    """(rewards, [GroupMatches, ...]); for the options see `judge_reward`.

    spans: the groups as [(start, end), ...], where the caller knows them.
    """
    groups, pairs, waiting = [], [], []  # waiting: (group, match, turned) of each pair
    for start, end in spans or group_spans(prompts, group_size):
        group = plan_group(
            judge,
            prompts[start],
            completions[start:end],
            opponents,
            thinking,
            seed,
            max_completion_length,
        )
        groups.append(group)
        for match in group.matches:
            i, j, score = match
            if score is not None:
                continue
            answers = (group.answers[i], group.answers[j])
            name = f"{stable_hash(seed, group.messages, i, j, *answers):016x}"
            pair = Pair(name, group.messages, answers)
            # in one order, `place` decides who is shown first: turn the pair so that it is i
            turned = not both_orders and place(pair, judge.seed) == [1, 0]
            if turned:
                pair.answers = pair.answers[::-1]
            pairs.append(pair)
            waiting.append((group, match, turned))
    judgments = []
    if pairs:
        judgments = judge.judge(pairs, num_votes, both_orders, temperature, max_completion_length)
    for (group, match, turned), judgment in zip(waiting, judgments, strict=True):
        match[2] = 1 - judgment.p_first if turned else judgment.p_first
        group.num_games += len(judgment.games)
        group.num_invalid += sum(game["verdict"] is None for game in judgment.games)
        group.num_tokens += sum(game.get("tokens", 0) for game in judgment.games)
    rewards = []
    for group in groups:
        values, group.reliability = match_rewards(group.matches, len(group.answers), scale)
        rewards += values
    return rewards, groups


def judge_reward(judge, opponents=4, scale="shrunk", group_size=None, **options):
    """A reward function: a pairwise `judge` compares the answers of a group with each other.

    The options are those of `compare_groups`.
    opponents, scale: see `draw_matches` and `match_rewards`.
    group_size: num_generations; if given, it is checked, so that a trainer that spreads a group
    over processes is found out.
    both_orders: each match in both orders, at twice the cost; else in one, balanced over the
    matches of an answer.
    thinking: the policy's template opens <think> itself.
    num_votes, temperature, max_completion_length: of `Judge.judge`.

    Thinking is stripped (`final_answer`) and long answers lose their beginning. A game without
    verdict is a draw. Identical answers draw and an empty answer loses, unjudged. A group takes
    num_matches * num_votes * (1 or 2) games at most. Everything is seeded by seed, question and
    answers. Rewards are relative to their group: their mean says nothing about progress.
    """
    if scale not in SCALES or opponents < 1:
        raise ValueError(
            f"scale must be one of {', '.join(SCALES)} and opponents at least 1, got {scale!r} "
            f"and {opponents}"
        )

    def judge_reward(prompts, completions, log_metric=None, spans=None, **columns):
        rewards, groups = compare_groups(
            judge, prompts, completions, opponents, scale, group_size, spans=spans, **options
        )
        if log_metric:  # TRL's log
            log_metric("judge_reward/games", float(sum(group.num_games for group in groups)))
            log_metric("judge_reward/invalid", float(sum(group.num_invalid for group in groups)))
            log_metric("judge_reward/cut", float(sum(group.num_cut for group in groups)))
        return rewards

    return judge_reward
