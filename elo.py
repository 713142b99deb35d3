"""Ratings from pairwise matches: Elo, Bradley-Terry, schedules that choose the matches, intervals, intransitive triples; and the command.

    python elo.py --matches results.csv                                       i,j,score or left,right,winner: no model is loaded
    python elo.py --query "take fig" --candidates answers.txt --schedule halving --cache judged.jsonl

A match is (i, j, score): players i and j, and the score of i in [0, 1]; 0.5 is a draw, values between are soft wins.
RRM's release decides a match with an invalid verdict by the parity of a hash in its offline script and counts it as a draw in its later
online rewards; here it is 0.5. Its online reward is (elo - 1000) / 200 + 0.5; here ratings stay ratings. Tables are sorted by Bradley-Terry
strength: it does not depend on the order of the matches, as Elo does, and has intervals. The best answer of a schedule is the one with the
highest Elo, as in RRM, and is named below its table: after few matches, Bradley-Terry puts some of those who never lost far too high
(runs/ranking).
"""

import csv
import io
import json
import math
import random
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Literal, Optional

import numpy as np

import cli
from cli import BadInput, note, setting

NO_MAXIMUM = "have no strength of greatest likelihood, for want of wins or of losses among them: each got one draw against strength 0"


# ---- ratings ----


def check_matches(matches, num_players):
    """(i, j, score) as arrays. ValueError for a player outside 0 ... num_players - 1, a match against oneself, a score outside [0, 1]."""
    i, j, score = (
        (np.array(column) for column in zip(*matches))
        if len(matches)
        else (np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    )
    if not i.dtype.kind == j.dtype.kind == "i" or not np.all(
        (np.minimum(i, j) >= 0) & (np.maximum(i, j) < num_players) & (i != j)
    ):
        raise ValueError(
            f"players of a match must be two different integers from 0 to {num_players - 1}"
        )
    if not np.all((score >= 0) & (score <= 1)):
        raise ValueError("the score of a match must lie in [0, 1]")
    return i, j, score.astype(float)


def elo(matches, num_players, k=4.0, initial=1000.0, scale=400.0, base=10.0):
    """Elo ratings after matches played strictly in the order given: the caller shuffles. The defaults are evalica's, which RRM uses.

    Each match moves the two players by k (score - expected), where expected = 1 / (1 + base ** ((rating_j - rating_i) / scale)).
    """
    check_matches(matches, num_players)
    ratings, slope = [float(initial)] * num_players, math.log(base) / scale / 2
    for i, j, score in matches:
        change = k * (
            score - 0.5 - 0.5 * math.tanh(slope * (ratings[i] - ratings[j]))
        )  # the same logistic curve; tanh never overflows
        ratings[i] += change
        ratings[j] -= change
    return ratings


def bradley_terry(matches, num_players):
    """Natural-log strengths, P(i beats j) = 1 / (1 + exp(s_j - s_i)), as a list; each connected component has mean 0, so all have.

    Maximum likelihood where every player of a component is reached from every other by a chain of wins (a draw is half a win for each).
    Elsewhere the maximum lies at infinity; there each player gets one draw against a reference of strength 0, and a warning is given.
    """
    strengths, weak = fit_strengths(win_table(matches, num_players)[None])
    if weak.any():
        warnings.warn(f"{int(weak.sum())} of {num_players} players {NO_MAXIMUM}", stacklevel=2)
    return strengths[0].tolist()


def win_table(matches, num_players):
    """(num_players, num_players): the sum of scores that row i took from column j."""
    i, j, score = check_matches(matches, num_players)
    wins = np.bincount(i * num_players + j, score, num_players**2) + np.bincount(
        j * num_players + i, 1 - score, num_players**2
    )
    return wins.reshape(num_players, num_players)


def closure(edges):
    """Which node reaches which, itself included, over any number of edges: (..., n, n) booleans."""
    reach = edges | np.eye(edges.shape[-1], dtype=bool)
    while True:  # each squaring doubles the length of the chains
        longer = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
        if np.array_equal(longer, reach):
            return reach
        reach = longer


def fit_strengths(wins, start=0.0):
    """Bradley-Terry strengths of a batch of win tables (batch, n, n) -> (batch, n), and which players needed the prior, (batch, n).

    Newton steps along the direction d are cut to log(1 + w) / w, w = 2 max |d|: since the third derivative of the logistic loss is
    bounded by its second, the likelihood then never falls, and near the maximum the steps become whole (Bach 2010, proposition 1).
    """
    batch, size, _ = wins.shape
    won = (
        wins > 1e-6
    )  # smaller sums of soft scores would lead to strengths that floats cannot resolve
    together, reach = closure(won | won.swapaxes(1, 2)), closure(won)
    weak = (together & ~(reach & reach.swapaxes(1, 2))).any(2)  # alike for all of a component
    games = wins + wins.swapaxes(1, 2)
    # the likelihood does not feel a shift of a whole component: without the prior, ones in its block make the system solvable
    anchor = together * ~weak[:, :, None] / together.sum(2, keepdims=True)
    strengths, diagonal = np.zeros((batch, size)) + start, np.arange(size)
    for _ in range(500):
        expected = 0.5 + 0.5 * np.tanh(
            (strengths[:, :, None] - strengths[:, None, :]) / 2
        )  # (batch, i, j): P(i beats j)
        pull = 0.5 + 0.5 * np.tanh(strengths / 2)
        gradient = (wins - games * expected).sum(2) + weak * (0.5 - pull)
        curvature = games * expected * expected.swapaxes(1, 2)
        system = anchor - curvature
        system[:, diagonal, diagonal] += curvature.sum(2) + weak * pull * (1 - pull)
        step = np.linalg.solve(system, gradient[:, :, None])[:, :, 0]
        width = 2 * np.abs(step).max(axis=1, keepdims=True, initial=1e-300)
        strengths = strengths + step * np.log1p(width) / width
        if np.abs(step).max(initial=0) < 1e-11:
            break
    return strengths - (together @ strengths[:, :, None])[:, :, 0] / together.sum(2), weak


# ---- what stands beside a rating ----


def bootstrap(matches, num_players, rounds=None, level=0.95, seed=0):
    """Percentile intervals of the Bradley-Terry strengths when the matches are drawn again with replacement: (low, high), arrays (n,).

    `rounds` None: 1000 drawings, fewer for more than 30 players, 100 at least.
    """
    if not len(matches):
        return np.zeros(num_players), np.zeros(num_players)
    rounds = rounds or min(1000, max(100, 30_000 // num_players))
    start = np.clip(
        fit_strengths(win_table(matches, num_players)[None])[0], -3, 3
    )  # far out, tables that lack a loss have no slope
    kinds, counts = zip(
        *Counter(map(tuple, matches)).items()
    )  # equal matches are drawn together: fast for long files
    i, j, score = check_matches(kinds, num_players)
    rng, size, strengths = np.random.default_rng(seed), num_players, []
    for draw in np.array_split(
        np.arange(rounds), max(1, math.ceil(rounds * size**2 / 500_000))
    ):  # a few megabytes of tables at once
        drawn = rng.multinomial(
            len(matches), np.array(counts) / len(matches), len(draw)
        )  # (batch, kinds)
        wins = np.zeros((len(draw), size * size))
        for table, weights in zip(wins, drawn):
            table += np.bincount(i * size + j, weights * score, size**2) + np.bincount(
                j * size + i, weights * (1 - score), size**2
            )
        strengths.append(fit_strengths(wins.reshape(-1, size, size), start)[0])
    return tuple(np.quantile(np.concatenate(strengths), [(1 - level) / 2, (1 + level) / 2], axis=0))


def intransitive_triples(matches, strengths):
    """{decided, intransitive, expected}: triples in which each pair has a leader, those where the leads form a circle, and how many a
    Bradley-Terry judge with these strengths gives in expectation, if each pair's lead is as large as here but free in direction."""
    wins, strengths = win_table(matches, len(strengths)), np.array(strengths)
    lead = wins - wins.T
    ahead = (lead > 1e-9).astype(float)
    # with a lead of L matches, the odds of the two directions are (p / (1 - p)) ** L = exp(L (s_i - s_j))
    chance = (ahead + ahead.T) * (
        0.5 + 0.5 * np.tanh(np.abs(lead) * (strengths[:, None] - strengths) / 2)
    )
    circles = [
        float(np.trace(table @ table @ table)) / 3 for table in (ahead + ahead.T, ahead, chance)
    ]
    return {
        "decided": round(circles[0] / 2),
        "intransitive": round(circles[1]),
        "expected": circles[2],
    }


def rate(matches, num_players, seed=0):
    """One row a player, the strongest first: {player, rank, strength, low, high, elo, win_rate (None: unplayed), matches}.

    A rank is 1 + the number of players whose whole interval lies above: players that the matches cannot tell apart share one.
    """
    wins = win_table(matches, num_players)
    strengths, weak = fit_strengths(wins[None])
    if weak.any():
        note(f"{int(weak.sum())} of {num_players} players {NO_MAXIMUM}")
    low, high = bootstrap(matches, num_players, seed=seed)
    played = Counter(player for i, j, _ in matches for player in (i, j))
    elos, scores = elo(matches, num_players), wins.sum(1)
    rows = [
        {
            "player": p,
            "rank": 1 + int((low > high[p]).sum()),
            "strength": float(strengths[0, p]),
            "low": float(low[p]),
            "high": float(high[p]),
            "elo": elos[p],
            "win_rate": float(scores[p] / played[p]) if played[p] else None,
            "matches": played[p],
        }
        for p in range(num_players)
    ]
    return sorted(
        rows, key=lambda row: -round(row["strength"], 9)
    )  # rounded: equal players keep their order whatever the last bits


# ---- schedules: which matches to play ----


def round_robin(players, rng):
    """Rounds of disjoint pairs in which every two players meet once (circle method), in random order and orientation."""
    circle = [
        *rng.sample(players, len(players)),
        *[None] * (len(players) % 2),
    ]  # with an odd number, None's opponent rests
    half, rounds = len(circle) // 2, []
    for _ in range(len(circle) - 1):
        pairs = [pair for pair in zip(circle[:half], reversed(circle[half:])) if None not in pair]
        rounds.append([pair[:: rng.choice((1, -1))] for pair in pairs])
        circle.insert(1, circle.pop())
    return rng.sample(rounds, len(rounds))


def leaders_round(lead, met, size, rng, repeats):
    """Pairs for one round: each of the `size` best players who is still free meets the best free one; without `repeats`, the best of
    those whom it has met least often."""
    free, pairs = sorted(range(len(lead)), key=lambda player: (-lead[player], rng.random())), []
    best = free[:size]
    while len(free) > 1 and (player := free.pop(0)) in best:
        other = (
            free[0] if repeats else min(free, key=lambda other: met[frozenset((player, other))])
        )  # the first of the least met
        free.remove(other)
        pairs.append((player, other)[:: rng.choice((1, -1))])
    return pairs


SCHEDULES = "full", "random", "halving", "leaders", "swiss"


def stage_sizes(num_players, schedule):
    """How many players each stage is about: n, n / 2, ..., 2 and, for leaders and swiss, 1; the others have one stage."""
    if num_players == 1 or schedule in ("full", "random"):
        return [num_players] * (num_players > 1)
    return [
        math.ceil(num_players / 2**halvings)
        for halvings in range((num_players - 1).bit_length() + (schedule != "halving"))
    ]


def num_games(num_players, schedule, games=None):
    """How many matches a schedule plays: all pairs once for full, else `games`, or 3 a player."""
    return num_players * (num_players - 1) // 2 if schedule == "full" else games or 3 * num_players


def run_schedule(num_players, play, schedule="full", games=None, seed=0):
    """Plays matches and returns them, [(i, j, score), ...]. `play` takes pairs [(i, j), ...] and returns the scores of i; it gets all pairs
    that do not depend on each other at once. `games`: matches in total, 3 per player by default; full has always n (n - 1) / 2.

    full: every two players meet once. random: the first rounds of that. The others spend an equal share of games on the n, n / 2, ... 2
    best (by wins less losses so far). halving: the losers of a stage are out, the others meet at random. leaders: the best are chosen anew
    each round and meet their neighbours in the table, again and again; the last share goes to leader against runner-up. swiss: the same,
    but nobody meets again whom it has met while there are others. Repeated pairs help where a second judgment of a pair is a fresh one,
    swiss where the judge errs on the same pairs again (runs/ranking).
    """
    if (
        num_players < 1
        or schedule not in SCHEDULES
        or games is not None
        and (games < 1 or schedule == "full")
    ):
        raise ValueError(
            f"a schedule ({', '.join(SCHEDULES)}) needs a player and a positive number of games; full sets its own"
        )
    rng, matches, lead, met = random.Random(seed), [], [0.0] * num_players, Counter()
    games = num_games(num_players, schedule, games)
    players, sizes = list(range(num_players)), stage_sizes(num_players, schedule)
    for stage, size in enumerate(sizes, start=1):
        until = round(games * stage / len(sizes))  # the last one is games
        players = (
            sorted(players, key=lambda player: (-lead[player], rng.random()))[:size]
            if schedule == "halving"
            else players
        )
        while len(matches) < until:
            if schedule in ("leaders", "swiss"):
                pairs = leaders_round(lead, met, size, rng, schedule == "leaders")
            else:
                pairs = [pair for pairs in round_robin(players, rng) for pair in pairs]
            pairs = pairs[: until - len(matches)]
            for (i, j), score in zip(pairs, play(pairs), strict=True):
                matches.append((i, j, score))
                lead[i] += score - 0.5
                lead[j] += 0.5 - score
                met[frozenset((i, j))] += 1
    check_matches(matches, num_players)
    return matches


# ---- files ----


def match_columns(names, place):
    """The columns of a match among `names`: i, j, score or left, right, winner. Raises BadInput."""
    columns = next(
        (
            columns
            for columns in (("i", "j", "score"), ("left", "right", "winner"))
            if set(columns) <= set(names)
        ),
        None,
    )
    if columns is None:
        raise BadInput(
            f"{place}: columns are {', '.join(map(str, names))[:120]}: expected i, j, score or left, right, winner"
        )
    return columns


def match_rows(path):
    """(line number, row as a dict) of a JSON-lines file or a csv file with a header."""
    text = cli.read_text(path, "--matches").removeprefix("\ufeff")
    if text.lstrip()[:1] in ("{", "["):
        yield from cli.read_json_lines(path, "--matches")
        return
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        if reader.fieldnames is not None:  # an empty file has none
            match_columns(reader.fieldnames, f"{path} line 1")
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise BadInput(
            f"{path} line {reader.line_num}: not valid csv ({error}): correct the line"
        ) from error


def read_matches(path, names=None):
    """Matches of a csv or JSON-lines file with i, j, score or left, right, winner (left, right, tie) -> (matches, names of the players).

    `names`: the players are these, and i and j their numbers from 0; None: i, j, left and right are names, in order of appearance.
    Raises BadInput naming the line.
    """
    matches, numbers = [], {number: number for number in range(len(names))} if names else {}
    for line, row in match_rows(path):
        place = f"{path} line {line}"
        columns = match_columns(row, place)
        *players, result = (row[column] for column in columns)
        for index, (column, player) in enumerate(zip(columns, players)):
            if isinstance(player, str) and re.fullmatch(r"-?\d{1,18}", player.strip()):
                players[index] = player = int(player)
            if type(player) not in (int, str) or player == "" or type(player) is int and player < 0:
                raise BadInput(
                    f"{place}: {column} is {player!r:.80}: expected the name of a player or its number, 0 or more"
                )
            if names and player not in numbers:
                raise BadInput(
                    f"{place}: unknown player {player!r:.80} in {column}: --candidates has players 0 to {len(names) - 1}"
                )
        if players[0] == players[1]:
            raise BadInput(f"{place}: {players[0]!r:.80} plays against itself: remove the line")
        if columns[2] == "winner":
            score, wanted = (
                {"left": 1.0, "right": 0.0, "tie": 0.5}.get(str(result), -1),
                "left, right or tie",
            )
        else:
            number = re.fullmatch(r"\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*", str(result))
            score, wanted = (
                float(str(result)) if number else -1,
                "a number from 0 to 1, the share of i",
            )
        if not 0 <= score <= 1:
            raise BadInput(f"{place}: {columns[2]} is {result!r:.80}: expected {wanted}")
        matches.append((*(numbers.setdefault(player, len(numbers)) for player in players), score))
    if not matches:
        raise BadInput(
            f"--matches: {path} holds no matches: expected rows i,j,score or left,right,winner"
        )
    return matches, names or list(numbers)


# ---- command line ----


def label(row):
    return f"{row['player']}: {row['text']}" if "text" in row else str(row["player"])


def show(result, shown):
    print(
        "Sorted by strength (Bradley-Terry, natural log, mean 0); players whose intervals overlap share a rank"
    )
    print("rank  strength    95 % interval      elo  win rate  matches  player")
    for row in result["ranking"]:
        win_rate = "-" if row["win_rate"] is None else f"{row['win_rate']:.3f}"
        print(
            f"{row['rank']:4}  {round(row['strength'], 3) + 0.0:8.3f}  {row['low']:6.2f} ...{row['high']:6.2f}  {row['elo']:7.1f}  {win_rate:>8}  "
            f"{row['matches']:7}  {shown(label(row))}"
        )
    triples = result["triples"]
    print(
        f"{triples['intransitive']} of {triples['decided']} triples go in a circle; a Bradley-Terry judge would give {triples['expected']:.1f}"
        if triples["decided"]
        else "no circles to look for: in no triple of players does each pair have a leader"
    )


def main(argv=None):
    from tournament import judged_play, rank_settings, read_candidates, report_spent, shown

    @dataclass
    class Settings(rank_settings()):
        schedule: Literal[SCHEDULES] = setting(
            "full", "which matches to play: see run_schedule in elo.py", group="matches"
        )
        games: Optional[int] = setting(
            None, "matches in total; default: 3 per candidate, full: every pair once"
        )
        matches: Optional[str] = setting(
            None,
            "instead of judging: csv or JSON lines with i, j, score or left, right, winner (left, "
            "right, tie); with --candidates, i and j are numbers of its answers, from 0",
        )

    settings = cli.parse_settings(Settings, argv, text_fields=("query",), description=__doc__)
    candidates, spent = read_candidates(settings.candidates) if settings.candidates else None, {}
    if settings.matches is not None:
        if settings.query is not None or settings.cache is not None:
            raise BadInput(
                "--matches rates what has been played: leave out --query and --cache, or --matches"
            )
        matches, names = read_matches(settings.matches, candidates)
    elif candidates is None or settings.query is None:
        raise BadInput("--query and --candidates are needed: give both, or --matches")
    else:
        if settings.games is not None and (settings.games < 1 or settings.schedule == "full"):
            raise BadInput(
                "--games: must be at least 1, and goes with --schedule random, halving, leaders or swiss"
            )
        names, (play, spent) = (
            candidates,
            judged_play(
                settings, candidates, num_games(len(candidates), settings.schedule, settings.games)
            ),
        )
        matches = run_schedule(
            len(candidates), play, settings.schedule, settings.games, settings.seed
        )
        spent = report_spent(settings, spent)
    ranking = rate(matches, len(names), settings.seed)
    best = (
        ranking[0] if settings.query is None else max(ranking, key=lambda row: round(row["elo"], 9))
    )
    triples = intransitive_triples(
        matches, [row["strength"] for row in sorted(ranking, key=lambda row: row["player"])]
    )
    for row in ranking:
        row.update(
            {"text": candidates[row["player"]]} if candidates else {"player": names[row["player"]]}
        )
    result = {
        "best": best["player"],
        "num_matches": len(matches),
        "ranking": ranking,
        "triples": triples,
    } | spent
    print(json.dumps(result, allow_nan=False)) if settings.json else show(result, shown)
    if settings.query is not None and not settings.json:
        print(f"\nbest answer (highest Elo): {shown(label(best))}")


if __name__ == "__main__":
    cli.run(main)
