"""What a GPU would run, without one: see fakecuda.py. test_cuda_paths.py runs this file."""

import json
import shutil
from pathlib import Path
from unittest import mock

import fakecuda  # before torch
import pytest
import torch
from safetensors.torch import load_file, save_file

import sampler
import train_grpo
import train_sft
from distributed import Policy, Runtime
from extras.bench import SHAPES
from judge import Judge
from kernels.gpu import triton_works
from kernels.logprob import token_logprobs
from kernels.packed_attention import packed_attention
from model import Config, Model, pack_groups

ROOT = Path(__file__).parents[1]
CUDA = torch.device("cuda", 0)
QWEN = {"model_type": "qwen2", "max_position_embeddings": 32768} | SHAPES["qwen2-1.5b"]
# What a decode step of Qwen2-1.5B launches: for each of its 28 layers, and outside of them.
# Ratchets: they may only fall. A replayed CUDA graph is one launch.
LAUNCHES_A_LAYER, LAUNCHES_BESIDE = 16, 42
TRAINING_LAUNCHES_A_LAYER = 118  # forward and backward of a pack, however many pieces it has


@pytest.fixture(autouse=True)
def gpu():
    with fakecuda.fake_cuda() as gpu:
        triton_works(CUDA)  # tries a kernel, once
        gpu.forget()
        yield gpu


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with the first layer of tiny/base, and pairs.jsonl."""
    folder = tmp_path_factory.mktemp("base")
    shutil.copytree(ROOT / "tiny/base", folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    weights = load_file(folder / "model.safetensors")
    first = {n: w for n, w in weights.items() if ".layers." not in n or ".layers.0." in n}
    save_file(first, folder / "model.safetensors", metadata={"format": "pt"})
    pairs = (ROOT / "tiny/train.jsonl").read_text().splitlines(keepends=True)
    (folder / "pairs.jsonl").write_text("".join(pairs[:20]))
    return folder


def model_of(layers, dtype=torch.bfloat16):
    """A model of Qwen2-1.5B's width on the GPU."""
    with torch.device("meta"):
        model = Model(Config(QWEN | {"num_hidden_layers": layers}))
    return model.to(dtype).to_empty(device="cuda").requires_grad_(False)


def by_turns(prompts, completions, **_):
    """A reward that is not the same for all: completions have no tokens here but 0."""
    return [float(index % 2) for index in range(len(completions))]


# ---- sampling ----


def decode_steps(gpu, monkeypatch, layers=1, **options):
    """Samples; [(launches, copies to the GPU, reads by the host) of each decode step].

    Six generations share four rows, so rows end and are filled again. A step for four rows is
    carried out once, recorded once and replayed after that; another for two rows.
    """
    steps, step = [], sampler.Session.step

    def watched(session, num_rows):
        gpu.forget()
        step(session, num_rows)
        steps.append((sum(gpu.launches.values()), len(gpu.copies_in), len(gpu.reads)))

    with monkeypatch.context() as patch:
        patch.setattr(sampler.Session, "step", watched)
        prompts = [list(range(5, 300)), [3]]
        options = dict(num_generations=3, max_new_tokens=9, max_rows=4) | options
        results = sampler.generate(model_of(layers), prompts, **options)
    assert [len(c.tokens) for group in results for c in group] == [9] * 6 and len(steps) == 4
    return steps


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_p": 0.9}])
def test_a_decode_step_never_waits(gpu, monkeypatch, options):
    # for many stop tokens torch.isin sorts, and waits for the number of different ones
    isin = mock.Mock(side_effect=AssertionError("waits"))
    monkeypatch.setattr(torch, "isin", isin)
    steps = decode_steps(gpu, monkeypatch, stop_token_ids=range(9, 40), **options)
    assert {(copies, reads) for _, copies, reads in steps} == {(0, 0)}


def test_a_head_of_a_size_that_triton_lacks(gpu, monkeypatch):
    monkeypatch.setitem(QWEN, "head_dim", 96)
    decode_steps(gpu, monkeypatch)
    assert "attend_kernel" not in {kernel for kernel, *_ in gpu.kernels}


