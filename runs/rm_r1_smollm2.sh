#!/usr/bin/env bash
# RM-R1's whole chain with a model of 135 M parameters on one core. A teacher behind an
# OpenAI-compatible server writes judgments in RM-R1's format. A second teacher, who is told the
# verdict, redoes wrong ones. Malformed and contaminated ones are dropped. Then train_sft.py and
# train_grpo.py --style rm_r1.
#
#   MODEL=models/smollm2 bash runs/rm_r1_smollm2.sh     15 minutes; pip install fastapi uvicorn
#   TEACHER_URL=http://HOST:8000/v1 TEACHER=NAME bash runs/rm_r1_smollm2.sh    with a real teacher
#       (SECOND_TEACHER_URL, SECOND_TEACHER, OPENAI_API_KEY)
#
# Without TEACHER_URL the teacher is a STAND-IN: the same small model, first trained on a few dozen
# chains that a program wrote (runs/smollm2/rubric_chains.py), served by `transformers serve`. It
# shows the path and no gain: the student learns from a copy of itself that has seen a program's
# work, and three steps of RL change next to nothing. For the real sizes see runs/rm_r1.sh. Killed
# and called again it goes on. runs/rm_r1_smollm2.log is of an earlier version, whose pairs had more
# kinds of rules: git checkout 5d189bd
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONPATH=. TRANSFORMERS_VERBOSITY=error
model="${MODEL:-models/smollm2}" out="${OUT:-out/rm_r1_smollm2}" port="${PORT:-8191}"
teacher_steps="${TEACHER_STEPS:-36}" student_steps="${STUDENT_STEPS:-16}" grpo_steps="${GRPO_STEPS:-3}"
mkdir -p "$out"

sft() { # NAME DATA STEPS: one row a step and a high rate, because rows are few
    if [ -d "$out/$1/checkpoint-$3" ]; then return; fi
    python train_sft.py --model "$model" --train_data "$2" --judge_style rm_r1 \
        --output_dir "$out/$1" --resume --max_steps "$3" --batch_size 1 --learning_rate 2e-4 \
        --warmup_steps 3 --schedule cosine --save_every 12 --seed 0 >&2
}

if [ ! -f "$out/rl.jsonl" ]; then
    python runs/smollm2/rubric_chains.py "$out" "$teacher_steps" 16 16 >&2
fi

# ---- a teacher, and its chains ----
if [ ! -f "$out/chains.jsonl" ]; then
    if [ -z "${TEACHER_URL:-}" ]; then
        sft teacher "$out/teacher.jsonl" "$teacher_steps"
        if old="$(cat "$out/server.pid" 2> /dev/null)" &&
            ps -o args= -p "$old" | grep -q "transformers serve"; then
            kill "$old" # an earlier call was killed and left its server
            sleep 2
        fi
        TEACHER="$out/teacher/checkpoint-$teacher_steps" TEACHER_URL="http://127.0.0.1:$port/v1"
        # The cache has a fixed size: by default it takes most of the machine's memory.
        transformers serve "$TEACHER" --host 127.0.0.1 --port "$port" --device cpu \
            --dtype bfloat16 --continuous-batching --cb-block-size 32 --cb-num-blocks 1024 \
            > "$out/server.log" 2>&1 &
        server=$!
        echo "$server" > "$out/server.pid"
        trap 'kill "$server" 2> /dev/null || true' EXIT
        is_there="import urllib.request as web; web.urlopen('http://127.0.0.1:$port/health', timeout=5)"
        until python -c "$is_there" 2> /dev/null; do
            kill -0 "$server" || { tail -5 "$out/server.log" >&2; exit 1; }
            sleep 1
        done
    fi
    python -m extras.make_data chains --data "$out/asked.jsonl" --style rm_r1 \
        --base_url "$TEACHER_URL" --model "${TEACHER:?the name behind TEACHER_URL}" \
        --second_base_url "${SECOND_TEACHER_URL:-$TEACHER_URL}" \
        --second_model "${SECOND_TEACHER:-$TEACHER}" \
        --max_completion_length "${CHAIN_TOKENS:-224}" --out "$out/chains.jsonl" >&2
    if [ -n "${server:-}" ]; then kill "$server"; fi
fi

# ---- the student: distillation from the untrained model, then RL on other pairs ----
sft student "$out/chains.jsonl" "$student_steps"
if [ ! -d "$out/grpo/checkpoint-$grpo_steps" ]; then
    python train_grpo.py --model "$out/student/checkpoint-$student_steps" --style rm_r1 \
        --train_data "$out/rl.jsonl" --output_dir "$out/grpo" --resume --max_steps "$grpo_steps" \
        --prompts_per_step 2 --num_generations 4 --max_completion_length 176 --temperature 1.0 \
        --learning_rate 1e-6 --beta 0.001 --eval_every 0 --save_every 1 --seed 0 >&2
fi

python - "$out" "$grpo_steps" <<'EOF'
import json, sys
from pathlib import Path
out, last_step = Path(sys.argv[1]), sys.argv[2]


def rows(name):
    return [json.loads(line) for line in open(out / name, encoding="utf-8")]


report = json.loads((out / "chains.jsonl.report.json").read_text())
print("teacher", report["settings"]["model"])
for name in ("teacher", "student"):
    if (out / name).exists():  # a real teacher was not trained here
        losses = [row["loss"] for row in rows(f"{name}/metrics.jsonl")]
        print(f"{name}: {len(losses)} steps of one row, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
print("chains:", report["counts"], "format of those kept:", report["format"])
judging = "accuracy parse_fail format type_reasoning type_chat".split()
names = ["reward", *(f"judge/{name}" for name in judging)]
names += ["completions/mean_length", "kl", "grad_norm", "step_time"]
for row in rows("grpo/metrics.jsonl"):
    print(f"step {row['step']}  " + "  ".join(f"{name} {row[name]:.4g}" for name in names))
print("== a chain that the student learned from\n" + rows("chains.jsonl")[0]["messages"][-1]["content"])
group = rows(f"grpo/rollouts/{last_step}.jsonl")[0]
print("== a completion of the last step\n" + group["completions"][0]["text"])
EOF
