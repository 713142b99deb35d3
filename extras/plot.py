"""One figure of a run, or of several runs: accuracy, reward, length, entropy, KL, clipping, speed.

    python -m extras.plot out/run                                     out/run/plot.png
    python -m extras.plot out/low-0 out/low-1 out/high-0 out/high-1 --out seeds.png

Folders whose names differ only in a trailing -SEED, and whose other settings are the same, are one
setting: each seed is a thin line, their mean a thick one. The top says what the run has learned, or
which setting is best, and the settings. Panels without data are left out. Panels
in which every value is 0 are left out too, and the figure names them at the bottom.
"""

import json
import os
import re
import sys
import textwrap
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Optional

import cli
from cli import BadInput, setting
from extras import split_arguments
from extras.words import model_words, settings_words
from progress import changes

# (title, unit, metrics with a word for each): the first metric is solid, the second dashed.
# Held-out metrics have a point at every evaluation.


def both(name):
    return (name, "training"), (f"eval/{name}", "held out")


PANELS = (
    ("Judge accuracy", "share of games, no verdict = wrong", both("judge/accuracy")),
    ("Right answers", "share of completions", both("reward/oracle")),
    ("Preference accuracy", "share of pairs", both("rewards/accuracies")),
    ("Preference margin", "reward, chosen minus rejected", both("rewards/margins")),
    ("Loss", "nats a token", both("loss")),
    ("Reward", "mean of the step", (("reward", "training"),)),
    ("Length with thinking", "tokens a completion", both("completions/mean_length")),
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
    ("Gradient norm", "before clipping", (("grad_norm", "training"),)),
    ("Speed", "tokens a second", (("speed", "training"),)),
)
# Distinguishable for colour-blind readers (Okabe and Ito 2008)
COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
DASHES = "-", (0, (4, 1.5))
GREY = "#555555"
# Settings in which the seeds of one setting may differ
FREE = "seed", "output_dir", "resume", "report_to", "save_every"


@dataclass
class Settings:
    out: Optional[str] = setting(
        None,
        "the figure: png, pdf or svg; default: plot.png, for one run in its folder",
    )


# ---- from folders to curves ----


def read_metrics(folder):
    """{metric: {step: value}} of a run's metrics.jsonl. Raises BadInput.

    `speed` is generated tokens a second, or tokens of the data for a run that generates none.
    """
    path, curves = Path(folder) / "metrics.jsonl", {}
    rows = [row for _, row in cli.read_json_lines(path, "RUN")]
    if not rows or not all(isinstance(row.get("step"), int) for row in rows):
        problem = "rows without a step" if rows else "no rows yet"
        raise BadInput(f"RUN: {path} has {problem}: give the folder of a training run")
    for row in rows:
        for name, value in row.items():
            if isinstance(value, (int, float)):
                curves.setdefault(name, {})[row["step"]] = value
    curves["speed"] = curves.pop("timing/tokens_per_second", None) or speed_of(rows)
    if "reward" in curves:
        curves.pop("loss", None)  # about 0 at any quality: the advantages of a group add up to 0
    return curves


def speed_of(rows):
    """{step: tokens a second}; num_tokens is counted from the start of the run."""
    timed = [row for row in rows if row.get("step_time") and "num_tokens" in row]
    speed = {}
    for before, row in pairwise(timed):
        if row["step"] == before["step"] + 1:
            speed[row["step"]] = (row["num_tokens"] - before["num_tokens"]) / row["step_time"]
    return speed


def settings_of(folder):
    """The settings in a run's config.json; {} where there is none. Raises BadInput."""
    path = Path(folder) / "config.json"
    if not path.exists():
        return {}
    settings = cli.parse_json(cli.read_text(path, "RUN"), path).get("settings", {})
    if not isinstance(settings, dict):
        raise BadInput(
            f"RUN: {path}: settings is {settings!r:.80}, expected an object: give the folder of a "
            "training run"
        )
    return settings


def group_seeds(folders):
    """{label: [folder, ...]}: a group differs in a trailing -SEED and in no other setting.

    A seed has at most five digits: six are the time of day.
    """
    groups, folders = {}, list(dict.fromkeys(Path(folder).absolute() for folder in folders))
    base = os.path.commonpath([folder.parent for folder in folders])
    for folder in folders:
        settings = settings_of(folder).items()
        shared = {name: value for name, value in settings if name not in FREE}
        name = os.path.relpath(folder, base)
        stem, seed = re.fullmatch(r"(.*?)(?:-(\d{1,5}))?", name, re.DOTALL).groups()
        key = stem, seed is None, json.dumps(shared)
        groups.setdefault(key, []).append((name, seed, folder))
    labelled = {}
    for (stem, *_), members in groups.items():
        label = members[0][0]
        if len(members) > 1:
            label = f"{stem} (seeds {', '.join(seed for _, seed, _ in members)})"
        labelled[label] = [folder for _, _, folder in members]
    return labelled


