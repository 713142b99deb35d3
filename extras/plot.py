"""One figure of a run, or of several over each other: accuracy, reward, length, entropy, KL, clipping, speed; loss for supervised runs.

    python -m extras.plot out/run                                     out/run/plot.png
    python -m extras.plot out/low-0 out/low-1 out/high-0 out/high-1 --out seeds.png

Folders that differ in a trailing -SEED alone, and whose settings are otherwise the same, are one setting: each seed is a thin line, their
mean a thick one. Panels without data are left out, and so are those in which every value is 0, which the foot of the figure names.
"""

import json
import os
import re
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Optional

import cli
from cli import BadInput, setting
from extras import split_arguments

# (title, unit, its metrics: the first solid, the others dashed or dotted, and a word for each). What is held out has a point at every evaluation.
PANELS = (
    (
        "Judge accuracy",
        "share of games, no verdict = wrong",
        (("judge/accuracy", "training"), ("eval/judge/accuracy", "held out")),
    ),
    (
        "Right answers",
        "share of completions",
        (("reward/oracle", "training"), ("eval/reward/oracle", "held out")),
    ),
    (
        "Preference accuracy",
        "share of pairs",
        (("rewards/accuracies", "training"), ("eval/rewards/accuracies", "held out")),
    ),
    (
        "Preference margin",
        "reward, chosen less rejected",
        (("rewards/margins", "training"), ("eval/rewards/margins", "held out")),
    ),
    ("Loss", "nats a token", (("loss", "training"), ("eval/loss", "held out"))),
    ("Reward", "mean of the step", (("reward", "training"),)),
    (
        "Length with thinking",
        "tokens a completion",
        (("completions/mean_length", "training"), ("eval/completions/mean_length", "held out")),
    ),
    ("Entropy", "nats a token", (("entropy", "training"),)),
    ("KL to the first model", "nats a token", (("kl", "training"),)),
    (
        "Clipped by the loss",
        "share of tokens",
        (("clip_ratio/low_mean", "too unlikely"), ("clip_ratio/high_mean", "too likely")),
    ),
    (
        "No end, no verdict",
        "share of completions",
        (("completions/clipped_ratio", "cut off"), ("judge/parse_fail", "no verdict")),
    ),
    ("Both orders agree", "share of pairs, held out", (("eval/judge/consistency", "held out"),)),
    ("Judge against start", "win rate, held out", (("eval/reward/win_rate", "held out"),)),
    ("Gradient norm", "before scaling", (("grad_norm", "training"),)),
    ("Speed", "tokens a second", (("speed", "training"),)),
)
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)  # told apart by colour-blind eyes (Okabe and Ito 2008)
DASHES = "-", (0, (4, 1.5))


@dataclass
class Settings:
    out: Optional[str] = setting(
        None,
        "the figure: png, pdf or svg; default: plot.png, in the folder of the run if it is one",
    )


# ---- from folders to curves ----


def read_metrics(folder):
    """{metric: {step: value}} of a run's metrics.jsonl. `speed`: generated tokens a second; of a run that generates none, tokens of its data.
    Raises BadInput."""
    path, curves = Path(folder) / "metrics.jsonl", {}
    rows = [row for _, row in cli.read_json_lines(path, "RUN")]
    if not rows or not all(isinstance(row.get("step"), int) for row in rows):
        raise BadInput(
            f"RUN: {path} has {'rows without a step' if rows else 'no rows yet'}: give the folder of a training run"
        )
    for row in rows:
        for name, value in row.items():
            if isinstance(value, (int, float)):
                curves.setdefault(name, {})[row["step"]] = value
    told = [
        row for row in rows if row.get("step_time") and "num_tokens" in row
    ]  # num_tokens counts from the start of the run
    curves["speed"] = curves.pop("timing/tokens_per_second", None) or {
        b["step"]: (b["num_tokens"] - a["num_tokens"]) / b["step_time"]
        for a, b in pairwise(told)
        if b["step"] == a["step"] + 1
    }
    if "reward" in curves:
        curves.pop("loss", None)  # about 0 at any quality: the advantages of a group add up to 0
    return curves


def group_seeds(folders):
    """{label: [folder, ...]}: those that differ in a trailing -SEED (five digits at most: six are the time of day) and not in other settings."""
    groups, folders = {}, list(dict.fromkeys(Path(folder).absolute() for folder in folders))
    base = os.path.commonpath([folder.parent for folder in folders])
    for folder in folders:
        config, name = folder / "config.json", os.path.relpath(folder, base)
        settings = (
            cli.parse_json(cli.read_text(config, "RUN"), config).get("settings", {})
            if config.exists()
            else {}
        )
        rest = {
            key: value
            for key, value in settings.items()
            if key not in ("seed", "output_dir", "resume", "report_to", "save_every")
        }
        stem, seed = re.fullmatch(r"(.*?)(?:-(\d{1,5}))?", name, re.DOTALL).groups()
        groups.setdefault((stem, seed is None, json.dumps(rest)), []).append((name, seed, folder))
    labels = {
        key: members[0][0]
        if len(members) == 1
        else f"{key[0]} (seeds {', '.join(seed for _, seed, _ in members)})"
        for key, members in groups.items()
    }
    return {labels[key]: [folder for _, _, folder in members] for key, members in groups.items()}


def running_mean(values, window):
    """Means over `window` values (odd) around each, or over as many as there are: [1, 2, 6], 3 -> [1.5, 3, 4]."""
    half = window // 2
    return [
        sum(part) / len(part)
        for part in (
            values[max(0, middle - half) : middle + half + 1] for middle in range(len(values))
        )
    ]


