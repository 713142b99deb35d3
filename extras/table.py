"""The last held-out results of several runs in a table: means, intervals, paired differences.

    python -m extras.table out/low-0 out/low-1 out/low-2 out/high-0 out/high-1 out/high-2

Folders whose names differ only in a trailing -SEED, and whose other settings are the same, are
seeds of one setting. With two seeds or more an interval is one over seeds (Student's t): it holds
for another seed. With one seed it is a bootstrap over the held-out items, and holds for this run
alone on other items. Differences are to the first setting: seed by seed where both have two seeds
in common, else item by item. Intervals are of 95 %.
"""

import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cli
from cli import BadInput, note, setting
from extras import split_arguments
from extras.intervals import mean_interval, share_interval
from extras.plot import group_seeds
from verdicts import vote_of

FIRST = {  # the metrics that come first, the most important one before the others
    "judge/accuracy": "accuracy",
    "reward/oracle": "share of right answers",
    "rewards/accuracies": "share of right preferences",
    "judge/consistency": "consistency",
}
SHARES = "judge/parse_fail", "judge/think_empty", "completions/clipped_ratio", "reward/unanswered"
ROUNDS = 1000  # of a bootstrap


@dataclass
class Settings:
    json: bool = setting(False, "print the numbers as one JSON object")


def last_evaluation(folder):
    """(step, {metric: value}) of the last held-out results in metrics.jsonl. Raises BadInput."""
    path = Path(folder) / "metrics.jsonl"
    found = None
    for line, row in cli.read_json_lines(path, "RUN"):
        values = {}
        for name, value in row.items():
            if name.startswith("eval/") and isinstance(value, (int, float)):
                values[name[5:]] = value
        if values and not isinstance(row.get("step"), int):
            raise BadInput(
                f"RUN: {path} line {line} has no step: give the folder of a training run"
            )
        if values:
            found = row["step"], values
    if found is None:
        raise BadInput(
            f"RUN: {path} has no held-out results: give a run of train_grpo.py with --eval_every "
            "above 0"
        )
    return found


def item_values(folder, step):
    """{metric: {id: value}} of an evaluation: what its metrics are means of. Empty if not kept."""
    path, values = Path(folder) / "rollouts" / f"eval-{step}.jsonl", defaultdict(dict)
    if not path.exists():
        return values
    for _, row in cli.read_json_lines(path, "RUN"):
        if "games" in row:
            games = row["games"]
            right = [vote_of(game) == row["label"] for game in games]
            values["judge/accuracy"][row["id"]] = float(np.mean(right))
            values["judge/consistency"][row["id"]] = float(row["consistent"] is True)
            tokens = float(np.mean([game["tokens"] for game in games]))
            values["completions/mean_length"][row["id"]] = tokens
        elif "correct" in row:
            values["reward/oracle"][row["id"]] = float(bool(row["correct"]))
    return values


def bootstrap(values):
    """Means of values that are drawn with replacement."""
    values = np.array(values)
    drawn = np.random.default_rng(0).integers(len(values), size=(ROUNDS, len(values)))
    return values[drawn].mean(axis=1)


class Setting:
    """The runs of one setting, one a seed: their last evaluations."""

    def __init__(self, label, folders):
        self.label = label
        self.runs = {Path(folder).name.rpartition("-")[2]: folder for folder in folders}
        if len(folders) == 1:
            self.runs = {"": folders[0]}
        self.steps, self.results, self.items = {}, {}, {}
        for seed, folder in self.runs.items():
            self.steps[seed], self.results[seed] = last_evaluation(folder)
            self.items[seed] = item_values(folder, self.steps[seed])

    def values(self, metric):
        """{seed: value}"""
        return {seed: row[metric] for seed, row in self.results.items() if metric in row}

    def summary(self, metric):
        """{mean, interval, over} of a metric; the interval is None where nothing scatters."""
        values = list(self.values(metric).values())
        result = {"mean": float(np.mean(values)), "interval": None, "over": "1 run"}
        if len(values) > 1:
            low, high = mean_interval(values)
            if metric in FIRST or metric in SHARES:
                low, high = max(low, 0.0), min(high, 1.0)
            return result | {"interval": [low, high], "over": f"{len(values)} seeds"}
        items = list(next(iter(self.items.values()))[metric].values())
        if items:
            draws, over = bootstrap(items), f"{len(items)} items"
            interval = np.quantile(draws, [0.025, 0.975]).tolist()
            if min(items) >= 0 and max(items) <= 1:
                interval = share_interval(result["mean"], draws, len(items))
            result |= {"interval": list(interval), "over": over}
        return result

    def minus(self, other, metric):
        """{difference, interval, over} of the means of a metric: self minus other, paired."""
        own, theirs = self.values(metric), other.values(metric)
        seeds = sorted(own.keys() & theirs.keys())
        if len(seeds) > 1:
            values = [own[seed] - theirs[seed] for seed in seeds]
            interval, over = mean_interval(values), f"{len(seeds)} seeds"
            return {"difference": float(np.mean(values)), "interval": interval, "over": over}
        difference = float(np.mean(list(own.values())) - np.mean(list(theirs.values())))
        result = {"difference": difference, "interval": None, "over": "nothing in common"}
        if len(own) == len(theirs) == 1:
            own, theirs = (next(iter(side.items.values()))[metric] for side in (self, other))
            common = sorted(own.keys() & theirs.keys())
            if common:
                values = [own[name] - theirs[name] for name in common]
                interval = np.quantile(bootstrap(values), [0.025, 0.975]).tolist()
                result = {"difference": float(np.mean(values)), "interval": interval}
                result["over"] = f"{len(common)} items"
        return result


