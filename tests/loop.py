"""Runs the loop of train_grpo.py on completions and advantages that a test makes up."""

import contextlib
import tempfile
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import torch

import distributed
import rollout
import train_grpo
from data import Pair
from distributed import Runtime, unsharded
from judge_task import Comparison
from model import Model, pack_groups
from rollout import Group
from sampler import Completion

ALONE = Runtime(0, 1, torch.device("cpu"), torch.float32)
ADVANTAGES = [[1.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-0.7, 0.7, 1.2], [0.3, -0.2, -2.0]]


def made_up_groups(model, advantages, temperature=1.0, seed=0):
    """Groups with random completions whose sampling log-probs are the model's own.

    advantages: a list for each group.
    """
    generator, groups = torch.Generator().manual_seed(seed), []
    for number, row in enumerate(advantages):
        prompt = torch.randint(0, 61, (5 + 3 * number,), generator=generator).tolist()
        lengths = torch.randint(1, 12, (len(row),), generator=generator).tolist()
        tokens = []
        for length in lengths:
            tokens.append(torch.randint(0, 61, (length,), generator=generator).tolist())
        with torch.no_grad():
            logprobs, _ = model.logprobs(pack_groups([(prompt, tokens)]), temperature)
        group = Group(Comparison(Pair(str(number), [], ("a", "bb"), 0), [0, 1]), [], prompt, 0)
        for completion, values in zip(tokens, logprobs.split(lengths)):
            group.completions.append(Completion(completion, values.tolist(), "stop"))
        group.advantages = row
        groups.append(group)
    return groups


def load(folder):
    return Model.from_pretrained(folder, dtype=torch.float32)


class MadeUpTask:
    adjacent_groups = 1
    judge_style = None

    def load(self, tokenizer, stops, runtime):
        pass

    def stream(self, groups):
        while True:
            yield from groups

    def metrics(self, rows):
        return {}


def made_up_rows(path, task, groups, runtime):
    """What rollout.write_rollouts returns, without a file."""
    rows = []
    for group in groups:
        games = []
        for completion, reward in zip(group.completions, group.advantages):
            ends = {"tokens": len(completion.tokens), "finish_reason": completion.finish_reason}
            games.append({"reward": reward} | ends)
        rows.append({"prompt_tokens": len(group.prompt), "completions": games})
    return [row for part in runtime.gather(rows) for row in part]


def run_loop(folder, groups, runtime=ALONE, scale_reference=1.0, **changes):
    """One step of train_grpo.main on `groups`, with real micro-batches, losses and updates.

    scale_reference: the last norm of the reference model is multiplied by it.
    Returns the metrics, the token sums, the gradient before each update (one flat tensor each)
    and the policy.
    """
    values = dict(
        model=str(folder),
        max_steps=1,
        eval_every=0,
        prompts_per_step=len(groups),
        num_generations=len(groups[0].advantages),
        max_completion_length=12,
        learning_rate=0.01,
        scale_rewards="none",
        device="cpu",
        dtype="float32",
    )
    settings = train_grpo.Settings(**(values | changes))
    seen = SimpleNamespace(gradients=[])
    step, step_metrics, init = (
        distributed.Policy.step,
        rollout.step_metrics,
        load_reference_of(scale_reference),
    )

    def watched_step(policy, *arguments):
        seen.policy = policy
        masters = policy.masters.values()
        seen.gradients.append(torch.cat([unsharded(m.grad).flatten() for m in masters]))
        return step(policy, *arguments)

    def watched_metrics(rows, mini_batches, sums, *rest):
        seen.sums, seen.mini_batches = dict(sums), mini_batches
        seen.num_batches = sum(map(len, mini_batches))
        return step_metrics(rows, mini_batches, sums, *rest)

    def keep_drawn(*arguments):
        seen.drawn = arguments[-1]

    def made_up_rewards(task, groups, settings):
        rows = [group.advantages for group in groups]
        return torch.tensor(rows).view(len(groups), settings.num_generations)

    patches = {
        train_grpo: dict(
            prepare=lambda settings: (settings, MadeUpTask(), groups, [], {}),
            load_tokenizer=lambda folder: None,
            stop_token_ids=lambda tokenizer, folder: (),
            group_advantages=lambda rewards, scale: rewards,
            summarize=lambda folder, settings: None,
            show_progress=lambda rows, num_steps, warned: None,
        ),
        distributed: dict(
            start=lambda device, dtype: contextlib.nullcontext(runtime),
            save_checkpoint=keep_drawn,
            load_model=init,
        ),
        rollout: dict(
            make_group=lambda task, group, seed, number: replace(group, number=number),
            drop_long=lambda policy, task, items, settings, flag: items,
            sample=lambda *arguments: None,
            rewards=made_up_rewards,
            write_rollouts=made_up_rows,
            step_metrics=watched_metrics,
        ),
        distributed.Policy: dict(step=watched_step),
    }
    with contextlib.ExitStack() as stack:
        settings.output_dir = stack.enter_context(tempfile.TemporaryDirectory())
        settings.output_dir = runtime.gather(settings.output_dir)[0]
        for target, names in patches.items():
            stack.enter_context(mock.patch.multiple(target, **names))
        real_policy = distributed.Policy.__init__

        def keep_policy(policy, *arguments):
            real_policy(policy, *arguments)
            seen.policy = policy

        stack.enter_context(mock.patch.object(distributed.Policy, "__init__", keep_policy))
        record = train_grpo.record

        def keep_row(folder, rows, row, *rest):
            seen.row = record(folder, rows, row, *rest)
            return seen.row

        stack.enter_context(mock.patch.object(train_grpo, "record", keep_row))
        with contextlib.redirect_stdout(None):
            train_grpo.main(settings)
    return seen


def load_reference_of(scale):
    """distributed.load_model; the second model that it loads, the reference, is scaled."""
    load_model, loaded = distributed.load_model, []

    def load_and_scale(*arguments):
        model = load_model(*arguments)
        loaded.append(model)
        if len(loaded) == 2:
            with torch.no_grad():
                weight = model.norm.weight
                (weight.to_local() if hasattr(weight, "to_local") else weight).mul_(scale)
        return model

    return load_and_scale
