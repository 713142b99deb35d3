"""judge.py --pairs IN --out OUT: a file of judgments, one JSON object a line, that resumes.

Where OUT ends in .csv, the judgments go to OUT.jsonl, and OUT is a spreadsheet of them at the end.

Pairs are judged in chunks that are cut by position in the input, and always judged whole, because
the last bits of a log-prob may depend on the batch. So the file is the same, interrupted or not.
Each row carries its settings and a hash of its pair: a file never goes on with others unnoticed.
"""

import csv
import functools
import io
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path

from backends import Progress, note_rest
from cli import BadInput, note, read_json_lines
from resume import check_same, model_hash, resumable_rows, style_hash
from runlog import append_rows, sole_writer, write_atomically
from seeding import CHAT_DATE, stable_hash
from styles import OPTIONAL, load_style, transcript
from verdicts import vote_of

CHUNK_PAIRS = 64  # judged together and written together
NOT_RECORDED = ("query", "a", "b", *OPTIONAL, "pairs", "out", "json", "price_in", "price_out")
SUMMARY = "pairs a b tie no_winner orders_agree games tokens".split()
HEAD = "id", "pair", "given", "question", "content"  # fields with which rows of a file may begin


def check_paths(pairs, out):
    """BadInput where --out would overwrite the input, lies in its folder or is no ordinary file."""
    path = Path(out).resolve()
    inputs = {Path(name.strip()).resolve() for name in [pairs, *pairs.split(",")]}
    if not inputs.isdisjoint([path, *path.parents]):
        raise BadInput(f"--out: {out} is the input or lies in its folder: give another file")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise BadInput(f"--out: {out} is no ordinary file: give the name of a file")
    if path.exists() and out != rows_path(out) and not Path(rows_path(out)).exists():
        raise BadInput(f"--out: {out} exists, without {rows_path(out)}: give another file")


def optional_of(style):
    """Which of the OPTIONAL texts of a row a prompt shows."""
    return [name for name in OPTIONAL if f"{{{name}}}" in style.system + style.user]


def with_given(pairs, settings):
    """Pairs with --reference and --rubric where their rows lack them, if the style reads them."""
    optional = optional_of(load_style(settings.style))
    for name in OPTIONAL:
        text = getattr(settings, name)
        if text is not None and name not in optional:
            raise BadInput(
                f"--{name}: the style {settings.style} has no {{{name}}}: give --style rubric, or "
                "a prompt of your own"
            )
        for pair in pairs if text is not None else ():
            pair.meta[name] = pair.meta.get(name) or text
    for pair in pairs:
        pair.meta = {name: pair.meta[name] for name in optional if name in pair.meta}
    return pairs


def read_judgments(path, pairs, flag):
    """{id of a pair: its row in a file of judge.py --out}. Raises BadInput.

    Each pair needs one row, which judges the same question and answers.
    """
    rows, numbers = {}, {}
    for number, row in read_json_lines(path, flag):
        name = str(row.get("id"))
        if name in rows:
            raise BadInput(
                f"{flag}: {path} line {number}: id {name!r} stands already at line "
                f"{numbers[name]}: remove one"
            )
        rows[name], numbers[name] = row, number
    lacking = [pair.id for pair in pairs if pair.id not in rows]
    if lacking:
        raise BadInput(
            f"{flag}: {path} has no judgment of {len(lacking)} pairs, the first is {lacking[0]}: "
            "let judge.py finish, or give the file of these pairs"
        )
    for pair in pairs:
        row, place = rows[pair.id], f"{flag}: {path} line {numbers[pair.id]}"
        if row.get("pair") != head_of(pair)["pair"]:
            raise BadInput(f"{place} judges another pair {pair.id}: judge these pairs first")
        if row.get("winner", 0) not in ("a", "b", "tie", None) or "consistent" not in row:
            raise BadInput(f"{place} has no winner: give what judge.py --out wrote")
    return rows


def is_csv(path):
    return path.lower().endswith(".csv")


def rows_path(out):
    return f"{out}.jsonl" if is_csv(out) else out


def judge_pairs(settings, pairs, load_judge, options):
    """Completes settings.out, in the order of the input, and returns a summary.

    load_judge(): the Judge, loaded only if pairs are left. options: of `Judge.judge`.
    """
    load_judge = functools.cache(load_judge)
    path = rows_path(settings.out)

    def judge_chunk(start, end):
        return map(asdict, load_judge().judge(pairs[start:end], **options))

    complete_rows(
        path,
        [head_of(pair) for pair in pairs],
        settings,
        recorded_settings(settings, NOT_RECORDED),
        [(start, start + CHUNK_PAIRS) for start in range(0, len(pairs), CHUNK_PAIRS)],
        judge_chunk,
        lambda: load_judge().backend.usage,
        "pair",
    )
    totals, sheet = Counter(), []
    for pair, (_, row) in zip(pairs, resumable_rows(path, "--out")):
        totals["pairs"] += 1
        totals[row["winner"] or "no_winner"] += 1
        totals["orders_agree"] += row["consistent"] is True
        totals["games"] += len(row["games"])
        totals["tokens"] += sum(game["tokens"] for game in row["games"])
        if path != settings.out:
            sheet.append(sheet_row(pair, row))
    if sheet:
        write_csv(settings.out, sheet)
    summary = {name: totals[name] for name in SUMMARY}
    return summary | ({"orders_agree": None} if settings.one_order else {})


