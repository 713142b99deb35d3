"""Faster versions of some operations for tensors on a CPU.

Each docstring names the plain code that the operation equals up to rounding. That code runs on a
GPU, and on a CPU if this file is deleted (kernels/__init__.py).

Processors with AVX512-BF16 multiply bf16 faster than fp32.
"""

import functools
import threading
from contextlib import contextmanager

import torch

CAST_ROWS = 4096  # rows of a bf16 matrix that are turned into fp32 at once


# ---- matrix products ----


def matmul_fp32(a, b, out, accumulate=False):
    """A product of bf16 matrices, summed in fp32. Equals

        torch.addmm(out, a.float(), b.float(), beta=1 if accumulate else 0, out=out)

    oneDNN may multiply fp32 numbers as bf16, with fp32 sums. That is
    exact for numbers that were bf16 before, and 2.3x faster where the processor has AVX512-BF16.
    Only a block of the larger matrix is in fp32 at any time.
    """
    if len(out) < out.shape[1]:
        a, b, out = b.T, a.T, out.T  # the larger matrix is the first one now
    b = b.float()
    with bf16_products_allowed():
        for start in range(0, len(a), CAST_ROWS):
            rows = slice(start, start + CAST_ROWS)
            block = out[rows]
            torch.addmm(block, a[rows].float(), b, beta=1 if accumulate else 0, out=block)


precision_lock = threading.Lock()


@contextmanager
def bf16_products_allowed():
    """Inside, oneDNN may multiply fp32 matrices as bf16."""
    settings = torch.backends.mkldnn.matmul
    with precision_lock:  # the setting belongs to the process: threads must not mix it up
        before = settings.fp32_precision
        settings.fp32_precision = "bf16"
        try:
            yield
        finally:
            settings.fp32_precision = before


def with_reordered_weights(model):
    """The model, or a copy of it whose bf16 layers multiply by weights in oneDNN's own order.

    The products are the same. A decoding step of 8 rows takes 0.7 of the time.
    """
    is_bf16 = model.head_weight.dtype == torch.bfloat16
    if not is_bf16 or not torch.cpu._is_avx512_bf16_supported():
        return model
    model = model.with_weights(model.state_dict())
    for layer in model.layers.modules():
        if isinstance(layer, torch.nn.Linear):
            weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight)
            layer.forward = functools.partial(reordered_linear, weight, layer.bias)
    return model


def reordered_linear(weight, bias, x):
    """Equals F.linear(x, weight, bias), for a weight in oneDNN's order."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
