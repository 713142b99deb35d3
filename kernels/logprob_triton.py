"""The row operation of logprob.py in Triton: one program per row, one pass over the vocabulary.

torch_rows_forward and torch_rows_backward in logprob.py are the definitions. Triton exists on
Linux alone, so logprob.py imports this file when a kernel is first used.
"""

import torch
import triton
import triton.language as tl

COLUMNS = 4096  # that a program reads at once

# Row offsets are int64, because rows * vocab can be larger than 2^31.


@triton.jit
def forward_kernel(
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


@triton.jit
def backward_kernel(
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


def rows_forward(logits, targets, temperature, *results):
    sizes = dict(vocab=logits.shape[1], BLOCK=COLUMNS, num_warps=8)
    with torch.cuda.device_of(logits):
        forward_kernel[(len(logits),)](logits, targets, 1 / temperature, *results, **sizes)


def rows_backward(
    logits, targets, temperature, highest, total, entropy, grad_logprobs, grad_entropy, dlogits
):
    has_entropy = grad_entropy is not None
    sizes = dict(vocab=logits.shape[1], BLOCK=COLUMNS, num_warps=8, HAS_ENTROPY=has_entropy)
    # the backward of a sum gives one number expanded to all tokens: the kernel wants an array
    grad_logprobs = grad_logprobs.contiguous()
    grad_entropy = grad_entropy.contiguous() if has_entropy else entropy  # is not read then
    saved = highest, total, entropy
    grads = grad_logprobs, grad_entropy, dlogits
    with torch.cuda.device_of(logits):
        backward_kernel[(len(logits),)](logits, targets, 1 / temperature, *saved, *grads, **sizes)
