"""GRPO, whole: trains a judge that thinks before it says which of two answers is better.

    python train_grpo.py                                              the embedded example, two CPU cores
    torchrun train_grpo.py --model M --train_data pairs.jsonl         your model, your preferences
    torchrun --nproc_per_node 8 train_grpo.py ...                     eight GPUs, the same result

One step: draw `prompts_per_step` pairs, place the two answers, sample `num_generations` judgments of each, reward the right verdict
with +1 and any other end with -1, and follow the policy gradient. What differs from the GRPO of DeepSeekMath (arXiv 2402.03300):

1. A group's prompt is computed once, in the sampler and here: `[prompt | completion 1 | ... | completion G]` is one packed sequence.
2. No pass for old log-probs: in the first update they are the current ones; further updates (`num_iterations`) keep those of the first.
3. The KL term is off by default (beta 0), and then no reference model is in memory.
4. Every term is divided by counts of the whole step, over all micro-batches and processes (`sequence_weights`).
5. Groups whose rewards are all equal teach nothing: they count in every divisor, and at beta 0 no work is done for them.
6. Truncated importance weights correct for what sampler and trainer compute differently (bf16); in fp32 on one machine they are 1.
"""

import importlib.util
import itertools
import math
import os
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Optional

import cli
from chat import default_style, load_style, load_tokenizer, stop_token_ids
from cli import BadInput, note, setting
from rewards import check_reward, load_items, load_reward

DEFAULTS = dict(prompts_per_step=16, max_completion_length=1024, max_steps=100, learning_rate=1e-6)
TINY_DEFAULTS = dict(prompts_per_step=32, max_completion_length=96, max_steps=150, learning_rate=1e-4)
FREE_TO_CHANGE = ("output_dir", "max_steps", "save_every", "report_to", "resume")  # on --resume


@dataclass
class Settings:
    # what to train, on what
    model: str = setting("tiny-base", "Hugging Face folder or hub name; tiny-base = the embedded model of 0.9 M parameters")
    train_data: Optional[str] = setting(None, "preference pairs: a file, a folder or a hub name (formats: see data.py)")
    eval_data: Optional[str] = setting(None, "held-out pairs, judged in both orders; none = no evaluation")
    output_dir: Optional[str] = setting(None, "folder of the run; new under out/ if not given")
    style: Optional[str] = setting(None, "judging prompt: a name in prompts/ or a file of your own; default: what the model was trained with, else rrm")
    reward: str = setting("verdict", "for a judge: verdict (+1 right, -1 not), consistency (right in both orders of a pair); for a solver: "
                                     "answer (1 if it equals the reference), judge (a judge compares); or MODULE:FUNCTION, which runs code of yours")
    task: Literal["auto", "judge", "solve"] = setting("auto", "learn to judge pairs or to solve questions; auto: solve for answer and judge")
    judge_model: Optional[str] = setting(None, "with --reward judge: the judge's folder or hub name; each process loads it whole")
    judge_base_url: Optional[str] = setting(None, "judge behind an OpenAI-compatible server, where --judge_model is its name")
    judge_style: Optional[str] = setting(None, "judging prompt of that judge; default: that of its training, else rrm")
    judge_opponents: int = setting(4, "how many others of its group each answer meets; num_generations - 1 = all")
    judge_scale: Literal["shrunk", "win_rate", "elo"] = setting("shrunk", "from matches to rewards: see match_rewards in rewards.py")
    judge_max_completion_length: int = setting(1024, "tokens of a judgment at most")
    # rollouts
    prompts_per_step: Optional[int] = setting(None, "prompts a step, over all processes (default 16, tiny 32)")
    num_generations: int = setting(8, "completions of each prompt: the group")
    max_completion_length: Optional[int] = setting(None, "tokens of a completion at most (default 1024, tiny 96); one without verdict is wrong")
    temperature: float = setting(1.0, "sampling temperature, also that of the log-probs in the loss")
    # optimisation
    max_steps: Optional[int] = setting(None, "steps, each with num_iterations updates (default 100, tiny 150)")
    learning_rate: Optional[float] = setting(None, "of AdamW, constant (default 1e-6, tiny 1e-4)")
    beta: float = setting(0.0, "weight of the KL term to the starting model; 0 keeps no reference in memory")
    epsilon: float = setting(0.2, "lower clip of the probability ratio: 1 - epsilon")
    epsilon_high: Optional[float] = setting(None, "upper clip: 1 + epsilon_high; default epsilon (DAPO: 0.28)")
    loss_type: Literal["grpo", "dapo", "dr_grpo"] = setting("grpo", "mean per sequence, then over sequences; mean over tokens; sum over a constant")
    scale_rewards: Literal["auto", "group", "none"] = setting("auto", "divide advantages by the group's standard deviation, or not (Dr. GRPO); "
                                                                      "auto: group, none for win rates of a judge")
    num_iterations: int = setting(1, "updates on each batch of rollouts")
    importance_cap: float = setting(2.0, "upper bound of the importance weight between sampler and trainer")
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm")
    lora_rank: int = setting(0, "train LoRA adapters of this rank and save them in PEFT's format; 0 = all weights; an adapter as --model keeps its own")
    lora_alpha: float = setting(32, "of LoRA: the adapters' product is multiplied by lora_alpha / lora_rank")
    micro_batch_tokens: int = setting(8192, "packed tokens a forward pass; out of memory: lower it, and set --gradient_checkpointing")
    gradient_checkpointing: bool = setting(False, "keep block inputs only, compute the rest again: less memory, a third more time")
    # the run
    eval_every: int = setting(50, "steps between evaluations; 0 = never")
    eval_limit: int = setting(200, "held-out pairs judged at most")
    save_every: int = setting(50, "steps between checkpoints; the last step is always saved")
    resume: bool = setting(False, "go on from the newest checkpoint in output_dir, or start there")
    seed: int = setting(0, "decides data order, placement and sampling")
    report_to: Literal["none", "tensorboard", "wandb"] = setting("none", "copy the metrics to tensorboard or wandb as well")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = setting("auto", "of the computation; weights and optimizer are fp32 always")


