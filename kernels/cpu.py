"""Faster versions of some operations for bf16 tensors on a CPU; loaded only for them.

Each docstring names the plain code that the operation equals up to rounding.
"""

import contextlib
import functools
import threading

import torch

CAST_ROWS = 4096  # rows of a bf16 matrix that are turned into fp32 at once
precision_lock = threading.Lock()


def matmul_fp32(a, b, out, beta):
    """A product of matrices of bf16 numbers, summed in fp32. Equals

        torch.addmm(out, a.float(), b.float(), beta=beta, out=out)

    oneDNN is allowed to multiply the fp32 copies as bf16. That is exact for them, and 2.3x faster
    where the processor has AVX512-BF16. Only a block of the larger matrix is in fp32 at any time.
    """
    if len(out) < out.shape[1]:
        a, b, out = b.T, a.T, out.T  # the larger matrix is the first one now
    b = b.float()
    with products_as_bf16():
        for start in range(0, len(a), CAST_ROWS):
            block = out[start : start + CAST_ROWS]
            rows = a[start : start + CAST_ROWS].float()
            torch.addmm(block, rows, b, beta=beta, out=block)


@contextlib.contextmanager
def products_as_bf16():
    """Lets oneDNN multiply fp32 matrices as bf16 ones."""
    settings = torch.backends.mkldnn.matmul
    with precision_lock:  # the setting belongs to the process: threads must not mix it up
        before = settings.fp32_precision
        settings.fp32_precision = "bf16"
        try:
            yield
        finally:
            settings.fp32_precision = before


def fp32_linear(weight):
    """Returns a function of x, bf16 like the weight, that equals

        x.float() @ weight.float().T

    One row takes 0.45 of the time of `matmul_fp32`, 64 rows 0.85: the weight is turned into fp32
    and put in oneDNN's own order once.
    """
    weight = weight.float()
    if not torch.cpu._is_avx512_bf16_supported():
        return lambda x: torch.nn.functional.linear(x.float(), weight)
    with products_as_bf16():
        weight = torch.ops.mkldnn._reorder_linear_weight(weight)

    def linear(x):
        with products_as_bf16():
            return reordered_linear(weight, None, x.float())

    return linear


def with_reordered_weights(model):
    """A copy of a bf16 model that only samples (`reorder_weights`), or the model if it is one."""
    if model.fp32_head is None:
        model = model.with_weights(model.state_dict())
        reorder_weights(model)
    return model


def reorder_weights(model):
    """Puts the weights of a bf16 model's layers in oneDNN's own order, and its head in fp32.

    The products are the same. A decoding step of 8 rows takes 0.7 of the time. The model computes
    hidden states and log-probs as before, but it cannot be trained or saved any more.
    """
    model.fp32_head = fp32_linear(model.head_weight)
    if not torch.cpu._is_avx512_bf16_supported():
        return
    for layer in model.layers.modules():
        if isinstance(layer, torch.nn.Linear):
            weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight)
            layer.forward = functools.partial(reordered_linear, weight, layer.bias)
            layer.weight = None  # its memory is free


def reordered_linear(weight, bias, x):
    """Equals F.linear(x, weight, bias), for a weight in oneDNN's order."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
