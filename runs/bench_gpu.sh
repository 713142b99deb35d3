#!/usr/bin/env bash
# The same on one GPU of the H200 class, in bf16, with random weights of Qwen2's shapes; results in runs/bench/gpu.log. NOT RUN YET.
# Needs a folder with a tokenizer (models/smollm2: python -m extras.fetch smollm2-135m models/smollm2).
#   pip install trl datasets liger-kernel cut-cross-entropy; DATA=preference-pairs.json runs/bench_gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."
model="${MODEL:-models/smollm2}" data=()
if [ -n "${DATA:-}" ]; then data=(--data "$DATA"); fi

bench() {
    local shown="$*"
    echo "\$ python -m extras.bench ${shown//${DATA:-none}/\$DATA}"
    python -m extras.bench "$@" --model "$model" --device cuda --dtype bfloat16 2>&1 || echo "exit code $?"
    echo
}
run_all() {
    for shape in qwen2-1.5b qwen2-7b; do
        bench sampler --random_shape $shape --prompts 16 --generations 16 --prompt_tokens 1024 --new_tokens 1024 --repeats 2 --continuous
        bench sampler --random_shape $shape --prompts 1 --generations 1 --prompt_tokens 2048 --new_tokens 256
        bench sampler --random_shape $shape --prompts 64 --generations 1 --prompt_tokens 2048 --new_tokens 256
        bench logprob --random_shape $shape --layers 1 --tokens 16384 --repeats 30
    done
    bench packing --random_shape qwen2-1.5b --grid full --micro_batch_tokens 16384
    bench step --random_shape qwen2-1.5b --prompts 8 --generations 16 --new_tokens 512 ${data[@]+"${data[@]}"}
    bench judge --random_shape qwen2-1.5b --pairs 20 ${data[@]+"${data[@]}"}
}
mkdir -p runs/bench
run_all | tee runs/bench/gpu.log
