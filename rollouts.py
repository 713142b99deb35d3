"""From pairs or questions to sampled completions: the data side of one GRPO step, and what is written about it.

    item_stream -> make_group -> roll_out -> reward_columns, micro_batches      then the trainer scores and follows the gradient
    step_metrics, write_rollouts, evaluate                                      what a run tells about itself

A judge in training gets preference pairs and a judging prompt, a solver (--task solve) gets questions as they are.
"""

import itertools
import random
from dataclasses import dataclass
from pathlib import Path

import torch

from chat import decode_completion, encode_chat, opens_think
from cli import BadInput, note, read_json_lines
from data import Pair, balanced_orders
from judge import Judge, as_row
from rewards import cut_answers, final_answer
from runlog import json_lines, write_atomically
from sampler import generate
from seeding import hash64, stable_hash
from styles import format_rates, judge_messages
from verdicts import read_completion, verdict_counts, verdict_rates


@dataclass
class Group:
    """One prompt of a step and its completions."""

    pair: object  # or a Question
    order: list  # which answer stands first and which second; None for a question
    messages: list
    prompt: list  # token ids
    completions: list = None
    games: list = None  # one dict a completion: verdict, status, text, tokens, think_tokens; for a question text, tokens, answered
    rewards: list = None
    advantages: list = None
    correct: list = None  # of a question with a reference: whether each completion equals it, None where the verifier failed
    judged: dict = None  # of a group that a judge compared: its matches, and how they went (rewards.plan_group)

    @property
    def right_verdict(self):
        """1 or 2: the place where the better answer stands."""
        return self.order.index(int(self.pair.label)) + 1

    @property
    def longer(self):
        """1 or 2: the place of the longer answer; None if they are equally long."""
        first, second = (len(self.pair.answers[index]) for index in self.order)
        return None if first == second else 1 if first > second else 2


def make_group(pair, order, tokenizer, style):
    messages = (
        pair.messages
        if order is None
        else judge_messages(style, pair.messages, *(pair.answers[index] for index in order))
    )
    return Group(pair, order, messages, encode_chat(tokenizer, messages))


def drop_long(items, tokenizer, style, limit, flag):
    """Leaves out the pairs or questions whose prompt has more than `limit` tokens, in either order, and says how many. BadInput if none is
    left."""
    kept = []
    for item in items:
        answers, orders = (
            (item.answers, ([0, 1], [1, 0])) if isinstance(item, Pair) else ((), (None,))
        )
        letters = sum(
            len(text.encode())
            for text in (*answers, *(message["content"] for message in item.messages))
        )
        surely_fits = (
            letters + 1024 + len(style.system + style.user) < limit
        )  # no text has more tokens than bytes
        if surely_fits or all(
            len(make_group(item, order, tokenizer, style).prompt) <= limit for order in orders
        ):
            kept.append(item)
    if len(kept) < len(items):
        note(
            f"{flag}: {len(items) - len(kept)} of {len(items)} dropped: their prompt is longer than {limit} tokens"
        )
    if items and not kept:
        raise BadInput(
            f"{flag}: every prompt is longer than {limit} tokens: lower --max_completion_length or use a model of longer context"
        )
    return kept


def pair_stream(pairs, seed, both_orders=False):
    """(pair, order) without end: each epoch in a new random order, the better answer first in one of the items 2 k and 2 k + 1 and second in the
    other, a coin says in which. So a step is balanced as well: the surplus of a few steps would teach a weak judge a place, and a judge
    that always names one place has no variance left to learn from. both_orders: each pair comes twice, one order after the other."""
    for epoch in itertools.count():
        orders, rng = (
            balanced_orders(pairs, seed=f"{seed}:{epoch}"),
            random.Random(f"order:{seed}:{epoch}"),
        )
        indices = rng.sample(range(len(pairs)), len(pairs))
        sides = [
            [index for index in indices if (orders[index][0] == pairs[index].label) == first]
            for first in (True, False)
        ]
        for couple in itertools.zip_longest(*sides):
            couple = [index for index in couple if index is not None]
            for index in rng.sample(couple, len(couple)):
                yield pairs[index], orders[index]
                if both_orders:
                    yield pairs[index], orders[index][::-1]


def item_stream(items, settings):
    """(pair, order) or (question, None) without end."""
    if settings.task == "judge":
        yield from pair_stream(items, settings.seed, settings.reward == "consistency")
    for epoch in itertools.count():
        yield from (
            (item, None)
            for item in random.Random(f"order:{settings.seed}:{epoch}").sample(items, len(items))
        )


