"""DPO: a policy learns from pairs of answers which one is better, on the packed log-probs of the core (arXiv 2305.18290).

    torchrun -m extras.train_dpo --model M --train_data pairs.jsonl --output_dir out/dpo           pairs that have labels
    python judge.py --model J --pairs pairs.jsonl --out judged.jsonl                               or a judge labels them first:
    torchrun -m extras.train_dpo --model M --train_data pairs.jsonl --judgments judged.jsonl --output_dir out/dpo

With h the sum of log-probs of an answer's tokens under the policy, less that under the starting model, a pair's loss is
-log sigmoid(beta (h_chosen - h_rejected)), and a step's the mean over its pairs. A pair is one packed group, [prompt | chosen | rejected],
so the prompt is computed once.
"""

import itertools
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Optional

import cli
from cli import BadInput, note, setting
from data import load_pairs
from judge import stable_hash

FREE_TO_CHANGE = ("output_dir", "max_steps", "save_every", "report_to", "resume")


@dataclass
class Settings:
    model: str = setting("tiny", "Hugging Face folder or hub name: the start, and the reference")
    train_data: Optional[str] = setting(None, "pairs: a file, a folder or a hub name (formats: see data.py)")
    judgments: Optional[str] = setting(None, "labels of these pairs: a file that judge.py --pairs ... --out has written")
    consistent_only: bool = setting(False, "with --judgments: leave out pairs whose two orders do not agree")
    output_dir: Optional[str] = setting(None, "folder of the run; new under out/ if not given")
    max_steps: int = setting(100, "optimizer steps")
    batch_size: int = setting(32, "pairs a step, over all processes")
    learning_rate: float = setting(5e-7, "of AdamW, constant")
    beta: float = setting(0.1, "how dear a distance from the starting model is")
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm")
    lora_rank: int = setting(0, "train LoRA adapters of this rank and save them in PEFT's format; 0 = all weights; an adapter as --model keeps its own")
    lora_alpha: float = setting(32, "of LoRA: the adapters' product is multiplied by lora_alpha / lora_rank")
    max_length: int = setting(4096, "tokens of a prompt with its longer answer at most; longer pairs are left out and counted")
    micro_batch_tokens: int = setting(8192, "packed tokens a forward pass; out of memory: lower it, and set --gradient_checkpointing")
    gradient_checkpointing: bool = setting(False, "keep block inputs only, compute the rest again: less memory, a third more time")
    save_every: int = setting(100, "steps between checkpoints; the last step is always saved")
    resume: bool = setting(False, "go on from the newest checkpoint in output_dir, or start there")
    seed: int = setting(0, "decides the order of the pairs")
    report_to: Literal["none", "tensorboard", "wandb"] = setting("none", "copy the metrics to tensorboard or wandb as well")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = setting("auto", "of the computation; weights and optimizer are fp32 always")


def check(settings):
    """Everything that can be wrong before a model is loaded. Returns (settings, model folder, labelled pairs)."""
    for name in ("max_steps", "batch_size", "max_length", "micro_batch_tokens", "save_every"):
        if getattr(settings, name) < 1:
            raise BadInput(f"--{name}: must be at least 1, got {getattr(settings, name)}")
    for name in ("learning_rate", "beta", "max_grad_norm"):
        if not 0 < getattr(settings, name) < float("inf"):
            raise BadInput(f"--{name}: must be above 0, got {getattr(settings, name)}")
    if settings.lora_rank < 0 or not 0 < settings.lora_alpha < float("inf"):
        raise BadInput("--lora_rank, --lora_alpha: a rank of 0 or more and an alpha above 0")
    if settings.train_data is None:
        raise BadInput("--train_data: give preference pairs (a file, a folder or a hub name)")
    if settings.resume and not settings.output_dir:
        raise BadInput("--resume: needs --output_dir, the folder of the run to go on with")
    if settings.consistent_only and settings.judgments is None:
        raise BadInput("--consistent_only: goes with --judgments")
    folder = cli.resolve_model(settings.model)
    cli.check_model_folder(folder)
    if settings.output_dir is not None and os.environ.get("RANK", "0") == "0":
        cli.check_output_dir(settings.output_dir, settings, FREE_TO_CHANGE)
    pairs = load_pairs(settings.train_data, keep_ties=settings.judgments is not None)  # judge.py has judged them all
    if settings.judgments is not None:
        add_judgments(pairs, settings.judgments, settings.consistent_only)
    labelled = [pair for pair in pairs if pair.label in (0, 1)]
    if not labelled:
        raise BadInput(f"--train_data: {settings.train_data}: no pair has a better answer: label the pairs, or give --judgments")
    note(f"{len(labelled)} of {len(pairs)} pairs have a better answer")
    return settings, folder, labelled


