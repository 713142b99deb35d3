"""Supervised fine-tuning: next-token loss on completions, packed, for any model of model.py.

    torchrun train_sft.py --model M --train_data chains.jsonl --output_dir out/sft
    torchrun --nproc_per_node 8 train_sft.py ...

It is the first stage of RM-R1 (judgments of a stronger teacher, before GRPO), and it makes the
base of the embedded judge. A row of the data is one of

    {"messages": [..., {"role": "assistant", "content": ...}]}
    {"question": ..., "answer": ...}
    {"prompt": ..., "completion": ...}      prompt: messages, or text that gets no chat template

Only the completion is learned. Its tags (<think>, </think>) become the tokenizer's tokens.
"""

import dataclasses
import itertools
import math
import random
import time
from dataclasses import dataclass
from typing import Literal, Optional

import cli
from chat import encode_chat, load_tokenizer, opens_think, stop_token_ids
from checkpoint import check_model_folder, is_embedded, resolve_model
from cli import BadInput, note, setting
from data import checked_text
from formats import SYSTEM, prompt_of, to_messages, turns_of
from progress import summarize
from runlog import check_run, find_run, open_run, record, reporter
from styles import default_style, load_style


@dataclass
class Settings:
    model: str = setting("tiny-base", "Hugging Face folder or hub name", group="model and data")
    adapter: Optional[str] = setting(None, "LoRA adapter for the model, to be trained further")
    train_data: Optional[str] = setting(None, "JSON lines of messages, or of prompt and completion")
    output_dir: Optional[str] = setting(None, "folder of the run; new under out/ if not given")
    max_steps: int = setting(100, "optimizer steps", group="optimisation")
    batch_size: int = setting(128, "rows a step, over all processes")
    learning_rate: float = setting(5e-6, "of AdamW, at its highest")
    warmup_steps: int = setting(0, "steps of linear warm-up")
    schedule: Literal["constant", "cosine"] = setting(
        "constant", "after the warm-up: stay, or fall to a tenth by the last step"
    )
    weight_decay: float = setting(0.0, "of AdamW")
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm")
    lora_rank: int = setting(0, "train only a LoRA adapter of this rank; 0: all weights (lora.py)")
    max_length: int = setting(4096, "tokens of a row at most; longer ones are left out and counted")
    micro_batch_tokens: int = setting(8192, "packed tokens in a forward pass; lower it to fit")
    gradient_checkpointing: bool = setting(
        False, "keep block inputs only, compute the rest again: less memory, a third more time"
    )
    judge_style: Optional[str] = setting(
        None,
        "judging prompt that the rows use; judge.py then takes it for this model by default",
        group="run",
    )
    save_every: int = setting(100, "steps between checkpoints; the last step is always saved")
    keep: int = setting(0, "checkpoints that stay; 0: all")
    resume: bool = setting(False, "continue from the newest checkpoint in output_dir, or start")
    seed: int = setting(0, "decides the order of the rows")
    report_to: Literal["none", "tensorboard", "wandb"] = setting(
        "none", "copy the metrics to tensorboard or wandb as well"
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "of the computation; weights and optimizer are fp32 always"
    )


# ---- before torch is imported ----


def prepare(settings):
    """Returns (rows, their hashes); rows [(prompt: messages or text, completion: text, place), ...]

    place: as in "chains.jsonl line 3". Raises BadInput for everything that can be wrong.
    """
    for name in ("max_steps", "batch_size", "max_length", "micro_batch_tokens", "save_every"):
        if getattr(settings, name) < 1:
            raise BadInput(f"--{name}: must be at least 1, got {getattr(settings, name)}")
    for name in ("learning_rate", "max_grad_norm"):
        if not 0 < getattr(settings, name) < math.inf:
            raise BadInput(f"--{name}: must be above 0, got {getattr(settings, name)}")
    for name in ("warmup_steps", "weight_decay", "lora_rank", "keep"):
        if not 0 <= getattr(settings, name) < math.inf:
            raise BadInput(f"--{name}: must not be negative, got {getattr(settings, name)}")
    if settings.train_data is None:
        raise BadInput(
            "--train_data: give a file of JSON lines with messages, or with prompt and completion"
        )
    check_model_folder(resolve_model(settings.model))
    rows = []
    for number, row in cli.read_json_lines(settings.train_data, "--train_data"):
        place = f"{settings.train_data} line {number}"
        rows.append((*read_row(row, place), place))
    if not rows:
        raise BadInput(
            f"--train_data: {settings.train_data} has no rows: write one JSON object a line"
        )
    texts = [row[:2] for row in rows]
    return rows, check_run(settings, train_data=texts)


