"""The benchmarks run, measure by turns, and see a wrong result.

The plan is compared with counted parameters, real tensors and numbers worked out by hand.
"""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch
from tiny_models import make_model_folder

import sampler
import train_grpo
from cli import BadInput
from distributed import Policy, Runtime
from extras import bench, bench_gpu, bench_gpu_parts, bench_step, bench_training, peers, plan
from kernels.packed_attention import packed_attention
from model import Config, Model, pack_groups
from rollout import Group

CPU = torch.device("cpu")
SMALL = "--dtype float32 --repeats 1 --device cpu --json"
SAMPLER = f"sampler --prompts 2 --generations 3 --prompt_tokens 12 --new_tokens 6 {SMALL}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return make_model_folder(tmp_path_factory.mktemp("model") / "m", initializer_range=0.1)


@pytest.fixture(autouse=True)
def known_limits(request, monkeypatch):
    """Measuring the machine takes a second: one test does it."""
    if request.node.name != "test_sampler":
        monkeypatch.setattr(peers, "machine_limits", lambda device, dtype: (1e10, 1e10))


def run(capsys, folder, command):
    """(exit code, the JSON object) of a benchmark."""
    try:
        bench.main([*command.split(), "--model", str(folder)])
        code = 0
    except SystemExit as error:
        code = error.code
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


# ---- measuring ----


def test_arms_run_by_turns_and_ratios_are_of_neighbours(monkeypatch):
    order = []
    runs = peers.alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, CPU)
    assert order == ["a", "b"] * 3 and all(len(measured) == 3 for measured in runs.values())
    runs = {
        name: [{"seconds": s, "cpu_seconds": s / 2, "peak_bytes": 2**20} for s in seconds]
        for name, seconds in {"a": [1, 2, 4], "b": [5, 4, 40]}.items()
    }
    a, b = peers.rows_of(runs, 1.0, CPU, {"a": ("wrong", False)}, size=7)
    assert (a["ratio"], a["of_limit"], a["check"], a["ok"], a["size"]) == (
        1,
        0.5,
        "wrong",
        False,
        7,
    )
    assert (
        b["ratio"],
        b["ratio_range"],
        b["cpu_ratio"],
        b["seconds"],
        b["seconds_range"],
        b["ok"],
    ) == (5, [2, 10], 5, 5, [4, 40], True)


def test_peak_memory_is_that_of_the_call():
    def use():
        torch.ones(2**25)  # 128 MiB, let go again
        return 1

    measured = peers.measure(use, CPU)
    assert measured["result"] == 1 and (
        measured["peak_bytes"] == 0 or 0.9 * 2**27 < measured["peak_bytes"] < 1.5 * 2**27
    )


def test_limits_by_hand():
    sizes = plan.Sizes(
        parameters=0,
        body=100,
        head=20,
        layers=2,
        hidden=0,
        intermediate=0,
        query_width=0,
        kv_width=5,
    )
    assert peers.training_operations(sizes, 10, 4) == 6 * (100 * 10 + 20 * 4)
    # One prompt of 3 tokens, 4 rows, 10 steps in fp32: 600 operations once.
    # A step reads 480 bytes or does 960 operations; a token holds 80 bytes.
    least = peers.rollout_seconds(sizes, [[1, 2, 3]], 4, 10, 4, 600.0, 1000.0)
    assert least == pytest.approx(1 + 10 * max(0.48, 1.6) + 80 * (10 * 3 + 4 * 50) / 1000)


def test_packs_by_hand():
    completions = [[1] * 4, [2] * 3, [3] * 2]
    assert list(bench_training.packs([0] * 5, completions, 12, True)) == [
        completions[:2],
        completions[2:],
    ]
    assert list(bench_training.packs([0] * 5, completions, 16, False)) == [
        completions[:1],
        completions[1:],
    ]
    assert list(bench_training.packs([0] * 5, completions, 1, True)) == [
        [completion] for completion in completions
    ]


# ---- the benchmarks ----


def test_sampler(folder, capsys):
    code, result = run(capsys, folder, SAMPLER)
    ours, generate = result["rows"]
    assert code == 0 and (ours["arm"], generate["arm"], generate["check"]) == (
        "ours",
        "generate",
        "36 tokens",
    )
    assert "greedy tokens equal: True" in ours["check"] and 0 < ours["of_limit"] < 1
    assert (
        ours["tokens_per_second"] == pytest.approx(36 / ours["seconds"]) and generate["ratio"] > 0
    )


