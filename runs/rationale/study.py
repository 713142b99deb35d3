"""The runs of the study: judges whose reasons are right or wrong, and policies that they reward.

    python runs/rationale/study.py              every run of rules.md, one after the other
    python runs/rationale/study.py short rl_    those whose name contains one of these texts
    python runs/rationale/study.py list         their names, in order, and which are finished

Files go to OUT (out/rationale), see runs/studies.py.
"""

import gzip
import itertools
import json
import random
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("runs/rationale", "runs/miniature", "runs/reward")]
from checker import check, world  # noqa: E402
from games import load_judge, load_tasks, majority_right, play, shown_answers  # noqa: E402
from measures import mean, read_rows  # noqa: E402
from studies import GRPO, POLICY, Study  # noqa: E402

STUDY = Study("rationale")
SUMS = {"levels": (2, 3), "share_lines": 0}
STARTS = ROOT / "tiny/base", ROOT / "tiny/weak"  # of judges with an even and with an odd seed
CORRUPTED = "marks", "work", "short"
SFT = """--max_steps 300 --batch_size 32 --learning_rate 5e-4 --schedule cosine --judge_style tiny
    --dtype float32 --save_every 100"""
RL = GRPO + "--max_steps 90 --save_every 30 --eval_every 0 --max_completion_length 96"
JUDGE = "--reward judge --judge_opponents 2 --judge_max_completion_length 96 --judge_model"
TOLD = "--scale_rewards group --reward solve:runs.reward.rewards_tiny:"
REASONS = "runs.rationale.checker:reasons_reward"


# ---- data ----


def corrupted(kind, thinking, rng):
    """The thinking of a right judgment with reasons that are wrong in one way."""
    if kind == "marks":
        swapped = {"y": "n", "n": "y"}
        return re.sub(r"(?<=\d)[yn]|\b[yn](?=\d)", lambda found: swapped[found[0]], thinking)
    if kind == "work":
        return re.sub(r"=(\d+)", lambda found: f"={int(found[1]) + rng.randint(1, 9)}", thinking)
    return thinking.partition(" tens ")[0]


def judgments(kind, share, flips, seed):
    """Conversations without end: `share` of them have corrupted reasons, `flips` a flipped verdict.

    Both are drawn independently, and neither changes the other part of a judgment.
    """
    rng = random.Random(f"judgments:{kind}:{share}:{flips}:{seed}")
    while True:
        _, _, queries, tasks, answers, held_out = world.siblings(rng, **SUMS)
        for index in () if held_out else (0, 1):
            order = rng.choice([[0, 1], [1, 0]])
            shown, better = [answers[place] for place in order], order.index(index)
            thinking = world.think(tasks[index], shown)
            if rng.random() < float(share):
                thinking = corrupted(kind, thinking, rng)
            verdict = world.VERDICTS[1 - better if rng.random() < float(flips) else better]
            text = f"<think>{thinking}</think>{verdict}"
            messages = world.judge_messages(queries[index], shown)
            yield {"messages": [*messages, {"role": "assistant", "content": text}]}


def noisy(rows):
    rng = random.Random("noisy")
    return [row | {"label": row["label"] ^ (rng.random() < 0.2)} for row in rows]


def data(name):
    """The path of a data file, made if it is missing."""
    train = ROOT / "tiny/train.jsonl"
    makers = {
        "test": lambda: world.pairs("rationale test", 500, True, **SUMS),
        "sums": lambda: world.pairs("rationale train", 4000, False, **SUMS),
        "noisy": lambda: noisy(read_rows(train)),
        "lines": lambda: [
            row for row in read_rows(ROOT / "tiny/test.jsonl") if row["family"] == "lines"
        ][:200],
    }
    return STUDY.rows(name, makers[name])


# ---- what a judge is measured by ----


def cells(games, votes):
    """The measures of rules.md for the games of two siblings: 4 comparisons, `votes` games each."""
    answers = [game["verdict"] and game["order"][game["verdict"] - 1] for game in games]
    same, rights = [], []
    for start in range(0, len(games), 2 * votes):  # of one pair: one order, then the other
        middle, end = start + votes, start + 2 * votes
        twins = zip(answers[start:middle], answers[middle:end])
        same += [one == other and one is not None for one, other in twins]
        rights.append(majority_right(games[start:end]))
    thought = [game["score"] for game in games if game["reasons"] != "guess"]
    found = {
        "accuracy": mean(game["right"] for game in games),
        "score": mean(game["score"] for game in games),
        "thinks": len(thought) / len(games),
        "score_thought": mean(thought) if thought else None,
        "follows": mean(game["verdict"] == game["conclusion"] for game in games),
        "consistency": mean(same),
        "averaged": mean(rights),
    }
    kinds = [("right" if game["right"] else "wrong", game["reasons"]) for game in games]
    for kind in itertools.product(("right", "wrong"), ("right", "wrong", "guess")):
        found[", ".join(kind)] = kinds.count(kind) / len(games)
    return found


