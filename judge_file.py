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
from checkpoint import resolve_model
from cli import BadInput, note
from resume import check_same, model_hash, resumable_rows, style_hash
from runlog import append_rows, sole_writer, write_atomically
from seeding import CHAT_DATE, stable_hash
from styles import OPTIONAL, load_style, transcript
from verdicts import vote_of

HEAD = "id", "pair", "given"  # fields, see `head_of`
CHUNK_PAIRS = 64  # judged together and written together
SUMMARY = "pairs a b tie no_winner orders_agree games tokens".split()
NOT_RECORDED = ("query", "a", "b", *OPTIONAL, "pairs", "out", "json", "price_in", "price_out")


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


def with_given(pairs, settings):
    """Pairs with --reference and --rubric where their rows lack them, if the style reads them."""
    style = load_style(settings.style)
    optional = [name for name in OPTIONAL if f"{{{name}}}" in style.system + style.user]
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


def is_csv(path):
    return path.lower().endswith(".csv")


def rows_path(out):
    return f"{out}.jsonl" if is_csv(out) else out


def judge_pairs(settings, pairs, load_judge, options):
    """Completes settings.out, in the order of the input, and returns a summary.

    load_judge(): the Judge, loaded only if pairs are left. options: of `Judge.judge`.
    """
    path = rows_path(settings.out)
    recorded = {name: value for name, value in asdict(settings).items() if name not in NOT_RECORDED}
    recorded |= rests_on(settings)
    heads = [head_of(pair) for pair in pairs]
    totals = read_rows(path, heads, recorded, settings)
    done = totals["pairs"]
    if done:
        note(f"{path}: {done} of {len(pairs)} pairs are judged already")
    else:
        note(f"{len(pairs)} pairs to judge")
    if done < len(pairs):
        judge = load_judge()
        progress = Progress("judging", "pair", len(pairs), done)
        with progress, sole_writer(path):
            if read_rows(path, heads, recorded, settings)["pairs"] != done:
                raise BadInput(f"--out: {path} has grown meanwhile: call again to go on")
            for start in range(done - done % CHUNK_PAIRS, len(pairs), CHUNK_PAIRS):
                judgments = judge.judge(pairs[start : start + CHUNK_PAIRS], **options)
                rows = [
                    {**head, **asdict(judgment), "settings": recorded}
                    for head, judgment in zip(heads[start:], judgments)
                ]
                new_rows = rows[totals["pairs"] - start :]  # a part of the first chunk may be there
                append_rows(path, new_rows, is_new=False)
                for row in new_rows:
                    add_row(totals, row)
                progress.move_to(totals["pairs"])
                if start <= done:
                    left = len(pairs) - totals["pairs"]
                    prices = settings.price_in, settings.price_out
                    note_rest(judge.backend.usage, prices, len(judgments), left, "pair")
            if read_rows(path, heads, recorded, settings)["pairs"] != len(pairs):
                raise BadInput(f"--out: {path} lost rows while this command wrote: call again")
    if path != settings.out:
        judged = zip(pairs, resumable_rows(path, "--out"))
        write_csv(settings.out, [sheet_row(pair, row) for pair, (_, row) in judged])
    summary = {name: totals[name] for name in SUMMARY}
    if settings.one_order:
        summary["orders_agree"] = None
    return summary


# ---- what judgments rest on, besides the settings and the pair ----

tell_once = functools.cache(note)  # what is true of many rows is noted once


def rests_on(settings):
    """Hashes of the model's files and of the prompt, whatever their names, and the chat date.

    settings: of a judge, checked. What a server computes with is not known: None.
    """
    model = None if settings.base_url else model_hash(settings.model, settings.adapter)
    style = style_hash(settings.style)
    return {"model_hash": model, "style_hash": style, "chat_date": CHAT_DATE}


def check_recorded(before, recorded, settings, path, flag):
    """Raises BadInput where earlier rows rest on something else than `recorded`.

    Files of older versions lack names. A flag that did not exist had its default. The date is part
    of a prompt only where a template writes it. Other hashes are then unknown: a note says so.
    """
    before = {field.name: field.default for field in fields(settings)} | before
    if not settings.base_url and not writes_date(resolve_model(settings.model)):
        before.setdefault("chat_date", CHAT_DATE)
    for name in ("model_hash", "style_hash"):
        if name not in before:
            tell_once(f"{path}: has no {name} (an older version wrote it): it is not checked")
            before[name] = recorded.get(name)
    check_same(before, recorded, path, flag)


def writes_date(folder):
    """Whether a chat template in the folder writes today's date."""
    names = "chat_template.jinja", "tokenizer_config.json", "chat_template.json"
    paths = [folder / name for name in names if (folder / name).exists()]
    return any(b"strftime_now" in path.read_bytes() for path in paths)


def head_of(pair):
    """How a row begins: the id of the pair, and hashes of all texts that the judge reads."""
    head = {"id": pair.id, "pair": f"{stable_hash(pair.messages, pair.answers):016x}"}
    given = [pair.meta.get(name) for name in OPTIONAL]
    return head | ({"given": f"{stable_hash(given):016x}"} if any(given) else {})


def read_rows(path, heads, recorded, settings):
    """The totals of the rows in --out. Raises BadInput for rows of other pairs or settings."""
    totals, checked = Counter(), None
    for number, row in resumable_rows(path, "--out", b'{"id": '):
        fields = {"id", "pair", "winner", "consistent", "games"}
        if not fields <= row.keys() or not isinstance(row.get("settings"), dict):
            raise BadInput(
                f"--out: {path} line {number} is no judgment that this command wrote: give "
                "another file"
            )
        if row["settings"] != checked:  # those of the row before
            check_recorded(row["settings"], recorded, settings, path, "--out")
            checked = row["settings"]
        head = {name: row[name] for name in HEAD if name in row}
        if number > len(heads) or head != heads[number - 1]:
            raise BadInput(
                f"--out: {path} line {number} judges pair {row['id']}, not pair {number} of the "
                "input, or its texts are others: give another file"
            )
        add_row(totals, row)
    return totals


def add_row(totals, row):
    """Adds a row of --out to a Counter for the summary."""
    totals["pairs"] += 1
    totals[row["winner"] or "no_winner"] += 1
    totals["orders_agree"] += row["consistent"] is True
    totals["games"] += len(row["games"])
    totals["tokens"] += sum(game["tokens"] for game in row["games"])


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
