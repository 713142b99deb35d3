"""Measures that the studies of runs/ share: means with intervals over seeds and questions, tables.

    base = grid([read_rows("base.jsonl")], "right", "question")
    trained = grid([read_rows("seed0.jsonl"), read_rows("seed1.jsonl")], "right", "question")
    as_text(difference(trained, base))     "0.219 [0.177, 0.263]"

A grid is an array (runs, units): the mean of a value over the rows of one unit in one run. A unit
is what the bootstrap draws: a question, or two questions with the same two answers.
"""

import gzip
import inspect
import json
import sys
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cli  # noqa: E402
from cli import BadInput  # noqa: E402
from data import load_pairs  # noqa: E402
from extras import scoring  # noqa: E402
from extras.results import read_result  # noqa: E402
from verdicts import vote_of  # noqa: E402

# ---- arguments ----


def command(main):
    """Calls main with the arguments of the command line. Bad input ends with one line, exit 2."""

    def call():
        try:
            inspect.signature(main).bind(*sys.argv[1:])
        except TypeError as error:
            raise BadInput(f"{error}: the head of {sys.argv[0]} shows the arguments") from error
        return main(*sys.argv[1:])

    cli.run(call)


def named_paths(texts):
    """{name: path} of arguments NAME=PATH. Raises BadInput."""
    found = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or name in found:
            raise BadInput(f"{text}: write NAME=PATH, with another name for each judge")
        found[name] = path
    if not found:
        raise BadInput("no judge is given: write NAME=PATH, such as base=out/games-base")
    return found


# ---- rows ----


def read_rows(path, fields=()):
    """The JSON objects or arrays of a JSON-lines file. Raises BadInput where a field is missing."""
    rows = []
    for number, line in enumerate(cli.read_text(path, "file").split("\n"), start=1):
        if line.strip():
            row = cli.parse_json(line, f"{path} line {number}", (dict, list))
            for field in fields:
                if field not in row:
                    raise BadInput(f"{path} line {number}: has no {field}: is it another file?")
            rows.append(row)
    return rows


def forced_rows(path):
    """The rows of a folder's forced.json (runs/qwen/forced.py), or of its gzipped copy."""
    path = Path(path)
    if path.is_dir() and not (path / "forced.json").exists():
        raise BadInput(f"{path}: has no forced.json: run runs/qwen/forced.py {path} first")
    return result_rows(path / "forced.json" if path.is_dir() else path)


def result_rows(path):
    """The rows of a results.json or forced.json, gzipped or not. Raises BadInput."""
    try:
        content = Path(path).read_bytes()
        if Path(path).suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from error
    rows = cli.parse_json(content.decode("utf-8", "replace"), path).get("rows")
    is_complete = isinstance(rows, list) and all(
        isinstance(row, dict) and {"id", "question", "scores", "matches"} <= row.keys()
        for row in rows
    )
    if not is_complete:
        raise BadInput(f"{path}: its rows are not those of evaluate.py: give its results.json")
    return rows


def labelled_pairs(path):
    """The pairs of a file of which one answer is better."""
    return [pair for pair in load_pairs(path) if pair.label in (0, 1)]


def write_rows(path, rows):
    """Writes a JSON-lines file, makes its folder, and returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def evaluated_games(path):
    """The games of a results.json of evaluate.py: one row {id, question, group, right} a game.

    Matches of equally good answers are left out. A game without a verdict is not right.
    """
    games = []
    for row in read_result(str(path), "results", None)["rows"]:
        for match, better in scoring.decided(row):
            for game in match["games"]:
                found = {name: row[name] for name in ("id", "question", "group")}
                games.append(found | {"right": vote_of(game) == better})
    return games


# ---- means and intervals ----


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def grid(runs, value, unit):
    """An array (runs, units) of means.

    runs: a list of lists of rows. value: the name of a field, or a function of a row that gives a
    number, or None where the row does not count. A unit without a number is NaN.
    """
    names = sorted({row[unit] for rows in runs for row in rows})
    found = np.full((len(runs), len(names)), np.nan)
    for run, rows in enumerate(runs):
        cells = {name: [] for name in names}
        for row in rows:
            number = value(row) if callable(value) else row[value]
            if number is not None:
                cells[row[unit]].append(float(number))
        for place, name in enumerate(names):
            if cells[name]:
                found[run, place] = np.mean(cells[name])
    return found


def estimate(statistic, *grids, draws=2000):
    """(value, low, high): 95 % bootstrap interval of statistic(mean of each grid).

    Units are drawn with replacement, the same ones for all grids. Runs are drawn too where there
    are several: then the scatter of trainings is part of the interval.
    """
    rng = np.random.default_rng(0)
    num_runs = max(len(cells) for cells in grids)
    num_units = grids[0].shape[1]

    def value(runs, units):
        # A grid of one run, such as the base model, is paired with every run of the others.
        means = [np.nanmean(cells[runs % len(cells)][:, units]) for cells in grids]
        return float(statistic(*means))

    drawn = []
    for _ in range(draws):
        runs = rng.integers(num_runs, size=num_runs)
        drawn.append(value(runs, rng.integers(num_units, size=num_units)))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return value(np.arange(num_runs), np.arange(num_units)), float(low), float(high)


def accuracy(cells):
    return estimate(lambda right: right, cells)


def difference(first, second):
    """The interval of the mean of `first` minus that of `second`."""
    return estimate(lambda one, other: one - other, first, second)


# ---- what is printed ----


def as_text(interval):
    value, low, high = interval
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def markdown_table(columns, rows):
    lines = []
    for cells in [columns, ["---"] * len(columns), *rows]:
        texts = [str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)
