#!/usr/bin/env bash
# RM-R1 with 7B and 32B (arXiv 2505.02387, version 4, appendix G). NOT RUN HERE.
#   bash runs/rm_r1.sh 7b instruct       chains of two teachers, supervised stage, GRPO on the rest
#   bash runs/rm_r1.sh 7b distilled      GRPO alone, on all pairs, from a model that reasons already
# 7b: one node of 8 GPUs with 80 GB. 32b: four nodes of 8 GPUs with 141 GB. Several nodes share one
# file system: call it first on one of them with DATA_ONLY=1, then on each with NODES=4
# HOST=first-node.
#
# A step has 1,024 prompts and 8 updates of 128, and prompts above 4,096 tokens are left out, as in
# the paper. OURS: the temperature of the teachers, micro-batches, how often it is saved.
# Bytes a GPU: 16 P / W + 2 P + keys and values. 7.6e9 parameters on 8 GPUs: 15 + 15 GB. 32.8e9 on
# 32 GPUs: 16 + 66 GB, which GPUs of 80 GB cannot hold.
set -euo pipefail
cd "$(dirname "$0")/.."
# the learning rates are those of appendix G: supervised, GRPO after it, GRPO of a distilled model
case "${1:-} ${2:-}" in
"7b instruct" | "7b distilled")
    size=7B nodes=1 micro_batch_tokens=32768
    supervised_rate=5e-6 instruct_rate=1e-6 distilled_rate=1e-6
    ;;
"32b instruct" | "32b distilled")
    size=32B nodes=4 micro_batch_tokens=16384
    supervised_rate=2e-6 instruct_rate=5e-7 distilled_rate=8e-7
    ;;
*) sed -n 2,7p "$0" && exit 2 ;;
esac
out="${OUT:-out/rm_r1}" && mkdir -p "$out"
make="python -m extras.make_data"
run="torchrun --nnodes ${NODES:-$nodes} --nproc_per_node 8 --rdzv_backend c10d"
run+=" --rdzv_endpoint ${HOST:-localhost}:29500"

# 72,146 pairs: Skywork without magpie_ultra (a stray <im_start> tells its rejected answers), 8,000
# of code, about 10,000 of mathematics
$make clean --data Skywork/Skywork-Reward-Preference-80K-v0.2 --drop_sources magpie_ultra \
    --against "${BENCHMARKS:-}" --out "$out/skywork.jsonl"
$make clean --data Vezora/Code-Preference-Pairs --sample 8000 --seed 42 --out "$out/code.jsonl"
$make clean --data xinlai/Math-Step-DPO-10K --out "$out/math.jsonl"
$make mix --data "$out/skywork.jsonl,$out/code.jsonl,$out/math.jsonl" --out "$out/all.jsonl"

if [ "$2" = instruct ]; then
    if [ ! -f "$out/after_distill.jsonl" ]; then # random rows: `mix` has shuffled them
        head -n 8750 "$out/all.jsonl" > "$out/to_distill.jsonl"
        tail -n +8751 "$out/all.jsonl" > "$out/after_distill.jsonl"
    fi
    $make chains --data "$out/to_distill.jsonl" --style rm_r1 --max_completion_length 8192 \
        --base_url "${TEACHER_URL:?address of the first teacher}" \
        --model "${TEACHER:-claude-3-7-sonnet-20250219}" \
        --second_base_url "${SECOND_TEACHER_URL:-$TEACHER_URL}" \
        --second_model "${SECOND_TEACHER:-o3-2025-04-16}" --out "$out/chains.jsonl"
fi
if [ -n "${DATA_ONLY:-}" ]; then exit; fi

if [ "$2" = instruct ]; then
    steps="$(( ($(wc -l < "$out/chains.jsonl") + 127) / 128 ))" # one epoch
    $run train_sft.py --model "Qwen/Qwen2.5-$size-Instruct" --train_data "$out/chains.jsonl" \
        --judge_style rm_r1 --output_dir "$out/$1-sft" --resume --batch_size 128 \
        --max_steps "$steps" --learning_rate "$supervised_rate" --max_length 12288 \
        --micro_batch_tokens 16384 --gradient_checkpointing
    model="$out/$1-sft/checkpoint-$steps" style=rm_r1
    data="$out/after_distill.jsonl" rate="$instruct_rate"
else
    model="deepseek-ai/DeepSeek-R1-Distill-Qwen-$size" style=rm_r1_short
    data="$out/all.jsonl" rate="$distilled_rate"
fi
$run train_grpo.py --model "$model" --style "$style" --train_data "$data" \
    --output_dir "$out/$1-$2" --resume --max_steps "$(( $(wc -l < "$data") / 1024 ))" \
    --prompts_per_step 1024 --num_mini_batches 8 --max_prompt_length 4096 --num_generations 7 \
    --temperature 1.0 --max_completion_length 8192 --learning_rate "$rate" --beta 0.001 \
    --epsilon 0.2 --max_grad_norm 1.0 --loss_type grpo --scale_rewards group \
    --micro_batch_tokens "$micro_batch_tokens" --gradient_checkpointing --eval_every 0 \
    --save_every 12 --keep 2
