"""One figure about an evaluation: numbers with intervals, outcomes, lengths, calibration, tokens.

    python -m extras.report out/gsm8k/results.json
    python -m extras.report out/sweep/*/results.json --out sweep.png

The first form writes out/gsm8k/results.png, and prints the calibration. The second one shows the
first evaluation in detail, and the accuracy of all of them against their tokens.

The probability of a pair is its vote share, or that of the verdict token (`--confidence`), a mean
over both orders. It is uncalibrated until it is fitted on held-out data: `calibrated` is
sigmoid(a logit p), with a fitted on the other half of the questions. Parts for which the results
have no data are left out.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Optional

import numpy as np

import cli
from cli import BadInput, note, setting
from extras import split_arguments
from extras.scoring import OUTCOMES, decided, share, verdict_share
from seeding import uniform

COLOURS = dict(zip(OUTCOMES, ("#4c956c", "#c8553d", "#b0b0b0", "#e0a458", "#7a6c9d", "#5b8fb0")))


@dataclass
class Settings:
    out: Optional[str] = setting(
        None, "the figure; default: the name of the first file, with the ending .png"
    )


def probabilities(rows, probability):
    """[(question, probability that answer 0 of the pair is better, whether it is), ...]."""
    pairs = []
    for row in rows:
        for match, better in decided(row):
            p = probability(match)
            if p is not None:
                pairs.append((row["question"], p, better == 0))
    return pairs


def reliability(pairs, bins=5):
    """[(pairs, mean confidence, accuracy)] by confidence max(p, 1 - p), from 0.5 to 1.

    A draw is half right.
    """
    binned = [[] for _ in range(bins)]
    for _, p, right in pairs:
        confidence = max(p, 1 - p)
        accuracy = 0.5 if p == 0.5 else float((p > 0.5) == right)
        bin_index = min(int((confidence - 0.5) * 2 * bins), bins - 1)
        binned[bin_index].append((confidence, accuracy))
    return [(len(members), *np.mean(members, axis=0).tolist()) for members in binned if members]


def brier(pairs):
    """(Brier score, the same after calibration on the other half of the questions, or None)."""
    p = np.array([p for _, p, _ in pairs])
    right = np.array([right for *_, right in pairs], float)
    half = np.array([uniform(f"calibrate:{question}") < 0.5 for question, *_ in pairs])
    raw = float(np.mean((p - right) ** 2))
    if half.all() or not half.any():
        return raw, None
    clipped = np.clip(p, 0.02, 0.98)
    logit = np.log(clipped / (1 - clipped))
    squares, slopes = 0.0, np.linspace(0, 5, 251)
    for fitted in (half, ~half):
        scaled = sigmoid(slopes[:, None] * logit[fitted])  # (slopes, pairs)
        loss = -np.log(np.where(right[fitted] > 0, scaled, 1 - scaled)).sum(1)
        best = slopes[np.argmin(loss)]
        squares += float(((sigmoid(best * logit[~fitted]) - right[~fitted]) ** 2).sum())
    return raw, squares / len(pairs)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bars(axis, numbers, title, baselines):
    """Horizontal bars with intervals; trivial judges are marks."""
    names = list(numbers)[::-1]
    values = np.array([numbers[name] for name in names]) * 100  # (names, 3): value, low, high
    axis.barh(names, values[:, 0], color="#9db4c0", height=0.6)
    spread = np.clip([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]], 0, None)
    axis.errorbar(values[:, 0], np.arange(len(names)), xerr=spread, fmt="none", ecolor="#253237")
    for kind, mark in zip(baselines, "><^o"):
        x, y = [], []
        for place, name in enumerate(names):
            if baselines[kind].get(name) is not None:
                x.append(baselines[kind][name] * 100)
                y.append(place)
        if x:
            axis.plot(x, y, mark, color="#c8553d", markersize=5, fillstyle="none", label=kind)
    axis.set(xlim=(0, 100), title=title, xlabel="%")
    axis.tick_params(axis="y", labelsize=7)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=7)


def outcome_bars(axis, counts):
    drawn = axis.bar(counts.keys(), counts.values(), color=[COLOURS[name] for name in counts])
    axis.bar_label(drawn)
    axis.set(title="outcomes of pairs")
    axis.tick_params(axis="x", labelsize=8, rotation=20)


def calibration(axis, curves):
    """curves: {kind: `probabilities`}. Prints their numbers too."""
    for kind, pairs in curves.items():
        points, (raw, fitted) = reliability(pairs), brier(pairs)
        label = f"{kind}: Brier {raw:.3f}"
        if fitted is not None:
            label += f", calibrated {fitted:.3f}"
        bins = [f"{count} pairs at {p:.2f}: {accuracy:.2f} right" for count, p, accuracy in points]
        print(f"{label}; {', '.join(bins)}")
        _, confidence, accuracy = zip(*points)
        axis.plot(confidence, accuracy, "o-", label=label)
    axis.plot([0.5, 1], [0.5, 1], ":", color="grey")
    axis.set(title="confidence against accuracy", ylim=(0, 1.02))
    axis.set(xlabel="confidence", ylabel="share right")
    axis.legend(fontsize=8, loc="lower left")


def token_histogram(axis, tokens):
    colours = [COLOURS["right" if name == "valid" else name] for name in tokens]
    axis.hist(list(tokens.values()), bins=30, stacked=True, label=list(tokens), color=colours)
    axis.set(title="tokens of a game", xlabel="tokens", ylabel="games")
    axis.legend(fontsize=8)


def cost_points(axis, points, headline):
    """points: {name: ([value, low, high], tokens)} of several evaluations."""
    for name, (value, cost) in points.items():
        spread = [[max(0, value[0] - value[1]) * 100], [max(0, value[2] - value[0]) * 100]]
        axis.errorbar([cost], [value[0] * 100], yerr=spread, fmt="o", capsize=3, label=name)
    axis.set(title=f"{headline} (%) against tokens", xlabel="tokens an item")
    axis.legend(fontsize=7)


def panels(found, names):
    """[function of an axis, ...]: the parts of the page for which there is data."""
    result, rows = found[0]["results"], found[0]["rows"]
    rule = {name: value for name, value in result["rule"].items() if value is not None}
    rule = dict(list(rule.items())[:24])
    protocol = {}
    for name, value in result["protocol"].items():
        other_panel = name in OUTCOMES or name.endswith("an item") or "Brier" in name
        if value is not None and not other_panel:
            protocol[name] = value
    curves = {}
    for kind, probability in (("vote share", share), ("verdict token", verdict_share)):
        pairs = probabilities(rows, probability)
        if pairs:
            curves[kind] = pairs
    tokens = tokens_by_status(rows)
    headline, points = next(iter(rule), None), {}
    for name, entry in zip(names, found):
        value = entry["results"]["rule"].get(headline)
        cost = entry["results"]["protocol"].get("tokens an item")
        if value and cost:
            points[name] = value, cost[0]
    parts = []
    if rule:
        title = "the benchmark's rule, 95 % over questions"
        parts.append(partial(bars, numbers=rule, title=title, baselines=result["baselines"]))
    if protocol:
        title = "pairs with a better answer"
        parts.append(partial(bars, numbers=protocol, title=title, baselines={}))
    if any(result["outcomes"].values()):
        parts.append(partial(outcome_bars, counts=result["outcomes"]))
    if curves:
        parts.append(partial(calibration, curves=curves))
    if any(tokens.values()):
        parts.append(partial(token_histogram, tokens=tokens))
    if len(points) > 1:
        parts.append(partial(cost_points, points=points, headline=headline))
    return parts


def tokens_by_status(rows):
    """{status: tokens of each game}; games of other tools have no number of tokens."""
    tokens = {"valid": [], "unparsable": [], "truncated": []}
    for row in rows:
        for match in row["matches"]:
            for game in match["games"]:
                if game.get("tokens") and game["status"] in tokens:
                    tokens[game["status"]].append(game["tokens"])
    return tokens


def page(found, names, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    result, settings, parts = found[0]["results"], found[0]["settings"], panels(found, names)
    columns, lines = min(len(parts), 3), -(-len(parts) // 3)
    size = (5 * columns, 4.5 * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    judge = Path(settings["predictions"] or settings["model"]).name
    counts = f"{result['items']} items of {result['questions']} questions"
    figure.suptitle(f"{result['benchmark']}: {judge}, {counts}")
    for draw, axis in zip(parts, axes.flat):
        draw(axis)
    for axis in axes.flat[len(parts) :]:
        axis.remove()
    figure.savefig(path, dpi=110)
    note(f"{path} written")


def main(argv=None):
    names, flags = split_arguments(sys.argv[1:] if argv is None else argv)
    settings = cli.parse_settings(Settings, flags, description=__doc__)
    if not names:
        raise BadInput("no results.json given: python -m extras.report OUTPUT_DIR/results.json")
    found = [read_result(name) for name in names]
    benchmarks = [result["results"]["benchmark"] for result in found]
    for name, benchmark in zip(names, benchmarks):
        if benchmark != benchmarks[0]:
            raise BadInput(
                f"{name}: is of the benchmark {benchmark}, and {names[0]} of {benchmarks[0]}: give "
                "evaluations of one benchmark"
            )
    path = settings.out or Path(names[0]).with_suffix(".png")
    page(found, [Path(name).parent.name for name in names], path)


def read_result(name):
    """The content of a results.json. Raises BadInput for another file."""
    if not name.endswith(".json"):
        raise BadInput(
            f"{name}: is no results.json of evaluate.py: score judgments (judge.py --out) with "
            "evaluate.py --predictions FILE --output_dir FOLDER, or look at them with "
            "python -m extras.view FILE"
        )
    result = cli.parse_json(cli.read_text(name, "results"), name)
    if not {"settings", "results", "rows"} <= result.keys():
        raise BadInput(
            f"{name}: is no results.json of evaluate.py: give the one in the --output_dir of a "
            "finished evaluation"
        )
    return result


if __name__ == "__main__":
    cli.run(main)
