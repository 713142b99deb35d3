"""What the experiments share: trainings, games, intervals over seeds and questions, results and logs. Nothing here is an experiment.

Every training is a command with one result, its last checkpoint, and every measurement a file of games. `run_all` and `play_all` make what is
missing, JOBS at a time; so whatever was stopped goes on where it was, and experiments share runs by giving them the same name. Environment:
SEEDS ("0"), BASES (those of experiment 1), STEPS of an RL run (60; the default run has 150), LIMIT held-out pairs (200 of 1,000), JOBS (a process
for each core, 2 at most), OUT (out/miniature), RECORD (runs/miniature: what is kept), TINY (tiny/: the bases). STEPS=2 LIMIT=8: does it run?
"""

import hashlib
import json
import os
import platform
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tiny"), str(Path(__file__).parent)]
import world  # noqa: E402
from measure import THINKS  # noqa: E402

from seeding import stable_hash  # noqa: E402

SEEDS = [int(seed) for seed in os.environ.get("SEEDS", "0").split()]
STEPS, LIMIT, JOBS = (
    int(os.environ.get(name, default))
    for name, default in (
        ("STEPS", 60),
        ("LIMIT", 200),
        ("JOBS", min(2, len(os.sched_getaffinity(0)))),
    )
)
OUT = Path(os.environ.get("OUT", ROOT / "out/miniature")).resolve()
RECORD = Path(os.environ.get("RECORD", ROOT / "runs/miniature")).resolve()
TINY = Path(os.environ.get("TINY", ROOT / "tiny")).resolve()
BASES = {
    "mixed": "half of its judgments think, half are a coin (tiny-base)",
    "weak": "as mixed, from an early checkpoint: it errs within its thinking (tiny-weak)",
    "guesser": "judges at once, by a coin; it can think when made to (tiny-guesser)",
    "solver": "works a question out and has never compared anything; its verdict is a coin (tiny-solver)",
}
PROMPTS_PER_STEP, GENERATIONS = 32, 8
THINK, GUESS = "<think>", "\\boxed{Assistant "  # how a judgment has to begin
COMPARED = re.compile(r"\d[ny]|\b[ny](\d|\b)")  # the marks of an answer set beside the working


# ---- trainings and measurements, each a command with one result ----


def base(name):
    """The folder of a base: what `--model tiny-NAME` reads; mixed is called tiny-base."""
    folder = TINY / {"mixed": "base"}.get(name, name)
    if not (folder / "model.safetensors").is_file():
        raise SystemExit(f"no base {name} in {folder}: bash runs/tiny.sh makes it")
    return folder


def check_settings():
    """Refuses to go on in a folder that was begun with other settings or bases: its games would be taken for the ones of now."""
    weights = {
        name: hashlib.sha256((base(name) / "model.safetensors").read_bytes()).hexdigest()[:12]
        for name in BASES
    }
    path, found = OUT / "settings.json", {"STEPS": STEPS, "LIMIT": LIMIT, "bases": weights}
    if not path.exists():
        write_rows(path, [found])
    elif json.loads(path.read_text()) != found:
        raise SystemExit(
            f"{path}: begun with {path.read_text().strip()}, now {json.dumps(found)}: remove {OUT}, or set another OUT"
        )


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_job(job):
    result, command = job
    if result.exists():
        return
    log = OUT / "output" / f"{'-'.join(result.relative_to(OUT).parts)}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    result.parent.mkdir(parents=True, exist_ok=True)
    print("*", result.relative_to(OUT), file=sys.stderr, flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    with open(log, "w") as stream:
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    if not result.exists():
        raise SystemExit(
            f"failed ({done.returncode}): python {' '.join(map(str, command))}\n{log.read_text()[-1500:]}"
        )


def run_all(jobs):
    check_settings()
    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(run_job, dict(jobs).items()))


def grpo(
    name,
    model,
    seed=0,
    data=ROOT / "tiny/train.jsonl",
    reward="verdict",
    steps=None,
    room=96,
    learning_rate="1e-4",
):
    """A job: GRPO from the folder `model`; its result is the last checkpoint. Settings but for the steps are those of the default run."""
    folder, steps = OUT / "runs" / f"{name}-{seed}", steps or STEPS
    command = [
        "train_grpo.py",
        "--model",
        model,
        "--train_data",
        data,
        "--eval_data",
        ROOT / "tiny/test.jsonl",
        "--reward",
        reward,
        "--prompts_per_step",
        PROMPTS_PER_STEP,
        "--num_generations",
        GENERATIONS,
        "--max_completion_length",
        room,
        "--learning_rate",
        learning_rate,
        "--dtype",
        "float32",
        "--max_steps",
        steps,
        "--save_every",
        30,
        "--eval_every",
        30,
        "--eval_limit",
        min(50, LIMIT),
        "--seed",
        seed,
        "--output_dir",
        folder,
        "--resume",
    ]
    return folder / f"checkpoint-{steps}", command


def default_judge(name="mixed", seed=0):
    """The folder of the run of experiment 1 on verdicts; made here if it is missing."""
    job = grpo(f"grpo-{name}", base(name), seed)
    run_all([job])
    return job[0]