def test_sampler_sees_wrong_logprobs(folder, capsys, monkeypatch):
    right = sampler.generate

    def wrong(*arguments, **options):
        results = right(*arguments, **options)
        results[0][0].logprobs[0] += 0.01
        return results

    monkeypatch.setattr(sampler, "generate", wrong)
    code, result = run(capsys, folder, SAMPLER)
    assert code == 1 and [row["ok"] for row in result["rows"]] == [False, True]


def test_logprob_and_a_wrong_entropy(folder, capsys, monkeypatch):
    code, result = run(capsys, folder, f"logprob --tokens 40 {SMALL}")
    assert code == 0 and [(row["pass"], row["arm"]) for row in result["rows"]] == [
        (name, arm) for name in ("forward", "forward + backward") for arm in ("ours", "all logits")
    ]
    right = bench_training.token_logprobs
    monkeypatch.setattr(
        bench_training,
        "token_logprobs",
        lambda *arguments: (right(*arguments)[0], right(*arguments)[1] + 0.01),
    )
    assert run(capsys, folder, f"logprob --tokens 40 {SMALL}")[0] == 1


def test_packing_and_a_wrong_gradient(folder, capsys, monkeypatch):
    command = f"packing --grid 3/20/8,2/9/5 --micro_batch_tokens 34 {SMALL}"
    code, result = run(capsys, folder, command)
    tokens = [int(row["check"].split()[-3]) for row in result["rows"][:3]]
    # Lengths 8, 6, 4: packs of two and one, [prompt, 7, 5] and [prompt, 3];
    # each alone with its prompt; all as if 8 long.
    assert code == 0 and tokens == [20 + 7 + 5 + 20 + 3, 3 * 20 + 7 + 5 + 3, 3 * (20 + 7)]
    right = bench_training.pack_groups

    def wrong(groups, device):
        pack = right(groups, device)
        if len(groups[0][1]) > 1:
            pack.positions[-1] += 1
        return pack

    monkeypatch.setattr(bench_training, "pack_groups", wrong)
    code, result = run(capsys, folder, command)
    assert code == 1 and [row["ok"] for row in result["rows"][:3]] == [False, True, True]


def test_judge(folder, capsys):
    code, result = run(capsys, folder, f"judge --pairs 2 --votes 2 --new_tokens 5 {SMALL}")
    ours, loop = result["rows"]
    assert (
        code == 0
        and ours["pairs"] == 2
        and ours["check"].startswith("prompts equal: True")
        and 0 < loop["tokens_per_game"] <= 5
    )


def test_step_needs_trl(folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install trl datasets"):
        bench.main(["step", "--model", str(folder), "--device", "cpu"])


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("trl", "datasets"))), reason="pip install trl datasets"
)
def test_step_beside_trl(folder, capsys):
    code, result = run(capsys, folder, f"step --new_tokens 4 --generations 2 {SMALL}")
    assert (
        code == 0
        and [row["arm"] for row in result["rows"]] == ["ours", "TRL"]
        and result["rows"][1]["check"] == "4 tokens a completion"
    )


def test_the_plain_loss_of_the_step_is_the_trainers(folder):
    """The reference of the step is right, and the check would see another loss.

    The prompt has transformers' padding token, whose gradient as an input it drops. The rollout
    is that of a model a little different, so that importance weights are not 1.
    """
    model, peer = peers.load_both(folder, CPU, torch.float32)
    peer.get_input_embeddings().padding_idx = 7
    prompt = list(range(5, 25))
    group = Group(
        None,
        [],
        prompt,
        seed=0,
        completions=sampler.generate(model, [prompt], 3, 7)[0],
        advantages=[1.0, -0.5, -0.5],
    )
    group.completions[1].tokens, group.completions[1].logprobs = (
        group.completions[1].tokens[:3],
        group.completions[1].logprobs[:3],
    )
    group.completions[0].logprobs = [
        logprob + 0.1 * (-1) ** place for place, logprob in enumerate(group.completions[0].logprobs)
    ]
    reference = bench_step.naive_gradients(peer, group, 3, 2.0)
    gaps = []
    for loss_type in ("grpo", "dapo"):
        policy = Policy(folder, Runtime(0, 1, CPU, torch.float32))
        options = train_grpo.Settings(
            num_generations=3, max_completion_length=7, loss_type=loss_type
        )
        bench_step.backward(policy, [group], options)
        gaps.append(
            bench_training.distance(
                {name: weight.grad for name, weight in policy.masters.items()}, reference
            )
        )
    assert gaps[0] < 1e-5 and gaps[1] > 0.05


