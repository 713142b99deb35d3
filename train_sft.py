"""Supervised fine-tuning: next-token loss on completions, packed, for any model that model.py runs.

    torchrun train_sft.py --model M --train_data chains.jsonl --output_dir out/sft
    torchrun --nproc_per_node 8 train_sft.py ...

It is the first stage of RM-R1 (judgments of a stronger teacher, before GRPO) and makes the base of the embedded judge. A row of the data is
{"messages": [..., {"role": "assistant", "content": ...}]}, {"question": ..., "answer": ...}, or {"prompt": ..., "completion": ...} where the
prompt is a list of messages or plain text (which then gets no chat template). Only the completion is learned; its tags (<think>, </think>)
become the tokenizer's tokens.
"""

import itertools
import math
import os
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Optional

import cli
from chat import encode_chat, load_style, load_tokenizer, opens_think, stop_token_ids
from cli import BadInput, note, setting
from data import conversation, text

FREE_TO_CHANGE = ("output_dir", "save_every", "report_to", "resume")


@dataclass
class Settings:
    model: str = setting("tiny-base", "Hugging Face folder or hub name")
    train_data: Optional[str] = setting(None, "JSON lines of messages, or of prompt and completion")
    output_dir: Optional[str] = setting(None, "folder of the run; new under out/ if not given")
    max_steps: int = setting(100, "optimizer steps")
    batch_size: int = setting(128, "rows a step, over all processes")
    learning_rate: float = setting(5e-6, "of AdamW, at its highest")
    warmup_steps: int = setting(0, "steps of linear warm-up")
    schedule: Literal["constant", "cosine"] = setting("constant", "after the warm-up: stay, or fall to a tenth by the last step")
    weight_decay: float = setting(0.0, "of AdamW")
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm")
    lora_rank: int = setting(0, "train LoRA adapters of this rank and save them in PEFT's format; 0 = all weights; an adapter as --model keeps its own")
    lora_alpha: float = setting(32, "of LoRA: the adapters' product is multiplied by lora_alpha / lora_rank")
    max_length: int = setting(4096, "tokens of a row at most; longer ones are left out and counted")
    micro_batch_tokens: int = setting(8192, "packed tokens a forward pass; out of memory: lower it, and set --gradient_checkpointing")
    gradient_checkpointing: bool = setting(False, "keep block inputs only, compute the rest again: less memory, a third more time")
    judge_style: Optional[str] = setting(None, "judging prompt that the rows use: written into config.json, so that judge.py takes it by default")
    save_every: int = setting(100, "steps between checkpoints; the last step is always saved")
    resume: bool = setting(False, "go on from the newest checkpoint in output_dir, or start there")
    seed: int = setting(0, "decides the order of the rows")
    report_to: Literal["none", "tensorboard", "wandb"] = setting("none", "copy the metrics to tensorboard or wandb as well")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = setting("auto", "of the computation; weights and optimizer are fp32 always")


def check(settings):
    """Everything that can be wrong before a model is loaded. Returns (settings, model folder, rows as (prompt, completion, place))."""
    for name in ("max_steps", "batch_size", "max_length", "micro_batch_tokens", "save_every"):
        if getattr(settings, name) < 1:
            raise BadInput(f"--{name}: must be at least 1, got {getattr(settings, name)}")
    for name in ("learning_rate", "max_grad_norm"):
        if not 0 < getattr(settings, name) < float("inf"):
            raise BadInput(f"--{name}: must be above 0, got {getattr(settings, name)}")
    if settings.warmup_steps < 0 or not 0 <= settings.weight_decay < float("inf"):
        raise BadInput("--warmup_steps, --weight_decay: must not be negative")
    if settings.lora_rank < 0 or not 0 < settings.lora_alpha < float("inf"):
        raise BadInput("--lora_rank, --lora_alpha: a rank of 0 or more and an alpha above 0")
    if settings.train_data is None:
        raise BadInput("--train_data: give a file of JSON lines with messages, or with prompt and completion")
    if settings.resume and not settings.output_dir:
        raise BadInput("--resume: needs --output_dir, the folder of the run to go on with")
    if settings.judge_style:
        load_style(settings.judge_style)
    folder = cli.resolve_model(settings.model)
    cli.check_model_folder(folder)
    if settings.output_dir is not None and os.environ.get("RANK", "0") == "0":
        cli.check_output_dir(settings.output_dir, settings, FREE_TO_CHANGE)
    lines = [(f"{settings.train_data} line {number}", row) for number, row in cli.read_json_lines(settings.train_data, "--train_data")]
    rows = [(*read_row(row, place), place) for place, row in lines]
    if not rows:
        raise BadInput(f"--train_data: {settings.train_data} has no rows: write one JSON object a line")
    return settings, folder, rows


