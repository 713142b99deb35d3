"""`evaluate.py --sweep`: an evaluation for each combination of values, accuracy against tokens."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

from cli import BadInput
from extras.evaluate import check, evaluate, shown
from judge_file import write_csv

SWEPT = {
    "num_votes": int,
    "max_completion_length": int,
    "temperature": float,
    "games": int,
    "seed": int,
    "strategy": str,
}


def run_sweep(settings, load_judge):
    """Evaluates every combination of settings.sweep and prints a table, or JSON."""
    cases, results = swept_settings(settings), []
    for case in cases:
        result, _ = evaluate(case, load_judge)
        results.append({"output_dir": case.output_dir} | result)
    if settings.out:
        rows, headline = [], headline_of(results)
        names = [word.partition("=")[0] for word in settings.sweep.split()]
        for case, result in zip(cases, results):
            swept = {name: getattr(case, name) for name in names}
            rows.append(swept | csv_numbers(result, headline))
        Path(settings.out).parent.mkdir(parents=True, exist_ok=True)
        write_csv(settings.out, rows)
    if settings.json:
        print(json.dumps(results, allow_nan=False))
    else:
        show_sweep(results)


def swept_settings(settings):
    """The settings of each evaluation, each with a folder of its own below --output_dir."""
    names, values = [], []
    for word in settings.sweep.split():
        name, _, listed = word.partition("=")
        try:
            chosen = [SWEPT[name](value) for value in listed.split(",")]
        except (KeyError, ValueError) as error:
            raise BadInput(
                f"--sweep: {word!r} is not understood: write name=value,value with a name of "
                f"{', '.join(SWEPT)}"
            ) from error
        if name in names or len(set(chosen)) < len(chosen):
            raise BadInput(f"--sweep: {word!r} repeats a name or a value: give each once")
        names.append(name)
        values.append(chosen)
    cases = []
    for chosen in itertools.product(*values):
        changes = dict(zip(names, chosen))
        folder = "-".join(f"{name}={value}" for name, value in changes.items())
        output_dir = str(Path(settings.output_dir) / folder)
        cases.append(check(replace(settings, output_dir=output_dir, **changes)))
    return cases


def headline_of(results):
    """The name of the number that a sweep compares: the first of the rule that all of them have."""
    for name in results[0]["rule"]:
        if all(result["rule"].get(name) is not None for result in results):
            return name
    return "accuracy"


def number_of(result, name):
    """[value, low, high] of an evaluation; None three times where it is unknown."""
    return (result["protocol"] | result["rule"]).get(name) or [None, None, None]


def csv_numbers(result, headline):
    """Accuracy and tokens of an evaluation, each with its 95 % interval; shares as fractions."""
    row = {"items": result["items"]}
    for name in (headline, "tokens an item"):
        row[name], row[f"{name} low"], row[f"{name} high"] = number_of(result, name)
    return row


def show_sweep(results):
    """A line for each evaluation, sorted by tokens an item."""
    headline = headline_of(results)
    columns = ["accuracy", "truncated", "matches decided by a coin"]
    print(
        f"{'tokens an item':>14}  {headline:>12}    95 % interval    "
        f"pairs right  truncated  by a coin  settings (n = {results[0]['items']} items, %)"
    )
    by_tokens = [(number_of(result, "tokens an item")[0], result) for result in results]
    for tokens, result in sorted(by_tokens, key=lambda entry: entry[0] or 0):
        middle, low, high = (cell(headline, number) for number in number_of(result, headline))
        pairs, truncated, coin = (cell(name, number_of(result, name)[0]) for name in columns)
        spent = "-" if tokens is None else f"{tokens:.1f}"
        forced = f", {result['forced']} verdicts by force" if result["forced"] else ""
        print(
            f"{spent:>14}  {middle:>12}  {low} ...{high}  {pairs:>11}  "
            f"{truncated:>9}  {coin:>9}  {Path(result['output_dir']).name}{forced}"
        )


def cell(name, value):
    return "      -" if value is None else shown(name, value)