def style_of(settings):
    """The Style that checkpoints name: --judge_style, or the adapter's or model's own, or None."""
    if vars(settings).get("judge_style"):
        return load_style(settings.judge_style)
    folder = resolve_model(settings.model)
    name = default_style(folder, check_model_folder(folder), settings.adapter)
    return None if name == "rrm" else load_style(name)  # rrm is what no style stands for


def read_row(row, place):
    """A row of the data as (prompt: messages or text, completion: text). Raises BadInput."""
    names = "prompt", "completion"
    prompt, completion = [turns_of(row.get(name), name, place) for name in names]
    question, answer = row.get("question"), row.get("answer")
    if isinstance(question, str) and isinstance(answer, str):  # as in GSM8K
        prompt, completion = prompt_of(dict(row), place, "question"), answer
    elif "messages" in row:
        return split_messages(prompt_of(dict(row), place, "messages"), place)
    elif isinstance(prompt, list):
        prompt = prompt_of(dict(row), place, "prompt")
    if isinstance(prompt, list) and isinstance(completion, list):
        return split_messages(prompt + completion, place)
    if not isinstance(prompt, (str, list)) or not isinstance(completion, str):
        raise BadInput(
            f"{place}: found the fields {', '.join(map(str, row))}: a row needs messages, or "
            "prompt and completion (text)"
        )
    for name in (*SYSTEM, "history", "input"):
        if row.get(name) and isinstance(prompt, str):
            raise BadInput(f"{place}: {name} beside a prompt that is text: write messages")
    checked_text(completion, "completion", place)
    if isinstance(prompt, str):
        checked_text(prompt, "prompt", place)
    else:
        prompt = to_messages(prompt, "prompt", place)
    if not prompt:
        raise BadInput(f"{place}: prompt is empty: write what comes before the completion")
    return prompt, completion


def split_messages(messages, place):
    """A conversation as (the messages before the assistant's last one, its text)."""
    messages = to_messages(messages, "messages", place)
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise BadInput(
            f"{place}: messages must end with an assistant's after at least one other: correct or "
            "leave out this row"
        )
    return messages[:-1], messages[-1]["content"]


# ---- rows and packs: a row is (prompt, [completion, ...], place) in token ids ----


def encode_row(prompt, completion, tokenizer, end):
    """Token ids (prompt, completion). The completion ends with `end`, a stop token."""
    if isinstance(prompt, str):
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
    else:
        prompt_ids = encode_chat(tokenizer, prompt)
        if opens_think(tokenizer, prompt_ids):  # the template has written the opening tag already
            completion = completion.removeprefix("<think>").removeprefix("\n")
    return prompt_ids, [*tokenizer.encode(completion, add_special_tokens=False), end]


def end_token(tokenizer, folder):
    """The id of the token that ends a completion. Raises BadInput where the model has none."""
    if tokenizer.eos_token_id is not None:
        return tokenizer.eos_token_id
    stops = stop_token_ids(tokenizer, folder)
    if not stops:
        raise BadInput(f"{folder}: no token ends a text: name one as eos_token of the tokenizer")
    return stops[0]


def encode_rows(texts, tokenizer, folder):
    """The texts of `prepare` as rows."""
    end = end_token(tokenizer, folder)
    rows = []
    for prompt, completion, place in texts:
        prompt_ids, completion_ids = encode_row(prompt, completion, tokenizer, end)
        rows.append((prompt_ids, [completion_ids], place))
    return rows


def usable_rows(rows, settings, vocab_size):
    """The rows that settings.max_length allows.

    Raises BadInput if none is left, and for an added token beyond the model's embedding.
    """
    for prompt, completions, place in rows:
        largest = max(itertools.chain(prompt, *completions), default=0)
        if largest >= vocab_size:
            raise BadInput(
                f"{place}: the tokenizer makes token {largest} of it and the model knows "
                f"{vocab_size}: use the tokenizer of this model"
            )
    kept = [row for row in rows if len(row[0]) + max(map(len, row[1])) <= settings.max_length]
    if not kept:
        raise BadInput(
            f"--train_data: every row has more than {settings.max_length} tokens: raise "
            "--max_length"
        )
    note(
        f"{len(kept)} rows, {len(rows) - len(kept)} left out as too long; {settings.max_steps} "
        f"steps of {settings.batch_size}: {settings.output_dir}"
    )
    return kept


def row_stream(rows, seed):
    """Rows without end, each epoch in a new random order."""
    for epoch in itertools.count():
        order = list(range(len(rows)))
        random.Random(f"sft:{seed}:{epoch}").shuffle(order)
        yield from (rows[index] for index in order)


def row_size(row):
    return len(row[0]) + sum(map(len, row[1]))