def check(settings):
    """Everything that can be wrong before a model is loaded. Returns (settings, model folder, train items, eval items)."""
    for name, value in (TINY_DEFAULTS if cli.is_embedded(settings.model) else DEFAULTS).items():
        if getattr(settings, name) is None:
            setattr(settings, name, value)
    if cli.is_embedded(settings.model) and settings.dtype == "auto":
        settings.dtype = "float32"  # products this small are no faster in bf16
    for name, lowest in dict(prompts_per_step=1, num_generations=2, max_completion_length=1, max_steps=1, num_iterations=1,
                             micro_batch_tokens=1, save_every=1, eval_every=0, eval_limit=1, lora_rank=0).items():
        if getattr(settings, name) < lowest:
            raise BadInput(f"--{name}: must be at least {lowest}, got {getattr(settings, name)}")
    for name in ("temperature", "learning_rate", "epsilon", "epsilon_high", "max_grad_norm", "importance_cap", "lora_alpha"):
        value, floor = getattr(settings, name), 0.01 if name == "temperature" else 0
        if value is not None and not floor < value < float("inf"):
            raise BadInput(f"--{name}: must be above {floor}, got {value}")
    if not 0 <= settings.beta < float("inf"):
        raise BadInput(f"--beta: must be at least 0, got {settings.beta}")
    if settings.report_to != "none" and importlib.util.find_spec(settings.report_to) is None:
        raise BadInput(f"--report_to: {settings.report_to} is not installed: pip install {settings.report_to}")
    if settings.resume and not settings.output_dir:
        raise BadInput("--resume: needs --output_dir, the folder of the run to go on with")
    check_reward(settings)
    folder = cli.resolve_model(settings.model)
    config = cli.check_model_folder(folder)
    settings.style = settings.style or default_style(folder, config)
    if settings.output_dir is not None and os.environ.get("RANK", "0") == "0":  # the others might already see what the first one writes
        cli.check_output_dir(settings.output_dir, settings, FREE_TO_CHANGE)
    load_style(settings.style)
    train_data, eval_data = settings.train_data, settings.eval_data
    if train_data is None:
        if not cli.is_embedded(settings.model) or settings.task == "solve":
            raise BadInput("--train_data: give preference pairs, or questions for a solver (a file, a folder or a hub name)")
        train_data, eval_data = str(folder.parent / "train.jsonl"), eval_data or str(folder.parent / "test.jsonl")
    items = load_items(settings, train_data, "--train_data")
    held_out = load_items(settings, eval_data, "--eval_data") if eval_data else []
    held_out.sort(key=lambda item: random.Random(f"eval:{item.id}").random())  # a file's head may be of one source alone
    return settings, folder, items, held_out[: settings.eval_limit]