def read_row(row, place):
    """A row of the data as (prompt: messages or text, completion: text)."""
    if isinstance(row.get("question"), str) and isinstance(row.get("answer"), str):  # GSM8K and its kin
        row = {"prompt": [{"role": "user", "content": row["question"]}], "completion": row["answer"]}
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        row = {"messages": prompt + completion}
    if "messages" in row:
        messages = conversation(row["messages"], "messages", place)
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise BadInput(f"{place}: messages must end with an assistant's after at least one other: correct or leave out this row")
        return messages[:-1], messages[-1]["content"]
    if not isinstance(prompt, (str, list)) or not isinstance(completion, str):
        raise BadInput(f"{place}: found the fields {', '.join(map(str, row))}: a row needs messages, or prompt and completion (text)")
    text(completion, "completion", place)
    prompt = text(prompt, "prompt", place) if isinstance(prompt, str) else conversation(prompt, "prompt", place)
    if not prompt:
        raise BadInput(f"{place}: prompt is empty: write what comes before the completion")
    return prompt, completion


if __name__ == "__main__":  # arguments and files are looked at before the slow imports below
    CHECKED = cli.run(lambda: check(cli.parse_settings(Settings, description=__doc__.split("\n")[0])))

import torch  # noqa: E402

from model import pack_groups, packed_attention  # noqa: E402
from runtime import Policy, load_checkpoint, newest_checkpoint, open_run, record, reporter, save_checkpoint, start  # noqa: E402


def encode_row(prompt, completion, tokenizer, end):
    """Token ids (prompt, completion); the completion ends with the end-of-turn token, as the sampler's do."""
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt, add_special_tokens=False)
    else:
        ids = encode_chat(tokenizer, prompt)
        if opens_think(tokenizer, ids):  # the template has written the opening tag already
            completion = completion.removeprefix("<think>").removeprefix("\n")
    return ids, [*tokenizer.encode(completion, add_special_tokens=False), end]


def row_stream(rows, seed):
    """Rows without end, each epoch in a new random order."""
    for epoch in itertools.count():
        order = list(range(len(rows)))
        random.Random(f"sft:{seed}:{epoch}").shuffle(order)
        yield from (rows[index] for index in order)


def usable_rows(rows, settings, vocab_size):
    """The rows (prompt, [completion, ...], place) of token ids that settings.max_length allows. BadInput for a token that the model does not
    know (an added token of the tokenizer, for which nobody made the embedding larger), and where no row is left."""
    for prompt, completions, place in rows:
        if max(largest := max(ids, default=0) for ids in (prompt, *completions)) >= vocab_size:
            raise BadInput(f"{place}: the tokenizer makes token {largest} of it and the model knows {vocab_size}: use the tokenizer of this model")
    kept = [row for row in rows if len(row[0]) + max(map(len, row[1])) <= settings.max_length]
    if not kept:
        raise BadInput(f"--train_data: every row has more than {settings.max_length} tokens: raise --max_length")
    note(f"{len(kept)} rows, {len(rows) - len(kept)} left out as too long; {settings.max_steps} steps of {settings.batch_size}: {settings.output_dir}")
    return kept


def row_size(row):
    return len(row[0]) + sum(map(len, row[1]))


def packs_of(rows, budget):
    """Cuts rows into packs of about `budget` tokens, one row at least. Short rows come together, so that packs are filled well."""
    pack, size = [], 0
    for row in sorted(rows, key=row_size):
        if pack and size + row_size(row) > budget:
            yield pack
            pack, size = [], 0
        pack.append(row)
        size += row_size(row)
    if pack:
        yield pack


