"""Log-probs and entropies of tokens from hidden states: only a chunk of the logits exists.

The logits of a language model are by far its largest activation: 16,384 tokens x 151,936 words are
10 GB in fp32. A plain log-softmax with its backward pass holds three such arrays. Here the tokens
are processed in chunks. A matrix product computes the logits of a chunk, a row operation reduces
every row to a few numbers, and the next chunk overwrites the buffer. The backward pass computes
the logits again.

The row operation is written twice: in PyTorch (the definition, used on CPUs) and in Triton (one
pass over a row instead of six).
"""

from __future__ import annotations  # tl.constexpr in signatures: Triton is imported later

import functools
import importlib.util
import math
import os

import torch

from kernels import cpu_kernels

# One buffer of this size holds the logits of a chunk. A larger chunk reads and writes the weight's
# gradient less often. On two CPU cores nothing is gained beyond 64 MiB.
CHUNK_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}
ROW_TILE_BYTES = 256 << 20  # the PyTorch row operation makes copies of this size
TRITON_BLOCK = 4096  # columns that a Triton program reads at once


def token_logprobs(hidden, weight, targets, temperature=1.0, backend="auto"):
    """Equals the following lines in fp32, without ever holding the logits of all tokens:

        logits = hidden.float() @ weight.float().T / temperature        # (tokens, vocab)
        logprobs = logits.log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        return logprobs.gather(1, targets[:, None])[:, 0], entropy

    hidden (tokens, hidden_size) and weight (vocab, hidden_size): both bf16, fp32 or fp64.
    targets: int64 (tokens,). Zero tokens are allowed.
    Both results are (tokens,), in nats, fp32 (fp64 for fp64 inputs), and differentiable once in
    hidden and weight. The entropy is that of the tempered distribution.
    backend: "torch"; "triton" (CUDA tensors, or any with TRITON_INTERPRET=1; no fp64); or "auto",
    which is triton on CUDA where it is installed.
    Raises ValueError for wrong shapes, dtypes, temperatures and targets outside the vocabulary.
    Targets on a GPU are not checked, because the host would have to wait: Triton gives NaN there.
    """
    check_arguments(hidden, weight, targets, temperature)
    if backend == "auto":
        has_triton = importlib.util.find_spec("triton") is not None
        use_triton = hidden.is_cuda and hidden.dtype != torch.float64 and has_triton
        backend = "triton" if use_triton else "torch"
    if backend not in ROW_OPERATIONS:
        raise ValueError(f"backend must be auto, torch or triton, got {backend!r}")
    if backend == "triton" and hidden.dtype == torch.float64:
        raise ValueError("backend 'triton' computes in float32: use backend='torch' for float64")
    if backend == "triton" and not hidden.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            "backend 'triton' needs CUDA tensors (or TRITON_INTERPRET=1): use backend='torch'"
        )
    return TokenLogprobs.apply(hidden, weight, targets, float(temperature), backend)


