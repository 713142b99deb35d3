"""What elo.py and tournament.py share when a judge plays the matches: settings, candidates, cache.

play, spent = judged_play(settings, candidates, num_matches)
scores = play([(0, 1), (2, 3)])     # of candidates 0 and 2, from the cache or from the judge
"""

import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Optional

from tqdm import tqdm

import cli
from cli import BadInput, note, setting
from data import Pair
from judge import JudgeSettings, check_judge, judge_of, refuse_copies
from resume import resumable_rows
from runlog import append_rows
from schedules import SCHEDULES
from seeding import stable_hash
from styles import load_style
from tables import read_csv

CHUNK_MATCHES = 64  # judged together and written to --cache together


# ---- settings of the two commands ----


@dataclass
class RankSettings(JudgeSettings):
    query: Optional[str] = setting(
        None, "what was asked; @path reads a file, - standard input", group="what to rank"
    )
    candidates: Optional[str] = setting(
        None,
        "file with an answer a line: plain text, JSON strings, or objects with response or text; "
        "or a csv with one of these columns",
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
        "instead of judging, rate this file: csv or JSON lines with i, j, score or left, right, "
        "winner (left, right, tie); with --candidates, i and j are numbers of its answers from 0",
        group="existing results",
    )


# ---- candidates ----


def read_candidates(path):
    """The answers in a file, at least one; see --candidates. Raises BadInput with the line.

    A csv has a column response or text. Another file holds JSON lines if its name ends in .jsonl or
    .json, or if its first line is a JSON string or looks like the beginning of an object.
    """
    text = cli.read_text(path, "--candidates")
    is_csv = path.endswith((".csv", ".tsv"))
    lines = enumerate(text.split("\n"), start=1)
    lines = read_csv(path, text)[1] if is_csv else ((n, line) for n, line in lines if line.strip())
    lines = list(lines)
    if not lines:
        raise BadInput(f"--candidates: {path} is empty: write one candidate a line")
    if is_csv:
        return [checked_candidate(row, f"{path} line {line}") for line, row in lines]
    _, first_line = lines[0]
    looks_like_json = re.match(r'\s*(\{\s*"|"([^"\\]|\\.)*"\s*$)', first_line)
    if path.endswith((".jsonl", ".json")) or looks_like_json:
        return [parse_candidate(line, f"{path} line {number}") for number, line in lines]
    return [line for _, line in lines]


def parse_candidate(line, place):
    return checked_candidate(cli.parse_json(line, place, (dict, str)), place)


def checked_candidate(answer, place):
    if isinstance(answer, dict):
        answer = answer.get("response", answer.get("text"))
    if not isinstance(answer, str) or re.search("[\ud800-\udfff]", answer):  # half a character
        raise BadInput(
            f"{place}: {answer!r:.80} is no answer: "
            "expected a string, or an object with response or text"
        )
    return answer


# ---- matches that a judge plays ----


def judged_play(settings, candidates, num_matches):
    """A `play` for schedules and knockouts, and a Counter of what its judging cost.

    Checks the settings first, without torch. The judge is loaded for the first match that the cache
    lacks. num_matches: how many there will be, for the progress bar.
    """
    if settings.query is None or not settings.query.strip():
        raise BadInput("--query is missing or empty: give the question that was answered")
    folder = check_judge(settings)
    judged = JudgedMatches(settings, candidates, num_matches)
    names = cache_names(settings, folder, candidates)
    return cached(judged.play, settings.cache, names), judged.spent


