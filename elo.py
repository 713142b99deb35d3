"""Ratings from pairwise matches: Elo and Bradley-Terry with intervals, for a file or for answers.

    python elo.py --matches results.csv                   rates existing results, without a model
    python elo.py --query "take fig" --candidates answers.txt --schedule halving
    python elo.py --candidates questions.jsonl --out ranked.jsonl      many questions; resumes

A match is (i, j, score): two players, and the score of i in [0, 1]. 0.5 is a draw, and values
between are soft wins.

The table is sorted by rating: the Bradley-Terry strength on the scale of Elo. It has intervals and
does not depend on the order of the matches. The best answer of a schedule is the one with the
highest sequential Elo, as in RRM: after few matches Bradley-Terry rates some players far too high
that have not lost yet (runs/ranking).

RRM's release decides a match with an invalid verdict by the parity of a hash (its offline script)
or counts it as a draw (its later online rewards); here it is a draw. Its online reward is
(elo - 1000) / 200 + 0.5; here ratings stay ratings.
"""

import json
import math
import os
import sys
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Optional

import numpy as np

import cli
from cli import BadInput, note
from match_files import read_matches
from schedules import num_games, run_schedule
from strengths import add_up, dispersion, fit_strengths, intervals, logistic
from tables import one_line

MOST_FOR_CIRCLES = 2000  # players
NO_MAXIMUM = (
    "have no maximum-likelihood rating, because a group of them won or lost every match with the "
    "others: each of them got one draw against strength 0"
)


# ---- ratings ----


def elo(matches, num_players, k=4.0, initial=1000.0, scale=400.0, base=10.0):
    """Elo ratings after matches played strictly in the order given: the caller shuffles.

    Each match moves the two players by k (score - expected), where
    expected = 1 / (1 + base ** ((rating_j - rating_i) / scale)). The defaults are evalica's, which
    RRM uses. Raises ValueError for impossible matches.
    """
    match_columns(matches, num_players)  # checks them
    ratings = [float(initial)] * num_players
    slope = math.log(base) / scale / 2
    for i, j, score in matches:
        # the same curve, written so that nothing overflows: expected = 1/2 + tanh(...) / 2
        change = k * (score - 0.5 - 0.5 * math.tanh(slope * (ratings[i] - ratings[j])))
        ratings[i] += change
        ratings[j] -= change
    return ratings


def bradley_terry(matches, num_players):
    """Natural-log strengths s with P(i beats j) = 1 / (1 + exp(s_j - s_i)), as a list.

    Players that are connected by matches form a group. Each group has mean strength 0. The
    strengths are the maximum of the likelihood where it exists; elsewhere the weak prior of
    `strengths.fit_strengths` applies, with a warning. Raises ValueError for impossible matches.
    """
    fit = fit_strengths(add_up(*match_columns(matches, num_players), num_players))
    if fit.weak.any():
        warnings.warn(f"{int(fit.weak.sum())} of {num_players} players {NO_MAXIMUM}", stacklevel=2)
    return fit.strengths.tolist()


def match_columns(matches, num_players):
    """Matches as three arrays i, j, score, each (matches,).

    Raises ValueError for a player outside 0 ... num_players - 1, a match of a player with itself
    and a score outside [0, 1].
    """
    if len(matches) == 0:
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    i, j, score = (np.array(column) for column in zip(*matches))
    integers = i.dtype.kind == "i" and j.dtype.kind == "i"
    if not integers or min(i.min(), j.min()) < 0 or max(i.max(), j.max()) >= num_players:
        raise ValueError(f"the players of a match must be integers from 0 to {num_players - 1}")
    if (i == j).any():
        raise ValueError("the players of a match must be two different ones")
    if not np.all((score >= 0) & (score <= 1)):
        raise ValueError("the score of a match must lie in [0, 1]")
    return i, j, score.astype(float)


# ---- how sure the ratings are ----


