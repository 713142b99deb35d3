"""The runs of the study: judges whose reasons are right or wrong, and policies that they reward.

    python runs/rationale/study.py              every run of rules.md, one after the other
    python runs/rationale/study.py short rl_    those whose name contains one of these texts
    python runs/rationale/study.py --list       their names, in order, and which are finished

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
from games import load_judge, load_tasks, play, shown_answers  # noqa: E402
from measures import mean, read_rows, write_rows  # noqa: E402

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
    --eval_temperature 1 --max_completion_length 64"""
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
    """Conversations without end: `share` of them with corrupted reasons, `flips` with a verdict
    that is flipped. Both are drawn independently, and neither changes the other part."""
    rng = random.Random(f"judgments:{kind}:{share}:{flips}:{seed}")
    while True:
        _, _, queries, tasks, answers, held_out = world.siblings(rng, **SUMS)
        for index in () if held_out else (0, 1):
            order = rng.choice([[0, 1], [1, 0]])
            shown, better = [answers[place] for place in order], order.index(index)
            thinking = world.think(tasks[index], shown)
            if rng.random() < share:
                thinking = corrupted(kind, thinking, rng)
            verdict = world.VERDICTS[1 - better if rng.random() < flips else better]
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


# ---- runs ----


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


def save(name, result):
    path = OUT / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".part").write_text(json.dumps({"name": name} | result))
    path.with_suffix(".part").rename(path)


def finished(name):
    return (OUT / "results" / f"{name}.json").exists()


def cells(games, votes):
    """The measures of rules.md for the games of two siblings: 4 tasks of `votes` games each."""
    answers = [game["verdict"] and game["order"][game["verdict"] - 1] for game in games]
    rights, same = [], []
    for start in range(0, len(games), 2 * votes):  # of one pair: one order, then the other
        pair = games[start : start + 2 * votes]
        lead = sum(1 if game["right"] else -1 for game in pair if game["verdict"])
        rights.append(0.5 + 0.5 * ((lead > 0) - (lead < 0)))
        one = answers[start : start + votes]
        other = answers[start + votes : start + 2 * votes]
        same += [a == b and a is not None for a, b in zip(one, other)]
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
    for verdict, reasons in itertools.product((True, False), ("right", "wrong", "guess")):
        share = mean(game["right"] == verdict and game["reasons"] == reasons for game in games)
        found[f"{'right' if verdict else 'wrong'}, {reasons}"] = share
    return found


def measure(name, folder, pairs="test", votes=4):
    """Plays and checks the games of a judge; all games go to OUT/games, the measures to results."""
    if finished(name):
        return
    games = play(load_judge(folder), load_tasks(data(pairs)), votes=votes, temperature=0.6)
    for game in games:
        game |= check(game["query"], shown_answers(game), game["text"])
    path = OUT / "games" / f"{name}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(game) + "\n" for game in games)
    parts = [games[start : start + 4 * votes] for start in range(0, len(games), 4 * votes)]
    counts = {}
    for game in games:
        for status, count in game["counts"].items():
            counts[status] = counts.get(status, 0) + count
    save(name, {"siblings": [cells(part, votes) for part in parts], "steps": counts})


def judge(kind, share, flips, seed):
    """One of the 36 judges."""
    name = f"judge_{kind}_{share}_{flips}-{seed}"
    rows = OUT / "data" / f"{name}.jsonl"
    if not rows.exists():
        write_rows(rows, itertools.islice(judgments(kind, share, flips, seed), 9600))
    flags = {"model": STARTS[seed % 2], "train_data": rows, "seed": seed}
    return name, train("train_sft.py", name, SFT, **flags)


