"""Do 95 % intervals cover? Simulated matches and answers with known strengths; a table.

    nice python runs/ranking/interval_coverage.py 2000 > runs/ranking/interval_coverage.log

It takes about three minutes of one core.

Ratings: `strengths.intervals`, as elo.py shows them. Covered is a player's true strength minus the
mean of the true strengths of its group. A rating on the scale of Elo is that times 400 / ln 10, so
both have the same coverage. Accuracy: `extras.intervals.share_interval`, as evaluate.py shows it.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from extras.intervals import share_interval  # noqa: E402
from strengths import (  # noqa: E402
    add_up,
    centred,
    dispersion,
    fit_strengths,
    intervals,
    logistic,
)

# players, matches, spread of the strengths, what a match is, who meets
DESIGNS = [
    (2, 1, 1.0, "win or loss", "random pairs"),
    (2, 20, 0.5, "win or loss", "random pairs"),
    (2, 20, 2.0, "win or loss", "random pairs"),
    (2, 200, 1.0, "win or loss", "random pairs"),
    (5, 10, 1.0, "win or loss", "every pair"),
    (5, 20, 1.0, "win or loss", "random pairs"),
    (5, 50, 1.0, "win or loss", "random pairs"),
    (5, 50, 2.0, "win or loss", "random pairs"),
    (5, 200, 1.0, "win or loss", "random pairs"),
    (5, 200, 3.0, "win or loss", "random pairs"),
    (10, 45, 1.0, "win or loss", "every pair"),
    (10, 90, 1.0, "60 % draws", "every pair"),
    (10, 90, 1.0, "mean of 4 games", "every pair"),
    (10, 450, 1.0, "60 % draws", "every pair"),
    (20, 60, 1.0, "win or loss", "random pairs"),
    (20, 190, 1.0, "win or loss", "every pair"),
    (20, 400, 2.0, "win or loss", "random pairs"),
    (50, 500, 1.0, "win or loss", "random pairs"),
]
QUESTIONS = [20, 50, 200, 1000]
ACCURACIES = [0.5, 0.8, 0.95, 0.99]


def draw_matches(design, rng):
    """The true strengths and the matches: arrays i, j, score."""
    num_players, num_matches, spread, kind, who = design
    truth = spread * rng.standard_normal(num_players)
    if who == "every pair":
        pairs = np.array(np.triu_indices(num_players, 1))
        i, j = np.tile(pairs, num_matches // pairs.shape[1])
    else:
        i = rng.integers(num_players, size=num_matches)
        j = (i + 1 + rng.integers(num_players - 1, size=num_matches)) % num_players
    chance, u = logistic(truth[i] - truth[j]), rng.random((4, len(i)))
    if kind == "mean of 4 games":
        return truth, i, j, (u < chance).mean(0)
    score = (u[0] < chance).astype(float)
    if kind == "60 % draws":  # between equal players; the mean score stays the same
        draw = 0.6 * 2 * np.minimum(chance, 1 - chance)
        score = np.where(u[0] < draw, 0.5, (u[1] < (chance - draw / 2) / (1 - draw)).astype(float))
    return truth, i, j, score


def rating_row(design, trials, rng):
    covered, widths, without_maximum = [], [], 0
    for _ in range(trials):
        truth, i, j, score = draw_matches(design, rng)
        pairs = add_up(i, j, score, design[0])
        fit = fit_strengths(pairs)
        low, high = intervals(pairs, fit, dispersion(i, j, score, fit.strengths))
        truth = centred(truth, fit.group)
        played = pairs.total(pairs.games) > 0
        covered.append(((low <= truth) & (truth <= high))[played].mean())
        widths += list((high - low)[played] * 400 / np.log(10))
        without_maximum += fit.weak.any()
    return np.mean(covered), np.median(widths), without_maximum / trials


def accuracy_cell(size, accuracy, trials, rng):
    covered = 0
    for right in rng.binomial(size, accuracy, trials):
        share = right / size
        low, high = share_interval(share, rng.binomial(size, share, 1000) / size, size)
        covered += low <= accuracy <= high
    return covered / trials


def main():
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print("| players | matches | spread | a match | who meets | covered | width | no maximum |")
    print("|---|---|---|---|---|---|---|---|")
    for number, design in enumerate(DESIGNS):
        rng = np.random.default_rng(number)
        covered, width, without_maximum = rating_row(design, trials, rng)
        print("|", " | ".join(map(str, design)), end="")
        print(f" | {covered:.3f} | {width:.0f} | {without_maximum:.2f} |", flush=True)
    print("\n| questions |", " | ".join(f"accuracy {accuracy}" for accuracy in ACCURACIES), "|")
    print("|---" * (1 + len(ACCURACIES)) + "|")
    for size in QUESTIONS:
        rng = np.random.default_rng(size)
        cells = [accuracy_cell(size, accuracy, trials, rng) for accuracy in ACCURACIES]
        print(f"| {size} |", " | ".join(f"{cell:.3f}" for cell in cells), "|", flush=True)


if __name__ == "__main__":
    main()
