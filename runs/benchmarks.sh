#!/usr/bin/env bash
# Every benchmark at hand, end to end with a small model on a few items: does the whole way work, and
# is its result file the same every time? Writes out/benchmarks/; runs/benchmarks.log is what one run
# printed.
#   bash runs/benchmarks.sh DATA_FOLDER [MODEL]
# Not a measurement of the model: 2 items of each, 48 tokens of thinking, then the verdict by force.
set -euo pipefail
cd "$(dirname "$0")/.."
data=$1 model=${2:-models/smollm2} out=out/benchmarks
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
few_tokens=(--dtype float32 --max_completion_length 48 --force_verdict --limit 2)
evaluate() { # NAME BENCHMARK FILES
    python evaluate.py --benchmark "$2" --data "$3" --model "$model" "${few_tokens[@]}" \
        --output_dir "$out/$1"
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

echo "== llmbar again, and killed after 20 seconds, then resumed (kills within the rows: runs/kill_test)"
files="$data/llmbar/Natural.json,$data/llmbar/Neighbor.json"
files+=",$data/llmbar/GPTInst.json,$data/llmbar/GPTOut.json"
for name in again killed; do rm -rf "$out/$name"; done
evaluate again llmbar "$files" > /dev/null
timeout -s KILL 20 python evaluate.py --benchmark llmbar --data "$files" --model "$model" \
    "${few_tokens[@]}" --output_dir "$out/killed" > /dev/null || true
evaluate killed llmbar "$files" > /dev/null
for name in llmbar again killed; do sha256sum < "$out/$name/results.json"; done
