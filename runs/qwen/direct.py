r"""Rows for a judge that does not think: the pairs in both orders, each with its bare verdict.

python runs/qwen/direct.py PAIRS OUT
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measures import command, labelled_pairs, write_rows  # noqa: E402

from seeding import uniform  # noqa: E402
from styles import judge_messages, load_style  # noqa: E402
from verdicts import BOTH_ORDERS  # noqa: E402

STYLE = "direct_short"


def main(pairs, out):
    style, rows = load_style(STYLE), []
    for pair in labelled_pairs(pairs):
        for order in BOTH_ORDERS:
            prompt = judge_messages(style, pair.messages, *(pair.answers[n] for n in order))
            verdict = f"\\boxed{{Assistant {order.index(pair.label) + 1}}}"
            rows.append({"messages": [*prompt, {"role": "assistant", "content": verdict}]})
    rows.sort(key=lambda row: uniform(f"direct:{row['messages']}"))
    write_rows(out, rows)
    print(f"{len(rows)} rows")


if __name__ == "__main__":
    command(main)
