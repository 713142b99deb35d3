"""Sampling with a KV cache: a prompt is computed once for all of its generations.

    generate(model, prompts, num_generations=8, max_new_tokens=512, stop_token_ids=(2,))

The loop has three stages: `admit` fills free rows with waiting generations, `decode` draws a token
for every running row, `retire` takes finished rows out.

What makes it fast: the rows of a prompt share its keys and values, prompts that begin alike are
computed once up to where they differ, and finished rows make room for waiting ones. On a GPU the
host looks for them every few steps, so the GPU does not wait.

What makes it exact: log-probs are those of kernels.logprob.token_logprobs (fp32 log-softmax of
logits / temperature over the vocabulary). The random number of a token depends on the seed of its
prompt, its generation and its position alone, not on the other rows. A stop token is kept.
"""

import itertools
import math
import operator
import os
from collections import deque
from dataclasses import dataclass
from functools import partial
from numbers import Integral

import torch

from kernels import HAS_CPU_KERNELS
from kernels.logprob import matmul_fp32, row_tiles
from kv_cache import new_cache
from model import Model, pack_groups, split_by_budget
from seeding import hash64, uniforms

MOST_ROWS = 256  # that run at once
PREFILL_TOKENS = 8192  # prompts that are computed together hold at most this many tokens
LEAST_SAVED = 64  # tokens that a prompt must save to share the beginning of others


@dataclass
class Completion:
    """One generation. Its last token is the stop token where finish_reason is "stop"."""

    tokens: list[int]
    logprobs: list[float]  # of each token, in nats
    finish_reason: str  # "stop" | "length"


@dataclass
class Generation:
    """A completion to sample."""

    prompt: int  # its index
    stream: int  # where its random numbers start
    num_drawn: int = 0  # tokens: the host counts them, so it need not wait for a GPU
    completion: Completion | None = None


@dataclass(frozen=True)
class Settings:
    max_new_tokens: int
    temperature: float
    top_p: float
    stop_token_ids: frozenset[int]


class Rows:
    """The state of the running rows, on the device. Entries beyond those are ignored."""

    def __init__(self, num_rows, num_tokens, device):
        self.tokens = torch.zeros(num_rows, num_tokens, dtype=torch.long, device=device)
        self.logprobs, self.uniforms = torch.zeros(2, num_rows, num_tokens, device=device)
        self.prompt_length, self.num_generated, self.stopped = torch.zeros(
            3, num_rows, dtype=torch.long, device=device
        )  # tokens of its prompt; drawn so far; 1 after a stop token

    def start(self, rows, streams, prompt_lengths):
        """Prepares a slice of rows for new generations."""
        device = self.tokens.device
        positions = torch.arange(self.tokens.shape[1], device=device)
        self.uniforms[rows] = uniforms(torch.tensor(streams, device=device)[:, None], positions)
        self.prompt_length[rows] = torch.tensor(prompt_lengths, device=device)
        self.num_generated[rows] = 0
        self.stopped[rows] = 0

    def move(self, source, target):
        for tensor in vars(self).values():
            tensor[target] = tensor[source]


