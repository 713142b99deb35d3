"""GRPO from top to bottom: trains a judge that thinks before it says which answer is better.

    python train_grpo.py                                          the embedded example, on a CPU
    torchrun train_grpo.py --model M --train_data pairs.jsonl     your model, your preferences
    torchrun --nproc_per_node 8 train_grpo.py ...                 the same training on eight GPUs

One step draws `prompts_per_step` pairs, samples `num_generations` completions for each, rewards the
right verdict with +1 and every other outcome with -1, and follows the policy gradient. Other
rewards train a solver of questions (solve_task.py). Six things differ from the GRPO of DeepSeekMath
(arXiv 2402.03300):

1. The prompt of a group is computed once, in the sampler (kv_cache.py) and in the trainer
   (model.pack_groups): one packed sequence `[prompt | completion 1 | ... | completion G]`.
2. Old log-probs are those before a step's first update. That update computes them itself; with
   `num_mini_batches`, a pass before it computes those of the others.
3. The KL term is off by default (beta 0), and then no reference model is in memory.
4. The loss is divided by counts of the whole update, over all micro-batches and processes
   (`sequence_weights`).
5. A group with equal rewards teaches nothing. It counts in every divisor, and at beta 0 the
   update skips it. With `dynamic_sampling` a new prompt takes its place.
6. Truncated importance weights correct for what sampler and trainer compute differently (bf16).
   In fp32 they are 1 up to rounding.
"""

import dataclasses
import itertools
import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

import cli
from chat import load_tokenizer, stop_token_ids
from checkpoint import check_model_folder, is_embedded, resolve_model
from cli import BadInput, note, setting
from judge_task import make_task
from progress import progress_line, show_progress, summarize
from runlog import append_rows, check_run, find_run, open_run, record, reporter
from seeding import some_items
from styles import default_style, load_style

DEFAULTS = dict(prompts_per_step=16, max_completion_length=1024, max_steps=100, learning_rate=1e-6)
TINY_DEFAULTS = dict(
    prompts_per_step=32, max_completion_length=96, max_steps=150, learning_rate=1e-4
)
IMPORTANCE_CAP = 2.0  # upper bound of the importance weight between sampler and trainer


@dataclass
class Settings:
    model: str = setting("tiny-base", "Hugging Face folder or hub name", "model, data and reward")
    adapter: Optional[str] = setting(None, "LoRA adapter for the model, to be trained further")
    train_data: Optional[str] = setting(None, "pairs: a file, a folder or a hub name (data.py)")
    eval_data: Optional[str] = setting(None, "held-out pairs, PATH or NAME=PATH,...; or none")
    output_dir: Optional[str] = setting(None, "folder of the run; new under out/ if not given")
    style: Optional[str] = setting(None, "a file, or a name in prompts/; default: the model's own")
    reward: str = setting(
        "verdict",
        "of a judge: verdict, consistency, MODULE:FUNCTION (code of yours); of a solver: answer, "
        "judge, solve:MODULE:FUNCTION",
    )
    judge_model: Optional[str] = setting(None, "judge of --reward judge; of a server: NAME@URL")
    judge_opponents: int = setting(4, "how many others of its group each answer meets")
    judge_max_completion_length: int = setting(1024, "maximum tokens of a judgment")
    prompts_per_step: Optional[int] = setting(
        None, "prompts per step, over all processes (default: 16, tiny 32)", "rollout"
    )
    num_generations: int = setting(8, "completions of each prompt: the group")
    max_completion_length: Optional[int] = setting(None, "in tokens (default: 1024, tiny 96)")
    max_prompt_length: Optional[int] = setting(None, "pairs with a longer prompt are dropped")
    temperature: float = setting(1.0, "sampling temperature; the loss uses it too")
    dynamic_sampling: int = setting(0, "new prompts for groups of equal rewards, N times")
    max_steps: Optional[int] = setting(None, "steps (default: 100, tiny 150)", "optimisation")
    learning_rate: Optional[float] = setting(None, "of AdamW (default: 1e-6, tiny 1e-4)")
    beta: float = setting(0.0, "weight of the KL term; 0: no reference model")
    epsilon: float = setting(0.2, "lower clip of the probability ratio: 1 - epsilon")
    epsilon_high: Optional[float] = setting(None, "upper clip; default: epsilon (DAPO: 0.28)")
    loss_type: Literal["grpo", "dapo", "dr_grpo"] = setting("grpo", "how tokens are averaged")
    scale_rewards: Literal["auto", "group", "none"] = setting(
        "auto",
        "divide advantages by the std of their group; auto: not for dr_grpo and --reward judge",
    )
    lora_rank: int = setting(0, "train only a LoRA adapter of this rank; 0: all weights")
    num_iterations: int = setting(1, "updates on each batch of rollouts")
    num_mini_batches: int = setting(1, "updates that share a step's prompts out (RM-R1: 8)")
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm")
    micro_batch_tokens: int = setting(8192, "packed tokens in a forward pass; lower it to fit")
    gradient_checkpointing: bool = setting(False, "less memory, a third more time")
    eval_every: int = setting(50, "steps between evaluations; 0: never", "run")
    eval_limit: int = setting(200, "held-out pairs at most, of each set")
    save_every: int = setting(50, "steps between checkpoints; the last step is saved too")
    keep: int = setting(0, "checkpoints that stay, besides the best one; 0: all")
    resume: bool = setting(False, "continue from the newest checkpoint in output_dir, if any")
    seed: int = setting(0, "decides data order, placement and sampling")
    report_to: Literal["none", "tensorboard", "wandb"] = setting("none", "send metrics there too")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = setting("auto", "dtype of the computation")


