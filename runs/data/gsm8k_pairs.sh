#!/usr/bin/env bash
# Pairs from questions that a program can check: SmolLM2-135M-Instruct answers GSM8K training questions, right answers meet wrong ones; the same
# sampling killed twice (SIGKILL) and called again ends with the same bytes; benchmark questions planted among the pairs are found again.
#
#   MODEL=models/smollm2 DATA=data bash runs/data/gsm8k_pairs.sh          prints what runs/data/gsm8k_pairs.log holds; 9 minutes on a third of a core
#
# Questions are the easy ones (at most 2 calculations and 160 characters), since this model solves a few percent of those and hardly any other.
# DATA holds gsm8k/train.jsonl and model_solutions.jsonl, math500/test.jsonl and pandalm/testset-v1.json as their authors publish them.
# What is checked is the last number of an answer: from a model this weak, a right number is more often luck than a solution (read the pairs).
# For real training: a stronger MODEL, all questions, and neither --limit nor --instruction.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONPATH=.
model="${MODEL:-models/smollm2}" data="${DATA:-data}" out="${OUT:-out/data}" questions="${QUESTIONS:-60}" chunk=12
instruction="Answer in one short sentence that ends with the number."  # asked for steps, it hardly ever ends within 160 tokens
rm -rf "$out" && mkdir -p "$out"
make() { python -m extras.make_data "$@" 2>> "$out/notes.txt"; }
python - "$data/gsm8k/train.jsonl" "$out/easy.jsonl" <<'EOF'
import json, sys
rows = [row for row in map(json.loads, open(sys.argv[1], encoding="utf-8")) if row["answer"].count("<<") <= 2 and len(row["question"]) <= 160]
open(sys.argv[2], "w", encoding="utf-8").write("".join(json.dumps(row) + "\n" for row in rows))
EOF
sample() { # OUT; exec: the process itself is what gets killed
    exec python -m extras.make_data sample --data "$out/easy.jsonl" --model "$model" --limit "$questions" --num_answers 8 \
        --max_completion_length 40 --temperature 0.7 --chunk "$chunk" --instruction "$instruction" --out "$1" 2>> "$out/notes.txt"
}
python - <<'EOF'
import platform, torch, transformers
name = next((line.split(": ")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
print(f"python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, {name}, {torch.get_num_threads()} thread; "
      "SmolLM2-135M-Instruct (4-bit weights, dequantised), seed 0")
EOF

echo "== sample: $questions of the $(wc -l < "$out/easy.jsonl") training questions with at most 2 calculations and 160 characters," \
    "8 answers each of at most 40 tokens, temperature 0.7"
started=$SECONDS
(sample "$out/answers.jsonl")
echo "$((SECONDS - started)) s (the core was shared)"
echo "== pairs"
make pairs --data "$out/answers.jsonl" --pairs_per_question 2 --out "$out/pairs.jsonl"
echo "== report"
make report --data "$out/pairs.jsonl"
echo "== two of the pairs, the ends of their answers"
python - "$out/pairs.jsonl" <<'EOF'
import json, sys
for row in list(map(json.loads, open(sys.argv[1], encoding="utf-8")))[:2]:
    print(json.dumps({"question": row["messages"][-1]["content"]}, ensure_ascii=False))
    for index, name in ((row["label"], "right"), (1 - row["label"], "wrong")):
        print(f"  {name} " + json.dumps("..." + row["ab"[index]][-160:], ensure_ascii=False))
EOF

echo "== sample again, killed (SIGKILL) in the middle of a chunk after a third and after two thirds of the questions"
for wanted in $((questions / 3)) $((questions * 2 / 3)); do
    sample "$out/killed.jsonl" &
    pid=$!
    until [ -f "$out/killed.jsonl.partial" ] && [ "$(wc -l < "$out/killed.jsonl.partial")" -gt "$wanted" ]; do
        kill -0 "$pid"  # ends the script if the sampling has ended by itself
        sleep 1
    done
    sleep 5
    kill -KILL "$pid"
    wait "$pid" || echo "killed: exit code $?, $(($(wc -l < "$out/killed.jsonl.partial") - 1)) of $questions questions on the disk"
done
(sample "$out/killed.jsonl")
make pairs --data "$out/killed.jsonl" --pairs_per_question 2 --out "$out/killed_pairs.jsonl"
for name in answers:killed pairs:killed_pairs; do
    cmp "$out/${name%:*}.jsonl" "$out/${name#*:}.jsonl" && echo "${name%:*}.jsonl: the same bytes ($(wc -c < "$out/${name%:*}.jsonl"))"
done

echo "== benchmark questions planted among the pairs"
python - "$data" "$out" <<'EOF'
import json, sys
from pathlib import Path
data, out = map(Path, sys.argv[1:])
first = lambda name: json.loads(next(open(data / name, encoding="utf-8")))  # noqa: E731
math, gsm8k = first("math500/test.jsonl")["problem"], first("gsm8k/model_solutions.jsonl")["question"]
pandalm = json.load(open(data / "pandalm/testset-v1.json"))[3]
planted = {"math500, as it is": math, "gsm8k, other numbers and capitals": gsm8k.upper().replace("16", "18").replace("THREE", "FOUR"),
           "pandalm, inside a longer prompt": f"Hello! I need some help with this.\n\n{pandalm['instruction']}\n{pandalm['input']}\n\nPlease be quick."}
rows = [{"id": f"planted {name}", "query": text, "a": "One answer.", "b": "Another answer.", "label": 0} for name, text in planted.items()]
honest = [json.loads(line) for line in open(out / "pairs.jsonl", encoding="utf-8")]
rows += [{"id": row["id"], "query": row["messages"][-1]["content"], "a": row["a"], "b": row["b"], "label": row["label"]} for row in honest]
(out / "planted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
EOF
against="$data/math500/test.jsonl,$data/gsm8k/model_solutions.jsonl,$data/pandalm/testset-v1.json"
make clean --data "$out/planted.jsonl" --against "$against" --out "$out/clean.jsonl"
python - "$out" <<'EOF'
import json, sys
ids = [[json.loads(line)["id"] for line in open(f"{sys.argv[1]}/{name}.jsonl", encoding="utf-8")] for name in ("planted", "clean", "pairs")]
print("removed:", *(f"\n  {name}" for name in ids[0] if name not in ids[1]), sep="")
assert ids[1] == ids[2], "something else than the planted questions was removed, or one of them was left"
print(f"kept: all {len(ids[2])} pairs made from training questions, and nothing else")
EOF
