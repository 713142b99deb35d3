"""Keys and values that a sampler keeps, and attention to them.

A prompt is stored once for all of its generations, in a slot. The tokens that a generation has
written are stored in its row. A new token attends to both parts, and the two results are merged:

    scores = [q . keys of the prompt | q . keys of the row's own tokens]
"""

import torch

from kernels import cpu_kernels
from kernels.packed_attention import packed_attention

WIDTH = 64  # decoding looks at a multiple of this many tokens: a GPU prefers such shapes


class KVCache:
    """Keys and values of the prompts in use, one slot each, and of the rows that generate.

    Rows 0 to n - 1 run, the others are free.
    """

    def __init__(self, model, num_slots, prompt_length, num_rows, num_tokens):
        """Reserves slots for prompts of prompt_length tokens and rows for num_tokens tokens."""
        config, weight = model.config, model.embed_tokens.weight
        self.kv_heads = config.num_kv_heads
        self.prompts = KeyValueTable(config, num_slots, padded(prompt_length), like=weight)
        self.rows = KeyValueTable(config, num_rows, padded(num_tokens), like=weight)

    def prefill_attention(self, pack, slots):
        """Returns the `attend` function for a Pack of prompts, one for each of the slots.

        It stores their keys and values in the slots.
        """
        lengths = torch.tensor([length for length, _ in pack.pieces])
        token_slots = torch.tensor(slots).repeat_interleave(lengths).to(pack.tokens.device)
        index = self.prompts.index(token_slots, pack.positions)
        attend_to_pack = packed_attention(pack)

        def attend(layer, queries, keys, values):
            self.prompts.write(layer, index, keys, values)
            return attend_to_pack(layer, queries, keys, values)

        return attend

    def decode_attention(self, query_places, rows_per_slot, prompt_mask, own_lengths, longest):
        """Returns the `attend` function for one new token in each of the n running rows.

        All queries to one prompt are gathered in a table (slots, rows_per_slot), so that they meet
        its keys in one product. query_places (n,) is the place of each row in the flat table.

        prompt_mask: (slots, padded prompt tokens), additive, fp32. own_lengths: (n,), the tokens
        that each row has stored. longest: their maximum, as a number that the host knows.
        """
        device = query_places.device
        num_rows, num_slots = len(query_places), len(prompt_mask)
        index = self.rows.index(torch.arange(num_rows, device=device), own_lengths)
        own_tokens = torch.arange(padded(longest + 1), device=device)
        is_hidden = own_tokens > own_lengths[:, None]  # the new token sees itself
        own_mask = torch.zeros(is_hidden.shape, device=device).masked_fill_(is_hidden, -torch.inf)

        def attend(layer, queries, keys, values):
            head_dim = queries.shape[-1]
            self.rows.write(layer, index, keys, values)
            # the query heads that share a key head: (n, kv_heads, group, head_dim)
            queries = queries.view(num_rows, self.kv_heads, -1, head_dim)
            own, own_lse = self.rows.attend(layer, queries, own_mask)

            by_slot = queries.new_zeros(num_slots * rows_per_slot, *queries.shape[1:])
            by_slot[query_places] = queries
            by_slot = by_slot.view(num_slots, rows_per_slot, *queries.shape[1:])
            by_slot = by_slot.transpose(1, 2)  # (slots, kv_heads, rows_per_slot, group, head_dim)
            found = self.prompts.attend(layer, by_slot.flatten(2, 3), prompt_mask)

            shared, shared_lse = (by_place(x, rows_per_slot)[query_places] for x in found)
            # the share of the softmax that lies on the prompt, as in FlashDecoding
            prompt_share = torch.sigmoid(shared_lse - own_lse)  # (n, kv_heads, group, 1)
            merged = torch.lerp(own, shared, prompt_share).to(keys.dtype)
            return merged.view(num_rows, -1, head_dim)  # (n, heads, head_dim)

        return attend


def by_place(x, rows_per_slot):
    """(slots, kv_heads, rows_per_slot * group, d) -> (places, kv_heads, group, d)"""
    num_slots, kv_heads, _, d = x.shape
    x = x.view(num_slots, kv_heads, rows_per_slot, -1, d)
    return x.transpose(1, 2).flatten(0, 1)


def padded(length):
    """length, rounded up to a multiple of WIDTH."""
    return length + -length % WIDTH


class KeyValueTable:
    """Keys and values of many rows, in one tensor, and attention to them.

    table: (layers, keys or values, blocks, rows, kv_heads, tokens of a block, head_dim). There is
    one block with all tokens, except on a CPU (kernels/cpu.py).
    """

    def __init__(self, config, num_rows, num_tokens, like):
        fast = cpu_kernels(like.device)
        self.block = fast.KEY_BLOCK if fast else num_tokens
        shape = (num_rows, config.num_kv_heads, self.block, config.head_dim)
        # zeros: padding must be finite
        self.table = like.new_zeros(config.num_layers, 2, num_tokens // self.block, *shape)

    def index(self, rows, positions):
        """Where `write` stores the tokens at rows (n,) and positions (n,)."""
        return positions // self.block, rows, slice(None), positions % self.block

    def write(self, layer, index, keys, values):
        """Stores keys and values, both (n, kv_heads, head_dim), at n places of the table."""
        self.table[layer, 0][index] = keys
        self.table[layer, 1][index] = values

    def copy_row(self, target, source):
        self.table[:, :, :, target] = self.table[:, :, :, source]

    def attend(self, layer, queries, mask):
        """Attends to the first tokens of the first rows. But for rounding it equals

            scores = queries @ keys.transpose(2, 3) * head_dim**-0.5 + mask[:, None, None]
            return scores.softmax(-1) @ values, scores.logsumexp(-1, keepdim=True)

        queries: (rows, kv_heads, queries, head_dim). mask: (rows, tokens), additive, fp32. The
        log-sum-exp, (rows, kv_heads, queries, 1), lets two results be merged. Both are in fp32.
        """
        num_rows, num_tokens = mask.shape
        blocks = slice(-(-num_tokens // self.block))
        # both (blocks, rows * kv_heads, tokens of a block, head_dim)
        keys, values = self.table[layer, :, blocks, :num_rows, :, :num_tokens].flatten(2, 3)
        flat_queries = queries.flatten(0, 1)  # (rows * kv_heads, queries, head_dim)
        scores = [product(flat_queries, block.transpose(1, 2)) for block in keys]
        scores = torch.cat(scores, dim=-1)  # (rows * kv_heads, queries, tokens)
        scores = scores.view(*queries.shape[:3], num_tokens)
        torch.add(mask[:, None, None], scores, alpha=queries.shape[-1] ** -0.5, out=scores)
        highest = scores.amax(dim=-1, keepdim=True)
        weights = scores.sub_(highest).exp_()
        total = weights.sum(dim=-1, keepdim=True)
        weights = weights.to(queries.dtype).flatten(0, 1).split(self.block, dim=-1)
        output = sum(product(*pair) for pair in zip(weights, values))
        return output.view(queries.shape) / total, highest + total.log()


def product(a, b):
    """a @ b for batches of matrices, in fp32. A GPU sums and stores bf16 products so."""
    return torch.bmm(a, b, out_dtype=torch.float32) if a.is_cuda else torch.bmm(a, b).float()
