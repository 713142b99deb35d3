"""Run by test_grpo.py, alone and under torchrun: gradients and losses of fixed rollouts, written by the first process as JSON."""

import json
import sys

import torch
from test_grpo import ADVANTAGES, made_up_groups

from runtime import Policy, full, load_model, start
from train_grpo import Settings, accumulate, micro_batches

CASES = {f"{loss} {beta}": (dict(loss_type=loss, beta=beta), ADVANTAGES[:3]) for loss in ("grpo", "dapo", "dr_grpo") for beta in (0.0, 0.1)}
CASES["many packs"] = (dict(micro_batch_tokens=1), ADVANTAGES[:3])  # 6 packs on one process, 3 on the other
CASES["one group"] = (dict(), ADVANTAGES[:1])  # nothing at all on the second process
CASES["many packs, beta"] = (dict(micro_batch_tokens=1, beta=0.1), ADVANTAGES[:3])  # the reference is sharded as well
CASES["one group, beta"] = (dict(beta=0.1, gradient_checkpointing=True), ADVANTAGES[:1])
CASES["lora"] = (dict(lora_rank=4), ADVANTAGES[:3])  # gradients of the adapters alone; the base is frozen
CASES["lora, many packs"] = (dict(lora_rank=4, micro_batch_tokens=1, gradient_checkpointing=True), ADVANTAGES[:3])
torch.set_num_threads(1)

with start("cpu", "float32") as runtime:
    results = {}
    for name, (changes, advantages) in CASES.items():
        settings = Settings(temperature=0.8, max_completion_length=12, **changes)
        policy = Policy(sys.argv[1], runtime, settings.gradient_checkpointing, settings.lora_rank, settings.lora_alpha)
        with policy.whole() as model:  # the same rollouts on every process
            groups = made_up_groups(type("Whole", (), {"model": model}), advantages, temperature=0.8)
        reference = None
        if settings.beta:
            reference = load_model(sys.argv[1], runtime, torch.float32).requires_grad_(False)
            with torch.no_grad():
                (reference.norm.weight.to_local() if runtime.world_size > 1 else reference.norm.weight).mul_(1.5)
        lengths = [len(completion.tokens) for group in groups for completion in group.completions]
        batches = list(micro_batches(groups[runtime.rank :: runtime.world_size], settings.micro_batch_tokens))
        sums, _ = accumulate(policy, reference, batches, [], (len(lengths), sum(lengths)), settings)
        gradient = torch.cat([full(master.grad).flatten() for master in policy.masters.values()])
        loss, *sums = runtime.sum(*sums.tolist())
        results[name] = {"gradient": gradient.tolist(), "loss": loss, "sums": sums}
    if runtime.is_main:
        json.dump(results, open(sys.argv[2], "w"))
