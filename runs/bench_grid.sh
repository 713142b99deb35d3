#!/usr/bin/env bash
# Our sampler beside transformers' `generate` on a CPU: rows x prompt lengths x two models, bf16.
# 25 minutes on two quiet cores; the result is runs/bench/cpu_grid.log. 16 and 64 rows of
# 4,000 tokens are left out: a call of `generate` would take up to ten minutes.
#   bash runs/bench_grid.sh            all cells
#   bash runs/bench_grid.sh few_rows   1, 2 and 4 rows alone, to runs/bench/cpu_grid_few_rows.log
# MODELS: a folder with smollm2 and qwen2.5-coder-0.5b, as extras.fetch makes them.
set -euo pipefail
cd "$(dirname "$0")/.."
models="${MODELS:-models}"

cell() { # MODEL PROMPTS GENERATIONS PROMPT_TOKENS NEW_TOKENS REPEATS
    python -m extras.bench sampler --dtype bfloat16 --model "$models/$1" --prompts "$2" \
        --generations "$3" --prompt_tokens "$4" --new_tokens "$5" --repeats "$6" 2>&1
    echo
}
few_rows() { # MODEL
    for prompts in 1 2 4; do
        cell "$1" $prompts 1 128 64 2
        cell "$1" $prompts 1 1024 64 2
        cell "$1" $prompts 1 4000 32 1
    done
}
all() {
    for model in smollm2 qwen2.5-coder-0.5b; do
        few_rows $model
        cell $model 4 4 128 64 2
        cell $model 4 4 1024 64 1
        cell $model 8 8 128 32 2
        cell $model 8 8 1024 32 1
    done
}
if [ "${1:-}" = few_rows ]; then
    for model in smollm2 qwen2.5-coder-0.5b; do few_rows $model; done |
        tee runs/bench/cpu_grid_few_rows.log
else
    all | tee runs/bench/cpu_grid.log
fi
