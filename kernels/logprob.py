"""Log-probs and entropies of tokens from hidden states: only a chunk of the logits exists.

The logits of a language model are by far its largest activation: 16,384 tokens x 151,936 words are
10 GB in fp32. A plain log-softmax with its backward pass holds three such arrays. Here the tokens
are processed in chunks. A matrix product computes the logits of a chunk, a row operation reduces
every row to a few numbers, and the next chunk overwrites the buffer. The backward pass computes
the logits again.

The row operation is written twice: here in PyTorch (the definition, used on CPUs) and in
logprob_triton.py (one pass over a row instead of six).
"""

import torch

from kernels import HAS_CPU_KERNELS

# One buffer of this size holds the logits of a chunk. A larger chunk reads and writes the weight's
# gradient less often. On two CPU cores nothing is gained beyond 64 MiB.
CHUNK_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}
# The PyTorch row operation makes copies of this size. Those of 3 MiB stay in the cache of a CPU,
# which makes it 4.5 times as fast.
ROW_TILE_BYTES = {"cpu": 3 << 20, "cuda": 256 << 20}


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
    which is triton on CUDA where it works.
    Raises ValueError for wrong shapes, dtypes and temperatures. A target outside the vocabulary is
    an error of PyTorch; Triton gives NaN for it, because the host would have to wait to raise one.
    """
    check_arguments(hidden, weight, targets, temperature)
    if backend == "auto":
        backend = "torch"
        if hidden.is_cuda and hidden.dtype != torch.float64:
            from kernels.gpu import triton_works

            backend = "triton" if triton_works(hidden.device) else "torch"
    if backend not in ("torch", "triton"):
        raise ValueError(f"backend must be auto, torch or triton, got {backend!r}")
    if backend == "triton" and hidden.dtype == torch.float64:
        raise ValueError("backend 'triton' computes in float32: use backend='torch' for float64")
    return TokenLogprobs.apply(hidden, weight, targets, float(temperature), backend)


def check_arguments(hidden, weight, targets, temperature):
    is_matrix = hidden.dim() == weight.dim() == 2
    if not is_matrix or hidden.shape[1:] != weight.shape[1:] or targets.shape != hidden.shape[:1]:
        raise ValueError(
            "hidden, weight, targets must be (tokens, hidden_size), (vocab, hidden_size), "
            f"(tokens,), got {[tuple(x.shape) for x in (hidden, weight, targets)]}"
        )
    # fp16 is left out: gradients of logits are often below its smallest number
    allowed = (torch.bfloat16, torch.float32, torch.float64)
    if hidden.dtype != weight.dtype or hidden.dtype not in allowed:
        raise ValueError(
            "hidden and weight must both be bfloat16, float32 or float64, got "
            f"{hidden.dtype} and {weight.dtype}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")


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
        rows_forward, _ = row_operations(backend)
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
        needs_weight = ctx.needs_input_grad[1]  # not with a frozen base model
        _, rows_backward = row_operations(ctx.backend)
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(entropy)
        d_hidden, d_weight = torch.empty_like(hidden), None
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
            torch.mm(dlogits, weight, out=d_hidden[chunk])
            if needs_weight:
                matmul_fp32(dlogits.T, hidden[chunk], out=d_weight, accumulate=True)
        if needs_weight:
            d_weight = d_weight.to(weight.dtype)
        return d_hidden, d_weight, None, None, None


def result_dtype(inputs):
    return torch.float64 if inputs.dtype == torch.float64 else torch.float32


def chunk_size(hidden, weight):
    """Tokens of a chunk: as many as fit the buffer."""
    most = CHUNK_BYTES[hidden.device.type] // (len(weight) * result_dtype(hidden).itemsize)
    return max(1, min(most, len(hidden)))


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
    if a.dtype == out.dtype:
        torch.addmm(out, a, b, beta=beta, out=out)
    elif not a.is_cuda and HAS_CPU_KERNELS:
        from kernels import cpu

        cpu.matmul_fp32(a, b, out, beta)
    elif not a.is_cuda:
        torch.addmm(out, a.float(), b.float(), beta=beta, out=out)
    elif accumulate:
        torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
    else:
        torch.mm(a, b, out_dtype=out.dtype, out=out)
    return out


# ---- the row operation in PyTorch ----
# It overwrites logits (rows, vocab). Its other arguments are (rows,).


def row_tiles(logits):
    """Slices of the rows of logits (rows, vocab), so that a copy of a tile is not too large."""
    size = max(1, ROW_TILE_BYTES[logits.device.type] // (logits.shape[1] * logits.element_size()))
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


def row_operations(backend):
    """Returns (rows_forward, rows_backward) of a backend."""
    if backend == "torch":
        return torch_rows_forward, torch_rows_backward
    from kernels import logprob_triton  # needs the package triton

    return logprob_triton.rows_forward, logprob_triton.rows_backward