# ---- the algorithm ----


def group_advantages(rewards, scale_rewards="group"):
    """Rewards (groups, num_generations) -> advantages of that shape, group by group.

    "group" (DeepSeekMath section 4.1): (r - mean) / (std + 1e-4), where std has n - 1 in its
    divisor. "none": r - mean. A group with equal rewards gets exact zeros. A reward NaN (None from
    the reward function) counts neither in n nor in mean and std, and its advantage is 0.
    """
    num_scored = rewards.isfinite().sum(dim=1, keepdim=True)
    centered = (rewards - rewards.nanmean(dim=1, keepdim=True)).nan_to_num(0.0)
    spread = centered.amax(dim=1, keepdim=True) - centered.amin(dim=1, keepdim=True)
    if scale_rewards == "group":
        std = (centered.square().sum(dim=1, keepdim=True) / (num_scored - 1)).sqrt()
        centered = centered / (std + 1e-4)
    return centered.masked_fill(spread <= 1e-6, 0.0)


def sequence_weights(lengths, loss_type, num_sequences, num_tokens, max_completion_length):
    """The loss normalisation: what one token of each sequence weighs, (sequences,).

    lengths (sequences,); num_sequences and num_tokens are counts of the whole update, over all
    micro-batches and processes, groups with equal rewards included.

        grpo      1 / (length * num_sequences)                  mean of the sequences' means
        dapo      1 / num_tokens                                mean over all tokens of the update
                                                                (DAPO, arXiv 2503.14476, eq. 8)
        dr_grpo   1 / (max_completion_length * num_sequences)   no division by the own length
                                                                (Dr. GRPO, arXiv 2503.20783)
    """
    if loss_type == "grpo":
        return 1.0 / (lengths * num_sequences)
    divisor = num_tokens if loss_type == "dapo" else max_completion_length * num_sequences
    return lengths.new_full(lengths.shape, 1.0 / divisor)


def policy_losses(logprobs, old_logprobs, advantages, epsilon, epsilon_high):
    """The clipped surrogate of PPO (arXiv 1707.06347, eq. 7) of each target, (targets,).

    -min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon_high) * A)
    """
    ratio = (logprobs - old_logprobs).exp()
    clipped_ratio = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    return -(ratio * advantages).minimum(clipped_ratio * advantages)


def kl_divergence(logprobs, ref_logprobs):
    """Schulman's k3 estimate of KL(policy, reference) at each completion token, (targets,).

    It is never negative, and unbiased on-policy.
    """
    difference = ref_logprobs - logprobs
    return difference.exp() - difference - 1