# ---- everything on a GPU ----


def run_gpu(capsys, *flags):
    """(exit code, rows) of `bench gpu`, rehearsed on a CPU."""
    command = ["gpu", "--shapes", "tiny", "--device", "cpu", "--dtype", "float32", *flags]
    try:
        bench.main(command)
        code = 0
    except SystemExit as error:
        code = error.code
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_everything_on_a_gpu(tmp_path, capsys):
    out = tmp_path / "gpu.jsonl"
    code, rows = run_gpu(capsys, "--minutes", "20", "--out", str(out))
    assert code == 0 and [json.loads(line) for line in out.read_text().splitlines()] == rows
    parts = ["start", *bench.Settings.parts.split(",")[:-1]]  # decode_more: none that is tiny
    assert list(dict.fromkeys(row["part"] for row in rows)) == parts
    assert not any("error" in row or "skipped" in row for row in rows)
    smoke = [row for row in rows if row["part"] == "smoke"]
    assert smoke[0]["largest_gap"] < 1e-4 and smoke[2]["largest_gap"] < 1e-4
    assert smoke[1]["loss"] == smoke[1]["loss_resumed"] and smoke[1]["grad_norm"] > 0
    decoded = [(row["arm"], row["rows"]) for row in rows if row["part"] == "decode"]
    assert decoded == [("ours", 1), ("generate", 1), ("ours", 4), ("generate", 4)]
    assert all(row["tokens_per_second"] > 0 for row in rows if row["part"] == "decode")


def test_goals_stand_with_their_metric_and_on_a_gpu_alone():
    rows = {"tokens_per_second": 700.0, "seconds": 0.02}
    run = SimpleNamespace(device=torch.device("cuda"))
    decode = bench_gpu_parts.with_goal(run, rows, "decode qwen2-1.5b 1", "tokens_per_second")
    assert decode == rows | {"goal": "tokens_per_second >= 600", "reached": True}
    logprob = bench_gpu_parts.with_goal(run, rows, "logprob forward", "seconds")
    assert logprob == rows | {"goal": "seconds <= 0.016", "reached": False}
    assert bench_gpu_parts.with_goal(run, rows, "decode qwen2-7b 1", "seconds") == rows
    run.device = torch.device("cpu")
    assert bench_gpu_parts.with_goal(run, rows, "logprob forward", "seconds") == rows


def test_a_part_that_fails_leaves_its_error(tmp_path, capsys, monkeypatch):
    def fails(run):
        yield {"first": 1}
        raise torch.OutOfMemoryError("CUDA out of memory. Tried\nmore")

    monkeypatch.setitem(bench_gpu.PARTS, "decode", (fails, 1))
    code, rows = run_gpu(capsys, "--parts", "decode,roofline")
    assert code == 1 and [row["part"] for row in rows] == ["start", "decode", "decode", "roofline"]
    assert rows[1]["first"] == 1
    assert rows[2]["error"] == "OutOfMemoryError: CUDA out of memory. Tried" and not rows[2]["ok"]


def test_a_part_without_time_is_left_out(capsys):
    code, rows = run_gpu(capsys, "--parts", "step,roofline", "--minutes", "0.5")
    assert code == 0 and rows[1]["skipped"].startswith("needs 60 s, ") and "gflops" in rows[2]


def test_after_a_fault_of_the_gpu_a_new_process_goes_on(capsys, monkeypatch):
    """Every later call fails after an illegal access. The rates are measured again."""
    words = []

    def stop(program, arguments):
        words.extend(arguments)
        raise KeyboardInterrupt

    def dead(device):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(bench_gpu, "synchronize", dead)
    monkeypatch.setattr(bench_gpu.os, "execv", stop)
    cancel, cancelled = bench_gpu.faulthandler.cancel_dump_traceback_later, []
    monkeypatch.setattr(
        bench_gpu.faulthandler,
        "cancel_dump_traceback_later",
        lambda: cancelled.append(cancel()),
    )
    with pytest.raises(KeyboardInterrupt):
        run_gpu(capsys, "--parts", "roofline,packing,step", "--minutes", "3")
    assert cancelled  # else it would end this process after 225 s
    assert words[words.index("--parts") + 1] == "roofline,packing,step"
    assert 2 < float(words[words.index("--minutes") + 1]) < 3
    assert words[words.index("--shapes") + 1] == "tiny"