# ---- the figure ----


def draw_curves(axis, curves, colour, dashes, held_out, label):
    """One metric of one setting: [{step: value} of each seed]. Returns the window of the running mean."""
    curves = [curve for curve in curves if curve]
    if not curves:
        return 1
    steps = sorted(
        set(curves[0]).intersection(*curves[1:])
    )  # a mean over those that are still there would jump where one ends
    window = 1 if held_out else len(steps) // 40 // 2 * 2 + 1
    for curve in curves if len(curves) > 1 or window > 1 else []:
        axis.plot(
            *zip(*sorted(curve.items())), color=colour, linestyle=dashes, linewidth=0.7, alpha=0.35
        )
    mean = running_mean(
        [sum(curve[step] for curve in curves) / len(curves) for step in steps], window
    )
    axis.plot(
        steps,
        mean,
        color=colour,
        linestyle=dashes,
        linewidth=1.8,
        marker="o" if held_out or len(steps) == 1 else None,
        markersize=4,
        label=label,
    )
    return window


def plot_runs(folders, path):
    """Draws the figure of the run folders to `path`, and returns it. Raises BadInput for what cannot be read, and without matplotlib."""
    groups = group_seeds(folders)
    if len(groups) > len(COLOURS):
        raise BadInput(
            f"RUN: {len(groups)} settings in one figure cannot be told apart: give {len(COLOURS)} at most"
        )
    runs = {
        label: [read_metrics(folder) for folder in members] for label, members in groups.items()
    }
    try:
        from matplotlib.figure import (
            Figure,
        )  # without pyplot: no window, no state that a caller would share
        from matplotlib.lines import Line2D
    except ImportError as error:
        raise BadInput("matplotlib is missing: pip install matplotlib") from error
    panels, zero = [], []
    for panel in PANELS:
        values = [
            value
            for members in runs.values()
            for curves in members
            for name, _ in panel[2]
            for value in curves.get(name, {}).values()
        ]
        (panels if any(values) else zero if values else []).append(panel)
    columns = min(len(panels), 3 if len(panels) in (5, 6, 9) else 4)
    lines, windows = -(-len(panels) // columns), set()
    figure = Figure(figsize=(3.7 * columns, 2.75 * lines + 0.8), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True).flat
    for (title, unit, metrics), axis in zip(panels, axes):
        for (label, members), colour in zip(runs.items(), COLOURS):
            for (name, _), dashes in zip(metrics, DASHES):
                windows.add(
                    draw_curves(
                        axis,
                        [curves.get(name, {}) for curves in members],
                        colour,
                        dashes,
                        name.startswith("eval/"),
                        label,
                    )
                )
        axis.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=18)
        axis.text(0, 1.03, unit, transform=axis.transAxes, fontsize=8.5, color="#555555")
        axis.set_xlabel("step", fontsize=8.5)
        axis.tick_params(labelsize=8.5, color="#999999", labelbottom=True)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if (middle := sum(axis.get_ylim()) / 2) and abs(axis.get_ylim()[1] - middle) < 1e-3 * abs(
            middle
        ):
            axis.set_ylim(
                *sorted((0.9 * middle, 1.1 * middle))
            )  # else a constant is drawn as its own rounding errors
        axis.grid(color="#e6e6e6", linewidth=0.7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color("#999999")
        axis.margins(x=0.02)
        kinds = [
            (name, word, dashes)
            for (name, word), dashes in zip(metrics, DASHES)
            if any(name in curves for members in runs.values() for curves in members)
        ]
        if len(kinds) > 1:
            axis.legend(
                [
                    Line2D(
                        [],
                        [],
                        color="#555555",
                        linestyle=dashes,
                        marker="o" if name.startswith("eval/") else None,
                        markersize=4,
                    )
                    for name, _, dashes in kinds
                ],
                [word for _, word, _ in kinds],
                fontsize=8,
                frameon=False,
                handlelength=2.6,
            )
    for axis in list(axes):
        axis.set_visible(False)  # fewer panels than places
    figure.legend(
        [Line2D([], [], color=colour, linewidth=3) for _, colour in zip(runs, COLOURS)],
        list(runs),
        loc="outside upper left",
        ncols=min(len(runs), columns),
        frameon=False,
        fontsize=10,
    )
    seeds = any(len(members) > 1 for members in groups.values())
    thin, over = ("seed", " over seeds") if seeds else ("step", "")
    steps = f" of {max(windows)} steps" if max(windows) > 1 else ""
    told = [f"thin: each {thin}, thick: mean{over}{steps}"] if seeds or max(windows) > 1 else []
    told += [f"0 throughout, not shown: {', '.join(title for title, _, _ in zero)}"] if zero else []
    figure.supxlabel("; ".join(told), x=0.01, ha="left", fontsize=8.5, color="#555555")
    if Path(path).suffix[1:] not in figure.canvas.get_supported_filetypes():
        raise BadInput(f"--out: {path} must end in .png, .pdf or .svg")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise BadInput(
            f"--out: cannot write {path} ({error.strerror}): give another file"
        ) from error
    return figure


def main(argv=None):
    folders, flags = split_arguments(sys.argv[1:] if argv is None else argv)
    settings = cli.parse_settings(
        Settings,
        flags,
        description=__doc__,
    )
    if not folders:
        raise BadInput("RUN: give the folder of one run or of several")
    path = Path(
        settings.out or (Path(folders[0]) / "plot.png" if len(folders) == 1 else "plot.png")
    )
    plot_runs(folders, path)
    print(path)


if __name__ == "__main__":
    cli.run(main)
