"""Keys and values in pages, for sampling on a GPU: what kv_cache.KVCache is on a CPU.

A page holds PAGE tokens. A table lists the pages of each row in order: first those of its prompt,
which all rows of the prompt share, then its own, which are taken as the row grows. A prompt that
ends inside a page leaves a copy of that page to each of its rows.

`paged_attention` and `rotate_and_store` define what kernels/paged_triton.py computes. They
run where Triton cannot, and in the tests.
"""

import functools

import torch

from cli import note
from kernels.gpu import triton_works
from kernels.packed_attention import attention, packed_attention
from model import rotate

PAGE = 64  # tokens
note_once = functools.cache(note)


def paged_attention(queries, pages, table, lengths):
    """Attends with one query a row to the first tokens in the pages of the row.

    queries: (rows, heads, head_dim). pages: (2, pages, PAGE, kv_heads, head_dim), keys and values.
    table: (rows, pages of the longest row), int32. lengths: (rows,), the tokens that a row sees.
    """
    # both (rows, kv_heads, tokens, head_dim)
    keys, values = pages[:, table].flatten(2, 3).transpose(2, 3)
    is_visible = torch.arange(keys.shape[2], device=keys.device) < lengths[:, None]
    is_visible = is_visible[:, None, None]  # (rows, 1, 1, tokens)
    return attention(queries[:, :, None], keys, values, attn_mask=is_visible)[:, :, 0]


def rotate_and_store(queries, keys, values, cos, sin, pages, places):
    """Rotates queries and keys, stores keys and values at places (rows,), returns the queries.

    A place is a token's number in the flat pages. cos and sin: as model.rotate takes them.
    """
    pages.flatten(1, 2)[:, places] = torch.stack((rotate(keys, cos, sin), values))
    return rotate(queries, cos, sin)


