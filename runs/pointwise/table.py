"""The tables and the figure of the study: every number that rules.md asks for.

python runs/pointwise/table.py     OUT/results -> logs/results.jsonl.gz -> table.md, tokens.png
"""

import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from measures import as_text, estimate, markdown_table, mean  # noqa: E402
from pointwise import ROOT, SEEDS, STARTS, STUDY, plan  # noqa: E402
from strategies import STRATEGIES  # noqa: E402

from extras.intervals import mean_interval  # noqa: E402

HERE = ROOT / "runs/pointwise"
VOTES = "votes_1", "votes_2", "votes_4"
OPPONENTS = "opponents_1", "opponents_2", "opponents_4", "opponents_7"
GROUPS = {"pick": 300, "policy": 640}  # of eight answers, that the judge has valued in one run
TITLES = {"pick": "right picks", "policy": "gain of the policy"}


def finished_seeds(results, start):
    """The seeds whose picks and policies are all there."""
    names = [f"policy_{start}_{strategy}" for strategy in STRATEGIES]
    names += [f"pick_{start}", "policy_oracle", "policy_coin"]
    return [seed for seed in SEEDS if all(f"{name}-{seed}" in results for name in names)]


def gains(results, name, seeds):
    runs = [results[f"policy_{name}-{seed}"] for seed in seeds]
    return np.array([run["after"] - run["before"] for run in runs])


def read(results, start, seeds):
    """{strategy: {role: values}}, {strategy: {role: usages}}; one entry a seed.

    The values of picks are (seeds, questions), those of policies (seeds,).
    """
    values, usages = {}, {}
    for name in STRATEGIES:
        picks = [results[f"pick_{start}-{seed}"][name] for seed in seeds]
        policies = [results[f"policy_{start}_{name}-{seed}"] for seed in seeds]
        values[name] = {
            "pick": np.array([pick["right"] for pick in picks], float),
            "policy": gains(results, f"{start}_{name}", seeds),
        }
        usages[name] = {
            "pick": [pick["usage"] for pick in picks],
            "policy": [policy["usage"] for policy in policies],
        }
    return values, usages


def mean_tokens(usages, name, role, count):
    """Judge tokens for a group of eight, the mean over seeds.

    count: "completions"; "prompts", which adds those; or "copies": a pointwise judge pays for
    equal answers each time.
    """
    tokens = []
    for usage in usages[name][role]:
        total = usage["completion_tokens"]
        if count == "prompts":
            total += usage["prompt_tokens"]
        if count == "copies" and name in VOTES:
            votes = int(name.removeprefix("votes_"))
            total *= 8 * GROUPS[role] * votes / usage["calls"]
        tokens.append(total / GROUPS[role])
    return mean(tokens)


# ---- differences ----


def on_line(tokens, values, at):
    """The value at the tokens `at`, on the line through points over log tokens; ends go on flat."""
    order = np.argsort(tokens)
    return np.interp(np.log(at), np.log(tokens)[order], np.asarray(values)[order])


def lead_at_equal_tokens(tokens, values):
    """Pointwise minus pairwise, the mean over the numbers of votes. Both: {strategy: number}."""
    line = [tokens[name] for name in OPPONENTS], [values[name] for name in OPPONENTS]
    return mean(values[name] - on_line(*line, tokens[name]) for name in VOTES)


def over_seeds(values):
    """Mean and Student's interval."""
    return np.mean(values), *(mean_interval(values) if len(values) > 1 else (math.nan, math.nan))


def pointwise_lead(values, usages, role, count):
    """P1 and P2 with an interval: over paired seeds, of picks over seeds and questions."""
    names = VOTES + OPPONENTS
    tokens = {name: mean_tokens(usages, name, role, count) for name in names}

    def lead(*numbers):
        return lead_at_equal_tokens(tokens, dict(zip(names, numbers)))

    grids = [values[name][role] for name in names]
    return estimate(lead, *grids) if role == "pick" else over_seeds(list(map(lead, *grids)))


def knockout_lead(values, usages):
    """P3, first half: knockout's right picks minus those of the better line at its tokens."""
    tokens = {name: mean_tokens(usages, name, "pick", "completions") for name in STRATEGIES}

    def line_at_knockout(names, shares):
        return on_line([tokens[name] for name in names], shares, tokens["knockout"])

    def height(names):
        return line_at_knockout(names, [values[name]["pick"].mean() for name in names])

    best = max(VOTES, OPPONENTS, key=height)
    grids = [values[name]["pick"] for name in ("knockout", *best)]
    return estimate(lambda share, *shares: share - line_at_knockout(best, shares), *grids)