def running_mean(values, window):
    """Means over `window` (odd) values around each, fewer at the ends.

    [1, 2, 6] with a window of 3 -> [1.5, 3, 4].
    """
    half, means = window // 2, []
    for middle in range(len(values)):
        part = values[max(0, middle - half) : middle + half + 1]
        means.append(sum(part) / len(part))
    return means


# ---- the figure ----


def draw_curves(axis, curves, colour, dashes, held_out, label):
    """One metric of one setting: [{step: value} of each seed]. Returns the window of the mean."""
    curves = [curve for curve in curves if curve]
    if not curves:
        return 1
    # Steps of all seeds: a mean over fewer seeds would jump where one ends.
    steps = sorted(set(curves[0]).intersection(*curves[1:]))
    window = 1 if held_out else len(steps) // 40 // 2 * 2 + 1
    style = dict(color=colour, linestyle=dashes)
    if len(curves) > 1 or window > 1:
        for curve in curves:
            axis.plot(*zip(*sorted(curve.items())), **style, linewidth=0.7, alpha=0.35)
    mean = [sum(curve[step] for curve in curves) / len(curves) for step in steps]
    marker = "o" if held_out or len(steps) == 1 else None
    mean = running_mean(mean, window)
    axis.plot(steps, mean, **style, linewidth=1.8, marker=marker, markersize=4, label=label)
    return window


def draw_panel(axis, panel, runs):
    """Draws one panel of {label: [curves of each seed]}. Returns the windows of its means."""
    title, unit, metrics = panel
    windows = set()
    for (label, members), colour in zip(runs.items(), COLOURS):
        for (name, _), dashes in zip(metrics, DASHES):
            curves, held_out = [curves.get(name, {}) for curves in members], is_held_out(name)
            windows.add(draw_curves(axis, curves, colour, dashes, held_out, label))
    style_axis(axis, title, unit)
    axis.set_xlabel("step", fontsize=8.5)
    axis.xaxis.get_major_locator().set_params(integer=True)
    low, high = axis.get_ylim()
    middle = (low + high) / 2
    if middle and abs(high - middle) < 1e-3 * abs(middle):  # a constant: hide its rounding errors
        axis.set_ylim(*sorted((0.9 * middle, 1.1 * middle)))
    axis.margins(x=0.02)
    draw_legend(axis, metrics, runs)
    return windows


