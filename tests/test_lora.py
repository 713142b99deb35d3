"""LoRA: gradients by hand and against full fine-tuning, PEFT's files both ways, the commands."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_model_folder, make_tokenizer
from transformers import AutoModelForCausalLM

import cli
import judge
import lora
import train_grpo
import train_sft
from cli import BadInput
from distributed import Policy, Runtime, save_checkpoint
from extras import train_dpo
from judge import Judge
from kernels.packed_attention import packed_attention
from model import Model, pack_groups
from ranking import RankSettings, cache_names
from resume import load_checkpoint
from sampler import generate
from styles import load_style

torch.set_num_threads(1)
ALONE = Runtime(0, 1, torch.device("cpu"), torch.float32)
BF16 = Runtime(0, 1, torch.device("cpu"), torch.bfloat16)
ROOT = Path(__file__).parents[1]
PROMPT, COMPLETIONS = list(range(20, 40)), [[41, 42, 43, 44], [45, 46]]
PACK = pack_groups([(PROMPT, COMPLETIONS)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("base"), "qwen2")


def new_adapter(folder, rank=4, alpha=8.0, seed=0):
    settings = SimpleNamespace(lora_rank=rank, adapter=None, seed=seed, model=folder)
    adapter = lora.new_adapter(settings)
    return dataclasses.replace(adapter, config=adapter.config | {"lora_alpha": alpha})


def new_policy(folder, runtime=ALONE, **options):
    return Policy(folder, runtime, adapter=new_adapter(folder, **options))


def stirred(folder, runtime=ALONE):
    """A policy whose adapter is at work: B is not zero."""
    policy = new_policy(folder, runtime)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, master in policy.masters.items():
            if name.endswith("lora_B"):
                master.copy_(0.05 * torch.randn(master.shape, generator=generator))
        for name, parameter in policy.model.named_parameters():
            parameter.copy_(policy.masters.get(name, parameter))
    return policy


def saved(policy, path, style=None):
    style = style and load_style(style)
    save_checkpoint(path, 1, policy, adam(policy), make_tokenizer(), style)
    return path / "checkpoint-1"


def adam(policy):
    return torch.optim.AdamW(policy.masters.values(), lr=1e-2, weight_decay=0.0)


def loss_of(model):
    logprobs, _ = model.logprobs(PACK)
    return (logprobs * torch.tensor([1.0, -2.0, 0.5, 1.0, 3.0, -1.0])).sum()


def logits_of(model):
    pack = pack_groups([(PROMPT, [])])
    with torch.no_grad():
        hidden = model(pack.tokens, pack.positions, packed_attention(pack))
    return hidden @ model.head_weight.T


def merged(policy):
    """A plain Model with W + scale * B @ A, and the product of each layer."""
    model = Model.from_pretrained(policy.folder, dtype=policy.runtime.dtype)
    deltas = {}
    with torch.no_grad():
        for name, layer in model.layers.named_modules():
            if name.rpartition(".")[2] in lora.LAYERS:
                a, b = (policy.masters[f"layers.{name}.lora_{letter}"] for letter in "AB")
                deltas[name] = 8 / 4 * b @ a
                layer.weight.copy_(layer.weight + deltas[name])
    return model, deltas


# ---- the algorithm ----


def test_the_product_by_hand():
    """x = [1 2], W the identity, A = [1 2], B = [3 0]^T, scale 2: h = 5, y = x + bias + 2 h B."""
    layer = torch.nn.Linear(2, 2).requires_grad_(False)
    layer.weight.copy_(torch.eye(2))
    layer.bias.copy_(torch.tensor([10.0, 20.0]))
    layer.lora_A = torch.nn.Parameter(torch.tensor([[1.0, 2.0]]))
    layer.lora_B = torch.nn.Parameter(torch.tensor([[3.0], [0.0]]))
    layer.lora_scale = 2.0
    layer.register_forward_hook(lora.add_product)
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    y = layer(x)
    assert y.tolist() == [[1 + 10.0 + 2 * 5 * 3, 2 + 20.0]]
    (y * torch.tensor([[1.0, 4.0]])).sum().backward()  # g = [1 4], g B = 3
    assert x.grad.tolist() == [[1 + 2 * 3 * 1.0, 4 + 2 * 3 * 2.0]]
    assert layer.lora_A.grad.tolist() == [[2 * 3 * 1.0, 2 * 3 * 2.0]]
    assert layer.lora_B.grad.tolist() == [[2 * 1 * 5.0], [2 * 4 * 5.0]]
    assert layer.weight.grad is None


def test_gradients_are_those_of_full_training_projected(folder):
    """dA = scale B^T dW and dB = scale dW A^T in every layer, dW being that of the merged model."""
    policy = stirred(folder)
    loss_of(policy.model).backward()
    full, deltas = merged(policy)
    loss = loss_of(full)
    loss.backward()
    torch.testing.assert_close(loss, loss_of(policy.model))
    assert len(deltas) == 2 * len(lora.LAYERS) and len(policy.masters) == 2 * len(deltas)
    for name in deltas:
        dw = full.layers.get_submodule(name).weight.grad
        a, b = (policy.masters[f"layers.{name}.lora_{letter}"] for letter in "AB")
        torch.testing.assert_close(a.grad, 2.0 * b.T @ dw, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(b.grad, 2.0 * dw @ a.T, atol=1e-5, rtol=1e-4)
    for name, weight in policy.model.named_parameters():
        assert name in policy.masters or weight.grad is None


def test_training_starts_with_the_base_model(folder):
    policy = new_policy(folder)
    base = Model.from_pretrained(folder, dtype=torch.float32)
    assert loss_of(base).item() == pytest.approx(loss_of(policy.model).item(), abs=1e-6)
    again, other = new_policy(folder).masters, new_policy(folder, seed=1).masters
    for name, value in policy.masters.items():
        assert torch.equal(value, again[name])
        assert torch.equal(value, other[name]) == name.endswith("lora_B")


def test_merging_would_round_a_small_adapter_away(folder):
    """Of what B @ A adds to bf16 weights, most entries are lost; beside them it counts."""
    policy = new_policy(folder, BF16)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if name.endswith("lora_B"):
                policy.masters[name].fill_(2e-5)
                weight.fill_(2e-5)
    model, deltas = merged(policy)
    base = Model.from_pretrained(folder)
    for name, delta in deltas.items():
        before, after = (m.layers.get_submodule(name).weight for m in (base, model))
        assert (before != after).float().mean() < 0.25 and (delta != 0).float().mean() > 0.9
    assert loss_of(policy.model) != loss_of(base)


@pytest.mark.parametrize("runtime, limit", [(ALONE, 1e-4), (BF16, 0.05)])
def test_sampler_and_trainer_agree(folder, runtime, limit):
    policy = stirred(folder, runtime)
    (completions,) = generate(policy.model, [PROMPT], num_generations=4, max_new_tokens=24, seed=3)
    pack = pack_groups([(PROMPT, [completion.tokens for completion in completions])])
    logprobs, _ = policy.model.logprobs(pack)
    sampled = [value for completion in completions for value in completion.logprobs]
    assert (logprobs.detach() - torch.tensor(sampled)).abs().max() < limit


# ---- training ----


def train(policy, optimizer, steps):
    for _ in range(steps):
        loss_of(policy.model).backward()
        policy.step(optimizer, 0.0, 1.0)


@pytest.mark.parametrize("runtime", [ALONE, BF16])
def test_a_resumed_run_goes_on_exactly(folder, runtime, tmp_path):
    policy = new_policy(folder, runtime)
    optimizer = adam(policy)
    train(policy, optimizer, 2)
    save_checkpoint(tmp_path, 2, policy, optimizer, make_tokenizer())
    train(policy, optimizer, 2)
    resumed = Policy(tmp_path / "checkpoint-2", runtime, adapter=new_adapter(folder))
    optimizer = adam(resumed)
    assert load_checkpoint(tmp_path / "checkpoint-2", resumed, optimizer)["step"] == 2
    train(resumed, optimizer, 2)
    assert resumed.masters.keys() == policy.masters.keys()
    for name, value in policy.masters.items():
        assert value.dtype == torch.float32 and torch.equal(value, resumed.masters[name]), name


def test_dpo_moves_the_adapter_alone(folder):
    policy = new_policy(folder)
    before = {name: weight.clone() for name, weight in policy.model.named_parameters()}
    reference = Model.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
    optimizer, rows = adam(policy), [(PROMPT, COMPLETIONS, "row")]
    losses = []
    for _ in range(8):
        row = train_dpo.train_step(policy, reference, optimizer, rows, train_dpo.Settings())
        losses.append(row["loss"])
    assert losses[-1] < losses[0] - 0.01
    for name, weight in policy.model.named_parameters():
        assert torch.equal(weight, before[name]) != (name in policy.masters), name


def run(module, *flags):
    settings = cli.parse_settings(module.Settings, list(map(str, flags)))
    module.main(settings)
    return Path(settings.output_dir) / f"checkpoint-{settings.max_steps}"


def test_train_grpo_resumes_and_judge_reads_the_adapter(tmp_path, capsys):
    sizes = ("--prompts_per_step", 2, "--num_generations", 4, "--eval_every", 0, "--save_every", 1)
    flags = (*sizes, "--learning_rate", 1e-2, "--lora_rank", 2, "--output_dir")
    whole = run(train_grpo, *flags, tmp_path / "whole", "--max_steps", 2)
    run(train_grpo, *flags, tmp_path / "parts", "--max_steps", 1)
    parts = run(train_grpo, *flags, tmp_path / "parts", "--max_steps", 2, "--resume")
    assert (whole / lora.WEIGHTS).read_bytes() == (parts / lora.WEIGHTS).read_bytes()

    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    command = (*torchrun, "train_grpo.py", *flags, tmp_path / "two", "--max_steps", 2)
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, timeout=240)
    on_two_processes = load_file(tmp_path / "two" / "checkpoint-2" / lora.WEIGHTS)
    for name, tensor in load_file(whole / lora.WEIGHTS).items():
        torch.testing.assert_close(on_two_processes[name], tensor, atol=1e-3, rtol=0)

    data = ("--train_data", ROOT / "tiny" / "train.jsonl", "--max_completion_length", 20)
    flags = ("--model", whole, *data, "--max_steps", 1, "--output_dir", tmp_path / "further")
    further = run(train_grpo, *sizes, *flags)  # trains the adapter of --model
    assert load_file(further / lora.WEIGHTS).keys() == on_two_processes.keys()

    capsys.readouterr()
    flags = ["--query", "347+586", "--a", "933", "--b", "923", "--max_completion_length", "60"]
    texts = []
    for model in (
        ["--model", whole],
        ["--model", "tiny-base", "--adapter", whole],
        ["--model", "tiny-base"],
    ):
        judge.main([*map(str, model), *flags])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("module", [train_grpo, train_sft, train_dpo])
def test_a_published_adapter_is_trained_further(module, tmp_path, folder):
    """--adapter: training starts with its values, keeps its alpha, and names --model as base."""
    adapter = saved(stirred(folder), tmp_path, "rrm_short")
    config = json.loads((adapter / lora.CONFIG).read_text())
    config["base_model_name_or_path"] = "someone/a-base-on-the-hub"
    (adapter / lora.CONFIG).write_text(json.dumps(config))
    before = load_file(adapter / lora.WEIGHTS)
    flags = ["--model", folder, "--adapter", adapter, "--max_steps", 1, "--learning_rate", 1e-9]
    rows = tmp_path / "rows.jsonl"
    if module is train_sft:
        rows.write_text(json.dumps({"question": "1+1", "answer": "2"}) + "\n")
        flags += ["--train_data", rows, "--batch_size", 1]
    else:
        flags += ["--train_data", ROOT / "tiny" / "train.jsonl", "--beta", 0.1]
    if module is train_grpo:
        flags += ["--prompts_per_step", 2, "--num_generations", 2, "--max_completion_length", 8]
        flags += ["--eval_data", "none"]
    if module is train_dpo:
        flags += ["--batch_size", 2]
    out = run(module, *flags, "--output_dir", tmp_path / "run")
    for name, tensor in load_file(out / lora.WEIGHTS).items():
        torch.testing.assert_close(tensor, before[name].float(), atol=1e-6, rtol=0)
    written = json.loads((out / lora.CONFIG).read_text())
    assert written == config | {"base_model_name_or_path": str(folder.resolve())}
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    if module is train_grpo:  # the reference has the adapter as well
        assert abs(row["kl"]) < 1e-6
        style = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["style"]
        assert Path(style).name == "rrm_short"
    if module is train_dpo:
        assert row["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert json.loads((out / "config.json").read_text())["judge_style"] == "rrm_short"
    # The checkpoint is an adapter itself, so --resume needs the same flags and goes on from it.
    # The adapter may lie elsewhere then, but not hold other values.
    assert run(module, *flags, "--output_dir", tmp_path / "run", "--resume") == out
    flags[3] = shutil.copytree(adapter, tmp_path / "moved")
    assert run(module, *flags, "--output_dir", tmp_path / "run", "--resume") == out
    save_file(before | {"x": torch.ones(1)}, tmp_path / "moved" / lora.WEIGHTS)
    with pytest.raises(BadInput, match="--adapter: .* was trained with other content"):
        run(module, *flags, "--output_dir", tmp_path / "run", "--resume")
    flags[3] = adapter
    with pytest.raises(BadInput, match="--lora_rank: .* adapter of rank 4: leave it out"):
        run(module, *flags, "--lora_rank", 2, "--output_dir", tmp_path / "other")
    with pytest.raises(BadInput, match="--adapter"):
        run(module, *flags[:2], "--adapter", tmp_path / "none", *flags[4:])


def test_train_sft_learns_with_an_adapter(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "1+1", "answer": "<think> ones</think> 2"}) + "\n")
    flags = ("--max_steps", 8, "--batch_size", 1, "--lora_rank", 4, "--learning_rate", 1e-2)
    trained = run(train_sft, "--train_data", rows, "--output_dir", tmp_path / "run", *flags)
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in metrics]
    assert losses[-1] < losses[0] - 0.1
    assert not (trained / "model.safetensors").exists()


# ---- files ----


def test_peft_reads_our_files_and_we_read_its(folder, tmp_path):
    peft = pytest.importorskip("peft")
    policy = stirred(folder)
    ours = saved(policy, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, ours).eval()
    with torch.no_grad():
        expected = theirs(torch.tensor([PROMPT])).logits[0]
    theirs.save_pretrained(tmp_path / "theirs")
    close = dict(atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits_of(policy.model), expected, **close)
    for name, adapter in ((ours, None), (folder, ours), (folder, tmp_path / "theirs")):
        model = Model.from_pretrained(name, dtype=torch.float32, adapter=adapter)
        torch.testing.assert_close(logits_of(model), expected, **close)


def test_an_adapter_of_peft_with_few_layers(folder, tmp_path):
    peft = pytest.importorskip("peft")
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj"])
    theirs = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        expected = theirs(torch.tensor([PROMPT])).logits[0]
    theirs.save_pretrained(tmp_path)
    model = Model.from_pretrained(folder, dtype=torch.float32, adapter=tmp_path)
    torch.testing.assert_close(logits_of(model), expected, atol=1e-4, rtol=1e-4)
    assert len(load_file(tmp_path / lora.WEIGHTS)) == 2 * 2 * 2
    with pytest.raises(BadInput, match="--adapter"):  # it has no config.json and no tokenizer
        Judge(tmp_path)


def test_a_judge_loads_an_adapter_either_way(folder, tmp_path):
    policy = stirred(folder)
    adapter = saved(policy, tmp_path, "rrm_short")
    options = {"dtype": "float32"}
    judges = [Judge(folder, adapter=adapter, **options), Judge(adapter, **options)]
    judges.append(Judge(folder, **options))
    assert [judge.style.name for judge in judges] == ["rrm_short", "rrm_short", "rrm"]
    given, named, base = (loss_of(judge.backend.model.float()).item() for judge in judges)
    assert given == named == pytest.approx(loss_of(policy.model).item(), abs=1e-4)
    assert abs(base - given) > 0.03
    (judgment,) = judges[0].judge([("What is 6 * 7?", "42", "48")], max_completion_length=4)
    assert len(judgment.games) == 2


def test_a_cache_of_matches_knows_the_adapter(folder, tmp_path):
    settings = RankSettings(query="?", style="rrm", adapter=str(saved(stirred(folder), tmp_path)))
    names = cache_names(settings, folder, ["an answer"])
    assert names != cache_names(dataclasses.replace(settings, adapter=None), folder, ["an answer"])


def test_files_hold_the_adapter_alone(folder, tmp_path):
    checkpoint = saved(stirred(folder), tmp_path)
    names = {path.name for path in checkpoint.iterdir()}
    assert {lora.CONFIG, lora.WEIGHTS, "config.json", "trainer"} <= names
    assert "model.safetensors" not in names
    assert len(load_file(checkpoint / lora.WEIGHTS)) == 2 * 2 * len(lora.LAYERS)
    config = json.loads((checkpoint / lora.CONFIG).read_text())
    assert config["base_model_name_or_path"] == str(folder) and config["lora_alpha"] == 8.0


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3': only plain LoRA"),
        ({"use_dora": True}, "use_dora"),
        ({"a_new_variant": 1}, "a_new_variant"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"target_modules": ["lm_head"]}, "target_modules"),
        ({"target_modules": "all-linear"}, "target_modules"),
        ({"r": 0}, "field 'r'|r is 0"),
        ({"r": True}, "r is True: expected a number above 0"),
        ({"lora_alpha": "8"}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf"),
        ({"target_modules": [["q_proj"]]}, "target_modules"),
        ({"target_modules": ["q_proj"]}, "expected nothing"),  # the file has more
    ],
)
def test_what_is_no_plain_lora_is_refused(folder, tmp_path, change, complaint):
    adapter = saved(stirred(folder), tmp_path)
    config = json.loads((adapter / lora.CONFIG).read_text()) | change
    (adapter / lora.CONFIG).write_text(json.dumps(config))
    with pytest.raises(BadInput, match=complaint):
        Model.from_pretrained(folder, adapter=adapter)


def test_what_does_not_fit_is_refused(folder, tmp_path):
    adapter = saved(stirred(folder), tmp_path)
    other = make_model_folder(tmp_path / "other", "qwen2", intermediate_size=96)
    with pytest.raises(BadInput, match="another model"):
        Model.from_pretrained(other, adapter=adapter)
    with pytest.raises(BadInput, match="is an adapter itself"):
        Model.from_pretrained(adapter, adapter=adapter)
    with pytest.raises(BadInput, match="--lora_rank: .* adapter of rank 4"):
        Policy(adapter, ALONE, adapter=new_adapter(folder, rank=2))
    with pytest.raises(BadInput, match="a server loads its own"):
        Judge("name", base_url="http://127.0.0.1:1/v1", adapter=adapter)
    broken = lora.read_adapter(adapter).config
    broken["base_model_name_or_path"] = "/nowhere/base"
    (adapter / lora.CONFIG).write_text(json.dumps(broken))
    with pytest.raises(BadInput, match="or give --model BASE --adapter"):
        Model.from_pretrained(adapter)
    broken["base_model_name_or_path"] = None
    (adapter / lora.CONFIG).write_text(json.dumps(broken))
    with pytest.raises(BadInput, match="base_model_name_or_path is None: expected a model"):
        Model.from_pretrained(adapter)
    (adapter / lora.WEIGHTS).write_bytes(b"half a file")
    with pytest.raises(BadInput, match="not a complete safetensors file"):
        Model.from_pretrained(folder, adapter=adapter)
    (adapter / lora.WEIGHTS).unlink()
    save_file({"x": torch.ones(1)}, adapter / "other.safetensors")
    with pytest.raises(BadInput, match="not a complete safetensors file"):
        Model.from_pretrained(folder, adapter=adapter)


def test_the_adapter_that_is_published_is_a_judge(folder, tmp_path):
    """runs/qwen/ship.py: bf16, the name of the base, and the style of its training."""
    policy, out = stirred(folder), tmp_path / "published"
    checkpoint = saved(policy, tmp_path, "rrm_short")
    command = [sys.executable, ROOT / "runs/qwen/ship.py", checkpoint, out, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {tensor.dtype for tensor in load_file(out / lora.WEIGHTS).values()} == {torch.bfloat16}
    judge = Judge(folder, adapter=out, dtype="float32")
    assert judge.style.name == "rrm_short"
    loss = loss_of(judge.backend.model.float()).item()
    assert loss == pytest.approx(loss_of(policy.model).item(), abs=1e-3)


def test_another_alpha(folder, tmp_path):
    """The diff of docs/change_one_thing.md: the product counts alpha / rank."""
    source = Path(lora.__file__).read_text()
    (line,) = [line for line in source.splitlines() if line.startswith("ALPHA = ")]
    changed = {}
    exec(compile(source.replace(line, "ALPHA = 16.0"), "lora.py", "exec"), changed)
    settings = SimpleNamespace(lora_rank=4, adapter=None, seed=0, model=folder)
    for new_adapter, scale in ((lora.new_adapter, 8.0), (changed["new_adapter"], 4.0)):
        adapter = lora.Adapter(new_adapter(settings).config)
        model = Model.from_pretrained(folder, dtype=torch.float32, adapter=adapter)
        assert model.layers[0].self_attn.q_proj.lora_scale == scale


def test_a_rank_above_the_hidden_size_is_refused(folder):
    hidden_size = json.loads((folder / "config.json").read_text())["hidden_size"]
    for rank in (hidden_size + 1, 10**23):
        adapter = lora.new_adapter(train_sft.Settings(model=str(folder), lora_rank=rank))
        with pytest.raises(BadInput, match=f"LoRA rank {rank}: .*, {hidden_size}: .*--lora_rank"):
            Model.from_pretrained(folder, adapter=adapter)


@pytest.mark.parametrize("module", [train_grpo, train_sft, train_dpo])
def test_a_negative_rank_is_refused(module, tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')
    settings = module.Settings(train_data=str(data), lora_rank=-1)
    with pytest.raises(BadInput, match="--lora_rank: must .*-1"):
        module.prepare(settings)
