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
COMPARED = [("step score", "accuracy")]
COMPARED += [("averaged accuracy", "accuracy"), ("averaged accuracy", "step score")]
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


def worths(results, name):
    """The gains of the policies that a judge has rewarded."""
    runs = [results.get(f"policy_{name}_{seed}") for seed in (0, 1, 2)]
    return np.array([run["after"] - run["before"] for run in runs if run])


def judges_of(results, kinds):
    """[(kind, gains, measures x siblings)] of the judges of these kinds that have a policy."""
    found = []
    for name in plan():
        kind = name.split("_")[1]
        if name.startswith("judge_") and kind in kinds and name in results:
            values = np.stack([cells(results[name], measure) for measure in MEASURES])
            found.append((kind, worths(results, name), values))
    return [judge for judge in found if len(judge[1])]


def means(judges):
    """{"worth" and the titles of the measures: one value a judge}."""
    rows = [[gains.mean(), *values.mean(axis=1)] for _, gains, values in judges]
    return dict(zip(["worth", *MEASURES.values()], np.array(rows).T))


def redrawn(judges, rng):
    """Judges drawn with replacement, then for each its policies and its siblings."""
    for index in rng.integers(len(judges), size=len(judges)):
        kind, gains, values = judges[index]
        siblings = rng.integers(values.shape[1], size=values.shape[1])
        yield kind, rng.choice(gains, len(gains)), values[:, siblings]


def r(x, y):
    return np.corrcoef(x, y)[0, 1] if x.std() > 1e-9 and y.std() > 1e-9 else np.nan


def partial(x, y, given):
    """The correlation of x and y after `given` has been taken out of both linearly."""
    xy, xz, yz = r(x, y), r(x, given), r(y, given)
    return (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))


def matched(values):
    """The rules' matched difference of worth."""
    near = np.abs(np.subtract.outer(values["accuracy"], values["accuracy"])) <= 0.02
    couples = near & (np.subtract.outer(values["step score"], values["step score"]) >= 0.2)
    differences = np.subtract.outer(values["worth"], values["worth"])[couples]
    return differences.mean() if differences.size else np.nan


def statistics(values):
    """{name: number} of everything that has an interval."""
    found = {"matched": matched(values)}
    for title in MEASURES.values():
        other = "step score" if title == "accuracy" else "accuracy"
        found[title] = r(values["worth"], values[title])
        found[f"{title}, partial"] = partial(values["worth"], values[title], values[other])
    for better, other in COMPARED:
        found[f"{better} - {other}"] = found[better] - found[other]
    return found


def intervals(judges):
    """{name: (value, low, high)} of `statistics`."""
    rng, whole = np.random.default_rng(0), statistics(means(judges))
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = [statistics(means(redrawn(judges, rng))) for _ in range(DRAWS)]
    found = {}
    for name, value in whole.items():
        low, high = np.nanquantile([draw[name] for draw in draws], [0.025, 0.975])
        found[name] = float(value), float(low), float(high)
    return found


def reliabilities(judges):
    """Of each measure by halves over siblings, of worth by Cronbach's alpha over policies."""
    halves = [means((k, g, v[:, part::2]) for k, g, v in judges) for part in (0, 1)]
    found = {}
    for title in MEASURES.values():
        both = r(halves[0][title], halves[1][title])
        found[title] = 2 * both / (1 + both)
    gains = np.array([gains for _, gains, _ in judges if len(gains) == 3])
    shared = gains.var(axis=0, ddof=1).sum() / gains.sum(axis=1).var(ddof=1) if len(gains) else 0
    return found | {"worth": 1.5 * (1 - shared) if len(gains) else np.nan}


# ---- what the rules say ----


def sign(interval):
    _, low, high = interval
    return 1 if low > 0 else -1 if high < 0 else 0


def equal(interval):
    """Whether a difference of worth is within the rules' margin of 0.05."""
    return interval[1] > -0.05 and interval[2] < 0.05


def about_worth(found):
    """The verdicts on H2, H3 and H4 from {set: intervals}."""
    whole, decorative, bearing = (sign(found[name]["step score - accuracy"]) for name in SETS)
    h2 = "supported" if whole == decorative == bearing == 1 else "undecided"
    h2 = "refuted" if whole < 0 or decorative * bearing < 0 else h2
    h3 = found["right + decorative"]["matched"]
    h3 = "supported" if sign(h3) == 1 else "refuted" if equal(h3) else "undecided"
    h4 = [sign(found["all"][f"averaged accuracy - {name}"]) for name in ("accuracy", "step score")]
    h4 = "supported" if sum(h4) == 2 else "refuted" if -1 in h4 else "undecided"
    return {"H2": h2, "H3": h3, "H4": h4}


def after_rl(results, run, step, measure):
    """A grid (seeds, pairs of siblings), empty if nothing is there."""
    names = [f"{run}-{seed}@{step}" for seed in (0, 1, 2)] if step else [f"{run}@0"]
    return np.array([cells(results[name], measure) for name in names if name in results])


