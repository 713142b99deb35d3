"""Runs a judge over labelled answers, or scores stored verdicts; accuracy with intervals.

    python evaluate.py --benchmark pairs --data pairs.jsonl --model MODEL --output_dir out/pairs
    python evaluate.py --help

The command is written in extras/evaluate.py: nothing in the core needs an evaluation.
"""

import cli
from plugins import load_extra

if __name__ == "__main__":
    cli.run(lambda: load_extra("evaluate").main())
