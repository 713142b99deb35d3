"""The rollouts of a step: groups, sampling, micro-batches, metrics, files.

A group is one prompt and its completions. A task (judge_task.py or solve_task.py) decides what a
prompt is, how a completion is read and what reward it gets. Nothing here asks which task runs.
"""

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field, replace

import torch

from chat import decode_completion, encode_chat, opens_think
from cli import BadInput, note
from model import Pack, pack_groups, split_by_budget
from progress import progress_line
from runlog import append_rows, json_lines, write_atomically
from sampler import generate


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
    rewards: list = field(default_factory=list)
    advantages: list = field(default_factory=list)


def make_group(task, item, seed, number=0):
    messages = task.messages(item)
    return Group(item, messages, encode_chat(task.tokenizer, messages), seed, number)


def own_indices(task, num_prompts, runtime):
    """Which of `num_prompts` prompts this process samples.

    A group stays on one process, so advantages need no communication.
    """
    owners = [index // task.adjacent_groups % runtime.world_size for index in range(num_prompts)]
    return [index for index, owner in enumerate(owners) if owner == runtime.rank]


def with_signal(task, groups):
    """The groups without those whose rewards are equal; adjacent ones stay or go together."""
    size = task.adjacent_groups
    units = [groups[start : start + size] for start in range(0, len(groups), size)]
    units = [unit for unit in units if any(any(group.advantages) for group in unit)]
    return list(itertools.chain(*units))


def longest_prompt(config, settings):
    """Tokens of the longest prompt that model and settings allow. Raises BadInput if none."""
    context = config.raw.get("max_position_embeddings") or 2**31
    room = context - settings.max_completion_length
    if room < 1:
        raise BadInput(f"--max_completion_length: must be below the model's context, {context}")
    return min(room, settings.max_prompt_length or room)


def drop_long(task, items, limit, flag):
    """Leaves out items with a prompt of more than `limit` tokens, and says how many.

    Raises BadInput if none is left.
    """

    def fits(messages):
        num_bytes = sum(len(message["content"].encode()) for message in messages)
        if num_bytes + 1024 < limit:  # no text has more tokens than bytes
            return True
        return len(encode_chat(task.tokenizer, messages)) <= limit

    kept = [item for item in items if all(fits(prompt) for prompt in task.all_prompts(item))]
    dropped = len(items) - len(kept)
    if dropped:
        note(f"{flag}: {dropped} of {len(items)} dropped: prompt longer than {limit} tokens")
    if items and not kept:
        raise BadInput(
            f"{flag}: every prompt is longer than {limit} tokens: raise --max_prompt_length if it "
            "is set, lower --max_completion_length, or use a model of longer context"
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


def rewards(task, groups, settings):
    """Rewards of this process's groups, (groups, num_generations) in fp32; NaN for no reward."""
    values = task.rewards(groups) if groups else []
    return torch.tensor(values, dtype=torch.float32).view(len(groups), settings.num_generations)


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
    old_logprobs: torch.Tensor | None = None  # (targets,) before the first update of the step
    ref_logprobs: torch.Tensor | None = None  # (targets,) of the reference model
    is_filler: bool = False  # counts for nothing, but the other processes need this pass


def count_completions(groups, runtime):
    """(completions, their tokens) of all processes."""
    lengths = [len(completion.tokens) for group in groups for completion in group.completions]
    return runtime.sum(len(lengths), sum(lengths))


def mini_batches(groups, settings, runtime):
    """([(totals, this process's MicroBatches), ...], whether any process has a gradient to follow).

    There is one entry for each update; `totals` are its count_completions. A group with equal
    rewards has no gradient at beta 0, so it is left out. If no group of any process has one, one
    entry has all groups: they are computed for the metrics alone.
    """
    found = []
    for part in split_by_number(groups, settings.num_mini_batches, runtime):
        totals = count_completions(part, runtime)
        useful = [group for group in part if settings.beta > 0 or any(group.advantages)]
        if runtime.max(len(useful)) > 0:
            found.append((totals, micro_batches(useful, settings, runtime)))
    if found:
        return found, True
    return [(count_completions(groups, runtime), micro_batches(groups, settings, runtime))], False


def split_by_number(groups, num_parts, runtime):
    """This process's groups of each part of the step, whatever the number of processes is."""
    if num_parts == 1:
        return [groups]
    numbers = runtime.gather([group.number for group in groups])
    numbers, parts = sorted(itertools.chain(*numbers)), [[] for _ in range(num_parts)]
    for group in groups:
        parts[numbers.index(group.number) * num_parts // len(numbers)].append(group)
    return parts


def micro_batches(groups, settings, runtime):
    """This process's MicroBatches, each of at most micro_batch_tokens tokens, or one completion."""
    if runtime.world_size > 1:
        from sharding import deal_groups

        groups = deal_groups(groups, runtime)
    divided = chunks(groups, settings.micro_batch_tokens)
    batches = [micro_batch(chunk, runtime.device) for chunk in divided]
    # Gathering sharded weights needs every process, in the same order.
    for _ in range(len(batches), int(runtime.max(len(batches)))):
        zero = torch.zeros(1, device=runtime.device)
        pack = pack_groups([([0], [[0]])], runtime.device)
        batches.append(MicroBatch(pack, zero, zero + 1, zero, is_filler=True))
    return batches


def chunks(groups, budget):
    """Divides groups into chunks of at most `budget` tokens, [(group, [completion index, ...])].

    Only a group that alone has more tokens is divided, and its prompt is repeated.
    """
    parts = []
    for group in groups:
        lengths = enumerate(len(completion.tokens) for completion in group.completions)
        for part in split_by_budget(lengths, lambda item: item[1], budget - len(group.prompt)):
            parts.append((group, [index for index, _ in part]))

    def size(part):
        group, indices = part
        return len(group.prompt) + sum(len(group.completions[i].tokens) for i in indices)

    return split_by_budget(parts, size, budget)


def micro_batch(chunk, device):
    packed, advantages, lengths, sampling_logprobs = [], [], [], []
    for group, indices in chunk:
        completions = [group.completions[index] for index in indices]
        packed.append((group.prompt, [completion.tokens for completion in completions]))
        advantages += [group.advantages[index] for index in indices]
        for completion in completions:
            lengths.append(float(len(completion.tokens)))
            sampling_logprobs += completion.logprobs
    return MicroBatch(
        pack_groups(packed, device),
        torch.tensor(advantages, device=device),
        torch.tensor(lengths, device=device),
        torch.tensor(sampling_logprobs, device=device),
    )


@torch.no_grad()
def add_logprobs(model, reference, mini_batches, settings):
    """Fills in ref_logprobs, and old_logprobs of all mini-batches that see an update before."""
    for number, (_, batches) in enumerate(mini_batches):
        for batch in batches:
            if number > 0:
                batch.old_logprobs, _ = model.logprobs(batch.pack, settings.temperature)
            if reference is not None:
                batch.ref_logprobs, _ = reference.logprobs(batch.pack, settings.temperature)


# ---- metrics and files ----


def group_counts(groups):
    """{name: number} of this process's groups, to be summed over processes."""
    completions = [completion for group in groups for completion in group.completions]
    scored = [[value for value in group.rewards if not math.isnan(value)] for group in groups]
    spread = [rewards for rewards in scored if rewards and max(rewards) - min(rewards) > 1e-6]
    return {
        "groups": len(groups),
        "completions": len(completions),
        "scored": sum(map(len, scored)),
        "reward": sum(map(sum, scored)),
        "reward_std": sum(torch.tensor(rewards).std().item() for rewards in spread),
        "equal_rewards": len(groups) - len(spread),
        "completion_tokens": sum(len(completion.tokens) for completion in completions),
        "prompt_tokens": sum(len(group.prompt) for group in groups),
        "cut_off": sum(completion.finish_reason == "length" for completion in completions),
    }


TOKEN_SUMS = """loss tokens entropy clipped_low clipped_high kl logp_diff importance
    importance_squared importance_clipped""".split()  # in train_grpo.py


def step_metrics(task, groups, mini_batches, token_sums, runtime):
    """The metrics of one step, over all processes.

    token_sums: over all updates and the groups in `mini_batches` alone.
    """
    step = runtime.sum_by_name(group_counts(groups))
    tokens = runtime.sum_by_name({name: token_sums.get(name, 0.0) for name in TOKEN_SUMS})
    num_tokens = max(tokens["tokens"], 1)
    gaps = [0.0]  # between trainer and sampler
    for batch in (batch for _, batches in mini_batches for batch in batches):
        if not batch.is_filler:
            gaps.append((batch.old_logprobs - batch.sampling_logprobs).abs().max().item())
    metrics = {
        "loss": tokens["loss"],
        "reward": step["reward"] / max(step["scored"], 1),
        "reward_std": step["reward_std"] / step["groups"],
        "frac_reward_zero_std": step["equal_rewards"] / step["groups"],
        "completions/unscored_ratio": 1 - step["scored"] / step["completions"],
        "kl": tokens["kl"] / num_tokens,
        "entropy": tokens["entropy"] / num_tokens,
        "clip_ratio/low_mean": tokens["clipped_low"] / num_tokens,
        "clip_ratio/high_mean": tokens["clipped_high"] / num_tokens,
        "completions/mean_length": step["completion_tokens"] / step["completions"],
        "completions/clipped_ratio": step["cut_off"] / step["completions"],
        "num_tokens": step["completion_tokens"] + step["prompt_tokens"],
    }
    metrics |= task.rates(runtime.sum_by_name(task.counts(groups)))
    metrics["sampling/logp_diff_mean"] = tokens["logp_diff"] / num_tokens
    metrics["sampling/logp_diff_max"] = runtime.max(max(gaps))
    mean, name = tokens["importance"] / num_tokens, "sampling/importance_sampling_ratio"
    metrics[f"{name}/mean"] = mean
    metrics[f"{name}/clipped_ratio"] = tokens["importance_clipped"] / num_tokens
    # Effective sample size as a share of the tokens: (sum of weights)^2 / (n * sum of squares).
    mean_square = tokens["importance_squared"] / num_tokens
    metrics[f"{name}/effective_sample_size"] = mean**2 / mean_square if mean_square else 0.0
    return metrics


def timings(times, metrics, settings):
    """Seconds of a step from its moments: start, (sampled, rewarded) once or more, updated."""
    gaps = [end - start for start, end in zip(times, times[1:])]
    num_completions = settings.prompts_per_step * settings.num_generations
    num_tokens = metrics["completions/mean_length"] * num_completions
    return {
        "step_time": sum(gaps),
        "timing/rollout": sum(gaps[:-1:2]),
        "timing/reward": sum(gaps[1::2]),
        "timing/update": gaps[-1],
        "timing/tokens_per_second": num_tokens / sum(gaps),
    }


def write_rollouts(path, task, groups, runtime):
    """One line for each group: its prompt, then each completion with its reward.

    Only the first group gets token log-probs, to keep the file small.
    """
    if runtime.is_main and groups:
        opened = opens_think(task.tokenizer, groups[0].prompt)
        for record, completion in zip(groups[0].records, groups[0].completions):
            record["logprobs"] = token_pieces(task.tokenizer, completion, opened, task.stops)
    rows = []
    for group in groups:
        completions = []
        for record, completion, reward, advantage in zip(
            group.records, group.completions, group.rewards, group.advantages
        ):
            outcome = {"reward": None if math.isnan(reward) else reward, "advantage": advantage}
            completions.append(record | outcome | {"finish_reason": completion.finish_reason})
        row = {"prompt": group.messages, "completions": completions}
        rows.append(task.describe(group) | row)
    write_rows(path, rows, runtime)


def write_rows(path, own_rows, runtime):
    """A JSON-lines file of all processes' rows: one row of each process in turn."""
    turns = itertools.zip_longest(*runtime.gather(own_rows))
    if runtime.is_main:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for turn in turns for row in turn if row is not None]
        write_atomically(path, json_lines(rows))


def evaluate(policy, task, items, settings, path):
    """One completion for each held-out prompt, at eval_temperature, shared out over the processes.

    Writes what came out to `path`. Returns metrics under eval/, and of several sets those of each
    set under eval_NAME/.
    """
    runtime = policy.runtime
    own_items = task.eval_items(items[runtime.rank :: runtime.world_size])
    groups = [make_group(task, item, seed) for item, seed in own_items]
    sample(policy, task, groups, 1, replace(settings, temperature=settings.eval_temperature))
    write_rows(path, task.eval_rows(groups), runtime)
    runtime.barrier()  # a solver's eval_counts reads the file of step 0
    totals, sets = Counter(), {}
    for source in sorted({item.source for item in items}):
        part = [group for group in groups if group.item.source == source]
        own_counts = task.eval_counts(part, path.parent)
        own_counts["eval_completions"] = len(part)
        own_counts["eval_tokens"] = sum(len(group.completions[0].tokens) for group in part)
        sets[f"eval_{source}"] = runtime.sum_by_name(own_counts)
        totals.update(sets[f"eval_{source}"])
    metrics = {}
    for prefix, counts in ({"eval": totals} | (sets if len(sets) > 1 else {})).items():
        rates = task.eval_rates(counts)
        rates["completions/mean_length"] = counts["eval_tokens"] / counts["eval_completions"]
        metrics |= {f"{prefix}/{name}": value for name, value in rates.items()}
    return metrics


def evaluate_untrained(policy, task, items, settings, output_dir):
    """The evaluation before the first step: writes and returns the metrics of step 0."""
    path = output_dir / "rollouts" / "eval-0.jsonl"
    row = {"step": 0} | evaluate(policy, task, items, settings, path)
    if policy.runtime.is_main:
        append_rows(output_dir / "metrics.jsonl", [row])
    note(f"before training, on {len(items)} held-out items: {progress_line(row)}")
    return row
