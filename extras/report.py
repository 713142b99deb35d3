"""One figure about an evaluation: numbers with intervals, outcomes, lengths, calibration, tokens.

    python -m extras.report out/gsm8k/results.json
    python -m extras.report out/sweep/*/results.json --out sweep.png

The first form writes out/gsm8k/results.png. The second one shows all evaluations in each panel, one
colour each, and their accuracy against their tokens. The top of the page says in words what the
result is, of which model and with which settings, and which of several is best.

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
from extras.benchmarks import BENCHMARKS
from extras.evaluate import read_evaluation
from extras.plot import COLOURS, DASHES, GREY, new_figure, save_figure, style_axis
from extras.results import results_file
from extras.scoring import OUTCOMES, decided, share, verdict_share
from extras.words import (
    has_results,
    headline,
    model_words,
    result_words,
    settings_words,
    winner_words,
)
from seeding import uniform

OUTCOME_COLOURS = dict(
    zip(OUTCOMES, ("#009E73", "#D55E00", "#E69F00", "#CC79A7", "#BBBBBB", "#56B4E9"))
)  # those of extras.view


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


# ---- panels ----
#
# numbers: {name of an evaluation: what it has}, without those that have nothing.
# colours: {name of an evaluation: its colour in all parts}.


def points(axis, numbers, colours, baselines, title, unit):
    """Scores with intervals: {name of an evaluation: {score: [value, low, high]}}."""
    scores = list(dict.fromkeys(name for own in numbers.values() for name in own))[::-1]
    step = 0.7 / len(numbers)
    for index, (label, own) in enumerate(numbers.items()):
        values = np.array([own.get(name) or [np.nan] * 3 for name in scores]) * 100
        places = np.arange(len(scores)) + 0.35 - step * (index + 0.5)
        spread = np.clip([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]], 0, None)
        style = dict(color=colours[label], capsize=2, markersize=5, label=label)
        axis.errorbar(values[:, 0], places, xerr=spread, fmt="o", **style)
    for kind, mark in zip(baselines, "><^s"):
        found = [(name, baselines[kind].get(name)) for name in scores]
        found = [(value * 100, scores.index(name)) for name, value in found if value is not None]
        if found:
            label = f"{kind} answer"
            style = dict(color=GREY, markersize=4, fillstyle="none", label=label)
            axis.plot(*zip(*found), mark, **style)
    axis.set_yticks(range(len(scores)), scores, fontsize=8)
    axis.set_xlim(-2, 102)
    finish(axis, title, unit)
    marks = [line for line in axis.get_lines() if line.get_color() == GREY]
    if marks:
        axis.set_ylim(-0.6, 1.25 * len(scores) - 0.4)  # room for the legend above the scores
        axis.legend(handles=marks, fontsize=8, frameon=False, ncols=2, loc="upper center")


def outcome_bars(axis, numbers, colours):
    """Stacked shares of the outcomes: {name of an evaluation: {outcome: count}}."""
    for place, counts in enumerate(reversed(numbers.values())):
        left, total = 0.0, sum(counts.values())
        for kind in OUTCOMES:
            width = 100 * counts.get(kind, 0) / total
            label = kind if place == 0 else None
            axis.barh(place, width, left=left, color=OUTCOME_COLOURS[kind], label=label)
            if width > 6:
                axis.text(left + width / 2, place, str(counts[kind]), ha="center", fontsize=8)
            left += width
    axis.set_yticks(range(len(numbers)), list(numbers)[::-1], fontsize=8)
    axis.set_ylim(-0.6, max(len(numbers), 2) + 0.2)
    finish(axis, "Outcomes", "% of pairs with a better answer, counts inside")
    axis.legend(fontsize=8, frameon=False, ncols=3, loc="upper center")


def calibration(axis, numbers, colours):
    """{name of an evaluation: {kind of probability: `probabilities`}}. Prints the numbers too."""
    for label, curves in numbers.items():
        for kind, pairs in curves.items():
            found, (raw, fitted) = reliability(pairs), brier(pairs)
            words = f"{kind}: Brier {raw:.3f}"
            if fitted is not None:
                words += f", calibrated {fitted:.3f}"
            bins = [
                f"{count} pairs at {p:.2f}: {accuracy:.2f} right" for count, p, accuracy in found
            ]
            print(f"{label}: {words}; {', '.join(bins)}")
            _, confidence, accuracy = zip(*found)
            dashes = DASHES[0] if kind == "vote share" else DASHES[1]
            style = dict(color=colours[label], linestyle=dashes, marker="o", markersize=4)
            axis.plot(confidence, accuracy, **style, label=words)
    axis.plot([0.5, 1], [0.5, 1], ":", color=GREY)
    axis.set_ylim(0, 1.02)
    finish(axis, "Calibration", "share right, by confidence")
    axis.legend(fontsize=8, frameon=False, loc="lower left")


def token_histogram(axis, numbers, colours):
    """{name of an evaluation: tokens of each game}"""
    longest = max(max(tokens) for tokens in numbers.values())
    bins = np.linspace(0, longest, 31)
    for label, tokens in numbers.items():
        style = dict(color=colours[label], histtype="step", linewidth=1.5, label=label)
        axis.hist(tokens, bins=bins, weights=[100 / len(tokens)] * len(tokens), **style)
    finish(axis, "Tokens of a game", "% of games")


def cost_points(axis, numbers, colours, name):
    """{name of an evaluation: ([value, low, high], tokens an item)}"""
    for label, (value, tokens) in numbers.items():
        spread = [[max(0, value[0] - value[1]) * 100], [max(0, value[2] - value[0]) * 100]]
        style = dict(fmt="o", color=colours[label], capsize=3, label=label)
        axis.errorbar([tokens], [value[0] * 100], yerr=spread, **style)
    finish(axis, "Score and cost", f"{name}, %, by tokens an item")


def finish(axis, title, unit):
    style_axis(axis, title, unit)
    axis.set_xlabel("")


# ---- what each part shows of an evaluation, nothing where it has no data ----


def rule_of(entry):
    known = {name: value for name, value in entry["results"]["rule"].items() if value is not None}
    return dict(list(known.items())[:24])


def details_of(entry):
    """The numbers of the protocol that no other part shows."""
    details = {}
    for name, value in entry["results"]["protocol"].items():
        other_part = name in OUTCOMES or name.endswith("an item") or "Brier" in name
        if value is not None and not other_part:
            details[name] = value
    return details


def outcomes_of(entry):
    counts = entry["results"]["outcomes"]
    return counts if any(counts.values()) else {}


def curves_of(entry):
    curves = {}
    for kind, probability in (("vote share", share), ("verdict token", verdict_share)):
        pairs = probabilities(entry["rows"], probability)
        if pairs:
            curves[kind] = pairs
    return curves


def tokens_of(entry):
    """The tokens of each game; games of other tools have no number of tokens."""
    games = [game for row in entry["rows"] for match in row["matches"] for game in match["games"]]
    for row in entry["rows"]:  # rewardbench2.py
        for part in [*row.get("choices", []), *row.get("ratings", [])]:
            games += part["games"]
    return [game["tokens"] for game in games if game.get("tokens")]


def cost_of(entry, name):
    """(the score of this name with its interval, tokens an item), or None."""
    value = entry["results"]["rule"].get(name)
    tokens = entry["results"]["protocol"].get("tokens an item")
    return (value, tokens[0]) if value and tokens and tokens[0] else None


def panels(found, names):
    """[function of an axis, ...]: the parts of the page for which there is data."""
    name, _ = headline(found[0]["results"])
    baselines = found[0]["results"]["baselines"]
    unit = "the benchmark's rule, %, 95 % intervals over questions"
    score = partial(points, baselines=baselines, title="Score", unit=unit)
    unit = "% of pairs with a better answer, or of games"
    details = partial(points, baselines={}, title="Details", unit=unit)
    kinds = [
        (score, rule_of),
        (details, details_of),
        (outcome_bars, outcomes_of),
        (calibration, curves_of),
        (token_histogram, tokens_of),
    ]

    def numbers_of(value_of):
        values = {label: value_of(entry) for label, entry in zip(names, found)}
        return {label: value for label, value in values.items() if value}

    colours, parts = dict(zip(names, COLOURS)), []
    for draw, value_of in kinds:
        if numbers := numbers_of(value_of):
            parts.append(partial(draw, numbers=numbers, colours=colours))
    costs = numbers_of(partial(cost_of, name=name))
    if len(costs) > 1:
        parts.append(partial(cost_points, numbers=costs, colours=colours, name=name))
    return parts


# ---- the page ----


def heading(found, names):
    """(title, lines below it): the winner or the result, then a line for each evaluation."""
    result = found[0]["results"]
    questions = f"{result['questions']} questions"
    if len(found) == 1:
        settings = found[0]["settings"]
        title = f"{result['benchmark']}: {model_words(settings)}, {result_words(result)}"
        return title, [f"{questions}; {settings_words(settings)}"]
    words = winner_words(found, names, BENCHMARKS[result["benchmark"]])
    title, lines = f"{result['benchmark']}: {words or 'no common score'}", []
    for name, entry in zip(names, found):
        settings = entry["settings"]
        words = f"{name}: {model_words(settings)}, {result_words(entry['results'])}"
        lines.append(f"{words}; {settings_words(settings)}")
    return title, lines


def page(found, names, path):
    parts = panels(found, names)
    columns = 2 if len(parts) in (2, 4) else min(max(len(parts), 1), 3)
    rows = max(1, -(-len(parts) // columns))
    title, lines = heading(found, names)
    figure, axes = new_figure(title, lines, names, (rows, columns), (5.2, 4))
    for draw, axis in zip(parts, axes):
        draw(axis)
    for axis in axes[len(parts) :]:
        axis.remove()
    save_figure(figure, path)
    print("\n".join([title, *lines]))
    note(f"{path} written")


def main(argv=None):
    files, flags = split_arguments(sys.argv[1:] if argv is None else argv)
    settings = cli.parse_settings(Settings, flags, description=__doc__)
    if not files:
        raise BadInput("no results.json given: python -m extras.report OUTPUT_DIR/results.json")
    if len(files) > len(COLOURS):
        raise BadInput(f"{len(files)} files in one figure: give at most {len(COLOURS)}")
    files, found = [results_file(name) for name in files], []
    for name in files:
        benchmark = found[0]["settings"]["benchmark"] if found else None
        result = read_evaluation(name, "RESULTS", benchmark)
        if result is None:
            raise BadInput(
                f"RESULTS: {name} is no results.json of evaluate.py: judgments (judge.py --out) "
                "are scored by evaluate.py --predictions FILE, and shown by extras.view FILE"
            )
        if not has_results(result):
            raise BadInput(
                f"RESULTS: {name} lacks numbers of an evaluation: give the results.json that "
                "evaluate.py writes at its end"
            )
        found.append(result)
    page(found, short_names(files), settings.out or Path(files[0]).with_suffix(".png"))


def short_names(files):
    """The folder of each file; as much of its path as tells them apart."""
    for length in range(1, 9):
        names = ["/".join(Path(name).absolute().parent.parts[-length:]) for name in files]
        if len(set(names)) == len(names):
            return names
    return list(files)


if __name__ == "__main__":
    cli.run(main)
