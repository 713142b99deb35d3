"""TRL's GRPOTrainer with our judge reward as it is: three steps, and what came out.

    pip install trl && python runs/reward/trl_grpo.py MODEL > runs/reward/trl_grpo.log

MODEL is policy and judge. Three steps show that the reward is called, and teach nothing.
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
from rewards import judge_reward  # noqa: E402

QUESTIONS = [
    "What is the capital of France?",
    "How many legs has a spider?",
    "What is 6 * 7?",
    "Name a prime number above 10.",
    "Which planet is the largest?",
    "What do bees make?",
]
NUM_GENERATIONS = 4
LOGGED = "reward|judge_reward|loss|grad_norm|frac|completions/mean_l"


def main(folder):
    style = str(Path(__file__).with_name("short.txt"))
    judge = Judge(folder, style=style, device="cpu", dtype=torch.float32)
    reward = judge_reward(judge, opponents=3, group_size=NUM_GENERATIONS, max_completion_length=24)
    prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        options = trl.GRPOConfig(
            scratch,
            num_generations=NUM_GENERATIONS,
            per_device_train_batch_size=2 * NUM_GENERATIONS,
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
        data = Dataset.from_list([{"prompt": prompt} for prompt in prompts])
        trainer = trl.GRPOTrainer(folder, reward, options, train_dataset=data)
        trainer.train()
    print(f"trl {trl.__version__}, torch {torch.__version__}")
    for row in trainer.state.log_history[:-1]:
        print(json.dumps({name: row[name] for name in row if re.match(LOGGED, name)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
