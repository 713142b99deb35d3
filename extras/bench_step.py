"""The benchmark of a complete GRPO step and TRL's. Run by `python -m extras.bench step`."""

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
from cli import BadInput, note
from distributed import Policy, start
from extras.bench_training import distance
from extras.peers import (
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
from seeding import hash64
from styles import judge_messages, load_style


def checksum_reward(completions, **_):
    """A number in [0, 1) that hardly two completions share, for TRL's calls and for ours.

    Every group has variance then, whatever the model writes.
    """
    return [zlib.crc32(json.dumps(completion).encode()) % 1000 / 1000 for completion in completions]


def naive_gradients(peer, group, count, cap):
    """fp32 gradients {name: tensor} of the GRPO loss of one group of `count` completions.

    transformers' model computes one completion after the other. Importance weights are cut at
    `cap`: a rollout in bf16 comes from a slightly different model. In fp32 they are about 1.
    """
    # Else transformers drops the gradient of the padding token, which the prompts of SmolLM2 have:
    # its padding is <|im_end|>.
    peer.get_input_embeddings().padding_idx = None
    gradients = {
        name: torch.zeros_like(weight, dtype=torch.float32)
        for name, weight in peer.named_parameters()
    }
    for completion, advantage in zip(group.completions, group.advantages):
        ids = torch.tensor([group.prompt + completion.tokens], device=peer.device)
        logits = peer(ids).logits[0, len(group.prompt) - 1 : -1].float()
        logprobs = logits.log_softmax(-1).gather(1, ids[0, len(group.prompt) :, None])[:, 0]
        old_logprobs = logprobs.detach()
        sampling_logprobs = torch.tensor(completion.logprobs, device=peer.device)
        importance = (old_logprobs - sampling_logprobs).exp().clamp(max=cap)
        loss = -advantage * (importance * (logprobs - old_logprobs).exp()).mean() / count
        own = torch.autograd.grad(loss, peer.parameters())
        for total, gradient in zip(gradients.values(), own):
            total += gradient
    return {name.removeprefix("model."): total for name, total in gradients.items()}


def trl_trainer(settings, folder, groups, device, dtype, scratch, callback):
    """TRL's trainer with its defaults, except for three.

    Completions have equal length, gradients are not checkpointed (which would slow TRL down), and a
    rollout gets one update.
    """
    import trl
    from datasets import Dataset

    note(f"TRL {trl.__version__}")
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
        return checksum_reward([r["text"] for group in groups for r in group.records])


def backward(policy, groups, options):
    """Adds up the gradients of the loss of `groups`, as the loop of train_grpo.py does."""
    (batches,), _ = rollout.mini_batches(groups, options, policy.runtime)
    loss_sum = 0.0
    for batch in batches:
        logprobs, _ = policy.model.logprobs(batch.pack, options.temperature)
        batch.old_logprobs = logprobs.detach()
        loss = train_grpo.grpo_loss(logprobs, batch, options)
        loss.backward()
        loss_sum += loss.item()
    return loss_sum


class Turns:
    """Measures TRL's steps, and runs one of ours after each of them, as a callback of TRL."""

    def __init__(self, step, device):
        self.step = step
        self.device = device
        self.runs = {"ours": [], "TRL": []}

    def callback(self):
        from transformers import TrainerCallback

        callback = TrainerCallback()
        callback.on_step_begin = self.begin
        callback.on_step_end = self.end
        return callback

    def begin(self, *_, **__):
        synchronize(self.device)
        reset_peak(self.device)
        self.start = memory_in_use(self.device), time.perf_counter(), time.process_time()

    def end(self, *_, **__):
        synchronize(self.device)
        memory, wall, cpu = self.start
        measured = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "peak_bytes": max(0, memory_in_use(self.device, peak=True) - memory),
        }
        self.runs["TRL"].append(measured)
        self.runs["ours"].append(measure(self.step, self.device))