def add_judgments(pairs, path, consistent_only=False):
    """Replaces the pairs' labels by the winners in a file of judge.py; no winner: None. BadInput for a pair that the file does not judge."""
    rows = {row.get("id"): (number, row) for number, row in cli.read_json_lines(path, "--judgments")}
    for pair in pairs:
        number, row = rows.get(pair.id, (0, {}))
        if row.get("winner", 0) not in ("a", "b", None) or row.get("pair") != f"{stable_hash(pair.messages, pair.answers):016x}":
            raise BadInput(f"--judgments: {path} " + (f"line {number} judges another pair {pair.id}" if row else f"lacks pair {pair.id}") +
                           ": give what judge.py --out wrote for these pairs")  # fmt: skip
        trusted = row["winner"] is not None and (row["consistent"] or not consistent_only)
        pair.label = "ab".index(row["winner"]) if trusted else None


if __name__ == "__main__":  # arguments and files are looked at before the slow imports below
    CHECKED = cli.run(lambda: check(cli.parse_settings(Settings, description=__doc__.split("\n")[0])))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from chat import load_tokenizer, stop_token_ids  # noqa: E402
from model import pack_groups, packed_attention  # noqa: E402
from runtime import Policy, load_checkpoint, load_model, newest_checkpoint, open_run, record, reporter, save_checkpoint, start  # noqa: E402
from train_sft import encode_row, packs_of, row_size, row_stream, usable_rows  # noqa: E402


def dpo_terms(logps, ref_logps, beta):
    """(losses, chosen rewards, rejected rewards), (pairs,) each; logps, ref_logps (2 * pairs,): summed log-probs, chosen and rejected in
    turn. A reward is beta times the log-ratio to the reference (DPO, equations 5 and 7)."""
    chosen, rejected = (beta * (logps - ref_logps)).view(-1, 2).unbind(1)
    return -F.logsigmoid(chosen - rejected), chosen, rejected


def summed_logps(model, layout, num_sequences):
    """Log-probs of whole completions, (sequences,)."""
    logprobs, _ = model(layout.tokens, layout.positions, packed_attention(layout), layout.predictors, layout.targets)
    return logprobs.new_zeros(num_sequences).index_add(0, layout.sequence_ids, logprobs)


def train_step(policy, reference, optimizer, rows, settings):
    """One update on this process's rows [(prompt, [chosen, rejected], id), ...] of token ids: the mean loss over the pairs of all processes.

    Returns TRL's metrics; rewards/accuracies: share of pairs whose chosen answer has the higher reward.
    """
    runtime = policy.runtime
    (num_pairs,) = runtime.sum(len(rows))
    packs, sums = list(packs_of(rows, settings.micro_batch_tokens)), torch.zeros(6, dtype=torch.float64)
    for index in range(int(runtime.max(len(packs)))):
        # a process with fewer packs keeps the others company with an empty one: gathering shards needs everyone
        is_real = index < len(packs)
        pack = packs[index] if is_real else [([0], [[0], [0]])]
        layout = pack_groups([row[:2] for row in pack], runtime.device)
        with torch.no_grad():
            ref_logps = summed_logps(reference, layout, 2 * len(pack))
        logps = summed_logps(policy.model, layout, 2 * len(pack))
        losses, chosen, rejected = dpo_terms(logps, ref_logps, settings.beta)
        loss = losses.sum() / num_pairs * is_real
        (loss * runtime.world_size).backward()  # FSDP averages gradients over processes; the loss is a sum
        if is_real:
            columns = losses, chosen, rejected, (chosen > rejected), *logps.view(-1, 2).unbind(1)
            sums += torch.stack([column.detach().double().sum() for column in columns]).cpu()
    grad_norm = policy.step(optimizer, sums[0].item() / num_pairs, settings.max_grad_norm)
    names = "loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "logps/chosen", "logps/rejected"
    *means, tokens = runtime.sum(*sums.tolist(), sum(map(row_size, rows)))
    row = {name: value / num_pairs for name, value in zip(names, means)}
    return row | {"rewards/margins": row["rewards/chosen"] - row["rewards/rejected"], "grad_norm": grad_norm, "num_tokens": tokens}


