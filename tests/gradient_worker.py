"""Run by test_grpo.py, alone and under torchrun: gradients of fixed rollouts, written as JSON."""

import json
import sys

import torch
from loop import ADVANTAGES, load, made_up_groups, run_loop

import failures
import lora
from distributed import start

CASES = {
    f"{loss} {beta}": (dict(loss_type=loss, beta=beta), ADVANTAGES[:3])
    for loss in ("grpo", "dapo", "dr_grpo")
    for beta in (0.0, 0.1)
}
# 6 micro-batches on one process, 3 on the other
CASES["many packs"] = (dict(micro_batch_tokens=1), ADVANTAGES[:3])
# the reference is sharded as well
CASES["many packs, beta"] = (dict(micro_batch_tokens=1, beta=0.1), ADVANTAGES[:3])
# nothing at all on the second process
CASES["one group"] = (dict(), ADVANTAGES[:1])
CASES["one group, beta"] = (dict(beta=0.1, gradient_checkpointing=True), ADVANTAGES[:1])
# the second update, of which each process has other groups than it has sampled; Adam turns the
# rounding of a gradient near 0 into a whole learning rate
CASES["mini batches"] = (dict(num_mini_batches=2, learning_rate=1e-7), ADVANTAGES[:3])
# gradients of A and B alone
CASES["lora"] = (dict(lora_rank=4), ADVANTAGES[:3])
CASES["lora, many packs"] = (
    dict(lora_rank=4, micro_batch_tokens=1, gradient_checkpointing=True),
    ADVANTAGES[:3],
)


def random_value(name, shape, seed):
    """B at random too: at zero, no gradient would reach A."""
    return first_value(name.replace("lora_B", "lora_A"), shape, seed)


first_value, lora.first_value = lora.first_value, random_value
torch.set_num_threads(1)

with start("cpu", "float32") as runtime:
    results = {}
    for name, (changes, advantages) in CASES.items():
        groups = made_up_groups(load(sys.argv[1]), advantages, temperature=0.8)
        seen = run_loop(
            sys.argv[1], groups, runtime, scale_reference=1.5, temperature=0.8, **changes
        )
        metrics = {key: value for key, value in seen.row.items() if "tim" not in key}
        results[name] = {
            "gradient": torch.cat(seen.gradients).tolist(),
            "loss": metrics.pop("loss"),
            "metrics": metrics,
        }
    world, rank = runtime.world_size, runtime.rank
    sums = runtime.sum_by_name({"b": rank + 0.5, "a": 1})
    assert list(sums.items()) == [("b", 0.5 if world == 1 else 2.0), ("a", world)]
    if runtime.is_main:
        with open(sys.argv[2], "w") as file:
            json.dump(results, file)
if world > 1:
    failures.leave_at_once()