def roll_out(policy, groups, seeds, tokenizer, style, stops, settings, num_generations=None):
    """Samples the completions of this process's groups, and reads them."""
    with policy.gathered() as model:
        results = generate(
            model,
            [group.prompt for group in groups],
            num_generations or settings.num_generations,
            settings.max_completion_length,
            settings.temperature,
            stop_token_ids=stops,
            seed=seeds,
        )
    for group, completions in zip(groups, results):
        opened = opens_think(tokenizer, group.prompt)
        group.completions = completions
        group.games = [
            read_completion(tokenizer, completion, style, opened, stops)
            if group.order
            else read_answer(tokenizer, completion, opened, stops)
            for completion in completions
        ]
        if (
            policy.runtime.is_main and group is groups[0]
        ):  # of one group: log-probs take three times the space of short completions
            for game, completion in zip(group.games, completions):
                game["logprobs"] = token_pieces(tokenizer, completion, opened, stops)


def token_pieces(tokenizer, completion, opened_think, stops):
    """[[text, log-prob], ...] of a completion's tokens, whose texts join to that of its game. Tokens that only together make a character,
    or nothing by themselves, stand together, with the sum of their log-probs. Each is decoded behind the one before: it may need its space."""
    tokens = completion.tokens[:-1] if completion.tokens[-1] in stops else completion.tokens
    pieces, before, start, total = [["<think>", 0.0]] * opened_think, 0, 0, 0.0
    for end, logprob in enumerate(completion.logprobs[: len(tokens)], start=1):
        total += logprob
        known, text = (
            decode_completion(tokenizer, tokens[before:stop], ()) for stop in (start, end)
        )
        if end == len(tokens) or len(text) > len(known) and not text.endswith("\ufffd"):
            pieces.append([text[len(known) :], round(total, 3)])
            before, start, total = start, end, 0.0
    return pieces


def read_answer(tokenizer, completion, opened_think, stops):
    """What a solver's Completion says: {text, tokens, answered}; answered: it ended, with something behind the thinking."""
    text = "<think>" * opened_think + decode_completion(tokenizer, completion.tokens, stops)
    return {
        "text": text,
        "tokens": len(completion.tokens),
        "answered": completion.finish_reason == "stop" and final_answer(text) != "",
    }


def check_group(group):
    """Fills `correct` of a question with a reference."""
    if group.pair.answer is not None:
        from verify import check_answers

        group.correct = check_answers(
            [final_answer(game["text"]) for game in group.games],
            [group.pair.answer] * len(group.games),
        )


def reward_columns(groups, settings):
    """What a reward function gets beside prompts and completions: {name: list with an entry a completion}."""
    count = settings.num_generations
    if groups[0].order is None:
        for group in groups:
            check_group(group)
        correct = [right for group in groups for right in group.correct or [None] * count]
        return {
            "answer": [group.pair.answer for group in groups for _ in range(count)],
            "correct": correct,
            "question": [group.pair for group in groups for _ in range(count)],
        }
    return {
        "right_verdict": [group.right_verdict for group in groups for _ in range(count)],
        "style": [settings.style] * len(groups) * count,
        "pair": [group.pair for group in groups for _ in range(count)],
        "order": [group.order for group in groups for _ in range(count)],
    }


def micro_batches(groups, budget):
    """Cuts groups into packs of about `budget` tokens: lists of (group, [completions]). A prompt is repeated only where its group is cut."""
    batch, size = [], 0
    for group in groups:
        for index, completion in enumerate(group.completions):
            cost = len(completion.tokens) + (
                0 if batch and batch[-1][0] is group else len(group.prompt)
            )
            if batch and size + cost > budget:
                yield batch
                batch, size, cost = [], 0, len(completion.tokens) + len(group.prompt)
            if not batch or batch[-1][0] is not group:
                batch.append((group, []))
            batch[-1][1].append(index)
            size += cost
    if batch:
        yield batch


def game_counts(records, style):
    """`verdict_counts`, the thinking tokens of valid games and, for a style that asks for a type as RM-R1's does, `format_rates` as counts."""
    rates = (
        format_rates([record["text"] for record in records])
        if "<type>" in style.system + style.user
        else {}
    )
    thinking = sum(record["think_tokens"] for record in records if record["verdict"] is not None)
    return (
        verdict_counts(records)
        | {"thinking": thinking}
        | {name: rate * len(records) for name, rate in rates.items()}
    )


def game_rates(counts):
    """`verdict_rates`, judge/think_length (mean thinking tokens of valid verdicts) and the shares of `format_rates`."""
    rates = {
        name: count / max(1, counts["games"])
        for name, count in counts.items()
        if name.startswith("judge/")
    }
    return (
        verdict_rates(counts)
        | {"judge/think_length": counts["thinking"] / max(1, counts["valid"])}
        | rates
    )


