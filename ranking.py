"""What elo.py and tournament.py share when a judge plays the matches: settings, candidates, cache.
Files of many questions are in extras/rank_file.py.

play = judged_play(settings, candidates, num_matches)
scores = play([(0, 1), (2, 3)])     # of candidates 0 and 2, from the cache or from the judge
"""

import contextlib
import functools
import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal, Optional

import cli
from backends import Progress
from cli import BadInput, setting
from data import Pair
from formats import PROMPT, to_messages
from judge import JudgeSettings, check_judge, judge_of, refuse_copies
from judge_file import rests_on
from resume import resumable_rows
from runlog import append_rows, sole_writer
from schedules import SCHEDULES
from seeding import stable_hash
from tables import read_csv

ANSWER_COLUMNS = "answer", "response", "candidate", "completion", "output", "text"
CHUNK_MATCHES = 64  # judged together and written to --cache together
CACHE_COLUMNS = "i", "j", "repetition", "score"


# ---- settings of the two commands ----


@dataclass
class RankSettings(JudgeSettings):
    query: Optional[str] = setting(
        None, "what was asked; @path reads a file, - standard input", group="what to rank"
    )
    candidates: Optional[str] = setting(
        None,
        "file with an answer a line: plain text, JSON strings, or objects with response or answer; "
        "csv with a column answer; without --query a file of questions: {question | query | "
        "messages, candidates}, or csv with columns question and answer",
    )
    out: Optional[str] = setting(
        None,
        "with a file of questions: JSON lines (or csv), one ranking each; an existing file is "
        "completed; elo.py with one question or --matches: a csv of the ratings",
    )
    cache: Optional[str] = setting(
        None,
        "file of judged matches: those in it are not judged again, new ones are added",
        group="matches",
    )
    json: bool = setting(False, "print one JSON object", group="output")


@dataclass
class EloSettings(RankSettings):
    schedule: Literal[SCHEDULES] = setting(
        "full", "which answers meet: schedules.py explains each", group="matches"
    )
    games: Optional[int] = setting(
        None, "number of matches; default: 3 for each answer, for full every pair once"
    )
    matches: Optional[str] = setting(
        None,
        "instead of judging, rate this file: csv or JSON with i, j, score or left, right, winner "
        "(left, right, tie) or model_a, model_b, winner (Chatbot Arena)",
        group="existing results",
    )


# ---- candidates ----


def read_candidates(path):
    """The answers in a file, at least one; see --candidates. Raises BadInput with the line.

    A csv has a column of ANSWER_COLUMNS. Else a file holds JSON lines if its name ends in .jsonl
    or .json, or if its first line is a JSON string or looks like the beginning of an object.
    """
    if path is None:
        raise BadInput("--query and --candidates are needed: give a file with an answer a line")
    text = cli.read_text(path, "--candidates")
    if path.lower().endswith((".csv", ".tsv")):
        return csv_answers(text, path)
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise BadInput(f"--candidates: {path} is empty: write one candidate a line")
    _, first_line = lines[0]
    looks_like_json = re.match(r'\s*(\{\s*"|"([^"\\]|\\.)*"\s*$)', first_line)
    if not path.endswith((".jsonl", ".json")) and not looks_like_json:
        return [line for _, line in lines]
    answers = []
    for number, line in lines:
        place = f"{path} line {number}"
        answers.append(as_answer(cli.parse_json(line, place, (dict, str)), place))
    return answers


def as_answer(value, place):
    """The text of a candidate: a string, or an object with one of ANSWER_COLUMNS."""
    answer = value
    if isinstance(value, dict):
        names = "response", *ANSWER_COLUMNS
        answer = next((value[name] for name in names if name in value), None)
    if not isinstance(answer, str) or re.search("[\ud800-\udfff]", answer):  # half a character
        raise BadInput(
            f"{place}: {value!r:.80} is no answer: expected a string, or an object with one of "
            f"{', '.join(ANSWER_COLUMNS)}"
        )
    return answer


def csv_answers(text, path):
    """The cells of the answer column of a csv file whose first line names the columns."""
    names, rows = read_csv(path, text)
    if any(name.lower() in PROMPT.split("|") for name in names):
        raise BadInput(f"--query: {path} has questions of its own: leave --query out, add --out")
    column = answer_column(names, f"{path} line 1")
    answers = [row[column] for _, row in rows]
    if not answers:
        raise BadInput(
            f"--candidates: {path} holds no answers below its first line: add a row each"
        )
    return answers


def answer_column(row, place):
    """The one name in a row that is known to mean an answer. Raises BadInput."""
    known = [name for name in row if name.lower() in ANSWER_COLUMNS]
    if len(known) != 1:
        found = ", ".join(map(str, row))[:120]
        raise BadInput(
            f"{place}: columns are {found}: expected one of {', '.join(ANSWER_COLUMNS)}, "
            f"found {' and '.join(known) or 'none'}"
        )
    return known[0]


