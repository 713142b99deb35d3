"""What must hold on a GPU. The same tests run on the CPU, so that they are right themselves."""

import pytest
import torch
import torch.distributed as dist
from masked import masked_attention
from test_packed_attention import random_groups
from tiny_models import make_model_folder

import sampler
from distributed import Policy, Runtime
from kernels.packed_attention import packed_attention
from model import Model, choose_device, pack_groups
from sharding import gathered, load_shards

GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)
PROMPTS = [list(range(5, 205)), [7], list(range(9, 30))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sizes = dict(hidden_size=64, head_dim=16, initializer_range=0.1)
    return make_model_folder(tmp_path_factory.mktemp("gpu") / "m", **sizes)


@pytest.fixture(params=["cpu", GPU])
def device(request):
    return choose_device(request.param)


@pytest.mark.parametrize("dtype, most", [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_the_sampler_has_the_trainers_logprobs(folder, device, dtype, most):
    """Two rows for nine generations: they end and are filled again."""
    model = Model.from_pretrained(folder, device, dtype)
    results = sampler.generate(model, PROMPTS, 3, 40, stop_token_ids=(3, 4), max_rows=2)
    groups = [(p, [c.tokens for c in group]) for p, group in zip(PROMPTS, results)]
    with torch.no_grad():
        logprobs, _ = model.logprobs(pack_groups(groups, device))
    own = [x for group in results for completion in group for x in completion.logprobs]
    gaps = (logprobs.cpu() - torch.tensor(own)).abs()
    assert gaps.max() <= most and gaps.mean() <= most / 5


@pytest.mark.parametrize("dtype, most", [(torch.float32, 1e-4), (torch.bfloat16, 0.02)])
def test_packed_attention_is_the_mask(device, dtype, most):
    pack = pack_groups(random_groups(0), device)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(len(pack.tokens), heads, 64, generator=generator) for heads in (6, 2, 2)]
    results = []
    for attend, kind in ((masked_attention(pack), torch.float64), (packed_attention(pack), dtype)):
        own = [x.to(dtype).to(device, kind).requires_grad_() for x in inputs]
        output = attend(0, *own)
        output.square().sum().backward()
        results.append([output.detach(), *[x.grad for x in own]])
    for expected, found in zip(*results):
        assert (found.double() - expected).norm() <= most * expected.norm()


def test_a_bf16_step_moves_the_masters(folder, device):
    policy = Policy(folder, Runtime(0, 1, device, torch.bfloat16))
    before = {name: master.detach().clone() for name, master in policy.masters.items()}
    optimizer = torch.optim.AdamW(policy.masters.values(), lr=1e-6, fused=True)
    logprobs, _ = policy.model.logprobs(pack_groups([(PROMPTS[2], [[5, 6], [7]])], device))
    logprobs.sum().backward()
    assert policy.step(optimizer, logprobs.sum().item(), 1.0) > 0
    for name, master in policy.masters.items():
        assert master.isfinite().all() and not master.equal(before[name]), name
        weight = policy.model.get_parameter(name)
        assert weight.equal(master.bfloat16()), name


@pytest.fixture
def one_process(device, tmp_path):
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    yield Runtime(0, 1, device, torch.float32)
    dist.destroy_process_group()


def test_fsdp_of_one_process(folder, device, one_process):
    """Sharded weights give the same log-probs and gradients. Nothing stays gathered afterwards."""
    model = load_shards(folder, one_process, torch.float32, None)
    plain = Model.from_pretrained(folder, device, torch.float32)
    pack = pack_groups([(PROMPTS[2], [[5, 6], [7, 8, 9]])], device)

    def is_sharded():
        return all(hasattr(weight, "full_tensor") for weight in model.parameters())

    with torch.no_grad():
        expected, _ = plain.logprobs(pack)
        found, _ = model.logprobs(pack)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert is_sharded()  # also the embedding and the head, though no backward pass follows
    for own in (plain, model):
        own.logprobs(pack)[0].sum().backward()
    for name, weight in model.named_parameters():
        gradient = plain.get_parameter(name).grad
        torch.testing.assert_close(weight.grad.full_tensor(), gradient, rtol=1e-4, atol=1e-4)
    with gathered(model) as whole:
        found = sampler.generate(whole, PROMPTS, 1, 5)
    assert [len(completion.tokens) for (completion,) in found] == [5, 5, 5]
    assert is_sharded()


def test_attention_of_cudnn_is_off(device):
    assert not torch.backends.cuda.cudnn_sdp_enabled()