def after_rl(start, reward, seed):
    """A judge after RL, measured on the way; start: base, or a kind of corrupted reasons."""
    name = f"rl_{start}_{reward}-{seed}"
    model = STARTS[0] if start == "base" else judge(start, 0.5, 0, 0)[1]
    pairs = ROOT / "tiny/train.jsonl" if start == "base" else data("sums")
    kind = {"noisy": "verdict", "reasons": REASONS}.get(reward, reward)
    flags = {"model": model, "reward": kind, "seed": seed}
    flags["train_data"] = data("noisy") if reward == "noisy" else pairs
    last = train("train_grpo.py", name, RL, **flags)
    measure(f"rl_{start}@0", model, votes=1)
    for step in (30, 60, 90):
        measure(f"{name}@{step}", last.with_name(f"checkpoint-{step}"), votes=1)
    if start == "base":
        measure("rl_base@0+lines", model, "lines", 1)
        measure(f"{name}@90+lines", last, "lines", 1)
    return name, last


def policy(name, reward, seed):
    """The gain of a policy. reward: flags of train_grpo.py."""
    name = f"policy_{name}_{seed}"
    if finished(name):
        return
    flags = {"model": ROOT / "tiny/student", "train_data": data("questions"), "seed": seed}
    folder = train("train_grpo.py", name, f"{POLICY} {reward}", eval_data=data("answers"), **flags)
    rows = read_rows(folder.parent / "metrics.jsonl")
    right = [row["eval/reward/oracle"] for row in rows if "eval/reward/oracle" in row]
    believed = [row["eval/reward/win_rate"] for row in rows if "eval/reward/win_rate" in row]
    save(name, {"before": right[0], "after": right[-1], "believed": believed[-1]})
    shutil.rmtree(folder.parent)


# ---- the plan ----


def plan():
    """[(name, what to call), ...] in the order of rules.md's questions: seeds 0 first."""
    found = {}

    def add(name, call, *arguments):
        found[name] = lambda: call(*arguments)

    def judged(name, make, arguments, seed):
        call = lambda: policy(name, f"{JUDGE} {make(*arguments)[1]}", seed)  # noqa: E731
        add(f"policy_{name}_{seed}", call)

    cells_of = [("right", 0, flips) for flips in (0, 0.2, 0.3, 0.4)]
    cells_of += itertools.product(CORRUPTED, (0.5, 1), (0, 0.3))
    judges = [(*cell, seed) for seed in (0, 1) for cell in cells_of]
    judges += [(*cell, 2) for cell in cells_of if cell[0] == "right"]
    trained = [("base", reward) for reward in ("verdict", "reasons", "noisy", "consistency")]
    trained += itertools.product(("marks", "short"), ("verdict", "reasons"))
    trained = [(*run, seed) for seed in (0, 1, 2) for run in trained]
    for kind, share, flips, seed in sorted(judges, key=lambda judge: judge[-1]):
        name = f"judge_{kind}_{share}_{flips}-{seed}"
        arguments = kind, share, flips, seed
        add(name, lambda arguments=arguments: measure(*judge(*arguments)))
        judged(name, judge, arguments, 0)
        if seed == 0 and (kind, share, flips) == cells_of[-1]:
            for run in trained:
                add(f"rl_{run[0]}_{run[1]}-{run[2]}@90", after_rl, *run)
    for seed in (1, 2):
        for arguments in judges:
            judged("judge_{}_{}_{}-{}".format(*arguments), judge, arguments, seed)
    for seed in (0, 1, 2):
        for told in ("oracle", "coin"):
            add(f"policy_{told}_{seed}", policy, told, TOLD + told, seed)
        for run in trained:
            if run[0] in ("base", "marks") and run[1] in ("verdict", "reasons"):
                judged("rl_{}_{}-{}".format(*run), after_rl, run, seed)
    return found


def main(wanted):
    runs = plan()
    for name, call in runs.items():
        if "--list" in wanted:
            print(name, "finished" if finished(name) else "")
        elif not finished(name) and any(part in name for part in wanted or [""]):
            print(name, flush=True)
            call()


if __name__ == "__main__":
    main(sys.argv[1:])
