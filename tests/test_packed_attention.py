"""packed_attention, on a CPU and as on a GPU, against the mask that defines it."""

import itertools

import pytest
import torch
from masked import masked_attention

from kernels import gpu
from kernels.packed_attention import attention, heads_first, packed_attention
from model import pack_groups

torch.set_num_threads(1)


def random_groups(seed):
    """Groups of prompts and completions of many lengths, also of one token."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 60, (4, 8), generator=generator).tolist()
    lengths[0][3] = 1  # its completion adds no token to the pack
    return [([1] * group[0], [[1] * length for length in group[1:]]) for group in lengths]


def outputs_and_gradients(attend, pack, kv_heads, dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [(len(pack.tokens), heads, 16) for heads in (6, kv_heads, kv_heads)]
    inputs = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    for tensor in inputs:
        tensor.requires_grad_()
    output = attend(0, *inputs)  # (tokens, heads, head_dim)
    weights = torch.randn(output.shape, generator=generator).to(dtype)
    (output * weights).sum().backward()
    return [output.detach(), *[tensor.grad for tensor in inputs]]


@pytest.mark.parametrize("kv_heads", [2, 6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_forward_and_backward_equal_the_mask(kv_heads, dtype):
    for seed in range(3):
        pack = pack_groups(random_groups(seed))
        expected = outputs_and_gradients(masked_attention(pack), pack, kv_heads, dtype)
        found = outputs_and_gradients(packed_attention(pack), pack, kv_heads, dtype)
        for expected_tensor, found_tensor in zip(expected, found):
            tolerance = 1e-12 if dtype == torch.float64 else 2e-5
            torch.testing.assert_close(found_tensor, expected_tensor, rtol=0, atol=tolerance)


def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size, enable_gqa):
    """torch.nn.attention.varlen.varlen_attn, of which a CPU has no kernel, sequence by sequence."""
    assert window_size == (-1, 0) and enable_gqa == (query.shape[1] != key.shape[1])
    assert {x.dtype for x in (cu_seq_q, cu_seq_k)} == {torch.int32}
    assert max_q == cu_seq_q.diff().max() and max_k == cu_seq_k.diff().max()
    outputs = []
    for own, seen in zip(itertools.pairwise(cu_seq_q), itertools.pairwise(cu_seq_k)):
        queries = query[slice(*own)]
        keys, values = (x[slice(*seen)] for x in (key, value))
        mask = torch.ones(len(queries), len(keys), dtype=torch.bool)
        mask = mask.tril(len(keys) - len(queries))  # aligned at the last query and the last key
        output = attention(*map(heads_first, (queries, keys, values)), attn_mask=mask)
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)


def varlen_attn_of_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size):
    assert query.shape[1] == key.shape[1]
    sizes = cu_seq_q, cu_seq_k, max_q, max_k
    return varlen_attn(query, key, value, *sizes, window_size=window_size, enable_gqa=False)


@pytest.mark.parametrize("call", [varlen_attn, varlen_attn_of_2_11])
@pytest.mark.parametrize("kv_heads", [2, 6])
def test_all_pieces_in_one_call(kv_heads, call, monkeypatch):
    """What a GPU runs in bf16, with the call's definition in its place."""
    monkeypatch.setattr(gpu, "varlen_attn", call)
    for seed in range(3):
        pack = pack_groups(random_groups(seed))
        one_call = gpu.varlen_attention(pack, None)
        expected = outputs_and_gradients(masked_attention(pack), pack, kv_heads, torch.float64)
        found = outputs_and_gradients(one_call, pack, kv_heads, torch.float64)
        for expected_tensor, found_tensor in zip(expected, found):
            torch.testing.assert_close(found_tensor, expected_tensor, rtol=0, atol=1e-12)


def test_where_one_call_cannot_do_it_pieces_are_computed(monkeypatch):
    pack, queries = pack_groups(random_groups(0)), torch.zeros(3, 2, 8)
    one_call = gpu.varlen_attention(pack, lambda *tensors: "by pieces")
    assert one_call(0, queries, queries, queries) == "by pieces"  # fp32
    monkeypatch.setattr(gpu, "varlen_attn", lambda query, is_causal: None)  # PyTorch 2.10
    assert gpu.varlen_attention(pack, "by pieces") == "by pieces"


def test_the_mask_is_the_formula_of_its_docstring():
    # group 0: prompt 0 1, completions 2 3 and 4. group 1: prompt 5, completion 6 7
    pack = pack_groups([([1, 1], [[1] * 3, [1] * 2]), ([1], [[1] * 3])])
    group = [0, 0, 0, 0, 0, 1, 1, 1]
    completion = [None, None, 1, 1, 2, None, 3, 3]  # None: the prompt
    identity = torch.eye(8)[:, None]  # (tokens, 1, head_dim): the output shows who is seen
    seen = masked_attention(pack)(0, torch.zeros(8, 1, 8), torch.zeros(8, 1, 8), identity)
    for i in range(8):
        for j in range(8):
            in_sight = completion[j] is None or completion[i] == completion[j]
            allowed = group[i] == group[j] and j <= i and in_sight
            assert (seen[i, 0, j] > 0) == allowed, (i, j)
