"""DPO: a policy learns which answer of a pair is better (arXiv 2305.18290).

    torchrun -m extras.train_dpo --model M --train_data pairs.jsonl --output_dir out/dpo

A judge may label the pairs first:

    python judge.py --model J --pairs pairs.jsonl --out judged.jsonl
    torchrun -m extras.train_dpo --model M --train_data pairs.jsonl --judgments judged.jsonl \\
        --output_dir out/dpo

The log-ratio h of an answer is the sum of its tokens' log-probs under the policy, minus that under
the starting model. The loss of a pair is -log sigmoid(beta (h_chosen - h_rejected)), and that of a
step is the mean over its pairs. A pair is one packed group, [prompt | chosen | rejected], so the
prompt is computed once.
"""

import itertools
import time
from dataclasses import asdict, dataclass
from typing import Literal, Optional

import cli
from chat import load_tokenizer
from checkpoint import check_model_folder, resolve_model
from cli import BadInput, note, setting
from data import load_pairs
from judge_file import read_judgments
from progress import summarize
from runlog import check_run, find_run, open_run, record, reporter
from train_sft import (
    encode_row,
    end_token,
    packs_of,
    row_size,
    row_stream,
    style_of,
    usable_rows,
)


@dataclass
class Settings:
    model: str = setting(
        "tiny",
        "Hugging Face folder or hub name: the start, and the reference",
        group="model and data",
    )
    adapter: Optional[str] = setting(None, "LoRA adapter for the model, to be trained further")
    train_data: Optional[str] = setting(
        None, "pairs: a file, a folder or a hub name (formats: see data.py)"
    )
    judgments: Optional[str] = setting(
        None, "labels of these pairs: a file that judge.py --pairs ... --out has written"
    )
    consistent_only: bool = setting(
        False, "with --judgments: leave out pairs whose two orders do not agree"
    )
    output_dir: Optional[str] = setting(None, "folder of the run; new under out/ if not given")
    max_steps: int = setting(100, "optimizer steps", group="optimisation")
    batch_size: int = setting(32, "pairs a step, over all processes")
    learning_rate: float = setting(5e-7, "of AdamW, constant")
    beta: float = setting(0.1, "penalty on the distance from the starting model")
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm")
    lora_rank: int = setting(0, "train only a LoRA adapter of this rank; 0: all weights (lora.py)")
    max_length: int = setting(
        4096,
        "at most so many tokens of a prompt and its longer answer; longer pairs are left out",
    )
    micro_batch_tokens: int = setting(
        8192,
        "packed tokens a forward pass; out of memory: lower it, and set --gradient_checkpointing",
    )
    gradient_checkpointing: bool = setting(
        False, "keep only block inputs, recompute the others: less memory, a third more time"
    )
    save_every: int = setting(
        100, "steps between checkpoints; the last step is always saved", group="run"
    )
    keep: int = setting(0, "checkpoints that stay; 0: all")
    resume: bool = setting(
        False, "continue from the newest checkpoint in output_dir, or start there"
    )
    seed: int = setting(0, "decides the order of the pairs")
    report_to: Literal["none", "tensorboard", "wandb"] = setting(
        "none", "copy the metrics to tensorboard or wandb as well"
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "of the computation; weights and optimizer are fp32 always"
    )


def prepare(settings):
    """(settings, model folder, labelled pairs, their hashes). BadInput before a model is loaded."""
    for name in ("max_steps", "batch_size", "max_length", "micro_batch_tokens", "save_every"):
        if getattr(settings, name) < 1:
            raise BadInput(f"--{name}: must be at least 1, got {getattr(settings, name)}")
    for name in ("learning_rate", "beta", "max_grad_norm"):
        if not 0 < getattr(settings, name) < float("inf"):
            raise BadInput(f"--{name}: must be above 0, got {getattr(settings, name)}")
    for name in ("lora_rank", "keep"):
        if getattr(settings, name) < 0:
            raise BadInput(f"--{name}: must not be negative, got {getattr(settings, name)}")
    if settings.train_data is None:
        raise BadInput("--train_data: give preference pairs (a file, a folder or a hub name)")
    if settings.consistent_only and settings.judgments is None:
        raise BadInput("--consistent_only: goes with --judgments")
    folder = resolve_model(settings.model)
    check_model_folder(folder)
    # A file of judgments has ties too.
    pairs = load_pairs(settings.train_data, keep_ties=settings.judgments is not None)
    if settings.judgments is not None:
        add_judgments(pairs, settings.judgments, settings.consistent_only)
    labelled = [pair for pair in pairs if pair.label in (0, 1)]
    if not labelled:
        raise BadInput(
            f"--train_data: {settings.train_data}: no pair has a better answer: label the pairs, "
            "or give --judgments"
        )
    note(f"{len(labelled)} of {len(pairs)} pairs have a better answer")
    return settings, folder, labelled, check_run(settings, train_data=labelled)


def add_judgments(pairs, path, consistent_only=False):
    """Replaces the pairs' labels by the winners in a file of judge.py; no winner, tie: None.

    Raises BadInput for a pair that the file does not judge.
    """
    rows = read_judgments(path, pairs, "--judgments")
    for pair in pairs:
        row = rows[pair.id]
        trusted = row["winner"] in ("a", "b") and (row["consistent"] or not consistent_only)
        pair.label = "ab".index(row["winner"]) if trusted else None


def dpo_terms(logps, ref_logps, beta):
    """(losses, chosen rewards, rejected rewards), (pairs,) each (DPO, equations 5 and 7).

    logps, ref_logps (2 * pairs,): summed log-probs, chosen and rejected alternating. A reward is
    beta times the log-ratio to the reference.
    """
    from torch.nn.functional import logsigmoid

    chosen, rejected = (beta * (logps - ref_logps)).view(-1, 2).unbind(1)
    return -logsigmoid(chosen - rejected), chosen, rejected


