"""elo.py, tournament.py --candidates FILE --out OUT.jsonl: many questions with one model load.

A row of FILE is {question | query | messages, candidates}, or has a question and one answer: rows
with equal questions then belong together. A row of OUT is what --json prints for one question, with
its id and settings. A second call goes on where the first one ended.

Small questions are ranked together: a round of each goes to the judge in one batch. They are cut
into chunks by their position in FILE, so the result is the same, interrupted or not.
"""

import json
import queue
import threading
from collections import Counter
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import datafiles
from cli import BadInput
from data import ID_FIELDS, Question, first_present, text_or_number, unique_id
from formats import PROMPT, prompt_of
from judge import check_judge, check_question, judge_of
from judge_file import (
    check_paths,
    complete_rows,
    given_of,
    optional_of,
    recorded_settings,
    rows_path,
    write_csv,
)
from ranking import (
    CHUNK_MATCHES,
    answer_column,
    as_answer,
    cache_names,
    cached,
    judged_matches,
)
from resume import resumable_rows
from schedules import num_games
from seeding import stable_hash
from styles import load_style, transcript
from tables import one_line

NOT_RECORDED = ("query", "candidates", "out", "json", "cache", "matches", "price_in", "price_out")


def read_questions(path, optional=()):
    """The questions of a file with their candidates, in order. Raises BadInput with the line.

    optional: names of further fields that the judge reads, kept in `meta`.
    """
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
        check_question(messages, where)
        given = [name for name in optional if row.get(name)]
        meta = {name: text_or_number(row[name], name, where) for name in given}
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
            together[key] = Question(unique_id(identity, used), messages, candidates=[], meta=meta)
        if together[key].meta != meta:
            raise BadInput(
                f"{where}: {' or '.join(optional)} differs from an earlier row of this question"
            )
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
    folder = check_judge(settings)
    questions = read_questions(settings.candidates, optional_of(load_style(settings.style)))
    heads = []
    for question in questions:
        texts = f"{stable_hash(question.messages, question.candidates):x}"
        heads.append({"id": question.id, "question": texts} | given_of(question.meta))
    path, load_judge = rows_path(settings.out), cache(lambda: judge_of(settings))

    def rank_chunk(start, end):
        tasks = [partial(rank_one, settings, rank, folder, one) for one in questions[start:end]]
        return rank_together(tasks, load_judge)

    complete_rows(
        path,
        heads,
        settings,
        recorded_settings(settings, NOT_RECORDED),
        chunks(questions, settings),
        rank_chunk,
        lambda: load_judge().backend.usage,
        "question",
    )
    if path != settings.out:
        ranked = zip(questions, resumable_rows(path, "--out"))
        write_csv(settings.out, [sheet_row(question, row) for question, (_, row) in ranked])
    if settings.json:
        print(json.dumps({"questions": len(questions), "out": settings.out}))
    else:
        print(f"{len(questions)} questions are ranked: {one_line(settings.out, 200)}")


def rank_one(settings, rank, folder, question, judge):
    """The fields of a question's row."""
    # a seed of its own, so that pairings and coins do not favour the same place everywhere
    own = replace(
        settings,
        query=query_of(question.messages),
        seed=stable_hash(settings.seed, question.id) % 2**31,
    )
    play = judged_matches(
        settings, question.messages, question.candidates, lambda: judge, question.meta
    )
    names = cache_names(own, folder, question.candidates)
    return rank(own, question.candidates, cached(play, None, names))


def chunks(questions, settings):
    """[(start, end), ...] of questions that are ranked together: CHUNK_MATCHES matches or more."""
    bounds, matches = [0], 0
    for end, question in enumerate(questions, start=1):
        size = len(question.candidates)
        is_elo = hasattr(settings, "schedule")
        matches += num_games(size, settings.schedule, settings.games) if is_elo else size - 1
        if matches >= CHUNK_MATCHES or end == len(questions):
            bounds, matches = [*bounds, end], 0
    return list(zip(bounds, bounds[1:]))


class SharedJudge:
    """What a thread of `rank_together` takes for its judge."""

    def __init__(self, number, asked):
        self.number, self.asked, self.answers = number, asked, queue.SimpleQueue()

    def judge(self, pairs, **options):
        self.asked.put((self, pairs, options))
        return self.answers.get()


def rank_together(tasks, load_judge):
    """[task(judge) for task in tasks], each in a thread.

    What they ask the judge goes to it, in this thread, when all of them wait for it: as one batch,
    in the order of the tasks.
    """
    asked, results, waiting = queue.SimpleQueue(), [None] * len(tasks), []

    def work(number):
        try:
            results[number] = tasks[number](SharedJudge(number, asked))
            asked.put(None)
        except BaseException as error:  # raised below
            asked.put(error)

    for number in range(len(tasks)):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    running = len(tasks)
    while running:
        event = asked.get()
        if isinstance(event, BaseException):
            raise event
        if event is None:
            running -= 1
        else:
            waiting.append(event)
        if waiting and len(waiting) == running:
            waiting.sort(key=lambda event: event[0].number)
            batch = [pair for _, pairs, _ in waiting for pair in pairs]
            judgments = iter(load_judge().judge(batch, **waiting[0][2]))
            for asker, pairs, _ in waiting:
                asker.answers.put([next(judgments) for _ in pairs])
            waiting.clear()
    return results


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
