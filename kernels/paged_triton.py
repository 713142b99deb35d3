"""The kernels of a decoding step in Triton. paged_cache.py has the definition of each.

Attention: a program reads a part of the pages of one row, for one key head and all query heads
that share it. It keeps running values of the softmax. A few rows alone would leave most of a GPU
idle, so the pages of a row are divided among programs, and a second kernel merges their results
(FlashDecoding).
"""

import torch
import triton
import triton.language as tl

PROGRAMS = 512  # that run at once: about four on each of the 132 processors of an H100
MOST_PARTS = 32  # of a row


@triton.jit
def attend_kernel(
    queries,
    keys,
    values,
    table,
    lengths,
    outputs,
    logsumexps,
    table_width,
    scale,
    GROUP: tl.constexpr,  # query heads that share a key head
    PADDED: tl.constexpr,  # the same, at least 16: the smallest matrix that tl.dot multiplies
    PAGE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    row, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kv_heads, parts = tl.num_programs(1), tl.num_programs(2)
    length = tl.load(lengths + row)
    pages_of_part = tl.cdiv(tl.cdiv(length, PAGE), parts)
    first = part * pages_of_part
    last = tl.minimum(first + pages_of_part, tl.cdiv(length, PAGE))
    group, tokens, dims = tl.arange(0, PADDED), tl.arange(0, PAGE), tl.arange(0, HEAD_DIM)
    heads = (row * kv_heads + kv_head) * GROUP + group
    is_head = group < GROUP
    places = heads[:, None] * HEAD_DIM + dims
    q = tl.load(queries + places, mask=is_head[:, None], other=0.0)
    # over the tokens read so far: most = max z, mass = sum exp(z - most), and their weighted values
    most = tl.full([PADDED], -float("inf"), tl.float32)
    mass = tl.zeros([PADDED], tl.float32)
    weighted = tl.zeros([PADDED, HEAD_DIM], tl.float32)
    for index in range(first, last):
        page = tl.load(table + row * table_width + index).to(tl.int64)  # a store may exceed 2^31
        is_seen = index * PAGE + tokens < length
        offsets = ((page * PAGE + tokens) * kv_heads + kv_head)[:, None] * HEAD_DIM + dims
        k = tl.load(keys + offsets, mask=is_seen[:, None], other=0.0)
        z = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        z = tl.where(is_seen, z, -float("inf"))
        new_most = tl.maximum(most, tl.max(z, 1))  # finite: every page has a visible token
        weights = tl.exp(z - new_most[:, None])
        fall = tl.exp(most - new_most)
        v = tl.load(values + offsets, mask=is_seen[:, None], other=0.0)
        mass = mass * fall + tl.sum(weights, 1)
        weighted = weighted * fall[:, None]
        weighted += tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        most = new_most
    # a part without pages has mass 0 and the log-sum-exp of nothing, -inf
    weighted = weighted / tl.where(mass == 0, 1.0, mass)[:, None]
    results = heads * parts + part
    tl.store(outputs + results[:, None] * HEAD_DIM + dims, weighted, mask=is_head[:, None])
    tl.store(logsumexps + results, most + tl.log(mass), mask=is_head)


@triton.jit
def merge_kernel(outputs, logsumexps, merged, PARTS: tl.constexpr, HEAD_DIM: tl.constexpr):
    """One program a query head: the average of its parts, weighted by their softmax mass."""
    head = tl.program_id(0)
    parts, dims = tl.arange(0, PARTS), tl.arange(0, HEAD_DIM)
    lse = tl.load(logsumexps + head * PARTS + parts)
    weights = tl.exp(lse - tl.max(lse, 0))
    part_outputs = tl.load(outputs + (head * PARTS + parts)[:, None] * HEAD_DIM + dims)
    output = tl.sum(part_outputs * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(merged + head * HEAD_DIM + dims, output)


def paged_attention(queries, pages, table, lengths):
    num_rows, num_heads, head_dim = queries.shape
    kv_heads = pages.shape[3]
    group = num_heads // kv_heads
    parts = min(MOST_PARTS, triton.next_power_of_2(triton.cdiv(PROGRAMS, num_rows * kv_heads)))
    dtype = queries.dtype if parts == 1 else torch.float32
    outputs = queries.new_empty(num_rows, num_heads, parts, head_dim, dtype=dtype)
    logsumexps = queries.new_empty(num_rows, num_heads, parts, dtype=torch.float32)
    sizes = dict(GROUP=group, PADDED=max(16, triton.next_power_of_2(group)))
    sizes |= dict(PAGE=pages.shape[2], HEAD_DIM=head_dim)
    # four warps would spill a tile of fp32 numbers
    sizes |= dict(num_warps=4 if queries.dtype == torch.bfloat16 else 8, num_stages=2)
    with torch.cuda.device_of(queries):
        attend_kernel[num_rows, kv_heads, parts](
            queries,
            *pages,
            table,
            lengths,
            outputs,
            logsumexps,
            table.shape[1],
            head_dim**-0.5,
            **sizes,
        )
        if parts == 1:
            return outputs[:, :, 0]
        merged = torch.empty_like(queries)
        merge_kernel[(num_rows * num_heads,)](outputs, logsumexps, merged, parts, head_dim)
    return merged


@triton.jit
def rotate_and_store_kernel(
    queries,
    keys,
    values,
    cos,
    sin,
    stored_keys,
    stored_values,
    places,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,  # of head_dim: the two numbers of a pair are so far apart
):
    """One program a row and head: query heads first, key heads after them."""
    row, head, kv_heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1) - HEADS
    dims = tl.arange(0, HALF)
    # of the second half: the sine of the first is the same with a minus
    c = tl.load(cos + row * 2 * HALF + HALF + dims).to(tl.float32)
    s = tl.load(sin + row * 2 * HALF + HALF + dims).to(tl.float32)
    if head < HEADS:
        source = queries + (row * HEADS + head) * 2 * HALF + dims
        target = source
    else:
        place = tl.load(places + row)  # int64: a store may exceed 2^31 numbers
        offset = (row * kv_heads + head - HEADS) * 2 * HALF + dims
        stored = (place * kv_heads + head - HEADS) * 2 * HALF + dims
        source = keys + offset
        target = stored_keys + stored
        tl.store(stored_values + stored, tl.load(values + offset))
        tl.store(stored_values + stored + HALF, tl.load(values + offset + HALF))
    first = tl.load(source).to(tl.float32)
    second = tl.load(source + HALF).to(tl.float32)
    tl.store(target, first * c - second * s)
    tl.store(target + HALF, second * c + first * s)


def rotate_and_store(queries, keys, values, cos, sin, pages, places):
    """Overwrites the queries with what it returns."""
    num_rows, num_heads, head_dim = queries.shape
    with torch.cuda.device_of(queries):
        rotate_and_store_kernel[num_rows, num_heads + keys.shape[1]](
            queries, keys, values, cos, sin, *pages, places, num_heads, head_dim // 2, num_warps=1
        )
    return queries