def test_random_shape_and_table(folder, capsys, monkeypatch):
    small = dict(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    monkeypatch.setitem(bench.SHAPES, "qwen2-1.5b", small)
    bench.main(
        f"logprob --tokens 9 --random_shape qwen2-1.5b --layers 1 {SMALL} --model {folder}".replace(
            "--json", ""
        ).split()
    )
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) == 5
        and lines[0].split()[:3] == ["tokens", "vocab", "hidden"]
        and lines[1].split()[:3] == ["9", "400", "32"]
    )


@pytest.mark.parametrize(
    "command, told",
    [
        ("", "say first which"),
        ("sampler --repeats 0", "--repeats"),
        ("packing --grid 4/20", "--grid"),
        ("plan --gpus 8,x", "--gpus"),
        ("gpu --minutes 0", "--minutes: must be above 0"),
        ("gpu --parts smoke,decod", "--parts: 'decod' is not one of"),
        ("step --generations 1", "--generations"),
        ("judge --new_tokens 5000", "context"),
        ("plan --gpus 1 --random_shape qwen2-7b", "--gpus 1: needs"),
    ],
)
def test_bad_input(folder, command, told):
    with pytest.raises(BadInput, match=told):
        bench.main(
            [*command.split(), *(["--model", str(folder), "--device", "cpu"] if command else [])]
        )


# ---- the plan ----


