"""Attention in a Pack, piece by piece: no completion is computed against another completion."""

import torch
import torch.nn.functional as F


def packed_attention(pack):
    """Returns the `attend` function of a Pack: but for rounding, attention under the mask

        allowed[i, j] = same group and j <= i and (j in the prompt or i, j in the same completion)

    The tokens are cut into pieces, one for each prompt and each completion. A prompt attends to
    itself, and a completion to its prompt and itself. Both are causal.
    """
    lengths = [length for length, _ in pack.pieces]
    masks = []  # of each piece
    for piece, (length, prompt) in enumerate(pack.pieces):
        if piece == prompt:
            masks.append({"is_causal": True})
        else:
            masks.append(causal_mask(length, lengths[prompt] + length, pack.tokens.device))

    def attend(layer, queries, keys, values):
        queries = queries.split(lengths)  # of each piece (its tokens, heads, head_dim)
        keys = keys.split(lengths)  # of each piece (its tokens, kv_heads, head_dim)
        values = values.split(lengths)
        outputs = []
        for piece, (_, prompt) in enumerate(pack.pieces):
            piece_keys, piece_values = keys[piece], values[piece]
            if piece != prompt:
                piece_keys = torch.cat((keys[prompt], piece_keys))
                piece_values = torch.cat((values[prompt], piece_values))
            three = map(heads_first, (queries[piece], piece_keys, piece_values))
            output = attention(*three, **masks[piece])  # (1, heads, its tokens, head_dim)
            outputs.append(output[0].transpose(0, 1))  # (its tokens, heads, head_dim)
        return torch.cat(outputs)  # (tokens, heads, head_dim)

    if pack.tokens.is_cuda:
        from kernels.gpu import varlen_attention

        return varlen_attention(pack, attend)  # in one call, where there is such a call
    return attend


def causal_mask(num_queries, num_keys, device):
    """An option of `attention`: the last query sees all keys, the one before it one less, ..."""
    if device.type == "cpu":
        every_pair = torch.ones(num_queries, num_keys, dtype=torch.bool)
        return {"attn_mask": every_pair.tril(num_keys - num_queries)}
    from torch.nn.attention.bias import causal_lower_right  # imports Triton: slow

    # flash attention knows this mask alone
    return {"attn_mask": causal_lower_right(num_queries, num_keys)}


def heads_first(x):
    """(tokens, heads, head_dim) -> (1, heads, tokens, head_dim)"""
    return x.transpose(0, 1)[None]


def attention(queries, keys, values, **options):
    """Scaled dot-product attention of tensors (batch, heads, tokens, head_dim).

    Where there are fewer key heads than query heads, query heads share them (GQA).
    """
    return F.scaled_dot_product_attention(
        queries, keys, values, enable_gqa=keys.shape[1] != queries.shape[1], **options
    )
