#!/usr/bin/env bash
# Every benchmark at hand, end to end with a small model on a few items: does the whole way work, and is its result file the same every time?
#   bash runs/benchmarks.sh DATA_FOLDER [MODEL]        writes out/benchmarks/; runs/benchmarks.log is what one run printed
# Not a measurement of the model: 4 items, 48 tokens of thinking, then the verdict by force.
set -euo pipefail
cd "$(dirname "$0")/.."
data=$1 model=${2:-models/smollm2} out=out/benchmarks
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
evaluate() { # NAME BENCHMARK FILES [flags]
    python evaluate.py --benchmark "$2" --data "$3" --model "$model" --dtype float32 --max_completion_length 48 --force_verdict --limit 4 \
        --output_dir "$out/$1" "${@:4}"
}
while read -r name files; do
    echo "== $name $files"
    rm -rf "$out/$name"
    evaluate "$name" "$name" "$data/${files//,/,$data/}"
    sha256sum < "$out/$name/results.json"
done <<'SETS'
gsm8k_solutions gsm8k/model_solutions.jsonl
judgebench judgebench/gpt-4o.jsonl
llmbar llmbar/Natural.json,llmbar/Neighbor.json,llmbar/GPTInst.json,llmbar/GPTOut.json
pandalm pandalm/testset-v1.json
rm_bench rm_bench/chat_filtered.json
rmb rmb/bon_dev.json,rmb/pairwise_train.json
SETS

echo "== the same again, and killed after 5 seconds of judging, then resumed"
files="$data/llmbar/Natural.json"
for name in again killed; do rm -rf "$out/$name"; done
evaluate again llmbar "$files" --limit 40 > /dev/null
evaluate killed llmbar "$files" --limit 40 > /dev/null &
for _ in $(seq 600); do [ -s "$out/killed/rows.jsonl" ] && break; sleep 0.2; done
pkill -9 -P $! || kill -9 $! || true
wait $! || true
wc -l < "$out/killed/rows.jsonl"
evaluate killed llmbar "$files" --limit 40 > /dev/null
for name in again killed; do sed "s/benchmarks\/$name/benchmarks\/X/" "$out/$name/results.json" | sha256sum; done