class Session:
    """The work of one generate call: the rows that run, their keys and values, and the model."""

    def __init__(self, model, prompts, settings, generations, num_rows, num_slots):
        weight = model.embed_tokens.weight  # of the dtype of hidden states
        if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and HAS_CPU_KERNELS:
            from kernels import cpu

            model = cpu.with_reordered_weights(model)
        self.logits = model.fp32_head or partial(fp32_logits, model.head_weight)
        self.model, self.prompts, self.settings = model, prompts, settings
        # Long prompts first: those that run together are similar, and the longest start first.
        self.waiting = deque(sorted(generations, key=lambda one: -len(prompts[one.prompt])))
        self.device, self.num_rows = model.device, num_rows
        longest_prompt = max(map(len, prompts))
        self.cache = new_cache(model, num_slots, longest_prompt, num_rows, settings.max_new_tokens)
        # A row that ends within the steps of one decode runs on: what it adds is cut off.
        num_columns = settings.max_new_tokens + self.cache.steps
        self.rows = Rows(self.cache.num_rows, num_columns, self.device)
        self.running: list[Generation] = []  # in rows 0 to n - 1
        self.slots: list[int | None] = [None] * num_slots  # the prompt in each slot
        self.last_hidden = weight.new_zeros(num_slots, model.config.hidden_size)  # of each prompt
        self.stops = torch.tensor([*settings.stop_token_ids], dtype=torch.long, device=self.device)

    # ---- admit ----

    def admit(self):
        """Moves waiting generations into free rows. Prompts that are new are computed first."""
        arrivals, new_prompts = [], []
        while self.waiting and len(self.running) + len(arrivals) < self.num_rows:
            prompt = self.waiting[0].prompt
            is_new = prompt not in self.slots
            if is_new and None not in self.slots:
                break  # until a prompt has finished all of its generations
            if not self.cache.admits(len(self.prompts[prompt]) if is_new else 0):
                break  # until rows have finished
            if is_new:
                self.slots[self.slots.index(None)] = prompt
                new_prompts.append(prompt)
            arrivals.append(self.waiting.popleft())
        if not arrivals:
            return
        self.prefill(new_prompts)
        new_rows = slice(len(self.running), len(self.running) + len(arrivals))
        prompt_lengths = [len(self.prompts[one.prompt]) for one in arrivals]
        self.rows.start(new_rows, [one.stream for one in arrivals], prompt_lengths)
        self.running += arrivals
        self.arrange()
        # every generation draws its own first token from its prompt's last hidden state
        slots = [self.slots.index(one.prompt) for one in arrivals]
        self.append_tokens(self.last_hidden[slots], new_rows)
        for generation in arrivals:
            generation.num_drawn = 1

    def prefill(self, new_prompts: list[int]):
        """Computes prompts: their keys and values, and their last hidden states."""
        lengths = [len(prompt) for prompt in self.prompts]
        for batch in split_by_budget(new_prompts, lengths.__getitem__, PREFILL_TOKENS):
            batch.sort(key=self.prompts.__getitem__)  # prompts that begin alike become neighbours
            pack, places = pack_prompts([self.prompts[prompt] for prompt in batch], self.device)
            slots = [self.slots.index(prompt) for prompt in batch]
            attend = self.cache.prefill_attention(pack, slots, places)
            hidden = self.model(pack.tokens, pack.positions, attend)  # (tokens, hidden_size)
            self.last_hidden[slots] = hidden[[of_prompt[-1] for of_prompt in places]]

    def arrange(self):
        """Tells the cache which prompt every running row has. It changes as rows come and go."""
        row_slots = [self.slots.index(one.prompt) for one in self.running]
        empty_slots = [slot for slot, prompt in enumerate(self.slots) if prompt is None]
        self.cache.arrange(row_slots, empty_slots)

    # ---- decode ----

    def decode(self):
        """Draws a token for every running row; on a GPU several."""
        self.cache.decode(self)
        for generation in self.running:
            generation.num_drawn += self.cache.steps

    def step(self, num_rows: int):
        """Draws a token for the first rows. The host does not wait for the device here."""
        stored = self.rows.num_generated[:num_rows] - 1  # the newest token is not in the cache yet
        newest = self.rows.tokens[:num_rows].gather(1, stored[:, None])[:, 0]
        positions = self.rows.prompt_length[:num_rows] + stored
        attend = self.cache.decode_attention(positions, stored)
        hidden = self.model(newest, None if self.cache.rotates else positions, attend)
        self.append_tokens(hidden, slice(0, num_rows))  # from (rows, hidden_size)

    def append_tokens(self, hidden: torch.Tensor, rows: slice):
        """Draws the next token of a slice of rows from hidden states (rows, hidden_size)."""
        logits = self.logits(hidden)
        for tile in row_tiles(logits):
            first = rows.start + tile.start
            self.draw(logits[tile], slice(first, first + len(logits[tile])))

    def draw(self, logits: torch.Tensor, rows: slice):
        """Draws the next token of a slice of rows from their logits (rows, vocab)."""
        state, settings = self.rows, self.settings
        column = state.num_generated[rows][:, None]  # (rows, 1): rows differ in length
        uniform = state.uniforms[rows].gather(1, column)[:, 0]
        tokens, logprobs = sample_tokens(logits, settings.temperature, settings.top_p, uniform)
        state.tokens[rows].scatter_(1, column, tokens[:, None])
        state.logprobs[rows].scatter_(1, column, logprobs[:, None])
        state.num_generated[rows] += 1
        is_stop = (tokens[:, None] == self.stops).any(dim=-1)
        # NaN is not larger: a row whose logits are not finite stops as well, and `retire` raises
        state.stopped[rows] |= is_stop | ~(logprobs > -torch.inf)

    # ---- retire ----

    def retire(self):
        """Takes finished rows out and keeps their completions."""
        limit = self.settings.max_new_tokens
        stopped = self.rows.stopped[: len(self.running)].tolist()  # the host waits here
        drawn = [one.num_drawn for one in self.running]
        finished = [row for row, count in enumerate(drawn) if stopped[row] or count >= limit]
        if not finished:
            return
        tokens = self.rows.tokens[finished, :limit].tolist()  # of all at once: one wait
        logprobs = self.rows.logprobs[finished, :limit].tolist()
        for row, row_tokens, row_logprobs in zip(finished, tokens, logprobs):
            self.running[row].completion = self.completion(row_tokens, row_logprobs)
        self.remove_rows(finished)

    def completion(self, tokens: list[int], logprobs: list[float]):
        """The Completion of a row. What stands after its first stop token is cut off."""
        ends = [n for n, token in enumerate(tokens, 1) if token in self.settings.stop_token_ids]
        length, reason = (ends[0], "stop") if ends else (len(tokens), "length")
        if not all(map(math.isfinite, logprobs[:length])):
            raise FloatingPointError(
                "the model's logits are not finite: its weights are damaged, or training has "
                "diverged"
            )
        return Completion(tokens[:length], logprobs[:length], reason)

    def remove_rows(self, rows: list[int]):
        """Takes rows out. The last running row moves to the place of each."""
        for row in sorted(rows, reverse=True):
            last = len(self.running) - 1
            self.cache.move_row(last, row)
            self.rows.move(last, row)
            self.running[row] = self.running[last]
            self.running.pop()
        in_use = {one.prompt for one in [*self.running, *itertools.islice(self.waiting, 1)]}
        self.slots = [prompt if prompt in in_use else None for prompt in self.slots]
        self.arrange()


