"""token_logprobs against the plain lines of its docstring, computed in fp64.

Triton kernels run on the CPU through Triton's interpreter. It must be switched on before Triton is
imported, and stays on for the process. So all checks of that backend run in child processes: this
file, started as a program.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import cpu, logprob
from kernels.logprob import token_logprobs

torch.set_num_threads(1)
RESULTS = ("logprobs", "entropy", "d_hidden", "d_weight")


def naive(hidden, weight, targets, temperature=1.0):
    logprobs = ((hidden @ weight.T) / temperature).log_softmax(-1)  # (tokens, vocab)
    return logprobs.gather(1, targets[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


def make_inputs(tokens, hidden_size, vocab, dtype=torch.float32, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, hidden_size, generator=generator) * scale
    weight = torch.randn(vocab, hidden_size, generator=generator) * scale
    targets = torch.randint(vocab, (tokens,), generator=generator)
    if tokens:
        targets[-1] = vocab - 1  # the last column, next to the unfilled rest of a block
    return hidden.to(dtype), weight.to(dtype), targets


def evaluate(function, hidden, weight, targets, temperature, grads, dtype=None):
    """Returns logprobs, entropy, d_hidden, d_weight in fp64.

    grads: the gradients of the two results, each (tokens,), or None for a result that is not used.
    """
    hidden, weight = (
        inputs.to(dtype or inputs.dtype).clone().requires_grad_() for inputs in (hidden, weight)
    )
    results = function(hidden, weight, targets, temperature)
    used = [
        (result, grad.to(result.dtype)) for result, grad in zip(results, grads) if grad is not None
    ]
    torch.autograd.backward([result for result, _ in used], [grad for _, grad in used])
    return [values.detach().double() for values in (*results, hidden.grad, weight.grad)]


def check_against_fp64(
    backend,
    tokens,
    hidden_size,
    vocab,
    dtype=torch.float32,
    temperature=1.0,
    use=("logprobs", "entropy"),
):
    """Each result is as close to fp64 as PyTorch's own operations, up to two fp32 roundings.

    PyTorch's bf16 logits are so coarse that this says little for bf16 inputs: there a gradient may
    differ by bf16 rounding alone.
    """
    inputs = make_inputs(tokens, hidden_size, vocab, dtype)
    generator = torch.Generator().manual_seed(1)
    grads = [
        torch.randn(tokens, generator=generator, dtype=torch.float64) if name in use else None
        for name in RESULTS[:2]
    ]
    expected = evaluate(naive, *inputs, temperature, grads, dtype=torch.float64)
    plain = evaluate(naive, *inputs, temperature, grads)
    ours = evaluate(
        lambda *arguments: token_logprobs(*arguments, backend=backend), *inputs, temperature, grads
    )
    for name, ours_i, plain_i, expected_i in zip(RESULTS, ours, plain, expected):
        error, allowed = ((values - expected_i).norm().item() for values in (ours_i, plain_i))
        # an entropy is the difference of two numbers as large as a log-prob
        scale = max(
            expected_i.norm().item(), expected[0].norm().item() if name == "entropy" else 0.0
        )
        allowed += 2.0**-22 * scale
        if dtype == torch.bfloat16 and name.startswith("d_"):
            allowed = 2.0**-8 * expected_i.norm().item()
        assert error <= allowed, (
            f"{backend} {name} {tokens}x{hidden_size}x{vocab} {dtype} T={temperature}: "
            f"{error:.2e} > {allowed:.2e}"
        )
    # fp32 sums of exact products: no bf16 step in the results, whatever the inputs
    assert (ours[0] - expected[0]).abs().max() < 2e-5 and (ours[1] - expected[1]).abs().max() < 2e-5


def check_small_logits(backend, vocab):
    """With all logits near 0, one more column with logit 0 would change log V visibly."""
    hidden, weight, targets = make_inputs(5, 24, vocab, scale=1e-4)
    log_vocab = torch.tensor(float(vocab), dtype=torch.float64).log()
    hidden.requires_grad_()
    logprobs, entropy = token_logprobs(hidden, weight, targets, backend=backend)
    torch.testing.assert_close(logprobs.double().detach(), -log_vocab.expand(5), rtol=1e-6, atol=0)
    torch.testing.assert_close(entropy.double().detach(), log_vocab.expand(5), rtol=1e-6, atol=0)
    (expected,) = torch.autograd.grad(
        naive(hidden.double(), weight.double(), targets)[0].sum(), hidden
    )
    (gradient,) = torch.autograd.grad(
        logprobs.sum(), hidden
    )  # the gradient that arrives is one number expanded to all tokens
    torch.testing.assert_close(gradient, expected.float(), rtol=1e-5, atol=1e-9)


def check_very_negative_logits(backend):
    """All logits near -1e4: a running maximum that starts at 0 would give sum exp = 0 and NaN."""
    weight = make_inputs(3, 24, 1031)[1] * 1e-3 - 100 / 24
    hidden, targets = torch.full((3, 24), 100.0), torch.arange(3)
    grads = [torch.ones(3), torch.ones(3)]
    expected = evaluate(naive, hidden, weight, targets, 1.0, grads, dtype=torch.float64)
    ours = evaluate(
        lambda *arguments: token_logprobs(*arguments, backend=backend),
        hidden,
        weight,
        targets,
        1.0,
        grads,
    )
    for name, ours_i, expected_i in zip(
        RESULTS, ours, expected
    ):  # logits of 1e4 have a step of 1e-3 in fp32
        torch.testing.assert_close(
            ours_i,
            expected_i,
            rtol=0,
            atol=5e-3 * max(1.0, expected_i.abs().max().item()),
            msg=name,
        )


SIZES = [(1, 24, 257), (17, 24, 1031), (5, 24, 127), (33, 40, 4099)]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_no_further_from_fp64_than_pytorch(sizes, dtype, temperature):
    check_against_fp64("torch", *sizes, dtype=dtype, temperature=temperature)


@pytest.mark.parametrize("use", [("logprobs",), ("entropy",)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_gradient_of_one_result_alone(use, dtype):
    check_against_fp64("torch", 17, 24, 1031, dtype=dtype, temperature=0.7, use=use)


def test_a_frozen_weight_gets_no_product(monkeypatch):
    hidden, weight, targets = make_inputs(17, 24, 257)
    grads = [torch.linspace(-1, 1, 17), torch.linspace(1, 2, 17)]
    both = evaluate(token_logprobs, hidden, weight, targets, 0.7, grads)
    results = token_logprobs(hidden.requires_grad_(), weight, targets, 0.7)
    products, addmm = [], torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *a, **k: products.append(1) or addmm(*a, **k))
    torch.autograd.backward(results, grads)
    assert len(products) == 1  # the logits
    torch.testing.assert_close(hidden.grad.double(), both[2], rtol=0, atol=0)


def test_unused_entropy_costs_nothing(monkeypatch):
    seen = []
    forward, backward = logprob.row_operations("torch")
    spy = lambda *arguments: seen.append(arguments[-2]) or backward(*arguments)  # noqa: E731
    monkeypatch.setattr(logprob, "row_operations", lambda backend: (forward, spy))
    hidden, weight, targets = make_inputs(5, 24, 127)
    token_logprobs(hidden.requires_grad_(), weight, targets)[0].sum().backward()
    assert seen == [None]  # the gradient of the entropy, in the one chunk that there is


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradcheck(temperature):
    hidden, weight, targets = make_inputs(6, 5, 11, torch.float64)
    hidden.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda h, w: token_logprobs(h, w, targets, temperature), (hidden, weight)
    )


def test_hand_computed():
    # Probabilities 1/2, 1/4, 1/4 at temperature 1: log-prob -2 ln 2, entropy 1.5 ln 2.
    # At temperature 1/2 they are 2/3, 1/6, 1/6.
    weight, hidden, ln2 = (
        torch.tensor([[1.0], [0.0], [0.0]]),
        torch.full((1, 1), 2.0).log(),
        0.6931471805599453,
    )
    logprobs, entropy = token_logprobs(hidden, weight, torch.tensor([2]))
    assert logprobs.item() == pytest.approx(-2 * ln2, abs=1e-6) and entropy.item() == pytest.approx(
        1.5 * ln2, abs=1e-6
    )
    logprobs, entropy = token_logprobs(hidden, weight, torch.tensor([0]), temperature=0.5)
    assert logprobs.item() == pytest.approx(
        -0.4054651, abs=1e-6
    ) and entropy.item() == pytest.approx(0.8675632, abs=1e-6)


@pytest.mark.parametrize("vocab", [1031, 4099, 151])
def test_small_logits(vocab):
    check_small_logits("torch", vocab)


def test_very_negative_logits():
    check_very_negative_logits("torch")


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64], ids=["fp32", "bf16", "fp64"]
)
def test_chunks_do_not_change_results(dtype, monkeypatch):
    inputs, grads = (
        make_inputs(50, 24, 1031, dtype),
        [torch.linspace(-1, 1, 50), torch.linspace(1, 2, 50)],
    )
    whole = evaluate(token_logprobs, *inputs, 0.7, grads)
    monkeypatch.setitem(logprob.CHUNK_BYTES, "cpu", 7 * 1031 * 4)  # 7 tokens in fp32, 3 in fp64
    monkeypatch.setitem(logprob.ROW_TILE_BYTES, "cpu", 2 * 1031 * 4)
    monkeypatch.setattr(cpu, "CAST_ROWS", 100)
    assert logprob.chunk_size(*inputs[:2]) == (3 if dtype == torch.float64 else 7)
    chunked = evaluate(token_logprobs, *inputs, 0.7, grads)
    for name, whole_i, chunked_i in zip(RESULTS, whole, chunked):
        # Only the order of some sums differs. In bf16 a gradient may then be rounded to the next
        # number, at most 2^-7 away.
        relative = {
            torch.float64: 1e-14,
            torch.float32: 4e-6,
            torch.bfloat16: 2.0**-7 if name.startswith("d_") else 4e-6,
        }[dtype]
        assert (chunked_i - whole_i).abs().max() <= relative * whole_i.abs().max(), name


def test_weight_gradient_of_bf16_is_summed_in_fp32(monkeypatch):
    """400 chunks of one token: a sum in bf16 would stop growing once a chunk is 2^-9 of it."""
    monkeypatch.setitem(logprob.CHUNK_BYTES, "cpu", 1)
    hidden, weight, targets = (
        torch.ones(400, 8),
        torch.zeros(5, 8),
        torch.zeros(400, dtype=torch.int64),
    )
    weight = weight.to(torch.bfloat16).requires_grad_()
    token_logprobs(hidden.to(torch.bfloat16), weight, targets)[0].sum().backward()
    assert weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(
        weight.grad[0].float(), torch.full((8,), 320.0), rtol=2**-8, atol=0
    )  # 400 x (1 - 1/5)


class LargestTensor(TorchDispatchMode):
    """Records the largest storage, in elements, that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(
                    self.largest, tensor.untyped_storage().nbytes() // tensor.element_size()
                )
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_never_more_than_a_chunk(dtype, monkeypatch):
    tokens, vocab = 600, 1031
    monkeypatch.setitem(logprob.CHUNK_BYTES, "cpu", 50 * vocab * 4)
    largest = {}
    for function in (naive, token_logprobs):
        hidden, weight, targets = make_inputs(tokens, 8, vocab, dtype)
        with LargestTensor() as mode:
            logprobs, entropy = function(hidden.requires_grad_(), weight.requires_grad_(), targets)
            (logprobs + entropy).sum().backward()
        largest[function] = mode.largest
    assert largest[naive] >= tokens * vocab  # the meter works
    assert largest[token_logprobs] <= 50 * vocab


