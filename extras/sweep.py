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
    results, rows = [], []
    names = [word.partition("=")[0] for word in settings.sweep.split()]
    for case in swept_settings(settings):
        result, _ = evaluate(case, load_judge)
        results.append({"output_dir": case.output_dir} | result)
        rows.append({name: getattr(case, name) for name in names} | csv_numbers(result))
    if settings.out:
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


def headline_of(result):
    """The name of the number that a sweep compares: the first of the benchmark's rule."""
    known = (name for name, value in result["rule"].items() if value is not None)
    return next(known, "accuracy")


def csv_numbers(result):
    """Accuracy and tokens of an evaluation, each with its 95 % interval; shares as fractions."""
    numbers, row = result["protocol"] | result["rule"], {"items": result["items"]}
    for name in (headline_of(result), "tokens an item"):
        row[name], row[f"{name} low"], row[f"{name} high"] = numbers[name]
    return row


def show_sweep(results):
    """A line for each evaluation, sorted by tokens an item."""
    headline = headline_of(results[0])
    columns = ["accuracy", "truncated", "matches decided by a coin"]
    print(
        f"{'tokens an item':>14}  {headline:>12}    95 % interval    "
        f"pairs right  truncated  by a coin  settings (n = {results[0]['items']} items, %)"
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
