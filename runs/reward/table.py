"""The tables of solver.sh, and the figure of docs/judge_as_reward.md.

    python runs/reward/table.py     out/reward/runs/* -> solver.jsonl -> the tables and accuracy.png

solver.jsonl has one run a line; runs that are gone from out/ stay there. Intervals are 95 %,
Student's t over seeds; one seed has none.
"""

import json
import math
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "runs"))
from measures import markdown_table, mean, read_rows, write_rows  # noqa: E402

HERE, RUNS = ROOT / "runs/reward", ROOT / "out/reward/runs"
T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 8: 2.36, 10: 2.26}  # by number of seeds
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
    """All known runs by name. Finished runs in out/ are added to solver.jsonl."""
    path = HERE / "solver.jsonl"
    rows = {(row["name"], row["seed"]): row for row in read_rows(path)}
    for config in RUNS.glob("*-*/config.json"):
        last = json.loads(config.read_text())["settings"]["max_steps"]
        if (config.parent / f"checkpoint-{last}").exists():
            row = read_run(config.parent)
            rows[row["name"], row["seed"]] = row
    rows = [rows[key] for key in sorted(rows)]
    write_rows(path, rows)
    return {row["name"]: [other for other in rows if other["name"] == row["name"]] for row in rows}


def with_interval(values, digits=3):
    """Mean and half of the interval over seeds."""
    values = list(values)
    center, size = mean(values), len(values)
    if size == 1:
        return f"{center:.{digits}f}"
    error = math.sqrt(sum((value - center) ** 2 for value in values) / (size - 1) / size)
    return f"{center:.{digits}f} ± {T95.get(size, 2.0) * error:.{digits}f}"


def gain(row):
    """Held-out accuracy at the end less that of the same seed before training."""
    return row["held_out"][-1][1] - row["held_out"][0][1]


def table(runs, names):
    lines = []
    for name in names:
        best = "forgetful_oracle" if name.startswith("forgetful") else "oracle"
        oracle = mean(gain(row) for row in runs[best])
        lines.append(
            [
                NAMES.get(name, name),
                len(runs[name]),
                with_interval(row["held_out"][-1][1] for row in runs[name]),
                with_interval(gain(row) for row in runs[name]),
                with_interval((gain(row) / oracle for row in runs[name]), 2),
                f"{mean(row['games'] for row in runs[name]):.0f}",
            ]
        )
    columns = "reward | seeds | held out, right | gain | share of the oracle's | games a step"
    return markdown_table(columns.split(" | "), lines)


def print_tables(runs):
    normal = [row for name in runs if not name.startswith("forgetful") for row in runs[name]]
    before = {row["seed"]: row["held_out"][0][1] for row in normal}
    print(f"No training: {with_interval(before.values())} right held out ({len(before)} seeds).")
    for title, pattern in PARTS.items():
        names = [name for name in runs if re.fullmatch(pattern, name)]
        if names:
            print(f"\n**{title}**\n\n{table(runs, names)}")


def draw_accuracy(runs):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for kind, (label, colour) in ERRORS.items():
        points = []
        for name in runs:
            if re.fullmatch(rf"{kind}_\d+", name):
                points += [(int(name.split("_")[1]), gain(row)) for row in runs[name]]
        axes.scatter(*zip(*points), color=colour, alpha=0.3, s=15)
        accuracies = sorted({accuracy for accuracy, _ in points})
        means = [mean(y for x, y in points if x == accuracy) for accuracy in accuracies]
        axes.plot(accuracies, means, color=colour, marker="o", label=label)
    for name, style in (("oracle", "-"), ("judge", "--"), ("majority", ":"), ("coin", "-.")):
        level = mean(gain(row) for row in runs[name])
        axes.axhline(level, color="black", linestyle=style, linewidth=1.2, label=NAMES[name])
    axes.set_xlabel("judge right, % of right-wrong pairs (by design)")
    axes.set_ylabel("gain in right answers, held out")
    axes.set_title("How good must a judge be? 16 matches a group of 8")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(HERE / "accuracy.png", dpi=120)


if __name__ == "__main__":
    runs = collect()
    print_tables(runs)
    draw_accuracy(runs)
