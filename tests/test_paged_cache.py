"""The paged cache of a GPU, run on a CPU: by its definitions and in Triton's interpreter."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import random_model

import kv_cache
import paged_cache
import sampler
from paged_cache import PagedCache, paged_attention, rotate_and_store
from sampler import generate

torch.set_num_threads(1)
needs_triton = pytest.mark.skipif(
    not importlib.util.find_spec("triton"), reason="Triton is not installed"
)
# of a head, key heads, query heads that share one
SHAPES = [(64, 2, 6), (128, 1, 7), (64, 3, 1)]


def random_prompts(lengths):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 211, (length,), generator=generator).tolist() for length in lengths]


def flat(results, field):
    return [value for row in results for completion in row for value in getattr(completion, field)]


# ---- the definitions ----


def attention_one_by_one(queries, pages, table, lengths):
    """Softmax attention in fp64, row by row and head by head."""
    output = torch.empty(queries.shape, dtype=torch.float64)
    _, _, page, kv_heads, head_dim = pages.shape
    for row, length in enumerate(lengths.tolist()):
        places = [(table[row, token // page], token % page) for token in range(length)]
        for head in range(queries.shape[1]):
            kv_head = head // (queries.shape[1] // kv_heads)
            keys, values = (
                torch.stack([part[place][kv_head] for place in places]).double() for part in pages
            )
            scores = keys @ queries[row, head].double() / head_dim**0.5
            output[row, head] = scores.softmax(0) @ values
    return output


def ragged(head_dim, kv_heads, group, dtype=torch.float32, page=64):
    """Rows of 1 to 300 tokens. Two rows share their first two pages."""
    generator = torch.Generator().manual_seed(head_dim + group)
    lengths = torch.tensor([1, page, page + 1, 3 * page - 1, 300])
    table = torch.randperm(30, generator=generator).int()[:25].view(5, 5)
    table[4, :2] = table[3, :2]
    pages = torch.randn(2, 31, page, kv_heads, head_dim, generator=generator)
    queries = torch.randn(5, kv_heads * group, head_dim, generator=generator)
    return queries.to(dtype), pages.to(dtype), table, lengths


@pytest.mark.parametrize("shape", SHAPES)
def test_the_definition_is_softmax_attention(shape):
    expected = attention_one_by_one(*ragged(*shape))
    found = paged_attention(*ragged(*shape)).double()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


# ---- the cache in the sampler ----


@pytest.fixture
def paged(monkeypatch):
    """`generate` samples on a CPU as on a GPU. Yields the caches that it makes."""
    caches = []

    def new_cache(*arguments):
        caches.append(PagedCache(*arguments))
        return caches[-1]

    monkeypatch.setattr(sampler, "new_cache", new_cache)
    return caches


OPTIONS = dict(stop_token_ids=range(0, 211, 40), seed=3, max_rows=5)
# shorter than a page, of exactly one and two pages, one more, and longer
LENGTHS = (1, 64, 65, 128, 30, 200, 64)


def same(found, expected):
    assert flat(found, "tokens") == flat(expected, "tokens")
    torch.testing.assert_close(
        *(torch.tensor(flat(results, "logprobs")) for results in (found, expected)),
        atol=1e-5,
        rtol=0,
    )


def test_pages_give_the_tokens_of_the_tables(paged, monkeypatch):
    """Ragged prompts, shared by groups; rows that grow over pages; rows that are refilled."""
    model, prompts = random_model("qwen3", head_dim=16), random_prompts(LENGTHS)
    found = generate(model, prompts, 6, 150, **OPTIONS)
    (cache,) = paged
    assert not cache.row_pages and len(cache.free) == cache.pages.shape[2] - 1  # all came back
    monkeypatch.setattr(sampler, "new_cache", kv_cache.new_cache)
    same(found, generate(model, prompts, 6, 150, **OPTIONS))
    lengths = [len(completion.tokens) for row in found for completion in row]
    assert len(set(lengths)) > 10 and max(lengths) > 64


def test_a_row_that_finds_no_page_starts_again_later(paged, monkeypatch):
    model, prompts = random_model("qwen3", head_dim=16), random_prompts(LENGTHS)
    options = OPTIONS | {"stop_token_ids": ()}
    expected = generate(model, prompts, 3, 150, **options)
    postponed = []
    postpone_row = paged_cache.postpone_row
    monkeypatch.setattr(
        paged_cache, "postpone_row", lambda session: postponed.append(1) or postpone_row(session)
    )
    monkeypatch.setattr(paged_cache, "half_of_free_memory", lambda device: 0)
    found = generate(model, prompts, 3, 150, **options)
    same(found, expected)
    assert postponed
    few, many = (cache.pages.shape[2] for cache in reversed(paged))
    assert few < many / 2


def test_a_step_runs_for_a_power_of_two_of_rows(paged, monkeypatch):
    """One graph serves several numbers of rows. Rows that nobody has compute along."""
    sizes = []
    step = sampler.Session.step
    monkeypatch.setattr(sampler.Session, "step", lambda self, n: sizes.append(n) or step(self, n))
    model, prompts = random_model("qwen3", head_dim=16), random_prompts((20, 70))
    generate(model, prompts, 3, 60, **OPTIONS | {"max_rows": 6})
    assert set(sizes) <= {1, 2, 4, 8} and sizes[0] == 8


# ---- the kernels, in another process: the interpreter is chosen as Triton is imported ----


def run_this_file(*arguments, **environment):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment
    command = [sys.executable, "-W", "ignore", __file__, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout


@needs_triton
def test_the_kernels_in_the_interpreter():
    assert "interpreter checks passed" in run_this_file("interpret", TRITON_INTERPRET="1")


@needs_triton
def test_the_kernels_compile_for_a_gpu_without_spills(tmp_path):
    """Registers and shared memory are printed: `pytest -s`. Compiling needs no GPU."""
    output = run_this_file("compile", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    print(output)
    lines = [line for line in output.splitlines() if "registers" in line]
    assert len(lines) == 7 and all("local memory 0 " in line for line in lines)


def multiply_bf16_in_the_interpreter():
    """Its tl.dot multiplies the bits of bf16 numbers (triton issue 11584)."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    dot = InterpreterBuilder.create_dot

    def float32(handle):
        if handle.data.dtype == "uint16":
            bits = handle.data.astype("uint32") << 16
            handle = type(handle)(bits.view("float32"), tl.float32)
        return handle

    def create_dot(self, a, b, *rest):
        return dot(self, float32(a), float32(b), *rest)

    InterpreterBuilder.create_dot = create_dot