def grpo_loss(logprobs, batch, settings):
    """The loss of a micro-batch, a scalar; the loss of an update is its sum over all of them.

    logprobs (targets,): one entry for each completion token. batch: a rollout.MicroBatch.
    """
    sequence_ids = batch.pack.sequence_ids  # (targets,)
    advantages = batch.advantages[sequence_ids]
    epsilon_high = settings.epsilon_high or settings.epsilon
    losses = policy_losses(logprobs, batch.old_logprobs, advantages, settings.epsilon, epsilon_high)
    losses = losses * importance_weights(batch.old_logprobs, batch.sampling_logprobs)
    if batch.ref_logprobs is not None:
        losses = losses + settings.beta * kl_divergence(logprobs, batch.ref_logprobs)
    weights = sequence_weights(
        batch.lengths, settings.loss_type, *batch.totals, settings.max_completion_length
    )
    return batch.scale * (losses * weights[sequence_ids]).sum()


def importance_weights(old_logprobs, sampling_logprobs):
    """Trainer against sampler at each token, (targets,), truncated (TIS, Yao et al. 2025)."""
    return (old_logprobs - sampling_logprobs).exp().clamp(max=IMPORTANCE_CAP)


def token_sums(logprobs, entropy, batch, settings):
    """{metric: its sum over the completion tokens of a micro-batch}.

    A token counts as clipped where the clip takes its gradient away.
    """
    logprobs, entropy = logprobs.detach(), entropy.detach()
    ratio = (logprobs - batch.old_logprobs).exp()
    advantages = batch.advantages[batch.pack.sequence_ids]
    epsilon_high = settings.epsilon_high or settings.epsilon
    importance = importance_weights(batch.old_logprobs, batch.sampling_logprobs)
    ref_logprobs = logprobs if batch.ref_logprobs is None else batch.ref_logprobs
    name = "sampling/importance_sampling_ratio"
    values = {
        "tokens": ratio.new_ones(len(ratio)),
        "kl": kl_divergence(logprobs, ref_logprobs),
        "entropy": entropy,
        "clip_ratio/low_mean": (ratio < 1 - settings.epsilon) & (advantages < 0),
        "clip_ratio/high_mean": (ratio > 1 + epsilon_high) & (advantages > 0),
        "sampling/logp_diff_mean": (batch.old_logprobs - batch.sampling_logprobs).abs(),
        f"{name}/mean": importance,
        f"{name}/clipped_ratio": importance >= IMPORTANCE_CAP,
        f"{name}/squares": importance.double().square(),
    }
    return {metric: batch.scale * value.double().sum() for metric, value in values.items()}


# ---- before torch is imported ----


def prepare(settings):
    """Fills in defaults, checks all settings and reads the data. Raises BadInput.

    Returns (filled-in settings, task, training items, held-out items, hashes for --resume).
    """
    settings = fill_in(settings)
    check_numbers(settings)
    task = make_task(settings)
    train_items, eval_items = load_items(task, settings)
    styles = [] if settings.style is None else [load_style(settings.style)]
    hashes = check_run(settings, train_data=train_items, eval_data=eval_items, style=styles)
    return settings, task, train_items, eval_items, hashes


def fill_in(settings):
    """The settings with the defaults that depend on model, data, reward or loss."""
    folder = resolve_model(settings.model)
    defaults = dict(TINY_DEFAULTS if is_embedded(settings.model) else DEFAULTS)
    config = check_model_folder(folder)
    if settings.reward != "judge":  # there the style is that of --judge_model
        defaults["style"] = default_style(folder, config, settings.adapter)
    if settings.train_data is not None:  # the embedded data has its own held-out part
        defaults["eval_data"] = "held_out"
    filled = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    if is_embedded(settings.model) and settings.dtype == "auto":
        filled["dtype"] = "float32"  # products this small are no faster in bf16
    if settings.scale_rewards == "auto":
        undivided = settings.reward == "judge" or settings.loss_type == "dr_grpo"
        filled["scale_rewards"] = "none" if undivided else "group"
    return dataclasses.replace(settings, **filled)


