#!/usr/bin/env bash
# A judge of real text: Qwen2.5-Coder-1.5B-Instruct with LoRA. It learns the form of a judgment from
# its own right solutions, then GRPO on pairs of GSM8K answers. One stage a call. A stage that was
# interrupted goes on when it is called again.
#
#   bash runs/qwen/chain.sh fetch      the two models, to models/
#   bash runs/qwen/chain.sh answers    8 answers of the 0.5B, 3 solutions of the 1.5B
#   bash runs/qwen/chain.sh pairs      right against wrong, same question, balanced by length
#   bash runs/qwen/chain.sh prompts    the untrained 1.5B with its prompt and with others
#   bash runs/qwen/chain.sh format     supervised, on the 1.5B's own right solutions
#   bash runs/qwen/chain.sh train      GRPO from there
#   bash runs/qwen/chain.sh direct     a judge that does not think, supervised, on the same pairs
#   bash runs/qwen/chain.sh judge      games of the base, of format and of the trained judge
#   bash runs/qwen/chain.sh best_of    base and trained judge pick among 8 answers to a question
#   bash runs/qwen/chain.sh votes      8 votes of the trained judge in each order
#   bash runs/qwen/chain.sh changed    pairs of the test's questions with other numbers, judged
#   bash runs/qwen/chain.sh math       pairs of the 1.5B's answers to MATH-500, judged
#   bash runs/qwen/chain.sh others     samples of LLMBar, PandaLM, RMB and others, judged
#   bash runs/qwen/chain.sh conditions one judge for results and conditions, supervised, and judged
#   bash runs/qwen/chain.sh table
#
# The judge of 0.5B learns from the same files, with the stages format, train and judge:
#   mkdir out/small && cp out/qwen/{pairs,own}_*.jsonl out/small/
#   export OUT=out/small JUDGE=models/qwen2.5-coder-0.5b PAIRS=pairs_test
#   export ORDERS=both FORMAT_STEPS=48 STEPS=12 RATE=1e-4
#
# DATA holds gsm8k/, math500/ and the folders of the other sets. On a CPU that does other work give one thread. A GPU needs no change.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
data="${DATA:-data}" out="${OUT:-out/qwen}" models="${MODELS:-models}"
style="${STYLE:-solve_first}" base_style="${BASE_STYLE:-runs/qwen/solve_example.txt}" name="${NAME:-grpo}"
judge="${JUDGE:-$models/qwen2.5-coder-1.5b}" solver="$models/qwen2.5-coder-0.5b"
judging=(--temperature 0.7 --max_completion_length 320)
lora=(--lora_rank 8)
instruction="Solve the problem step by step in a few short sentences."
instruction+=" End with a line 'Answer: ' and the number."

answers() { # MODEL OUT QUESTIONS [FLAGS]
    python -m extras.make_data sample --model "$1" --out "$out/$2.jsonl" \
        --data "$out/questions/$3.jsonl" --instruction "$instruction" "${@:4}"
}
pairs_of() { # ANSWERS PAIRS PAIRS_PER_QUESTION
    python -m extras.make_data pairs --data "$out/$1.jsonl" --out "$out/$2.jsonl" \
        --pairs_per_question "$3"
}
games() { # FOLDER PAIRS STYLE [FLAGS]
    python evaluate.py --benchmark pairs --data "$out/$2.jsonl" --style "$3" --model "$judge" \
        "${judging[@]}" --output_dir "$out/$1" "${@:4}"
}
forced_games() { # as games
    games "$@"
    python runs/qwen/forced.py "$out/$1"
}
newest() { # RUN
    find "$out/$1" -name "checkpoint-*" -not -name "*.partial" | sort -V | tail -1
}
resumed() { # RUN
    if [ -f "$out/$1/config.json" ]; then echo --resume; fi
}

case "${1:-}" in
fetch)
    for size in 0.5b 1.5b; do
        python -m extras.fetch "qwen2.5-coder-$size" "$models/qwen2.5-coder-$size"
    done
    ;;
answers)
    python runs/qwen/gsm8k_sets.py "$data/gsm8k/train.jsonl" "$out/questions"
    for set in train test; do
        answers "$solver" "answers_$set" "$set" --limit "${QUESTIONS:-240}" --num_answers 8 \
            --max_completion_length 320 --temperature 0.8
    done
    answers "$judge" own_train train --limit "${QUESTIONS:-240}" --num_answers 3 \
        --max_completion_length 256 --temperature 0.7
    ;;
pairs)
    pairs_of answers_train pairs_train 2
    pairs_of own_train pairs_own 1
    pairs_of answers_test pairs_test 2
    cat "$out"/pairs_{train,own}.jsonl > "$out/pairs_grpo.jsonl"
    python runs/qwen/openai_pairs.py "$data/gsm8k/model_solutions.jsonl" "$out/openai.jsonl" 300
    ;;
prompts)
    for one in solve_first solve_lines check_steps; do
        games "prompts/$one" pairs_train "$one" --limit 12
    done
    games prompts/solve_example pairs_train "$base_style" --limit 12
    ;;
format)
    python runs/qwen/chains.py "$out/pairs_train.jsonl" "$out/own_train.jsonl" "$out/chains.jsonl" \
        "${ORDERS:-one}"
    python train_sft.py --model "$judge" --train_data "$out/chains.jsonl" \
        --output_dir "$out/format" --judge_style "$style" "${lora[@]}" --learning_rate 5e-4 \
        --micro_batch_tokens 1536 --batch_size 4 --max_steps "${FORMAT_STEPS:-10}" --save_every 2 \
        $(resumed format)
    ;;