def intransitive_triples(matches, strengths):
    """{decided, intransitive, expected}: how often three players beat each other in a circle.

    decided: triples in which each pair has a leader. intransitive: those in which the leads form a
    circle. expected: as many are intransitive on average for a judge that follows Bradley-Terry
    with these strengths, if each pair has a lead as large as here, in a random direction.
    """
    i, j, score = match_columns(matches, len(strengths))
    lead = np.zeros((len(strengths), len(strengths)))
    np.add.at(lead, (i, j), 2 * score - 1)
    lead -= lead.T.copy()
    strengths = np.array(strengths)
    ahead = (lead > 1e-9).astype(float)
    # A lead of L matches has one direction with odds (p / (1 - p)) ** L = exp(L (s_i - s_j)).
    chance = logistic(np.abs(lead) * (strengths[:, None] - strengths))
    return {
        "decided": round(count_circles(ahead + ahead.T) / 2),  # each is found in both directions
        "intransitive": round(count_circles(ahead)),
        "expected": count_circles((ahead + ahead.T) * chance),
    }


def count_circles(edges):
    """The number of circles i -> j -> k -> i in a matrix of edges, or their sum of products."""
    return float(np.sum((edges @ edges) * edges.T)) / 3  # a circle starts at each of its 3 nodes


def rate(matches, num_players):
    """One row for each player: the largest group of connected players first, in it the strongest.

    A row: {player, group (1 for the largest), rank (None: unplayed), rating, rating_low,
    rating_high, strength, low, high, weak_prior, elo, win_rate (None: unplayed), matches}. low and
    high are the 95 % interval of the strength; the rating and its interval are the same on the
    scale of Elo. A rank is 1 + the number of players of the group whose whole interval lies above
    the player's. weak_prior: whether there is no maximum-likelihood rating.
    """
    i, j, score = match_columns(matches, num_players)
    pairs = add_up(i, j, score, num_players)
    fit = fit_strengths(pairs)
    low, high = intervals(pairs, fit, dispersion(i, j, score, fit.strengths))
    elos = elo(matches, num_players)
    scores, played = pairs.total(pairs.wins), pairs.total(pairs.games)
    groups = np.unique(fit.group, return_counts=True)
    order = sorted(zip(*groups), key=lambda group: (-group[1], group[0]))
    number = {first: place for place, (first, _) in enumerate(order, start=1)}
    rows = []
    for player in range(num_players):
        above = (low > high[player]) & (fit.group == fit.group[player])
        strength, low_end, high_end = (float(x[player]) for x in (fit.strengths, low, high))
        row = {
            "player": player,
            "group": number[fit.group[player]],
            "rank": 1 + int(above.sum()) if played[player] else None,
            "rating": on_elo_scale(strength),
            "rating_low": on_elo_scale(low_end),
            "rating_high": on_elo_scale(high_end),
            "strength": strength,
            "low": low_end,
            "high": high_end,
            "weak_prior": bool(fit.weak[player]),
            "elo": elos[player],
            "win_rate": float(scores[player] / played[player]) if played[player] else None,
            "matches": int(played[player]),
        }
        rows.append(row)
    # rounded, so that equal players keep their order whatever their last bits are
    return sorted(rows, key=lambda row: (row["group"], -round(row["strength"], 9)))


def on_elo_scale(strength):
    return 1000 + 400 / math.log(10) * strength


# ---- command line ----


@dataclass
class FileSettings:
    """The flags that go with --matches; --help explains them with all others (ranking.py)."""

    matches: Optional[str] = None
    out: Optional[str] = None
    json: bool = False


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    flags = [argument.partition("=")[0] for argument in argv if argument.startswith("--")]
    if "--matches" not in flags or "--help" in flags or "-h" in argv:
        rank_answers(argv)
        return
    known = [field.name for field in fields(FileSettings)]
    for flag in flags:
        if flag[2:].replace("-", "_") not in known:
            raise BadInput(f"{flag}: does not go with --matches, which rates what has been played")
    rate_file(cli.parse_settings(FileSettings, argv))


def rate_file(settings):
    """Rates the matches of a file. No model is needed."""
    check_csv(settings.out)
    matches, names = read_matches(settings.matches)
    ranking = rate(matches, len(names))
    firsts = [row for row in ranking if row["rank"] == 1]
    best = ranking[0] if all(row["group"] == 1 for row in firsts) else None
    result = summary(matches, ranking, best)
    for row in ranking:
        row["player"] = names[row["player"]]
    finish(settings, result | {"best": best and best["player"]})


