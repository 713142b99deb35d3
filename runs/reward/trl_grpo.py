"""A few steps of TRL's GRPOTrainer with our judge reward as it is: what a TRL user writes, with what came out.

    pip install trl && OMP_NUM_THREADS=1 python runs/reward/trl_grpo.py MODEL > runs/reward/trl_grpo.log        (MODEL: policy and judge)

It shows that the function is called, paid and logged. Three steps teach nothing, and a judge of 135M parameters knows little.
"""

import contextlib
import json
import re
import sys
import tempfile
from pathlib import Path

import torch
import trl
from datasets import Dataset

sys.path.insert(0, str(Path(__file__).parents[2]))
from judge import Judge  # noqa: E402
from rewards import compare_groups, match_rewards, num_matches  # noqa: E402

QUESTIONS = [
    "What is the capital of France?",
    "How many legs has a spider?",
    "What is 6 * 7?",
    "Name a prime number above 10.",
    "Which planet is the largest?",
    "What do bees make?",
]


def main(folder, num_generations=4, opponents=3):
    judge = Judge(
        folder, style=str(Path(__file__).with_name("short.txt")), device="cpu", dtype=torch.float32
    )
    last_groups = []

    def reward(prompts, completions, **columns):  # judge_reward, but its matches are kept
        rewards, last_groups[:] = compare_groups(
            judge,
            prompts,
            completions,
            opponents=opponents,
            group_size=num_generations,
            max_completion_length=24,
        )
        return rewards

    with tempfile.TemporaryDirectory() as scratch:
        options = trl.GRPOConfig(
            scratch,
            num_generations=num_generations,
            per_device_train_batch_size=2 * num_generations,
            max_completion_length=16,
            max_steps=3,
            learning_rate=1e-6,
            scale_rewards="none",
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            bf16=False,
            seed=0,
            save_strategy="no",
            disable_tqdm=True,
        )
        data = Dataset.from_list(
            [{"prompt": [{"role": "user", "content": question}]} for question in QUESTIONS]
        )
        trainer = trl.GRPOTrainer(folder, reward, options, train_dataset=data)
        with contextlib.redirect_stdout(sys.stderr):
            trainer.train()
    print(
        f"trl {trl.__version__}, torch {torch.__version__}; at most {num_matches(num_generations, opponents)} matches a group, two groups a step"
    )
    for row in trainer.state.log_history[:-1]:
        print(
            json.dumps(
                {
                    name: value
                    for name, value in row.items()
                    if re.match("reward|judge_reward|loss|grad_norm|frac|completions/mean_l", name)
                }
            )
        )
    print("the groups of the last step:")
    for group in last_groups:
        print(
            json.dumps(
                {
                    "question": group.messages[-1]["content"],
                    "answers": group.answers,
                    "matches": group.matches,
                    "rewards": match_rewards(group.matches, num_generations)[0],
                },
                ensure_ascii=False,
            )
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