# ---- files that a second call completes ----


def complete_rows(path, heads, settings, recorded, chunks, make_rows, usage, unit):
    """Completes a file of JSON lines, one a head: head | what make_rows gives | recorded settings.

    chunks: [(start, end), ...] of rows that are made together. A part of one may be there already.
    make_rows(start, end): dicts. usage(): what making rows has taken.
    Raises BadInput for rows of other heads or settings, and where another process writes.
    """
    count = functools.partial(count_rows, path, heads, settings, recorded, unit)
    count()  # creates the file, and refuses what this command did not write
    with sole_writer(path):
        done = count()
        note(f"{path}: {done} of {len(heads)} {unit}s are there already")
        with Progress("working", f"{unit}s", len(heads), done) as progress:
            for start, end in chunks:
                if not heads[done:end]:  # all of them are there
                    continue
                rows = [
                    head | row | {"settings": recorded}
                    for head, row in zip(heads[start:end], make_rows(start, end), strict=True)
                ]
                append_rows(path, rows[max(0, done - start) :], is_new=False)
                progress.move_to(start + len(rows))
                if start <= done:
                    note_rest(usage(), len(rows), len(heads) - progress.done, unit)
        if count() != len(heads):
            raise BadInput(f"--out: {path} lost rows while this command wrote: call again")


def count_rows(path, heads, settings, recorded, unit):
    """How many rows --out has. Raises BadInput for rows of other heads or settings."""
    count = 0
    for count, row in resumable_rows(path, "--out", b'{"id": '):
        if not isinstance(row.get("settings"), dict) or "id" not in row:
            raise BadInput(
                f"--out: {path} line {count} is no row that this command wrote: give another file"
            )
        check_recorded(row["settings"], recorded, settings, path, "--out")
        head = {name: row[name] for name in HEAD if name in row}
        if count > len(heads) or head != heads[count - 1]:
            raise BadInput(
                f"--out: {path} line {count} is of {unit} {row['id']}, not {unit} {count} of the "
                "input, or its texts are others: give another file"
            )
    return count


def recorded_settings(settings, left_out):
    """What rows rest on: settings, and hashes of the model's files and of the prompt.

    settings: of a judge, checked. What a server computes with is not known: None.
    """
    kept = {name: value for name, value in asdict(settings).items() if name not in left_out}
    return kept | rests_on(settings)


def rests_on(settings):
    model = None if settings.base_url else model_hash(settings.model, settings.adapter)
    style = style_hash(settings.style)
    return {"model_hash": model, "style_hash": style, "chat_date": CHAT_DATE}


def check_recorded(before, recorded, settings, path, flag):
    """Raises BadInput where earlier rows rest on something else than `recorded`.

    A flag that did not exist when they were written had its default.
    """
    defaults = {field.name: field.default for field in fields(settings)}
    check_same(defaults | before, recorded, path, flag)


def head_of(pair):
    """How a row begins: the id of the pair, and hashes of all texts that the judge reads."""
    head = {"id": pair.id, "pair": f"{stable_hash(pair.messages, pair.answers):016x}"}
    return head | given_of(pair.meta)


def given_of(meta):
    """{"given": hash} of the OPTIONAL texts of a row, if it has any."""
    given = [meta.get(name) for name in OPTIONAL]
    return {"given": f"{stable_hash(given):016x}"} if any(given) else {}


# ---- spreadsheets ----


def sheet_row(pair, row):
    """A judgment as a row of a spreadsheet: the texts of the pair, the winner, the votes."""
    votes = [vote_of(game) for game in row["games"]]
    return {
        "id": pair.id,
        "query": transcript(pair.messages),
        "a": pair.answers[0],
        "b": pair.answers[1],
        **{name: row[name] for name in ("winner", "p_first", "consistent")},
        "votes_a": votes.count(0),
        "votes_b": votes.count(1),
        "votes_tie": votes.count("tie"),
        "no_verdict": votes.count(None),
        "tokens": sum(game["tokens"] for game in row["games"]),
    }


def write_csv(path, rows):
    """Writes dicts with the same fields, at least one; None becomes an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, "\ufeff" + text.getvalue())  # a mark by which Excel knows UTF-8
