#!/usr/bin/env bash
# A solver of the tiny world, trained on questions alone, by several rewards. Finished runs are
# skipped, interrupted ones go on.
#
#   bash runs/reward/solver.sh                        every arm once, seed 0
#   bash runs/reward/solver.sh --full                 everything below, seeds 0 to 4
#   SEEDS="0 1" JOBS=2 bash runs/reward/solver.sh arms accuracy
#   (KINDS="fresh" ACCURACIES="75 95": a part of accuracy)
#
#   base          the policy, tiny/student (made only if it is not there), and its questions
#   arms          oracle, judge, majority, coin, untrained judge
#   opponents     the judge with 1, 2 and 7 opponents each (arms: 4)
#   accuracy      judges of 55 to 99 % accuracy: fresh errors, fixed errors, a liking for length;
#                 16 matches a group as in arms
#   forgetful     oracle, judge, majority with a policy that leaves out carries: where there is one,
#                 its most frequent answer is wrong
#   consistency   a judge trained with the reward for both orders, against the plain verdict
# Afterwards: python runs/reward/table.py
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONPATH=.
work=out/reward
mkdir -p $work
STEPS="${STEPS:-60}" KINDS="${KINDS:-fresh longer fixed}" ACCURACIES="${ACCURACIES:-55 65 75 85 95 99}"

one() {  # NAME SEED flags: one run of the solver
    local name=$1 seed=$2 policy=tiny/student
    shift 2
    if [[ $name = forgetful* ]]; then policy=out/reward/forgetful/checkpoint-500; fi
    [ -d "out/reward/runs/$name-$seed/checkpoint-$STEPS" ] && return
    local folder="out/reward/runs/$name-$seed"
    python train_grpo.py --model "$policy" --train_data out/reward/questions.jsonl \
        --eval_data out/reward/test.jsonl --eval_every 20 --eval_limit 400 --prompts_per_step 16 \
        --num_generations 8 --max_completion_length 64 --max_steps "$STEPS" --learning_rate 1e-4 \
        --judge_max_completion_length 96 --dtype float32 --save_every 20 --resume --seed "$seed" \
        --output_dir "$folder" "$@" 2> "$folder.log" > /dev/null \
        || { echo "failed: see $folder.log" >&2; return 1; }
    echo "$name-$seed" "$(grep '^held out' "$folder.log" || true)"
}

verdicts() {  # NAME SEED: one judge, by the default run or with the reward for both orders
    [ -d "out/reward/judges/$1-$2/checkpoint-150" ] && return
    python train_grpo.py --reward "$1" --seed "$2" --eval_every 75 --eval_limit 500 --resume \
        --output_dir "out/reward/judges/$1-$2" 2> "out/reward/judges/$1-$2.log" > /dev/null
}

export -f one verdicts
export STEPS

plan() {  # one run a line: a function and its arguments
    local mine=solve:runs.reward.rewards_tiny
    for seed in $SEEDS; do
        case $1 in
        arms)
            echo "one oracle $seed --reward $mine:oracle --scale_rewards group"
            echo "one judge $seed --reward judge --judge_model tiny"
            echo "one majority $seed --reward $mine:majority --scale_rewards group"
            echo "one coin $seed --reward $mine:coin --scale_rewards group"
            echo "one untrained $seed --reward judge --judge_model tiny-base" ;;
        opponents)
            for d in 1 2 7; do
                echo "one judge_d$d $seed --reward judge --judge_model tiny --judge_opponents $d"
            done ;;
        accuracy)
            for kind in $KINDS; do for p in $ACCURACIES; do
                echo "one ${kind}_$p $seed --reward $mine:${kind}_$p --scale_rewards none"
            done; done ;;
        forgetful)
            echo "one forgetful_oracle $seed --reward $mine:oracle --scale_rewards group"
            echo "one forgetful_judge $seed --reward judge --judge_model tiny"
            echo "one forgetful_majority $seed --reward $mine:majority --scale_rewards group" ;;
        consistency) for reward in verdict consistency; do echo "verdicts $reward $seed"; done ;;
        *)
            echo "solver.sh: $1 is no part: base arms opponents accuracy forgetful consistency" >&2
            exit 2 ;;
        esac
    done
}

parts=("${@:-arms}")
if [ "${1:-}" = --full ]; then
    parts=(arms opponents accuracy forgetful consistency)
    SEEDS="${SEEDS:-0 1 2 3 4}"
fi
SEEDS="${SEEDS:-0}"

# the policy and its questions
mkdir -p $work/runs $work/judges
if [ ! -d tiny/student ]; then
    python runs/reward/student.py init $work/init
    python runs/reward/student.py rows 64000 $work/student.jsonl
    python train_sft.py --model $work/init --train_data $work/student.jsonl \
        --output_dir $work/student --batch_size 32 --max_steps 2000 --learning_rate 2e-3 \
        --warmup_steps 100 --schedule cosine --dtype float32 --save_every 250 --resume
    python tiny/make.py store $work/student/checkpoint-2000 tiny/student
fi
[ -f $work/questions.jsonl ] || python runs/reward/student.py questions 8000 $work/questions.jsonl
[ -f $work/test.jsonl ] || python runs/reward/student.py test 400 $work/test.jsonl

for part in "${parts[@]}"; do
    [ "$part" = base ] && continue
    if [ "$part" = forgetful ] && [ ! -d $work/forgetful/checkpoint-500 ]; then
        python runs/reward/student.py rows 16000 $work/forgetful.jsonl forgetful
        python train_sft.py --model tiny/student --train_data $work/forgetful.jsonl \
            --output_dir $work/forgetful --batch_size 32 --max_steps 500 --learning_rate 1e-3 \
            --warmup_steps 20 --schedule cosine --dtype float32 --save_every 250 --resume
    fi
    plan "$part" | xargs -P "${JOBS:-1}" -I {} bash -c '{}'
done
