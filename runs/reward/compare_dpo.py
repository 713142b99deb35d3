"""The DPO loss of extras/train_dpo.py against TRL's DPOTrainer on the same batch, the same policy and the same reference.

    pip install trl && python runs/reward/compare_dpo.py MODEL > runs/reward/compare_dpo.log       (MODEL: a folder; bound: 1e-4)

TRL makes the batch (chat template, truncation, padding); its tokens without padding are packed here. The policy is the reference with all
weights 2 % larger, so that losses are not log 2. Gradients are compared but for the row of the embedding whose token the checkpoint uses for
padding (<|im_end|> in SmolLM2): transformers lets no gradient through there, though the token stands in every chat.
"""

import sys
import tempfile
from pathlib import Path

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[2]))
from extras.train_dpo import dpo_terms, summed_logps  # noqa: E402
from model import Model, pack_groups  # noqa: E402

PAIRS = [
    ("What is 6 * 7?", "6 * 7 = 42.", "It is 43, of course."),
    ("Name a fruit.", "A pear.", "Granite is a rock, not a fruit."),
    ("Say hello in French.", "Bonjour!", "Hola!"),
    ("Is water wet?", "Most people say so.", "No."),
]


def main(folder, beta=0.1):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2)
    )
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1.02)
    rows = [
        {
            "prompt": [{"role": "user", "content": query}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for query, chosen, rejected in PAIRS
    ]
    with tempfile.TemporaryDirectory() as scratch:
        options = trl.DPOConfig(
            scratch,
            beta=beta,
            per_device_train_batch_size=len(rows),
            report_to="none",
            use_cpu=True,
            bf16=False,
            seed=0,
            gradient_checkpointing=False,
            disable_tqdm=True,
        )
        trainer = trl.DPOTrainer(
            policy,
            reference,
            options,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        batch = next(iter(trainer.get_train_dataloader()))
        policy.eval()
        policy.zero_grad()
        loss = trainer.compute_loss(policy, batch)
        loss.backward()
        policy.save_pretrained(Path(scratch) / "policy")

        chosen_and_rejected = []
        for ids, attention, completion in zip(
            batch["input_ids"], batch["attention_mask"], batch["completion_mask"]
        ):
            ids, completion = ids[attention.bool()].tolist(), completion[attention.bool()].tolist()
            split = completion.index(1)
            chosen_and_rejected.append((ids[:split], ids[split:]))
        half = len(rows)
        groups = [
            (prompt, [chosen, rejected])
            for (prompt, chosen), (_, rejected) in zip(
                chosen_and_rejected[:half], chosen_and_rejected[half:]
            )
        ]
        pack = pack_groups(groups)
        ours, start = (
            Model.from_pretrained(name, dtype=torch.float32)
            for name in (Path(scratch) / "policy", folder)
        )
    with torch.no_grad():
        ref_logps = summed_logps(start, pack, 2 * half)
    losses, _, _ = dpo_terms(summed_logps(ours, pack, 2 * half), ref_logps, beta)
    losses.mean().backward()
    theirs = {
        name.removeprefix("model."): weight.grad for name, weight in policy.named_parameters()
    }
    for gradient in (theirs["embed_tokens.weight"], ours.embed_tokens.weight.grad):
        gradient[policy.config.pad_token_id] = 0
    gap, norm = (
        torch.sqrt(sum((term**2).sum() for term in terms))
        for terms in (
            [weight.grad - theirs[name] for name, weight in ours.named_parameters()],
            theirs.values(),
        )
    )
    tokens = sum(len(prompt) + sum(map(len, answers)) for prompt, answers in groups)
    print(
        f"trl {trl.__version__}, torch {torch.__version__}, fp32, {half} pairs, {tokens} packed tokens, {batch['input_ids'].numel()} padded"
    )
    print(
        f"loss of TRL {loss.item():.8f}, ours {losses.mean().item():.8f}, difference {abs(loss.item() - losses.mean().item()):.1e}"
    )
    print(f"gradient norm {norm:.6f}, norm of the difference / norm {gap / norm:.1e}")
    assert abs(loss.item() - losses.mean().item()) < 1e-4


if __name__ == "__main__":
    main(*sys.argv[1:])
