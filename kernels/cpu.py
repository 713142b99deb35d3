"""Faster versions of some operations for tensors on a CPU.

Each docstring names the plain code that the operation equals up to rounding. That code runs on a
GPU, and on a CPU if this file is deleted (kernels/__init__.py).

They use four facts about CPUs. Calls on small tensors cost more than their arithmetic. Numbers in
the cache are read several times as fast as numbers in memory. Products of contiguous matrices are
faster. Processors with AVX512-BF16 multiply bf16 faster than fp32.
"""

import functools
import threading
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kernels.packed_attention import attention, heads_first

# Row operations take as many rows of logits at once as stay in the cache: 4.5x faster.
ROW_TILE_BYTES = 3 << 20
CAST_ROWS = 4096  # rows of a bf16 matrix that are turned into fp32 at once
KEY_BLOCK = 64  # tokens whose keys are contiguous; a divisor of kv_cache.WIDTH
MAX_PADDING = 1.5  # the longest piece of a batch has at most this many times the shortest's keys
MAX_BATCH_KEYS = 2**14


# ---- matrix products ----


def matmul_fp32(a, b, out, accumulate=False):
    """A product of bf16 matrices, summed in fp32. Equals

        torch.addmm(out, a.float(), b.float(), beta=1 if accumulate else 0, out=out)

    oneDNN may multiply fp32 numbers as bf16, with fp32 sums. That is
    exact for numbers that were bf16 before, and 2.3x faster where the processor has AVX512-BF16.
    Only a block of the larger matrix is in fp32 at any time.
    """
    if len(out) < out.shape[1]:
        a, b, out = b.T, a.T, out.T  # the larger matrix is the first one now
    b = b.float()
    with bf16_products_allowed():
        for start in range(0, len(a), CAST_ROWS):
            rows = slice(start, start + CAST_ROWS)
            block = out[rows]
            torch.addmm(block, a[rows].float(), b, beta=1 if accumulate else 0, out=block)


def output_head(weight):
    """Equals weight.T, (hidden_size, vocab), already in fp32: one cast instead of one per step."""
    return weight.T.float()


def logits(hidden, head):
    """Equals hidden.float() @ head, (rows, vocab) in fp32, for a head from `output_head`."""
    if hidden.dtype == torch.float32:
        return hidden @ head
    with bf16_products_allowed():
        return hidden.float() @ head


precision_lock = threading.Lock()


@contextmanager
def bf16_products_allowed():
    """Inside, oneDNN may multiply fp32 matrices as bf16."""
    settings = torch.backends.mkldnn.matmul
    with precision_lock:  # the setting belongs to the process: threads must not mix it up
        before = settings.fp32_precision
        settings.fp32_precision = "bf16"
        try:
            yield
        finally:
            settings.fp32_precision = before


@contextmanager
def reordered_weights(model):
    """Inside, bf16 layers multiply by copies of their weights in oneDNN's own order.

    The products are the same. A decoding step of 8 rows takes 0.7 of the time.
    """
    layers = []
    if model.head_weight.dtype == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported():
        layers = [layer for layer in model.layers.modules() if isinstance(layer, torch.nn.Linear)]
    try:
        for layer in layers:
            weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight)
            layer.forward = functools.partial(reordered_linear, weight, layer.bias)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)  # another thread may have removed it before


