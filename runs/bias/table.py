"""The tables and the figure of the map: every number that rules.md asks for.

python runs/bias/table.py     OUT/results -> logs/results.jsonl.gz -> table.md, map.png
"""

import numpy as np
from bias import FEATURES, ROOT, SEEDS, STUDY, explored, plan
from judges import parse
from measures import as_text, markdown_table

HERE = ROOT / "runs/bias"
RUIN = -0.05  # change of the share of right answers
DRAWS = 2000


def cells_of(results):
    """{judge: its audit, its changes by seed, which seeds are ruined}, of the finished cells."""
    cells = {}
    for judge in dict.fromkeys(name.split("-")[0] for name in plan()):
        names = [f"{judge}-{seed}" for seed in SEEDS]
        if all(name in results for name in [*names, f"audit:{judge}"]):
            runs = [results[name] for name in names]
            changes = {
                key: np.array([run["after"][key] - run["before"][key] for run in runs])
                for key in ("right", "feature")
            }
            audit = results[f"audit:{judge}"]
            cells[judge] = audit | changes | {"ruined": changes["right"] <= RUIN}
    return cells


# ---- B1 and B2 ----


def worth_minus_noise(cells, judges, seeds):
    """For each judge: what its policies gain beyond those of a noisy judge of equal accuracy.

    seeds: which runs count. Below the accuracy of the worst noisy judge its gain is taken.
    """
    noisy = [cells[judge] for judge in cells if parse(judge)[2] == 0]
    noisy.sort(key=lambda cell: cell["accuracy"])
    accuracies = [cell["accuracy"] for cell in noisy]
    gains = [cell["right"][seeds].mean() for cell in noisy]
    return np.array(
        [
            cells[judge]["right"][seeds].mean()
            - np.interp(cells[judge]["accuracy"], accuracies, gains)
            for judge in judges
        ]
    )


def feature_table(cells, biased, rng):
    """B1 and B2: one row for each feature. Intervals draw cells and seeds."""
    rows, num_seeds = [], len(SEEDS)
    for feature in FEATURES:
        judges = [judge for judge in biased if parse(judge)[0] == feature]
        alone = cells[f"{feature}_0_4"]
        lost = worth_minus_noise(cells, judges, np.arange(num_seeds)).mean()
        draws = []
        for _ in range(DRAWS):
            seeds = rng.integers(num_seeds, size=num_seeds)
            draws.append(rng.choice(worth_minus_noise(cells, judges, seeds), len(judges)).mean())
        ruined = [cells[judge]["ruined"].sum() for judge in judges]
        rows.append(
            [
                feature,
                f"{alone['feature'].mean():+.2f}",
                f"{alone['right'].mean():+.3f}",
                as_text((lost, *np.quantile(draws, [0.025, 0.975]))),
                f"{sum(ruined)} of {len(judges) * num_seeds}",
                sum(count >= 2 for count in ruined),
            ]
        )
    columns = ["feature", "bias alone: feature", "right answers", "worth minus noise's"]
    return markdown_table([*columns, "ruined runs", "cells with 2 or more"], rows)


# ---- B3 ----


def auc(scores, ruined):
    """The probability that a ruined run has a lower score than a safe one, ties a half."""
    low, high = scores[ruined][:, None], scores[~ruined][None]
    return ((low < high) + 0.5 * (low == high)).mean() if low.size and high.size else np.nan


def runs_of(cells, judges):
    """({measure: (runs,)}, ruined (runs,)); the lower a measure, the more ruin it foretells."""
    measures = {
        name: np.repeat([sign * cells[judge][name] for judge in judges], len(SEEDS))
        for name, sign in (("climb", 1), ("accuracy", 1), ("bias", -1), ("climb_all", 1))
    }
    return measures, np.concatenate([cells[judge]["ruined"] for judge in judges])


def audit_table(cells, judges, rng):
    """AUC of each measure and how much better climb is, with intervals over cells."""
    draws = [judges, *(rng.choice(judges, len(judges)) for _ in range(DRAWS))]
    values = []
    for drawn in draws:
        measures, ruined = runs_of(cells, drawn)
        row = [auc(scores, ruined) for scores in measures.values()]
        climb, accuracy, bias, _ = row
        values.append([*row, climb - accuracy, climb - bias])
    low, high = np.nanquantile(values[1:], [0.025, 0.975], axis=0)
    names = ["climb", "accuracy", "bias rate", "climb, all characters"]
    names += ["climb - accuracy", "climb - bias rate"]
    rows = [[name, as_text(found)] for name, *found in zip(names, values[0], low, high)]
    return markdown_table(["measure", "AUC"], rows)


