"""The runs of the study: pointwise and pairwise judges as rewards, and as pickers of the best.

    python runs/pointwise/pointwise.py              every run of rules.md, one after the other
    python runs/pointwise/pointwise.py weak knock   those whose name contains one of these texts
    python runs/pointwise/pointwise.py list         their names, in order, and which are finished

Trainings go to OUT/runs, results to OUT/results (OUT: out/pointwise). What is there is used again.
"""

import itertools
import json
import os
import random
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("runs/pointwise", "runs/rationale", "runs/reward")]
import strategies  # noqa: E402
import student  # noqa: E402
import study  # noqa: E402
from answers import sample  # noqa: E402
from measures import mean, read_rows, write_rows  # noqa: E402
from rewards_tiny import is_right  # noqa: E402
from strategies import STEPS, STRATEGIES, kind_of, world  # noqa: E402
from study import finished, save, train  # noqa: E402

OUT = study.OUT = Path(os.environ.get("OUT", ROOT / "out/pointwise")).resolve()
LOG = ROOT / "runs/pointwise/logs/results.jsonl.gz"
PAIRS = 32 * STEPS  # that a judge learns from
SFT = f"""--max_steps {STEPS} --learning_rate 5e-4 --schedule cosine --judge_style tiny
    --dtype float32 --save_every {STEPS}"""
POLICY = study.POLICY.replace("--eval_limit 400", "--eval_limit 1000") + " --scale_rewards none"
STARTS, SEEDS = ("base", "weak"), range(1, 6)


def plan():
    """The names of all runs, in the order in which they are made."""
    names = [f"scale_{kind}_base-dev" for kind in ("binary", "graded")]
    for seed in SEEDS:
        names += [f"policy_{told}-{seed}" for told in ("oracle", "coin")]
        for start in STARTS:
            names += [f"judge_{kind}_{start}-{seed}" for kind in ("pairwise", "graded")]
            names += [f"pick_{start}-{seed}"]
            names += [f"policy_{start}_{strategy}-{seed}" for strategy in STRATEGIES]
    return names


def data(name):
    """The path of a data file, made if it is missing."""
    path = OUT / "data" / f"{name}.jsonl"
    makers = {
        "questions": lambda: itertools.islice(student.questions(False), 8000),
        "answers": lambda: itertools.islice(student.questions(True), 1000),
        "dev": lambda: world.pairs("pointwise dev", 1000, False, **strategies.SUMS),
        "test": lambda: world.pairs("pointwise test", 1000, True, **strategies.SUMS),
    }
    if not path.exists():
        write_rows(path, makers[name]())
    return path


def judge(kind, start, seed):
    """The judge's folder; a pair is one row for a pairwise judge and two for a pointwise one."""
    name = f"{kind}_{start}-{seed}"
    rows, per_pair = OUT / f"data/{name}.jsonl", 1 if kind == "pairwise" else 2
    if not rows.exists():
        write_rows(rows, itertools.islice(strategies.rows(kind, seed), per_pair * PAIRS))
    flags = {"model": ROOT / f"tiny/{start}", "train_data": rows, "seed": seed}
    if seed == "dev":
        flags["seed"] = 0
    return train("train_sft.py", name, SFT, batch_size=32 * per_pair, **flags)


# ---- measures ----


def accuracy(kind, folder, pairs):
    """{strategy: share of pairs in which the better answer gets the higher value, ties a half}."""
    rows, found = read_rows(data(pairs)), {}
    questions, groups = [row["query"] for row in rows], [[row["a"], row["b"]] for row in rows]
    for strategy in ["opponents_1"] if kind == "pairwise" else ["votes_1", "votes_4"]:
        loaded = strategies.load(kind, folder)
        values = strategies.values_of(loaded, strategy, questions, groups)
        leads = [pair[row["label"]] - pair[1 - row["label"]] for pair, row in zip(values, rows)]
        found[strategy] = mean((lead > 0) + 0.5 * (lead == 0) for lead in leads)
    return found


def picks(start, seed):
    """{strategy: {right, of each question; usage}}: who picks among eight answers of the policy."""
    questions = [row["question"] for row in read_rows(data("answers"))[:300]]
    groups = sample(ROOT / "tiny/student", questions, 8)
    right = []
    for question, group in zip(questions, groups):
        right.append([is_right(question, text) for text in group])
    found = {"first": {"right": [group[0] for group in right]}}
    found["any"] = {"right": [any(group) for group in right]}
    for strategy in STRATEGIES:
        kind = kind_of(strategy)
        loaded = strategies.load(kind, judge(kind, start, seed))
        values = strategies.values_of(loaded, strategy, questions, groups)
        picked = []
        for question, group, own in zip(questions, right, values):
            best = [index for index, value in enumerate(own) if value == max(own)]
            picked.append(group[random.Random(f"tie:{seed}:{question}").choice(best)])
        found[strategy] = {"right": picked, "usage": strategies.usage_of(loaded)}
    return found


def policy(name, reward, seed):
    """The policy's share of right answers before and after, and what its judge has written."""
    shutil.rmtree(OUT / "runs" / name, ignore_errors=True)  # half a run would count half the usage
    files = {"train_data": data("questions"), "eval_data": data("answers")}
    flags = {"reward": f"solve:{reward}", "seed": seed, "model": ROOT / "tiny/student"}
    last = train("train_grpo.py", name, POLICY, **flags, **files)
    rows = read_rows(last.parent / "metrics.jsonl")
    right = [row["eval/reward/oracle"] for row in rows if "eval/reward/oracle" in row]
    shutil.rmtree(last.parent)
    return {"before": right[0], "after": right[-1]}


def run(name):
    what, _, rest = name.partition("_")
    cell, seed = rest.split("-")
    if what in ("judge", "scale"):
        kind, start = cell.split("_")
        pairs = "dev" if what == "scale" else "test"
        result = accuracy(kind, judge(kind, start, seed), pairs)
    elif what == "pick":
        result = picks(cell, seed)
    elif cell in ("oracle", "coin"):
        result = policy(name, f"runs.reward.rewards_tiny:{cell}", seed)
    else:
        start, strategy = cell.split("_", 1)
        judge(kind_of(strategy), start, seed)  # makes it
        reward = f"{start}_{seed}_{strategy}"
        result = policy(name, f"runs.pointwise.strategies:{reward}", seed)
        result["usage"] = json.loads((OUT / "usage" / f"{reward}.json").read_text())
    save(name, result)


def main(wanted):
    study.collect(LOG)
    for name in plan():
        if wanted == ["list"]:
            print(name, "finished" if finished(name) else "")
        elif not finished(name) and any(part in name for part in wanted or [""]):
            print(name, flush=True)
            run(name)


if __name__ == "__main__":
    main(sys.argv[1:])
