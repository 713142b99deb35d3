#!/usr/bin/env bash
# The embedded judge on all held-out pairs of its world, in both orders; numbers by kind of question.
# Writes runs/miniature/held_out.log.
set -euo pipefail
cd "$(dirname "$0")/../.."
python evaluate.py --benchmark pairs --data tiny/test.jsonl --max_completion_length 96 \
    --output_dir out/held-out > runs/miniature/held_out.log
PYTHONPATH=runs python - <<'EOF' >> runs/miniature/held_out.log
import re
from collections import defaultdict
from measures import evaluated_games, mean, read_rows

signs = {"+": "plus", "-": "minus", "*": "times"}
pairs = {row["id"]: row for row in read_rows("tiny/test.jsonl")}
kinds = defaultdict(list)
for game in evaluated_games("out/held-out/results.json"):
    pair = pairs[game["id"]]
    sign = ""
    if pair["family"] == "sums":
        sign = re.search(r"[-+*]|plus|minus|times", pair["query"])[0]
    kinds[pair["family"], pair["level"], signs.get(sign, sign)].append(game["right"])
print("\nshare of games right")
for (family, level, sign), right in sorted(kinds.items()):
    print(f"{family} {level} {sign:6} {mean(right):.3f} of {len(right)}")
EOF
