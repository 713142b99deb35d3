"""Keys and values that a sampler keeps, and attention to them, on a CPU.

A prompt is stored once for all of its generations, in a slot. The tokens that a generation has
written are stored in its row. A new token attends to both parts, and the two results are merged:

    scores = [q . keys of the prompt | q . keys of the row's own tokens]
"""

import math

import torch

from kernels.packed_attention import packed_attention

BLOCK = 64  # tokens: attention computes whole blocks
MOST_BLOCKS = 2  # of the longest prompt: a block costs a call, so longer prompts get longer blocks
ONE_CALL_BELOW = 400_000  # queries.numel() * tokens, up to which one call is faster than twenty
attend_in_one_call = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def new_cache(model, *sizes):
    """Pages on a GPU. A CPU computes with long contiguous tables faster."""
    if model.device.type == "cpu":
        return KVCache(model, *sizes)
    from paged_cache import PagedCache

    return PagedCache(model, *sizes)


class KVCache:
    """Keys and values of the prompts in use, one slot each, and of the rows 0 to n - 1 that run."""

    rotates = False  # the model rotates queries and keys before it calls `attend`
    steps = 1  # that `decode` makes before the sampler looks for finished rows

    def __init__(self, model, num_slots, prompt_length, num_rows, num_tokens):
        """Reserves slots for prompts of prompt_length tokens and rows for num_tokens tokens."""
        self.num_rows = num_rows
        prompt_block = BLOCK * math.ceil(prompt_length / (MOST_BLOCKS * BLOCK))
        self.prompts = KeyValueTable(model, num_slots, prompt_length, prompt_block)
        # most completions end far below num_tokens: they should not pay for a long block
        self.rows = KeyValueTable(model, num_rows, num_tokens, BLOCK)
        self.prompt_lengths = torch.ones(num_slots, dtype=torch.long)  # not 0: softmax would be NaN

    def admits(self, prompt_length):
        """Whether there is memory for one more row: it is reserved for all slots and rows."""
        return True

    def move_row(self, last, row):
        """The last running row takes the place of one that is over."""
        self.rows.move_row(last, row)

    def prefill_attention(self, pack, slots, places):
        """Returns the `attend` function for a Pack of prompts, one for each of the slots.

        It stores their keys and values in the slots. places: where each prompt's tokens stand.
        """
        lengths = torch.tensor([len(of_prompt) for of_prompt in places])
        self.prompt_lengths[slots] = lengths
        tokens = torch.tensor([token for of_prompt in places for token in of_prompt])
        token_slots = torch.tensor(slots).repeat_interleave(lengths)
        index = self.prompts.index(token_slots, pack.positions[tokens])
        attend_to_pack = packed_attention(pack)

        def attend(layer, queries, keys, values):
            self.prompts.write(layer, index, keys[tokens], values[tokens])
            return attend_to_pack(layer, queries, keys, values)

        return attend

    def arrange(self, row_slots, empty_slots):
        """Tells the slot of each running row, and the slots whose prompts are no longer needed."""
        self.prompt_lengths[empty_slots] = 1
        if not row_slots:
            return
        # The queries to a prompt lie side by side, to meet its keys in one product: with rows in
        # slots 0, 1, 0 the ranks are 0, 0, 1.
        ranks = [row_slots[:row].count(slot) for row, slot in enumerate(row_slots)]
        self.row_slots, self.ranks = torch.tensor(row_slots), torch.tensor(ranks)  # (n,)
        self.num_slots, self.width = max(row_slots) + 1, max(ranks) + 1
        self.prompt_mask = self.prompts.mask_beyond(self.prompt_lengths[: self.num_slots])

    def decode(self, session):
        """Draws a token for every running row of a sampler.Session."""
        session.step(len(session.running))

    def decode_attention(self, positions, own_lengths):
        """Returns `attend` for a new token in each of n rows. They have stored own_lengths (n,)."""
        index = self.rows.index(torch.arange(len(own_lengths)), own_lengths)
        own_mask = self.rows.mask_beyond(own_lengths + 1)  # a new token sees itself

        def attend(layer, queries, keys, values):
            self.rows.write(layer, index, keys, values)
            # the query heads that share a key head: (n, kv_heads, group, head_dim)
            queries = queries.unflatten(1, (keys.shape[1], -1))
            own, own_lse = self.rows.attend(layer, queries, own_mask)

            # the queries to a prompt lie side by side: (slots, width, kv_heads, group, head_dim)
            table = queries.new_zeros(self.num_slots, self.width, *queries.shape[1:])
            table[self.row_slots, self.ranks] = queries
            table = table.transpose(1, 2).flatten(2, 3)  # (slots, kv_heads, width * group, ...)
            results = []
            for result in self.prompts.attend(layer, table, self.prompt_mask):
                result = result.unflatten(2, (self.width, -1)).transpose(1, 2)
                results.append(result[self.row_slots, self.ranks])  # (n, kv_heads, group, ...)
            shared, shared_lse = results

            # the share of the softmax that lies on the prompt, as in FlashDecoding
            prompt_share = torch.sigmoid(shared_lse - own_lse)
            merged = torch.lerp(own, shared, prompt_share).to(keys.dtype)
            return merged.flatten(1, 2)  # (n, heads, head_dim)

        return attend


