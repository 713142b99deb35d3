#!/usr/bin/env bash
# Ours beside its peers (extras/bench.py) on this machine: about 20 minutes on two quiet cores.
# Results are in runs/bench/cpu.log.
#   pip install trl datasets accelerate gguf; DATA=preference-pairs.json runs/bench.sh
# MODEL: a folder of SmolLM2-135M-Instruct (made at models/smollm2 if it is not there). DATA: pairs
# whose prompts have some 200 to 300 tokens, such as PandaLM's test set; without it 12 short
# questions are used. JUDGE_PAIRS=100 judges as many pairs (10: three minutes; 100: half an hour).
set -euo pipefail
cd "$(dirname "$0")/.."
model="${MODEL:-models/smollm2}" data=()
if [ -n "${DATA:-}" ]; then data=(--data "$DATA"); fi
if [ ! -f "$model/model.safetensors" ]; then python -m extras.fetch smollm2-135m "$model"; fi

bench() {
    local shown="$*"
    echo "\$ python -m extras.bench ${shown//${DATA:-none}/\$DATA}"
    python -m extras.bench "$@" --model "$model" 2>&1 || echo "exit code $?"
    echo
}
run_all() {
    bench sampler --dtype bfloat16 --repeats 2
    bench sampler --dtype float32 --repeats 1 --new_tokens 64
    bench sampler --dtype bfloat16 --repeats 2 --prompts 1 --generations 1 --new_tokens 64
    bench logprob --dtype bfloat16
    bench logprob --dtype float32 --tokens 2048
    bench packing --dtype bfloat16 --repeats 1
    bench packing --dtype float32 --repeats 2 --grid 4/256/128
    bench step --dtype bfloat16 --repeats 2 ${data[@]+"${data[@]}"}
    bench judge --dtype bfloat16 --repeats 1 --pairs "${JUDGE_PAIRS:-10}" ${data[@]+"${data[@]}"}
}
mkdir -p runs/bench
run_all | tee runs/bench/cpu.log
