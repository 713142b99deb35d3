"""KV-cached sampling: a prompt is computed once for all its generations, and a row that finishes makes room for a waiting one.

    generate(model, prompts, num_generations=8, max_new_tokens=512, temperature=0.6, stop_token_ids=(2,))

Three things keep it fast: the rows of a prompt read the same prompt keys and values; every running row costs one token a step and
nothing else does (no padding, no finished rows); stopping is looked at on the host every few steps only, so a GPU never waits.

Three things keep it honest: log-probs are those of token_logprobs (fp32 log-softmax of logits / temperature, whole vocabulary); the
random number of a token is a hash of (seed of its prompt, generation, position), whatever runs beside it; a token that stops is kept.
"""

import functools
import math
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kernels.logprob import bf16_products_allowed, row_tiles
from kv_cache import KVCache
from seeding import GOLDEN, MIX, hash64, signed

BLOCK = 256  # entries of the vocabulary whose probabilities are added up before one of them is looked for


@dataclass
class Completion:
    """One generation. `tokens` ends with the stop token where finish_reason is "stop"; `logprobs` belong to `tokens` one by one."""

    tokens: list[int]
    logprobs: list[float]
    finish_reason: str  # "stop" | "length"


def uniforms(streams, positions):
    """One uniform number in [0, 1) a row: SplitMix64 of stream + position, both int64 (rows,), 24 bits of it as fp32 (rows,)."""
    state = streams + (positions + 1) * signed(
        GOLDEN
    )  # int64 wraps around, which is what is wanted
    for shift, factor in MIX:
        state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * signed(
            factor
        )  # >> keeps the sign: mask it off
    state = state ^ ((state >> 31) & ((1 << 33) - 1))
    return ((state >> 40) & 0xFFFFFF).float() / 0x1000000


def sample_tokens(logits, temperature, top_p, uniform):
    """fp32 logits (rows, vocab), one uniform number a row -> (tokens, logprobs), both (rows,). But for rounding, at top_p 1, equals

        probs = (logits / temperature).softmax(-1)                                          # (rows, vocab)
        tokens = torch.searchsorted(probs.cumsum(-1), uniform[:, None], right=True)[:, 0]
        logprobs = probs.gather(1, tokens[:, None])[:, 0].log()

    so it is torch.multinomial at one random number a row. The log-prob is that of the untruncated distribution.
    """
    results = []
    for rows in row_tiles(logits):  # as many as stay in a CPU's cache
        scaled = logits[rows] / (temperature or 1)
        weights = scaled.sub_(
            scaled.amax(dim=-1, keepdim=True)
        ).exp_()  # probabilities but for their sum
        tokens = draw(weights, top_p, uniform[rows]) if temperature else logits[rows].argmax(dim=-1)
        results.append(
            (tokens, weights.gather(1, tokens[:, None])[:, 0].log() - weights.sum(dim=-1).log())
        )
    return tuple(map(torch.cat, zip(*results)))


def draw(weights, top_p, uniform):
    """One index a row, (rows,), drawn in proportion to weights (rows, vocab): first a block of the vocabulary, then an entry of it."""
    if (
        top_p < 1
    ):  # keep the likeliest tokens until they hold top_p together; the one that crosses the border is kept
        ordered, order = weights.sort(dim=-1, descending=True)
        ordered[ordered.cumsum(dim=-1) - ordered >= top_p * ordered.sum(dim=-1, keepdim=True)] = 0
        weights = torch.zeros_like(weights).scatter_(1, order, ordered)
    size, missing = weights.shape[1], -weights.shape[1] % BLOCK
    blocks = (F.pad(weights, (0, missing)) if missing else weights).unflatten(
        1, (-1, BLOCK)
    )  # (rows, blocks, BLOCK)
    sums = blocks.sum(dim=-1)
    block, rest = find(sums, uniform * sums.sum(dim=-1, dtype=torch.float64))
    entry, _ = find(blocks[torch.arange(len(block), device=block.device), block], rest)
    return (block * BLOCK + entry).clamp(max=size - 1)  # NaN logits are reported in `retire`


def find(weights, aim):
    """weights (rows, n), aim (rows,) -> (the first place at which the running sum is above aim, what of aim lies behind that before it)."""
    cumulative = weights.cumsum(
        dim=-1, dtype=torch.float64
    )  # a GPU sums in parallel: fp32 sums need not grow from entry to entry
    total = cumulative[:, -1]
    aim = torch.minimum(
        aim, torch.nextafter(total, torch.zeros_like(total))
    )  # below the total: what is found has a weight above 0
    place = torch.searchsorted(cumulative, aim[:, None], right=True).clamp(max=weights.shape[1] - 1)
    return place[:, 0], (aim - (cumulative - weights).gather(1, place)[:, 0]).clamp(min=0)