class KeyValueTable:
    """Keys and values of many rows, in one tensor, and attention to them.

    table: (layers, keys or values, blocks, rows, kv_heads, block, head_dim). A block of all rows is
    contiguous: bf16 products of such matrices are up to three times as fast as those of a part of a
    longer table.
    """

    def __init__(self, model, num_rows, num_tokens, block):
        self.block = block  # tokens
        config, num_blocks = model.config, math.ceil(num_tokens / block)
        shape = (config.num_layers, 2, num_blocks, num_rows, config.num_kv_heads, block)
        # zeros: padding must be finite
        self.table = model.embed_tokens.weight.new_zeros(*shape, config.head_dim)

    def index(self, rows, positions):
        """Where `write` stores the tokens at rows (n,) and positions (n,)."""
        return positions // self.block, rows, slice(None), positions % self.block

    def write(self, layer, index, keys, values):
        """Stores keys and values, both (n, kv_heads, head_dim), at n places of the table."""
        self.table[layer, 0][index] = keys
        self.table[layer, 1][index] = values

    def move_row(self, source, target):
        self.table[:, :, :, target] = self.table[:, :, :, source]

    def mask_beyond(self, lengths):
        """(rows, tokens), to be added to scores: 0 for the first `lengths` tokens, else -inf."""
        num_blocks = math.ceil(int(lengths.max()) / self.block)
        is_hidden = torch.arange(self.block * num_blocks) >= lengths[:, None]
        return torch.zeros(is_hidden.shape).masked_fill_(is_hidden, -torch.inf)

    def attend(self, layer, queries, mask):
        """Attends to the first tokens of the first rows. But for rounding it equals

            scores = queries @ keys.transpose(2, 3) * head_dim**-0.5 + mask[:, None, None]
            return scores.softmax(-1) @ values, scores.logsumexp(-1, keepdim=True)

        queries: (rows, kv_heads, queries, head_dim). mask: (rows, tokens), additive, fp32. The
        log-sum-exp, (rows, kv_heads, queries, 1), lets two results be merged. Both are in fp32.
        """
        num_rows, num_tokens = mask.shape
        table = self.table[layer, :, : num_tokens // self.block, :num_rows]
        if queries.numel() * num_tokens < ONE_CALL_BELOW:
            keys, values = table.movedim(1, 3).flatten(3, 4)  # (rows, kv_heads, tokens, head_dim)
            mask = mask[:, None, None].expand(-1, 1, queries.shape[2], -1)
            output, lse = attend_in_one_call(queries, keys, values, attn_mask=mask)
            return output.float(), lse[..., None]
        keys, values = table.flatten(2, 3)  # (blocks, rows * kv_heads, block, head_dim)
        flat_queries = queries.flatten(0, 1)  # (rows * kv_heads, queries, head_dim)
        scores = torch.cat([torch.bmm(flat_queries, block.mT) for block in keys], dim=-1)
        scores = scores.float().view(*queries.shape[:3], num_tokens)
        torch.add(mask[:, None, None], scores, alpha=queries.shape[-1] ** -0.5, out=scores)
        highest = scores.amax(dim=-1, keepdim=True)
        weights = scores.sub_(highest).exp_()
        total = weights.sum(dim=-1, keepdim=True)
        weights = weights.to(queries.dtype).flatten(0, 1).split(self.block, dim=-1)
        output = sum(torch.bmm(*pair).float() for pair in zip(weights, values))
        return output.view(queries.shape) / total, highest + total.log()
