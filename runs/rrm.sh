#!/usr/bin/env bash
# RRM-7B and RRM-32B (arXiv 2505.14674). NOT RUN HERE.
#   bash runs/rrm.sh 7b      one node of 8 GPUs with 80 GB
#   bash runs/rrm.sh 32b     four nodes of 8 GPUs with 141 GB
# Several nodes share one file system: call it first on one of them with DATA_ONLY=1, then on each
# with NODES=4 HOST=first-node.
#
# Known of the paper and its release: the base, no supervised stage, +1/-1, about 420K pairs from
# Skywork-Reward, 80K Tulu-3 prompts (two answers each, labelled by GPT-4o) and verifiable
# questions, a random order a visit, a checkpoint of the 7B at step 720. Everything marked OURS is
# our choice, because the paper's value is not known to us.
#
# Bytes a GPU, P parameters on W GPUs: 16 P / W (fp32 weights, gradients, two moments) + 2 P (bf16
# weights, whole while it samples) + keys and values of the rollouts (a token: 57,344 and 262,144
# bytes). 7.6e9 on 8: 15 + 15 GB. 32.8e9 on 32: 16 + 66 GB, which GPUs of 80 GB cannot hold.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
7b) base=deepseek-ai/DeepSeek-R1-Distill-Qwen-7B nodes=1 micro_batch_tokens=32768 ;;
32b) base=deepseek-ai/DeepSeek-R1-Distill-Qwen-32B nodes=4 micro_batch_tokens=16384 ;;
*) sed -n 2,6p "$0" && exit 2 ;;
esac
judge_url="${JUDGE_URL:?address of the labelling judge, such as https://api.openai.com/v1}"
policy_url="${POLICY_URL:?address of the policies, such as http://localhost:8000/v1}"
out="${OUT:-out/rrm}" && mkdir -p "$out"
make="python -m extras.make_data"
# which R1-style model answers is not known: OURS
solver=(--base_url "$policy_url" --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B)
solver+=(--temperature 0.6 --max_completion_length 8192)

$make clean --data Skywork/Skywork-Reward-Preference-80K-v0.2 --against "${BENCHMARKS:-}" \
    --out "$out/skywork.jsonl"

# Two answers to 80K Tulu-3 prompts, labelled in both orders (the release: in one)
$make sample --data allenai/tulu-3-sft-mixture --limit 80000 --num_answers 2 --instruction "" \
    "${solver[@]}" --out "$out/tulu_answers.jsonl"
$make pairs --data "$out/tulu_answers.jsonl" --out "$out/tulu_pairs.jsonl"
python judge.py --pairs "$out/tulu_pairs.jsonl" --base_url "$judge_url" --model gpt-4o \
    --out "$out/tulu_judged.jsonl"
$make label --data "$out/tulu_pairs.jsonl" --judged "$out/tulu_judged.jsonl" --out "$out/tulu.jsonl"

# Right against wrong answers. The sources are the paper's. Answers a question and pairing are OURS.
parts="$out/skywork.jsonl,$out/tulu.jsonl"
for set in TIGER-Lab/WebInstruct-verified Skywork/Skywork-OR1-RL-Data@math \
    SynthLabsAI/Big-Math-RL-Verified BytedTsinghua-SIA/DAPO-Math-17k; do
    name="$(basename "${set%@*}")"
    $make sample --data "$set" --num_answers 8 "${solver[@]}" --out "$out/$name-answers.jsonl"
    $make pairs --data "$out/$name-answers.jsonl" --out "$out/$name.jsonl"
    parts="$parts,$out/$name.jsonl"
done
# everything once; the paper's weights are not known: OURS
$make mix --data "$parts" --out "$out/train.jsonl"
if [ -n "${DATA_ONLY:-}" ]; then exit; fi

# Group, batch, learning rate, clip, KL and lengths are OURS. The release's later fork has verl's
# defaults: clip 0.2 and KL 0.001.
torchrun --nnodes "${NODES:-$nodes}" --nproc_per_node 8 --rdzv_backend c10d \
    --rdzv_endpoint "${HOST:-localhost}:29500" train_grpo.py \
    --model "$base" --style rrm --train_data "$out/train.jsonl" --output_dir "$out/$1" --resume \
    --max_steps 720 --prompts_per_step 128 --num_generations 8 --temperature 1.0 \
    --max_completion_length 8192 --learning_rate 1e-6 --beta 0.001 --epsilon 0.2 --loss_type grpo \
    --scale_rewards group --micro_batch_tokens "$micro_batch_tokens" --gradient_checkpointing \
    --eval_every 0 --save_every 60 --keep 2
