#!/usr/bin/env bash
# Our sampler beside transformers' `generate` on a CPU: rows x prompt lengths x two models, bf16.
# On two quiet cores.
#   bash runs/bench_grid.sh few     1, 2 and 4 rows, 13 minutes -> runs/bench/cpu_grid_few.log
#   bash runs/bench_grid.sh many    16 and 64 rows, 15 minutes -> runs/bench/cpu_grid_many.log
#   bash runs/bench_grid.sh long    16 rows of 4,000 tokens, 10 minutes -> runs/bench/cpu_grid_long.log
# MODELS: a folder with smollm2 and qwen2.5-coder-0.5b, as extras.fetch makes them.
set -euo pipefail
cd "$(dirname "$0")/.."
models="${MODELS:-models}"

cell() { # MODEL PROMPTS GENERATIONS PROMPT_TOKENS NEW_TOKENS REPEATS
    python -m extras.bench sampler --dtype bfloat16 --model "$models/$1" --prompts "$2" \
        --generations "$3" --prompt_tokens "$4" --new_tokens "$5" --repeats "$6" 2>&1
    echo
}
few() { # MODEL
    for prompts in 1 2 4; do
        cell "$1" $prompts 1 128 64 2
        cell "$1" $prompts 1 1024 64 2
        cell "$1" $prompts 1 4000 32 1
    done
}
many() { # MODEL
    cell "$1" 4 4 128 64 2
    cell "$1" 4 4 1024 64 1
    cell "$1" 8 8 128 32 2
    cell "$1" 8 8 1024 32 1
}
long() { # MODEL
    cell "$1" 4 4 4000 32 1
}
case "${1:-}" in
few | many | long)
    for model in smollm2 qwen2.5-coder-0.5b; do "$1" $model; done |
        tee "runs/bench/cpu_grid_$1.log"
    ;;
*) sed -n 2,7p "$0" && exit 2 ;;
esac