class JudgedMatches:
    """Plays matches between answers with the judge of the settings, in both orders."""

    def __init__(self, settings, candidates, num_matches):
        self.settings = settings
        self.candidates = candidates
        self.messages = [{"role": "user", "content": settings.query}]
        self.judge = None
        self.spent = Counter()  # games and tokens
        self.progress = tqdm(
            total=num_matches, desc="ranking", unit="match", leave=False, disable=None
        )

    def play(self, pairs, repetitions):
        """The scores of i of pairs [(i, j), ...]; pair n is judged for the repetitions[n]-th time.

        A pair's id seeds its draws, so each repetition gets an id of its own.
        """
        if any(repetitions):
            refuse_copies("a match that is played again", self.settings.temperature)
        if self.judge is None:
            self.judge = judge_of(self.settings)
        judgments = self.judge.judge(
            [self.as_pair(i, j, number) for (i, j), number in zip(pairs, repetitions)],
            num_votes=self.settings.num_votes,
            temperature=self.settings.temperature,
            max_completion_length=self.settings.max_completion_length,
        )
        for judgment in judgments:
            self.spent["games"] += len(judgment.games)
            self.spent["tokens"] += sum(game["tokens"] for game in judgment.games)
        self.progress.update(len(pairs))
        return [judgment.p_first for judgment in judgments]

    def as_pair(self, i, j, repetition):
        answers = self.candidates[i], self.candidates[j]
        content = [self.messages, *answers]
        if repetition > 0:
            content.append(repetition)
        return Pair(f"{stable_hash(*content):016x}", self.messages, answers)


def report_spent(settings, spent):
    """Notes what judging cost; matches from the cache cost nothing."""
    if not settings.json:
        note(f"judged now: {spent['games']} games, {spent['tokens']} tokens")


# ---- cache of judged matches ----


def cache_names(settings, folder, candidates):
    """A name for each candidate: a hash of its text and of all that its scores depend on.

    folder: the model's folder, None for a server. Its files are told apart by size and time.
    """
    files = sorted(folder.glob("*.safetensors")) if folder else []
    if settings.adapter:
        files += sorted(Path(settings.adapter).glob("*.safetensors"))
    model = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    both_orders = True
    origin = [
        model or [settings.base_url, settings.model],
        asdict(load_style(settings.style)),
        settings.query,
        (settings.num_votes, both_orders, settings.temperature, settings.max_completion_length),
        settings.seed,
        settings.device,
        settings.dtype,
    ]
    return [f"{stable_hash(origin, text):016x}" for text in candidates]


def cached(play, path, names):
    """A `play` for schedules around play(pairs, repetitions), which is asked for new scores only.

    The n-th time that two players meet, `play` is asked for repetition n of their match, so that a
    judge can draw anew. The file at `path` keeps the scores (None: no file). Every pair is played
    in one direction: the player whose name sorts first is i. Equal names draw without a match.
    """
    known = read_cache(path) if path else {}
    times_met = Counter()

    def play_cached(pairs):
        turns, keys = [], []  # pairs in the direction in which they are played; keys of `known`
        for i, j in pairs:
            i, j = (i, j) if names[i] <= names[j] else (j, i)
            turns.append((i, j))
            keys.append((names[i], names[j], times_met[names[i], names[j]]))
            times_met[names[i], names[j]] += 1
            if names[i] == names[j]:
                known[keys[-1]] = 0.5
        missing = [(turn, key) for turn, key in zip(turns, keys) if key not in known]
        for start in range(0, len(missing), CHUNK_MATCHES):
            chunk_turns, chunk_keys = zip(*missing[start : start + CHUNK_MATCHES])
            repetitions = [repetition for _, _, repetition in chunk_keys]
            scores = dict(zip(chunk_keys, play(chunk_turns, repetitions), strict=True))
            known.update(scores)
            if path:
                append_rows(path, cache_rows(scores))
        return [
            known[key] if turn == tuple(pair) else 1 - known[key]
            for turn, key, pair in zip(turns, keys, pairs)
        ]

    return play_cached


def read_cache(path):
    """{(name of i, name of j, repetition): score of i}. BadInput for a file of another kind."""
    known = {}
    for number, row in resumable_rows(path, "--cache", b'{"i": "'):
        key = row.get("i"), row.get("j"), row.get("repetition")
        score = row.get("score")
        types = [type(value) for value in (*key, score)]
        if types != [str, str, int, float] or not 0 <= score <= 1:
            raise BadInput(
                f"--cache: {path} line {number} is no match that this command wrote: "
                "give another file"
            )
        known[key] = score
    return known


def cache_rows(scores):
    return [
        {"i": i, "j": j, "repetition": repetition, "score": score}
        for (i, j, repetition), score in scores.items()
    ]