def sft(name, model, data, steps, learning_rate, seed=0):
    folder = OUT / "runs" / f"{name}-{seed}"
    return folder / f"checkpoint-{steps}", [
        "train_sft.py",
        "--model",
        model,
        "--train_data",
        data,
        "--judge_style",
        "tiny",
        "--dtype",
        "float32",
        "--batch_size",
        64,
        "--schedule",
        "cosine",
        "--warmup_steps",
        20,
        "--learning_rate",
        learning_rate,
        "--max_steps",
        steps,
        "--save_every",
        100,
        "--seed",
        seed,
        "--output_dir",
        folder,
        "--resume",
    ]


def games(
    name, model, forced="", votes=1, temperature=1.0, pairs=ROOT / "tiny/test.jsonl", limit=None
):
    """A measurement for `play_all`: the games of a judge on held-out pairs (measure.py), to OUT/games/NAME.jsonl."""
    return {
        "result": str(path_of(name)),
        "model": str(model),
        "pairs": str(pairs),
        "limit": limit or LIMIT,
        "forced": forced,
        "votes": votes,
        "temperature": temperature,
    }


def path_of(name):
    return OUT / "games" / f"{name}.jsonl"


def play_all(wanted):
    """Plays the measurements whose file is missing, in JOBS processes; loading torch takes longer than many of them."""
    missing = [
        one
        for one in {one["result"]: one for one in wanted}.values()
        if not Path(one["result"]).exists()
    ]
    (OUT / "games").mkdir(parents=True, exist_ok=True)
    lists = [
        write_rows(OUT / f"data/measurements-{os.getpid()}-{job}.jsonl", missing[job::JOBS])
        for job in range(min(JOBS, len(missing)))
    ]
    for path in lists:
        path.with_suffix(".done").unlink(missing_ok=True)
    run_all([(path.with_suffix(".done"), [Path(__file__), path]) for path in lists])


def play_list(path):
    """What a process of `play_all` does; a file of games is there whole or not at all."""
    from measure import load_judge, load_rows, play

    for one in map(json.loads, Path(path).read_text().splitlines()):
        print("*", one["result"], file=sys.stderr, flush=True)
        rows = load_rows(one["pairs"], one["limit"])
        partial = write_rows(
            Path(one["result"] + ".partial"),
            play(load_judge(one["model"]), rows, one["forced"], one["votes"], one["temperature"]),
        )
        partial.rename(one["result"])
    Path(path).with_suffix(".done").touch()


def coin_reward(prompts, completions, **columns):
    """The control: +1 or -1 by a hash, which knows nothing of the verdict (--reward rl:coin_reward)."""
    return [
        1.0 if stable_hash(prompt, place, text) % 2 else -1.0
        for place, (prompt, text) in enumerate(zip(prompts, completions))
    ]


# ---- numbers with intervals ----


def read_games(path):
    return [json.loads(line) for line in open(path)]


def right(game):
    return float(game["right"])


def thinks(game):
    return float(game["think_tokens"] >= THINKS)


def compares(game):
    return float(COMPARED.search(game["text"].split("\\boxed")[0]) is not None)


def chose_longer(game):
    """Above 0: a bias. Siblings have the same two answers, so that the longer one is better in half of the games."""
    return None if game["longer"] is None else game["longer"] - 0.5


def table(paths, value=right, keep=lambda game: True):
    """(runs, siblings): mean of value over the games of two siblings, NaN where there is none. One path or one for each seed."""
    rows = []
    for path in [paths] if isinstance(paths, Path) else paths:
        cells = {}
        for game in read_games(path):
            found = value(game) if keep(game) else None
            cells.setdefault(game["sibling"], []).extend([] if found is None else [found])
        rows.append([np.mean(cells[name]) if cells[name] else np.nan for name in sorted(cells)])
    return np.array(rows)


def majority(path):
    """(1, siblings): share of prompts that the majority of the votes gets right; an even vote counts one half."""
    votes, siblings = {}, {}
    for game in read_games(path):
        siblings[game["id"], game["order"][0]] = game["sibling"]
        if game["verdict"]:
            votes.setdefault((game["id"], game["order"][0]), []).append(game["right"])
    cells = {}
    for prompt, sibling in siblings.items():
        cast = votes.get(prompt, [])
        cells.setdefault(sibling, []).append(
            0.5 * (1 + np.sign(2 * sum(cast) - len(cast))) if cast else 0.0
        )
    return np.array([[np.mean(cells[name]) for name in sorted(cells)]])


def estimate(statistic, *tables, draws=2000):
    """(value, low, high): 95 % bootstrap of statistic(mean of each table). Siblings are drawn anew, the same for all tables, and so are
    seeds, where there are several: their scatter is part of the interval. With one seed the interval is that of the pairs alone."""
    rng, seeds, siblings = (
        np.random.default_rng(0),
        max(map(len, tables)),
        min(rows.shape[1] for rows in tables),
    )
    tables = [rows[:, :siblings] for rows in tables]

    def value(runs, places):
        return float(
            statistic(*(np.nanmean(rows[np.ix_(runs % len(rows), places)]) for rows in tables))
        )

    drawn = [
        value(rng.integers(seeds, size=seeds), rng.integers(siblings, size=siblings))
        for _ in range(draws)
    ]
    low, high = np.nanquantile(
        drawn, (0.025, 0.975)
    )  # a draw without a game of the kind asked for is no number
    return value(np.arange(seeds), np.arange(siblings)), float(low), float(high)