if __name__ == "__main__":  # arguments and files are looked at before the slow imports below
    CHECKED = cli.run(lambda: check(cli.parse_settings(Settings, description=__doc__.split("\n")[0])))

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from model import pack_groups, packed_attention  # noqa: E402
from rollouts import drop_long, evaluate, item_stream, make_group, micro_batches, reward_columns, roll_out  # noqa: E402
from rollouts import progress_line, show_progress, step_metrics, summarize, write_rollouts  # noqa: E402
from runtime import Policy, append_json_line, load_checkpoint, load_model, newest_checkpoint, open_run, record  # noqa: E402
from runtime import reporter, save_checkpoint, start  # noqa: E402
from sampler import hash64  # noqa: E402


# ------------------------------------------------------------------------------------------------------------ the algorithm


def group_advantages(rewards, scale_rewards="group"):
    """rewards (groups, num_generations) -> advantages of that shape: (r - mean) / (std + 1e-4) within each group; "none": r - mean.

    The standard deviation has n - 1 in its divisor. A group whose rewards are all equal gets exact zeros (DeepSeekMath section 4.1).
    """
    centered = rewards - rewards.mean(dim=1, keepdim=True)
    if scale_rewards == "group":
        centered = centered / (rewards.std(dim=1, keepdim=True) + 1e-4)
    spread = rewards.amax(dim=1, keepdim=True) - rewards.amin(dim=1, keepdim=True)
    return torch.where(spread > 1e-6, centered, torch.zeros_like(centered))


def sequence_weights(lengths, loss_type, num_sequences, num_tokens, max_completion_length):
    """What one token of each sequence counts in the loss: lengths (sequences,) -> weights (sequences,).

    num_sequences and num_tokens are those of the whole step, over all micro-batches and processes, zero-variance groups included:
        grpo      1 / (length * num_sequences)                    mean over tokens, then over sequences
        dapo      1 / num_tokens                                  mean over the tokens of the step (DAPO, arXiv 2503.14476, eq. 8)
        dr_grpo   1 / (max_completion_length * num_sequences)     no division by the own length (Dr. GRPO, arXiv 2503.20783)
    """
    if loss_type == "grpo":
        return 1.0 / (lengths * num_sequences)
    divisor = num_tokens if loss_type == "dapo" else max_completion_length * num_sequences
    return torch.full(lengths.shape, 1.0 / divisor, device=lengths.device)


def policy_losses(logprobs, old_logprobs, advantages, epsilon, epsilon_high):
    """Clipped surrogate of each token, all (tokens,): -min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon_high) A) (PPO eq. 7)."""
    ratio = (logprobs - old_logprobs).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon_high) * advantages)


def kl_divergence(logprobs, ref_logprobs):
    """Schulman's k3 estimate of KL(policy, reference) at each token, (tokens,): never negative, unbiased on-policy."""
    difference = ref_logprobs - logprobs
    return difference.exp() - difference - 1


def grpo_loss(logprobs, old_logprobs, sampling_logprobs, ref_logprobs, sequence_ids, advantages, weights, settings):
    """The loss of one pack, a scalar whose sum over packs and processes is the loss of the step.

    logprobs, old_logprobs, sampling_logprobs, ref_logprobs (or None), sequence_ids: (tokens,); advantages, weights: (sequences,).
    """
    epsilon_high = settings.epsilon if settings.epsilon_high is None else settings.epsilon_high
    losses = policy_losses(logprobs, old_logprobs, advantages[sequence_ids], settings.epsilon, epsilon_high)
    # pi_trainer / pi_sampler of the rollout, cut above: an unbounded weight would let one odd token take over (TIS, Yao et al. 2025)
    losses = losses * (old_logprobs - sampling_logprobs).exp().clamp(max=settings.importance_cap)
    if ref_logprobs is not None:
        losses = losses + settings.beta * kl_divergence(logprobs, ref_logprobs)
    return (losses * weights[sequence_ids]).sum()