def pack_prompts(prompts, device):
    """Packs sorted prompts -> (Pack, of each prompt: where its tokens stand in the pack).

    Prompts that begin alike share their first tokens: a system message, or the question of both
    orders of a pair. A prompt joins the group before it where that saves LEAST_SAVED tokens more.
    It keeps its last token, whose hidden state predicts the next one.
    """
    groups = []
    for prompt in prompts:
        if groups and saved_tokens([*groups[-1], prompt]) - saved_tokens(groups[-1]) >= LEAST_SAVED:
            groups[-1].append(prompt)
        else:
            groups.append([prompt])
    packed, places, end = [], [], 0
    for group in groups:
        shared = num_shared(group) if len(group) > 1 else len(group[0])
        own = [prompt[shared:] for prompt in group]
        # a pack is without the last token of a completion: 0 stands for it
        packed.append((group[0][:shared], [[*tokens, 0] for tokens in own if tokens]))
        beginning = range(end, end + shared)
        end += shared
        for tokens in own:
            places.append([*beginning, *range(end, end + len(tokens))])
            end += len(tokens)
    return pack_groups(packed, device), places


def num_shared(prompts):
    """How many tokens all of some sorted prompts begin with, the last one of each left out."""
    return len(os.path.commonprefix([prompts[0][:-1], prompts[-1][:-1]]))


def saved_tokens(prompts):
    return (len(prompts) - 1) * num_shared(prompts)


def fp32_logits(weight, hidden):
    """hidden @ weight.T (vocab, hidden_size) in fp32, as in token_logprobs: (rows, vocab)."""
    logits = torch.empty(len(hidden), len(weight), device=hidden.device)
    return matmul_fp32(hidden, weight.T, out=logits)


def sample_tokens(logits, temperature, top_p, uniform):
    """Draws one token per row -> (tokens, logprobs), both (rows,).

    logits: fp32 (rows, vocab). uniform: one number in [0, 1) per row. The log-probs, in nats, are
    those before top_p cuts the distribution; at temperature 0 (greedy) those of temperature 1.
    """
    probs = (logits / (temperature or 1)).softmax(dim=-1)
    if temperature == 0:
        tokens = logits.argmax(dim=-1)
    else:
        allowed = probs if top_p == 1 else likeliest(probs, top_p)
        # fp64: a GPU sums in parallel, and its sums in fp32 may fall from entry to entry
        cumulative = allowed.cumsum(dim=-1, dtype=torch.float64)
        target = uniform * cumulative[:, -1]
        tokens = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
        tokens = tokens.clamp(max=logits.shape[1] - 1)  # NaN would be beyond: `retire` reports it
    return tokens, probs.gather(1, tokens[:, None])[:, 0].log()


def likeliest(probs, top_p):
    """Sets all probabilities to 0 outside the smallest set of likeliest tokens that holds top_p.

    This is nucleus sampling (arXiv 1904.09751, section 3.1). probs: (rows, vocab).
    """
    ordered, order = probs.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered  # the sum of all larger ones
    ordered[before >= top_p] = 0
    return torch.zeros_like(probs).scatter_(1, order, ordered)


