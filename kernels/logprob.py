"""Log-probabilities and entropies of tokens straight from hidden states: never more than a chunk of the logits exists.

The output layer of a language model is by far its largest activation: 16,384 tokens x 151,936 words are 10 GB of fp32 logits, and
a plain log-softmax with its backward pass holds three such arrays. Here the tokens are walked through in chunks. A chunk's logits
come from a plain matrix product (the fastest that cuBLAS or oneDNN offer), a *row operation* reduces every row of logits to three
numbers, and the next chunk overwrites the buffer. The backward pass computes the logits once more instead of having kept them.

The row operation is written twice, side by side: in PyTorch (the definition, and the path of CPUs) and in Triton (one pass over a
row instead of six).
"""

from __future__ import (
    annotations,
)  # tl.constexpr in a signature is not looked up before Triton is imported

import functools
import importlib.util
import math
import os
import threading
from contextlib import contextmanager

import torch

# One buffer of this many bytes holds the logits of a chunk. A larger chunk reads and writes the weight's gradient less often; on two
# CPU cores nothing is gained beyond 64 MiB (measured for 49,152 words and hidden size 576).
CHUNK_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}
# The PyTorch row operation goes over a row six times. On a CPU it takes only as many rows at once as stay in the cache: 4.5x faster.
ROW_TILE_BYTES = {"cpu": 3 << 20, "cuda": 256 << 20}
CAST_ROWS = 4096  # rows of a bf16 operand that a CPU turns into fp32 at once
TRITON_BLOCK = 4096  # columns that a Triton program reads at once


def token_logprobs(hidden, weight, targets, temperature=1.0, backend="auto"):
    """Equals the following lines in fp32, without ever holding the logits of all tokens:

        logits = hidden.float() @ weight.float().T / temperature                      # (tokens, vocab)
        logprobs = logits.log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        return logprobs.gather(1, targets[:, None])[:, 0], entropy

    hidden (tokens, hidden_size) and weight (vocab, hidden_size) share one dtype: bf16, fp32, or fp64; targets (tokens,) are int64.
    Both results have shape (tokens,), unit nat, dtype fp32 (fp64 for fp64 inputs), and are differentiable once in hidden and weight.
    The entropy is that of the tempered distribution. Zero tokens are fine.

    backend: "torch", "triton" (CUDA tensors, or any with TRITON_INTERPRET=1; no fp64), or "auto": triton on CUDA where it is installed.
    Raises ValueError for shapes and dtypes that do not fit, a temperature that is not above 0, and targets outside the vocabulary. The
    last is checked on CPU tensors alone, since it would make the host wait for a GPU; there Triton returns NaN for such a token.
    """
    if (
        hidden.dim() != 2
        or weight.dim() != 2
        or hidden.shape[1] != weight.shape[1]
        or targets.shape != hidden.shape[:1]
    ):
        shapes = f"{tuple(hidden.shape)}, {tuple(weight.shape)}, {tuple(targets.shape)}"
        raise ValueError(
            f"hidden, weight, targets must be (tokens, hidden_size), (vocab, hidden_size), (tokens,), got {shapes}"
        )
    if hidden.dtype != weight.dtype or hidden.dtype not in (
        torch.bfloat16,
        torch.float32,
        torch.float64,
    ):
        # fp16 is left out: gradients of logits are often below its smallest number
        raise ValueError(
            f"hidden and weight must both be bfloat16, float32 or float64, got {hidden.dtype} and {weight.dtype}"
        )
    if targets.dtype != torch.int64:
        raise ValueError(f"targets must be int64, got {targets.dtype}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if (
        not targets.is_cuda
        and targets.numel()
        and not 0 <= targets.min() <= targets.max() < len(weight)
    ):
        raise ValueError(
            f"targets must be in [0, {len(weight)}), got {targets.min()} to {targets.max()}"
        )
    if backend == "auto":
        backend = (
            "triton"
            if hidden.is_cuda
            and hidden.dtype != torch.float64
            and importlib.util.find_spec("triton")
            else "torch"
        )
    if backend not in ROW_OPERATIONS:
        raise ValueError(f"backend must be auto, torch or triton, got {backend!r}")
    if backend == "triton" and hidden.dtype == torch.float64:
        raise ValueError("backend 'triton' computes in float32: use backend='torch' for float64")
    if backend == "triton" and not hidden.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            "backend 'triton' needs CUDA tensors (or TRITON_INTERPRET=1): use backend='torch'"
        )
    return TokenLogprobs.apply(hidden, weight, targets, float(temperature), backend)


