#!/usr/bin/env bash
# RM-R1 with 32B (arXiv 2505.02387, version 4, appendix G) on four nodes of 8 GPUs with 141 GB. NOT RUN HERE.
#   bash runs/rm_r1_32b.sh instruct       chains of two teachers, supervised stage, GRPO on the other pairs
#   bash runs/rm_r1_32b.sh distilled      GRPO alone, on all pairs, from a model that reasons already
# A step has 1,024 prompts and 8 updates of 128, and prompts above 4,096 tokens are left out, as in the paper.
# OURS: the temperature of the teachers, micro-batches, how often it is saved.
# Bytes a GPU: 16 P / W + 2 P + keys and values; 32.8e9 parameters on 32 GPUs: 16 + 66 GB, which GPUs of 80 GB cannot hold.
set -euo pipefail
cd "$(dirname "$0")/.."
kind="${1:?instruct or distilled}"
nodes="${NODES:-4}" host="${HOST:-localhost}"   # several nodes, one file system: first DATA_ONLY=1 on one, then on each NODES=4 HOST=first-node
out="${OUT:-out/rm_r1}" && mkdir -p "$out"
make="python -m extras.make_data"
run="torchrun --nnodes $nodes --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint $host:29500"

# 72,146 pairs: Skywork without magpie_ultra (a stray <im_start> tells its rejected answers), 8,000 of code, about 10,000 of mathematics
$make clean --data Skywork/Skywork-Reward-Preference-80K-v0.2 --drop_sources magpie_ultra --against "${BENCHMARKS:-}" --out "$out/skywork.jsonl"
$make clean --data Vezora/Code-Preference-Pairs --sample 8000 --seed 42 --out "$out/code.jsonl"
$make clean --data xinlai/Math-Step-DPO-10K --out "$out/math.jsonl"
$make mix --data "$out/skywork.jsonl,$out/code.jsonl,$out/math.jsonl" --out "$out/all.jsonl"

if [ "$kind" = instruct ]; then
    model=Qwen/Qwen2.5-32B-Instruct style=rm_r1
    if [ ! -f "$out/after_distill.jsonl" ]; then                                  # random rows: `mix` has shuffled them
        head -n 8750 "$out/all.jsonl" > "$out/to_distill.jsonl"
        tail -n +8751 "$out/all.jsonl" > "$out/after_distill.jsonl"
    fi
    $make chains --data "$out/to_distill.jsonl" --style rm_r1 --max_completion_length 8192 \
        --base_url "${TEACHER_URL:?address of the first teacher}" --model "${TEACHER:-claude-3-7-sonnet-20250219}" \
        --second_base_url "${SECOND_TEACHER_URL:-$TEACHER_URL}" --second_model "${SECOND_TEACHER:-o3-2025-04-16}" --out "$out/chains.jsonl"
    if [ -n "${DATA_ONLY:-}" ]; then exit; fi
    steps="$(( ($(wc -l < "$out/chains.jsonl") + 127) / 128 ))"                   # one epoch
    $run train_sft.py --model "$model" --train_data "$out/chains.jsonl" --judge_style rm_r1 --output_dir "$out/32b-sft" --resume \
        --batch_size 128 --max_steps "$steps" --learning_rate 2e-6 --max_length 12288 --micro_batch_tokens 16384 --gradient_checkpointing
    model="$out/32b-sft/checkpoint-$steps" data="$out/after_distill.jsonl" rate=5e-7
else
    if [ -n "${DATA_ONLY:-}" ]; then exit; fi
    model=deepseek-ai/DeepSeek-R1-Distill-Qwen-32B style=rm_r1_short data="$out/all.jsonl" rate=8e-7
fi
$run train_grpo.py --model "$model" --style "$style" --train_data "$data" --output_dir "$out/32b-$kind" --resume \
    --max_steps "$(( $(wc -l < "$data") / 1024 ))" --prompts_per_step 1024 --num_mini_batches 8 --max_prompt_length 4096 \
    --num_generations 7 --temperature 1.0 --max_completion_length 8192 \
    --learning_rate "$rate" --beta 0.001 --epsilon 0.2 --max_grad_norm 1.0 --loss_type grpo --scale_rewards group \
    --micro_batch_tokens 16384 --gradient_checkpointing --eval_every 0 --save_every 12 --keep 2
