#!/usr/bin/env bash
# Stops train_grpo.py and evaluate.py at random moments and in other rude ways, goes on, and compares with the runs that were left alone:
# runs/kill_test/README.md. About 15 minutes on one quiet core; KILLS=2 for a short look.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
python runs/kill_test/kill_test.py --kills "${KILLS:-20}" --seed "${SEED:-0}"