def step_metrics(groups, sums, largest, grad_norm, runtime, settings, style):
    """The metrics of one step from what each process saw of it."""
    if settings.task == "solve":
        counts, rates = answer_counts(groups), answer_rates
    else:
        records = [
            game | {"right": group.right_verdict, "longer": group.longer}
            for group in groups
            for game in group.games
        ]
        counts, rates = game_counts(records, style), game_rates
    rewards = [reward for group in groups for reward in group.rewards]
    spreads = [torch.tensor(group.rewards).std().item() for group in groups]
    flat = [max(group.rewards) - min(group.rewards) <= 1e-6 for group in groups]
    cut = [
        completion.finish_reason == "length" for group in groups for completion in group.completions
    ]
    tokens = [len(completion.tokens) for group in groups for completion in group.completions]
    read = sum(tokens) + sum(len(group.prompt) for group in groups)
    own = [
        len(groups),
        len(tokens),
        sum(rewards),
        sum(spreads),
        sum(flat),
        sum(tokens),
        sum(cut),
        read,
        *sums.tolist(),
        *counts.values(),
    ]
    (
        num_groups,
        n,
        reward,
        spread,
        flat,
        length,
        cut,
        read,
        loss,
        scored,
        entropy,
        low,
        high,
        kl,
        gap,
        *summed,
    ) = runtime.sum(*own)
    scored = max(scored, 1)
    return {
        "loss": loss,
        "reward": reward / n,
        "reward_std": spread / num_groups,
        "frac_reward_zero_std": flat / num_groups,
        "kl": kl / scored,
        "entropy": entropy / scored,
        "clip_ratio/low_mean": low / scored,
        "clip_ratio/high_mean": high / scored,
        "completions/mean_length": length / n,
        "completions/clipped_ratio": cut / n,
        "grad_norm": grad_norm,
        "learning_rate": settings.learning_rate,
        "num_tokens": read,
        **rates(dict(zip(counts, summed))),
        "sampling/logp_diff_mean": gap / scored,
        "sampling/logp_diff_max": runtime.max(largest.item()),
    }


def answer_counts(groups):
    """Counts over a solver's completions and a judge's games, to be added up over processes: always the same keys in one order."""
    judged = [group.judged for group in groups if group.judged]
    checked = [(group, right) for group in groups for right in group.correct or []]
    # where the reference decides a match (right against wrong), what the judge gave to the right answer
    shares = [
        score if group.correct[i] else 1 - score
        for group in groups
        if group.judged and group.correct
        for i, j, score in group.judged["matches"]
        if {group.correct[i], group.correct[j]} == {True, False}
    ]
    return {
        "completions": sum(len(group.games) for group in groups),
        "checked": len(checked),
        "right": sum(right is True for _, right in checked),
        "errors": sum(right is None for _, right in checked),
        "unanswered": sum(not game["answered"] for group in groups for game in group.games),
        "judged": len(judged),
        "planned": sum(len(told["matches"]) for told in judged),
        "games": sum(told["games"] for told in judged),
        "invalid": sum(told["invalid"] for told in judged),
        "cut": sum(told["cut"] for told in judged),
        "reliability": sum(told["reliability"] for told in judged),
        "decided": len(shares),
        "shares": sum(shares),
    }


def answer_rates(counts):
    """The reward/... metrics of `answer_counts`; 0.0 where there is nothing to divide by.

    oracle: share of right completions, of those whose question has a reference (their share: checked). judge_accuracy: what the judge
    gave to the right answer of a match with a wrong one, a draw counting half. judge_matches, judge_games: numbers of the step; identical
    and empty answers make the second smaller. judge_reliability: mean over groups (rewards.match_rewards).
    """

    def share(part, whole):
        return counts[part] / counts[whole] if counts[whole] else 0.0

    return {
        "reward/oracle": share("right", "checked"),
        "reward/checked": share("checked", "completions"),
        "reward/verifier_error": share("errors", "checked"),
        "reward/unanswered": share("unanswered", "completions"),
        "reward/judge_matches": counts["planned"],
        "reward/judge_games": counts["games"],
        "reward/judge_invalid": share("invalid", "games"),
        "reward/judge_accuracy": share("shares", "decided"),
        "reward/judge_reliability": share("reliability", "judged"),
        "reward/judge_cut": share("cut", "completions"),
    }


