#!/usr/bin/env bash
# The default command with three seeds. Held-out accuracy before, during and after goes to
# runs/default.log.
set -euo pipefail
cd "$(dirname "$0")/.."
for seed in 0 1 2; do
    python train_grpo.py --seed "$seed" --output_dir "out/default-$seed" --resume
done
python - <<'EOF' > runs/default.log
import json, platform
for seed in 0, 1, 2:
    folder = f"out/default-{seed}"
    versions = json.load(open(f"{folder}/config.json"))["versions"]
    machine = f"{platform.machine()} CPU, python {versions['python']}, torch {versions['torch']}"
    print(f"seed {seed}, {machine}")
    rows = [json.loads(line) for line in open(f"{folder}/metrics.jsonl")]
    for row in rows:
        if "eval/judge/accuracy" in row:
            accuracy = f"held-out accuracy {row['eval/judge/accuracy']:.3f}"
            consistency = f"consistency {row['eval/judge/consistency']:.3f}"
            length = f"{row['eval/completions/mean_length']:.0f} tokens"
            print(f"  step {row['step']:3}  {accuracy}  {consistency}  {length}")
    print(f"  {sum(row.get('step_time', 0) for row in rows):.0f} s of steps")
    groups = [json.loads(line) for line in open(f"{folder}/rollouts/1.jsonl")]
    right = {True: [], False: []}  # of the judgments that think, and of the others
    for group in groups:
        for game in group["completions"]:
            right[game["think_tokens"] >= 8].append(game["verdict"] == group["right_verdict"])
    thought, guessed = (sum(games) / len(games) for games in right.values())
    count = f"{len(right[True])} of {sum(map(len, right.values()))} judgments think"
    print(f"  step 1, before any update: {count}; right {thought:.3f} of these, {guessed:.3f} of the others")
EOF
cat runs/default.log