def check_attention(shape, dtype, tolerance, parts):
    from kernels import paged_triton

    queries, pages, table, lengths = ragged(*shape, dtype)
    paged_triton.PROGRAMS = parts * len(queries) * pages.shape[3]
    expected = paged_attention(queries.double(), pages.double(), table, lengths)
    # what a row does not see may be anything
    pages[:, 30] = torch.nan
    seen = torch.zeros(pages.shape[1:3], dtype=torch.bool)
    for row, length in enumerate(lengths.tolist()):
        for token in range(length):
            seen[table[row, token // 64], token % 64] = True
    pages[:, ~seen] = torch.nan
    found = paged_triton.paged_attention(queries, pages, table, lengths)
    assert found.dtype == dtype and found.shape == queries.shape
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=0)


def check_rotation(dtype):
    from kernels import paged_triton

    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (
        torch.randn(5, heads, 64, generator=generator).to(dtype) for heads in (6, 2, 2)
    )
    angles = torch.randn(5, 1, 32, generator=generator)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    cos, sin = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
    places = torch.tensor([3, 700, 64, 127, 0])
    stores = [torch.zeros(2, 12, 64, 2, 64, dtype=dtype) for _ in range(2)]
    arguments = keys, values, cos, sin
    expected = rotate_and_store(queries, *arguments, stores[0], places)
    found = paged_triton.rotate_and_store(queries.clone(), *arguments, stores[1], places)
    tolerance = 1e-6 if dtype == torch.float32 else 0.03  # three roundings to bf16 instead of one
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    torch.testing.assert_close(*stores, atol=tolerance, rtol=0)


def check_sampling():
    """The whole sampler on the kernels."""
    from kernels import paged_triton

    class KernelCache(PagedCache):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.kernels = paged_triton

    paged_triton.PROGRAMS = 8
    model, prompts = random_model("qwen3", head_dim=16), random_prompts((1, 64, 70))
    options = dict(max_rows=4, seed=1)
    expected = generate(model, prompts, 2, 10, **options)
    sampler.new_cache = KernelCache
    same(generate(model, prompts, 2, 10, **options), expected)


def interpret():
    multiply_bf16_in_the_interpreter()
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 0.02)):
        for shape in SHAPES:
            for parts in (1, 4):
                check_attention(shape, dtype, tolerance, parts)
        check_rotation(dtype)
    check_sampling()
    print("interpreter checks passed")


def compile_for_a_gpu():
    """Prints what each kernel takes of an H100: local memory is where registers spill to."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from kernels import paged_triton

    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

    def build(kernel, dtype, constants, num_warps):
        types = {
            "table": "*i32",
            "lengths": "*i64",
            "places": "*i64",
            "outputs": "*fp32",
            "logsumexps": "*fp32",
            "table_width": "i32",
            "scale": "fp32",
            **dict.fromkeys(constants, "constexpr"),
        }
        signature = {name: types.get(name, f"*{dtype}") for name in kernel.arg_names}
        # as at a launch: PyTorch's tensors begin at multiples of 16 bytes
        aligned = {
            (place,): [["tt.divisibility", 16]]
            for place, kind in enumerate(signature.values())
            if kind.startswith("*")
        }
        compiled = triton.compile(
            ASTSource(kernel, signature, constants, aligned),
            target=GPUTarget("cuda", 90, 32),
            options={"num_warps": num_warps, "num_stages": 2},
        )
        assert ".target sm_90" in compiled.asm["ptx"]
        binary = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        listing = subprocess.run([cuobjdump, "-res-usage", binary], capture_output=True, text=True)
        usage = dict(re.findall(r"(REG|STACK):(\d+)", listing.stdout + listing.stderr))
        print(
            f"{kernel.__name__} {dtype} {constants}: {usage['REG']} registers, local memory "
            f"{usage['STACK']} bytes, shared memory {compiled.metadata.shared} bytes"
        )

    for dtype, num_warps in (("bf16", 4), ("fp32", 8)):
        for head_dim in (64, 128):
            sizes = dict(GROUP=6, PADDED=16, PAGE=64, HEAD_DIM=head_dim)
            build(paged_triton.attend_kernel, dtype, sizes, num_warps)
        build(paged_triton.rotate_and_store_kernel, dtype, dict(HEADS=12, HALF=64), 1)
    build(paged_triton.merge_kernel, "bf16", dict(PARTS=32, HEAD_DIM=128), 4)


if __name__ == "__main__":
    {"interpret": interpret, "compile": compile_for_a_gpu}[sys.argv[1]]()