class TokenLogprobs(torch.autograd.Function):
    """Forward: logits, then rows. Backward: logits again, then d loss / d logits per row, then two matrix products.

    With z = logits / temperature, s = z - max z, S = sum exp s, p = exp(s) / S and log p = s - log S:
        L = log p[target]                       dL / dz_v = [v = target] - p_v
        H = -sum p log p                        dH / dz_v = -p_v (log p_v + H)                  dz / dlogits = 1 / temperature
    so with the gradients g_L, g_H that arrive for a token
        dloss / dlogits_v = (g_L [v = target] - p_v (g_L + g_H (H + log p_v))) / temperature.
    max z, S and H are kept per token. Keeping logsumexp(z) = max z + log S in their place would round log S to the step of max z,
    and every p of the row would carry that error.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, backend):
        rows_forward, _ = ROW_OPERATIONS[backend]
        logprobs, highest, total, entropy = (
            hidden.new_empty(len(hidden), dtype=result_dtype(hidden)) for _ in range(4)
        )
        for chunk, logits in logit_chunks(hidden, weight):
            rows_forward(
                logits,
                targets[chunk],
                temperature,
                logprobs[chunk],
                highest[chunk],
                total[chunk],
                entropy[chunk],
            )
        ctx.save_for_backward(hidden, weight, targets, highest, total, entropy)
        ctx.temperature, ctx.backend = temperature, backend
        ctx.set_materialize_grads(False)  # None tells the backward pass that a result was not used
        return logprobs, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_logprobs, grad_entropy):
        hidden, weight, targets, highest, total, entropy = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        _, rows_backward = ROW_OPERATIONS[ctx.backend]
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(entropy)
        d_hidden = torch.empty_like(hidden) if needs_hidden else None
        d_weight = (
            torch.zeros_like(weight, dtype=result_dtype(weight)) if needs_weight else None
        )  # a bf16 sum loses small chunks
        # dlogits overwrite the logits. For bf16 inputs they are rounded to bf16 in a buffer of their own, since the products below are
        # several times faster so; the relative error of 2^-9 in each is no larger than that of the bf16 gradient which they make.
        low_precision = hidden.dtype != result_dtype(hidden)
        low_buffer = (
            hidden.new_empty(chunk_size(hidden, weight), len(weight)) if low_precision else None
        )
        for chunk, logits in logit_chunks(hidden, weight):
            dlogits = low_buffer[: len(logits)] if low_precision else logits
            kept = highest[chunk], total[chunk], entropy[chunk]
            grads = grad_logprobs[chunk], None if grad_entropy is None else grad_entropy[chunk]
            rows_backward(logits, targets[chunk], ctx.temperature, *kept, *grads, dlogits)
            if needs_hidden:
                torch.mm(dlogits, weight, out=d_hidden[chunk])
            if needs_weight:
                matmul_fp32(dlogits.T, hidden[chunk], out=d_weight, accumulate=True)
        return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), None, None, None


def result_dtype(inputs):
    return torch.float64 if inputs.dtype == torch.float64 else torch.float32


def chunk_size(hidden, weight):
    """Tokens in a chunk: the tokens cut evenly into as few chunks as fit the buffer."""
    budget = CHUNK_BYTES["cuda" if hidden.is_cuda else "cpu"]
    most = max(1, budget // (len(weight) * result_dtype(hidden).itemsize))
    num_chunks = max(1, math.ceil(len(hidden) / most))
    return max(1, math.ceil(len(hidden) / num_chunks))


def logit_chunks(hidden, weight):
    """Yields (slice of the tokens, their logits (tokens of the chunk, vocab)); each chunk overwrites the one before it."""
    size = chunk_size(hidden, weight)
    buffer = hidden.new_empty(size, len(weight), dtype=result_dtype(hidden))
    for start in range(0, len(hidden), size):
        chunk = slice(start, min(start + size, len(hidden)))
        yield chunk, matmul_fp32(hidden[chunk], weight.T, out=buffer[: chunk.stop - start])


def matmul_fp32(a, b, out, accumulate=False):
    """out = a @ b, or out += a @ b, summed *and stored* in fp32 for bf16 operands: bf16 logits near 16 would be 0.06 apart.

    CUDA has such a product. CPUs have none, but oneDNN multiplies fp32 operands as bf16 where it is allowed to, with fp32 sums. For
    operands that held bf16 values before, that is exact, and 2.3x faster than an fp32 product where the processor has AVX512-BF16
    (elsewhere it is an fp32 product). Only a block of the large operand is in fp32 at any time.
    """
    beta = 1 if accumulate else 0  # with 0 the former content of out is ignored, NaN too
    if a.dtype == out.dtype:
        return torch.addmm(out, a, b, beta=beta, out=out)
    if a.is_cuda:
        if accumulate:
            return torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
        return torch.mm(a, b, out_dtype=out.dtype, out=out)
    large, small, result = (
        (a, b, out) if len(out) >= out.shape[1] else (b.T, a.T, out.T)
    )  # the vocabulary is the long side
    small = small.float()
    with bf16_products_allowed():
        for start in range(0, len(large), CAST_ROWS):
            block = result[start : start + CAST_ROWS]
            torch.addmm(
                block, large[start : start + CAST_ROWS].float(), small, beta=beta, out=block
            )
    return out


precision_lock = threading.Lock()


@contextmanager
def bf16_products_allowed():
    settings = torch.backends.mkldnn.matmul
    with (
        precision_lock
    ):  # the setting belongs to the whole process: two threads must not restore each other's value
        before = settings.fp32_precision
        settings.fp32_precision = "bf16"
        try:
            yield
        finally:
            settings.fp32_precision = before


# ---- The row operation in PyTorch. logits (rows, vocab) are overwritten; all other arguments are (rows,) ----


def row_tiles(logits):
    budget = ROW_TILE_BYTES["cuda" if logits.is_cuda else "cpu"]
    size = max(1, budget // (logits.shape[1] * logits.element_size()))
    return [slice(start, start + size) for start in range(0, len(logits), size)]


def torch_rows_forward(logits, targets, temperature, logprobs, highest, total, entropy):
    """Writes the last four. H = log S - sum(s exp s) / S is a sum of two numbers >= 0, so nothing cancels; L <= 0 under any rounding."""
    for tile in row_tiles(logits):
        shifted = logits[tile].div_(temperature)  # (rows of the tile, vocab)
        highest[tile] = shifted.amax(-1)
        shifted.sub_(highest[tile, None])
        exponentials = shifted.exp()
        total[tile] = exponentials.sum(-1)
        log_total = total[tile].log()
        logprobs[tile] = shifted.gather(1, targets[tile, None])[:, 0] - log_total
        entropy[tile] = log_total - exponentials.mul_(shifted).sum(-1) / total[tile]


def torch_rows_backward(
    logits, targets, temperature, highest, total, entropy, grad_logprobs, grad_entropy, dlogits
):
    """Writes dlogits (rows, vocab), which may be the same tensor as logits. 1 / S and -log S are put into the numbers of a row."""
    for tile in row_tiles(logits):
        g_logprob = grad_logprobs[tile, None] / temperature
        shifted = (
            logits[tile].div_(temperature).sub_(highest[tile, None])
        )  # (rows of the tile, vocab)
        row_total = total[tile, None]
        if grad_entropy is None:
            gradient = shifted.exp_().mul_(-g_logprob / row_total)
        else:
            g_entropy = grad_entropy[tile, None] / temperature
            exponentials = shifted.exp()
            at_highest = g_logprob + g_entropy * (entropy[tile, None] - row_total.log())
            gradient = (
                shifted.mul_(-g_entropy / row_total).sub_(at_highest / row_total).mul_(exponentials)
            )
        gradient.scatter_add_(1, targets[tile, None], g_logprob)
        if dlogits is not logits:
            dlogits[tile] = gradient


# ---- The same in Triton: one program a row, one pass over the vocabulary ----
# `tl` is imported when a kernel is first used, since Triton exists on Linux alone. Row offsets are int64: rows x vocab passes 2^31.


def rows_forward_kernel(
    logits,
    targets,
    inverse_temperature,
    logprobs,
    highest,
    total,
    entropy,
    vocab: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Online: `most` is the maximum so far, `mass` = sum exp(z - most), `weighted` = sum (z - most) exp(z - most)."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocab
    most = -float("inf")
    mass = 0.0
    weighted = 0.0
    for start in range(0, vocab, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = (
            columns < vocab
        )  # no block size divides every vocabulary: a column beyond it must not count as a logit of 0
        z = tl.load(logits + columns, mask=inside, other=-float("inf")) * inverse_temperature
        new_most = tl.maximum(most, tl.max(z, 0))
        # As long as every logit was -inf, mass and weighted are 0, and the differences below would be -inf or NaN
        fall = tl.where(most == -float("inf"), 0.0, most - new_most)
        shifted = tl.where(z == -float("inf"), -float("inf"), z - new_most)
        exponentials = tl.exp(shifted)
        weighted = (weighted + fall * mass) * tl.exp(fall) + tl.sum(
            tl.where(exponentials > 0, shifted * exponentials, 0.0), 0
        )
        mass = mass * tl.exp(fall) + tl.sum(exponentials, 0)
        most = new_most
    target = tl.load(targets + row)
    z_target = (
        tl.load(logits + target, mask=(target >= 0) & (target < vocab), other=float("nan"))
        * inverse_temperature
    )
    tl.store(logprobs + row, z_target - most - tl.log(mass))
    tl.store(highest + row, most)
    tl.store(total + row, mass)
    tl.store(entropy + row, tl.log(mass) - weighted / mass)


def rows_backward_kernel(
    logits,
    targets,
    inverse_temperature,
    highest,
    total,
    entropy,
    grad_logprobs,
    grad_entropy,
    dlogits,
    vocab: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocab
    dlogits += row * vocab
    target = tl.load(targets + row)
    most = tl.load(highest + row)
    mass = tl.load(total + row)
    inverse_mass = 1.0 / mass
    g_logprob = tl.load(grad_logprobs + row) * inverse_temperature
    if HAS_ENTROPY:
        g_entropy = tl.load(grad_entropy + row) * inverse_temperature
        at_highest = g_logprob + g_entropy * (tl.load(entropy + row) - tl.log(mass))
    for start in range(0, vocab, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < vocab
        shifted = (
            tl.load(logits + columns, mask=inside, other=-float("inf")) * inverse_temperature - most
        )
        factor = at_highest + g_entropy * shifted if HAS_ENTROPY else g_logprob
        gradient = (
            tl.where(columns == target, g_logprob, 0.0) - tl.exp(shifted) * inverse_mass * factor
        )
        tl.store(
            dlogits + columns, gradient, mask=inside
        )  # the tail stays unwritten: its columns belong to the next row


@functools.cache
def triton_kernels():
    global tl
    try:
        import triton
        import triton.language as tl
    except ImportError as error:
        raise ImportError(
            "backend 'triton' needs the package triton: install it (Linux) or use backend='torch'"
        ) from error
    return triton.jit(rows_forward_kernel), triton.jit(rows_backward_kernel)


def triton_rows_forward(logits, targets, temperature, *results):
    kernel, vocab = triton_kernels()[0], logits.shape[1]
    with torch.cuda.device_of(logits):
        kernel[(len(logits),)](
            logits, targets, 1 / temperature, *results, vocab=vocab, BLOCK=TRITON_BLOCK, num_warps=8
        )


def triton_rows_backward(
    logits, targets, temperature, highest, total, entropy, grad_logprobs, grad_entropy, dlogits
):
    kernel, vocab, has_entropy = triton_kernels()[1], logits.shape[1], grad_entropy is not None
    # A gradient may be one number expanded to all tokens (the backward of a sum): the kernel wants them side by side
    grads = grad_logprobs.contiguous(), grad_entropy.contiguous() if has_entropy else entropy
    with torch.cuda.device_of(logits):
        kernel[(len(logits),)](
            logits,
            targets,
            1 / temperature,
            highest,
            total,
            entropy,
            *grads,
            dlogits,
            vocab=vocab,
            HAS_ENTROPY=has_entropy,
            BLOCK=TRITON_BLOCK,
            num_warps=8,
        )


ROW_OPERATIONS = {
    "torch": (torch_rows_forward, torch_rows_backward),
    "triton": (triton_rows_forward, triton_rows_backward),
}
