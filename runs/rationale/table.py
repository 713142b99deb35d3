"""The tables and the figure of the study, and what the rules say about each claim.

    python runs/rationale/table.py     OUT/results -> logs/results.jsonl.gz -> table.md, worth.png

Results that are gone from OUT stay in the log. Parts whose runs are missing are left out.
"""

import gzip
import json

import numpy as np
from checker import ROOT
from measures import as_text, difference, markdown_table
from study import CORRUPTED, OUT, plan

HERE = ROOT / "runs/rationale"
MEASURES = {
    "accuracy": "accuracy",
    "score": "step score",
    "right, right": "fidelity",
    "consistency": "consistency",
    "averaged": "averaged accuracy",
}
SETS = {
    "all": ("right", *CORRUPTED),
    "right + decorative": ("right", "marks", "work"),
    "right + load-bearing": ("right", "short"),
}
COLOURS = {"right": "#0072B2", "marks": "#E69F00", "work": "#009E73", "short": "#D55E00"}
DRAWS = 2000


def collect():
    """{name: result} of the log and of OUT, which is added to the log."""
    path, found = HERE / "logs/results.jsonl.gz", {}
    if path.exists():
        rows = map(json.loads, gzip.decompress(path.read_bytes()).decode().splitlines())
        found = {row["name"]: row for row in rows}
    new = [json.loads(file.read_text()) for file in sorted(OUT.glob("results/*.json"))]
    if new:
        found |= {row["name"]: row for row in new}
        text = "".join(json.dumps(found[name]) + "\n" for name in sorted(found))
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return found


# ---- judges and their worth ----


def cells(result, measure):
    """The values of a measure, one for each two siblings; NaN where there is none."""
    return np.array([row[measure] for row in result["siblings"]], dtype=float)


def gain(result):
    return result["after"] - result["before"]


def worths(results, name):
    """The gains of the policies that a judge has rewarded."""
    runs = [results.get(f"policy_{name}_{seed}") for seed in (0, 1, 2)]
    return [gain(run) for run in runs if run]


def judges_of(results):
    """[(kind, gains, measures x siblings)] of the judges with at least one policy."""
    found = []
    for name in plan():
        if name.startswith("judge_") and name in results and worths(results, name):
            values = np.stack([cells(results[name], measure) for measure in MEASURES])
            found.append((name.split("_")[1], np.array(worths(results, name)), values))
    return found


def drawn(judges, rng):
    """{worth and measures: one value a judge} of a bootstrap draw: judges, their policies, their
    siblings; without rng of all of them."""
    if rng:
        judges = [judges[index] for index in rng.integers(len(judges), size=len(judges))]
    rows = []
    for _, gains, values in judges:
        if rng:
            gains = rng.choice(gains, len(gains))
            values = values[:, rng.integers(values.shape[1], size=values.shape[1])]
        rows.append([gains.mean(), *values.mean(axis=1)])
    return dict(zip(["worth", *MEASURES], np.array(rows).T))


def r(x, y):
    return np.corrcoef(x, y)[0, 1] if x.std() > 1e-9 and y.std() > 1e-9 else np.nan


def partial(x, y, given):
    """The correlation of x and y after `given` has been taken out of both linearly."""
    xy, xz, yz = r(x, y), r(x, given), r(y, given)
    return (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))


def matched(values):
    """The rules' matched difference of worth, and the number of couples."""
    worth, accuracy, score = values["worth"], values["accuracy"], values["score"]
    near = np.abs(accuracy[:, None] - accuracy) <= 0.02
    couples = near & (score[:, None] - score >= 0.2)
    return (worth[:, None] - worth)[couples].mean() if couples.any() else np.nan


def statistics(values):
    """{name: number} of everything that is correlated."""
    worth, found = values["worth"], {"matched": matched(values)}
    for measure, title in MEASURES.items():
        found[title] = r(worth, values[measure])
        other = "score" if measure == "accuracy" else "accuracy"
        found[f"{title}, partial"] = partial(worth, values[measure], values[other])
    found["score - accuracy"] = found["step score"] - found["accuracy"]
    found["averaged - accuracy"] = found["averaged accuracy"] - found["accuracy"]
    found["averaged - score"] = found["averaged accuracy"] - found["step score"]
    return found


def intervals(judges):
    """{name: (value, low, high)} of `statistics`."""
    rng, whole = np.random.default_rng(0), statistics(drawn(judges, None))
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = [statistics(drawn(judges, rng)) for _ in range(DRAWS)]
    found = {}
    for name, value in whole.items():
        low, high = np.nanquantile([draw[name] for draw in draws], [0.025, 0.975])
        found[name] = float(value), float(low), float(high)
    return found


def reliabilities(judges):
    """Of each measure by halves over siblings, of worth by Cronbach's alpha over policies."""
    halves = [
        [values[:, part::2].mean(axis=1) for *_, values in judges] for part in (0, 1)
    ]  # 2 x judges x measures
    found = {}
    for index, title in enumerate(MEASURES.values()):
        both = r(*np.array(halves)[:, :, index])
        found[title] = 2 * both / (1 + both)
    gains = np.array([gains for _, gains, _ in judges if len(gains) == 3])
    if len(gains) > 2:
        parts = gains.var(axis=0, ddof=1).sum() / gains.sum(axis=1).var(ddof=1)
        found["worth"] = 1.5 * (1 - parts)
    return found


# ---- what the rules say ----