class OwnStep:
    """Our step on fixed prompts: sample, reward and advantages, gradient."""

    def __init__(self, policy, task, groups, options, seed):
        self.policy, self.task, self.groups, self.options = policy, task, groups, options
        self.seed, self.steps = seed, 0
        self.optimizer = torch.optim.AdamW(
            policy.masters.values(), lr=1e-6, weight_decay=0.0, fused=True
        )

    def sample(self):
        for index, group in enumerate(self.groups):
            group.seed = hash64(self.seed, self.steps, index)
        rollout.sample(
            self.policy, self.task, self.groups, self.options.num_generations, self.options
        )
        rewards = rollout.rewards(self.task, self.groups, self.options)
        advantages = train_grpo.group_advantages(rewards, self.options.scale_rewards)
        rollout.set_advantages(self.groups, rewards, advantages)

    def __call__(self):
        self.sample()
        self.update()

    def update(self):
        loss = backward(self.policy, self.groups, self.options)
        self.policy.step(self.optimizer, loss, self.options.max_grad_norm)
        self.steps += 1

    def check(self, folder, device, dtype):
        """Our gradient of one group against its plain loss in fp32: (text, passed).

        bf16 may be as far from it as transformers in bf16 is, and a quarter more: it rounds in
        other places.
        """
        from transformers import AutoModelForCausalLM

        self.sample()
        group = self.groups[0]
        backward(self.policy, [group], self.options)
        gradients = {name: weight.grad for name, weight in self.policy.masters.items()}

        def plain(dtype):
            peer = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
            return naive_gradients(peer, group, len(group.completions), train_grpo.IMPORTANCE_CAP)

        exact = plain(torch.float32)
        gap, allowed = distance(gradients, exact), 5e-4
        if dtype != torch.float32:
            allowed = 1.25 * distance(plain(dtype), exact)
        self.optimizer.zero_grad(set_to_none=True)
        text = f"gradient {gap:.1e} from the plain loss in fp32, allowed {allowed:.1e}"
        return text, gap <= allowed


def groups_of(settings, task):
    """Groups of the pairs whose prompts are closest to --prompt_tokens. Raises BadInput."""
    groups = [rollout.make_group(task, item, seed=0) for item in load_items(settings, 200)]
    groups.sort(key=lambda group: abs(len(group.prompt) - settings.prompt_tokens))
    if len(groups) < settings.prompts:
        raise BadInput(
            f"--prompts {settings.prompts}: --data has {len(groups)} pairs: give fewer, or other "
            "data"
        )
    return groups[: settings.prompts]


def bench_step(settings, folder, device, dtype, limits):
    """TRL's trainer runs its loop; after each of its steps one of ours has the same prompts.

    The first step of each is not counted.
    """
    missing = [name for name in ("trl", "datasets") if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(f"step: {', '.join(missing)} is not installed: pip install trl datasets")
    task = Task(load_tokenizer(folder), load_style("rrm"))
    groups = groups_of(settings, task)
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
        policy = Policy(folder, runtime)
        step = OwnStep(policy, task, groups, options, settings.seed)
        turns = Turns(step, device)
        trainer = trl_trainer(settings, folder, groups, device, dtype, scratch, turns.callback())
        own_check = step.check(folder, device, dtype)
        trainer.train()
        length = float(trainer.state.log_history[-1]["completions/mean_length"])
    runs = {name: measured[1:] for name, measured in turns.runs.items()}
    new_tokens, rows = settings.new_tokens, len(groups) * settings.generations
    sizes, prompts = sizes_of(policy.model.config.raw), [group.prompt for group in groups]
    prompt_tokens, targets = sum(map(len, prompts)), rows * new_tokens
    floor = rollout_seconds(sizes, prompts, rows, new_tokens, dtype.itemsize, *limits)
    floor += training_operations(sizes, prompt_tokens + targets, targets) / limits[0]
    trl_check = (f"{length:g} tokens a completion", length == new_tokens)
    shape = dict(
        prompts=len(groups),
        generations=settings.generations,
        prompt_tokens=prompt_tokens // len(prompts),
        new_tokens=new_tokens,
    )
    return rows_of(runs, floor, device, {"ours": own_check, "TRL": trl_check}, **shape)