def accuracy(*tables):
    return estimate(lambda first: first, *tables)


def difference(first, second):
    return estimate(lambda one, other: one - other, first, second)


def share(rows):
    return f"{np.nanmean(rows):.2f}"


def verdict(triple, yes="reproduced"):
    """What an interval says of a claim "above 0"."""
    return (
        yes
        if triple[1] > 0
        else "not at this size" + (" (the opposite is shown)" if triple[2] < 0 else "")
    )


# ---- what is kept ----


TRIPLES = max(4, LIMIT // 5)


def make_triples(count=TRIPLES):
    """Three lines of different quality for each of `count` test questions, as the three pairs of each."""
    path, rng, rows = OUT / "data/triples.jsonl", random.Random("triples"), []
    while not path.exists() and len(rows) < 3 * count:
        task = world.draw_constraints(rng, rng.choice((2, 3)))
        lines = {
            world.quality(task, line): line
            for line in (world.draw_line(rng, task) for _ in range(20))
        }
        if world.is_test(world.key(task)) and len(lines) >= 3:
            drawn = rng.sample(sorted(lines), 3)
            rows += [
                {
                    "id": f"{len(rows) // 3}-{i}{j}",
                    "query": world.line_query(task),
                    "a": lines[drawn[i]],
                    "b": lines[drawn[j]],
                    "label": int(drawn[j] > drawn[i]),
                    "family": "lines",
                    "level": len(task),
                }
                for i, j in ((0, 1), (1, 2), (0, 2))
            ]
    return path if path.exists() else write_rows(path, rows)


def cycle_rate(path):
    """Share of triples whose three verdicts go in a circle, of those with three verdicts; each order is a tournament. A coin: 0.25."""
    triples = {}
    for game in read_games(path):
        name, pair = game["id"].split("-")
        if game["verdict"]:
            triples.setdefault((name, game["order"][0]), {})[pair] = game["order"][
                game["verdict"] - 1
            ]  # 0: the first of the two is better
    whole = [leads for leads in triples.values() if len(leads) == 3]
    return (
        float(np.mean([leads["01"] == leads["12"] != leads["02"] for leads in whole]))
        if whole
        else float("nan")
    )


def triple_games(runs):
    """Measurements for `write_logs`: games on triples. runs: {name: folder of the model}."""
    pairs = make_triples()
    return [
        games(f"{name}-triples", model, pairs=pairs, limit=10**6) for name, model in runs.items()
    ]


def write_logs(runs):
    """RECORD/logs (or logs-full)/NAME.log: the held-out rows of a run's metrics, and at its end how often its verdicts go in a circle."""
    names = ["accuracy", "consistency", "think_empty", "length_bias", "position_bias", "parse_fail"]
    folder = RECORD / f"logs{'-full' * (len(SEEDS) > 1)}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in runs.items():
        lines, metrics = [], Path(model).parent / "metrics.jsonl"
        for row in map(json.loads, metrics.read_text().splitlines() if metrics.exists() else ()):
            if "eval/judge/accuracy" in row:
                found = "  ".join(f"{metric} {row[f'eval/judge/{metric}']:.3f}" for metric in names)
                lines.append(
                    f"step {row['step']:3}  {found}  tokens {row['eval/completions/mean_length']:.0f}"
                )
        lines.append(
            f"end       cycle_rate {cycle_rate(path_of(f'{name}-triples')):.3f} (a coin: 0.25)"
        )
        (folder / f"{name}.log").write_text("\n".join(lines) + "\n")


def machine():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next(
        (line.split(": ")[1] for line in lines if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    return f"{name}, {JOBS} process{'es' * (JOBS > 1)} of one thread, fp32"


def write_result(name, claims, tables, notes):
    """RECORD/results/NAME.json, from which table.py makes the page; NAME-full where there are several seeds.

    claims: [[claim, figure with interval, verdict], ...], the experiment's main claim first. tables: [[heading, columns, rows], ...].
    """
    full = len(SEEDS) > 1
    result = {
        "command": f"bash runs/miniature.sh {'--full ' * full}{name}",
        "seeds": SEEDS,
        "steps": STEPS,
        "pairs": LIMIT,
        "machine": machine(),
        "claims": claims,
        "tables": tables,
        "notes": notes,
    }
    (RECORD / "results").mkdir(parents=True, exist_ok=True)
    (RECORD / "results" / f"{name}{'-full' * full}.json").write_text(
        json.dumps(result, indent=1) + "\n"
    )
    print(name, *(" | ".join(claim) for claim in claims), sep="\n  ", flush=True)


if __name__ == "__main__":
    play_list(sys.argv[1])
