#!/usr/bin/env bash
# Makes the embedded models of tiny/ from nothing: about an hour on one quiet core. Each training
# goes on where it was left.
#   thinker   learns from judgments that are all thought through (10,000 steps)
#   mixed     from that: half of its judgments think, half are a coin thrown at once. It is
#             tiny/base, from which train_grpo.py starts
#   guesser   from that: all judgments are a coin; it can still work a question out when asked to
#   weak      as mixed, from the thinker after 4,000 steps: it errs more often within its thinking
#   solver    from nothing: works questions out, knows how a verdict is written, has never compared
#   judge     the default run of train_grpo.py from tiny/base. It is tiny/judge, which judge.py uses
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
mkdir -p out/tiny
python tiny/make.py pairs
python tiny/make.py init out/tiny/init
sft="python train_sft.py --schedule cosine --judge_style tiny --dtype float32 --save_every 250 --resume"

train() { # NAME ROWS COUNT START STEPS BATCH RATE
    [ -f "out/tiny/$2.jsonl" ] || python tiny/make.py rows "$2" "$3" "out/tiny/$2.jsonl"
    $sft --model "$4" --train_data "out/tiny/$2.jsonl" --output_dir "out/tiny/$1" \
        --max_steps "$5" --batch_size "$6" --learning_rate "$7" "${@:8}"
}
train thinker thinker 320000 out/tiny/init 10000 32 2e-3 --warmup_steps 100
train solver solver 320000 out/tiny/init 3000 32 2e-3 --warmup_steps 100
train mixed mixed 20000 out/tiny/thinker/checkpoint-10000 200 64 2e-4
train guesser guesser 20000 out/tiny/thinker/checkpoint-10000 200 64 2e-4
train weak mixed 20000 out/tiny/thinker/checkpoint-4000 200 64 2e-4
python tiny/make.py store out/tiny/mixed/checkpoint-200 tiny/base
for name in guesser weak; do
    python tiny/make.py store "out/tiny/$name/checkpoint-200" "tiny/$name"
done
python tiny/make.py store out/tiny/solver/checkpoint-3000 tiny/solver

python train_grpo.py --output_dir out/tiny/judge --resume
python tiny/make.py store "$(ls -d out/tiny/judge/checkpoint-* | sort -V | tail -1)" tiny/judge
