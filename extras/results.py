"""The files of an evaluation: results.json, its rows.jsonl before it is done, and --out."""

import hashlib
import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from backends import Progress, note_rest
from cli import BadInput, note, parse_json, read_text
from extras.scoring import outcome, share, votes_of, with_better
from judge_file import check_recorded, is_csv, rests_on, write_csv
from resume import resumable_rows
from runlog import append_rows, commit, json_line, json_lines, sole_writer, write_atomically
from verdicts import majority

# settings that change no row
FREE = "output_dir", "out", "json", "compare", "sweep", "price_in", "price_out"


def head_of(settings, items):
    """What the rows of a results.json depend on: the settings and a hash of the data."""
    content = json.dumps(
        [(item.id, item.messages, item.answers, item.scores, item.matches) for item in items]
    )
    kept = {name: value for name, value in asdict(settings).items() if name not in FREE}
    if not settings.predictions:
        kept |= rests_on(settings)
    return {"settings": kept, "data": hashlib.sha256(content.encode()).hexdigest()}


def earlier_rows(path, head, settings):
    """The rows that an earlier call has left; creates the folder.

    Raises BadInput where they have other settings or data, or the folder holds something else.
    """
    before, rows, folder = head, [], path.parent
    results = path.with_name("results.json")
    if results.exists():
        before = parse_json(read_text(results, "--output_dir"), results)
        rows = before.get("rows")
    elif path.exists():
        before, *rows = [row for _, row in resumable_rows(path, "--output_dir")] or [head]
    elif folder.exists() and any(path.suffix != ".partial" for path in folder.iterdir()):
        raise BadInput(
            f"--output_dir: {folder} holds other files: give the folder of an evaluation, or a "
            "new one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(before.get("settings"), dict) or not isinstance(rows, list):
        raise BadInput(
            f"--output_dir: {folder} was not written by this command: give another folder"
        )
    check_recorded(before["settings"], head["settings"], settings, folder, "--output_dir")
    if before["data"] != head["data"]:
        raise BadInput(
            f"--data: the evaluation in {folder} judged other items: give another --output_dir"
        )
    return rows


def judged_rows(settings, items, head, chunk_size, load_judge, judge_items):
    """The rows of all items: those that OUTPUT_DIR holds already, the others from the judge.

    judge_items(items, settings, judge): their rows. Whole chunks are kept, because the last bits of
    a log-prob may depend on the batch.
    """
    path = Path(settings.output_dir) / "rows.jsonl"
    rows = earlier_rows(path, head, settings)
    if len(rows) == len(items):
        return rows
    rows = rows[: len(rows) - len(rows) % chunk_size]
    note(f"{path.parent}: {len(rows)} of {len(items)} items are judged already")
    judge = load_judge()
    is_first_use = not judge.backend.usage.calls  # a sweep uses a judge again
    progress = Progress("judging", "items", len(items), len(rows))
    with progress, sole_writer(path.parent):
        write_atomically(path, json_lines([head, *rows]))
        for start in range(len(rows), len(items), chunk_size):
            new = judge_items(items[start : start + chunk_size], settings, judge)
            append_rows(path, new, is_new=False)
            rows += new
            progress.move_to(len(rows))
            if is_first_use:
                note_rest(judge.backend.usage, len(new), len(items) - len(rows), "item")
                is_first_use = False
    return rows


def results_file(path):
    """The results.json in the folder of an evaluation; any other path as it is."""
    inside = Path(path) / "results.json"
    return str(inside) if inside.exists() else path


def read_result(path, flag, benchmark):
    """A results.json of this command as a dict, or None for another kind of file.

    Raises BadInput for results of another benchmark.
    """
    if not path.endswith(".json") or not read_text(path, flag).startswith('{"settings"'):
        return None
    found = parse_json(read_text(path, flag), path)
    if not isinstance(found["settings"], dict) or not isinstance(found.get("rows"), list):
        raise BadInput(
            f"{flag}: {path} was not written by this command: give one of its results.json"
        )
    own = found["settings"].get("benchmark")
    if benchmark not in (None, own):
        raise BadInput(
            f"{flag}: {path} is of --benchmark {own}, not {benchmark}: give results of one "
            "benchmark"
        )
    return found


def write_results(path, head, result, rows):
    """Writes the whole file or nothing: settings, numbers, then one row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start = json_line(head | {"made_with": origin(), "results": result})[:-1]
    lines = ",\n".join(map(json_line, rows))
    write_atomically(path, f'{start}, "rows": [\n{lines}\n]}}\n')
    path.with_name("rows.jsonl").unlink(missing_ok=True)
    note(f"{path}: settings, numbers and {len(rows)} rows")


def check_out(settings):
    """BadInput where --out is a folder or one of the files that are read."""
    if settings.out is None:
        return
    if settings.sweep and not settings.out.lower().endswith(".csv"):
        raise BadInput(
            f"--out: {settings.out}: with --sweep give a name that ends in .csv: a row there is an "
            "evaluation"
        )
    names = f"{settings.data},{settings.predictions},{settings.compare}".split(",")
    read = {Path(name.strip()).resolve() for name in names}
    if Path(settings.out).is_dir() or Path(settings.out).resolve() in read:
        raise BadInput(f"--out: {settings.out} is a folder or a file that is read: give another")
    check_writable(Path(settings.out).parent, "--out")


def check_writable(folder, flag="--output_dir"):
    """BadInput where a folder cannot be made or written."""
    path = Path(folder).absolute()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise BadInput(f"{flag}: {existing} cannot hold results: give another folder")


def write_pairs(path, rows):
    """One row a judged pair, for spreadsheets and scripts; see --out."""
    found = []
    for row in rows:
        for match, better in with_better(row):
            votes = votes_of(match)
            winner = {0: "a", 1: "b"}.get(majority(votes), majority(votes))
            pair = "" if len(row["scores"]) == 2 else "-{}-{}".format(*match["pair"])
            line = {
                "id": row["id"] + pair,
                "category": row["group"],
                "label": {0: "a", 1: "b"}.get(better, "tie"),
                "winner": winner,
                "outcome": None if better is None else outcome(match, better),
                "p_first": share(match),
                "num_games": len(votes),
                "no_verdict": votes.count(None),
                "tokens": sum(game.get("tokens") or 0 for game in match["games"]),
            }
            found.append(line)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if is_csv(path):
        write_csv(path, found)
    else:
        write_atomically(path, json_lines(found))
    note(f"{path}: {len(found)} pairs")


def origin():
    """Versions, and the commit of this code, without importing anything large."""
    versions = {name: version(name) for name in ("torch", "transformers", "numpy")}
    return {"commit": commit(), "python": platform.python_version()} | versions