def check_arguments(hidden, weight, targets, temperature):
    shapes = tuple(hidden.shape), tuple(weight.shape), tuple(targets.shape)
    if [len(shape) for shape in shapes] != [2, 2, 1] or (
        hidden.shape[1] != weight.shape[1] or len(targets) != len(hidden)
    ):
        raise ValueError(
            "hidden, weight, targets must be (tokens, hidden_size), (vocab, hidden_size), "
            f"(tokens,), got {shapes}"
        )
    # fp16 is left out: gradients of logits are often below its smallest number
    allowed = (torch.bfloat16, torch.float32, torch.float64)
    if hidden.dtype != weight.dtype or hidden.dtype not in allowed:
        raise ValueError(
            "hidden and weight must both be bfloat16, float32 or float64, got "
            f"{hidden.dtype} and {weight.dtype}"
        )
    if targets.dtype != torch.int64:
        raise ValueError(f"targets must be int64, got {targets.dtype}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if targets.is_cuda or len(targets) == 0:
        return
    lowest, highest = targets.min().item(), targets.max().item()
    if lowest < 0 or highest >= len(weight):
        raise ValueError(f"targets must be in [0, {len(weight)}), got {lowest} to {highest}")


class TokenLogprobs(torch.autograd.Function):
    """Forward: logits, then rows. Backward: logits again, their gradients, two matrix products.

    With z = logits / temperature, s = z - max z, S = sum exp s, p = exp(s) / S, log p = s - log S:

        L = log p[target]               dL / dz_v = [v = target] - p_v
        H = -sum p log p                dH / dz_v = -p_v (log p_v + H)

    and dz / dlogits = 1 / temperature. If g_L and g_H are the gradients of a token's results, then

        dloss / dlogits_v = (g_L [v = target] - p_v (g_L + g_H (H + log p_v))) / temperature.

    max z, S and H are saved for each token. Saving logsumexp(z) = max z + log S instead would round
    log S to the precision of max z, and every p of the row would have this error.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, backend):
        rows_forward, _ = ROW_OPERATIONS[backend]
        logprobs, highest, total, entropy = (
            hidden.new_empty(len(hidden), dtype=result_dtype(hidden)) for _ in range(4)
        )
        for chunk, logits in logit_chunks(hidden, weight):
            results = logprobs[chunk], highest[chunk], total[chunk], entropy[chunk]
            rows_forward(logits, targets[chunk], temperature, *results)
        ctx.save_for_backward(hidden, weight, targets, highest, total, entropy)
        ctx.temperature, ctx.backend = temperature, backend
        ctx.set_materialize_grads(False)  # backward gets None for a result that was not used
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
        d_weight = None
        if needs_weight:  # a sum in bf16 would lose small chunks
            d_weight = torch.zeros_like(weight, dtype=result_dtype(weight))
        # For bf16 inputs the gradient of the logits is rounded to bf16, which makes the products
        # several times faster. Its relative error of 2^-9 is not larger than that of d_hidden.
        is_rounded = hidden.dtype != result_dtype(hidden)
        if is_rounded:
            rounded = hidden.new_empty(chunk_size(hidden, weight), len(weight))
        for chunk, logits in logit_chunks(hidden, weight):
            dlogits = rounded[: len(logits)] if is_rounded else logits  # overwrites the logits
            saved = highest[chunk], total[chunk], entropy[chunk]
            grads = grad_logprobs[chunk], None if grad_entropy is None else grad_entropy[chunk]
            rows_backward(logits, targets[chunk], ctx.temperature, *saved, *grads, dlogits)
            if needs_hidden:
                torch.mm(dlogits, weight, out=d_hidden[chunk])
            if needs_weight:
                matmul_fp32(dlogits.T, hidden[chunk], out=d_weight, accumulate=True)
        if needs_weight:
            d_weight = d_weight.to(weight.dtype)
        return d_hidden, d_weight, None, None, None


def result_dtype(inputs):
    return torch.float64 if inputs.dtype == torch.float64 else torch.float32


def chunk_size(hidden, weight):
    """Tokens of a chunk: all tokens, cut evenly into as few chunks as fit the buffer."""
    budget = CHUNK_BYTES["cuda" if hidden.is_cuda else "cpu"]
    most = max(1, budget // (len(weight) * result_dtype(hidden).itemsize))
    num_chunks = max(1, math.ceil(len(hidden) / most))
    return max(1, math.ceil(len(hidden) / num_chunks))


def logit_chunks(hidden, weight):
    """Yields (slice of the tokens, their logits). A chunk overwrites the one before it."""
    size = chunk_size(hidden, weight)
    buffer = hidden.new_empty(size, len(weight), dtype=result_dtype(hidden))
    for start in range(0, len(hidden), size):
        chunk = slice(start, min(start + size, len(hidden)))
        yield chunk, matmul_fp32(hidden[chunk], weight.T, out=buffer[: chunk.stop - start])


def matmul_fp32(a, b, out, accumulate=False):
    """Writes a @ b into out, or adds it; summed and stored in fp32 for bf16 matrices.

    bf16 logits near 16 would be 0.06 apart.
    """
    beta = 1 if accumulate else 0  # with 0 the former content of out is ignored, NaN too
    fast = cpu_kernels(a.device)
    if fast and a.dtype != out.dtype:
        fast.matmul_fp32(a, b, out, accumulate)
    elif a.dtype == out.dtype or not a.is_cuda:
        torch.addmm(out, a.to(out.dtype), b.to(out.dtype), beta=beta, out=out)
    elif accumulate:
        torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
    else:
        torch.mm(a, b, out_dtype=out.dtype, out=out)
    return out


# ---- the row operation in PyTorch ----
# It overwrites logits (rows, vocab). Its other arguments are (rows,).


def row_tiles(logits):
    """Slices of the rows of logits (rows, vocab), so that a copy of a tile is not too large."""
    fast = cpu_kernels(logits.device)
    budget = fast.ROW_TILE_BYTES if fast else ROW_TILE_BYTES
    size = max(1, budget // (logits.shape[1] * logits.element_size()))
    return [slice(start, start + size) for start in range(0, len(logits), size)]


def torch_rows_forward(logits, targets, temperature, logprobs, highest, total, entropy):
    """Writes logprobs, highest, total and entropy.

    H = log S - sum(s exp s) / S adds two numbers >= 0, so nothing cancels. L <= 0 however the
    numbers are rounded.
    """
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
    """Writes dlogits (rows, vocab), which may be the same tensor as logits."""
    for tile in row_tiles(logits):
        g_logprob = grad_logprobs[tile, None] / temperature  # (rows of the tile, 1)
        shifted = logits[tile].div_(temperature).sub_(highest[tile, None])  # (rows, vocab)
        row_total = total[tile, None]
        if grad_entropy is None:
            gradient = shifted.exp_().mul_(-g_logprob / row_total)
        else:
            # -p (g_L + g_H (H + log p)) = exp(s) (-g_H / S s - (g_L + g_H (H - log S)) / S)
            g_entropy = grad_entropy[tile, None] / temperature
            exponentials = shifted.exp()
            constant = g_logprob + g_entropy * (entropy[tile, None] - row_total.log())
            gradient = shifted.mul_(-g_entropy / row_total).sub_(constant / row_total)
            gradient.mul_(exponentials)
        gradient.scatter_add_(1, targets[tile, None], g_logprob)
        if dlogits is not logits:
            dlogits[tile] = gradient


# ---- the same in Triton: one program per row, one pass over the vocabulary ----
# `tl` is imported when a kernel is first used, because Triton exists on Linux alone.
# Row offsets are int64: rows * vocab can be larger than 2^31.


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
    """Keeps running values over the columns read so far:

    most = max z, mass = sum exp(z - most), weighted = sum (z - most) exp(z - most)
    """
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocab
    most = -float("inf")
    mass = 0.0
    weighted = 0.0
    for start in range(0, vocab, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < vocab  # a column beyond the vocabulary must not count as a logit of 0
        z = tl.load(logits + columns, mask=inside, other=-float("inf")) * inverse_temperature
        new_most = tl.maximum(most, tl.max(z, 0))
        # while every logit so far is -inf, mass and weighted are 0: avoid NaN from -inf - -inf
        fall = tl.where(most == -float("inf"), 0.0, most - new_most)
        shifted = tl.where(z == -float("inf"), -float("inf"), z - new_most)
        exponentials = tl.exp(shifted)
        products = tl.where(exponentials > 0, shifted * exponentials, 0.0)
        weighted = (weighted + fall * mass) * tl.exp(fall) + tl.sum(products, 0)
        mass = mass * tl.exp(fall) + tl.sum(exponentials, 0)
        most = new_most
    target = tl.load(targets + row)
    is_valid = (target >= 0) & (target < vocab)
    z_target = tl.load(logits + target, mask=is_valid, other=float("nan")) * inverse_temperature
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
        constant = g_logprob + g_entropy * (tl.load(entropy + row) - tl.log(mass))
    for start in range(0, vocab, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < vocab
        z = tl.load(logits + columns, mask=inside, other=-float("inf")) * inverse_temperature
        shifted = z - most
        factor = constant + g_entropy * shifted if HAS_ENTROPY else g_logprob
        at_target = tl.where(columns == target, g_logprob, 0.0)
        gradient = at_target - tl.exp(shifted) * inverse_mass * factor
        tl.store(dlogits + columns, gradient, mask=inside)


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
    kernel, _ = triton_kernels()
    sizes = dict(vocab=logits.shape[1], BLOCK=TRITON_BLOCK, num_warps=8)
    with torch.cuda.device_of(logits):
        kernel[(len(logits),)](logits, targets, 1 / temperature, *results, **sizes)


def triton_rows_backward(
    logits, targets, temperature, highest, total, entropy, grad_logprobs, grad_entropy, dlogits
):
    _, kernel = triton_kernels()
    has_entropy = grad_entropy is not None
    sizes = dict(vocab=logits.shape[1], BLOCK=TRITON_BLOCK, num_warps=8, HAS_ENTROPY=has_entropy)
    # the backward of a sum gives one number expanded to all tokens: the kernel wants an array
    grad_logprobs = grad_logprobs.contiguous()
    grad_entropy = grad_entropy.contiguous() if has_entropy else entropy  # is not read then
    saved = highest, total, entropy
    grads = grad_logprobs, grad_entropy, dlogits
    with torch.cuda.device_of(logits):
        kernel[(len(logits),)](logits, targets, 1 / temperature, *saved, *grads, **sizes)


ROW_OPERATIONS = {
    "torch": (torch_rows_forward, torch_rows_backward),
    "triton": (triton_rows_forward, triton_rows_backward),
}
