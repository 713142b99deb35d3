"""Keys and values that a sampler keeps, and attention to them, on a CPU.

A prompt is stored once for all of its generations, in a slot. The tokens that a generation has
written are stored in its row. A new token attends to both parts, and the two results are merged:

    scores = [q . keys of the prompt | q . keys of the row's own tokens]
"""

import math

import torch

from kernels.packed_attention import packed_attention

BLOCK = 64  # tokens: attention computes whole blocks


def new_cache(model, *sizes):
    """Pages on a GPU. A CPU computes with long contiguous tables faster."""
    if model.device.type == "cpu":
        return KVCache(model, *sizes)
    from paged_cache import PagedCache

    return PagedCache(model, *sizes)


class KVCache:
    """Keys and values of the prompts in use, one slot each, and of the rows 0 to n - 1 that run."""

    is_paged = False

    def __init__(self, model, num_slots, prompt_length, num_rows, num_tokens):
        """Reserves slots for prompts of prompt_length tokens and rows for num_tokens tokens."""
        config, weight = model.config, model.embed_tokens.weight
        self.kv_heads, self.num_rows = config.num_kv_heads, num_rows
        self.prompts = KeyValueTable(config, num_slots, prompt_length, like=weight)
        self.rows = KeyValueTable(config, num_rows, num_tokens, like=weight)
        self.prompt_lengths = [1] * num_slots  # one visible token keeps an empty softmax finite
        self.longest = 0  # tokens that a running row sees of its own, the new one among them

    def copy_row(self, target, source):
        self.rows.copy_row(target, source)

    def prefill_attention(self, pack, slots):
        """Returns the `attend` function for a Pack of prompts, one for each of the slots.

        It stores their keys and values in the slots.
        """
        token_slots = []
        for slot, (length, _) in zip(slots, pack.pieces):
            self.prompt_lengths[slot] = length
            token_slots += [slot] * length
        index = self.prompts.index(torch.tensor(token_slots), pack.positions)
        attend_to_pack = packed_attention(pack)

        def attend(layer, queries, keys, values):
            self.prompts.write(layer, index, keys, values)
            return attend_to_pack(layer, queries, keys, values)

        return attend

    def arrange(self, row_slots, empty_slots):
        """Tells the slot of each running row, and the slots whose prompts are no longer needed."""
        for slot in empty_slots:
            self.prompt_lengths[slot] = 1
        if not row_slots:
            return
        # The queries to a prompt lie side by side, to meet its keys in one product: with rows in
        # slots 0, 1, 0 the ranks are 0, 0, 1.
        ranks = [row_slots[:row].count(slot) for row, slot in enumerate(row_slots)]
        self.num_slots, self.width = max(row_slots) + 1, max(ranks) + 1
        slots, ranks = torch.tensor(row_slots)[:, None], torch.tensor(ranks)[:, None]
        # of each row and key head in a table (slots, kv_heads, width)
        places = (slots * self.kv_heads + torch.arange(self.kv_heads)) * self.width + ranks
        self.places = places.flatten()  # (n * kv_heads,)
        lengths = torch.tensor(self.prompt_lengths[: self.num_slots])
        self.prompt_mask = mask_beyond(lengths, int(lengths.max()))

    def decode_attention(self, positions, own_lengths):
        """Returns `attend` for a new token in each of n rows. They have stored own_lengths (n,)."""
        num_rows, kv_heads = len(own_lengths), self.kv_heads
        index = self.rows.index(torch.arange(num_rows), own_lengths)
        own_mask = mask_beyond(own_lengths + 1, self.longest)  # a new token sees itself

        def attend(layer, queries, keys, values):
            self.rows.write(layer, index, keys, values)
            # the query heads that share a key head: (n, kv_heads, group, head_dim)
            queries = queries.view(num_rows, kv_heads, -1, queries.shape[-1])
            group, head_dim = queries.shape[2:]
            own, own_lse = self.rows.attend(layer, queries, own_mask)

            table = queries.new_zeros(self.num_slots, kv_heads, self.width, group, head_dim)
            table.flatten(0, 2).index_copy_(0, self.places, queries.flatten(0, 1))
            shared, shared_lse = self.prompts.attend(layer, table.flatten(2, 3), self.prompt_mask)
            # both (n * kv_heads, group, ...)
            shared = shared.view(-1, group, head_dim).index_select(0, self.places)
            shared_lse = shared_lse.view(-1, group, 1).index_select(0, self.places)

            # the share of the softmax that lies on the prompt, as in FlashDecoding
            prompt_share = torch.sigmoid(shared_lse - own_lse.flatten(0, 1))
            merged = torch.lerp(own.flatten(0, 1), shared, prompt_share).to(keys.dtype)
            return merged.view(num_rows, kv_heads * group, head_dim)

        return attend


def mask_beyond(lengths, longest):
    """(rows, tokens), to be added to scores: 0 for the first `lengths` tokens, else -inf."""
    is_hidden = torch.arange(BLOCK * math.ceil(longest / BLOCK)) >= lengths[:, None]
    return torch.zeros(is_hidden.shape).masked_fill_(is_hidden, -torch.inf)


class KeyValueTable:
    """Keys and values of many rows, in one tensor, and attention to them.

    table: (layers, keys or values, blocks, rows, kv_heads, BLOCK, head_dim). A block of all rows is
    contiguous: bf16 products of such matrices are up to three times as fast as those of a part of a
    longer table.
    """

    def __init__(self, config, num_rows, num_tokens, like):
        shape = (num_rows, config.num_kv_heads, BLOCK, config.head_dim)
        # zeros: padding must be finite
        self.table = like.new_zeros(config.num_layers, 2, math.ceil(num_tokens / BLOCK), *shape)

    def index(self, rows, positions):
        """Where `write` stores the tokens at rows (n,) and positions (n,)."""
        return positions // BLOCK, rows, slice(None), positions % BLOCK

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
        # both (blocks, rows * kv_heads, BLOCK, head_dim)
        keys, values = self.table[layer, :, : num_tokens // BLOCK, :num_rows].flatten(2, 3)
        flat_queries = queries.flatten(0, 1)  # (rows * kv_heads, queries, head_dim)
        scores = [torch.bmm(flat_queries, block.transpose(1, 2)).float() for block in keys]
        scores = torch.cat(scores, dim=-1)  # (rows * kv_heads, queries, tokens)
        scores = scores.view(*queries.shape[:3], num_tokens)
        torch.add(mask[:, None, None], scores, alpha=queries.shape[-1] ** -0.5, out=scores)
        highest = scores.amax(dim=-1, keepdim=True)
        weights = scores.sub_(highest).exp_()
        total = weights.sum(dim=-1, keepdim=True)
        weights = weights.to(queries.dtype).flatten(0, 1).split(BLOCK, dim=-1)
        output = sum(torch.bmm(*pair).float() for pair in zip(weights, values))
        return output.view(queries.shape) / total, highest + total.log()