def test_launches_of_a_decode_step(gpu, monkeypatch):
    few, more = (decode_steps(gpu, monkeypatch, layers=n)[-1][0] for n in (1, 2))
    a_layer, beside = more - few, 2 * few - more
    print(f"{a_layer} launches a layer, {beside} beside, {28 * a_layer + beside} of 28 layers")
    assert a_layer <= LAUNCHES_A_LAYER and beside <= LAUNCHES_BESIDE


def test_launches_of_training(gpu):
    """A forward pass over 4 prompts and 64 completions of 100 tokens, and its gradient."""
    pack = pack_groups([([1] * 100, [[1] * 101] * 16)] * 4, "cuda")

    def launches(layers):
        model = model_of(layers).requires_grad_(True)
        attend = packed_attention(pack)
        gpu.forget()
        model(pack.tokens, pack.positions, attend).sum().backward()
        return sum(gpu.launches.values())

    a_layer = launches(2) - launches(1)
    print(f"{a_layer} launches a layer for forward and backward of 68 pieces")
    assert a_layer <= TRAINING_LAUNCHES_A_LAYER


def test_eight_steps_are_eight_replays_of_a_graph(gpu, monkeypatch):
    decodes, decode = [], sampler.Session.decode

    def watched(session):
        gpu.forget()
        decode(session)
        decodes.append((gpu.launches["CUDA graph"], len(gpu.copies_in), len(gpu.reads)))

    monkeypatch.setattr(sampler.Session, "decode", watched)
    sampler.generate(model_of(1), [[1, 2, 3]], 4, max_new_tokens=41)
    # the first step is carried out and recorded; the table of pages is copied once in eight steps
    assert decodes == [(7, 1, 0)] + [(8, 1, 0)] * 4


def test_the_host_rarely_looks_for_finished_rows(gpu):
    sampler.generate(model_of(1), [[1, 2, 3]], 1, max_new_tokens=32)
    assert len(gpu.reads) <= 31 / 4 + 4


def test_without_a_compiler_pytorch_samples_and_a_note_says_so(gpu, monkeypatch, capsys):
    """A container without gcc: Triton can be imported, and fails as it builds a launcher."""
    triton = pytest.importorskip("triton")

    def run(*_, **__):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")

    triton_works.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(triton.runtime.jit.JITFunction, "run", run)
            steps = decode_steps(gpu, monkeypatch)
            token_logprobs(
                *(torch.empty(5, 64, device="cuda") for _ in range(2)),
                torch.zeros(5, dtype=torch.long, device="cuda"),
            )
    finally:
        triton_works.cache_clear()
    assert {(copies, reads) for _, copies, reads in steps} == {(0, 0)} and not gpu.kernels
    notes = capsys.readouterr().err.splitlines()
    assert [note for note in notes if "Triton" in note] == [
        "Triton does not work here, so PyTorch's slower operations run: Failed to find C compiler. "
        "Please specify via CC environment variable"
    ]


# ---- training ----


def test_packed_attention_and_logprobs(gpu):
    model = model_of(1).requires_grad_(True)
    pack = pack_groups([(list(range(40)), [list(range(30)), [5], [6, 7]]), ([1], [[2, 3]])], "cuda")
    model.rope_tables(pack.positions, torch.bfloat16)  # copies the frequencies, once for a model
    gpu.forget()
    logprobs, entropy = model.logprobs(pack, temperature=0.7)
    (logprobs.sum() + entropy.sum()).backward()
    for result in (logprobs, entropy):
        assert (result.shape, result.dtype, result.device) == ((35,), torch.float32, CUDA)
    for name, weight in model.named_parameters():
        found = weight.grad.shape, weight.grad.dtype, weight.grad.device
        assert found == (weight.shape, torch.bfloat16, CUDA), name
    assert not gpu.reads and len(gpu.copies_in) == 3  # where pieces lie, once for all layers
    assert gpu.launches["forward_kernel"] == gpu.launches["backward_kernel"] == 1


