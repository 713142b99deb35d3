"""What works on this machine's GPU, and attention in a pack that only newer versions have."""

import functools
import inspect
import itertools

import torch
from torch.nn.attention.varlen import varlen_attn

from cli import note


@functools.cache
def triton_works(device):
    """Whether Triton can run a kernel on a GPU. Without a C compiler it cannot; a note says so."""
    try:
        from kernels.logprob_triton import rows_forward

        logits, target = torch.zeros(1, 8, device=device), torch.zeros(1, device=device).long()
        rows_forward(logits, target, 1.0, *torch.zeros(4, 1, device=device))
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        note(f"Triton does not work here, so PyTorch's slower operations run: {reason[0]}")
        return False
    return True


def varlen_attention(pack, by_pieces):
    """Returns the `attend` function of a Pack that computes all of its pieces in one call.

    It equals by_pieces, that of kernels.packed_attention, and leaves to it what the call cannot do:
    fp32, and all of it before PyTorch 2.11. Each piece has its queries and the keys that it sees:
    those of a prompt are copied for each of its completions. Before PyTorch 2.13 the call wants as
    many key heads as query heads, so each key head is copied for its query heads too.
    """
    options = inspect.signature(varlen_attn).parameters
    if "window_size" not in options:
        return by_pieces
    lengths = [length for length, _ in pack.pieces]
    starts = [0, *itertools.accumulate(lengths)]
    seen, seen_starts = [], [0]  # the tokens that each piece sees, piece after piece
    for piece, (_, prompt) in enumerate(pack.pieces):
        for part in sorted({prompt, piece}):
            seen += range(starts[part], starts[part + 1])
        seen_starts.append(len(seen))
    device = pack.tokens.device
    seen = torch.tensor(seen, device=device)
    sizes = [torch.tensor(x, dtype=torch.int32, device=device) for x in (starts, seen_starts)]
    sizes += [max(lengths), max(b - a for a, b in itertools.pairwise(seen_starts))]

    def attend(layer, queries, keys, values):
        if queries.dtype == torch.float32:
            return by_pieces(layer, queries, keys, values)
        keys, values = keys.index_select(0, seen), values.index_select(0, seen)
        chosen = {"window_size": (-1, 0)}  # causal; the last query of a piece sees all of its keys
        group = queries.shape[1] // keys.shape[1]
        if "enable_gqa" in options:
            chosen["enable_gqa"] = group > 1
        elif group > 1:
            keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
        return varlen_attn(queries, keys, values, *sizes, **chosen)

    return attend