def style_axis(axis, title, unit):
    """The look of every panel, here and in report.py."""
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=18)
    place = dict(xycoords="axes fraction", xytext=(0, 4), textcoords="offset points")
    axis.annotate(unit, (0, 1), **place, fontsize=8.5, color=GREY)
    axis.tick_params(labelsize=8.5, color="#999999", labelbottom=True)
    axis.grid(color="#e6e6e6", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#999999")


def is_held_out(name):
    return name.startswith("eval/")


def draw_legend(axis, metrics, runs):
    """Names the metrics of a panel that has two of them."""
    from matplotlib.lines import Line2D

    lines, words = [], []
    for (name, word), dashes in zip(metrics, DASHES):
        if any(name in curves for members in runs.values() for curves in members):
            marker = "o" if is_held_out(name) else None
            lines.append(Line2D([], [], color=GREY, linestyle=dashes, marker=marker, markersize=4))
            words.append(word)
    if len(lines) > 1:
        axis.legend(lines, words, fontsize=8, frameon=False, handlelength=2.6)


def panels_of(runs):
    """(panels to draw, panels in which every value is 0)."""
    panels, zero = [], []
    for panel in PANELS:
        values = []
        for members in runs.values():
            for curves in members:
                for name, _ in panel[2]:
                    values += curves.get(name, {}).values()
        if any(values):
            panels.append(panel)
        elif values:
            zero.append(panel)
    return panels, zero


def plot_runs(folders, path):
    """Draws the figure of the run folders to `path`, and returns it.

    Raises BadInput for what cannot be read, and without matplotlib.
    """
    groups = group_seeds(folders)
    if len(groups) > len(COLOURS):
        raise BadInput(
            f"RUN: {len(groups)} settings in one figure cannot be distinguished: give at most "
            f"{len(COLOURS)}"
        )
    runs = {}
    for label, members in groups.items():
        runs[label] = [read_metrics(folder) for folder in members]
    panels, zero = panels_of(runs)
    if not panels:
        raise BadInput(
            f"RUN: {folders[0]} has no metric to draw, or all are 0: give the folder of a training "
            "run"
        )
    columns = min(len(panels), 3 if len(panels) in (5, 6, 9) else 4)
    lines = -(-len(panels) // columns)
    title, details = heading(groups)
    figure, axes = new_figure(title, details, list(runs), (lines, columns), (3.7, 2.85))
    for axis in axes[1:]:
        axis.sharex(axes[0])
    window = 1
    for panel, axis in zip(panels, axes):
        window = max(window, *draw_panel(axis, panel, runs))
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    footnote = footnote_of(groups, window, zero)
    figure.supxlabel(footnote, x=0.01, ha="left", fontsize=8.5, color=GREY)
    save_figure(figure, path)
    return figure


def heading(groups):
    """(title, lines below it): what one run has learned, or the best of several; the settings."""
    from extras.table import best_setting  # which imports this file

    lines = []
    for label, folders in groups.items():
        settings = settings_of(folders[0])
        if len(folders) > 1:
            settings.pop("seed", None)
        lines.append(f"{label}: {model_words(settings)}, {settings_words(settings)}")
    if len(groups) > 1:
        return best_setting(groups) or "no held-out results in common", lines
    (label,) = groups
    rows = [row for _, row in cli.read_json_lines(Path(groups[label][0]) / "metrics.jsonl", "RUN")]
    return f"{label}: {changes(rows, 'eval/') or changes(rows) or 'no results yet'}", lines


def new_figure(title, lines, labels, shape, size):
    """(figure, its axes) with a title, lines of small print and a legend on top of the panels.

    shape: rows and columns of panels. size: width and height of one in inches. Raises BadInput
    without matplotlib.
    """
    try:
        # Without pyplot: no window, and no state that a caller would share.
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError as error:
        raise BadInput("matplotlib is missing: pip install matplotlib") from error
    width = max(7.4, size[0] * shape[1])
    lines = [part for line in lines for part in textwrap.wrap(line, int(13.5 * width))]
    title = textwrap.wrap(title, int(8.5 * width))
    head = 0.1 + 0.27 * len(title)  # inches above the lines
    top = head + 0.19 * len(lines) + (0.5 if len(labels) > 1 else 0.2)
    height = size[1] * shape[0] + top
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - top / height))
    style = dict(va="top", parse_math=False)
    figure.text(0.01, 1 - 0.1 / height, "\n".join(title), fontsize=13, fontweight="bold", **style)
    figure.text(0.01, 1 - head / height, "\n".join(lines), fontsize=9, color=GREY, **style)
    if len(labels) > 1:
        handles = [Line2D([], [], color=colour, linewidth=3) for _, colour in zip(labels, COLOURS)]
        place = (0.005, 1 - (top - 0.4) / height)
        style = dict(ncols=min(len(labels), 6), frameon=False, fontsize=9)
        figure.legend(handles, labels, loc="upper left", bbox_to_anchor=place, **style)
    return figure, list(figure.subplots(*shape, squeeze=False).flat)


def save_figure(figure, path):
    """Writes the figure. Raises BadInput for a file that cannot be written."""
    if Path(path).suffix[1:] not in figure.canvas.get_supported_filetypes():
        raise BadInput(f"--out: {path} must end in .png, .pdf or .svg")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise BadInput(
            f"--out: cannot write {path} ({error.strerror}): give another file"
        ) from error


def footnote_of(groups, window, zero):
    """What thin and thick lines are, and which panels are left out."""
    seeds = any(len(members) > 1 for members in groups.values())
    notes = []
    if seeds or window > 1:
        thin, over = ("seed", " over seeds") if seeds else ("step", "")
        steps = f" of {window} steps" if window > 1 else ""
        notes.append(f"thin: each {thin}, thick: mean{over}{steps}")
    if zero:
        notes.append(f"0 throughout, not shown: {', '.join(title for title, _, _ in zero)}")
    return "; ".join(notes)


def main(argv=None):
    folders, flags = split_arguments(sys.argv[1:] if argv is None else argv)
    settings = cli.parse_settings(Settings, flags, description=__doc__)
    if not folders:
        raise BadInput("RUN: give the folder of one run or of several")
    path = Path(folders[0]) / "plot.png" if len(folders) == 1 else Path("plot.png")
    if settings.out:
        path = Path(settings.out)
    plot_runs(folders, path)
    print(path)


if __name__ == "__main__":
    cli.run(main)