def measure(name, folder, pairs="test", votes=4):
    """Plays and checks a judge's games: they go to OUT/games, their measures to OUT/results."""
    if STUDY.finished(name):
        return
    games = play(load_judge(folder), load_tasks(data(pairs)), votes=votes, temperature=0.6)
    for game in games:
        game |= check(game["query"], shown_answers(game), game["text"])
    path = STUDY.out / "games" / f"{name}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(game) + "\n" for game in games)
    size = 4 * votes
    parts = [games[start : start + size] for start in range(0, len(games), size)]
    STUDY.save(name, {"siblings": [cells(part, votes) for part in parts]})


# ---- runs: everything that there is to know about one stands in its name ----


def judge(name):
    """The folder of a judge: judge_KIND_SHARE_FLIPS-SEED, or a judge after RL."""
    if name.startswith("rl_"):
        return after_rl(name)
    cell, seed = name.removeprefix("judge_").split("-")
    rows = STUDY.rows(name, lambda: itertools.islice(judgments(*cell.split("_"), seed), 9600))
    start = STARTS[int(seed) % 2]
    return STUDY.train("train_sft.py", name, SFT, model=start, train_data=rows, seed=seed)


def after_rl(name):
    """The folder of rl_START_REWARD-SEED, measured on the way."""
    start, reward, seed = name.removeprefix("rl_").replace("-", "_").split("_")
    from_base = start == "base"
    model = STARTS[0] if from_base else judge(f"judge_{start}_0.5_0-0")
    pairs = ROOT / "tiny/train.jsonl" if from_base else data("sums")
    flags = {"model": model, "train_data": data("noisy") if reward == "noisy" else pairs}
    kind = {"noisy": "verdict", "reasons": REASONS}.get(reward, reward)
    last = STUDY.train("train_grpo.py", name, RL, reward=kind, seed=seed, **flags)
    folders = {f"rl_{start}@0": model}
    folders |= {f"{name}@{step}": last.with_name(f"checkpoint-{step}") for step in (30, 60, 90)}
    for measured, folder in folders.items():
        if from_base and measured.endswith(("@0", "@90")):
            measure(f"{measured}+lines", folder, "lines", votes=1)
        measure(measured, folder, votes=1)  # the run is finished with the last of these
    return last


def policy(name):
    """Trains policy_REWARD_SEED and saves its share of right answers before and after."""
    reward, seed = name.removeprefix("policy_").rsplit("_", 1)
    flags = TOLD + reward if reward in ("oracle", "coin") else f"{JUDGE} {judge(reward)}"
    files = {"train_data": STUDY.questions(), "eval_data": STUDY.answers(400)}
    model = ROOT / "tiny/student"
    last = STUDY.train("train_grpo.py", name, f"{POLICY} {flags}", model=model, seed=seed, **files)
    rows = read_rows(last.parent / "metrics.jsonl")
    rows = [row for row in rows if "eval/reward/oracle" in row]
    right = [row["eval/reward/oracle"] for row in rows]
    believed = rows[-1]["eval/reward/win_rate"]
    STUDY.save(name, {"before": right[0], "after": right[-1], "believed": believed})
    shutil.rmtree(last.parent)


def run(name):
    if name.startswith("judge_"):
        measure(name, judge(name))
    elif name.startswith("rl_"):
        after_rl(name.removesuffix("@90"))
    else:
        policy(name)


def plan():
    """The names of all runs, in the order in which they are made."""
    kinds = [f"right_0_{flips}" for flips in (0, 0.2, 0.3, 0.4)]
    kinds += [f"{kind}_{s}_{flips}" for kind in CORRUPTED for s in (0.5, 1) for flips in (0, 0.3)]
    judges = [[f"judge_{kind}-{seed}" for kind in kinds] for seed in (0, 1)]
    judges.append([f"judge_{kind}-2" for kind in kinds[:4]])
    runs = [f"base_{reward}" for reward in ("verdict", "reasons", "noisy", "consistency")]
    runs += "marks_verdict marks_reasons short_verdict short_reasons".split()
    trained = [f"rl_{name}-{seed}" for seed in (0, 1, 2) for name in runs]
    names = []
    for some in judges:
        for name in some:
            names += [name, f"policy_{name}_0"]
        if some is judges[0]:
            names += [f"{name}@90" for name in trained]
    names += [f"policy_{name}_{seed}" for seed in (1, 2) for name in sum(judges, [])]
    paid = [name for name in trained if re.match("rl_(base|marks)_(verdict|reasons)", name)]
    others = ["oracle", "coin", *paid]
    return names + [f"policy_{name}_{seed}" for seed in (0, 1, 2) for name in others]


if __name__ == "__main__":
    STUDY.main(plan(), run, sys.argv[1:])
