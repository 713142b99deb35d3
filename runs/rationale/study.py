"""The runs of the study: judges whose reasons are right or wrong, and policies that they reward.

    python runs/rationale/study.py              every run of rules.md, one after the other
    python runs/rationale/study.py short rl_    those whose name contains one of these texts
    python runs/rationale/study.py list         their names, in order, and which are finished

Trainings go to OUT/runs and results to OUT/results (OUT: out/rationale). What is there is used
again and an interrupted training continues, so the same command finishes what is missing.
"""

import gzip
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("runs/rationale", "runs/miniature", "runs/reward")]
import student  # noqa: E402
from checker import check, world  # noqa: E402
from games import load_judge, load_tasks, majority_right, play, shown_answers  # noqa: E402
from measures import mean, read_rows, write_rows  # noqa: E402

LOG = ROOT / "runs/rationale/logs/results.jsonl.gz"
OUT = Path(os.environ.get("OUT", ROOT / "out/rationale")).resolve()
SUMS = {"levels": (2, 3), "share_lines": 0}
STARTS = ROOT / "tiny/base", ROOT / "tiny/weak"  # of judges with an even and with an odd seed
CORRUPTED = "marks", "work", "short"
SFT = """--max_steps 300 --batch_size 32 --learning_rate 5e-4 --schedule cosine --judge_style tiny
    --dtype float32 --save_every 100"""
GRPO = "--num_generations 8 --prompts_per_step 16 --learning_rate 1e-4 --dtype float32 "
RL = GRPO + "--max_steps 90 --save_every 30 --eval_every 0 --max_completion_length 96"
POLICY = (
    GRPO
    + """--max_steps 40 --save_every 20 --eval_every 40 --eval_limit 400
    --max_completion_length 64"""
)
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
    path, train = OUT / "data" / f"{name}.jsonl", ROOT / "tiny/train.jsonl"
    makers = {
        "test": lambda: world.pairs("rationale test", 500, True, **SUMS),
        "sums": lambda: world.pairs("rationale train", 4000, False, **SUMS),
        "noisy": lambda: noisy(read_rows(train)),
        "lines": lambda: [
            row for row in read_rows(ROOT / "tiny/test.jsonl") if row["family"] == "lines"
        ][:200],
        "questions": lambda: itertools.islice(student.questions(False), 8000),
        "answers": lambda: itertools.islice(student.questions(True), 400),
    }
    if not path.exists():
        write_rows(path, makers[name]())
    return path


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
    if finished(name):
        return
    games = play(load_judge(folder), load_tasks(data(pairs)), votes=votes, temperature=0.6)
    for game in games:
        game |= check(game["query"], shown_answers(game), game["text"])
    path = OUT / "games" / f"{name}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(game) + "\n" for game in games)
    size = 4 * votes
    parts = [games[start : start + size] for start in range(0, len(games), size)]
    save(name, {"siblings": [cells(part, votes) for part in parts]})


# ---- runs: everything that there is to know about one stands in its name ----


def finished(name):
    return (OUT / "results" / f"{name}.json").exists()


def save(name, result):
    path = OUT / "results" / f"{name}.json"
    write_rows(path.with_suffix(".part"), [{"name": name} | result]).rename(path)


def train(program, name, options, **flags):
    """The last checkpoint of a training, made if it is missing."""
    folder, options = OUT / "runs" / name, options.split()
    last = folder / f"checkpoint-{options[options.index('--max_steps') + 1]}"
    if not last.exists():
        command = [sys.executable, program, "--output_dir", str(folder), "--resume", *options]
        for flag, value in flags.items():
            command += [f"--{flag}", str(value)]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{folder}.log", "a") as log:
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=True)
    return last


def judge(name):
    """The folder of a judge: judge_KIND_SHARE_FLIPS-SEED, or a judge after RL."""
    if name.startswith("rl_"):
        return after_rl(name)
    cell, seed = name.removeprefix("judge_").split("-")
    rows = OUT / "data" / f"{name}.jsonl"
    if not rows.exists():
        write_rows(rows, itertools.islice(judgments(*cell.split("_"), seed), 9600))
    start = STARTS[int(seed) % 2]
    return train("train_sft.py", name, SFT, model=start, train_data=rows, seed=seed)


def after_rl(name):
    """The folder of rl_START_REWARD-SEED, measured on the way."""
    start, reward, seed = name.removeprefix("rl_").replace("-", "_").split("_")
    from_base = start == "base"
    model = STARTS[0] if from_base else judge(f"judge_{start}_0.5_0-0")
    pairs = ROOT / "tiny/train.jsonl" if from_base else data("sums")
    flags = {"model": model, "train_data": data("noisy") if reward == "noisy" else pairs}
    kind = {"noisy": "verdict", "reasons": REASONS}.get(reward, reward)
    last = train("train_grpo.py", name, RL, reward=kind, seed=seed, **flags)
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
    files = {"train_data": data("questions"), "eval_data": data("answers")}
    model = ROOT / "tiny/student"
    last = train("train_grpo.py", name, f"{POLICY} {flags}", model=model, seed=seed, **files)
    rows = read_rows(last.parent / "metrics.jsonl")
    rows = [row for row in rows if "eval/reward/oracle" in row]
    right = [row["eval/reward/oracle"] for row in rows]
    believed = rows[-1]["eval/reward/win_rate"]
    save(name, {"before": right[0], "after": right[-1], "believed": believed})
    shutil.rmtree(last.parent)


def collect(log):
    """{name: result} of OUT and of a log. What only one of them has is added to the other."""
    found = {}
    if log.exists():
        rows = map(json.loads, gzip.decompress(log.read_bytes()).decode().splitlines())
        found = {row["name"]: row for row in rows}
        for name in found.keys() - {path.stem for path in OUT.glob("results/*.json")}:
            save(name, found[name])
    for path in OUT.glob("results/*.json"):
        found[path.stem] = json.loads(path.read_text())
    if found:
        text = "".join(json.dumps(found[name]) + "\n" for name in sorted(found))
        log.parent.mkdir(exist_ok=True)
        log.write_bytes(gzip.compress(text.encode(), mtime=0))
    return found


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


def main(wanted):
    collect(LOG)
    for name in plan():
        if wanted == ["list"]:
            print(name, "finished" if finished(name) else "")
        elif not finished(name) and any(part in name for part in wanted or [""]):
            print(name, flush=True)
            try:
                run(name)
            except subprocess.CalledProcessError:
                print(f"failed: {name}: see the newest log in {OUT}/runs", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