# ---- matches that a judge plays ----


def judged_play(settings, candidates, num_matches):
    """A `play` for schedules and knockouts: scores from --cache, or from the judge.

    Checks the settings first, without torch. The judge is loaded for the first match that the cache
    lacks. num_matches: how many there will be, for the progress bar.
    """
    if settings.query is None or not settings.query.strip():
        raise BadInput("--query is missing or empty: give the question that was answered")
    folder = check_judge(settings)
    load_judge = functools.cache(lambda: judge_of(settings))
    play = judged_matches(settings, settings.query, candidates, load_judge)
    play = cached(play, settings.cache, cache_names(settings, folder, candidates))
    progress = Progress("ranking", "matches", num_matches)

    def play_round(pairs):
        scores = play(pairs)
        progress.move_to(progress.done + len(pairs))
        if progress.done == num_matches:
            progress.bar.close()
        return scores

    return play_round


def judged_matches(settings, query, candidates, load_judge, meta=None):
    """A play(pairs, repetitions) for `cached`: matches between answers to a query, in both orders.

    query: text or messages. load_judge(): the Judge, called for each batch of matches. meta: a dict
    that may hold a rubric or a reference, which some styles show.
    """
    messages = to_messages(query, "query", "--query")

    def play(pairs, repetitions):
        if any(repetitions):
            refuse_copies("a match that is played again", settings.temperature)
        to_judge = []
        for (i, j), repetition in zip(pairs, repetitions):
            answers = candidates[i], candidates[j]
            content = [messages, *answers]
            if repetition > 0:
                content.append(repetition)  # the id seeds the draws
            name = f"{stable_hash(*content):016x}"
            to_judge.append(Pair(name, messages, answers, meta=dict(meta or {})))
        judgments = load_judge().judge(
            to_judge,
            num_votes=settings.num_votes,
            temperature=settings.temperature,
            max_completion_length=settings.max_completion_length,
        )
        return [judgment.p_first for judgment in judgments]

    return play


# ---- cache of judged matches ----


def cache_names(settings, folder, candidates):
    """A name for each candidate: a hash of its text and of all that its scores depend on.

    folder: the model's folder, None for a server.
    """
    origin = [
        None if folder else [settings.base_url, settings.model],
        rests_on(settings),
        settings.query,
        # True: both orders
        (settings.num_votes, True, settings.temperature, settings.max_completion_length),
        settings.seed,
        settings.device,
        settings.dtype,
    ]
    return [f"{stable_hash(origin, text):016x}" for text in candidates]


def cached(play, path, names):
    """A `play` for schedules around play(pairs, repetitions), which is asked for new scores only.

    The n-th time that two players meet, `play` is asked for repetition n of their match, so that a
    judge can draw anew. The file at `path` keeps the scores (None: no file). Every pair is played
    in one direction: the player whose name sorts first is i. Equal names draw without a match, and
    their matches with a third player have the same scores.
    """
    known = {}  # {(name of i, name of j, repetition): score of i}
    if path:
        read_cache(path)  # creates the file, and refuses one of another kind
        lock(path)
        known = read_cache(path)  # what another process wrote meanwhile
    times_met = Counter()

    def play_cached(pairs):
        keys, missing = [], {}
        for i, j in pairs:
            if names[i] > names[j]:
                i, j = j, i
            players = frozenset((i, j))
            key = names[i], names[j], times_met[players]
            times_met[players] += 1
            if names[i] == names[j]:
                known[key] = 0.5
            if key not in known:
                missing[key] = i, j
            keys.append(key)
        missing = list(missing.items())
        for start in range(0, len(missing), CHUNK_MATCHES):
            chunk = missing[start : start + CHUNK_MATCHES]
            scores = play([pair for _, pair in chunk], [key[2] for key, _ in chunk])
            rows = []
            for (key, _), score in zip(chunk, scores, strict=True):
                known[key] = score
                rows.append(dict(zip(CACHE_COLUMNS, (*key, score))))
            if path:
                append_rows(path, rows, is_new=False)
        return [
            known[key] if names[i] == key[0] else 1 - known[key] for (i, _), key in zip(pairs, keys)
        ]

    return play_cached


@functools.cache
def lock(path):
    """Keeps other processes from writing to --cache until this one ends."""
    held = contextlib.ExitStack()
    held.enter_context(sole_writer(path))
    return held


def read_cache(path):
    """{(name of i, name of j, repetition): score of i}. BadInput for a file of another kind."""
    known = {}
    for number, row in resumable_rows(path, "--cache", b'{"i": "'):
        *key, score = (row.get(name) for name in CACHE_COLUMNS)
        types = [type(value) for value in (*key, score)]
        if types != [str, str, int, float] or not 0 <= score <= 1:
            raise BadInput(
                f"--cache: {path} line {number} is no match that this command wrote: "
                "give another file"
            )
        known[tuple(key)] = score
    return known