def checked_count(name, value):
    """The value as Python's integer: numpy's would wrap around. Raises ValueError."""
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def check_arguments(model, prompts, settings, seeds):
    """Raises ValueError. Comparisons are written so that NaN fails them."""
    vocab_size, temperature = model.config.vocab_size, settings.temperature
    if temperature != 0 and not 0.01 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 (greedy) or at least 0.01, got {temperature}")
    if not 0 < settings.top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {settings.top_p}")
    context = model.config.raw.get("max_position_embeddings") or math.inf
    for index, prompt in enumerate(prompts):
        if not prompt or min(prompt) < 0 or max(prompt) >= vocab_size:
            raise ValueError(
                f"prompt {index} must hold at least one token id, all from 0 to {vocab_size - 1}"
            )
        if len(prompt) + settings.max_new_tokens > context:
            raise ValueError(
                f"prompt {index} has {len(prompt)} tokens: with max_new_tokens "
                f"{settings.max_new_tokens} it exceeds the model's context of {context}"
            )
    if len(seeds) != len(prompts) or not all(isinstance(seed, Integral) for seed in seeds):
        raise ValueError(f"seed must be one integer, or one for each of {len(prompts)} prompts")


def row_budget(model, num_tokens, prompt_length, num_generations):
    """How many rows run at once: at most MOST_ROWS, on a CPU only as many as fit into 4 GiB."""
    config, weight = model.config, model.embed_tokens.weight
    kv_size = config.num_layers * config.num_kv_heads * config.head_dim
    # `generate` makes twice as many slots as complete groups, but not more than rows
    slots_per_row = min(1, 2 / num_generations)
    tokens_per_row = num_tokens + prompt_length * slots_per_row
    fitting = 2**32 // (2 * kv_size * weight.element_size() * tokens_per_row)
    # on a GPU the rows share a pool of pages (paged_cache.py)
    return MOST_ROWS if weight.is_cuda else max(1, min(MOST_ROWS, int(fitting)))


@torch.inference_mode()
def generate(
    model: Model,
    prompts: list[list[int]],
    num_generations: int = 1,
    max_new_tokens: int = 1024,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop_token_ids=(),
    seed: int | list[int] = 0,
    max_rows: int | None = None,
    progress=None,
) -> list[list[Completion]]:
    """Samples num_generations completions of each prompt -> results[prompt][generation].

    temperature 0 is greedy, with the log-probs of temperature 1. Without stop_token_ids every
    completion has max_new_tokens tokens.
    seed: one integer, or one for each prompt. The random numbers of a generation depend on its
    prompt's seed and its number alone. What else is sampled changes the rounding of its logits, so
    a completion is the same up to rounding: now and then a token that was a close call differs.
    max_rows: rows that run at once; by default as many as memory allows.
    progress(finished, total): called as rows finish.
    Raises ValueError for arguments out of range, FloatingPointError for logits that are not finite.
    """
    num_generations = checked_count("num_generations", num_generations)
    max_new_tokens = checked_count("max_new_tokens", max_new_tokens)
    prompts = [list(map(operator.index, prompt)) for prompt in prompts]
    stops = frozenset(map(operator.index, stop_token_ids))  # an entry of a tensor equals no token
    settings, seeds = Settings(max_new_tokens, temperature, top_p, stops), seed
    if isinstance(seed, Integral):
        seeds = [hash64(seed, index) for index in range(len(prompts))]
    check_arguments(model, prompts, settings, seeds)
    if not prompts:
        return []
    generations = []
    for prompt, own_seed in enumerate(seeds):
        for number in range(num_generations):
            generations.append(Generation(prompt, hash64(own_seed, number)))
    if max_rows is None:
        longest_prompt = max(map(len, prompts))
        max_rows = row_budget(model, max_new_tokens, longest_prompt, num_generations)
    num_rows = min(len(generations), checked_count("max_rows", max_rows))
    # Twice the slots of complete groups: some groups finish while others start.
    num_slots = min(len(prompts), num_rows, 2 * math.ceil(num_rows / num_generations))
    session = Session(model, prompts, settings, generations, num_rows, num_slots)
    while session.waiting or session.running:
        session.admit()
        session.retire()  # a first token may be the last one
        if session.running:
            session.decode()
        session.retire()
        if progress:
            num_left = len(session.waiting) + len(session.running)
            progress(len(generations) - num_left, len(generations))
    completions = [generation.completion for generation in generations]
    starts = range(0, len(completions), num_generations)
    return [completions[start : start + num_generations] for start in starts]
