"""The tables and the figure of the study: every number that rules.md asks for.

python runs/pointwise/table.py     OUT/results -> logs/results.jsonl.gz -> table.md, tokens.png
"""

import math

import numpy as np
from measures import as_text, estimate, markdown_table, mean
from pointwise import ROOT, SEEDS, STARTS, STUDY, plan
from strategies import STRATEGIES

from extras.intervals import mean_interval

HERE = ROOT / "runs/pointwise"
VOTES = "votes_1", "votes_2", "votes_4"
OPPONENTS = "opponents_1", "opponents_2", "opponents_4", "opponents_7"
GROUPS = {"pick": 300, "policy": 640}  # that the judge has valued in one run
ROLES = {"pick": "right picks", "policy": "gain of the policy"}


def seeds_of(results, start):
    """The seeds whose picks and policies are all there."""
    names = [f"policy_{start}_{strategy}" for strategy in STRATEGIES]
    names += [f"pick_{start}", "policy_oracle", "policy_coin"]
    return [seed for seed in SEEDS if all(f"{name}-{seed}" in results for name in names)]


def gain(result):
    return result["after"] - result["before"]


def tokens_of(usage, groups, with_prompts=False):
    """Judge tokens for one group."""
    total = usage["completion_tokens"] + with_prompts * usage["prompt_tokens"]
    return total / groups


def interpolated(tokens, values, at):
    """Values at the tokens `at`, on the line through points over log tokens; ends go on flat."""
    order = np.argsort(tokens)
    return np.interp(np.log(at), np.log(tokens)[order], np.asarray(values)[order])


def lead_at_equal_tokens(tokens, values):
    """Pointwise minus pairwise, the mean over the numbers of votes. Both: {strategy: number}."""
    line = [[found[name] for name in OPPONENTS] for found in (tokens, values)]
    return mean(values[name] - interpolated(*line, tokens[name]) for name in VOTES)


def usage_of(results, role, start, strategy, seed):
    if role == "pick":
        return results[f"pick_{start}-{seed}"][strategy]["usage"]
    return results[f"policy_{start}_{strategy}-{seed}"]["usage"]


def mean_tokens(results, role, start, strategy, seeds, with_prompts=False):
    usages = [usage_of(results, role, start, strategy, seed) for seed in seeds]
    return mean(tokens_of(usage, GROUPS[role], with_prompts) for usage in usages)


def with_interval(values):
    """Mean and Student's interval over seeds."""
    return np.mean(values), *(mean_interval(values) if len(values) > 1 else (math.nan, math.nan))


# ---- picks: an array (seeds, questions) of each strategy ----


def picked(results, start, seeds):
    rows = [results[f"pick_{start}-{seed}"] for seed in seeds]
    names = ["first", "any", *STRATEGIES]
    return {name: np.array([row[name]["right"] for row in rows], float) for name in names}


def pick_lead(results, start, seeds, with_prompts=False):
    """P2: bootstrap over seeds and questions."""
    right = picked(results, start, seeds)
    names = VOTES + OPPONENTS
    tokens = {
        name: mean_tokens(results, "pick", start, name, seeds, with_prompts) for name in names
    }

    def lead(*values):
        return lead_at_equal_tokens(tokens, dict(zip(names, values)))

    return estimate(lead, *(right[name] for name in names))


def knockout_lead(results, start, seeds):
    """P3, first half: knockout's right picks minus those of the better line at its tokens."""
    right = picked(results, start, seeds)
    tokens = {name: mean_tokens(results, "pick", start, name, seeds) for name in STRATEGIES}

    def on_line(names, values):
        return interpolated([tokens[name] for name in names], values, tokens["knockout"])

    lines = VOTES, OPPONENTS
    best = max(lines, key=lambda names: on_line(names, [right[name].mean() for name in names]))
    grids = right["knockout"], *(right[name] for name in best)
    return estimate(lambda knockout, *values: knockout - on_line(best, values), *grids)


# ---- policies: one number a seed ----


def gains(results, start, strategy, seeds):
    return [gain(results[f"policy_{start}_{strategy}-{seed}"]) for seed in seeds]


def gain_lead(results, start, seeds, with_prompts=False):
    """P1: Student's interval over paired seeds."""
    leads = []
    for seed in seeds:
        names = VOTES + OPPONENTS
        found = {name: gains(results, start, name, [seed])[0] for name in names}
        tokens = {
            name: mean_tokens(results, "policy", start, name, [seed], with_prompts)
            for name in names
        }
        leads.append(lead_at_equal_tokens(tokens, found))
    return with_interval(leads)


def gain_difference(results, start, seeds, first, second):
    one, other = (gains(results, start, name, seeds) for name in (first, second))
    return with_interval([a - b for a, b in zip(one, other)])


# ---- tables ----