def about_rl(results):
    """The verdicts on H1 and H5, with what they rest on; those that have all seeds."""
    found, grids = {}, {}
    for name in ("rl_base_verdict", "rl_marks_verdict", "rl_marks_reasons"):
        start = name.rpartition("_")[0]
        for measure in ("accuracy", "score", "score_thought"):
            grids[name, measure] = after_rl(results, name, 90, measure)
            grids[start, measure] = after_rl(results, start, 0, measure)
    if len(grids["rl_base_verdict", "score"]) == 3:
        parts = [
            difference(grids["rl_base_verdict", measure], grids["rl_base", measure])
            for measure in ("accuracy", "score_thought")
        ]
        rises, falls = sign(parts[0]) == 1, sign(parts[1]) == -1
        h1 = "supported" if rises and falls else "refuted" if sign(parts[1]) == 1 else "undecided"
        found["H1"] = f"{h1}: accuracy {as_text(parts[0])}, step score {as_text(parts[1])}"
    paid, unpaid = "rl_marks_reasons", "rl_marks_verdict"
    gains = [[worths(results, f"{name}-{seed}") for seed in (0, 1, 2)] for name in (paid, unpaid)]
    if min(len(some) for both in gains for some in both) == len(grids[paid, "score"]) == 3:
        score = difference(grids[paid, "score"], grids[unpaid, "score"])
        accuracy = difference(grids[paid, "accuracy"], grids[unpaid, "accuracy"])
        worth = difference(*map(np.array, gains))
        better = sign(score) == 1 and abs(accuracy[0]) <= 0.02
        h5 = "supported" if better and sign(worth) == 1 else "undecided"
        h5 = "refuted" if equal(worth) or sign(worth) == -1 else h5
        found["H5"] = f"{h5}: step score {as_text(score)}, worth {as_text(worth)}"
    return found


# ---- tables ----


def judge_table(results):
    """One row for the judges that differ in their seed only."""
    groups, rows = {}, []
    for name in plan():
        if name.startswith("judge_") and name in results:
            groups.setdefault(name.rpartition("-")[0], []).append(name)
    for group, names in groups.items():
        shown = [*MEASURES, "follows"]
        values = [np.mean([cells(results[name], m) for name in names]) for m in shown]
        gains = np.concatenate([worths(results, name) for name in names])
        row = [*group.split("_")[1:], len(names), *(f"{value:.2f}" for value in values)]
        row.append(f"{1 - values[2] / values[0]:.2f}")
        rows.append([*row, f"{gains.mean():.3f}" if len(gains) else "-", len(gains)])
    columns = ["reasons", "share", "flipped", "judges", *MEASURES.values(), "follows", "S-Corr"]
    return markdown_table([*columns, "worth", "policies"], rows)


def correlation_table(found, judges):
    """r of each measure with worth; divided by the roots of both reliabilities; partial r."""
    rows, reliable = [], reliabilities(judges)
    for name, values in found.items():
        for title in MEASURES.values():
            plain, part = values[title], as_text(values[f"{title}, partial"])
            corrected = plain[0] / np.sqrt(reliable[title] * reliable["worth"])
            row = [name, title, f"{reliable[title]:.2f}", as_text(plain), f"{corrected:.2f}", part]
            rows.append(row)
    columns = ["judges", "measure", "its reliability", "r with worth", "corrected", "partial"]
    note = f"Reliability of worth: {reliable['worth']:.2f}."
    return f"{markdown_table(columns, rows)}\n\n{note}"


def rl_table(results):
    """Every start and reward, on the way."""
    rows, measures = [], ["accuracy", "thinks", "score_thought", "right, right", "consistency"]
    for name in dict.fromkeys(name.split("-")[0] for name in plan() if name.startswith("rl_")):
        for step in (0, 30, 60, 90):
            run = name if step else name.rpartition("_")[0]
            grids = [after_rl(results, run, step, measure) for measure in measures]
            if len(grids[0]):
                shares = [f"{np.nanmean(grid):.3f}" for grid in grids]
                rows.append([*name.split("_")[1:], step, len(grids[0]), *shares])
    columns = ["start", "reward", "step", "runs", "accuracy", "thinks", "step score if it thinks"]
    return markdown_table([*columns, "fidelity", "consistency"], rows)


def draw(judges):
    from matplotlib.figure import Figure

    values, kinds = means(judges), np.array([kind for kind, *_ in judges])
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    shown = "accuracy", "step score", "averaged accuracy"
    for axes, title in zip(figure.subplots(1, 3, sharey=True), shown):
        for kind, colour in COLOURS.items():
            at = kinds == kind
            axes.scatter(values[title][at], values["worth"][at], color=colour, label=kind)
        axes.set_xlabel(f"{title} (r = {r(values['worth'], values[title]):.2f})")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("worth: gain of the policy")
    figure.axes[0].legend(title="reasons", fontsize=8)
    figure.savefig(HERE / "worth.png", dpi=120)


def main():
    results = collect()
    done = sum(name in results for name in plan())
    parts = ["# Are the reasons right? Tables", f"Finished: {done} of {len(plan())} planned runs."]
    parts += ["## Judges", judge_table(results), "## RL", rl_table(results)]
    verdicts, judges = about_rl(results), judges_of(results, SETS["all"])
    if len({kind for kind, *_ in judges}) == len(COLOURS) and len(judges) >= 16:
        found = {name: intervals(judges_of(results, kinds)) for name, kinds in SETS.items()}
        rows = [[name, as_text(values["matched"])] for name, values in found.items()]
        parts += ["## Worth", correlation_table(found, judges)]
        parts += ["Matched difference of worth:", markdown_table(["judges", "difference"], rows)]
        verdicts |= about_worth(found)
        draw(judges)
    parts += ["## Verdicts", markdown_table(["claim", "verdict"], sorted(verdicts.items()))]
    (HERE / "table.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
