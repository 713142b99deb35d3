"""The benchmarks of training: log-probs, shared prompts, and a whole GRPO step beside TRL's. Run by `python -m extras.bench`."""

import contextlib
import importlib.util
import json
import sys
import tempfile
import time
import zlib

import torch

import rollout
import train_grpo
from chat import load_tokenizer
from cli import BadInput
from distributed import Policy, start
from extras.peers import (
    alternate,
    load_items,
    measure,
    memory_in_use,
    reset_peak,
    rollout_seconds,
    rows_of,
    synchronize,
    training_operations,
)
from extras.plan import sizes_of
from kernels.logprob import token_logprobs
from model import Model, pack_groups
from seeding import hash64
from styles import judge_messages, load_style

FULL_GRID = ",".join(
    f"{g}/{prompt}/{new}" for g in (4, 8, 16) for prompt in (256, 1024, 2048) for new in (128, 512)
)


def plain_logprobs(hidden, weight, targets):
    """What token_logprobs equals, with all logits at once."""
    logprobs = (hidden @ weight.T).float().log_softmax(-1)
    return logprobs.gather(1, targets[:, None])[:, 0], -(
        logprobs.detach().exp() * logprobs.detach()
    ).sum(-1)


def logprob_arms(device):
    """{name: function of hidden, weight, targets that returns log-probs and entropy (None where the package has none)}."""
    arms = {"ours": token_logprobs, "all logits": plain_logprobs}
    if device.type == "cuda":
        arms["torch.compile"] = torch.compile(plain_logprobs)
        if importlib.util.find_spec("liger_kernel"):
            from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

            loss = LigerFusedLinearCrossEntropyLoss(reduction="none")
            arms["liger-kernel"] = lambda hidden, weight, targets: (
                -loss(weight, hidden, targets),
                None,
            )
        if importlib.util.find_spec("cut_cross_entropy"):
            from cut_cross_entropy import linear_cross_entropy

            arms["cut-cross-entropy"] = lambda hidden, weight, targets: (
                -linear_cross_entropy(hidden, weight, targets, reduction="none"),
                None,
            )
    return arms


def logprob_error(function, hidden, weight, targets, coefficients):
    """(largest error of log-probs, of entropies, relative error of both gradients) against float64, on the first 256 tokens."""

    def results(function, kind):
        x, w = (tensor.detach().to(kind).requires_grad_() for tensor in (hidden[:256], weight))
        logprobs, entropy = function(x, w, targets[:256])
        return (
            logprobs,
            entropy,
            *torch.autograd.grad((logprobs * coefficients[:256]).sum(), (x, w)),
        )

    exact, ours = results(exact_logprobs, torch.float64), results(function, hidden.dtype)
    largest = [
        None if b is None else (a - b).abs().max().item() for a, b in zip(exact[:2], ours[:2])
    ]
    return *largest, max(((a - b).norm() / a.norm()).item() for a, b in zip(exact[2:], ours[2:]))


