"""The rollouts of a step: groups, sampling, micro-batches, metrics, files.

A group is one prompt and its completions. A task (judge_task.py or solve_task.py) decides what a
prompt is, how a completion is read and what reward it gets. Nothing here asks which task runs.
"""

import itertools
import math
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

import torch

from chat import decode_completion, encode_chat, opens_think
from cli import BadInput, note
from model import Pack, pack_groups, split_by_budget
from runlog import json_lines, write_atomically
from sampler import Completion, generate
from seeding import hash64


@dataclass
class Group:
    """One prompt of a step and its completions; the lists have one entry for each completion."""

    item: object  # of the task: a Comparison or an Exercise
    messages: list  # the prompt as messages
    prompt: list  # its token ids
    seed: int  # of its sampling
    number: int = 0  # among the prompts drawn for its step, over all processes
    completions: list = field(default_factory=list)  # sampler.Completion
    records: list = field(default_factory=list)  # what the task reads in them, dicts with "text"
    advantages: list = field(default_factory=list)

    def num_tokens(self):
        return len(self.prompt) + sum(len(completion.tokens) for completion in self.completions)


def make_group(task, item, seed, number=0):
    messages = task.messages(item)
    return Group(item, messages, encode_chat(task.tokenizer, messages), seed, number)


def own_groups(task, items, step, settings, runtime, first=0):
    """The groups of this process, for the items of a step from number `first` on.

    A group stays on one process, so advantages need no communication.
    """
    groups = []
    for index, item in enumerate(items):
        if index // task.adjacent_groups % runtime.world_size == runtime.rank:
            seed = hash64(settings.seed, step, first + index)
            groups.append(make_group(task, item, seed, first + index))
    return groups


def drop_long(policy, task, items, settings, flag):
    """Leaves out items whose prompt is longer than the settings or the model's context allow.

    A note says how many. Raises BadInput if none is left.
    """
    context = policy.model.config.raw.get("max_position_embeddings") or 2**31
    limit = context - settings.max_completion_length
    if limit < 1:
        raise BadInput(f"--max_completion_length: must be below the model's context, {context}")
    limit = min(limit, settings.max_prompt_length or limit)

    def fits(messages):
        num_bytes = sum(len(message["content"].encode()) for message in messages)
        is_short = num_bytes + 1024 < limit  # no text has more tokens than bytes
        return is_short or len(encode_chat(task.tokenizer, messages)) <= limit

    kept = [item for item in items if all(fits(prompt) for prompt in task.all_prompts(item))]
    dropped = len(items) - len(kept)
    if dropped:
        note(f"{flag}: {dropped} of {len(items)} dropped: prompt longer than {limit} tokens")
    if items and not kept:
        raise BadInput(
            f"{flag}: every prompt is longer than {limit} tokens: raise --max_prompt_length, lower "
            "--max_completion_length, or use a model of longer context"
        )
    return kept


# ---- sampling ----


def sample(policy, task, groups, num_generations, settings):
    """Samples the completions of this process's groups; the task reads them."""
    with policy.gathered() as model:
        results = generate(
            model,
            [group.prompt for group in groups],
            num_generations,
            settings.max_completion_length,
            settings.temperature,
            stop_token_ids=task.stops,
            seed=[group.seed for group in groups],
        )
    for group, completions in zip(groups, results):
        opened = opens_think(task.tokenizer, group.prompt)
        group.completions = completions
        group.records = [task.read(completion, opened) for completion in completions]
        for record, completion in zip(group.records, completions):
            record["finish_reason"] = completion.finish_reason


def rewards(task, groups, settings):
    """Rewards of this process's groups, (groups, num_generations) in fp32; NaN for no reward."""
    values = task.rewards(groups) if groups else []
    return torch.tensor(values, dtype=torch.float32).view(len(groups), settings.num_generations)


def set_advantages(groups, rewards, advantages):
    for group, own_rewards, own_advantages in zip(groups, rewards.tolist(), advantages.tolist()):
        group.advantages = own_advantages
        for record, reward, advantage in zip(group.records, own_rewards, own_advantages):
            record["reward"] = None if math.isnan(reward) else reward
            record["advantage"] = advantage


