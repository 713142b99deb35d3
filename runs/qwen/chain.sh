#!/usr/bin/env bash
# A judge of real text: Qwen2.5-Coder-1.5B-Instruct with LoRA, trained by GRPO on pairs of GSM8K
# answers. One stage a call. A stage that was interrupted goes on when it is called again.
#
#   bash runs/qwen/chain.sh fetch      the two models, to models/
#   bash runs/qwen/chain.sh answers    8 answers of the 0.5B to questions of train, dev and test
#   bash runs/qwen/chain.sh pairs      right against wrong, same question, balanced by length
#   bash runs/qwen/chain.sh styles     the untrained 1.5B with three prompts, on dev
#   bash runs/qwen/chain.sh train      GRPO from the untrained 1.5B
#   bash runs/qwen/chain.sh control    supervised on the right judgments of the first steps alone
#   bash runs/qwen/chain.sh small      the 0.5B: supervised on the same judgments, then GRPO
#   bash runs/qwen/chain.sh judge      games of the base and of the newest checkpoint on test
#   bash runs/qwen/chain.sh best_of    the same two judges pick among 8 answers to a question
#   bash runs/qwen/chain.sh table
#
# DATA holds gsm8k/train.jsonl. On a CPU that does other work give one thread. A GPU needs no change.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
data="${DATA:-data}" out="${OUT:-out/qwen}" models="${MODELS:-models}"
style="${STYLE:-solve_first}" name="${NAME:-run-0}" seed="${SEED:-0}"
judge="${JUDGE:-$models/qwen2.5-coder-1.5b}" solver="$models/qwen2.5-coder-0.5b"
judging=(--model "$judge" --temperature 0.7 --max_completion_length 320)
lora=(--lora_rank 8 --lora_alpha 32 --learning_rate 2e-4 --micro_batch_tokens 1536)
instruction="Solve the problem step by step in a few short sentences."
instruction+=" End with a line 'Answer: ' and the number."

answers() { # SET QUESTIONS
    python -m extras.make_data sample --data "$out/questions/$1.jsonl" --model "$solver" \
        --limit "$2" --num_answers 8 --max_completion_length 320 --temperature 0.8 \
        --instruction "$instruction" --out "$out/answers_$1.jsonl"
}
games() { # FOLDER DATA STYLE [FLAGS]
    python evaluate.py --benchmark pairs --data "$2" --style "$3" "${judging[@]}" \
        --output_dir "$out/$1" "${@:4}"
}
forced_games() { # as games
    games "$@"
    python runs/qwen/forced.py "$out/$1"
}
resumed() { # FOLDER
    if [ -f "$1/config.json" ]; then echo --resume; fi
}
newest() { find "$out/$name" -name "checkpoint-*" -not -name "*.partial" | sort -V | tail -1; }
supervised() { # MODEL FOLDER
    python runs/qwen/chains.py "$out/chains.jsonl" \
        $(seq -f "$out/$name/rollouts/%g.jsonl" "${CHAIN_STEPS:-8}")
    python train_sft.py --model "$1" --train_data "$out/chains.jsonl" --output_dir "$2" \
        --judge_style "$style" "${lora[@]}" --batch_size 8 --max_steps "${SFT_STEPS:-24}" \
        --save_every 8 $(resumed "$2")
}

case "${1:-}" in
fetch)
    for size in 0.5b 1.5b; do
        python -m extras.fetch "qwen2.5-coder-$size" "$models/qwen2.5-coder-$size"
    done
    ;;
answers)
    python runs/qwen/gsm8k_sets.py "$data/gsm8k/train.jsonl" "$out/questions"
    python runs/qwen/changed.py "$out/questions/test.jsonl" "$out/questions/changed.jsonl"
    answers train 192
    answers test 500
    answers dev 48
    ;;
pairs)
    for set in train dev test; do
        per_question=1
        if [ "$set" = train ]; then per_question=2; fi
        python -m extras.make_data pairs --data "$out/answers_$set.jsonl" \
            --pairs_per_question "$per_question" --out "$out/pairs_$set.jsonl"
    done
    ;;
styles)
    for one in solve_first solve_lines check_steps; do
        games "games/dev-base-$one" "$out/pairs_dev.jsonl" "$one"
    done
    ;;
train)
    python train_grpo.py --train_data "$out/pairs_train.jsonl" --eval_data none --output_dir "$out/$name" \
        --style "$style" "${judging[@]}" "${lora[@]}" --prompts_per_step 4 --num_generations 8 \
        --max_steps "${STEPS:-60}" --save_every 1 --seed "$seed" $(resumed "$out/$name")
    ;;
control) supervised "$judge" "$out/control" ;;
small)
    supervised "$solver" "$out/small-format"
    first=$(find "$out/small-format" -name "checkpoint-*" -not -name "*.partial" | sort -V | tail -1)
    NAME=small JUDGE="$first" bash "$0" train
    ;;
judge)
    forced_games games/test-base "$out/pairs_test.jsonl" "$style"
    forced_games "games/test-$name" "$out/pairs_test.jsonl" "$style" --adapter "$(newest)"
    ;;
best_of)
    python runs/qwen/best_of.py prepare "$out/answers_test.jsonl" "$out/candidates.jsonl"
    games best/base "$out/candidates.jsonl" "$style" --strategy knockout
    games "best/$name" "$out/candidates.jsonl" "$style" --strategy knockout --adapter "$(newest)"
    ;;
table)
    python runs/qwen/table.py "$out/pairs_train.jsonl" "$out/pairs_test.jsonl" \
        base="$out/games/test-base" "$name=$out/games/test-$name"
    python runs/qwen/best_of.py table "$out/answers_test.jsonl" "${OWN:-none}" \
        base="$out/best/base" "$name=$out/best/$name"
    ;;
*) sed -n 2,17p "$0" && exit 2 ;;
esac