@pytest.mark.parametrize(
    "dtype, backend",
    [(torch.bfloat16, "triton"), (torch.float32, "triton"), (torch.bfloat16, "torch")],
)
def test_logprobs_in_chunks(gpu, dtype, backend):
    hidden, weight = torch.empty(9000, 64, dtype=dtype, device="cuda").requires_grad_(), None
    weight = torch.empty(151936, 64, dtype=dtype, device="cuda").requires_grad_()
    targets = torch.zeros(9000, dtype=torch.long, device="cuda")
    gpu.forget()
    logprobs, _ = token_logprobs(hidden, weight, targets, 0.7, backend)
    logprobs.sum().backward()
    assert logprobs.dtype == torch.float32 and weight.grad.dtype == hidden.grad.dtype == dtype
    assert not gpu.reads and not gpu.copies_in
    assert gpu.launches["forward_kernel"] == (6 if backend == "triton" else 0)


def test_masters_are_fp32(base):
    policy = Policy(base, Runtime(0, 1, CUDA, torch.bfloat16), gradient_checkpointing=True)
    optimizer = torch.optim.AdamW(policy.masters.values(), fused=True)
    policy.model.logprobs(pack_groups([([1, 2], [[3, 4]])], "cuda"))[0].sum().backward()
    assert policy.step(optimizer, 0.0, 1.0) == 0.0
    for name, weight in policy.model.named_parameters():
        master = policy.masters[name]
        assert (weight.dtype, master.dtype, master.device) == (torch.bfloat16, torch.float32, CUDA)
        assert optimizer.state[master]["exp_avg"].dtype == torch.float32


def train(trainer, base, folder, max_steps=1, **flags):
    """The rows of metrics.jsonl."""
    common = dict(model=str(base), output_dir=str(folder), device="cuda", save_every=1)
    flags = {"train_data": str(base / "pairs.jsonl"), "dtype": "bfloat16"} | common | flags
    if trainer is train_grpo:
        flags |= dict(prompts_per_step=2, num_generations=2, max_completion_length=4)
    trainer.main(trainer.Settings(max_steps=max_steps, **flags))
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    assert (folder / f"checkpoint-{max_steps}" / "trainer" / "state.json").exists()
    return rows


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_grpo_steps_and_resumes(base, tmp_path, lora_rank):
    flags = dict(reward="cuda_paths:by_turns", lora_rank=lora_rank, eval_limit=1)
    train(train_grpo, base, tmp_path, **flags)
    rows = train(train_grpo, base, tmp_path, max_steps=2, resume=True, **flags)
    assert [row["step"] for row in rows] == [0, 1, 2] and rows[2]["frac_reward_zero_std"] == 0


def test_grpo_with_a_reference_model(base, tmp_path):
    flags = dict(beta=0.1, num_iterations=2, loss_type="dapo", gradient_checkpointing=True)
    train(train_grpo, base, tmp_path, reward="cuda_paths:by_turns", eval_every=0, **flags)


def test_grpo_in_fp32_without_a_signal(base, tmp_path):
    (row,) = train(train_grpo, base, tmp_path, dtype="float32", eval_every=0)
    assert row["frac_reward_zero_std"] == 1 and row["grad_norm"] == 0  # no verdict, no difference


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_sft_steps_and_resumes(base, tmp_path, lora_rank):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "2+2", "completion": "4"}\n{"prompt": "2", "completion": "2 4"}\n')
    flags = dict(train_data=str(data), batch_size=2, lora_rank=lora_rank)
    train(train_sft, base, tmp_path / "run", **flags)
    train(train_sft, base, tmp_path / "run", max_steps=2, resume=True, **flags)


# ---- judging ----


def test_judge(base):
    judge = Judge(str(base), device="cuda", dtype="bfloat16")
    (judgment,) = judge.judge([("3+4", "7", "8")], num_votes=2, max_completion_length=4)
    assert judge.backend.model.device == CUDA and judgment.winner is None
    assert [game["tokens"] for game in judgment.games] == [4] * 4


# ---- Triton ----


def test_kernels_compile_for_an_h100(gpu, monkeypatch):
    """All kernels that sampling and training launch, with the types that they are given."""
    pytest.importorskip("triton")
    decode_steps(gpu, monkeypatch)
    test_packed_attention_and_logprobs(gpu)
    test_logprobs_in_chunks(gpu, torch.bfloat16, "triton")
    assert gpu.kernels
    for kernel, *rest in gpu.kernels.values():
        used = fakecuda.compile_kernel(kernel, *rest)
        print(kernel.__name__, used)
        assert used["spills"] == 0 and used["registers"] <= 255