def token_pieces(tokenizer, completion, opened_think, stops):
    """[[text, log-prob], ...] of a completion's tokens; joined, the texts are that of its record.

    Several tokens form one piece where one alone is no whole character. Each is decoded together
    with the piece before it, because some tokenizers put a space between them.
    """
    tokens = completion.tokens
    if tokens[-1] in stops:
        tokens = tokens[:-1]
    pieces = [["<think>", 0.0]] if opened_think else []
    previous, start, total = 0, 0, 0.0  # where the previous piece and this one start
    for end, logprob in enumerate(completion.logprobs[: len(tokens)], start=1):
        total += logprob
        known = decode_completion(tokenizer, tokens[previous:start], ())
        text = decode_completion(tokenizer, tokens[previous:end], ())
        is_whole = len(text) > len(known) and not text.endswith("\ufffd")
        if is_whole or end == len(tokens):
            pieces.append([text[len(known) :], round(total, 3)])
            previous, start, total = start, end, 0.0
    return pieces


# ---- micro-batches ----


@dataclass
class MicroBatch:
    """The completions of one forward pass. Sequences are completions, targets are their tokens."""

    pack: Pack
    advantages: torch.Tensor  # (sequences,)
    lengths: torch.Tensor  # (sequences,) tokens of each completion
    sampling_logprobs: torch.Tensor  # (targets,) as the sampler computed them
    totals: tuple  # completions and tokens of the update, over all processes
    old_logprobs: torch.Tensor | None = None  # (targets,) before the first update of the step
    ref_logprobs: torch.Tensor | None = None  # (targets,) of the reference model
    scale: float = 1.0  # 0.0 for a filler, which only keeps the other processes company


def mini_batches(groups, settings, runtime):
    """([this process's MicroBatches of each update], whether any process has a gradient to follow).

    A group with equal rewards has no gradient at beta 0, so it is left out, but its update's totals
    count it. If no group of any process has one, all groups are computed, for the metrics alone.
    """
    parts = [groups]
    if settings.num_mini_batches > 1:
        from training_options import split_by_number

        parts = split_by_number(groups, settings.num_mini_batches, runtime)
    found = []
    for part in parts:
        useful = [group for group in part if settings.beta > 0 or any(group.advantages)]
        if runtime.max(len(useful)) > 0:
            found.append((useful, part))
    updates = found or [(groups, groups)]
    return [micro_batches(*update, settings, runtime) for update in updates], bool(found)


def micro_batches(groups, all_groups, settings, runtime):
    """This process's MicroBatches of `groups`, with the totals of all groups of the update.

    Each has at most micro_batch_tokens tokens, or one completion.
    """
    lengths = [len(completion.tokens) for group in all_groups for completion in group.completions]
    totals = runtime.sum(len(lengths), sum(lengths))
    if runtime.world_size > 1:
        from sharding import deal_groups

        groups = deal_groups(groups, runtime)
    divided = chunks(groups, settings.micro_batch_tokens)
    batches = [micro_batch(chunk, totals, runtime.device) for chunk in divided]
    # Gathering sharded weights needs every process, in the same order.
    for _ in range(len(batches), runtime.max(len(batches))):
        filler = Group(None, [], [0], 0, completions=[Completion([0], [0.0], "stop")])
        filler.advantages = [0.0]
        batches.append(micro_batch([filler], totals, runtime.device))
        batches[-1].scale = 0.0
    return batches


def chunks(groups, budget):
    """Divides groups into lists of at most `budget` tokens.

    A group that alone has more tokens becomes several groups with the same prompt.
    """
    parts = []
    for group in groups:
        members = zip(group.completions, group.advantages)
        room = budget - len(group.prompt)
        for part in split_by_budget(members, lambda member: len(member[0].tokens), room):
            completions, advantages = zip(*part)
            parts.append(replace(group, completions=completions, advantages=advantages))
    return split_by_budget(parts, Group.num_tokens, budget)


def micro_batch(groups, totals, device):
    completions = [completion for group in groups for completion in group.completions]
    packed = [(group.prompt, [c.tokens for c in group.completions]) for group in groups]
    advantages = [advantage for group in groups for advantage in group.advantages]
    lengths = [float(len(completion.tokens)) for completion in completions]
    logprobs = [logprob for completion in completions for logprob in completion.logprobs]
    columns = [torch.tensor(values, device=device) for values in (advantages, lengths, logprobs)]
    return MicroBatch(pack_groups(packed, device), *columns, totals)


@torch.no_grad()
def add_logprobs(model, reference, mini_batches, settings):
    """Fills in ref_logprobs, and old_logprobs of all updates but the first: weights move before."""
    for number, batches in enumerate(mini_batches):
        for batch in batches:
            if number > 0:
                batch.old_logprobs, _ = model.logprobs(batch.pack, settings.temperature)
            if reference is not None:
                batch.ref_logprobs, _ = reference.logprobs(batch.pack, settings.temperature)


