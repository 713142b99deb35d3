"""The runs of the study: pointwise and pairwise judges as rewards, and as pickers of the best.

    python runs/pointwise/pointwise.py              every run of rules.md, one after the other
    python runs/pointwise/pointwise.py weak knock   those whose name contains one of these texts
    python runs/pointwise/pointwise.py list         their names, in order, and which are finished

Files go to OUT (out/pointwise), see runs/studies.py.
"""

import functools
import itertools
import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("runs", "runs/pointwise", "runs/reward")]
import strategies  # noqa: E402
from answers import sample  # noqa: E402
from measures import mean, read_rows  # noqa: E402
from rewards_tiny import is_right  # noqa: E402
from strategies import STEPS, STRATEGIES, SUMS, kind_of, world  # noqa: E402
from studies import POLICY, Study  # noqa: E402

STUDY = Study("pointwise")
PAIRS = 32 * STEPS  # that a judge learns from
SFT = f"""--max_steps {STEPS} --learning_rate 5e-4 --schedule cosine --judge_style tiny
    --dtype float32 --save_every {STEPS}"""
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


def judge(kind, start, seed):
    """The judge's folder; a pair is one row for a pairwise judge and two for a pointwise one."""
    name = f"{kind}_{start}-{seed}"
    per_pair = 1 if kind == "pairwise" else 2
    rows = STUDY.rows(name, lambda: itertools.islice(strategies.rows(kind, seed), per_pair * PAIRS))
    flags = {"model": ROOT / f"tiny/{start}", "train_data": rows, "batch_size": 32 * per_pair}
    return STUDY.train("train_sft.py", name, SFT, seed=0 if seed == "dev" else seed, **flags)


# ---- measures ----


def accuracy(kind, folder, pairs):
    """{strategy: share of pairs in which the better answer gets the higher value, ties a half}."""
    make = functools.partial(world.pairs, f"pointwise {pairs}", 1000, pairs == "test", **SUMS)
    rows, found = read_rows(STUDY.rows(pairs, make)), {}
    questions, groups = [row["query"] for row in rows], [[row["a"], row["b"]] for row in rows]
    for strategy in ["opponents_1"] if kind == "pairwise" else ["votes_1", "votes_4"]:
        loaded = strategies.load(kind, folder)
        values = strategies.values_of(loaded, strategy, questions, groups)
        leads = [pair[row["label"]] - pair[1 - row["label"]] for pair, row in zip(values, rows)]
        found[strategy] = mean((lead > 0) + 0.5 * (lead == 0) for lead in leads)
    return found


def picks(start, seed):
    """{strategy: {right, usage}}: who picks among eight answers of the policy.

    right: for each question, the chance that the pick is right where the best draw lots.
    """
    questions = [row["question"] for row in read_rows(STUDY.answers(1000))[300:600]]
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
        for group, own in zip(right, values):
            best = [is_good for is_good, value in zip(group, own) if value == max(own)]
            picked.append(mean(best))
        found[strategy] = {"right": picked, "usage": strategies.usage_of(loaded)}
    return found


def policy(name, reward, seed):
    """The policy's share of right answers before and after, and what its judge has written."""
    # A run that continues would count the usage of its second half alone: start anew.
    shutil.rmtree(STUDY.out / "runs" / name, ignore_errors=True)
    files = {"train_data": STUDY.questions(), "eval_data": STUDY.answers(1000)}
    flags = {"reward": f"solve:{reward}", "seed": seed, "model": ROOT / "tiny/student"}
    options = f"{POLICY} --scale_rewards none"
    last = STUDY.train("train_grpo.py", name, options, **flags, **files)
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
        result["usage"] = json.loads((STUDY.out / "usage" / f"{reward}.json").read_text())
    STUDY.save(name, result)


if __name__ == "__main__":
    STUDY.main(plan(), run, sys.argv[1:])
