#!/usr/bin/env bash
# A judge of real text: Qwen2.5-Coder-1.5B-Instruct with LoRA, trained by GRPO on pairs of GSM8K answers. One stage a call;
# a stage that was interrupted goes on when it is called again, and a finished one is not repeated.
#
#   bash runs/qwen/chain.sh fetch      the two models, to models/
#   bash runs/qwen/chain.sh answers    8 answers of the 0.5B to each question of train, dev and test
#   bash runs/qwen/chain.sh pairs      right against wrong, same question, same generator, balanced by length
#   bash runs/qwen/chain.sh styles     the untrained 1.5B with three prompts, on dev
#   bash runs/qwen/chain.sh train      GRPO from the untrained 1.5B
#   bash runs/qwen/chain.sh control    supervised training on the right judgments of the first CHAIN_STEPS steps, nothing else
#   bash runs/qwen/chain.sh small      the 0.5B: supervised on the same judgments (its format), then GRPO
#   bash runs/qwen/chain.sh judge      games of the base and of the newest checkpoint on test
#   bash runs/qwen/chain.sh table
#
# DATA holds gsm8k/train.jsonl. On a CPU give one thread; on a GPU nothing changes but the time.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONPATH=.
data="${DATA:-data}" out="${OUT:-out/qwen}" python="${PYTHON:-python}" models="${MODELS:-models}"
style="${STYLE:-solve_first}" name="${NAME:-run-0}" seed="${SEED:-0}" limit="${LIMIT:-1000000}"
judge="${JUDGE:-$models/qwen2.5-coder-1.5b}" solver="$models/qwen2.5-coder-0.5b"
length=320 temperature=0.7
instruction="Solve the problem step by step in a few short sentences. End with a line 'Answer: ' and the number."

answers() { # SET QUESTIONS
    "$python" -m extras.make_data sample --data "$out/questions/$1.jsonl" --model "$solver" --limit "$2" --num_answers 8 \
        --max_completion_length 320 --temperature 0.8 --chunk "$3" --instruction "$instruction" --out "$out/answers05_$1.jsonl"
}
games() { # SET LABEL STYLE [ADAPTER]
    "$python" runs/qwen/games.py --model "$judge" ${4:+--adapter "$4"} --pairs "$out/pairs_$1.jsonl" --style "$3" --limit "$limit" \
        --temperature "$temperature" --max_completion_length "$length" --out "$out/games/$1-$2.jsonl"
}
supervised() { # MODEL FOLDER
    "$python" runs/qwen/chains.py "$out/chains.jsonl" $(seq -f "$out/$name/rollouts/%g.jsonl" "${CHAIN_STEPS:-8}")
    resume="" && [ -f "$2/config.json" ] && resume="--resume"
    "$python" train_sft.py --model "$1" --train_data "$out/chains.jsonl" --output_dir "$2" --judge_style "$style" --lora_rank 8 \
        --lora_alpha 32 --learning_rate 2e-4 --batch_size 8 --max_steps "${SFT_STEPS:-24}" --save_every 8 --micro_batch_tokens 1536 $resume
}
newest() { ls -d "$out/$name"/checkpoint-* | sort -t- -k3 -n | grep -v partial | tail -1; }

case "${1:-}" in
fetch) for model in 0.5b 1.5b; do "$python" -m extras.fetch "qwen2.5-coder-$model" "$models/qwen2.5-coder-$model"; done ;;
answers)
    "$python" runs/qwen/questions.py "$data/gsm8k/train.jsonl" "$out/questions"
    answers train 192 32
    answers test 500 16
    answers dev 48 16
    ;;
pairs)
    for set in train dev test; do
        per_question=1 && [ "$set" = train ] && per_question=2
        "$python" -m extras.make_data pairs --data "$out/answers05_$set.jsonl" --pairs_per_question "$per_question" --out "$out/pairs_$set.jsonl"
    done
    ;;
styles) for one in solve_first solve_lines check_steps; do games dev "base-$one" "$one"; done ;;
train)
    resume="" && [ -f "$out/$name/config.json" ] && resume="--resume"
    "$python" train_grpo.py --model "$judge" --train_data "$out/pairs_train.jsonl" --output_dir "$out/$name" --style "$style" \
        --lora_rank 8 --lora_alpha 32 --learning_rate 2e-4 --prompts_per_step 4 --num_generations 8 --max_completion_length "$length" \
        --temperature "$temperature" --max_steps "${STEPS:-60}" --save_every 1 --micro_batch_tokens 1536 --seed "$seed" $resume
    ;;
control)
    supervised "$judge" "$out/control"
    ;;
small)
    supervised "$solver" "$out/small-format"
    NAME=small JUDGE="$(ls -d "$out"/small-format/checkpoint-* | tail -1)" bash "$0" train
    ;;
judge)
    games test base "$style"
    checkpoint="$(newest)"
    games test "$name-${checkpoint##*-}" "$style" "$checkpoint"
    ;;
table)
    trained=("$out/games/test-$name"-*.jsonl)
    "$python" runs/qwen/table.py --pairs "$out/pairs_test.jsonl" --train "$out/pairs_train.jsonl" base="$out/games/test-base.jsonl" \
        "${trained[@]/#/$name=}"
    ;;
*) sed -n 2,16p "$0" && exit 2 ;;
esac