@pytest.mark.parametrize("kind, tied", [("llama", True), ("qwen2", False), ("qwen3", True)])
def test_parameters_are_those_of_the_model(kind, tied):
    raw = dict(
        model_type=kind,
        vocab_size=70,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        model = Model(Config(raw))
    sizes = plan.sizes_of(raw)
    assert sizes.parameters == sum(weight.numel() for weight in model.parameters())
    assert sizes.body == sum(
        module.weight.numel()
        for module in model.layers.modules()
        if isinstance(module, torch.nn.Linear)
    )


def test_states_are_those_of_a_training(folder):
    policy = Policy(folder, Runtime(0, 1, CPU, torch.bfloat16))
    optimizer = torch.optim.AdamW(policy.masters.values(), fused=True)
    pack = pack_groups([([5, 6, 7], [[8, 9], [10]])])
    sum(policy.model.logprobs(pack)).sum().backward()
    optimizer.step()
    moments = [
        state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")
    ]
    kept = sum(
        tensor.nbytes
        for tensor in [
            *policy.masters.values(),
            *(weight.grad for weight in policy.masters.values()),
            *moments,
        ]
    )
    parts = plan.memory(plan.sizes_of(policy.model.config.raw), 1, 8)
    assert (
        kept == parts["states"]
        and sum(weight.nbytes for weight in policy.model.parameters()) == parts["weights"]
    )


def test_activations_are_those_of_a_forward_pass():
    raw = dict(
        model_type="llama",
        vocab_size=64,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
    )
    model = Model(Config(raw))
    pack, kept = pack_groups([(list(range(50)), [list(range(41))] * 4)]), {}
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model(pack.tokens, pack.positions, packed_attention(pack))
    measured = sum(
        tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights
    )
    expected = plan.activation_bytes(plan.sizes_of(raw), len(pack.tokens), 50 + 4 * 90, itemsize=4)
    expected += (
        4 * len(pack.tokens) * 96 * (3 * 2 + 3)
    )  # what an unfused norm keeps besides, and the last norm
    assert hidden.requires_grad and measured == pytest.approx(expected, rel=0.05)


SEVEN_B = {"model_type": "qwen2"} | bench.SHAPES["qwen2-7b"]


def plan_settings(**changes):
    return SimpleNamespace(
        **dict(
            gpu_memory=80,
            prompts=128,
            generations=8,
            prompt_tokens=1024,
            new_tokens=8192,
            mean_tokens=2048,
            micro_batch_tokens=8192,
            gradient_checkpointing=True,
            reference=False,
            rates=None,
        )
        | changes
    )


def test_the_plan_of_7b_on_8_gpus_of_80_gb_by_hand():
    sizes, row = plan.sizes_of(SEVEN_B), plan.plan(SEVEN_B, 8, plan_settings())
    assert (
        sizes.parameters == 7_615_616_512 and plan.kv_bytes(sizes) == 57_344
    )  # of the published config.json
    assert (
        round(row["states_gb"]) == round(row["weights_gb"]) == 15 and row["idle_prompts"] == 0
    )  # as runs/rrm.sh has it
    assert row["rows"] == 128  # all of a GPU: pages grow with the rows
    assert row["kv_gb"] == pytest.approx(128 * 57_344 * (2048 + 128) / 1e9)
    assert row["step_s"] == pytest.approx(
        row["gather_s"] + row["rollout_s"] + max(row["update_s"], row["exchange_s"])
    )
    assert row["gather_s"] == pytest.approx(2 * 7.6156e9 * 7 / 8 / 300e9, rel=1e-4)
    # The longest completion alone reads 14 GB 8,192 times, at 65 % of 3.0 TB/s.
    assert row["rollout_s"] > 8192 * 2 * (sizes.body + sizes.head) / (0.65 * 3.0e12)
    more = plan.plan(SEVEN_B, 64, plan_settings())
    assert more["update_s"] == pytest.approx(row["update_s"] / 8)
    assert more["states_gb"] == pytest.approx(row["states_gb"] / 8)
    assert more["rollout_s"] > row["rollout_s"] / 2  # the longest completion is as long as before
    less = plan.plan(SEVEN_B, 8, plan_settings(gpu_memory=141, gradient_checkpointing=False))
    assert less["activations_gb"] > 5 * row["activations_gb"]


def test_a_reference_model_is_planned():
    plain, row = (
        plan.plan(SEVEN_B, 8, plan_settings(reference=reference)) for reference in (False, True)
    )
    assert plain["reference_gb"] == 0
    assert row["reference_gb"] == pytest.approx(2 * 7.6156e9 / 8 / 1e9, rel=1e-4)
    # forward, backward twice a forward, forward again: a fifth forward pass
    assert row["update_s"] == pytest.approx(plain["update_s"] * 5 / 4)


def test_what_32b_needs_is_said():
    shape = dict(
        vocab_size=152064,
        hidden_size=5120,
        intermediate_size=27648,
        num_hidden_layers=64,
        num_attention_heads=40,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )
    large = {"model_type": "qwen2"} | shape
    with pytest.raises(BadInput, match="more memory, because each of them holds all weights"):
        plan.plan(large, 1024, plan_settings(gpu_memory=64))
    with pytest.raises(BadInput, match="--gpus 8: needs .* GB a GPU of 80 GB: more GPUs"):
        plan.plan(large, 8, plan_settings())
    assert plan.plan(large, 32, plan_settings(gpu_memory=141))["weights_gb"] > 65


def test_lengths_have_a_tail():
    lengths = plan.lengths_of(1000, 2048, 8192)
    assert max(lengths) == 8192 and sum(lengths) / 1000 == pytest.approx(2048, rel=0.03)
    assert sorted(lengths)[500] < 1700
    assert plan.lengths_of(1, 100, 400) == [400]


def test_a_rollout_by_hand(monkeypatch):
    """A step takes as many seconds as rows run: then all completions take their lengths' sum."""
    monkeypatch.setattr(plan, "lengths_of", lambda *_: [5, 2, 3, 10])
    monkeypatch.setattr(plan, "decode_seconds", lambda sizes, rows, keys, rates: rows)
    settings = plan_settings(generations=4, prompt_tokens=0)
    assert plan.rollout_seconds(None, 1, 4, settings, None) == (20.0, 5.0)
    # Two at once: 0 to 5 and 0 to 2; then 2 to 5 and 5 to 15. The last ten steps have one row.
    monkeypatch.setattr(plan, "decode_seconds", lambda sizes, rows, keys, rates: 1.0)
    assert plan.rollout_seconds(None, 1, 2, settings, None) == (15.0, 0.0)
    seen = []
    monkeypatch.setattr(plan, "decode_seconds", lambda s, rows, keys, r: seen.append(keys) or 1.0)
    plan.rollout_seconds(None, 1, 4, settings, None)
    assert seen == [4 * 1.0, 3 * 2.5, 2 * 4.0, 7.5]  # rows times their mean length


def test_rates_are_those_that_were_measured(tmp_path):
    path = tmp_path / "gpu.jsonl"
    rows = [
        {"part": "roofline", "gflops": 700e3, "read_gb_per_second": 4000.0},
        {"part": "decode", "arm": "ours", "rows": 1, "of_limit": 0.3},
        {"part": "decode", "arm": "ours", "rows": 64, "of_limit": 0.5},
        {"part": "decode", "arm": "generate", "rows": 64},
        {"part": "step", "update_mfu": 0.3},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rates = plan.rates_of(plan_settings(rates=str(path)))
    assert (rates.products, rates.bandwidth) == (700e12, 4e12)
    assert (rates.training, rates.decoding, rates.launch) == (0.3, 0.5, 0.0)
    assert plan.rates_of(plan_settings(gpu_memory=141)).bandwidth == 4.3e12