def test_no_tokens():
    hidden, weight, targets = make_inputs(0, 24, 257)
    logprobs, entropy = token_logprobs(hidden.requires_grad_(), weight.requires_grad_(), targets)
    assert logprobs.shape == entropy.shape == (0,) and logprobs.dtype == torch.float32
    (logprobs.sum() + entropy.sum()).backward()
    assert (
        hidden.grad.shape == (0, 24) and weight.grad.shape == weight.shape and not weight.grad.any()
    )


def test_leaves_inputs_and_settings_alone():
    hidden, weight, targets = make_inputs(9, 24, 257, torch.bfloat16)
    before = [
        hidden.clone(),
        weight.clone(),
        targets.clone(),
        torch.backends.mkldnn.matmul.fp32_precision,
    ]
    for backend_input in (hidden.requires_grad_(), hidden.detach()):
        logprobs, entropy = token_logprobs(backend_input, weight, targets)
        if backend_input.requires_grad:
            (logprobs + entropy).sum().backward()
    assert not logprobs.requires_grad
    assert (
        torch.equal(hidden, before[0])
        and torch.equal(weight, before[1])
        and torch.equal(targets, before[2])
    )
    assert torch.backends.mkldnn.matmul.fp32_precision == before[3]
    assert (
        torch.get_float32_matmul_precision() == "highest"
    )  # raises where the old and the new way of setting it disagree