def exact_logprobs(hidden, weight, targets):
    logprobs = (hidden @ weight.T).log_softmax(-1)
    return logprobs.gather(1, targets[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


def bench_logprob(settings, folder, device, dtype, limits):
    weight = Model.from_pretrained(folder, device, dtype).head_weight.detach()
    vocab, size = weight.shape
    torch.manual_seed(settings.seed)
    hidden = (
        torch.randn(settings.tokens, size, device=device) * 3 / (weight.float().std() * size**0.5)
    ).to(dtype)  # logits of deviation 3
    targets = torch.randint(vocab, (settings.tokens,), device=device)
    coefficients, rows = torch.randn(settings.tokens, device=device), []
    tolerance = (1e-3, 1e-2) if dtype == torch.float32 else (0.05, 0.02)

    def both_ways(function):
        x, w = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
        torch.autograd.grad((function(x, w, targets)[0] * coefficients).sum(), (x, w))

    checks = {}
    for name, function in logprob_arms(device).items():
        logprob, entropy, gradient = logprob_error(function, hidden, weight, targets, coefficients)
        text = f"errors: log-prob {logprob:.1e}, entropy {'-' if entropy is None else f'{entropy:.1e}'}, gradient {gradient:.1e}"
        checks[name] = (
            text,
            name != "ours" or max(logprob, entropy) <= tolerance[0] and gradient <= tolerance[1],
        )
    for pass_name, factor in (("forward", 1), ("forward + backward", 3)):
        arms = {}
        for name, function in logprob_arms(device).items():

            def forward(function=function):
                with torch.no_grad():
                    function(hidden, weight, targets)

            arms[name] = forward if factor == 1 else lambda function=function: both_ways(function)
        alternate(arms, 10 if device.type == "cuda" else 1, device)  # warm-up
        floor = factor * 2 * settings.tokens * vocab * size / limits[0]
        shape = {"tokens": settings.tokens, "vocab": vocab, "hidden": size, "pass": pass_name}
        rows += rows_of(alternate(arms, settings.repeats, device), floor, device, checks, **shape)
    return rows


def packs(prompt, completions, budget, shared):
    """Cuts completions into lists of at most `budget` tokens (one at least); with `shared` each list has the prompt once."""
    batch, size = [], 0
    for completion in completions:
        cost = len(completion) + (0 if shared and batch else len(prompt))
        if batch and size + cost > budget:
            yield batch
            batch, size, cost = [], 0, len(prompt) + len(completion)
        batch.append(completion)
        size += cost
    if batch:
        yield batch


def accumulated(model, prompt, completions, coefficients, budget, shared):
    """Gradients {name: tensor} of the sum of coefficient * log-prob over all completions, and the tokens computed for them."""
    model.zero_grad(set_to_none=True)
    computed, used = 0, 0
    for batch in packs(prompt, completions, budget, shared):
        pack = pack_groups(
            [(prompt, batch)] if shared else [(prompt, [completion]) for completion in batch],
            model.device,
        )
        logprobs, _ = model.logprobs(pack)
        (logprobs * coefficients[used : used + len(logprobs)]).sum().backward()
        computed, used = computed + len(pack.tokens), used + len(logprobs)
    return {name: weight.grad for name, weight in model.named_parameters()}, computed


def distance(gradients, reference):
    """Norm of the difference over the norm of the reference, all parameters together."""
    parts = [
        (
            (gradients[name].float() - reference[name].float()).norm() ** 2,
            reference[name].float().norm() ** 2,
        )
        for name in reference
    ]
    return (
        (sum(difference for difference, _ in parts) / sum(size for _, size in parts)).sqrt().item()
    )


def bench_packing(settings, folder, device, dtype, limits):
    model, rows = Model.from_pretrained(folder, device, dtype), []
    vocab, sizes = model.config.vocab_size, sizes_of(model.config.raw)
    for shape in (FULL_GRID if settings.grid == "full" else settings.grid).split(","):
        count, prompt_tokens, new_tokens = map(int, shape.split("/"))
        torch.manual_seed(settings.seed)
        prompt = torch.randint(vocab, (prompt_tokens,)).tolist()
        lengths = [
            new_tokens - index * (new_tokens // 2) // max(1, count - 1) for index in range(count)
        ]  # evenly from all to half
        completions = [torch.randint(vocab, (length,)).tolist() for length in lengths]
        coefficients = torch.randn(sum(lengths), device=device) / sum(lengths)
        filled = [completion + [0] * (new_tokens - len(completion)) for completion in completions]
        weights = torch.cat(
            [
                torch.nn.functional.pad(part, (0, new_tokens - len(part)))
                for part in coefficients.split(lengths)
            ]
        )
        arms = {
            name: lambda arguments=arguments: accumulated(
                model, prompt, *arguments[:2], settings.micro_batch_tokens, arguments[2]
            )
            for name, arguments in {
                "shared prompt": (completions, coefficients, True),
                "packed": (completions, coefficients, False),
                "padded": (filled, weights, False),
            }.items()
        }
        runs = alternate(arms, settings.repeats, device)
        reference, bound = runs["padded"][-1]["result"][0], 1e-4 if dtype == torch.float32 else 0.05
        checks = {
            name: distance(measured[-1]["result"][0], reference) for name, measured in runs.items()
        }
        checks = {
            name: (
                f"gradient {gap:.1e} from padded, {runs[name][-1]['result'][1]} tokens computed",
                gap <= bound,
            )
            for name, gap in checks.items()
        }
        floor = training_operations(sizes, prompt_tokens + sum(lengths), sum(lengths)) / limits[0]
        rows += rows_of(
            runs,
            floor,
            device,
            checks,
            generations=count,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
        )
    return rows


def checksum_reward(completions, **_):
    """A number in [0, 1) that hardly two completions share: every group has variance, whatever the model says. For TRL's calls and for ours."""
    return [zlib.crc32(json.dumps(completion).encode()) % 1000 / 1000 for completion in completions]


def naive_gradients(peer, group, count, cap):
    """fp32 gradients {name: tensor} of the GRPO loss of one group of `count` completions, one after the other through transformers' model. With
    importance weights up to `cap`: a rollout in bf16 is that of a model a little different, in fp32 they are 1 but for rounding."""
    peer.get_input_embeddings().padding_idx = None  # else transformers drops the gradient of a token that the prompt has: SmolLM2 pads by its <|im_end|>
    gradients = {
        name: torch.zeros_like(weight, dtype=torch.float32)
        for name, weight in peer.named_parameters()
    }
    for completion, advantage in zip(group.completions, group.advantages):
        ids = torch.tensor([group.prompt + completion.tokens], device=peer.device)
        logits = peer(ids).logits[0, len(group.prompt) - 1 : -1].float()
        logprobs = logits.log_softmax(-1).gather(1, ids[0, len(group.prompt) :, None])[:, 0]
        weights = (
            (logprobs.detach() - torch.tensor(completion.logprobs, device=peer.device))
            .exp()
            .clamp(max=cap)
        )
        loss = -advantage * (weights * (logprobs - logprobs.detach()).exp()).mean() / count
        for total, gradient in zip(
            gradients.values(), torch.autograd.grad(loss, peer.parameters())
        ):
            total += gradient
    return {name.removeprefix("model."): total for name, total in gradients.items()}


def trl_trainer(settings, folder, groups, device, dtype, scratch, callback):
    """TRL's trainer with its defaults, but for: completions of equal length, no checkpointing (which would slow it down), one update a rollout."""
    import trl
    from datasets import Dataset

    options = trl.GRPOConfig(
        str(scratch),
        num_generations=settings.generations,
        per_device_train_batch_size=settings.prompts * settings.generations,
        beta=0.0,
        max_completion_length=settings.new_tokens,
        max_steps=settings.repeats + 1,
        learning_rate=1e-6,
        temperature=1.0,
        loss_type="grpo",
        gradient_checkpointing=False,
        bf16=dtype == torch.bfloat16,
        use_cpu=device.type == "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        seed=settings.seed,
        generation_kwargs={"min_new_tokens": settings.new_tokens},
    )
    data = Dataset.from_list([{"prompt": group.messages} for group in groups])
    return trl.GRPOTrainer(
        str(folder), checksum_reward, options, train_dataset=data, callbacks=[callback]
    )


class Task:
    """Pairs in one order, with a reward that needs no verdict."""

    stops = ()

    def __init__(self, tokenizer, style):
        self.tokenizer = tokenizer
        self.style = style

    def messages(self, pair):
        return judge_messages(self.style, pair.messages, *pair.answers)

    def read(self, completion, opened_think):
        return {"text": self.tokenizer.decode(completion.tokens)}

    def rewards(self, groups):
        return checksum_reward(None, [r["text"] for group in groups for r in group.records])


def backward(policy, groups, options):
    """Adds up the gradients of the loss of `groups`, as the loop of train_grpo.py does."""
    totals = rollout.count_completions(groups, policy.runtime)
    batches, _ = rollout.micro_batches(groups, options, policy.runtime)
    loss_sum = 0.0
    for batch in batches:
        logprobs, _ = policy.model.logprobs(batch.pack, options.temperature)
        weights = train_grpo.sequence_weights(
            batch.lengths, options.loss_type, *totals, options.max_completion_length
        )
        loss = train_grpo.grpo_loss(
            logprobs,
            logprobs.detach(),
            batch.sampling_logprobs,
            None,
            batch.pack.sequence_ids,
            batch.advantages,
            weights,
            options,
        )
        loss.backward()
        loss_sum += loss.item()
    return loss_sum


def bench_step(settings, folder, device, dtype, limits):
    """TRL's trainer runs its loop; behind each of its steps a callback runs one of ours, with the same prompts. The first of each is not counted."""
    missing = [name for name in ("trl", "datasets") if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(f"step: {', '.join(missing)} is not installed: pip install trl datasets")
    from transformers import AutoModelForCausalLM, TrainerCallback

    tokenizer, style = load_tokenizer(folder), load_style("rrm")
    task = Task(tokenizer, style)
    groups = [rollout.make_group(task, item, seed=0) for item in load_items(settings, 200)]
    groups = sorted(groups, key=lambda group: abs(len(group.prompt) - settings.prompt_tokens))[
        : settings.prompts
    ]
    if len(groups) < settings.prompts:
        raise BadInput(
            f"--prompts {settings.prompts}: --data has {len(groups)} pairs: give fewer, or other data"
        )
    options = train_grpo.Settings(
        num_generations=settings.generations,
        max_completion_length=settings.new_tokens,
        prompts_per_step=len(groups),
        scale_rewards="group",
        style="rrm",
        micro_batch_tokens=settings.micro_batch_tokens,
    )
    with (
        start(device.type, str(dtype)[6:]) as runtime,
        tempfile.TemporaryDirectory() as scratch,
        contextlib.redirect_stdout(sys.stderr),
    ):
        policy, runs = Policy(folder, runtime), {"ours": [], "TRL": []}
        optimizer = torch.optim.AdamW(
            policy.masters.values(), lr=1e-6, weight_decay=0.0, fused=True
        )

        def sample():
            for index, group in enumerate(groups):
                group.seed = hash64(settings.seed, len(runs["ours"]), index)
            rollout.sample(policy, task, groups, options.num_generations, options)
            rewards = rollout.rewards(task, groups, options)
            advantages = train_grpo.group_advantages(rewards, options.scale_rewards)
            for group, own_advantages in zip(groups, advantages):
                group.advantages = own_advantages.tolist()

        def step():
            sample()
            loss = backward(policy, groups, options)
            policy.step(optimizer, loss, options.max_grad_norm)

        class Turns(TrainerCallback):
            def on_step_begin(self, *_, **__):
                synchronize(device)
                reset_peak(device)
                self.begin = memory_in_use(device), time.perf_counter(), time.process_time()

            def on_step_end(self, *_, **__):
                synchronize(device)
                before, wall, cpu = self.begin
                runs["TRL"].append(
                    {
                        "seconds": time.perf_counter() - wall,
                        "cpu_seconds": time.process_time() - cpu,
                        "peak_bytes": max(0, memory_in_use(device, peak=True) - before),
                    }
                )
                runs["ours"].append(measure(step, device))

        trainer = trl_trainer(settings, folder, groups, device, dtype, scratch, Turns())
        sample()  # the check: our gradient of one group against its plain loss, on the same weights
        size = len(groups[0].completions)
        backward(policy, groups[:1], options)

        def plain(kind):
            peer = AutoModelForCausalLM.from_pretrained(folder, dtype=kind).to(device).eval()
            return naive_gradients(peer, groups[0], size, train_grpo.IMPORTANCE_CAP)

        exact = plain(torch.float32)
        gap = distance({name: weight.grad for name, weight in policy.masters.items()}, exact)
        allowed = (
            5e-4 if dtype == torch.float32 else 1.25 * distance(plain(dtype), exact)
        )  # bf16 rounds in other places there, and no less
        optimizer.zero_grad(set_to_none=True)
        trainer.train()
        length = float(trainer.state.log_history[-1]["completions/mean_length"])
    runs = {name: measured[1:] for name, measured in runs.items()}
    sizes, rows, new, prompts = (
        sizes_of(policy.model.config.raw),
        len(groups) * settings.generations,
        settings.new_tokens,
        [group.prompt for group in groups],
    )
    floor = rollout_seconds(sizes, prompts, rows, new, dtype.itemsize, *limits)
    floor += training_operations(sizes, sum(map(len, prompts)) + rows * new, rows * new) / limits[0]
    checks = {
        "ours": (
            f"gradient {gap:.1e} from the plain loss in fp32, allowed {allowed:.1e}",
            gap <= allowed,
        ),
        "TRL": (f"{length:g} tokens a completion", length == new),
    }
    shape = dict(
        prompts=len(groups),
        generations=settings.generations,
        prompt_tokens=sum(map(len, prompts)) // len(prompts),
        new_tokens=new,
    )
    return rows_of(runs, floor, device, checks, **shape)