def packed_product(weight, bias, x):
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@contextmanager
def packed_weights(model):
    """Inside, bf16 layers on a CPU multiply by copies of their weights in oneDNN's own order: for 8 rows a step takes 0.7 of the time."""
    fits = (
        model.device.type == "cpu"
        and model.head_weight.dtype == torch.bfloat16
        and torch.cpu._is_avx512_bf16_supported()
    )
    layers = (
        [module for module in model.layers.modules() if isinstance(module, torch.nn.Linear)]
        if fits
        else []
    )
    try:
        for layer in layers:
            layer.forward = functools.partial(
                packed_product, torch.ops.mkldnn._reorder_linear_weight(layer.weight), layer.bias
            )
        yield
    finally:
        for layer in layers:
            vars(layer).pop(
                "forward", None
            )  # the class's own again, unless another thread was here before


class Session:
    """The running rows of one generate call. Row tensors have `num_rows` entries of which the first len(self.running) count."""

    def __init__(self, model, prompts, settings, streams, num_rows, num_slots, look_every=None):
        self.model, self.prompts, self.settings, self.streams = model, prompts, settings, streams
        device = model.device
        # A row may run on for up to look_every - 1 steps after its end, until the host looks: that is cut off, but needs space.
        self.look_every = look_every or (1 if device.type == "cpu" else 8)
        columns = settings.max_new_tokens + self.look_every
        self.cache = KVCache(model, num_slots, max(map(len, prompts)), num_rows, columns)
        self.tokens = torch.zeros(num_rows, columns, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(num_rows, columns, device=device)
        self.state = torch.zeros(5, num_rows, dtype=torch.long, device=device)
        # the random stream, the prompt's tokens, tokens generated, whether a stop token came, tokens up to and with it
        self.stream, self.prompt_length, self.generated, self.stopped, self.length = self.state
        # (hidden_size, vocab_size). A CPU multiplies bf16 into fp32 only from fp32 operands: cast once here, not at every step.
        self.head = model.head_weight.T if device.type == "cuda" else model.head_weight.T.float()
        self.stops = torch.tensor(sorted(settings.stop_token_ids), dtype=torch.long, device=device)
        self.running = []  # (prompt, generation) of rows 0..n-1
        self.counts = []  # tokens generated so far, on the host
        self.slot_of = {}  # prompt -> slot, while it is in use
        self.unfinished = {}  # prompt -> generations not finished yet
        self.last_hidden = model.embed_tokens.weight.new_zeros(num_slots, model.config.hidden_size)

    def admit(self, waiting):
        """Fills the free rows from the waiting generations; prompts that are new are prefilled first, all together."""
        arrivals, new_prompts = [], []
        free_slots = set(range(len(self.last_hidden))) - set(self.slot_of.values())
        while waiting and len(self.running) + len(arrivals) < len(self.tokens):
            prompt, _ = waiting[0]
            if prompt not in self.slot_of:
                if (
                    not free_slots
                ):  # every prompt in use has a generation running: wait until one is through
                    break
                self.slot_of[prompt] = min(free_slots)
                free_slots.remove(self.slot_of[prompt])
                self.unfinished[prompt] = len(self.streams[prompt])
                new_prompts.append(prompt)
            arrivals.append(waiting.popleft())
        if not arrivals:
            return
        self.prefill(new_prompts)
        first, device = len(self.running), self.tokens.device
        slots = [self.slot_of[prompt] for prompt, _ in arrivals]
        columns = [
            [self.streams[prompt][generation], len(self.prompts[prompt]), 0, 0, 0]
            for prompt, generation in arrivals
        ]
        self.state[:, first : first + len(arrivals)] = torch.tensor(
            columns, dtype=torch.long, device=device
        ).T
        self.running += arrivals
        self.counts += [0] * len(arrivals)
        self.lay_out()
        hidden = self.last_hidden[
            torch.tensor(slots, device=device)
        ]  # every generation draws its own first token from it
        self.append_tokens(hidden, slice(first, first + len(arrivals)))

    def prefill(self, prompts):
        for piece in batches_by_length(prompts, self.prompts, self.settings.prefill_tokens):
            tokens, positions, spans = [], [], []
            for prompt in piece:
                spans.append(
                    (len(tokens), len(tokens) + len(self.prompts[prompt]), self.slot_of[prompt])
                )
                tokens += self.prompts[prompt]
                positions += range(len(self.prompts[prompt]))
            tokens, positions = torch.tensor(
                [tokens, positions], dtype=torch.long, device=self.tokens.device
            )
            hidden = self.model(
                tokens, positions, self.cache.prefill_attention(spans)
            )  # (tokens, hidden_size)
            self.last_hidden[[slot for _, _, slot in spans]] = hidden[
                [end - 1 for _, end, _ in spans]
            ]

    def lay_out(self):
        """Which table entry each row's query goes to, and how far each slot's prompt reaches. Changes only when rows come or go."""
        slots, device = [self.slot_of[prompt] for prompt, _ in self.running], self.tokens.device
        rows_in_slot, ranks = Counter(), []
        for slot in slots:
            ranks.append(rows_in_slot[slot])
            rows_in_slot[slot] += 1
        self.table_width = max(rows_in_slot.values())
        self.places = torch.tensor(
            [slot * self.table_width + rank for slot, rank in zip(slots, ranks)], device=device
        )
        lengths = torch.ones(
            max(slots) + 1, dtype=torch.long
        )  # a slot without rows: one visible key keeps its softmax finite
        for prompt, slot in self.slot_of.items():
            if slot < len(lengths):
                lengths[slot] = len(self.prompts[prompt])
        visible = torch.arange(self.cache.padded(int(lengths.max()))) < lengths[:, None]
        self.prompt_mask = (
            torch.zeros(visible.shape).masked_fill_(~visible, -torch.inf).to(device)
        )  # (slots, padded prompt tokens)

    def decode(self):
        """One token for every running row: no host synchronisation in here."""
        n = len(self.running)
        own_lengths = self.generated[:n] - 1  # the newest token is not in the cache yet
        last = self.tokens[:n].gather(1, own_lengths[:, None])[:, 0]
        attend = self.cache.decode_attention(
            self.places, self.table_width, self.prompt_mask, own_lengths, max(self.counts) - 1
        )
        hidden = self.model(last, self.prompt_length[:n] + own_lengths, attend)  # (n, hidden_size)
        self.append_tokens(hidden, slice(0, n))

    def logits(self, hidden):
        """fp32 logits (rows, vocab) of hidden states (rows, hidden_size), by the product that token_logprobs uses."""
        if hidden.dtype == torch.float32:
            return hidden @ self.head
        if hidden.is_cuda:
            return torch.mm(hidden, self.head, out_dtype=torch.float32)
        with bf16_products_allowed():
            return hidden.float() @ self.head

    def append_tokens(self, hidden, rows):
        """Draws the next token of the rows in a slice from their last hidden states (rows, hidden_size)."""
        uniform = uniforms(self.stream[rows], self.generated[rows])
        tokens, logprobs = sample_tokens(
            self.logits(hidden), self.settings.temperature, self.settings.top_p, uniform
        )
        at = self.generated[rows][:, None]  # the rows differ in age: each has its own column
        self.tokens[rows].scatter_(1, at, tokens[:, None])
        self.logprobs[rows].scatter_(1, at, logprobs[:, None])
        self.generated[rows] += 1
        self.length[rows] += 1 - self.stopped[rows]
        self.stopped[rows] |= (
            torch.isin(tokens, self.stops) | ~logprobs.isfinite()
        )  # `retire` raises for the latter
        for row in range(rows.start, rows.stop):
            self.counts[row] += 1

    def retire(self, results):
        """Takes finished rows out, and moves the last rows into their places so that rows 0..n-1 are the running ones."""
        limit = self.settings.max_new_tokens
        stopped, lengths = self.state[3:, : len(self.running)].tolist()  # the one synchronisation
        finished = [
            row for row in range(len(self.running)) if stopped[row] or self.counts[row] >= limit
        ]
        if not finished:
            return
        for row, tokens, logprobs in zip(
            finished, self.tokens[finished].tolist(), self.logprobs[finished].tolist()
        ):
            (prompt, generation), length = self.running[row], min(lengths[row], limit)
            if not all(map(math.isfinite, logprobs[:length])):
                raise FloatingPointError(
                    "the model's logits are not finite: its weights are damaged, or training has diverged"
                )
            reason = "stop" if stopped[row] and lengths[row] <= limit else "length"
            results[prompt][generation] = Completion(tokens[:length], logprobs[:length], reason)
            self.unfinished[prompt] -= 1
            if self.unfinished[prompt] == 0:
                del self.slot_of[prompt], self.unfinished[prompt]
        for row in reversed(finished):
            last = len(self.running) - 1
            if row != last:
                self.cache.copy_row(row, last, max(self.counts))
                for tensor in (self.tokens, self.logprobs):
                    tensor[row] = tensor[last]
                self.state[:, row] = self.state[:, last]
                self.running[row], self.counts[row] = self.running[last], self.counts[last]
            self.running.pop()
            self.counts.pop()
        if self.running:
            self.lay_out()


def batches_by_length(items, texts, budget):
    """Splits items into lists whose texts have at most `budget` tokens together (one item at least)."""
    batch, size = [], 0
    for item in items:
        if batch and size + len(texts[item]) > budget:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(texts[item])
    if batch:
        yield batch


@dataclass(frozen=True)
class Settings:
    max_new_tokens: int
    temperature: float
    top_p: float
    stop_token_ids: tuple
    prefill_tokens: int = 8192  # prompts prefilled together hold at most this many tokens


def check_arguments(model, prompts, num_generations, settings, seeds):
    vocab_size = model.config.vocab_size
    if settings.temperature < 0 or not 0 < settings.top_p <= 1:
        raise ValueError(
            f"temperature must be at least 0 and top_p in (0, 1], got {settings.temperature} and {settings.top_p}"
        )
    if num_generations < 1 or settings.max_new_tokens < 1:
        raise ValueError(
            f"num_generations and max_new_tokens must be at least 1, got {num_generations} and {settings.max_new_tokens}"
        )
    for index, prompt in enumerate(prompts):
        if not prompt or min(prompt) < 0 or max(prompt) >= vocab_size:
            raise ValueError(
                f"prompt {index}: must hold token ids from 0 to {vocab_size - 1} and at least one of them"
            )
    if len(seeds) != len(prompts):
        raise ValueError(
            f"{len(seeds)} seeds for {len(prompts)} prompts: give one integer, or one for each prompt"
        )


def row_budget(model, num_tokens, prompt_length, num_generations):
    """How many rows fit, with their share of the prompts: in half of a GPU's free memory, at most 256; in 4 GiB of a CPU's, at most 64, or
    up to 256 of a model so small that a step's cost is in its calls."""
    config, weight = model.config, model.embed_tokens.weight
    bytes_per_token = (
        2 * config.num_layers * config.num_kv_heads * config.head_dim * weight.element_size()
    )
    bytes_per_row = bytes_per_token * (num_tokens + prompt_length * min(1, 2 / num_generations))
    if weight.device.type != "cuda":
        return max(1, min(64, int(2**32 // bytes_per_row)), min(256, int(2**27 // bytes_per_row)))
    device = weight.device  # what PyTorch holds without using it is free as well
    free = (
        torch.cuda.mem_get_info(device)[0]
        + torch.cuda.memory_reserved(device)
        - torch.cuda.memory_allocated(device)
    )
    return max(1, min(256, int(free // 2 // bytes_per_row)))


@torch.inference_mode()
def generate(
    model,
    prompts,
    num_generations=1,
    max_new_tokens=1024,
    temperature=1.0,
    top_p=1.0,
    stop_token_ids=(),
    seed=0,
    max_rows=None,
    progress=None,
    first_generation=0,
):
    """Samples `num_generations` completions of each prompt (lists of token ids) -> results[prompt][generation], each a Completion.

    temperature 0 is greedy, with the log-probs of temperature 1. Without stop_token_ids every completion runs to max_new_tokens.
    `seed`: one integer, or one for each prompt; generation g of a prompt is the same whatever other prompts, rows and generations run.
    `first_generation`: the number of the first one, so that a later call goes on where an earlier one ended.
    `max_rows` bounds the rows that run at once (default: what memory allows); `progress(finished, total)` is called as rows finish.
    Raises ValueError for arguments out of range.
    """
    settings = Settings(max_new_tokens, temperature, top_p, tuple(stop_token_ids))
    seeds = (
        [hash64(seed, index) for index in range(len(prompts))]
        if isinstance(seed, int)
        else list(seed)
    )
    check_arguments(model, prompts, num_generations, settings, seeds)
    results = [[None] * num_generations for _ in prompts]
    streams = [
        [
            hash64(prompt_seed, first_generation + generation)
            for generation in range(num_generations)
        ]
        for prompt_seed in seeds
    ]
    # Long prompts first: prompts that run together are then alike in length, and the longest work does not start last.
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    waiting = deque((index, generation) for index in order for generation in range(num_generations))
    if not waiting:
        return results
    total = len(waiting)
    num_rows = min(
        total,
        max_rows or row_budget(model, max_new_tokens, max(map(len, prompts)), num_generations),
    )
    # Twice the slots that whole groups need: some groups are still at their last rows when the next ones start.
    num_slots = min(len(prompts), num_rows, 2 * -(-num_rows // num_generations))
    with packed_weights(model):
        session = Session(model, prompts, settings, streams, num_rows, num_slots)
        while waiting or session.running:
            session.admit(waiting)
            session.retire(results)  # a first token may be the last one
            for _ in range(session.look_every if session.running else 0):
                session.decode()
            session.retire(results)
            if progress:
                progress(total - len(waiting) - len(session.running), total)
    return results