def bad_inputs():
    hidden, weight, targets = make_inputs(3, 4, 7)
    yield "temperature 0", (hidden, weight, targets, 0.0), "temperature"
    yield "temperature below 0", (hidden, weight, targets, -1.0), "temperature"
    yield "temperature NaN", (hidden, weight, targets, float("nan")), "temperature"
    yield "one target short", (hidden, weight, targets[1:]), "tokens"
    yield "hidden sizes differ", (hidden[:, 1:], weight, targets), "hidden_size"
    yield "dtypes differ", (hidden.bfloat16(), weight, targets), "bfloat16"
    yield "fp16", (hidden.half(), weight.half(), targets), "float16"
    yield "unknown backend", (hidden, weight, targets, 1.0, "cuda"), "backend"
    yield "triton in fp64", (hidden.double(), weight.double(), targets, 1.0, "triton"), "float64"


@pytest.mark.parametrize(
    "arguments, message",
    [case[1:] for case in bad_inputs()],
    ids=[case[0] for case in bad_inputs()],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        token_logprobs(*arguments)


@pytest.mark.parametrize("shift", [7, -8])
def test_a_target_outside_the_vocabulary_is_an_error(shift):
    hidden, weight, targets = make_inputs(3, 4, 7)
    with pytest.raises(RuntimeError, match="out of bounds"):
        token_logprobs(hidden, weight, targets + shift)


def child_process(*arguments, **environment):
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, **environment}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=root, capture_output=True, text=True
    )


