"""elo.py, tournament.py --candidates FILE --out OUT.jsonl: many questions with one model load.

A row of FILE is {question | query | messages, candidates}, or has a question and one answer: rows
with equal questions then belong together. A row of OUT is what --json prints for one question, with
its id and settings. A second call goes on where the first one ended.
"""

import json
from collections import Counter
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import datafiles
from backends import Progress
from cli import BadInput, note
from data import ID_FIELDS, PROMPT, Question, first_present, text_or_number, unique_id
from formats import prompt_of
from judge import check_judge, judge_of
from judge_file import check_paths, check_recorded, rests_on, rows_path, write_csv
from ranking import JudgedMatches, answer_column, as_answer, cache_names, cached, report_spent
from resume import resumable_rows
from runlog import append_rows, sole_writer
from seeding import stable_hash
from styles import transcript
from tables import one_line

NOT_RECORDED = ("query", "candidates", "out", "json", "cache", "matches", "price_in", "price_out")


def read_questions(path):
    """The questions of a file with their candidates, in order. Raises BadInput with the line."""
    if not datafiles.ENDING.search(path):
        raise BadInput(
            "--query is missing: give the question, or a .jsonl, .json, .csv or .parquet file of "
            "questions with --out"
        )
    together, used = {}, Counter()  # {key: Question}; rows of one key belong to one question
    for place, row in datafiles.file_rows(Path(path)):
        where = f"{path} {place}"
        row = {str(name).strip().lower(): value for name, value in row.items()}
        if first_present(row, PROMPT) is None:
            found = ", ".join(row)[:120]
            raise BadInput(
                f"{where}: columns are {found}: expected a question (or query, prompt, messages)"
            )
        messages = prompt_of(dict(row), where, PROMPT)
        if "candidates" in row:
            key, candidates = where, row["candidates"]
            if not isinstance(candidates, list) or candidates == []:
                raise BadInput(
                    f"{where}: candidates is {candidates!r:.80}: expected a list of answers"
                )
        else:
            key, candidates = json.dumps(messages), [row[answer_column(row, where)]]
        if key not in together:
            own_id = first_present(row, ID_FIELDS) if "candidates" in row else None
            identity = own_id and text_or_number(row[own_id], own_id, where)
            identity = identity or f"{Path(path).stem}-{place.split()[1]}"
            together[key] = Question(unique_id(identity, used), messages, candidates=[])
        together[key].candidates += [as_answer(candidate, where) for candidate in candidates]
    if not together:
        raise BadInput(f"--candidates: {path} holds no rows: write a question and an answer a row")
    return list(together.values())


def rank_file(settings, rank):
    """Completes settings.out. rank(settings, candidates, play) -> the fields of a row."""
    if settings.candidates is None or settings.out is None:
        raise BadInput(
            "--query and --candidates are needed; for a file of questions --candidates and --out"
        )
    if settings.cache is not None:
        raise BadInput("--cache: goes with --query; with --out a second call goes on by itself")
    check_paths(settings.candidates, settings.out)
    questions = read_questions(settings.candidates)
    folder = check_judge(settings)
    recorded = {name: value for name, value in asdict(settings).items() if name not in NOT_RECORDED}
    recorded |= rests_on(settings)
    heads = [
        {"id": question.id, "question": f"{stable_hash(question.messages, question.candidates):x}"}
        for question in questions
    ]
    path = rows_path(settings.out)
    done = count_rows(path, heads, recorded, settings)
    note(f"{len(questions)} questions, {done} of them are ranked already")
    spent, load_judge = Counter(), cache(lambda: judge_of(settings))
    progress = Progress("ranking", "question", len(questions), done)
    with progress, sole_writer(path):
        if count_rows(path, heads, recorded, settings) != done:
            raise BadInput(f"--out: {path} has grown meanwhile: call again to go on")
        for number, question in enumerate(questions[done:], start=done):
            # a seed of its own, so that pairings and coins do not favour the same place everywhere
            own = replace(
                settings,
                query=query_of(question.messages),
                seed=stable_hash(settings.seed, question.id) % 2**31,
            )
            judged = JudgedMatches(settings, question.messages, question.candidates, load_judge)
            judged.spent = spent
            play = cached(judged.play, None, cache_names(own, folder, question.candidates))
            row = heads[number] | rank(own, question.candidates, play) | {"settings": recorded}
            append_rows(path, [row], is_new=False)
            progress.move_to(number + 1)
        if count_rows(path, heads, recorded, settings) != len(questions):
            raise BadInput(f"--out: {path} lost rows while this command wrote: call again")
    if path != settings.out:
        ranked = zip(questions, resumable_rows(path, "--out"))
        write_csv(settings.out, [sheet_row(question, row) for question, (_, row) in ranked])
    report_spent(settings, spent)
    if settings.json:
        print(json.dumps({"questions": len(questions), "out": settings.out}))
    else:
        print(f"{len(questions)} questions are ranked: {one_line(settings.out, 200)}")


def sheet_row(question, row):
    best = row.get("winner", row.get("best"))
    return {
        "id": question.id,
        "query": transcript(question.messages),
        "best": best,
        "answer": question.candidates[best],
        "matches": row["num_matches"],
    }


def query_of(messages):
    return messages[0]["content"] if len(messages) == 1 else messages


def count_rows(path, heads, recorded, settings):
    """How many rows --out has. Raises BadInput for rows of other questions or settings."""
    count = 0
    for count, row in resumable_rows(path, "--out", b'{"id": '):
        if not isinstance(row.get("settings"), dict) or "question" not in row:
            raise BadInput(
                f"--out: {path} line {count} is no ranking that this command wrote: give another "
                "file"
            )
        check_recorded(row["settings"], recorded, settings, path, "--out")
        if count > len(heads) or not heads[count - 1].items() <= row.items():
            raise BadInput(
                f"--out: {path} line {count} ranks question {row.get('id')}, not question {count} "
                "of the input: give another file"
            )
    return count