def check_numbers(settings):
    """Raises BadInput for an integer below 1 and a float not above 0; `at_least` has exceptions."""
    at_least = {"num_generations": 2, "temperature": 0.01, "beta": 0.0, "seed": -math.inf}
    at_least |= dict.fromkeys(["dynamic_sampling", "lora_rank", "eval_every", "keep"], 0)
    for name, value in vars(settings).items():
        if type(value) is int or (type(value) is float and name in at_least):
            smallest = at_least.get(name, 1)
            if not smallest <= value < math.inf:
                raise BadInput(f"--{name}: must be at least {smallest}, got {value}")
        elif type(value) is float and not 0 < value < math.inf:
            raise BadInput(f"--{name}: must be above 0, got {value}")
    if settings.num_mini_batches > settings.prompts_per_step:
        raise BadInput(f"--num_mini_batches: must be at most {settings.prompts_per_step}")


def load_items(task, settings):
    """(training items, held-out items) of --train_data and --eval_data. Raises BadInput."""
    train_data, eval_data = settings.train_data, settings.eval_data
    if train_data is None:
        if not is_embedded(settings.model) or task.embedded_data is None:
            raise BadInput("--train_data: give pairs, or a solver's questions: a file or hub name")
        folder = resolve_model(settings.model).parent
        train_data, embedded_eval_data = (str(folder / name) for name in task.embedded_data)
        eval_data = embedded_eval_data if eval_data is None else eval_data
    train_items = task.load_items(train_data, "--train_data", "train")
    if eval_data == "none" or not settings.eval_every:
        return train_items, []
    if Path(eval_data).is_file():
        held_out = task.load_items(eval_data, "--eval_data", "test")
        return train_items, some_items(held_out, settings.eval_limit)
    from questions import load_held_out

    return load_held_out(task, train_items, eval_data, settings.eval_limit)


# ---- the loop ----


