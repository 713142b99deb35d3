"""Knockout tournament: the best of N answers with N - 1 matches, each round judged as one batch. And what both rankers need to be commands.

    python tournament.py --query "take fig" --candidates answers.txt --num_votes 3 --cache judged.jsonl

RRM's paper names the strategy (winners advance, N - 1 comparisons) and leaves pairing, byes and draws open. Here pairing is drawn by
a seed; byes fall into the first round, so that everyone rests at most once; a drawn match (the orders disagree, or no game has a verdict) is
decided by a coin of its own. Such coins say nothing about the answers, so their number stands beside every result.
"""

import functools
import json
import random
import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Literal, Optional

import cli
from cli import BadInput, note, setting

CHUNK_MATCHES = 64  # judged together and written to --cache together
ROW = "i", "j", "repetition", "score"  # of --cache


@dataclass
class Bracket:
    winner: int
    rounds: list  # of lists of (i, j, score of i, winner), byes left out
    num_matches: int

    @property
    def num_coins(self):
        """How many matches were drawn, and decided by a coin."""
        return sum(score == 0.5 for matches in self.rounds for _, _, score, _ in matches)


def knockout(num_players, play, seed=0):
    """Plays a knockout -> Bracket. `play` takes the pairs [(i, j), ...] of one whole round and returns the scores of i in [0, 1].

    ceil(log2 N) rounds, N - 1 matches. A score of exactly 0.5 is decided by a coin seeded by (seed, i, j). ValueError for no players.
    """
    if num_players < 1:
        raise ValueError("a tournament needs a player")
    players, rounds = random.Random(seed).sample(range(num_players), num_players), []
    while len(players) > 1:
        # the first round leaves a power of two, later ones halve it
        num_matches = len(players) - (1 << (len(players) - 1).bit_length() - 1)
        pairs, resting = (
            list(zip(players[0 : 2 * num_matches : 2], players[1 : 2 * num_matches : 2])),
            players[2 * num_matches :],
        )
        matches = []
        for (i, j), score in zip(pairs, play(pairs), strict=True):
            if not 0 <= score <= 1:
                raise ValueError(f"the score of match ({i}, {j}) is {score}: it must lie in [0, 1]")
            heads = random.Random(f"{seed} {i} {j}").random() < 0.5
            matches.append((i, j, score, i if score > 0.5 or score == 0.5 and heads else j))
        rounds.append(matches)
        players = [match[3] for match in matches] + resting
    return Bracket(players[0], rounds, num_players - 1)


def draw_tree(bracket, label):
    """The bracket as lines of text: below each match, indented, the matches that its two players came from."""
    lines = {}  # player -> those of the last match it won
    for i, j, score, winner in (match for matches in bracket.rounds for match in matches):
        loser, share = i + j - winner, score if winner == i else 1 - score
        branches = [lines[player] for player in (winner, loser) if player in lines]
        lines[winner] = [
            f"{label(winner)} beats {label(loser)} {share:.2f}" + " (coin)" * (score == 0.5)
        ]
        for branch in branches:
            head, rest = ("└─ ", "   ") if branch is branches[-1] else ("├─ ", "│  ")
            lines[winner] += [
                (rest if number else head) + line for number, line in enumerate(branch)
            ]
    return lines.get(bracket.winner, [label(bracket.winner)])


# ---- shared by the two commands ----


def rank_settings():
    """The settings of both, as a class. A function, because nothing but the commands needs a judge."""
    from early_stopping import STOP_HELP, STOPS
    from judge import JudgeSettings

    @dataclass
    class RankSettings(JudgeSettings):
        query: Optional[str] = setting(
            None, "what was asked; @path reads a file, - standard input", group="what to rank"
        )
        candidates: Optional[str] = setting(
            None,
            "answers, one a line: JSON lines (strings, or objects with response or text) or plain text",
        )
        stop: Literal[tuple(STOPS)] = setting("never", STOP_HELP, group="how to rank")
        cache: Optional[str] = setting(
            None,
            "JSON lines of judged matches: read first, then added to; resumes, and serves other schedules",
        )
        json: bool = setting(False, "print one JSON object")

    return RankSettings