def rank_answers(argv):
    """Lets a judge play the matches of a schedule between answers, and rates them."""
    from datafiles import read_text_fields
    from plugins import load_extra
    from ranking import EloSettings, judged_play, read_candidates

    settings = cli.parse_settings(EloSettings, argv, description=__doc__)
    read_text_fields(settings, ["query"])
    if settings.games is not None and (settings.games < 1 or settings.schedule == "full"):
        raise BadInput(
            "--games: must be at least 1, and goes with --schedule random, halving, leaders or "
            "swiss"
        )
    if settings.query is None:
        load_extra("rank_file").rank_file(settings, rank)
        return
    check_csv(settings.out)
    candidates = read_candidates(settings.candidates)
    games = num_games(len(candidates), settings.schedule, settings.games)
    result = rank(settings, candidates, judged_play(settings, candidates, games))
    finish(settings, result)
    if not settings.json:
        best = next(row for row in result["ranking"] if row["player"] == result["best"])
        is_one_group = all(row["group"] == 1 for row in result["ranking"])
        how = "highest Elo" if is_one_group else "highest Elo, although groups never met"
        print(f"\nbest answer ({how}): {one_line(label(best))}")


def check_csv(out):
    if out is not None and (not out.lower().endswith(".csv") or Path(out).exists()):
        raise BadInput(f"--out: {out} exists or does not end in .csv: give another name")
    if out is not None and not Path(out).parent.is_dir():
        raise BadInput(f"--out: {out}: there is no such folder: make it first")
    if out is not None and not os.access(Path(out).parent, os.W_OK):
        raise BadInput(f"--out: {out} cannot be written there: give another folder")


def rank(settings, candidates, play):
    """The summary of one question's matches. settings: schedule, games and seed count."""
    matches = run_schedule(len(candidates), play, settings.schedule, settings.games, settings.seed)
    ranking = rate(matches, len(candidates))
    for row in ranking:
        row["text"] = candidates[row["player"]]
    best = max(ranking, key=lambda row: round(row["elo"], 9))
    return summary(matches, ranking, best)


def summary(matches, ranking, best):
    """The object that --json prints."""
    triples = None
    if len(ranking) <= MOST_FOR_CIRCLES:
        by_player = sorted(ranking, key=lambda row: row["player"])
        triples = intransitive_triples(matches, [row["strength"] for row in by_player])
    return {
        "best": best["player"] if best else None,
        "num_matches": len(matches),
        "ranking": ranking,
        "triples": triples,
    }


def finish(settings, result):
    """Writes the rows of a summary to --out, and prints it."""
    weak = sum(row["weak_prior"] for row in result["ranking"])
    if weak:
        note(f"{weak} of {len(result['ranking'])} players {NO_MAXIMUM}")
    if settings.out is not None:
        from judge_file import write_csv

        write_csv(settings.out, result["ranking"])
    if settings.json:
        print(json.dumps(result, allow_nan=False))
    else:
        show(result)


def show(result):
    """Prints a summary as a table for each group."""
    groups = {}
    for row in result["ranking"]:
        if row["matches"]:
            groups.setdefault(row["group"], []).append(row)
    print(
        "rating: Bradley-Terry on the scale of Elo, mean 1000, with its 95 % interval; rank: 1 + "
        "how many intervals lie wholly above; elo: in the order of the matches"
    )
    for number, rows in groups.items():
        if len(groups) > 1:
            print(f"\ngroup {number}, which has no matches with the others: compare within it only")
        print("rank  rating  95 % interval     elo  win rate  matches  player")
        for row in rows:
            print(
                f"{row['rank']:4}  {row['rating']:6.0f}  "
                f"{row['rating_low']:5.0f} ... {row['rating_high']:4.0f}  "
                f"{row['elo']:6.1f}  {row['win_rate']:8.3f}  {row['matches']:7}  "
                f"{one_line(label(row))}"
            )
    unplayed = [one_line(label(row)) for row in result["ranking"] if not row["matches"]]
    if unplayed:
        print(f"not rated, because without a match: {', '.join(unplayed)}")
    triples = result["triples"]
    if triples is None:
        print(f"circles are not counted for more than {MOST_FOR_CIRCLES} players")
    elif triples["decided"]:
        print(
            f"{triples['intransitive']} of {triples['decided']} triples go in a circle; "
            f"a Bradley-Terry judge would give {triples['expected']:.1f}"
        )
    else:
        print("no circles to look for: in no triple of players does each pair have a leader")


def label(row):
    return f"{row['player']}: {row['text']}" if "text" in row else str(row["player"])


if __name__ == "__main__":
    cli.run(main)