def test_triton_is_imported_only_when_used():
    code = """
import sys
import torch
before = "triton" in sys.modules
from kernels.logprob import token_logprobs
x = torch.zeros(2, 3)
token_logprobs(x, x, torch.zeros(2, dtype=torch.int64))
print(before, "triton" in sys.modules)
"""
    assert child_process("-c", code).stdout.split() == ["False", "False"]


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="Triton is not installed")
def test_triton_kernels_in_the_interpreter():
    done = child_process(__file__, TRITON_INTERPRET="1")
    assert done.returncode == 0 and "interpreter checks passed" in done.stdout, (
        done.stdout + done.stderr[-4000:]
    )


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="Triton is not installed")
def test_triton_kernels_compile_for_a_gpu(tmp_path):
    """The interpreter accepts code that the compiler refuses. Compiling needs no GPU."""
    done = child_process(__file__, "compile", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0 and "compiled" in done.stdout, done.stdout + done.stderr[-4000:]


def compile_for_a_gpu():
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from kernels.logprob_triton import COLUMNS, backward_kernel, forward_kernel

    for kernel, constants in (
        (forward_kernel, {}),
        (backward_kernel, {"HAS_ENTROPY": True}),
        (backward_kernel, {"HAS_ENTROPY": False}),
    ):
        constants = {"vocab": 151937, "BLOCK": COLUMNS, **constants}
        types = {
            "targets": "*i64",
            "inverse_temperature": "fp32",
            "dlogits": "*bf16",
            **dict.fromkeys(constants, "constexpr"),
        }
        signature = {name: types.get(name, "*fp32") for name in kernel.arg_names}
        compiled = triton.compile(
            ASTSource(kernel, signature, constants),
            target=GPUTarget("cuda", 90, 32),
            options={"num_warps": 8},
        )
        assert ".target sm_90" in compiled.asm["ptx"]
    print("compiled")


def check_first_block_all_minus_infinity():
    """-inf logits are words that cannot occur. A block of them must not turn the row into NaN."""
    from kernels import logprob_triton

    logits = torch.randn(3, 300)
    logits[:, :140] = -float("inf")  # the first block of 128 whole, and a part of the second
    targets, results = (
        torch.tensor([150, 299, 200]),
        torch.empty(4, 3),
    )  # log-probs, highest, total, entropy
    log_p = logits[:, 140:].double().log_softmax(-1)
    logprob_triton.rows_forward(logits, targets, 1.0, *results)
    torch.testing.assert_close(
        results[0].double(), log_p[range(3), targets - 140], rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        results[3].double(), -(log_p.exp() * log_p).sum(-1), rtol=1e-6, atol=1e-6
    )


def interpreter_checks():
    from kernels import logprob_triton

    logprob_triton.COLUMNS = 128  # several blocks a row, and one that the vocabulary fills in part
    for sizes in SIZES[:3]:
        for temperature in (1.0, 0.7):
            check_against_fp64("triton", *sizes, temperature=temperature)
    check_against_fp64(
        "triton", 17, 24, 256, use=("logprobs",)
    )  # the vocabulary fills its blocks exactly
    check_against_fp64("triton", 5, 24, 257, use=("entropy",))
    logprob.CHUNK_BYTES["cpu"] = 4 * 257 * 4
    check_against_fp64("triton", 17, 24, 257)
    check_small_logits("triton", 1031)
    check_very_negative_logits("triton")
    check_first_block_all_minus_infinity()
    logprob_triton.COLUMNS = 4096  # as on a GPU: one block, mostly outside the vocabulary
    check_small_logits("triton", 257)
    print("interpreter checks passed")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "backend, vocab", [("triton", 151936), ("triton", 151937), ("torch", 151936)]
)
def test_full_size_on_a_gpu(backend, vocab):
    done = child_process(__file__, "gpu", backend, str(vocab), TRITON_INTERPRET="0")
    assert done.returncode == 0 and "gpu check passed" in done.stdout, (
        done.stdout + done.stderr[-4000:]
    )


