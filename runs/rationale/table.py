"""The tables and the figure of the study: every number that rules.md asks for.

    python runs/rationale/table.py     OUT/results -> logs/results.jsonl.gz -> table.md, worth.png

Results that are gone from OUT stay in the log. Parts whose runs are missing are left out.
"""

import numpy as np
from checker import ROOT
from measures import as_text, difference, markdown_table
from study import CORRUPTED, STUDY, plan

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


# ---- judges and their worth ----


def cells(result, measure):
    """The values of a measure, one for each two siblings; NaN where there is none."""
    return np.array([row[measure] for row in result["siblings"]], dtype=float)


def worths(results, name):
    """The gains of the policies that a judge has rewarded."""
    runs = [results.get(f"policy_{name}_{seed}") for seed in (0, 1, 2)]
    return np.array([run["after"] - run["before"] for run in runs if run])


def judges_of(results):
    """[(kind, gains, measures x siblings)] of the judges that have a policy."""
    found = []
    for name in plan():
        kind, gains = name.split("_")[1], worths(results, name)
        if name.startswith("judge_") and name in results and len(gains):
            values = np.stack([cells(results[name], measure) for measure in MEASURES])
            found.append((kind, gains, values))
    return found


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
    return np.corrcoef(x, y)[0, 1]


def partial(x, y, given):
    """The correlation of x and y after `given` has been taken out of both linearly."""
    xy, xz, yz = r(x, y), r(x, given), r(y, given)
    return (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))


def matched(values):
    """The rules' matched difference of worth."""
    accuracy, score, worth = (
        np.subtract.outer(values[title], values[title])
        for title in ("accuracy", "step score", "worth")
    )
    couples = (np.abs(accuracy) <= 0.02) & (score >= 0.2)
    return worth[couples].mean() if couples.any() else np.nan


def statistics(values):
    """{name: number} of everything that has an interval."""
    found = {"matched difference of worth": matched(values)}
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
    draws = [statistics(means(redrawn(judges, rng))) for _ in range(DRAWS)]
    found = {}
    for name, value in whole.items():
        low, high = np.nanquantile([draw[name] for draw in draws], [0.025, 0.975])
        found[name] = float(value), float(low), float(high)
    return found


def reliabilities(judges):
    """Of each measure by halves over siblings, of worth by Cronbach's alpha over policies."""
    halves = [means((k, g, v[:, part::2]) for k, g, v in judges) for part in (0, 1)]
    both = {title: r(halves[0][title], halves[1][title]) for title in MEASURES.values()}
    found = {title: 2 * value / (1 + value) for title, value in both.items()}
    gains = np.array([gains for _, gains, _ in judges if len(gains) == 3]).reshape(-1, 3)
    total = gains.sum(axis=1).var() if len(gains) else np.nan
    return found | {"worth": 1.5 * (1 - gains.var(axis=0).sum() / total)}


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


def others_table(results):
    """The worth of an oracle, a coin, and judges after RL."""
    gains = {}
    for name in dict.fromkeys(name.partition("@")[0] for name in ["oracle", "coin", *plan()]):
        if name.startswith(("oracle", "coin", "rl_")):
            gains.setdefault(name.partition("-")[0], []).extend(worths(results, name))
    rows = [[name, f"{np.mean(some):.3f}", len(some)] for name, some in gains.items() if some]
    return markdown_table(["reward", "worth", "policies"], rows)


def after_rl(results, run, step, measure):
    """A grid (seeds, pairs of siblings), empty if nothing is there. Step 0 is that of the start."""
    start = run.rpartition("_")[0]
    names = [f"{run}-{seed}@{step}" for seed in (0, 1, 2)] if step else [f"{start}@0"]
    return np.array([cells(results[name], measure) for name in names if name in results])


def rl_table(results):
    """Every start and reward on the way, and the change of the last step, for H1."""
    rows, measures = [], ["accuracy", "thinks", "score_thought", "right, right", "consistency"]
    for name in dict.fromkeys(name.split("-")[0] for name in plan() if name.startswith("rl_")):
        first = [after_rl(results, name, 0, measure) for measure in measures]
        for step in (0, 30, 60, 90):
            grids = [after_rl(results, name, step, measure) for measure in measures]
            if not len(grids[0]):
                continue
            row = [*name.split("_")[1:], step, len(grids[0])]
            row += [f"{np.nanmean(grid):.3f}" for grid in grids]
            changes = [as_text(difference(grids[at], first[at])) for at in (0, 2)]
            rows.append([*row, *(changes if step == 90 else ["", ""])])
    columns = ["start", "reward", "step", "runs", "accuracy", "thinks", "step score if it thinks"]
    columns += ["fidelity", "consistency", "change of accuracy", "change of step score"]
    return markdown_table(columns, rows)


def paid_table(results):
    """Paid for reasons minus paid for verdicts, at the last step, for H5."""
    rows = []
    for start in ("base", "marks", "short"):
        runs, row = (f"rl_{start}_reasons", f"rl_{start}_verdict"), [start]
        for measure in ("accuracy", "score"):
            grids = [after_rl(results, run, 90, measure) for run in runs]
            row.append(as_text(difference(*grids)) if all(map(len, grids)) else "-")
        gains = [[worths(results, f"{run}-{seed}") for seed in (0, 1, 2)] for run in runs]
        whole = all(len(some) == 3 for both in gains for some in both)
        row.append(as_text(difference(*map(np.array, gains))) if whole else "-")
        rows.append(row)
    return markdown_table(["start", "accuracy", "step score", "worth"], rows)


def worth_tables(judges):
    """What H2, H3 and H4 are decided by, then the reliabilities."""
    found = {}
    for name, kinds in SETS.items():
        found[name] = intervals([judge for judge in judges if judge[0] in kinds])
    rows = [[name, *(as_text(found[kinds][name]) for kinds in SETS)] for name in found["all"]]
    reliable, corrected = reliabilities(judges), []
    for name, value in reliable.items():
        plain = found["all"][name][0] if name in found["all"] else np.nan
        corrected.append(
            [name, f"{value:.2f}", f"{plain / (value * reliable['worth']) ** 0.5:.2f}"]
        )
    columns = ["measure", "reliability", "r with worth, corrected for both"]
    return [markdown_table(["r with worth", *SETS], rows), markdown_table(columns, corrected)]


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
    results = STUDY.collect()
    done, judges = sum(name in results for name in plan()), judges_of(results)
    parts = ["# Are the reasons right? Tables", f"Finished: {done} of {len(plan())} planned runs."]
    parts += ["## Judges", judge_table(results), "## RL", rl_table(results)]
    parts += ["Paid for right reasons minus paid for verdicts:", paid_table(results)]
    parts.append(others_table(results))
    if len({kind for kind, *_ in judges}) == len(COLOURS) and len(judges) >= 16:
        parts += ["## Worth", *worth_tables(judges)]
        draw(judges)
    (HERE / "table.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
