#!/usr/bin/env bash
# SmolLM2-135M-Instruct (dequantised Q4_1) solves GSM8K: paid for the right answer, then by a judge that reads no reference (the same
# model, untrained). Four steps of 4 prompts x 8 easy questions: it shows both paths, not a gain. Writes runs/reward/gsm8k_smollm2.log.
#
#   MODEL=models/smollm2 DATA=data bash runs/reward/gsm8k_smollm2.sh          DATA/gsm8k/train.jsonl: openai/grade-school-math
#
# One GPU of 80 GB, untested: both trainings with a policy that solves some of these questions and a judge that writes verdicts,
#   torchrun train_grpo.py --model Qwen/Qwen2.5-1.5B-Instruct --train_data openai/gsm8k:main --eval_data openai/gsm8k:main \
#       --reward answer --prompts_per_step 64 --num_generations 8 --max_completion_length 512 --max_steps 200 --learning_rate 1e-6 \
#       --eval_every 20 --eval_limit 400 --micro_batch_tokens 32768 --output_dir out/gsm8k-answer
#   the same with --reward judge --judge_model JUDGE --judge_opponents 4 --judge_max_completion_length 1024 --output_dir out/gsm8k-judge
# where JUDGE is what train_grpo.py made of a 1.5B or 7B model. 64 x 16 judgments a step take most of the time: 8 GPUs share them.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONPATH=.
model="${MODEL:-models/smollm2}" data="${DATA:-data}" log=runs/reward/gsm8k_smollm2.log
common="--model $model --train_data out/reward-gsm8k/easy.jsonl --max_steps 4 --prompts_per_step 4 --num_generations 8
        --max_completion_length 40 --learning_rate 1e-6 --eval_every 0 --save_every 4"
judge="--judge_model $model --style runs/reward/short.txt --judge_opponents 2 --judge_max_completion_length 24"
rm -rf out/reward-gsm8k && mkdir -p out/reward-gsm8k
# Questions of at most 2 calculations and 160 characters, and one sentence as the answer: asked for steps, this model hardly ever ends
python - "$data/gsm8k/train.jsonl" out/reward-gsm8k/easy.jsonl <<'EOF'
import json, sys
rows = [row for row in map(json.loads, open(sys.argv[1], encoding="utf-8")) if row["answer"].count("<<") <= 2 and len(row["question"]) <= 160]
for row in rows:
    row["question"] += "\nAnswer in one short sentence that ends with the number."
open(sys.argv[2], "w", encoding="utf-8").write("".join(json.dumps(row) + "\n" for row in rows))
EOF
for reward in answer judge; do
    # shellcheck disable=SC2086
    python train_grpo.py $common --reward "$reward" $([ "$reward" = judge ] && echo "$judge") --output_dir "out/reward-gsm8k/$reward"
done
python - <<'EOF' > "$log"
import json, platform, torch
from pathlib import Path
print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} thread; SmolLM2-135M-Instruct (dequantised Q4_1), "
      "4 steps of 4 prompts x 8 completions of at most 40 tokens")
names = ("reward", "frac_reward_zero_std", "loss", "grad_norm", "completions/mean_length", "completions/clipped_ratio", "reward/oracle",
         "reward/unanswered", "reward/verifier_error", "reward/judge_matches", "reward/judge_games", "reward/judge_invalid", "reward/judge_accuracy",
         "reward/judge_reliability", "sampling/logp_diff_max", "timing/rollout", "timing/reward", "timing/update")
for reward in ("answer", "judge"):
    print(f"\n--reward {reward}")
    for row in map(json.loads, open(f"out/reward-gsm8k/{reward}/metrics.jsonl")):
        print(f"step {row['step']}  " + "  ".join(f"{name} {row[name]:.4g}" for name in names))
print("\nthe last step with the judge: rewards and the ends of the answers")
for row in map(json.loads, open("out/reward-gsm8k/judge/rollouts/4.jsonl")):
    print(json.dumps({"question": row["prompt"][-1]["content"][:100], "reference": row["answer"], "matches": row["matches"]}, ensure_ascii=False))
    for game in row["completions"]:
        print("  " + json.dumps({"reward": round(game["reward"], 3), "advantage": round(game["advantage"], 3), "end": game["text"][-80:]}, ensure_ascii=False))
EOF
