#!/usr/bin/env bash
# The papers in miniature: seven experiments on the tiny world. Results, page and figure go to runs/miniature.
#
#   bash runs/miniature.sh                     all parts, one RL seed, shorter than the default run: 45 minutes on one core
#   bash runs/miniature.sh teaches ladder      these parts
#   bash runs/miniature.sh --full              experiment 1 with five RL seeds at full size: about 2 hours on one core
#   STEPS=2 LIMIT=16 OUT=/tmp/m RECORD=/tmp/m/record bash runs/miniature.sh      does it run? a few minutes
#
# It starts from the bases in tiny/ and needs nothing else. Trainings and games that exist are used again.
# Settings come from the environment: see runs/miniature/lab.py.
set -euo pipefail
cd "$(dirname "$0")/.."
python -c "import matplotlib" || { echo "the figure needs matplotlib: pip install matplotlib" >&2; exit 2; }
export OMP_NUM_THREADS=1
parts="teaches thinking direct compute ladder teachers transfer"
if [ "${1:-}" = --full ]; then
    shift
    export SEEDS="0 1 2 3 4" STEPS="${STEPS:-150}" LIMIT="${LIMIT:-500}"
    parts=teaches
fi
for part in ${@:-$parts}; do
    echo "== $part ($(date +%H:%M))" >&2
    case "$part" in
        teachers | transfer) python runs/miniature/other_pairs.py "$part" ;;
        teaches | thinking | direct | compute | ladder) python "runs/miniature/$part.py" ;;
        *) echo "no part $part: $parts" >&2; exit 2 ;;
    esac
done
python runs/miniature/table.py