train)
    python train_grpo.py --model "$(newest format)" --train_data "$out/pairs_grpo.jsonl" \
        --eval_data none --output_dir "$out/$name" --style "$style" --temperature 1 \
        --reward consistency \
        --max_completion_length 320 --learning_rate "${RATE:-5e-5}" --micro_batch_tokens 2304 \
        --prompts_per_step 4 --num_generations 8 --max_steps "${STEPS:-5}" --save_every 1 \
        --seed "${SEED:-0}" $(resumed "$name")
    ;;
direct)
    cat "$out"/pairs_{train,grpo}.jsonl > "$out/pairs_direct.jsonl"
    python runs/qwen/direct.py "$out/pairs_direct.jsonl" "$out/direct.jsonl"
    python train_sft.py --model "$judge" --train_data "$out/direct.jsonl" \
        --output_dir "$out/direct" --judge_style direct_short "${lora[@]}" --learning_rate 5e-4 \
        --micro_batch_tokens 1536 --batch_size 8 --max_steps 29 --save_every 5 $(resumed direct)
    for pairs in ${PAIRS:-openai pairs_test}; do
        forced_games "games/$pairs-direct" "$pairs" direct_short --adapter "$(newest direct)"
    done
    ;;
judge)
    for pairs in ${PAIRS:-openai pairs_test}; do
        forced_games "games/$pairs-base" "$pairs" "$base_style"
        forced_games "games/$pairs-format" "$pairs" "$style" --adapter "$(newest format)"
        forced_games "games/$pairs-$name" "$pairs" "$style" --adapter "$(newest "$name")"
    done
    ;;
best_of)
    python runs/qwen/best_of.py prepare "$out/answers_test.jsonl" "$out/candidates.jsonl"
    games best/base candidates "$base_style" --strategy knockout
    games "best/$name" candidates "$style" --strategy knockout --adapter "$(newest "$name")"
    ;;
votes)
    games votes pairs_test "$style" --adapter "$(newest "$name")" --num_votes 8 --limit 96
    python runs/qwen/votes.py "$out/pairs_test.jsonl" "$name=$out/votes/results.json"
    ;;
changed)
    python runs/qwen/changed.py "$out"/questions/{test,changed}.jsonl "$out/pairs_test.jsonl"
    answers "$solver" answers_changed changed --num_answers 8 --max_completion_length 320 \
        --temperature 0.8
    pairs_of answers_changed pairs_changed 1
    forced_games games/changed-base pairs_changed "$base_style"
    forced_games "games/changed-$name" pairs_changed "$style" --adapter "$(newest "$name")"
    ;;
math)
    python -m extras.make_data sample --model "$judge" --out "$out/answers_math.jsonl" \
        --data "$data/math500/test.jsonl" --instruction "${instruction%number.}result." \
        --limit 128 --num_answers 4 --max_completion_length 448 --temperature 0.8
    pairs_of answers_math pairs_math 1
    forced_games games/math-base pairs_math "$base_style"
    forced_games "games/math-$name" pairs_math "$style" --adapter "$(newest "$name")"
    ;;
others)
    while read -r benchmark file limit orders; do
        options=(--benchmark "$benchmark" --data "$data/$file" --limit "$limit" $orders)
        options+=(--model "$judge" "${judging[@]}")
        folder="$out/others/$benchmark"
        python evaluate.py "${options[@]}" --style "$base_style" --output_dir "$folder-base"
        python evaluate.py "${options[@]}" --style "$style" --adapter "$(newest "$name")" \
            --output_dir "$folder-$name"
        python runs/qwen/forced.py "$folder-base"
        python runs/qwen/forced.py "$folder-$name"
    done <<'END'
llmbar llmbar/Natural.json 100
pandalm pandalm/testset-v1.json 40
rmb rmb/pairwise_train.json 30
judgebench judgebench/gpt-4o.jsonl 20
rm_bench rm_bench/chat_filtered.json 8 --one_order
END
    ;;
conditions)
    both="runs/qwen/solve_or_check.txt"
    cat "$out"/{own,answers}_train.jsonl > "$out/right_train.jsonl"
    python runs/qwen/conditions.py pairs "$out/right_train.jsonl" "$out/conditions_train.jsonl" 12
    python runs/qwen/conditions.py pairs "$out/answers_test.jsonl" "$out/conditions.jsonl" 1
    python runs/qwen/conditions.py chains "$out"/conditions_{train,chains}.jsonl "$both"
    python runs/qwen/chains.py "$out"/{pairs_train,own_train,result_chains}.jsonl both "$both"
    head -60 "$out/conditions_chains.jsonl" > "$out/chains_of_both.jsonl"
    head -20 "$out/result_chains.jsonl" >> "$out/chains_of_both.jsonl"
    python train_sft.py --model "$(newest "$name")" --train_data "$out/chains_of_both.jsonl" \
        --output_dir "$out/conditions" --judge_style "$both" --learning_rate 3e-4 \
        --micro_batch_tokens 1536 --batch_size 4 --max_steps 20 --save_every 10 \
        $(resumed conditions)
    judging=(--temperature 0.7 --max_completion_length 512)
    forced_games games/conditions conditions "$both" --adapter "$(newest conditions)"
    ;;
table)
    for pairs in ${PAIRS:-openai pairs_test}; do
        python runs/qwen/table.py "$out/pairs_grpo.jsonl" "$out/$pairs.jsonl" \
            base="$out/games/$pairs-base" format="$out/games/$pairs-format" \
            "$name=$out/games/$pairs-$name"
    done
    python runs/qwen/best_of.py table "$out/answers_test.jsonl" "${OWN:-none}" \
        base="$out/best/base" "$name=$out/best/$name"
    ;;
*) sed -n 2,26p "$0" && exit 2 ;;
esac
