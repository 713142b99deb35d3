#!/usr/bin/env bash
# The papers in miniature: seven experiments on the tiny world; results, tables, figures and logs in runs/miniature.
#
#   bash runs/miniature.sh                     all parts, one RL seed, smaller than the default run: 45 minutes on one core
#   bash runs/miniature.sh teaches ladder      these parts
#   bash runs/miniature.sh --full              experiment 1 with five RL seeds on two bases at full size (or --full PART...): about 2 hours on one core
#   STEPS=2 LIMIT=16 OUT=/tmp/m RECORD=/tmp/m/record bash runs/miniature.sh      does it run? a few minutes
#
# It starts from the bases in tiny/ (tiny-base, tiny-weak, tiny-guesser, tiny-solver) and needs nothing else. A part that is done is skipped; one that
# was stopped goes on. Settings come from the environment: see runs/miniature/rl.py.
set -euo pipefail
cd "$(dirname "$0")/.."
python -c "import matplotlib" || { echo "the figures need matplotlib: pip install matplotlib" >&2; exit 2; }
export OMP_NUM_THREADS=1 SEEDS="${SEEDS:-0}"
parts="teaches thinking direct compute ladder teachers transfer"
if [ "${1:-}" = --full ]; then
    shift
    export SEEDS="0 1 2 3 4" BASES="mixed weak" STEPS="${STEPS:-150}" LIMIT="${LIMIT:-500}" OUT="${OUT:-out/miniature-full}"
    parts=teaches
fi
export OUT="${OUT:-out/miniature}" RECORD="${RECORD:-runs/miniature}"
mkdir -p "$OUT/done" "$RECORD"
for part in ${@:-$parts}; do
    mark="$OUT/done/$part.seeds-${SEEDS// /-}"
    [ -f "$mark" ] && continue
    echo "== $part ($(date +%H:%M))" >&2
    began=$SECONDS
    case "$part" in
        teachers | transfer) python runs/miniature/other_pairs.py "$part" ;;
        teaches | thinking | direct | compute | ladder) python "runs/miniature/$part.py" ;;
        *) echo "no part $part: $parts" >&2; exit 2 ;;
    esac
    touch "$mark"
    echo "$part seeds $SEEDS: $(((SECONDS - began + 59) / 60)) minutes" | tee -a "$RECORD/minutes.log" >&2
    python runs/miniature/table.py
done
python runs/miniature/table.py