def in_words(minus):
    """higher, lower, or that the difference is not clear."""
    if minus["interval"] is None or minus["interval"][0] <= 0 <= minus["interval"][1]:
        return "no clear difference"
    return "higher" if minus["difference"] > 0 else "lower"


def best_setting(groups):
    """Which of several settings {label: folders} ends best, in words; "" without common results."""
    try:
        settings = [Setting(label, folders) for label, folders in groups.items()]
    except BadInput:
        return ""
    common = [name for name in FIRST if all(one.values(name) for one in settings)]
    if not common:
        return ""
    metric = common[0]
    first, second = sorted(settings, key=lambda one: -one.summary(metric)["mean"])[:2]
    best, other = (f"{one.label} {one.summary(metric)['mean']:.3f}" for one in (first, second))
    minus = first.minus(second, metric)
    said = f"best held-out {FIRST[metric]}: {best}, then {other}: {in_words(minus)}"
    if minus["interval"]:
        low, high = minus["interval"]
        said += f" (95 %: {low:+.3f} to {high:+.3f}, {minus['over']})"
    return said


def compare(folders):
    """{settings: {label: {seed: step}}, metrics: {metric: {label: summary}}}. Raises BadInput."""
    settings = [Setting(label, members) for label, members in group_seeds(folders).items()]
    common = set.intersection(*(set(row) for s in settings for row in s.results.values()))
    names = [name for name in FIRST if name in common]
    names += sorted(common - set(names))
    metrics = {}
    for metric in names:
        metrics[metric] = {}
        for one in settings:
            summary = one.summary(metric)
            if one is not settings[0]:
                summary["minus_first"] = one.minus(settings[0], metric)
            metrics[metric][one.label] = summary
    return {"settings": {one.label: one.steps for one in settings}, "metrics": metrics}


def form(value, metric, sign=""):
    digits = 1 if metric.endswith("length") else 3
    return f"{value:{sign}8.{digits}f}"


def between(interval, metric, sign=""):
    if interval is None:
        return " " * 21
    low, high = (form(value, metric, sign) for value in interval)
    return f"{low} ... {high.strip():8}"


def show(found):
    width = max(map(len, [*found["settings"], *found["metrics"]]))
    heads = f"{'value':>8}  {'95 % interval':21}  {'over':10}  minus the first setting"
    for metric, rows in found["metrics"].items():
        print(f"{metric:{width}}  {heads if len(rows) > 1 else heads[:35]}")
        for label, row in rows.items():
            line = f"{label:{width}}  {form(row['mean'], metric)}  "
            line += f"{between(row['interval'], metric)}  {row['over']:10}"
            if "minus_first" in row:
                minus = row["minus_first"]
                line += f"  {form(minus['difference'], metric, '+')}  "
                line += f"{between(minus['interval'], metric, '+')}  {in_words(minus)}, "
                line += minus["over"]
            print(line.rstrip())
        print()


def main(argv=None):
    folders, flags = split_arguments(sys.argv[1:] if argv is None else argv)
    settings = cli.parse_settings(Settings, flags, description=__doc__)
    if not folders:
        raise BadInput("RUN: give the folders of runs")
    found = compare(folders)
    steps = {step for seeds in found["settings"].values() for step in seeds.values()}
    if len(steps) > 1:
        note(f"the last evaluations are of different steps: {', '.join(map(str, sorted(steps)))}")
    if settings.json:
        print(json.dumps(found, allow_nan=False))
    else:
        show(found)


if __name__ == "__main__":
    cli.run(main)
