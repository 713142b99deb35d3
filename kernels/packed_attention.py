"""Attention in a Pack, piece by piece: no completion is computed against another completion."""

import torch
import torch.nn.functional as F

from kernels import cpu_kernels


def packed_attention(pack):
    """Returns the `attend` function of a Pack: but for rounding, attention under the mask

        allowed[i, j] = same group and j <= i and (j in the prompt or i, j in the same completion)

    The tokens are cut into pieces, one for each prompt and each completion. A prompt attends to
    itself, and a completion to its prompt and itself. Both are causal.
    """
    fast = cpu_kernels(pack.tokens.device)
    if fast:
        return fast.packed_attention(pack)
    from torch.nn.attention.bias import causal_lower_right  # imports Triton: slow

    lengths, prompt_indices = [], []  # of each piece: its length, and which piece is its prompt
    for start, end, completions in pack.spans:
        prompt_indices += [len(lengths)] * (1 + len(completions))
        lengths.append(end - start)
        lengths += [last - first for first, last in completions]

    def attend(layer, queries, keys, values):
        queries = queries.split(lengths)  # of each piece (its tokens, heads, head_dim)
        keys = keys.split(lengths)  # of each piece (its tokens, kv_heads, head_dim)
        values = values.split(lengths)
        outputs = []
        for piece, prompt in enumerate(prompt_indices):
            visible = [piece] if piece == prompt else [prompt, piece]
            piece_queries = heads_first(queries[piece])  # (1, heads, queries, head_dim)
            piece_keys = heads_first(torch.cat([keys[index] for index in visible]))
            piece_values = heads_first(torch.cat([values[index] for index in visible]))
            # the last query sees all keys: flash attention knows this mask, and takes no other
            mask = causal_lower_right(piece_queries.shape[2], piece_keys.shape[2])
            output = attention(piece_queries, piece_keys, piece_values, attn_mask=mask)
            outputs.append(output[0].transpose(0, 1))  # (its tokens, heads, head_dim)
        return torch.cat(outputs)  # (tokens, heads, head_dim)

    return attend


def heads_first(x, count=1):
    """(count * tokens, heads, head_dim) -> (count, heads, tokens, head_dim)"""
    return x.unflatten(0, (count, -1)).transpose(1, 2)


def attention(queries, keys, values, **options):
    """Scaled dot-product attention of tensors (batch, heads, tokens, head_dim).

    Where there are fewer key heads than query heads, query heads share them (GQA).
    """
    return F.scaled_dot_product_attention(
        queries, keys, values, enable_gqa=keys.shape[1] != queries.shape[1], **options
    )