def learning_rate_at(step, settings):
    """Linear warm-up, then constant or half a cosine down to a tenth; steps count from 1."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = (step - settings.warmup_steps) / max(1, settings.max_steps - settings.warmup_steps)
    return settings.learning_rate * (0.55 + 0.45 * math.cos(math.pi * progress))


def train_step(policy, optimizer, rows, settings):
    """One update on this process's rows (prompt, [completion], place): mean loss over the completion tokens of all processes. Returns metrics."""
    runtime = policy.runtime
    (num_tokens,) = runtime.sum(sum(len(row[1][0]) for row in rows))
    packs = list(packs_of(rows, settings.micro_batch_tokens))
    count, loss_sum = int(runtime.max(len(packs))), torch.zeros((), device=runtime.device)
    for index in range(count):
        # a process with fewer packs keeps the others company with an empty one: gathering shards needs everyone
        groups = [row[:2] for row in packs[index]] if index < len(packs) else [([0], [[0]])]
        layout = pack_groups(groups, runtime.device)
        logprobs, _ = policy.model(layout.tokens, layout.positions, packed_attention(layout), layout.predictors, layout.targets)
        loss = -logprobs.sum() / num_tokens * (index < len(packs))
        (loss * runtime.world_size).backward()  # FSDP averages gradients over processes; the loss is a sum
        loss_sum += loss.detach()
    grad_norm = policy.step(optimizer, loss_sum.item(), settings.max_grad_norm)
    return {"loss": runtime.sum(loss_sum.item())[0], "grad_norm": grad_norm, "num_tokens": num_tokens}


def train(settings, folder, rows):
    if cli.is_embedded(settings.model):
        torch.set_num_threads(1)
    with start(settings.device, settings.dtype) as runtime:
        if settings.output_dir is None:
            settings.output_dir = runtime.gather(time.strftime("out/sft-%Y%m%d-%H%M%S"))[0]
        output_dir = Path(settings.output_dir)
        checkpoint = newest_checkpoint(output_dir, runtime) if settings.resume else None
        tokenizer = load_tokenizer(checkpoint or folder)
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else stop_token_ids(tokenizer, folder)[0]
        policy = Policy(checkpoint or folder, runtime, settings.gradient_checkpointing, settings.lora_rank, settings.lora_alpha, settings.seed)
        optimizer = torch.optim.AdamW(policy.masters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
        first_step = load_checkpoint(checkpoint, policy, optimizer) if checkpoint else 0
        encoded = [(ids, [completion], place) for *row, place in rows for ids, completion in [encode_row(*row, tokenizer, end)]]
        kept = usable_rows(encoded, settings, policy.model.config.vocab_size)
        written, report = open_run(output_dir, asdict(settings), first_step if checkpoint else -1, runtime), reporter(settings)
        stream = itertools.islice(row_stream(kept, settings.seed), first_step * settings.batch_size, None)
        for step in range(first_step + 1, settings.max_steps + 1):
            started = time.perf_counter()
            batch = list(itertools.islice(stream, settings.batch_size))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, settings)
            row = {"step": step} | train_step(policy, optimizer, batch[runtime.rank :: runtime.world_size], settings)
            row |= {"learning_rate": learning_rate_at(step, settings), "step_time": time.perf_counter() - started}
            row = record(output_dir, written, row, runtime, "; ".join(place for *_, place in batch))
            report(step, row)
            left = int(row["step_time"] * (settings.max_steps - step))
            note(f"step {step}/{settings.max_steps}  loss {row['loss']:.4f}  grad {row['grad_norm']:.2f}  {row['step_time']:.2f} s  "
                 f"{left // 60}:{left % 60:02d} left")
            if step % settings.save_every == 0 or step == settings.max_steps:
                save_checkpoint(output_dir, step, policy, optimizer, tokenizer, settings.judge_style)
        if runtime.is_main:
            print(output_dir / f"checkpoint-{settings.max_steps}")


if __name__ == "__main__":
    cli.run(lambda: train(*CHECKED), memory="lower --micro_batch_tokens, or set --gradient_checkpointing")