def check_full_size_on_a_gpu(backend, vocab):
    tokens, hidden_size, temperature = 4096, 1536, 0.7
    generator = torch.Generator("cuda").manual_seed(0)
    hidden = (
        torch.randn(tokens, hidden_size, device="cuda", generator=generator)
        .bfloat16()
        .requires_grad_()
    )
    weight = (
        (torch.randn(vocab, hidden_size, device="cuda", generator=generator) * 0.1)
        .bfloat16()
        .requires_grad_()
    )
    targets = torch.randint(vocab, (tokens,), device="cuda", generator=generator)
    grads = torch.randn(2, tokens, device="cuda", generator=generator)
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    results = token_logprobs(hidden, weight, targets, temperature, backend)
    torch.autograd.backward(results, list(grads))
    # a chunk of fp32 logits and its bf16 gradient, the weight gradient in fp32 and bf16, and half a
    # GiB of other tensors; all logits at once would take 7.5 GB
    assert torch.cuda.max_memory_allocated() - start < 1.5 * logprob.CHUNK_BYTES[
        "cuda"
    ] + 6 * weight.numel() + (1 << 29)
    d_weight = torch.zeros_like(weight, dtype=torch.float64)
    d_hidden = torch.zeros_like(hidden, dtype=torch.float64)
    wide = weight.detach().double().requires_grad_()
    for chunk in torch.arange(tokens, device="cuda").split(512):
        inputs = hidden.detach()[chunk].double().requires_grad_()
        expected = naive(inputs, wide, targets[chunk], temperature)
        for name, result, value in zip(RESULTS, results, expected):
            torch.testing.assert_close(result[chunk].double(), value, rtol=0, atol=5e-5, msg=name)
        d_hidden[chunk], gradient = torch.autograd.grad(
            expected, (inputs, wide), [grad[chunk].double() for grad in grads]
        )
        d_weight += gradient
    for name, given, expected in (
        ("d_hidden", hidden.grad, d_hidden),
        ("d_weight", weight.grad, d_weight),
    ):
        error = ((given.double() - expected).norm() / expected.norm()).item()
        assert error < 2**-8, f"{name}: relative error {error:.1e}, bf16 rounding alone gives 2e-3"
    print("gpu check passed")


if __name__ == "__main__":
    if sys.argv[1:2] == ["compile"]:
        compile_for_a_gpu()
    elif sys.argv[1:2] == ["gpu"]:
        check_full_size_on_a_gpu(sys.argv[2], int(sys.argv[3]))
    else:
        interpreter_checks()
