"""The definition of attention in a Pack, which kernels/packed_attention.py is compared with."""

import itertools

import torch

from kernels.packed_attention import attention, heads_first


def masked_attention(pack):
    """Returns the `attend` function of a Pack by its definition: attention under the mask

    allowed[i, j] = same group and j <= i and (j in the prompt or i, j in the same completion)
    """
    num_tokens = len(pack.tokens)
    allowed = torch.zeros(num_tokens, num_tokens, dtype=torch.bool, device=pack.tokens.device)
    ends = list(itertools.accumulate(length for length, _ in pack.pieces))
    spans = [slice(end - length, end) for end, (length, _) in zip(ends, pack.pieces)]
    for own, (_, prompt) in zip(spans, pack.pieces):
        allowed[own, own] = True
        allowed[own, spans[prompt]] = True
    allowed = allowed.tril()  # j <= i

    def attend(layer, queries, keys, values):
        batches = [heads_first(x) for x in (queries, keys, values)]
        attended = attention(*batches, attn_mask=allowed)  # (1, heads, tokens, head_dim)
        return attended[0].transpose(0, 1)  # (tokens, heads, head_dim)

    return attend
