"""One page about a finished evaluation: its numbers with intervals, outcomes, lengths, calibration, tokens; of several, accuracy against tokens.

    python -m extras.report out/gsm8k/results.json                    out/gsm8k/results.png, and the calibration on standard output
    python -m extras.report out/sweep/*/results.json --out sweep.png  the first one in detail, all of them against their tokens

A probability is uncalibrated until it is fitted on held-out data: `calibrated` is p -> sigmoid(a logit p) with a fitted on the other half of
the questions. The probability of a pair is its vote share, or what the verdict token had (`--confidence`), a mean over both orders. Parts for
which the results have no data are left out.
"""

import sys
from dataclasses import dataclass
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
        None, "the picture; default: beside the first file, with the ending .png"
    )


def probabilities(rows, probability):
    """[(question, probability that answer 0 of the pair is the better one, whether it is)] where there is one."""
    return [
        (row["question"], p, better == 0)
        for row in rows
        for match, better in decided(row)
        if (p := probability(match)) is not None
    ]


def reliability(pairs, bins=5):
    """[(pairs, mean confidence, accuracy)] by confidence max(p, 1 - p) from 0.5 to 1; a draw is right by half."""
    sorted_in = [[] for _ in range(bins)]
    for _, p, right in pairs:
        confidence = max(p, 1 - p)
        sorted_in[min(int((confidence - 0.5) * 2 * bins), bins - 1)].append(
            (confidence, 0.5 if p == 0.5 else float((p > 0.5) == right))
        )
    return [(len(own), *np.mean(own, axis=0).tolist()) for own in sorted_in if own]


def brier(pairs):
    """(Brier score, the same after calibration on the other half of the questions or None)."""
    p, right = np.array([p for _, p, _ in pairs]), np.array([right for *_, right in pairs], float)
    half = np.array([uniform(f"calibrate:{question}") < 0.5 for question, *_ in pairs])
    raw, squares, slopes = float(np.mean((p - right) ** 2)), 0.0, np.linspace(0, 5, 251)
    if half.all() or not half.any():
        return raw, None
    logit = np.log(np.clip(p, 0.02, 0.98) / (1 - np.clip(p, 0.02, 0.98)))
    for fitted in (half, ~half):
        scaled = 1 / (1 + np.exp(-slopes[:, None] * logit[fitted]))
        best = slopes[np.argmin(-np.log(np.where(right[fitted] > 0, scaled, 1 - scaled)).sum(1))]
        squares += float(((1 / (1 + np.exp(-best * logit[~fitted])) - right[~fitted]) ** 2).sum())
    return raw, squares / len(pairs)


def bars(axis, numbers, title, baselines):
    """Horizontal bars with intervals; the trivial judges as marks."""
    names = list(numbers)[::-1]
    values = np.array([numbers[name] for name in names]) * 100  # (names, 3): value, low, high
    axis.barh(names, values[:, 0], color="#9db4c0", height=0.6)
    spread = np.clip([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]], 0, None)
    axis.errorbar(values[:, 0], np.arange(len(names)), xerr=spread, fmt="none", ecolor="#253237")
    for kind, mark in zip(baselines, "><^o"):
        known = [
            (baselines[kind][name] * 100, place)
            for place, name in enumerate(names)
            if baselines[kind].get(name) is not None
        ]
        axis.plot(
            *zip(*known), mark, color="#c8553d", markersize=5, fillstyle="none", label=kind
        ) if known else None
    axis.set(xlim=(0, 100), title=title, xlabel="%")
    axis.tick_params(axis="y", labelsize=7)
    axis.legend(fontsize=7) if axis.get_legend_handles_labels()[1] else None


def outcome_bars(axis, counts):
    axis.bar_label(
        axis.bar(counts.keys(), counts.values(), color=[COLOURS[name] for name in counts])
    )
    axis.set(title="outcomes of pairs")
    axis.tick_params(axis="x", labelsize=8, rotation=20)