# ------------------------------------------------------------------------------------------------------------------- update


def score(groups, reward, settings):
    """Rewards and advantages of this process's groups; the reward function sees them all in one call."""
    count = settings.num_generations
    if not groups:
        return
    prompts, completions = [group.messages for group in groups for _ in range(count)], [game["text"] for group in groups for game in group.games]
    rewards = reward(prompts=prompts, completions=completions, **reward_columns(groups, settings))
    if len(rewards) != len(prompts):
        raise ValueError(f"--reward {settings.reward}: returned {len(rewards)} rewards for {len(prompts)} completions")
    for value, prompt, completion in zip(rewards, prompts, completions):
        if not isinstance(value, (int, float)) or not math.isfinite(value):  # NaN would pass for a group without variance
            raise ValueError(f"--reward {settings.reward}: returned {value}, which is no finite number, for {completion[:200]!r} after {prompt!r:.200}")
    table = torch.tensor(rewards, dtype=torch.float32).view(len(groups), count)
    for group, row, advantages in zip(groups, table, group_advantages(table, settings.scale_rewards)):
        group.rewards, group.advantages = row.tolist(), advantages.tolist()
    for group, judged in zip(groups, getattr(reward, "last", [])):  # what a judge has to tell about its matches
        group.judged = judged


def accumulate(policy, reference, batches, old_logprobs, totals, settings, learn=True):
    """Forward and backward over this process's packs: the gradients of the whole step's loss add up in the masters.

    old_logprobs: a list, filled in the first update on these rollouts and read in later ones. learn=False: forward only. Returns sums over
    tokens, [loss, tokens, entropy, clipped low, clipped high, kl, |trainer - sampler log-prob|], and the largest of the last.
    """
    runtime, device = policy.runtime, policy.runtime.device
    sums, largest = torch.zeros(7, dtype=torch.float64, device=device), torch.zeros((), device=device)
    for index in range(int(runtime.max(len(batches)))):
        # A process with fewer packs computes an empty one: gathering sharded weights needs everyone, in the same order.
        is_real = index < len(batches)
        packed = tensors_of(batches[index], totals, settings, device) if is_real else (pack_groups([([0], [[0]])], device),)
        layout = packed[0]
        with torch.set_grad_enabled(learn):
            logprobs, entropy = forward(policy.model, layout, settings)
        ref_logprobs = None
        if reference is not None:
            with torch.no_grad():
                ref_logprobs, _ = forward(reference, layout, settings)
        if not is_real:
            loss = logprobs.sum() * 0
        else:
            _, advantages, weights, sampling_logprobs = packed
            if len(old_logprobs) == index:
                old_logprobs.append(logprobs.detach())
            terms = (logprobs, old_logprobs[index], sampling_logprobs, ref_logprobs, layout.sequence_ids, advantages, weights)
            loss = grpo_loss(*terms, settings)
            with torch.no_grad():
                sums += torch.cat((loss.double()[None], token_sums(*terms, entropy, settings)))
                largest = torch.maximum(largest, (old_logprobs[index] - sampling_logprobs).abs().max())
        if learn:
            (loss * runtime.world_size).backward()  # FSDP averages gradients over processes; the loss is a sum
    return sums, largest


def forward(model, layout, settings):
    """(logprobs, entropy) of a pack's targets, (targets,) each."""
    return model(layout.tokens, layout.positions, packed_attention(layout), layout.predictors, layout.targets, settings.temperature)


