"""`evaluate.py --sweep`: an evaluation for each combination of values, accuracy against tokens."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

from cli import BadInput
from extras.evaluate import check, evaluate, shown

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
    results = []
    for case in swept_settings(settings):
        result, _ = evaluate(case, load_judge)
        results.append({"output_dir": case.output_dir} | result)
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
            values.append([SWEPT[name](value) for value in listed.split(",")])
        except (KeyError, ValueError) as error:
            raise BadInput(
                f"--sweep: {word!r} is not understood: write name=value,value with a name of "
                f"{', '.join(SWEPT)}"
            ) from error
        names.append(name)
    cases = []
    for chosen in itertools.product(*values):
        changes = dict(zip(names, chosen))
        folder = "-".join(f"{name}={value}" for name, value in changes.items())
        output_dir = str(Path(settings.output_dir) / folder)
        cases.append(check(replace(settings, output_dir=output_dir, **changes)))
    return cases


def show_sweep(results):
    """A line for each evaluation, sorted by tokens an item."""
    headline = "accuracy"
    for name, value in results[0]["rule"].items():
        if value is not None:
            headline = name
            break
    columns = ["accuracy", "truncated", "matches decided by a coin"]
    print(
        f"{'tokens an item':>14}  {headline:>12}    95 % interval    "
        f"pairs right  truncated  by a coin  settings (n = {results[0]['items']} items)"
    )
    for result in sorted(results, key=lambda result: result["protocol"]["tokens an item"][0]):
        numbers = result["protocol"] | result["rule"]
        middle, low, high = (shown(headline, number) for number in numbers[headline])
        pairs, truncated, coin = (
            shown(name, numbers[name][0]) if numbers.get(name) else "-" for name in columns
        )
        forced = f", {result['forced']} verdicts by force" if result["forced"] else ""
        print(
            f"{numbers['tokens an item'][0]:14.1f}  {middle:>12}  {low} ...{high}  {pairs:>11}  "
            f"{truncated:>9}  {coin:>9}  {Path(result['output_dir']).name}{forced}"
        )