def calibration(axis, curves):
    """curves: {kind: `probabilities`}. Their numbers go to standard output as well."""
    for kind, pairs in curves.items():
        points, (raw, fitted) = reliability(pairs), brier(pairs)
        label = f"{kind}: Brier {raw:.3f}" + (
            "" if fitted is None else f", calibrated {fitted:.3f}"
        )
        print(
            f"{label}; "
            + ", ".join(
                f"{count} pairs at {confidence:.2f}: {accuracy:.2f} right"
                for count, confidence, accuracy in points
            )
        )
        axis.plot([point[1] for point in points], [point[2] for point in points], "o-", label=label)
    axis.plot([0.5, 1], [0.5, 1], ":", color="grey")
    axis.set(
        title="confidence against accuracy",
        xlabel="confidence",
        ylabel="share right",
        ylim=(0, 1.02),
    )
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
    hidden = [
        name
        for name in result["protocol"]
        if name in OUTCOMES or name.endswith("an item") or "Brier" in name
    ]
    rule = dict([item for item in result["rule"].items() if item[1] is not None][:24])
    protocol = {
        name: value
        for name, value in result["protocol"].items()
        if name not in hidden and value is not None
    }
    kinds = {"vote share": share, "verdict token": verdict_share}
    curves = {
        kind: pairs
        for kind, probability in kinds.items()
        if (pairs := probabilities(rows, probability))
    }
    games = [
        game
        for row in rows
        for match in row["matches"]
        for game in match["games"]
        if game.get("tokens")
    ]  # other tools do not tell
    tokens = {
        name: [game["tokens"] for game in games if game["status"] == name]
        for name in ("valid", "unparsable", "truncated")
    }
    headline = next(iter(rule), None)
    numbers = [
        (
            name,
            entry["results"]["rule"].get(headline),
            entry["results"]["protocol"].get("tokens an item"),
        )
        for name, entry in zip(names, found)
    ]
    points = {name: (value, cost[0]) for name, value, cost in numbers if value and cost}
    parts = [
        (
            rule,
            lambda axis: bars(
                axis, rule, "the benchmark's rule, 95 % over questions", result["baselines"]
            ),
        ),
        (protocol, lambda axis: bars(axis, protocol, "pairs with a better answer", {})),
        (any(result["outcomes"].values()), lambda axis: outcome_bars(axis, result["outcomes"])),
        (curves, lambda axis: calibration(axis, curves)),
        (games, lambda axis: token_histogram(axis, tokens)),
        (len(points) > 1, lambda axis: cost_points(axis, points, headline)),
    ]
    return [draw for data, draw in parts if data]


def page(found, names, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    result, settings, parts = found[0]["results"], found[0]["settings"], panels(found, names)
    figure, axes = plt.subplots(
        -(-len(parts) // 3),
        min(len(parts), 3),
        figsize=(5 * min(len(parts), 3), 4.5 * -(-len(parts) // 3)),
        squeeze=False,
        layout="constrained",
    )
    judge = Path(settings["predictions"] or settings["model"]).name
    figure.suptitle(
        f"{result['benchmark']}: {judge}, {result['items']} items of {result['questions']} questions"
    )
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
    found = []
    for name in names:
        if not name.endswith(".json"):
            raise BadInput(
                f"{name}: is no results.json of evaluate.py: judgments (judge.py --out) are scored first, by evaluate.py --predictions "
                "FILE --output_dir FOLDER, or looked at with python -m extras.view FILE"
            )
        found.append(cli.parse_json(cli.read_text(name, "results"), name))
        if not {"settings", "results", "rows"} <= found[-1].keys():
            raise BadInput(
                f"{name}: is no results.json of evaluate.py: give the one in the --output_dir of a finished evaluation"
            )
        benchmark, first = (entry["results"]["benchmark"] for entry in (found[-1], found[0]))
        if benchmark != first:
            raise BadInput(
                f"{name}: is of the benchmark {benchmark}, and {names[0]} of {first}: give evaluations of one benchmark"
            )
    page(
        found,
        [Path(name).parent.name for name in names],
        settings.out or Path(names[0]).with_suffix(".png"),
    )


if __name__ == "__main__":
    cli.run(main)
