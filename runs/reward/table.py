"""The tables of solver.sh, and the figure of docs/judge_as_reward.md.

    python runs/reward/table.py     out/reward/runs/* -> solver.jsonl -> the tables and accuracy.png

solver.jsonl has one run a line; runs that are gone from out/ stay there. Intervals are 95 %,
Student's t over seeds; one seed has none.
"""

import math
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "runs"))
from measures import markdown_table, mean, read_rows, write_rows  # noqa: E402

HERE, STEPS = ROOT / "runs/reward", 60
T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # by number of seeds
NAMES = {
    "oracle": "oracle: 1 for the right number",
    "judge": "judge (tiny)",
    "majority": "majority of the group",
    "untrained": "untrained judge (tiny-base)",
    "coin": "coin",
}
PARTS = {  # title: a pattern for the names of its runs
    "Arms": "|".join(NAMES),
    "Opponents": r"judge(_d\d)?",
    "A policy that forgets to carry": r"forgetful_\w+",
    "Judges by accuracy": r"[a-z]+_\d+",
}
ERRORS = {
    "fresh": ("errors anew in every game", "#0072B2"),
    "fixed": ("errors fixed for a pair of answers", "#009E73"),
    "longer": ("errors in favour of length", "#D55E00"),
}


def read_run(folder):
    """One row of solver.jsonl. held_out: [step, share of right answers, win rate], ..."""
    name, seed = re.fullmatch(r"(.+)-(\d+)", folder.name).groups()
    metrics = read_rows(folder / "metrics.jsonl")
    names = "step", "eval/reward/oracle", "eval/reward/win_rate"
    return {
        "name": name,
        "seed": int(seed),
        "held_out": [[round(row[name], 4) for name in names] for row in metrics if names[1] in row],
        "games": mean(row["reward/judge_games"] for row in metrics if "reward" in row),
    }


def collect():
    """Adds the finished runs of out/ to solver.jsonl and returns all, {name: rows}."""
    path, runs = HERE / "solver.jsonl", defaultdict(list)
    rows = {(row["name"], row["seed"]): row for row in read_rows(path)}
    for checkpoint in (ROOT / "out/reward/runs").glob(f"*-*/checkpoint-{STEPS}"):
        row = read_run(checkpoint.parent)
        rows[row["name"], row["seed"]] = row
    write_rows(path, [rows[key] for key in sorted(rows)])
    for name, seed in sorted(rows):
        runs[name].append(rows[name, seed])
    return runs


def with_interval(values, digits=3):
    """Mean and half of the interval over seeds."""
    values = list(values)
    center, size = mean(values), len(values)
    if size == 1:
        return f"{center:.{digits}f}"
    error = math.sqrt(sum((value - center) ** 2 for value in values) / (size - 1) / size)
    return f"{center:.{digits}f} ± {T95[size] * error:.{digits}f}"


def gain(row):
    """Held-out accuracy at the end less that of the same seed before training."""
    return row["held_out"][-1][1] - row["held_out"][0][1]


def table(runs, names):
    lines = []
    for name in names:
        rows, best = runs[name], "forgetful_oracle" if name.startswith("forgetful") else "oracle"
        oracle = mean(map(gain, runs[best]))
        line = [NAMES.get(name, name), len(rows)]
        line.append(with_interval(row["held_out"][-1][1] for row in rows))
        line.append(with_interval(map(gain, rows)))
        line.append(with_interval((gain(row) / oracle for row in rows), 2))
        lines.append([*line, f"{mean(row['games'] for row in rows):.0f}"])
    columns = "reward | seeds | held out, right | gain | share of the oracle's | games a step"
    return markdown_table(columns.split(" | "), lines)


def draw_accuracy(runs):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for kind, (label, colour) in ERRORS.items():
        means = {}
        for name, rows in runs.items():
            if re.fullmatch(rf"{kind}_\d+", name):
                accuracy, gains = int(name.split("_")[1]), list(map(gain, rows))
                axes.scatter([accuracy] * len(gains), gains, color=colour, alpha=0.3, s=15)
                means[accuracy] = mean(gains)
        axes.plot(*zip(*sorted(means.items())), color=colour, marker="o", label=label)
    for name, style in (("oracle", "-"), ("judge", "--"), ("majority", ":"), ("coin", "-.")):
        level = mean(map(gain, runs[name]))
        axes.axhline(level, color="black", linestyle=style, linewidth=1.2, label=NAMES[name])
    axes.set_xlabel("judge right, % of right-wrong pairs (by design)")
    axes.set_ylabel("gain in right answers, held out")
    axes.set_title("How good must a judge be? 16 matches a group of 8")
    axes.legend(fontsize=8)
    figure.savefig(HERE / "accuracy.png", dpi=120)


if __name__ == "__main__":
    runs = collect()
    before = with_interval(row["held_out"][0][1] for row in runs["oracle"])
    print(f"No training: {before} right held out.")
    for title, pattern in PARTS.items():
        names = [name for name in runs if re.fullmatch(pattern, name)]
        print(f"\n**{title}**\n\n{table(runs, names)}")
    draw_accuracy(runs)