def encode_pair(pair, tokenizer, end):
    """(prompt, [chosen, rejected], id of the pair) as token ids; an answer ends with the end-of-turn token."""
    (prompt, chosen), (_, rejected) = (encode_row(pair.messages, pair.answers[index], tokenizer, end) for index in (pair.label, 1 - pair.label))
    return prompt, [chosen, rejected], f"pair {pair.id}"


def train(settings, folder, pairs):
    if settings.model == "tiny":
        torch.set_num_threads(1)
    with start(settings.device, settings.dtype) as runtime:
        if settings.output_dir is None:
            settings.output_dir = runtime.gather(time.strftime("out/dpo-%Y%m%d-%H%M%S"))[0]
        output_dir = Path(settings.output_dir)
        checkpoint = newest_checkpoint(output_dir, runtime) if settings.resume else None
        tokenizer = load_tokenizer(checkpoint or folder)
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else stop_token_ids(tokenizer, folder)[0]
        policy = Policy(checkpoint or folder, runtime, settings.gradient_checkpointing, settings.lora_rank, settings.lora_alpha, settings.seed)
        reference = load_model(folder, runtime, runtime.dtype).requires_grad_(False)
        optimizer = torch.optim.AdamW(policy.masters.values(), lr=settings.learning_rate, weight_decay=0.0, fused=True)
        first_step = load_checkpoint(checkpoint, policy, optimizer) if checkpoint else 0
        kept = usable_rows([encode_pair(pair, tokenizer, end) for pair in pairs], settings, policy.model.config.vocab_size)
        written, report = open_run(output_dir, asdict(settings), first_step if checkpoint else -1, runtime), reporter(settings)
        stream = itertools.islice(row_stream(kept, settings.seed), first_step * settings.batch_size, None)
        for step in range(first_step + 1, settings.max_steps + 1):
            started = time.perf_counter()
            batch = list(itertools.islice(stream, settings.batch_size))
            row = {"step": step} | train_step(policy, reference, optimizer, batch[runtime.rank :: runtime.world_size], settings)
            row |= {"learning_rate": settings.learning_rate, "step_time": time.perf_counter() - started}
            row = record(output_dir, written, row, runtime, ", ".join(place for *_, place in batch))
            report(step, row)
            left = int(row["step_time"] * (settings.max_steps - step))
            note(f"step {step}/{settings.max_steps}  loss {row['loss']:.4f}  accuracy {row['rewards/accuracies']:.3f}  "
                 f"margin {row['rewards/margins']:.3f}  grad {row['grad_norm']:.2f}  {row['step_time']:.2f} s  {left // 60}:{left % 60:02d} left")
            if step % settings.save_every == 0 or step == settings.max_steps:
                save_checkpoint(output_dir, step, policy, optimizer, tokenizer)
        if runtime.is_main:
            print(output_dir / f"checkpoint-{settings.max_steps}")


if __name__ == "__main__":
    cli.run(lambda: train(*CHECKED), memory="lower --micro_batch_tokens, or set --gradient_checkpointing")
