"""What the experiments share: settings, trainings, recorded games, results.

A training or a file of games is made when it is asked for and missing. So a run that was stopped
continues, and experiments share runs by their names. Settings come from the environment:

    SEEDS   of the RL runs ("0")
    STEPS   of an RL run (60; the default run has 150)
    LIMIT   held-out pairs, an even number (200 of 1,000)
    OUT     where trainings and games go (out/miniature)
    RECORD  where results, page and figure go (runs/miniature)
"""

import json
import os
import platform
import subprocess
import sys

from games import ROOT, load_judge, load_tasks, play
from measures import Path, accuracy, as_text, grid, read_rows, write_rows

from cli import note
from seeding import stable_hash

SEEDS = [int(seed) for seed in os.environ.get("SEEDS", "0").split()]
STEPS = int(os.environ.get("STEPS", 60))
LIMIT = int(os.environ.get("LIMIT", 200))
FULL = "-full" if len(SEEDS) > 1 else ""
# Other settings have another folder: their games are not to be taken for those of now.
OUT = Path(os.environ.get("OUT", ROOT / "out/miniature")).resolve() / f"{STEPS}-{LIMIT}"
RECORD = Path(os.environ.get("RECORD", ROOT / "runs/miniature")).resolve()
TRAIN, TEST = ROOT / "tiny/train.jsonl", ROOT / "tiny/test.jsonl"
# Half of the judgments of both bases think; the weak one often errs while it does.
FOLDERS = {"mixed": ROOT / "tiny/base", "weak": ROOT / "tiny/weak"}
THINK, GUESS = "<think>", "\\boxed{Assistant "  # how a judgment has to begin

PROMPTS_PER_STEP = 32
GRPO = f"--prompts_per_step {PROMPTS_PER_STEP} --num_generations 8".split()
GRPO += "--dtype float32 --save_every 30 --eval_every 0".split()
SFT = "--batch_size 64 --schedule cosine --warmup_steps 20 --judge_style tiny".split()
SFT += "--dtype float32 --save_every 100".split()


# ---- trainings and games ----


def train(program, fixed, name, **options):
    """The last checkpoint of a training of this project, made if it is missing."""
    folder = OUT / "runs" / name
    checkpoint = folder / f"checkpoint-{options['max_steps']}"
    if checkpoint.exists():
        return checkpoint
    note(f"* {name}")
    command = [sys.executable, program, "--output_dir", str(folder), "--resume", *fixed]
    for flag, value in options.items():
        command += [f"--{flag}", str(value)]
    # The reward of the control is a function of this file.
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr, check=True)
    return checkpoint


def grpo(name, model, **changes):
    """The last checkpoint of GRPO; what is not given here is as in the default run."""
    options = {"model": model, "train_data": TRAIN, "max_steps": STEPS, "learning_rate": 1e-4}
    options["max_completion_length"] = 96
    return train("train_grpo.py", GRPO, name, **(options | changes))


def grpo_runs(name, model, **changes):
    """{name of the run: last checkpoint}, one a seed."""
    names = {seed: f"{name}-{seed}" for seed in SEEDS}
    return {run: grpo(run, model, seed=seed, **changes) for seed, run in names.items()}


def default_runs(base):
    """The GRPO runs of experiment 1, with which the others begin."""
    return grpo_runs(f"grpo-{base}", FOLDERS[base])


def coin_reward(prompts, completions, **columns):
    """The control: +1 or -1 by a hash, which knows nothing about the verdict."""
    rewards = []
    for place, (prompt, text) in enumerate(zip(prompts, completions)):
        rewards.append(1.0 if stable_hash(prompt, place, text) % 2 else -1.0)
    return rewards


def recorded(name, model, pairs=TEST, limit=LIMIT, **options):
    """Games on held-out pairs, played once and then read from OUT/games/NAME.jsonl."""
    path = OUT / "games" / f"{name}.jsonl"
    if not path.exists():
        note(f"* {name}: games")
        games = play(load_judge(model), load_tasks(pairs, limit), **options)
        write_rows(path.with_suffix(".partial"), games).rename(path)
    return read_rows(path)


def recorded_runs(runs, ending="", **options):
    """The games of each of several runs {name: checkpoint}."""
    return [recorded(name + ending, model, **options) for name, model in runs.items()]


# ---- numbers and results ----


def right(runs, family=None):
    """The grid of right games; `family` leaves those of the other family out."""

    def value(game):
        return game["right"] if family in (None, game["family"]) else None

    return grid(runs, value, "sibling")


def thinks(runs):
    """The grid of games that think: fewer than 8 tokens are a guess, as in judge/think_empty."""
    return grid(runs, lambda game: game["think_tokens"] >= 8, "sibling")


def accuracy_text(runs, family=None):
    return as_text(accuracy(right(runs, family)))


def thinks_text(runs):
    return f"{thinks(runs).mean():.2f}"


def write_result(name, claims, columns, rows):
    """Writes RECORD/results/NAME.json, from which table.py makes the page.

    claims: [[claim, figure with interval, verdict], ...], the main claim first.
    """
    result = {
        "command": f"bash runs/miniature.sh {'--full ' if FULL else ''}{name}",
        "seeds": SEEDS,
        "steps": STEPS,
        "pairs": LIMIT,
        "machine": f"{platform.machine()}, 1 process of one thread, fp32",
        "claims": claims,
        "tables": [["Numbers", columns, rows]],
        "notes": [],
    }
    path = RECORD / "results" / f"{name}{FULL}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(name, *(" | ".join(claim) for claim in claims), sep="\n  ", flush=True)
