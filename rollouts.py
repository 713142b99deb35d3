"""From preference pairs to sampled judgments: the data side of one GRPO step, and what is written about it.

    pair_stream -> make_group -> roll_out                   then the trainer scores the groups and follows the gradient
    step_metrics, write_rollouts, evaluate                  what a run tells about itself
"""

import itertools
import json
import random
from dataclasses import dataclass

import torch

from chat import encode_chat, judge_messages, opens_think
from cli import BadInput, note
from data import balanced_orders
from judge import Judge, read_completion, verdict_counts, verdict_rates
from sampler import generate


@dataclass
class Group:
    """One prompt of a step and its completions."""

    pair: object
    order: list  # which answer stands first and which second
    messages: list
    prompt: list  # token ids
    completions: list = None
    games: list = None  # one dict a completion: verdict, status, text, tokens, think_tokens
    rewards: list = None
    advantages: list = None

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
    messages = judge_messages(style, pair.messages, *(pair.answers[index] for index in order))
    return Group(pair, order, messages, encode_chat(tokenizer, messages))


def drop_long(pairs, tokenizer, style, limit, flag):
    """Leaves out the pairs whose prompt has more than `limit` tokens, in either order, and says how many. BadInput if none is left."""
    kept = []
    for pair in pairs:
        letters = sum(len(text.encode()) for text in (*pair.answers, *(message["content"] for message in pair.messages)))
        surely_fits = letters + 1024 + len(style.system + style.user) < limit  # no text has more tokens than bytes
        if surely_fits or all(len(make_group(pair, order, tokenizer, style).prompt) <= limit for order in ([0, 1], [1, 0])):
            kept.append(pair)
    if len(kept) < len(pairs):
        note(f"{flag}: {len(pairs) - len(kept)} of {len(pairs)} pairs dropped: their prompt is longer than {limit} tokens")
    if pairs and not kept:
        raise BadInput(f"{flag}: every prompt is longer than {limit} tokens: lower --max_completion_length or use a model of longer context")
    return kept


def pair_stream(pairs, seed):
    """(pair, order) without end: each epoch in a new random order, the better answer first in exactly half of the pairs."""
    for epoch in itertools.count():
        orders = balanced_orders(pairs, seed=f"{seed}:{epoch}")
        indices = list(range(len(pairs)))
        random.Random(f"order:{seed}:{epoch}").shuffle(indices)
        yield from ((pairs[index], orders[index]) for index in indices)


def roll_out(policy, groups, seeds, tokenizer, style, stops, settings):
    """Samples the completions of this process's groups, and reads them."""
    with policy.whole() as model:
        results = generate(model, [group.prompt for group in groups], settings.num_generations, settings.max_completion_length,
                           settings.temperature, stop_token_ids=stops, seed=seeds)  # fmt: skip
    for group, completions in zip(groups, results):
        opened = opens_think(tokenizer, group.prompt)
        group.completions = completions
        group.games = [read_completion(tokenizer, completion, style, opened, stops) for completion in completions]


def step_metrics(groups, sums, largest, grad_norm, runtime, settings):
    """The metrics of one step from what each process saw of it."""
    records = [game | {"right": group.right_verdict, "longer": group.longer} for group in groups for game in group.games]
    counts = verdict_counts(records)
    rewards = [reward for group in groups for reward in group.rewards]
    spreads = [torch.tensor(group.rewards).std().item() for group in groups]
    flat = [max(group.rewards) - min(group.rewards) <= 1e-6 for group in groups]
    cut = [completion.finish_reason == "length" for group in groups for completion in group.completions]
    tokens = [len(completion.tokens) for group in groups for completion in group.completions]
    read = sum(tokens) + sum(len(group.prompt) for group in groups)
    own = [len(groups), len(tokens), sum(rewards), sum(spreads), sum(flat), sum(tokens), sum(cut), read, *sums.tolist(), *counts.values()]
    num_groups, n, reward, spread, flat, length, cut, read, loss, scored, entropy, low, high, kl, gap, *summed = runtime.sum(*own)
    scored = max(scored, 1)
    return {
        "loss": loss, "reward": reward / n, "reward_std": spread / num_groups, "frac_reward_zero_std": flat / num_groups,
        "kl": kl / scored, "entropy": entropy / scored, "clip_ratio/low_mean": low / scored, "clip_ratio/high_mean": high / scored,
        "completions/mean_length": length / n, "completions/clipped_ratio": cut / n,
        "grad_norm": grad_norm, "learning_rate": settings.learning_rate, "num_tokens": read,
        **verdict_rates(dict(zip(counts, summed))),
        "sampling/logp_diff_mean": gap / scored, "sampling/logp_diff_max": runtime.max(largest.item()),
    }  # fmt: skip


def write_rollouts(path, groups, runtime):
    """One line a group: the prompt once, then what became of each completion."""
    own = [{
        "id": group.pair.id, "order": group.order, "right_verdict": group.right_verdict, "prompt": group.messages,
        "completions": [game | {"reward": reward, "advantage": advantage, "finish_reason": completion.finish_reason}
                        for game, reward, advantage, completion in zip(group.games, group.rewards, group.advantages, group.completions)],
    } for group in groups]  # fmt: skip
    parts = runtime.gather(own)
    if runtime.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for batch in itertools.zip_longest(*parts) for row in batch if row is not None]  # in the order of the step
        path.write_text("".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows), encoding="utf-8")


def evaluate(policy, tokenizer, pairs, settings):
    """Judges held-out pairs in both orders, once each; the pairs are shared out over the processes. Returns metrics under eval/."""
    runtime = policy.runtime
    own = pairs[runtime.rank :: runtime.world_size]
    with policy.whole() as model:
        judge = Judge(model, tokenizer, style=settings.style, seed=settings.seed)
        judgments = judge.judge(own, temperature=settings.temperature, max_completion_length=settings.max_completion_length)
    records = []
    for pair, judgment in zip(own, judgments):
        for game in judgment.games:
            group = Group(pair, game["order"], None, None)
            records.append(game | {"right": group.right_verdict, "longer": group.longer})
    counts = verdict_counts(records)
    agreed = sum(bool(judgment.consistent) for judgment in judgments)
    tokens = sum(game["tokens"] for game in records)
    *summed, agreed, tokens = runtime.sum(*counts.values(), agreed, tokens)
    metrics = verdict_rates(dict(zip(counts, summed)))
    metrics |= {"judge/consistency": agreed / len(pairs), "completions/mean_length": tokens / (2 * len(pairs))}
    return {f"eval/{name}": value for name, value in metrics.items()}