def summed_logps(model, pack, num_sequences):
    """Log-probs of complete answers, (sequences,)."""
    logprobs, _ = model.logprobs(pack)
    return logprobs.new_zeros(num_sequences).index_add(0, pack.sequence_ids, logprobs)


def train_step(policy, reference, optimizer, rows, settings):
    """One update on this process's rows [(prompt, [chosen, rejected], id), ...] of token ids.

    The loss is the mean over the pairs of all processes. Returns TRL's metrics; rewards/accuracies
    is the share of pairs whose chosen answer has the higher reward.
    """
    import torch

    from model import pack_groups

    runtime = policy.runtime
    (num_pairs,) = runtime.sum(len(rows))
    packs = list(packs_of(rows, settings.micro_batch_tokens))
    sums = torch.zeros(6, dtype=torch.float64)
    for index in range(runtime.max(len(packs))):
        # A process with fewer packs computes fillers: gathering shards needs every process.
        is_real = index < len(packs)
        pairs = packs[index] if is_real else [([0], [[0], [0]])]
        pack = pack_groups([row[:2] for row in pairs], runtime.device)
        with torch.no_grad():
            ref_logps = summed_logps(reference, pack, 2 * len(pairs))
        logps = summed_logps(policy.model, pack, 2 * len(pairs))
        losses, chosen, rejected = dpo_terms(logps, ref_logps, settings.beta)
        loss = losses.sum() / num_pairs * is_real
        (loss * runtime.world_size).backward()  # FSDP averages gradients; the loss is a sum
        if is_real:
            columns = losses, chosen, rejected, (chosen > rejected), *logps.view(-1, 2).unbind(1)
            sums += torch.stack([column.detach().double().sum() for column in columns]).cpu()
    grad_norm = policy.step(optimizer, sums[0].item() / num_pairs, settings.max_grad_norm)
    names = (
        "loss",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
    )
    *means, tokens = runtime.sum(*sums.tolist(), sum(map(row_size, rows)))
    row = {name: value / num_pairs for name, value in zip(names, means)}
    return row | {
        "rewards/margins": row["rewards/chosen"] - row["rewards/rejected"],
        "grad_norm": grad_norm,
        "num_tokens": tokens,
    }


def encode_pair(pair, tokenizer, end):
    """(prompt, [chosen, rejected], id of the pair) as token ids; answers end with `end`."""
    prompt, chosen = encode_row(pair.messages, pair.answers[pair.label], tokenizer, end)
    _, rejected = encode_row(pair.messages, pair.answers[1 - pair.label], tokenizer, end)
    return prompt, [chosen, rejected], f"pair {pair.id}"


def main(settings):
    settings, folder, pairs, hashes = prepare(settings)
    style = style_of(settings)

    import torch  # only now: bad input is answered at once

    from distributed import load_model, new_policy, restore, save_checkpoint, start
    from resume import prune

    if settings.model == "tiny":
        torch.set_num_threads(1)
    with start(settings.device, settings.dtype) as runtime:
        output_dir, checkpoint = find_run(settings, runtime, "dpo")
        tokenizer = load_tokenizer(checkpoint or folder)
        end = end_token(tokenizer, folder)
        policy = new_policy(settings, runtime, checkpoint or folder)
        reference = load_model(folder, runtime, runtime.dtype, settings.adapter)
        optimizer = torch.optim.AdamW(
            policy.masters.values(), lr=settings.learning_rate, weight_decay=0.0, fused=True
        )
        steps_done, drawn = restore(checkpoint, policy, optimizer, settings.batch_size)
        rows = usable_rows(
            [encode_pair(pair, tokenizer, end) for pair in pairs],
            settings,
            policy.model.config.vocab_size,
        )
        kept = steps_done if checkpoint else -1  # rows up to this step; -1: none
        log = open_run(output_dir, asdict(settings), kept, runtime, hashes)
        report = reporter(settings)
        stream = itertools.islice(row_stream(rows, settings.seed), drawn, None)
        for step in range(steps_done + 1, settings.max_steps + 1):
            started = time.perf_counter()
            batch = list(itertools.islice(stream, settings.batch_size))
            row = {"step": step} | train_step(
                policy, reference, optimizer, batch[runtime.rank :: runtime.world_size], settings
            )
            row |= {
                "learning_rate": settings.learning_rate,
                "step_time": time.perf_counter() - started,
            }
            row = record(output_dir, log, row, runtime, ", ".join(place for *_, place in batch))
            report(step, row)
            left = int(row["step_time"] * (settings.max_steps - step))
            note(
                f"step {step}/{settings.max_steps}  loss {row['loss']:.4f}  "
                f"accuracy {row['rewards/accuracies']:.3f}  margin {row['rewards/margins']:.3f}  "
                f"grad {row['grad_norm']:.2f}  {row['step_time']:.2f} s  "
                f"{left // 60}:{left % 60:02d} left"
            )
            if step % settings.save_every == 0 or step == settings.max_steps:
                save_checkpoint(output_dir, step, policy, optimizer, tokenizer, style)
                if settings.keep and runtime.is_main:
                    prune(output_dir, settings.keep, log)
        if runtime.is_main:
            summarize(output_dir, settings)
            print(output_dir / f"checkpoint-{settings.max_steps}")


if __name__ == "__main__":
    cli.run(
        lambda: main(cli.parse_settings(Settings, description=__doc__)),
        memory="lower --micro_batch_tokens, or set --gradient_checkpointing",
    )