def write_rollouts(path, groups, runtime):
    """One line a group: the prompt once, then what became of each completion."""
    own = [
        {
            "id": group.pair.id,
            **(
                {"order": group.order, "right_verdict": group.right_verdict}
                if group.order
                else {
                    "answer": group.pair.answer,
                    "correct": group.correct,
                    "matches": group.judged and group.judged["matches"],
                }
            ),
            "prompt": group.messages,
            "completions": [
                game
                | {
                    "reward": reward,
                    "advantage": advantage,
                    "finish_reason": completion.finish_reason,
                }
                for game, reward, advantage, completion in zip(
                    group.games, group.rewards, group.advantages, group.completions
                )
            ],
        }
        for group in groups
    ]
    write_rows(path, own, runtime)


def write_rows(path, own, runtime):
    """A JSON-lines file of every process's rows, in the order in which they were dealt out."""
    parts = runtime.gather(own)
    if runtime.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for batch in itertools.zip_longest(*parts) for row in batch if row is not None]
        write_atomically(path, json_lines(rows))


def evaluate(policy, tokenizer, style, pairs, stops, settings, reward, path):
    """Judges held-out pairs in both orders, once each, or solves held-out questions; they are shared out over the processes. Writes what
    came out to `path`, returns metrics under eval/."""
    if settings.task == "solve":
        return evaluate_answers(policy, tokenizer, pairs, stops, settings, reward, path)
    runtime = policy.runtime
    own = pairs[runtime.rank :: runtime.world_size]
    with policy.gathered() as model:
        judge = Judge(model, tokenizer, style, seed=settings.seed)
        judgments = judge.judge(
            own,
            temperature=settings.temperature,
            max_completion_length=settings.max_completion_length,
        )
    groups = [
        (Group(pair, game["order"], None, None), game)
        for pair, judgment in zip(own, judgments)
        for game in judgment.games
    ]
    records = [
        game | {"right": group.right_verdict, "longer": group.longer} for group, game in groups
    ]
    write_rows(
        path,
        [
            {"id": pair.id, "messages": pair.messages, "answers": pair.answers, "label": pair.label}
            | as_row(judgment)
            for pair, judgment in zip(own, judgments)
        ],
        runtime,
    )
    counts = game_counts(records, style)
    agreed, tokens = (
        sum(bool(judgment.consistent) for judgment in judgments),
        sum(game["tokens"] for game in records),
    )
    *summed, agreed, tokens = runtime.sum(*counts.values(), agreed, tokens)
    metrics = game_rates(dict(zip(counts, summed))) | {
        "judge/consistency": agreed / len(pairs),
        "completions/mean_length": tokens / (2 * len(pairs)),
    }
    return {f"eval/{name}": value for name, value in metrics.items()}


def evaluate_answers(policy, tokenizer, questions, stops, settings, reward, path):
    """One completion a held-out question. With a judge as reward also reward/win_rate, its verdict in both orders on the answers of now
    against those of step 0 (in eval-0.jsonl beside `path`): what the judge believes, to be held against reward/oracle."""
    runtime = policy.runtime
    groups = [
        make_group(question, None, tokenizer, None)
        for question in questions[runtime.rank :: runtime.world_size]
    ]
    seeds = [hash64(settings.seed, stable_hash(group.pair.id)) for group in groups]
    roll_out(policy, groups, seeds, tokenizer, None, stops, settings, num_generations=1)
    for group in groups:
        check_group(group)
    rows = [
        {"id": group.pair.id, "correct": group.correct[0], **group.games[0]} for group in groups
    ]
    write_rows(path, rows, runtime)
    runtime.barrier()  # the file is there
    wins, judge, limit = 0.0, getattr(reward, "judge", None), settings.judge_max_completion_length
    if judge is not None:
        start = {
            row["id"]: row["text"]
            for _, row in read_json_lines(Path(path).with_name("eval-0.jsonl"))
        }
        duels = [
            cut_answers(
                judge,
                group.messages,
                [final_answer(text) for text in (group.games[0]["text"], start[group.pair.id])],
                limit,
            )
            for group in groups
        ]
        different = [
            (group.messages, *duel) for group, duel in zip(groups, duels) if duel[0] != duel[1]
        ]
        judgments = judge.judge(different, max_completion_length=limit) if different else []
        wins = sum(judgment.p_first for judgment in judgments) + (len(duels) - len(different)) / 2
    counts = answer_counts(groups)
    *summed, wins, tokens = runtime.sum(*counts.values(), wins, sum(row["tokens"] for row in rows))
    rates = answer_rates(dict(zip(counts, summed)))
    metrics = {
        name: rates[name]
        for name in ("reward/oracle", "reward/verifier_error", "reward/unanswered")
    }
    metrics |= {
        "reward/win_rate": wins / len(questions),
        "completions/mean_length": tokens / len(questions),
    }
    return {f"eval/{name}": value for name, value in metrics.items()}