def tensors_of(batch, totals, settings, device):
    """A pack as tensors: its layout; advantages and weights (sequences,); the sampler's log-probs (targets,)."""
    layout = pack_groups([(group.prompt, [group.completions[i].tokens for i in chosen]) for group, chosen in batch], device)
    rows = [(group.advantages[i], group.completions[i]) for group, chosen in batch for i in chosen]
    advantages = torch.tensor([advantage for advantage, _ in rows], device=device)
    lengths = torch.tensor([float(len(completion.tokens)) for _, completion in rows], device=device)
    weights = sequence_weights(lengths, settings.loss_type, *totals, settings.max_completion_length)
    sampling_logprobs = torch.tensor([value for _, completion in rows for value in completion.logprobs], device=device)
    return layout, advantages, weights, sampling_logprobs


def token_sums(logprobs, old_logprobs, sampling_logprobs, ref_logprobs, sequence_ids, advantages, weights, entropy, settings):
    """The sums that `accumulate` returns, of one pack; clipped means that the clip takes the token's gradient away."""
    epsilon_high = settings.epsilon if settings.epsilon_high is None else settings.epsilon_high
    ratio, sign = (logprobs - old_logprobs).exp(), advantages[sequence_ids]
    low, high = (ratio < 1 - settings.epsilon) & (sign < 0), (ratio > 1 + epsilon_high) & (sign > 0)
    kl = logprobs.new_zeros(()) if ref_logprobs is None else kl_divergence(logprobs, ref_logprobs).sum()
    gap = (old_logprobs - sampling_logprobs).abs().sum()
    return torch.stack([torch.ones_like(ratio).sum(), entropy.sum(), low.sum(), high.sum(), kl, gap]).double()


def update(policy, reference, optimizer, groups, settings):
    """All updates on one batch of rollouts, up to one whose loss or gradient is not finite, which is left out (`Policy.step`). Returns this
    process's metric sums, the largest log-prob gap and the last gradient norm."""
    runtime = policy.runtime
    lengths = [len(completion.tokens) for group in groups for completion in group.completions]
    totals = runtime.sum(len(lengths), sum(lengths))  # sequences and tokens of the whole step
    useful = [group for group in groups if settings.beta > 0 or any(group.advantages)]
    batches, old_logprobs, sums = list(micro_batches(useful, settings.micro_batch_tokens)), [], 0
    if runtime.max(len(batches)) == 0:  # nothing to learn in this step: look at its log-probs all the same
        batches = list(micro_batches(groups, settings.micro_batch_tokens))
        return *accumulate(policy, None, batches, old_logprobs, totals, settings, learn=False), 0.0
    for iteration in range(settings.num_iterations):
        more, largest = accumulate(policy, reference, batches, old_logprobs, totals, settings)
        sums = sums + more
        grad_norm = policy.step(optimizer, more[0].item(), settings.max_grad_norm)
        if not math.isfinite(grad_norm):
            break
    sums[0] /= iteration + 1  # the other sums are divided by tokens, which are counted in every update
    return sums, largest, grad_norm


# ----------------------------------------------------------------------------------------------------------------- the loop