# ---- metrics and files ----


def step_metrics(rows, mini_batches, token_sums, times, runtime):
    """The metrics of one step, over all processes.

    rows: those of `write_rollouts`. token_sums: over all updates and the groups in `mini_batches`
    alone. times: when the step began, had sampled, had rewards, had drawn again, had updated.
    """
    completions = [one for row in rows for one in row["completions"]]
    scored = [one["reward"] for one in completions if one["reward"] is not None]
    deviations = [reward_deviation(row) for row in rows]
    completion_tokens = sum(one["tokens"] for one in completions)
    metrics = {
        "reward": sum(scored) / max(len(scored), 1),
        "reward_std": fmean(deviations),
        "frac_reward_zero_std": deviations.count(0.0) / len(rows),
        "completions/unscored_ratio": 1 - len(scored) / len(completions),
        "completions/mean_length": completion_tokens / len(completions),
        "completions/clipped_ratio": fmean(one["finish_reason"] == "length" for one in completions),
        "num_tokens": completion_tokens + sum(row["prompt_tokens"] for row in rows),
    }
    sums = runtime.sum_by_name(token_sums)
    metrics["loss"], num_tokens = sums.pop("loss"), max(sums.pop("tokens"), 1)
    means = {name: total / num_tokens for name, total in sums.items()}
    # Effective sample size as a share of the tokens: (sum of weights)^2 / (n * sum of squares).
    name = "sampling/importance_sampling_ratio"
    mean_square = means.pop(f"{name}/squares")
    share = means[f"{name}/mean"] ** 2 / mean_square if mean_square else 0.0
    metrics |= means | {f"{name}/effective_sample_size": share}
    gaps = []  # between trainer and sampler
    for batch in itertools.chain(*mini_batches):
        gap = (batch.old_logprobs - batch.sampling_logprobs).abs().max()
        gaps.append(batch.scale * gap.item())
    metrics["sampling/logp_diff_max"] = runtime.max(max(gaps))

    started, sampled, rewarded, ready, updated = times
    return metrics | {
        "step_time": updated - started,
        "timing/rollout": sampled - started + ready - rewarded,
        "timing/reward": rewarded - sampled,
        "timing/update": updated - ready,
        "timing/tokens_per_second": completion_tokens / (updated - started),
    }


def reward_deviation(row):
    """The standard deviation of a group's rewards; 0.0 for equal ones."""
    scored = [one["reward"] for one in row["completions"] if one["reward"] is not None]
    equal = not scored or max(scored) - min(scored) <= 1e-6
    return 0.0 if equal else stdev(scored)


def write_rollouts(path, task, groups, runtime):
    """Writes one line for each group, its prompt and each completion with its reward.

    Only the first group gets token log-probs, to keep the file small. Returns all processes' lines.
    """
    if runtime.is_main and groups:
        opened = opens_think(task.tokenizer, groups[0].prompt)
        for record, completion in zip(groups[0].records, groups[0].completions):
            record["logprobs"] = token_pieces(task.tokenizer, completion, opened, task.stops)
    rows = []
    for group in groups:
        row = {"prompt": group.messages, "prompt_tokens": len(group.prompt)}
        rows.append(task.describe(group) | row | {"completions": group.records})
    return write_rows(path, rows, runtime)


def write_rows(path, own_rows, runtime):
    """Writes all processes' rows as JSON lines, one of each process in turn; returns them."""
    turns = itertools.zip_longest(*runtime.gather(own_rows))
    rows = [row for turn in turns for row in turn if row is not None]
    if runtime.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json_lines(rows))
    return rows


def evaluate(policy, task, items, settings, path):
    """One completion for each held-out prompt, shared out over the processes.

    Writes what came out to `path`. Returns metrics under eval/, and of several sets those of each
    set under eval_NAME/.
    """
    runtime = policy.runtime
    own_items = task.eval_items(items[runtime.rank :: runtime.world_size])
    groups = [make_group(task, item, seed) for item, seed in own_items]
    sample(policy, task, groups, 1, replace(settings, temperature=task.eval_temperature))
    rows = write_rows(path, task.eval_rows(groups, path), runtime)
    parts, sources = {"eval": rows}, sorted({row["source"] for row in rows})
    if len(sources) > 1:
        for source in sources:
            parts[f"eval_{source}"] = [row for row in rows if row["source"] == source]
    metrics = {}
    for prefix, part in parts.items():
        for name, value in task.eval_metrics(part).items():
            metrics[f"{prefix}/{name}"] = value
    return metrics
