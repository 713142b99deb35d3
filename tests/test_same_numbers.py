"""A short run gives the numbers and texts that it gave before, and loads only the reading path."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORDED = json.loads(Path(__file__).with_name("same_numbers.json").read_text())
FLAGS = "--max_steps 2 --prompts_per_step 8 --num_generations 4 --eval_every 2 --eval_limit 10"
# What trains a judge. Rankings, servers and benchmarks are not among it.
READING_PATH = """train_grpo.py judge_task.py rollout.py verdicts.py styles.py data.py
    chat.py model.py sampler.py kv_cache.py checkpoint.py distributed.py runlog.py progress.py
    cli.py seeding.py kernels/__init__.py kernels/logprob.py kernels/packed_attention.py""".split()
MOST_LINES = 4190  # of these files together; it may only fall

LIST_FILES = """
import json, os, runpy, sys
sys.argv = ["train_grpo.py", *sys.argv[1:]]
import train_grpo
light = not {"torch", "transformers"} & set(sys.modules)
train_grpo.main(train_grpo.cli.parse_settings(train_grpo.Settings))
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
print(json.dumps({"light": light, "files": sorted({file for file in files if file})}))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(the folder of the run, what the process had loaded at its end)"""
    folder = tmp_path_factory.mktemp("same") / "run"
    flags = [*FLAGS.split(), "--save_every", "2", "--seed", "7", "--output_dir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", LIST_FILES, *flags],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_same_metrics(run):
    rows = read(run[0] / "metrics.jsonl")
    assert len(rows) == len(RECORDED["metrics"])
    for row, recorded in zip(rows, RECORDED["metrics"]):
        assert {name for name in row if "tim" not in name} == recorded.keys()
        for name, value in recorded.items():
            # differences between sampler and trainer are rounding itself
            bound = 1e-5 if "logp_diff" in name else 1e-7
            assert row[name] == pytest.approx(value, rel=1e-4, abs=bound), (row["step"], name)


def test_the_same_rollouts(run):
    groups = read(run[0] / "rollouts" / "1.jsonl")
    assert [group["id"] for group in groups] == RECORDED["ids"]
    assert [group["order"] for group in groups] == RECORDED["orders"]
    texts = [completion["text"] for group in groups for completion in group["completions"]]
    assert texts == RECORDED["texts"]


def test_only_the_reading_path_is_loaded(run):
    loaded = run[1]
    assert loaded["light"]  # `import train_grpo` needs no torch
    own = []
    for file in loaded["files"]:  # torch has modules whose file does not exist
        path = ROOT / file
        if path.exists() and path.is_relative_to(ROOT) and "site-packages" not in path.parts:
            own.append(path.relative_to(ROOT).as_posix())
    assert sorted(own) == sorted(READING_PATH)
    assert sum(len((ROOT / name).read_text().splitlines()) for name in READING_PATH) <= MOST_LINES


def test_the_loop_fits_its_budget():
    lines = (ROOT / "train_grpo.py").read_text()
    assert len(lines.splitlines()) <= 450
    functions = [node for node in ast.parse(lines).body if isinstance(node, ast.FunctionDef)]
    sizes = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert sizes.pop("main") <= 130 and max(sizes.values()) <= 60