def train(settings, folder, items, held_out):
    if cli.is_embedded(settings.model):
        torch.set_num_threads(1)  # products this small are faster on one thread
    with start(settings.device, settings.dtype) as runtime:
        if settings.output_dir is None:
            settings.output_dir = runtime.gather(time.strftime("out/grpo-%Y%m%d-%H%M%S"))[0]
        output_dir = Path(settings.output_dir)
        checkpoint = newest_checkpoint(output_dir, runtime) if settings.resume else None

        # model, optimizer, what a prompt looks like
        tokenizer, style = load_tokenizer(checkpoint or folder), load_style(settings.style)
        reward = load_reward(settings.reward, settings, runtime.device, runtime.dtype)
        stops = stop_token_ids(tokenizer, checkpoint or folder)
        policy = Policy(checkpoint or folder, runtime, settings.gradient_checkpointing, settings.lora_rank, settings.lora_alpha, settings.seed)
        optimizer = torch.optim.AdamW(policy.masters.values(), lr=settings.learning_rate, weight_decay=0.0, fused=True)
        first_step = load_checkpoint(checkpoint, policy, optimizer) if checkpoint else 0
        reference = None
        if settings.beta > 0:
            reference = load_model(folder, runtime, runtime.dtype).requires_grad_(False)
        longest_prompt = policy.model.config.raw.get("max_position_embeddings", 2**31) - settings.max_completion_length
        if longest_prompt < 1:
            raise BadInput(f"--max_completion_length: {settings.max_completion_length} leaves no room for a prompt in the model's context")
        items = drop_long(items, tokenizer, style, longest_prompt, "--train_data")
        held_out = drop_long(held_out, tokenizer, style, longest_prompt, "--eval_data")

        # the folder of the run
        rows = open_run(output_dir, asdict(settings), first_step if checkpoint else -1, runtime)
        report, rollouts, warned = reporter(settings), output_dir / "rollouts", {}
        note(f"{settings.max_steps} steps of {settings.prompts_per_step} prompts x {settings.num_generations} completions, "
             f"{runtime.world_size} process(es), {runtime.device.type}, {str(runtime.dtype)[6:]}: {output_dir}")  # fmt: skip
        if held_out and settings.eval_every and not checkpoint:
            row = {"step": 0} | evaluate(policy, tokenizer, style, held_out, stops, settings, reward, rollouts / "eval-0.jsonl")
            rows.append(row)
            if runtime.is_main:
                append_json_line(output_dir / "metrics.jsonl", row)
            note(f"before training, on {len(held_out)} held-out items: {progress_line(row)}")

        # Step s reads items (s - 1) * prompts_per_step and on of an endless stream, so a resumed run only skips.
        stream = itertools.islice(item_stream(items, settings), first_step * settings.prompts_per_step, None)
        bar = tqdm(total=settings.max_steps, initial=first_step, unit="step", dynamic_ncols=True, disable=None if runtime.is_main else True)
        for step in range(first_step + 1, settings.max_steps + 1):
            started = time.perf_counter()
            indices = range(settings.prompts_per_step)
            drawn = dict(zip(indices, itertools.islice(stream, settings.prompts_per_step)))
            # whole groups, so advantages need no communication; both orders of a pair on one process where the reward looks at both
            together = 2 if settings.reward == "consistency" else 1
            own = [index for index in indices if index // together % runtime.world_size == runtime.rank]
            groups = [make_group(*drawn[index], tokenizer, style) for index in own]
            seeds = [hash64(settings.seed, step, index) for index in own]
            roll_out(policy, groups, seeds, tokenizer, style, stops, settings)
            rolled_out = time.perf_counter()
            score(groups, reward, settings)
            scored = time.perf_counter()
            sums, largest, grad_norm = update(policy, reference, optimizer, groups, settings)
            updated = time.perf_counter()

            row = {"step": step} | step_metrics(groups, sums, largest, grad_norm, runtime, settings, style)
            row |= {"step_time": updated - started, "timing/rollout": rolled_out - started, "timing/reward": scored - rolled_out,
                    "timing/update": updated - scored}  # fmt: skip
            row["timing/tokens_per_second"] = row["completions/mean_length"] * settings.prompts_per_step * settings.num_generations / row["step_time"]
            is_last = step == settings.max_steps
            write_rollouts(rollouts / f"{step}.jsonl", groups, runtime)
            if held_out and settings.eval_every and (step % settings.eval_every == 0 or is_last):
                row |= evaluate(policy, tokenizer, style, held_out, stops, settings, reward, rollouts / f"eval-{step}.jsonl")
            row = record(output_dir, rows, row, runtime, rollouts / f"{step}.jsonl")
            report(step, row)
            show_progress(bar, rows, warned)
            if step % settings.save_every == 0 or is_last:
                save_checkpoint(output_dir, step, policy, optimizer, tokenizer, settings.style if settings.task == "judge" else None)
        bar.close()
        if runtime.is_main:
            summarize(output_dir, settings)
            print(output_dir / f"checkpoint-{settings.max_steps}")  # the result of this command: the trained judge


if __name__ == "__main__":
    cli.run(lambda: train(*CHECKED), memory="in sampler.py lower --max_completion_length or --prompts_per_step, elsewhere --micro_batch_tokens, or set "
                                            "--gradient_checkpointing")  # fmt: skip
