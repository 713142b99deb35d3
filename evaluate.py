"""Runs a judge over labelled answers, or scores stored verdicts; accuracy with intervals.

    python evaluate.py --benchmark pairs --data pairs.jsonl --model MODEL --output_dir out/pairs
    python evaluate.py --help

The command is written in extras/evaluate.py: nothing in the core needs an evaluation.
"""

import importlib

import cli
from cli import BadInput


def main():
    try:
        command = importlib.import_module("extras.evaluate")
    except ModuleNotFoundError as error:
        if error.name not in ("extras", "extras.evaluate"):
            raise
        raise BadInput("evaluation needs the folder extras/, which is missing") from error
    command.main()


if __name__ == "__main__":
    cli.run(main)