def claims(results, start, seeds):
    """One row for each number that decides a claim."""

    def policies(*names):
        return gain_difference(results, start, seeds, *names)

    own = results, start, seeds
    return [
        ["P1: pointwise minus pairwise, gain at equal tokens", as_text(gain_lead(*own))],
        ["P1, prompts counted", as_text(gain_lead(*own, True))],
        ["P2: pointwise minus pairwise, right picks at equal tokens", as_text(pick_lead(*own))],
        ["P2, prompts counted", as_text(pick_lead(*own, True))],
        ["P3: knockout minus the better line, right picks", as_text(knockout_lead(*own))],
        ["P3: knockout minus opponents 2, gain", as_text(policies("knockout", "opponents_2"))],
        ["P4: opponents 7 minus 2, gain", as_text(policies("opponents_7", "opponents_2"))],
    ]


def strategy_table(results, start, seeds):
    right, rows = picked(results, start, seeds), []
    for name in STRATEGIES:
        row = [name.replace("_", " ")]
        for role in ROLES:
            for with_prompts in (False, True):
                found = mean_tokens(results, role, start, name, seeds, with_prompts)
                row.append(f"{found:.0f}")
            values = with_interval(gains(results, start, name, seeds))
            if role == "pick":
                values = estimate(lambda share: share, right[name])
            row.append(as_text(values))
        rows.append(row)
    columns = ["strategy"]
    for title in ROLES.values():
        columns += ["tokens a group", "with prompts", title]
    return markdown_table(columns, rows)


def judge_table(results):
    """Share of test pairs that the judges order rightly, mean over seeds."""
    rows = []
    for start in STARTS:
        for kind in ("pairwise", "graded"):
            names = [f"judge_{kind}_{start}-{seed}" for seed in SEEDS]
            found = [results[name] for name in names if name in results]
            for strategy in found[0].keys() - {"name"} if found else ():
                values = [result[strategy] for result in found]
                rows.append(
                    [start, kind, strategy.replace("_", " "), as_text(with_interval(values))]
                )
    return markdown_table(["from", "judge", "", "pairs in the right order"], sorted(rows))


def without_judge(results, start, seeds):
    right, rows = picked(results, start, seeds), []
    for name in ("oracle", "coin"):
        values = [gain(results[f"policy_{name}-{seed}"]) for seed in seeds]
        rows.append([f"gain with the reward {name}", as_text(with_interval(values))])
    rows.append(["right: the first answer", f"{right['first'].mean():.3f}"])
    rows.append(["right: any of the eight", f"{right['any'].mean():.3f}"])
    return markdown_table(["", ""], rows)


def draw(results, seeds):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.4), layout="constrained")
    plots = figure.subplots(2, len(STARTS), sharex=True, sharey="row")
    looks = {
        VOTES: ("pointwise: 1, 2, 4 votes", "#D55E00", "o-"),
        OPPONENTS: ("pairwise: 1, 2, 4, 7 opponents", "#0072B2", "s-"),
        ("knockout",): ("knockout", "#009E73", "^"),
        ("halving",): ("halving", "#CC79A7", "v"),
    }
    for column, start in enumerate(STARTS):
        for axes, (role, title) in zip(plots[:, column], ROLES.items()):
            right = picked(results, start, seeds[start])
            for names, (label, color, line) in looks.items():
                tokens = [mean_tokens(results, role, start, name, seeds[start]) for name in names]
                values = [gains(results, start, name, seeds[start]) for name in names]
                if role == "pick":
                    values = [right[name].mean(axis=1) for name in names]
                spread = [np.std(value, ddof=1) / len(value) ** 0.5 for value in values]
                means = [np.mean(value) for value in values]
                axes.errorbar(tokens, means, spread, fmt=line, color=color, label=label, capsize=2)
            axes.set(xscale="log", ylabel=title if column == 0 else "")
        quality = {"base": "good judges", "weak": "worse judges"}[start]
        plots[0, column].set_title(f"{quality}, from tiny/{start}")
        plots[1, column].set_xlabel("judge tokens for a group of eight answers")
    plots[0, 0].legend()
    figure.savefig(HERE / "tokens.png", dpi=120)


def main():
    results = STUDY.collect()
    done = sum(name in results for name in plan())
    parts = ["# Pointwise or pairwise? Tables"]
    parts += [f"Finished: {done} of {len(plan())} planned runs.", "## The judges"]
    parts += [judge_table(results)]
    seeds = {start: seeds_of(results, start) for start in STARTS}
    for start, own in seeds.items():
        parts += [f"## Judges from tiny/{start}: {len(own)} seeds"]
        if len(own) > 1:
            parts += [markdown_table(["", "difference"], claims(results, start, own))]
            parts += [strategy_table(results, start, own), without_judge(results, start, own)]
    if min(map(len, seeds.values())) > 1:
        draw(results, seeds)
    (HERE / "table.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
