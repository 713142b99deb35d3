"""packed_attention, on a CPU and as on a GPU, against the mask that defines it."""

import pytest
import torch
from masked import masked_attention

from kernels.packed_attention import packed_attention
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
