"""A judge's backend on this machine, what every backend must have, and progress.

Backends have a style, a tokenizer (None for a server), a context, and the same methods:

    check_texts(pairs)     notes what the user should know before these texts are judged
    encode(messages)       a prompt
    generate(prompts, seeds, num_generations, max_new_tokens, temperature, ...)
                           the records of what the model wrote, [prompt][generation]

and a Usage, which `generate` counts up. The backend for a server is in extras/server.py.
"""

import os
import re
import sys
import threading
import time
from dataclasses import astuple, dataclass
from pathlib import Path

from tqdm import tqdm

from chat import encode_chat, load_tokenizer, opens_think, stop_token_ids
from checkpoint import check_model_folder, resolve_model
from cli import note
from seeding import hash64
from styles import Style, default_style, load_style
from verdicts import read_completion

NOTE_SECONDS = 30  # from one note on the progress of a long work to the next


@dataclass
class Usage:
    """What the calls of a backend took.

    Completions of one prompt share it: a local model counts its tokens once, a server each time.
    """

    calls: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    uncounted: int = 0  # calls whose tokens the server does not tell
    prices: tuple = ()  # of a million prompt tokens and completion tokens

    def count(self, prompts, completions, seconds):
        """Adds what `sampler.generate` did: prompts [tokens], completions [prompt][generation]."""
        self.calls += sum(map(len, completions))
        self.prompt_tokens += sum(map(len, prompts))
        self.completion_tokens += sum(len(one.tokens) for group in completions for one in group)
        self.seconds += seconds

    def scaled(self, factor):
        """What that many times the work will take."""
        *counts, prices = astuple(self)
        return Usage(*(type(count)(count * factor) for count in counts), prices)

    def in_words(self):
        words = (
            f"{self.calls} calls, {self.retries} retries, {self.prompt_tokens} prompt and "
            f"{self.completion_tokens} completion tokens, {self.seconds:.1f} s"
        )
        if self.uncounted:
            words += f"; the server did not count the tokens of {self.uncounted} calls"
        if self.prices:
            cost = cost_of(self.prompt_tokens, self.completion_tokens, *self.prices)
            words += f"; cost {'at least ' if self.uncounted else ''}{cost:.4g}"
        return words


def cost_of(prompt_tokens, completion_tokens, price_in, price_out):
    """Prices are those of a million tokens."""
    return (prompt_tokens * price_in + completion_tokens * price_out) / 1e6


class LocalBackend:
    """A model on this machine."""

    def __init__(self, model, tokenizer, style, device, dtype, adapter=None):
        folder = resolve_model(model) if isinstance(model, (str, Path)) else None
        if folder is None and tokenizer is None:
            raise ValueError("a Model object comes without a tokenizer: pass its tokenizer as well")
        if folder is None and adapter is not None:
            raise ValueError("a Model object is loaded with its adapter: pass none here")
        config = check_model_folder(folder) if folder else model.config.raw
        style = style or default_style(folder, config, adapter)
        self.style = style if isinstance(style, Style) else load_style(style)
        self.tokenizer = tokenizer or load_tokenizer(folder)
        self.stops = stop_token_ids(self.tokenizer, folder or self.tokenizer.name_or_path)
        self.model = load_model(folder, device, dtype, adapter) if folder else model
        self.context = config.get("max_position_embeddings") or sys.maxsize
        self.usage = Usage()
        self.lock = threading.Lock()  # one call after the other, whatever thread asks
        self.small_world = config.get("judge_style") == "tiny"  # stems from an embedded base

    def encode(self, messages):
        return encode_chat(self.tokenizer, messages)

    def generate(
        self,
        prompts,
        seeds,
        num_generations,
        max_new_tokens,
        temperature,
        progress=None,
    ):
        """Records [prompt][generation], see `verdicts.read_verdict`; seeds: integers for each."""
        from sampler import generate

        started = time.perf_counter()
        with self.lock:
            completions = generate(
                self.model,
                prompts,
                num_generations,
                max_new_tokens,
                temperature,
                stop_token_ids=self.stops,
                seed=[hash64(*seed) for seed in seeds],
                progress=progress,
            )
        self.usage.count(prompts, completions, time.perf_counter() - started)
        return [self.read(prompt, group) for prompt, group in zip(prompts, completions)]

    def read(self, prompt, completions):
        opened = opens_think(self.tokenizer, prompt)
        return [
            read_completion(self.tokenizer, completion, self.style, opened, self.stops)
            for completion in completions
        ]

    def check_texts(self, pairs):
        """Notes once that an embedded judge is asked about more than its small world.

        It would answer all the same. Words of its world are single tokens, others are not.
        """
        texts = []
        for pair in pairs if self.small_world else []:
            texts += [message["content"] for message in pair.messages]
            texts += pair.answers
        for word in sorted(set(re.findall("[A-Za-z]{3,}", " ".join(texts)))):
            if len(self.tokenizer.encode(f" {word}", add_special_tokens=False)) > 1:
                self.small_world = False
                note(
                    "the embedded judge knows sums and lines of words (tiny/README.md), "
                    f"not {word!r}: its verdict means nothing here, give --model"
                )
                return


def load_model(folder, device, dtype, adapter=None):
    """A Model that only samples."""
    import torch

    from model import Model, choose_device, compute_dtype

    device = choose_device(device)
    if not isinstance(dtype, torch.dtype):
        dtype = compute_dtype(dtype or "auto", device)
    model = Model.from_pretrained(folder, device, dtype, adapter)
    return for_sampling(model.to(dtype))  # the adapter too


def for_sampling(model):
    """A CPU puts a model's bf16 weights in a faster order, for good: it only samples from now."""
    import torch

    from kernels import HAS_CPU_KERNELS

    weight = model.embed_tokens.weight
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and HAS_CPU_KERNELS:
        from kernels import cpu

        cpu.reorder_weights(model)
    return model


# ---- how far a long judging is ----


class Progress:
    """How much of a long work is done: a bar on a terminal, elsewhere a note every 30 seconds."""

    def __init__(self, doing, units, total, done=0, quiet=False):
        self.doing, self.units, self.total, self.done = doing, units, total, done
        self.quiet = quiet or os.environ.get("RANK", "0") != "0"
        self.bar = tqdm(
            desc=doing,
            unit=f" {units}",
            total=total,
            initial=done,
            leave=False,
            dynamic_ncols=True,
            disable=self.quiet or None,  # None: a bar only on a terminal
        )
        self.last_note = time.monotonic()

    def move_to(self, done):
        self.bar.update(done - self.done)
        self.done = done
        is_due = time.monotonic() >= self.last_note + NOTE_SECONDS
        if self.bar.disable and is_due and not self.quiet:
            note(f"{self.doing}: {done} of {self.total} {self.units}")
            self.last_note = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()


def note_rest(usage, done, left, unit):
    """Notes after the first chunk of a long work what the rest will take."""
    if left > done:
        words = usage.scaled(left / done).in_words()
        note(f"the other {left} {unit}s will take about {words}")