def claims(values, usages):
    """One row for each number that decides a claim."""

    def gain_difference(first, second):
        return over_seeds(values[first]["policy"] - values[second]["policy"])

    found = {}
    for claim, role in ("P1", "policy"), ("P2", "pick"):
        for count in ("completions", "prompts", "copies"):
            title = f"{claim}: pointwise minus pairwise, {TITLES[role]}, by {count}"
            found[title] = pointwise_lead(values, usages, role, count)
    found["P3: knockout minus the better line, right picks"] = knockout_lead(values, usages)
    found["P3: knockout minus opponents 2, gain"] = gain_difference("knockout", "opponents_2")
    found["P4: opponents 7 minus opponents 2, gain"] = gain_difference("opponents_7", "opponents_2")
    return markdown_table(["", "difference"], [[name, as_text(row)] for name, row in found.items()])


# ---- tables ----


def strategy_table(values, usages):
    columns, rows = ["strategy"], []
    for role in ("pick", "policy"):
        columns += ["tokens a group", "with prompts", TITLES[role]]
    for name in STRATEGIES:
        row = [name.replace("_", " ")]
        for role in ("pick", "policy"):
            for count in ("completions", "prompts"):
                row.append(f"{mean_tokens(usages, name, role, count):.0f}")
            found = values[name][role]
            interval = estimate(lambda share: share, found) if role == "pick" else over_seeds(found)
            row.append(as_text(interval))
        rows.append(row)
    return markdown_table(columns, rows)


def judge_table(results):
    """Share of test pairs that the judges order rightly, mean over seeds."""
    rows = []
    for start in STARTS:
        for kind, strategies in ("pairwise", ["opponents_1"]), ("graded", ["votes_1", "votes_4"]):
            names = [f"judge_{kind}_{start}-{seed}" for seed in SEEDS]
            found = [results[name] for name in names if name in results]
            for strategy in strategies if found else ():
                shares = over_seeds([result[strategy] for result in found])
                rows.append([start, kind, strategy.replace("_", " "), as_text(shares)])
    return markdown_table(["from", "judge", "", "pairs in the right order"], rows)


def without_judge(results, start, seeds):
    rows = [
        [f"gain with the reward {name}", as_text(over_seeds(gains(results, name, seeds)))]
        for name in ("oracle", "coin")
    ]
    for name, title in ("first", "the first answer"), ("any", "any of the eight"):
        rows.append(
            [f"right: {title}", f"{mean(results[f'pick_{start}-{seeds[0]}'][name]['right']):.3f}"]
        )
    return markdown_table(["", ""], rows)


def draw(cells):
    """cells: {start: what `read` returns}."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.4), layout="constrained")
    plots = figure.subplots(2, len(STARTS), sharex=True, sharey="row")
    looks = {
        VOTES: ("pointwise: 1, 2, 4 votes", "#D55E00", "o-"),
        OPPONENTS: ("pairwise: 1, 2, 4, 7 opponents", "#0072B2", "s-"),
        ("knockout",): ("knockout", "#009E73", "^"),
        ("halving",): ("halving", "#CC79A7", "v"),
    }
    qualities = {"base": "good judges", "weak": "worse judges"}
    for column, (start, (values, usages)) in enumerate(cells.items()):
        for axes, role in zip(plots[:, column], ("pick", "policy")):
            for names, (label, color, line) in looks.items():
                tokens = [mean_tokens(usages, name, role, "completions") for name in names]
                seeds = [values[name][role].reshape(len(values[name][role]), -1) for name in names]
                means = [found.mean() for found in seeds]
                errors = [found.mean(1).std(ddof=1) / len(found) ** 0.5 for found in seeds]
                axes.errorbar(tokens, means, errors, fmt=line, color=color, label=label, capsize=2)
            axes.set(xscale="log", ylabel="" if column else TITLES[role])
        plots[0, column].set_title(f"{qualities[start]}, from tiny/{start}")
        plots[1, column].set_xlabel("judge tokens for a group of eight answers")
    plots[0, 0].legend()
    figure.savefig(HERE / "tokens.png", dpi=120)


def main():
    results, cells = STUDY.collect(), {}
    done = sum(name in results for name in plan())
    parts = ["# Pointwise or pairwise? Tables"]
    parts += [f"Finished: {done} of {len(plan())} planned runs.", "## The judges"]
    parts += [judge_table(results)]
    for start in STARTS:
        seeds = finished_seeds(results, start)
        parts += [f"## Judges from tiny/{start}: {len(seeds)} seeds"]
        if len(seeds) > 1:
            cells[start] = read(results, start, seeds)
            parts += [claims(*cells[start]), strategy_table(*cells[start])]
            parts += [without_judge(results, start, seeds)]
    if len(cells) == len(STARTS):
        draw(cells)
    (HERE / "table.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