def main(settings):
    settings, task, train_items, eval_items, hashes = prepare(settings)

    import torch  # only now: bad input is answered at once

    import rollout
    from distributed import load_model, new_policy, restore, save_checkpoint, start

    if settings.keep:
        from resume import prune
    if settings.dynamic_sampling:
        from training_options import redraw
    if is_embedded(settings.model):
        torch.set_num_threads(1)  # products this small are faster on one thread
    with start(settings.device, settings.dtype) as runtime:
        # Setup: model and optimizer, the task's items, the folder of the run.
        output_dir, checkpoint = find_run(settings, runtime, "grpo")
        folder = checkpoint or resolve_model(settings.model)
        tokenizer = load_tokenizer(folder)
        task.load(tokenizer, stop_token_ids(tokenizer, folder), runtime)
        policy = new_policy(settings, runtime, folder)
        optimizer = torch.optim.AdamW(
            policy.masters.values(), lr=settings.learning_rate, weight_decay=0.0, fused=True
        )
        # `drawn` prompts of the stream belong to the steps before.
        steps_done, drawn = restore(checkpoint, policy, optimizer, settings.prompts_per_step)
        reference = None
        if settings.beta > 0:
            reference = load_model(settings.model, runtime, runtime.dtype, settings.adapter)
        train_items = rollout.drop_long(policy, task, train_items, settings, "--train_data")
        eval_items = rollout.drop_long(policy, task, eval_items, settings, "--eval_data")
        kept = steps_done if checkpoint else -1  # rows up to this step; -1: none
        rows = open_run(output_dir, dataclasses.asdict(settings), kept, runtime, hashes)
        note(
            f"{settings.max_steps} steps of {settings.prompts_per_step} prompts x "
            f"{settings.num_generations} completions, {runtime.world_size} process(es), "
            f"{runtime.device.type}, {str(runtime.dtype)[6:]}: {output_dir}"
        )
        rollouts, report, warned = output_dir / "rollouts", reporter(settings), {}
        if eval_items and not checkpoint:
            row = rollout.evaluate(policy, task, eval_items, settings, rollouts / "eval-0.jsonl")
            rows.append({"step": 0} | row)
            if runtime.is_main:
                append_rows(output_dir / "metrics.jsonl", rows)
            note(f"before training, on {len(eval_items)} held-out items: {progress_line(rows[0])}")
            report(0, rows[0])

        stream = itertools.islice(task.stream(train_items), drawn, None)
        for step in range(steps_done + 1, settings.max_steps + 1):
            # 1. Draw the prompts of this step. Each process takes some of them.
            started = time.perf_counter()
            items = list(itertools.islice(stream, settings.prompts_per_step))
            groups = rollout.own_groups(task, items, step, settings, runtime)

            # 2. Sample num_generations completions of each prompt.
            rollout.sample(policy, task, groups, settings.num_generations, settings)
            sampled = time.perf_counter()

            # 3. Reward each completion; an advantage compares it with the rest of its group.
            rewards = rollout.rewards(task, groups, settings)  # (groups, num_generations)
            advantages = group_advantages(rewards, settings.scale_rewards)
            rollout.set_advantages(groups, rewards, advantages)
            rewarded = time.perf_counter()
            drawn += len(items)
            redrawn = 0
            if settings.dynamic_sampling:
                groups, redrawn = redraw(
                    groups, stream, step, policy, task, settings, group_advantages
                )
                drawn += redrawn
            ready = time.perf_counter()

            # 4. Follow the gradient of the loss, a sum over micro-batches and processes.
            mini_batches, has_signal = rollout.mini_batches(groups, settings, runtime)
            rollout.add_logprobs(policy.model, reference, mini_batches, settings)
            sums, losses, grad_norm = Counter(), [], 0.0
            for batches in mini_batches * settings.num_iterations:
                loss_sum = 0.0
                for batch in batches:
                    with torch.set_grad_enabled(has_signal):
                        logprobs, entropy = policy.model.logprobs(batch.pack, settings.temperature)
                    if batch.old_logprobs is None:
                        batch.old_logprobs = logprobs.detach()
                    loss = grpo_loss(logprobs, batch, settings)
                    if has_signal:  # FSDP averages gradients over processes; the loss needs sums
                        (loss * runtime.world_size).backward()
                    loss_sum += loss.detach().double()
                    sums.update(token_sums(logprobs, entropy, batch, settings))
                losses.append(float(loss_sum))
                if has_signal:
                    grad_norm = policy.step(optimizer, losses[-1], settings.max_grad_norm)
                if not math.isfinite(grad_norm):
                    break
            sums["loss"] = sum(losses) / len(losses)

            # 5. Log, evaluate, save.
            times = started, sampled, rewarded, ready, time.perf_counter()
            row = {"step": step, "grad_norm": grad_norm, "sampling/redrawn_groups": redrawn}
            row["learning_rate"] = optimizer.param_groups[0]["lr"]
            path = rollouts / f"{step}.jsonl"
            written = rollout.write_rollouts(path, task, groups, runtime)
            row |= task.metrics(written)
            row |= rollout.step_metrics(written, mini_batches, sums, times, runtime)
            is_last = step == settings.max_steps
            if eval_items and (step % settings.eval_every == 0 or is_last):
                eval_path = rollouts / f"eval-{step}.jsonl"
                row |= rollout.evaluate(policy, task, eval_items, settings, eval_path)
            row = record(output_dir, rows, row, runtime, path)
            report(step, row)
            show_progress(rows, settings.max_steps, warned)
            if step % settings.save_every == 0 or is_last:
                style = task.judge_style
                save_checkpoint(output_dir, step, policy, optimizer, tokenizer, style, drawn)
                if settings.keep and runtime.is_main:
                    prune(output_dir, settings.keep, rows)
        if runtime.is_main:
            summarize(output_dir, settings)
            print(output_dir / f"checkpoint-{settings.max_steps}")  # the result: the trained model


if __name__ == "__main__":
    cli.run(
        lambda: main(cli.parse_settings(Settings, description=__doc__)),
        memory="while sampling lower --max_completion_length in a new run, else "
        "--micro_batch_tokens, or set --gradient_checkpointing",
    )