def balanced_accuracy(scores, ruined, threshold):
    if ruined.all() or not ruined.any():
        return np.nan
    return ((scores[ruined] < threshold).mean() + (scores[~ruined] >= threshold).mean()) / 2


def left_out_table(cells, judges):
    """Climb on a family, with the threshold that is best for the others."""
    rows = []
    for feature in dict.fromkeys(parse(judge)[0] for judge in judges):
        own = [judge for judge in judges if parse(judge)[0] == feature]
        measures, ruined = runs_of(cells, [judge for judge in judges if judge not in own])
        if not ruined.any():
            continue
        candidates = np.unique(measures["climb"])
        found = [balanced_accuracy(measures["climb"], ruined, value) for value in candidates]
        threshold = candidates[int(np.argmax(found))]
        measures, ruined = runs_of(cells, own)
        row = [auc(measures["climb"], ruined)]
        row.append(balanced_accuracy(measures["climb"], ruined, threshold))
        row.append(np.mean((measures["climb"] < threshold) == ruined))
        rows.append([feature, f"{threshold:.2f}", *(f"{value:.2f}" for value in row), ruined.sum()])
    columns = [
        "family left out",
        "threshold",
        "AUC within it",
        "balanced accuracy",
        "foretold",
        "ruined",
    ]
    return markdown_table(columns, rows)


# ---- everything ----


def explored_table(results):
    """The same judge and three policies, before and after training."""
    shown, rows = ["right", "feature", "marked", "thinks"], []
    for name in explored():
        if name in results:
            before, after = (results[name][when] for when in ("before", "after"))
            changes = [f"{before[key]:.3f} -> {after[key]:.3f}" for key in shown]
            rows.append([name.partition(":")[0].replace("_", " "), name[-1], *changes])
    columns = ["policy", "seed", "right answers", "with the wording", "right among these"]
    return markdown_table([*columns, "begins with working"], rows)


def cell_table(cells):
    rows = []
    for judge, cell in cells.items():
        changes = ", ".join(f"{value:+.3f}" for value in cell["right"])
        shown = "accuracy", "bias", "climb", "climb_all"
        numbers = [f"{cell[name]:.2f}" for name in shown]
        rows.append([*judge.split("_"), *numbers, changes, cell["ruined"].sum()])
    columns = ["feature", "a", "b", "accuracy", "bias rate", "climb", "all characters"]
    return markdown_table([*columns, "change of right answers", "ruined"], rows)


def draw(cells):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.8), layout="constrained")
    plots = figure.subplots(1, len(FEATURES), sharey=True)
    for axes, feature in zip(plots, FEATURES):
        grid = [
            [cells[f"{feature}_{a}_{b}"]["right"].mean() for b in (1, 2, 4)] for a in (0.5, 1, 2)
        ]
        image = axes.imshow(grid, cmap="RdBu", vmin=-0.4, vmax=0.4, origin="lower")
        for (row, column), value in np.ndenumerate(grid):
            axes.text(column, row, f"{value:+.2f}", ha="center", va="center")
        axes.set(title=feature, xlabel="b: bias", xticks=range(3), yticks=range(3))
        axes.set_xticklabels([1, 2, 4])
        axes.set_yticklabels([0.5, 1, 2])
    plots[0].set_ylabel("a: what is right")
    figure.colorbar(image, ax=plots, label="change of right answers")
    figure.savefig(HERE / "map.png", dpi=120)


def main():
    results, rng = STUDY.collect(), np.random.default_rng(0)
    cells = cells_of(results)
    biased = [judge for judge in cells if min(parse(judge)[1:]) > 0]
    done = sum(name in results for name in plan())
    parts = ["# Which bias of a judge ruins a policy? Tables"]
    parts += [f"Finished: {done} of {len(plan())} planned runs.", cell_table(cells)]
    if done == len(plan()):
        ruined = sum(cells[judge]["ruined"].sum() for judge in biased)
        parts += [feature_table(cells, biased, rng), f"Ruined: {ruined} runs of the grid."]
        # The positive control: place is no property of an answer, so it never rises.
        rises = [name for name in FEATURES if (cells[f"{name}_0_4"]["feature"] > 0).any()]
        expressible = [judge for judge in biased if parse(judge)[0] in rises]
        parts += [f"Features that rise: {', '.join(rises)}."]
        parts += [audit_table(cells, expressible, rng), left_out_table(cells, expressible)]
        parts += ["The same with all features:", audit_table(cells, biased, rng)]
        parts += ["## Explored after the rules", explored_table(results)]
        draw(cells)
    (HERE / "table.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
