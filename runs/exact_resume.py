"""Resumes a run from each of its steps and compares the end with that of the run left alone.

    python runs/exact_resume.py 7 8 9          these seeds of train_grpo.py, 12 steps each

Every run is a process of its own. A resumed run gets config.json, metrics.jsonl and one checkpoint
of the run left alone. Compared are the bytes of the last checkpoint's weights and moments, and
all metrics but times.
"""

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cli
import distributed  # noqa: F401  imports torch once, before the processes are forked
import train_grpo

LAST = 12
FLAGS = f"--max_steps {LAST} --save_every 1 --eval_every 0".split()


def train(folder, seed, *flags):
    """A run in a process of its own."""
    flags = [*FLAGS, "--seed", seed, "--output_dir", str(folder), *flags]
    process = multiprocessing.get_context("fork").Process(target=train_here, args=[folder, flags])
    process.start()
    process.join()
    assert process.exitcode == 0, folder.with_suffix(".log").read_text()


def train_here(folder, flags):
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    train_grpo.main(cli.parse_settings(train_grpo.Settings, flags))


def outcome(folder):
    """{name: bytes} of what has to be equal."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    metrics = [{name: row[name] for name in row if "tim" not in name} for row in rows]
    weights = folder / f"checkpoint-{LAST}" / "model.safetensors"
    moments = folder / f"checkpoint-{LAST}" / "trainer" / "optimizer.safetensors"
    return {
        "metrics": json.dumps(metrics).encode(),
        "weights": weights.read_bytes(),
        "moments": moments.read_bytes(),
    }


def main():
    for seed in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as parent:
            alone = Path(parent) / "alone"
            train(alone, seed)
            expected = outcome(alone)
            for step in range(1, LAST + 1):
                resumed = Path(parent) / f"from-{step}"
                checkpoint = f"checkpoint-{step}"
                shutil.copytree(alone / checkpoint, resumed / checkpoint)
                for name in ("config.json", "metrics.jsonl"):
                    shutil.copy(alone / name, resumed)
                train(resumed, seed, "--resume")
                found = outcome(resumed)
                different = [name for name in expected if found[name] != expected[name]]
                result = "differs: " + ", ".join(different) if different else "the same bytes"
                print(f"seed {seed}, resumed from step {step:2}: {result}", flush=True)
                shutil.rmtree(resumed)


if __name__ == "__main__":
    cli.run(main)
