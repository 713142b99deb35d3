#!/usr/bin/env bash
# From a pretrained language model to a judge: one stage a call, each resumable and skipped once it is done. In this order:
#
#   bash runs/smollm2/chain.sh data          training pairs and test sets, no question in both                   1 minute
#   bash runs/smollm2/chain.sh sample        the model's own judgments behind examples                           half an hour on one core
#   bash runs/smollm2/chain.sh format        chains that were right in both orders; one model trained on them, one on their verdicts
#   bash runs/smollm2/chain.sh direct 0      GRPO on verdicts without thinking, seed 0
#   bash runs/smollm2/chain.sh think 0       GRPO with thinking, seed 0 (then 1, 2)                              half an hour to an hour each
#   bash runs/smollm2/chain.sh labels        a control: supervised learning from the labels of the same pairs, no thinking
#   bash runs/smollm2/chain.sh table NAME    every test set for one judge: base, forced, format, direct-format, direct-0, think-0 ...
#   python runs/smollm2/table.py             runs/smollm2/README.md's tables from what is there
#
# MODEL, DATA, OUT: another model, the folder of the public sets, where everything goes. BASE: a model that knows the verdict already and needs
# no format stage. SETS="gsm8k rmb": these test sets alone; LIMIT: so many questions of each. A larger model takes longer thinking, more of
# everything and a GPU: runs/r1_distill.sh calls the stages with other numbers.
set -euo pipefail
cd "$(dirname "$0")/../.."
model="${MODEL:-models/smollm2}" data="${DATA:-data}" out="${OUT:-out/smollm2}"
run="${RUN:-python}"                                       # RUN="torchrun --nproc_per_node 8" for several GPUs
style="${STYLE:-rrm_short}" direct_style="${DIRECT_STYLE:-direct_short}"
budget="${BUDGET:-96}" room="${ROOM:-160}"                 # tokens of a judgment with thinking: in training, and in the tables
steps="${STEPS:-60}" prompts="${PROMPTS:-4}" generations="${GENERATIONS:-8}" rate="${RATE:-5e-6}"
sft_steps="${SFT_STEPS:-80}" sft_rate="${SFT_RATE:-4e-5}"  # 80 x 8 rows: six times through a hundred chains; after 26 a fourth had no verdict
direct_steps="${DIRECT_SFT_STEPS:-26}" direct_rate="${DIRECT_SFT_RATE:-2e-5}"  # a verdict alone is learned sooner
label_steps="${LABEL_STEPS:-120}"                          # x 8 rows: once through all training pairs in both orders
grpo_flags="${GRPO_FLAGS---reward consistency}"            # right in both orders: it leads back a judge that drifts to one place
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
mkdir -p "$out"

sft() {  # NAME DATA STYLE STEPS RATE
    [ -d "$out/$1/checkpoint-$4" ] && return
    $run train_sft.py --model "$model" --train_data "$out/$2.jsonl" --output_dir "$out/$1" --batch_size 8 --max_steps "$4" \
        --learning_rate "$5" --warmup_steps 4 --schedule cosine --judge_style "$3" --save_every 20 --resume
}

grpo() {  # NAME SEED STYLE BUDGET
    local start="$out/format/checkpoint-$sft_steps"
    if [ "$1" = direct ]; then start="$out/direct-format/checkpoint-$direct_steps"; fi
    [ -d "$out/$1-$2/checkpoint-$steps" ] && return
    $run train_grpo.py --model "${BASE:-$start}" --train_data "$out/data/train.jsonl" --style "$3" --max_completion_length "$4" --max_steps "$steps" \
        --prompts_per_step "$prompts" --num_generations "$generations" --learning_rate "$rate" --eval_every 0 --save_every 20 --resume \
        --seed "$2" --output_dir "$out/$1-$2" $grpo_flags
}

folder_of() {  # NAME: the model that a row of the table is about
    case $1 in
    base | forced) echo "$model" ;;
    format) echo "$out/$1/checkpoint-$sft_steps" ;;
    direct-format) echo "$out/$1/checkpoint-$direct_steps" ;;
    labels) echo "$out/$1/checkpoint-$label_steps" ;;
    *) echo "$out/$1/checkpoint-$steps" ;;
    esac
}

judge_sets() {  # NAME: a results.json for each test set; the numbers are questions: each costs one game to twelve
    local name=$1 flags="--style $style --max_completion_length $room"
    case $name in
    forced) flags="--style $direct_style --max_completion_length 1 --force_verdict" ;;  # a word, then the likelier verdict
    direct-* | labels) flags="--style $direct_style --max_completion_length 12 --force_verdict" ;;
    esac
    while read -r set benchmark limit; do
        case " ${SETS:-$set} " in *" $set "*) ;; *) continue ;; esac
        # shellcheck disable=SC2086
        python evaluate.py --benchmark "$benchmark" --data "$out/data/eval/$set.jsonl" --model "$(folder_of "$name")" $flags \
            --limit "${LIMIT:-$limit}" --output_dir "$out/eval/$name/$set" > /dev/null
    done <<'LIST'
constraints pairs 100
gsm8k gsm8k_solutions 25
pandalm pandalm 100
llmbar/Natural llmbar 100
llmbar/Neighbor llmbar 100
llmbar/GPTInst llmbar 50
llmbar/GPTOut llmbar 50
rmb rmb 25
judgebench judgebench 24
LIST
}

case ${1:-} in
data) [ -f "$out/data/train.jsonl" ] || python runs/smollm2/prepare.py --data "$data" --model "$model" --out "$out/data" ${DATA_FLAGS:-} ;;
sample) python runs/smollm2/chains.py sample --data "$out/data/train.jsonl" --model "$model" --style "$style" --out "$out/samples.jsonl" \
        --examples "${EXAMPLES-runs/smollm2/examples.jsonl}" --max_completion_length "$budget" ${SAMPLE_FLAGS:-} ;;
format)
    keep="python runs/smollm2/chains.py keep --data $out/data/train.jsonl --samples $out/samples.jsonl --style $style --direct_style $direct_style"
    $keep --out "$out/chains.jsonl" ${KEEP_FLAGS:-}
    $keep --direct --out "$out/verdicts.jsonl" ${KEEP_FLAGS:-}
    sft format chains "$style" "$sft_steps" "$sft_rate"
    sft direct-format verdicts "$direct_style" "$direct_steps" "$direct_rate" ;;
labels)
    python runs/smollm2/chains.py labels --data "$out/data/train.jsonl" --direct_style "$direct_style" --out "$out/labels.jsonl"
    sft labels labels "$direct_style" "$label_steps" "$sft_rate" ;;
direct) grpo direct "${2:?a seed}" "$direct_style" 12 ;;
think) grpo think "${2:?a seed}" "$style" "$budget" ;;
table) judge_sets "${2:?base, forced, format, direct-format, labels, direct-SEED or think-SEED}" ;;
*) sed -n '2,/^set/p' "$0" | grep '^#' ; exit 2 ;;
esac