def reordered_linear(weight, bias, x):
    """Equals F.linear(x, weight, bias), for a weight in oneDNN's order."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


# ---- attention in a pack ----


@dataclass(frozen=True)
class Piece:
    """A prompt or a completion of a Pack: its tokens `queries` see `prompt` and themselves."""

    prompt: range  # empty for a prompt
    queries: range

    @property
    def num_keys(self):
        return len(self.prompt) + len(self.queries)


def packed_attention(pack):
    """Equals kernels.packed_attention.packed_attention, which computes piece by piece.

    Here pieces of similar length form one batch, padded at the right, because thousands of short
    pieces would cost more in calls than in arithmetic. Token 0 is the padding. Real queries do not
    see it, and the output of padding queries is not read.
    """
    device = pack.tokens.device
    prompts, completions = [], []
    for start, end, spans in pack.spans:
        prompts.append(Piece(range(0), range(start, end)))
        completions += [Piece(range(start, end), range(first, last)) for first, last in spans]
    shapes, masks = [], []  # of each batch
    query_index, key_index = [], []  # the tokens of all batches, padding included
    output_index = [0] * len(pack.tokens)  # where the output of each token is among query_index
    for batch in [*batches_of_similar(prompts), *batches_of_similar(completions)]:
        num_queries = max(len(piece.queries) for piece in batch)
        num_keys = max(piece.num_keys for piece in batch)
        for piece in batch:
            first, last = piece.queries.start, piece.queries.stop
            output_index[first:last] = range(len(query_index), len(query_index) + last - first)
            query_index += padded(piece.queries, num_queries)
            key_index += padded([*piece.prompt, *piece.queries], num_keys)
        shapes.append((len(batch), num_queries, num_keys))
        masks.append(batch_mask(batch, num_queries, num_keys))
    query_counts = [count * num_queries for count, num_queries, _ in shapes]
    key_counts = [count * num_keys for count, _, num_keys in shapes]
    query_index = torch.tensor(query_index, device=device)
    key_index = torch.tensor(key_index, device=device)
    output_index = torch.tensor(output_index, device=device)

    def attend(layer, queries, keys, values):
        queries = take_rows(queries, query_index).split(query_counts)  # one tensor per batch
        keys = take_rows(keys, key_index).split(key_counts)
        values = take_rows(values, key_index).split(key_counts)
        outputs = []
        for index, (count, _, _) in enumerate(shapes):
            output = attention(
                heads_first(queries[index], count),  # (count, heads, num_queries, head_dim)
                heads_first(keys[index], count),  # (count, kv_heads, num_keys, head_dim)
                heads_first(values[index], count),
                **masks[index],
            )
            outputs.append(output.transpose(1, 2).flatten(0, 1))
        return take_rows(torch.cat(outputs), output_index)  # (tokens, heads, head_dim)

    return attend


def batches_of_similar(pieces):
    """Lists of pieces with similar lengths, each of which is computed at once."""
    batches = []
    for piece in sorted(pieces, key=lambda piece: piece.num_keys):
        num_keys = piece.num_keys
        if (
            batches
            and num_keys <= MAX_PADDING * batches[-1][0].num_keys
            and len(batches[-1]) * num_keys < MAX_BATCH_KEYS
        ):
            batches[-1].append(piece)
        else:
            batches.append([piece])
    return batches


def batch_mask(batch, num_queries, num_keys):
    """The options of scaled_dot_product_attention: query i sees the prompt and keys up to i."""
    if not batch[0].prompt:
        return {"is_causal": True}
    prompt_lengths = torch.tensor([len(piece.prompt) for piece in batch])
    last_visible = prompt_lengths[:, None] + torch.arange(num_queries)  # (count, num_queries)
    mask = torch.arange(num_keys) <= last_visible[:, None, :, None]
    return {"attn_mask": mask}  # (count, 1, num_queries, num_keys)


def padded(tokens, length):
    return [*tokens, *[0] * (length - len(tokens))]


def take_rows(x, index):
    """Equals x[index]. As an embedding its gradient adds rows; that of indexing is far slower."""
    return F.embedding(index, x.flatten(1)).unflatten(-1, x.shape[1:])


# ---- keys and values of the sampler ----


class KeyValueTable:
    """Equals kv_cache.KeyValueTable, but stores its tokens in blocks of KEY_BLOCK.

    A block of all rows is contiguous, and products of contiguous matrices are several times as
    fast as products of a part of a longer table.
    """

    def __init__(self, config, num_rows, num_tokens, like):
        num_blocks = -(-num_tokens // KEY_BLOCK)
        rows_of_block = (num_rows, config.num_kv_heads, KEY_BLOCK, config.head_dim)
        self.table = like.new_zeros(config.num_layers, 2, num_blocks, *rows_of_block)

    def index(self, rows, positions):
        return positions // KEY_BLOCK, rows, slice(None), positions % KEY_BLOCK

    def write(self, layer, index, keys, values):
        self.table[layer, 0][index] = keys
        self.table[layer, 1][index] = values

    def copy_row(self, target, source, length):
        blocks = slice(-(-length // KEY_BLOCK))
        self.table[:, :, blocks, target] = self.table[:, :, blocks, source]

    def attend(self, layer, queries, mask):
        num_rows, kv_heads, num_queries, head_dim = queries.shape
        num_blocks = mask.shape[1] // KEY_BLOCK
        # each (blocks, rows * kv_heads, KEY_BLOCK, head_dim)
        keys, values = self.table[layer, :, :num_blocks, :num_rows].flatten(2, 3)
        flat_queries = queries.flatten(0, 1)  # (rows * kv_heads, queries, head_dim)
        scores = [torch.bmm(flat_queries, block.transpose(1, 2)).float() for block in keys]
        scores = torch.cat(scores, dim=-1)  # (rows * kv_heads, queries, tokens)
        scores = scores.view(num_rows, kv_heads, num_queries, -1)
        torch.add(mask[:, None, None], scores, alpha=head_dim**-0.5, out=scores)
        highest = scores.amax(dim=-1, keepdim=True)
        weights = scores.sub_(highest).exp_()
        total = weights.sum(dim=-1, keepdim=True)
        weights = weights.to(queries.dtype).flatten(0, 1).split(KEY_BLOCK, dim=-1)
        outputs = [torch.bmm(*pair).float() for pair in zip(weights, values)]
        output = sum(outputs).view(num_rows, kv_heads, num_queries, head_dim)
        return output / total, highest + total.log()