def read_candidates(path):
    """The answers in a file, at least one. JSON lines if the name ends in .jsonl or the first line is a JSON object or string."""
    text = cli.read_text(path, "--candidates").removeprefix("\ufeff")
    lines = [
        (number, line.strip("\r"))
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    if not lines:
        raise BadInput(f"--candidates: {path} is empty: write one candidate a line")
    if not path.endswith((".jsonl", ".json")) and not re.match(
        r'\s*(\{\s*"|"([^"\\]|\\.)*"\s*$)', lines[0][1]
    ):
        return [line for _, line in lines]
    answers = []
    for number, line in lines:
        row = cli.parse_json(line, f"{path} line {number}", (dict, str))
        answers.append(row.get("response", row.get("text")) if isinstance(row, dict) else row)
        if not isinstance(answers[-1], str) or re.search("[\ud800-\udfff]", answers[-1]):
            raise BadInput(
                f"{path} line {number}: {answers[-1]!r:.80} is no answer: expected a string, or an object with response or text"
            )
    return answers


def cached(play, path, names):
    """A `play` for schedules around play(pairs, repetitions): the n-th time that two players meet, it is asked for repetition n of them
    (so that a judge can draw anew), and the file `path`, if there is one, keeps the score. Equal names draw unplayed.

    `names`: a text per player that stands for it and for all settings; the player whose name comes first in order is i in a row.
    """
    from runlog import append_rows

    known, asked = read_cache(path) if path else {}, Counter()

    def play_cached(pairs):
        turns = [
            (i, j) if names[i] <= names[j] else (j, i) for i, j in pairs
        ]  # one direction, whichever a schedule asks for
        keys = []
        for i, j in turns:
            keys.append((names[i], names[j], asked[names[i], names[j]]))
            asked[keys[-1][:2]] += 1
        known.update({key: 0.5 for key in keys if key[0] == key[1]})
        todo = [(turn, key) for turn, key in zip(turns, keys) if key not in known]
        for start in range(0, len(todo), CHUNK_MATCHES):
            part, part_keys = zip(*todo[start : start + CHUNK_MATCHES])
            known.update(zip(part_keys, play(part, [key[2] for key in part_keys]), strict=True))
            if path:
                append_rows(path, [dict(zip(ROW, (*key, known[key]))) for key in part_keys])
        return [
            known[key] if turn == tuple(pair) else 1 - known[key]
            for turn, key, pair in zip(turns, keys, pairs)
        ]

    return play_cached


def read_cache(path):
    """{(name of i, name of j, repetition): score}. BadInput for a file of another kind."""
    from runlog import resumable_rows

    known = {}
    for number, row in resumable_rows(path, "--cache", b'{"i": "'):
        *key, score = map(row.get, ROW)
        if list(map(type, [*key, score])) != [str, str, int, float] or not 0 <= score <= 1:
            raise BadInput(
                f"--cache: {path} line {number} is no match that this command wrote: give another file"
            )
        known[tuple(key)] = score
    return known


def judged_play(settings, candidates, num_matches):
    """Checks the settings of a command; returns its `play` and a Counter of what the matches cost that were not in the cache (`votes.spending`).
    The judge is loaded for the first of these. `num_matches`: how many there will be, for the progress bar."""
    from tqdm import tqdm

    from data import Pair
    from early_stopping import spending
    from judge import check_judge, judge_of, load_style
    from seeding import stable_hash

    if not (settings.query or "").strip():
        raise BadInput("--query is missing or empty: give the question that was answered")
    folder = check_judge(settings)
    files = (
        [
            (file.name, file.stat().st_size, file.stat().st_mtime_ns)
            for file in sorted(folder.glob("*.safetensors"))
        ]
        if folder
        else None
    )
    options = settings.num_votes, True, settings.temperature, settings.max_completion_length
    origin = [
        files or [settings.base_url, settings.model],
        asdict(load_style(settings.style)),
        settings.query,
        options,
        settings.seed,
        settings.device,
        settings.dtype,
    ]
    load, messages, spent = (
        functools.cache(lambda: judge_of(settings)),
        [{"role": "user", "content": settings.query}],
        Counter(),
    )
    bar = tqdm(total=num_matches, desc="ranking", unit="match", leave=False, disable=None)

    def play(pairs, repetitions):
        texts = [
            (candidates[i], candidates[j]) for i, j in pairs
        ]  # the id seeds the draws: an id of its own for each repetition
        ids = [
            f"{stable_hash(messages, *answers, *[n] * (n > 0)):016x}"
            for answers, n in zip(texts, repetitions)
        ]
        judgments = load().judge(
            [Pair(name, messages, answers) for name, answers in zip(ids, texts)],
            *options,
            settings.stop,
        )
        for judgment in judgments:
            spent.update(spending(judgment.games, settings.num_votes))
        bar.update(len(pairs))
        return [judgment.p_first for judgment in judgments]

    # behind the hash: two answers are then shown in the same direction, hence judged with the same draws, whatever the rule
    rule = f" {settings.stop}" if settings.stop != "never" else ""
    return cached(
        play, settings.cache, [f"{stable_hash(origin, text):016x}{rule}" for text in candidates]
    ), spent


def report_spent(settings, spent):
    """What --json adds where votes can be saved, {} elsewhere; noted otherwise. Matches from the cache cost nothing."""
    from early_stopping import in_words

    spent = {name: spent[name] for name in ("games", "games_saved", "tokens", "tokens_saved")}
    if not settings.json:
        note(f"judged now: {in_words(spent)}")
    return {"judged_now": spent} if settings.stop != "never" else {}


def shown(text, width=60):
    """A candidate on one line, without characters that could give the terminal orders."""
    text = " ".join(
        re.sub("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", " ", text).split()
    )
    return text if len(text) <= width else text[: width - 3] + "..."


def main(argv=None):
    settings = cli.parse_settings(
        rank_settings(), argv, text_fields=("query",), description=__doc__
    )
    if settings.candidates is None:
        raise BadInput("--candidates is missing: give a file with one answer a line")
    candidates = read_candidates(settings.candidates)
    play, spent = judged_play(settings, candidates, len(candidates) - 1)
    bracket = knockout(len(candidates), play, settings.seed)
    spent, best = report_spent(settings, spent), candidates[bracket.winner]
    if settings.json:
        print(
            json.dumps(asdict(bracket) | {"num_coins": bracket.num_coins, "text": best} | spent)
        )  # a match: i, j, score of i, winner
        return
    print(
        "\n".join(draw_tree(bracket, lambda player: f"{player}: {shown(candidates[player], 40)}"))
    )
    coins = (
        f"; {bracket.num_coins} of {bracket.num_matches} matches had no winner: a coin decided"
        * (bracket.num_coins > 0)
    )
    print(f"\nbest answer: {bracket.winner}: {shown(best)}{coins}")


if __name__ == "__main__":
    cli.run(main)