class PagedCache:
    """The pages of prompts and rows, and CUDA graphs that run a decoding step on them.

    Rows 0 to n - 1 run. Others compute along up to the next power of two, the size of a graph. All
    that they store falls on page 0, which belongs to nobody.
    """

    rotates, steps = True, 8  # see kv_cache.KVCache

    def __init__(self, model, num_slots, prompt_length, num_rows, num_tokens):
        """For prompts of at most prompt_length tokens, each row with at most num_tokens of its own.

        Half of the free memory is reserved, or less if less is enough for all rows.
        """
        config, weight = model.config, model.embed_tokens.weight
        self.model, self.device = model, weight.device
        self.num_rows = bucket(num_rows)
        shape = (PAGE, config.num_kv_heads, config.head_dim)
        page_bytes = weight.new_empty(config.num_layers, 2, *shape, device="meta").nbytes
        of_prompt = pages_for(prompt_length)
        of_row = pages_for(prompt_length + num_tokens + self.steps)
        most = num_slots * of_prompt + num_rows * max(2, of_row) + 1
        least = 2 * of_prompt + of_row + 1  # one row, its prompt, and the prompt that comes next
        num_pages = max(least, min(most, half_of_free_memory(self.device) // page_bytes))
        # zeros: the definition multiplies what it hides by 0, so it must be finite
        self.pages = weight.new_zeros(config.num_layers, 2, num_pages, *shape)
        self.free = list(range(num_pages - 1, 0, -1))
        self.promised, self.promised_rows = 0, 0  # pages and rows that `admits` has granted
        self.most_rows = num_rows  # fewer once the pages were not enough
        self.prompt_lengths, self.prompt_pages = [0] * num_slots, [[] for _ in range(num_slots)]
        self.row_slots, self.row_pages = [], []  # of each running row: its slot; all of its pages
        self.table = torch.zeros(self.num_rows, of_row, dtype=torch.int32, device=self.device)
        self.graphs, self.memory_pool = {}, None
        self.kernels = None  # the definitions above
        is_power = config.head_dim.bit_count() == 1  # of two: Triton knows no other sizes
        if self.device.type == "cuda" and is_power and triton_works(self.device):
            from kernels import paged_triton

            self.kernels = paged_triton
        name = "Triton" if self.kernels else "PyTorch"
        note_once(f"sampling: pages of {PAGE} tokens, attention in {name}")

    # ---- pages ----

    def admits(self, prompt_length):
        """Whether there are pages for one more row, and for a new prompt of prompt_length tokens.

        The length is 0 for a row of a prompt that is stored.
        """
        # the row itself may need a copy of the prompt's last page, and a page for its first tokens
        needed = pages_for(prompt_length) + 2
        num_rows = len(self.row_pages) + self.promised_rows
        if num_rows and (num_rows >= self.most_rows or needed > len(self.free) - self.promised):
            return False
        self.promised, self.promised_rows = self.promised + needed, self.promised_rows + 1
        return True

    def take(self, count):
        return [self.free.pop() for _ in range(count)]

    def shared_pages(self, slot):
        """Of the prompt's pages those that are full: its rows read them and never write."""
        return self.prompt_pages[slot][: self.prompt_lengths[slot] // PAGE]

    def arrange(self, row_slots, empty_slots):
        """Tells the slot of each running row, and the slots whose prompts are no longer needed.

        Rows beyond those known before are new.
        """
        self.promised, self.promised_rows = 0, 0
        copies = []  # (page, copy)
        for slot in row_slots[len(self.row_pages) :]:
            pages = self.shared_pages(slot)
            partial = self.prompt_pages[slot][len(pages) :]
            own = self.take(len(partial))
            copies += zip(partial, own)
            self.row_slots.append(slot)
            self.row_pages.append(pages + own)
        for slot in empty_slots:
            self.free += self.prompt_pages[slot]
            self.prompt_pages[slot], self.prompt_lengths[slot] = [], 0
        if copies:
            sources, targets = torch.tensor(copies, device=self.device).T
            self.pages[:, :, targets] = self.pages[:, :, sources]

    def move_row(self, last, row):
        """Frees the pages of a row that is over. The last row takes its place."""
        num_shared = len(self.shared_pages(self.row_slots[row]))
        self.free += self.row_pages[row][num_shared:]
        for of_rows in (self.row_slots, self.row_pages):
            of_rows[row] = of_rows[last]
            of_rows.pop()

    def reserve(self, counts):
        """Takes pages for the next steps of every row. counts: the tokens that it has drawn.

        Returns False if there are not enough: a row must go.
        """
        for slot, pages, count in zip(self.row_slots, self.row_pages, counts):
            # the newest token is not stored yet
            missing = pages_for(self.prompt_lengths[slot] + count - 1 + self.steps) - len(pages)
            if missing > len(self.free):
                self.most_rows = len(self.row_pages) - 1
                return False
            pages += self.take(max(0, missing))
        table = torch.zeros(self.table.shape, dtype=torch.int32)
        for row, pages in enumerate(self.row_pages):
            table[row, : len(pages)] = torch.tensor(pages)
        self.table.copy_(table)
        return True

    # ---- attention ----

    def prefill_attention(self, pack, slots, places):
        """Returns the `attend` function for a Pack of prompts. It stores them in the slots.

        places: where each prompt's tokens stand in the pack.
        """
        targets = []  # of each token
        for slot, of_prompt in zip(slots, places):
            length = len(of_prompt)
            pages = self.take(pages_for(length))
            self.prompt_lengths[slot], self.prompt_pages[slot] = length, pages
            targets += [page * PAGE + token for page in pages for token in range(PAGE)][:length]
        targets = torch.tensor(targets, device=self.device)
        sources = torch.tensor([i for of_prompt in places for i in of_prompt], device=self.device)
        attend_to_pack = packed_attention(pack)

        def attend(layer, queries, keys, values):
            stored = torch.stack((keys, values))[:, sources]
            self.pages[layer].flatten(1, 2)[:, targets] = stored
            return attend_to_pack(layer, queries, keys, values)

        return attend

    def decode_attention(self, positions, own_lengths):
        """Returns the `attend` function for one new token, at positions (n,), in the first rows."""
        table = self.table[: len(positions)]
        page = table.gather(1, (positions // PAGE)[:, None])[:, 0]
        places = page.long() * PAGE + positions % PAGE
        cos, sin = self.model.rope_tables(positions, self.pages.dtype)
        lengths = positions + 1
        store = self.kernels.rotate_and_store if self.kernels else rotate_and_store
        attend_to_pages = self.kernels.paged_attention if self.kernels else paged_attention

        def attend(layer, queries, keys, values):
            pages = self.pages[layer]
            queries = store(queries, keys, values, cos, sin, pages, places)
            return attend_to_pages(queries, pages, table, lengths)

        return attend

    # ---- decode ----

    def decode(self, session):
        """Draws tokens for every running row of a sampler.Session, until the host looks again."""
        while not self.reserve([row.num_drawn for row in session.running]):
            postpone_row(session)
        num_rows = len(session.running)
        session.rows.prompt_length[num_rows:] = 0  # the free rows that compute along
        session.rows.num_generated[num_rows:] = 1
        for _ in range(self.steps):
            self.run(session.step, bucket(num_rows))

    def run(self, step, num_rows):
        """Calls step(num_rows). From the second time on a GPU replays what the first launched."""
        if num_rows in self.graphs:
            self.graphs[num_rows].replay()
            return
        step(num_rows)  # Triton compiles and cuBLAS reserves memory, which must not be recorded
        if self.device.type == "cuda":
            self.memory_pool = self.memory_pool or torch.cuda.graph_pool_handle()
            graph = self.graphs[num_rows] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, self.memory_pool, capture_error_mode="thread_local"):
                step(num_rows)  # its launches are recorded, not carried out


def postpone_row(session):
    """Takes out the row that has drawn least, because pages are missing. It starts again later.

    Its random numbers will be the same, so its tokens will be too, up to rounding.
    """
    row = min(session.running, key=lambda row: row.num_drawn)
    session.waiting.appendleft(row)
    session.remove_rows([session.running.index(row)])


def bucket(num_rows):
    """The next power of two."""
    return 1 << (num_rows - 1).bit_length()


def pages_for(num_tokens):
    return -(-num_tokens // PAGE)


def half_of_free_memory(device):
    """In bytes."""
    if device.type == "cpu":
        return 2**31
    free, _ = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)  # PyTorch holds it, used or not
    return (free + reserved - torch.cuda.memory_allocated(device)) // 2