def packs_of(rows, budget):
    """Packs of at most `budget` tokens (one row at least). Rows of similar size come together."""
    from model import split_by_budget  # imports torch

    return split_by_budget(sorted(rows, key=row_size), row_size, budget)


def learning_rate_at(step, settings):
    """Linear warm-up, then constant or half a cosine down to a tenth; steps count from 1."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = (step - settings.warmup_steps) / max(1, settings.max_steps - settings.warmup_steps)
    return settings.learning_rate * (0.55 + 0.45 * math.cos(math.pi * progress))


# ---- the loop ----


def main(settings):
    texts, hashes = prepare(settings)
    style = style_of(settings)

    import torch  # only now: bad input is answered at once

    from distributed import new_policy, restore, save_checkpoint, start
    from resume import prune

    if is_embedded(settings.model):
        torch.set_num_threads(1)  # products this small are faster on one thread
    with start(settings.device, settings.dtype) as runtime:
        # Setup: model and optimizer, the rows, the folder of the run.
        output_dir, checkpoint = find_run(settings, runtime, "sft")
        folder = checkpoint or resolve_model(settings.model)
        tokenizer = load_tokenizer(folder)
        policy = new_policy(settings, runtime, folder)
        optimizer = torch.optim.AdamW(
            policy.masters.values(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        steps_done, drawn = restore(checkpoint, policy, optimizer, settings.batch_size)
        rows = encode_rows(texts, tokenizer, folder)
        rows = usable_rows(rows, settings, policy.model.config.vocab_size)
        kept = steps_done if checkpoint else -1  # rows up to this step; -1: none
        log = open_run(output_dir, dataclasses.asdict(settings), kept, runtime, hashes)
        report = reporter(settings)

        stream = itertools.islice(row_stream(rows, settings.seed), drawn, None)
        for step in range(steps_done + 1, settings.max_steps + 1):
            started = time.perf_counter()
            batch = list(itertools.islice(stream, settings.batch_size))
            learning_rate = learning_rate_at(step, settings)
            optimizer.param_groups[0]["lr"] = learning_rate
            row = {"step": step} | train_step(policy, optimizer, batch, settings)
            row |= {"learning_rate": learning_rate, "step_time": time.perf_counter() - started}
            row = record(output_dir, log, row, runtime, "; ".join(place for *_, place in batch))
            report(step, row)
            show_step(row, settings)
            if step % settings.save_every == 0 or step == settings.max_steps:
                save_checkpoint(output_dir, step, policy, optimizer, tokenizer, style)
                if settings.keep and runtime.is_main:
                    prune(output_dir, settings.keep, log)
        if runtime.is_main:
            summarize(output_dir, settings)
            print(output_dir / f"checkpoint-{settings.max_steps}")


def train_step(policy, optimizer, batch, settings):
    """One update on the rows of a step; returns its metrics.

    The loss is the mean over the completion tokens of all processes, of which each takes its share
    of the rows.
    """
    import torch

    from model import pack_groups

    runtime = policy.runtime
    own_rows = batch[runtime.rank :: runtime.world_size]
    packs = list(packs_of(own_rows, settings.micro_batch_tokens))
    # Gathering sharded weights needs every process: one with fewer packs adds empty ones.
    packs += [[]] * (runtime.max(len(packs)) - len(packs))
    (num_tokens,) = runtime.sum(sum(len(completion) for _, (completion,), _ in own_rows))
    loss_sum = torch.zeros((), device=runtime.device)
    for rows in packs:
        groups = [(prompt, completions) for prompt, completions, _ in rows]
        pack = pack_groups(groups or [([0], [[0]])], runtime.device)
        logprobs, _ = policy.model.logprobs(pack)
        loss = -logprobs.sum() / num_tokens
        if not rows:
            loss = loss * 0
        # The loss is a sum, and FSDP averages gradients over processes.
        (loss * runtime.world_size).backward()
        loss_sum += loss.detach()
    grad_norm = policy.step(optimizer, loss_sum.item(), settings.max_grad_norm)
    (loss,) = runtime.sum(loss_sum.item())
    return {"loss": loss, "grad_norm": grad_norm, "num_tokens": num_tokens}


def show_step(row, settings):
    left = int(row["step_time"] * (settings.max_steps - row["step"]))
    note(
        f"step {row['step']}/{settings.max_steps}  loss {row['loss']:.4f}  "
        f"grad {row['grad_norm']:.2f}  {row['step_time']:.2f} s  "
        f"{left // 60}:{left % 60:02d} left"
    )


if __name__ == "__main__":
    cli.run(
        lambda: main(cli.parse_settings(Settings, description=__doc__)),
        memory="lower --micro_batch_tokens, or set --gradient_checkpointing",
    )
