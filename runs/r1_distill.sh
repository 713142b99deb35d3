#!/usr/bin/env bash
# The chain of runs/smollm2 with DeepSeek-R1-Distill-Qwen-1.5B or 7B, on 1 or 8 GPUs. NOT RUN HERE.
#
#   DATA=data bash runs/r1_distill.sh 1.5b 1          one GPU of 80 GB
#   DATA=data bash runs/r1_distill.sh 1.5b 8
#   DATA=data bash runs/r1_distill.sh 7b 8
#
# These models think before they answer and write boxes, so there is no format stage. STEPS=20 is a first look. By calculation
# (`python -m extras.bench plan --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --gpus 1,8 --gpu_memory 80 --prompts 64 --prompt_tokens 800
# --mean_tokens 2500 --micro_batch_tokens 16384 --gradient_checkpointing`), whose rates are assumed until a GPU has measured them:
#
#   model   GPUs   weights, gradients, moments   bf16 weights   activations   keys, values   a step   100 steps
#   1.5B    1      28 GB                         4 GB           4 GB          22 GB          79 s     2.2 hours
#   1.5B    8       4 GB a GPU                   4 GB           4 GB          15 GB          22 s     0.6 hours
#   7B      8      15 GB a GPU                   15 GB          8 GB          23 GB          77 s     2.1 hours
#   7B      1      does not fit: 145 GB with everything in place; two GPUs of 141 GB hold it
set -euo pipefail
size="${1:?1.5b or 7b}" gpus="${2:?number of GPUs}"
case $size in
1.5b) name=1.5B ;;
7b) name=7B ;;
*) echo "r1_distill.sh: $size is neither 1.5b nor 7b" >&2; exit 2 ;;
esac
if [ "$name" = 7B ] && [ "$gpus" = 1 ]; then echo "r1_distill.sh: 7b needs two GPUs of 141 GB or more, see the table in this file" >&2; exit 2; fi
cd "$(dirname "$0")/.."
export MODEL="deepseek-ai/DeepSeek-R1-Distill-Qwen-$name" OUT="${OUT:-out/r1-distill-$size}" STYLE=rrm DIRECT_STYLE=direct
export BASE="$MODEL" BUDGET=8192 ROOM=8192 STEPS="${STEPS:-100}" PROMPTS=64 GENERATIONS=8 RATE=1e-6
export LIMIT=200 DATA_FLAGS="--style rrm --train_pairs 1300 --train_tokens 2000 --test_tokens 6000 --limit 200 --limit_questions 100"
export GRPO_FLAGS="--micro_batch_tokens 16384 --gradient_checkpointing" RUN="torchrun --nproc_per_node $gpus"
chain="bash runs/smollm2/chain.sh"

$chain data
for seed in 0 1 2; do $chain think $seed; done
$chain direct 0
for judge in base forced direct-0 think-0 think-1 think-2; do $chain table $judge; done
python runs/smollm2/table.py "$OUT"
