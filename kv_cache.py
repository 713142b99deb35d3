"""Keys and values that a sampler keeps, and attention to them: prompts once for all their generations, each row's own tokens beside them.

scores = [q . keys of the prompt | q . keys of the row's own tokens]            what the two parts and their log-sum-exps are merged to
"""

import torch

from model import attention

PIECE = 64  # on a CPU, tokens whose keys lie together: it multiplies whole stretches of memory several times as fast as cut-out ones


def product(a, b):
    """a @ b for batches of matrices, in fp32. A GPU sums and stores it so; a CPU rounds products of bf16 first."""
    return torch.bmm(a, b, out_dtype=torch.float32) if a.is_cuda else torch.bmm(a, b).float()


def attention_with_lse(queries, keys, values, mask):
    """Attention, and what lets two attentions over parts of the keys be merged. But for rounding equals

        scores = queries @ keys.transpose(1, 2) * head_dim**-0.5 + mask
        return scores.softmax(-1) @ values, scores.logsumexp(-1)

    for queries (batch, queries, head_dim), mask (batch or 1, 1, keys), additive, fp32, and pieces of keys and values, each (batch, keys of it,
    head_dim). Products of whole pieces that lie in one stretch of memory are several times as fast on a CPU as one of a cut-out part.
    Returns (batch, queries, head_dim) and (batch, queries, 1) in fp32.
    """
    scores = [product(queries, piece.transpose(1, 2)) for piece in keys]
    scores = scores[0] if len(scores) == 1 else torch.cat(scores, dim=-1)
    torch.add(mask, scores, alpha=queries.shape[-1] ** -0.5, out=scores)
    highest = scores.amax(dim=-1, keepdim=True)
    weights = scores.sub_(highest).exp_()
    total = weights.sum(dim=-1, keepdim=True)
    weights = weights.to(queries.dtype).split([piece.shape[1] for piece in values], dim=-1)
    return sum(product(*parts) for parts in zip(weights, values)) / total, highest + total.log()


class KVCache:
    """Keys and values of the prompts in use, one slot a prompt, and of the tokens that each row has generated.

    Rows 0..n-1 run, the others are free. Both tables: (layers, keys | values, pieces, slots or rows, kv_heads, tokens of a piece, head_dim), so
    that a piece of all rows is one stretch of memory. On a GPU, where every product has to be launched, there is one piece.
    """

    def __init__(self, model, num_slots, prompt_length, num_rows, num_tokens):
        config, weight = model.config, model.embed_tokens.weight
        self.kv_heads = config.num_kv_heads

        def table(size, length):  # zeros: padding must be finite
            length = self.padded(length)
            piece = PIECE if model.device.type == "cpu" else length
            return weight.new_zeros(
                config.num_layers,
                2,
                -(-length // piece),
                size,
                config.num_kv_heads,
                piece,
                config.head_dim,
            )

        self.prompts, self.rows = table(num_slots, prompt_length), table(num_rows, num_tokens)

    @staticmethod
    def padded(length):
        """The number of tokens that `decode_attention` looks at where `length` are there: whole pieces, and widths that suit a GPU."""
        return length + -length % PIECE

    @staticmethod
    def pieces(table, layer, size, length):
        """The first `length` (padded) tokens of the first `size` rows or slots: keys and values, (pieces, size * kv_heads, tokens, head_dim)."""
        return table[layer, :, : -(-length // table.shape[5]), :size].flatten(2, 3)[
            :, :, :, :length
        ]

    def copy_row(self, target, source, length):
        pieces = slice(-(-length // self.rows.shape[5]))
        self.rows[:, :, pieces, target, :, :length] = self.rows[:, :, pieces, source, :, :length]

    def prefill_attention(self, spans):
        """`attend` for whole prompts one after another; spans: (start, end, slot) of each. Keys and values are kept in its slot."""

        def attend(
            layer, queries, keys, values
        ):  # (tokens, heads, head_dim), (tokens, kv_heads, head_dim) twice
            queries, keys, values = (
                x.transpose(0, 1)[None] for x in (queries, keys, values)
            )  # (1, heads, tokens, head_dim)
            outputs = []
            for start, end, slot in spans:
                for kept, new in zip(self.prompts[layer], (keys, values)):
                    for piece, part in enumerate(new[0, :, start:end].split(kept.shape[3], dim=1)):
                        kept[piece, slot, :, : part.shape[1]] = part  # (kv_heads, tokens, head_dim)
                part = (queries[:, :, start:end], keys[:, :, start:end], values[:, :, start:end])
                outputs.append(attention(*part, is_causal=True))
            return torch.cat(outputs, dim=2)[0].transpose(0, 1)  # (tokens, heads, head_dim)

        return attend

    def decode_attention(self, places, width, prompt_mask, own_lengths, longest):
        """`attend` for one token in each of n rows.

        places (n,): where a row's query goes in a table (slots, width = rows of the fullest slot), so that all rows of a prompt meet its keys in
        one product; prompt_mask (slots, padded prompt tokens), fp32; own_lengths (n,): tokens that a row has in the cache; longest: their
        maximum, which the host knows. The two softmaxes are merged by their log-sum-exp, as in FlashDecoding.
        """
        n, (num_slots, prompt_length), device = len(places), prompt_mask.shape, places.device
        size, own_width = self.rows.shape[5], self.padded(longest + 1)
        row_indices, piece, column = (
            torch.arange(n, device=device),
            own_lengths // size,
            own_lengths % size,
        )
        hidden = (
            torch.arange(own_width, device=device) > own_lengths[:, None]
        )  # the token at hand sees itself
        own_mask = torch.zeros(n, own_width, device=device).masked_fill_(hidden, -torch.inf)
        own_mask = own_mask.repeat_interleave(self.kv_heads, dim=0)[
            :, None
        ]  # (n * kv_heads, 1, tokens)
        prompt_mask = prompt_mask.repeat_interleave(self.kv_heads, dim=0)[:, None]

        def attend(
            layer, queries, keys, values
        ):  # (n, heads, head_dim), (n, kv_heads, head_dim) twice
            for kept, new in zip(self.rows[layer], (keys, values)):
                kept[piece, row_indices, :, column] = new
            queries = queries.view(
                n, self.kv_heads, -1, queries.shape[-1]
            )  # query heads that share a key head side by side
            own, own_lse = attention_with_lse(
                queries.flatten(0, 1), *self.pieces(self.rows, layer, n, own_width), own_mask
            )
            table = queries.new_zeros(num_slots * width, *queries.shape[1:])
            table[places] = queries
            table = (
                table.view(num_slots, width, *queries.shape[1:]).transpose(1, 2).flatten(2, 3)
            )  # (slots, kv_heads, width * group, d)
            prompts = self.pieces(self.prompts, layer, num_slots, prompt_length)
            shared, shared_lse = attention_with_lse(table.flatten(0, 1), *prompts, prompt_mask)

            def of_rows(found):  # (slots * kv_heads, width * group, x) -> (n * kv_heads, group, x)
                return (
                    found.view(num_slots, self.kv_heads, width, -1, found.shape[-1])
                    .transpose(1, 2)
                    .flatten(0, 1)[places]
                    .flatten(0, 1)
                )

            share = torch.sigmoid(
                of_rows(shared_lse) - own_lse
            )  # of the softmax's mass that lies on the prompt
            return (
                torch.lerp(own, of_rows(shared), share).to(keys.dtype).view(n, -1, keys.shape[-1])
            )  # (n, heads, head_dim)

        return attend