def sign(interval):
    _, low, high = interval
    return 1 if low > 0 else -1 if high < 0 else 0


def verdicts_on_reward(found):
    """H2, H3 and H4 from {set: intervals}."""
    signs = {name: sign(found[name]["score - accuracy"]) for name in SETS}
    halves = [signs["right + decorative"], signs["right + load-bearing"]]
    h2 = "supported" if all(value == 1 for value in signs.values()) else "undecided"
    h2 = "refuted" if signs["all"] < 0 or sorted(halves) == [-1, 1] else h2
    value = found["right + decorative"]["matched"]
    h3 = "supported" if sign(value) == 1 else "undecided"
    h3 = "refuted" if value[1] > -0.05 and value[2] < 0.05 else h3
    both = [sign(found["all"][f"averaged - {other}"]) for other in ("accuracy", "score")]
    h4 = {2: "supported"}.get(sum(both), "refuted" if -1 in both else "undecided")
    return {"H2": h2, "H3": h3, "H4": h4}


# ---- tables ----


def cell_table(results):
    """One row for the judges that differ in their seed only."""
    groups = {}
    for name in plan():
        if name.startswith("judge_") and name in results:
            groups.setdefault(name.rpartition("-")[0], []).append(name)
    rows = []
    for cell, names in groups.items():
        means = [np.mean([np.mean(cells(results[name], m)) for name in names]) for m in MEASURES]
        gains = [value for name in names for value in worths(results, name)]
        worth = f"{np.mean(gains):.3f}" if gains else "-"
        shares = [f"{value:.2f}" for value in means]
        spurious = f"{1 - means[2] / means[0]:.2f}"
        rows.append([*cell.split("_")[1:], len(names), *shares, spurious, worth, len(gains)])
    columns = ["reasons", "share", "flipped", "judges", *MEASURES.values(), "S-Corr", "worth"]
    return markdown_table([*columns, "policies"], rows)


def correlation_table(found, reliable):
    rows = []
    for name, values in found.items():
        for title in MEASURES.values():
            plain = values[title]
            corrected = plain[0] / np.sqrt(reliable[title] * reliable.get("worth", np.nan))
            part = as_text(values[f"{title}, partial"])
            rows.append([name, title, as_text(plain), f"{corrected:.2f}", part])
    columns = ["judges", "measure", "r with worth", "corrected", "partial"]
    return markdown_table(columns, rows)


def rl_table(results):
    """Every start and reward, measured on the way; a difference to the start at the last step."""
    rows = []
    runs = dict.fromkeys(name.split("-")[0] for name in plan() if name.startswith("rl_"))
    for run in runs:
        start = results.get(f"rl_{run.split('_')[1]}@0")
        for step in (0, 30, 60, 90):
            names = [f"{run}-{seed}@{step}" for seed in (0, 1, 2)]
            found = [results[name] for name in names if name in results] if step else [start]
            if not start or not found:
                continue
            grids = {
                name: np.stack([cells(result, name) for result in found])
                for name in ("accuracy", "thinks", "score_thought", "right, right", "consistency")
            }
            row = [*run.split("_")[1:], step, len(found) if step else "-"]
            row += [f"{np.nanmean(grid):.3f}" for grid in grids.values()]
            for name in ("accuracy", "score_thought"):
                before = cells(start, name)[None]
                row.append(as_text(difference(grids[name], before)) if step == 90 else "")
            rows.append(row)
    columns = ["start", "reward", "step", "seeds", "accuracy", "thinks", "step score, thinking"]
    columns += ["fidelity", "consistency", "accuracy, change", "step score, change"]
    return markdown_table(columns, rows) if rows else "No run yet."


def draw(judges):
    from matplotlib.figure import Figure

    values, kinds = drawn(judges, None), np.array([kind for kind, *_ in judges])
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 3, sharey=True), ("accuracy", "score", "averaged")):
        for kind, colour in COLOURS.items():
            at = kinds == kind
            axes.scatter(values[measure][at], values["worth"][at], color=colour, label=kind)
        axes.set_xlabel(f"{MEASURES[measure]} (r = {r(values['worth'], values[measure]):.2f})")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("worth: gain of the policy")
    figure.axes[0].legend(title="reasons", fontsize=8)
    figure.savefig(HERE / "worth.png", dpi=120)


def main():
    results = collect()
    names, judges = list(plan()), judges_of(results)
    done = sum((f"{name}" in results) for name in names)
    parts = [f"{done} of {len(names)} planned runs are finished."]
    parts += ["## Judges", cell_table(results), "## RL", rl_table(results)]
    if len(judges) > 5:
        found = {
            name: intervals([judge for judge in judges if judge[0] in kinds])
            for name, kinds in SETS.items()
        }
        reliable = reliabilities(judges)
        parts += ["## Correlations", correlation_table(found, reliable)]
        rows = [[name, as_text(values["matched"])] for name, values in found.items()]
        parts += ["Matched differences:", markdown_table(["judges", "worth"], rows)]
        rows = [[title, f"{value:.2f}"] for title, value in reliable.items()]
        parts += ["Reliability:", markdown_table(["measure", "reliability"], rows)]
        rows = list(verdicts_on_reward(found).items())
        parts += ["What the rules say:", markdown_table(["claim", "verdict"], rows)]
        draw(judges)
    (HERE / "table.md").write_text(
        "# Are the reasons right? Tables\n\n" + "\n\n".join(parts) + "\n"
    )


if __name__ == "__main__":
    main()
