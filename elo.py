"""Ratings from pairwise matches: Elo and Bradley-Terry with intervals, for a file or for answers.

    python elo.py --matches results.csv                   rates existing results, without a model
    python elo.py --query "take fig" --candidates answers.txt --schedule halving

A match is (i, j, score): two players, and the score of i in [0, 1]. 0.5 is a draw, and values
between are soft wins.

The table is sorted by Bradley-Terry strength, which has intervals and does not depend on the order
of the matches. The best answer of a schedule is the one with the highest Elo, as in RRM: after few
matches Bradley-Terry rates some players far too high that have not lost yet (runs/ranking).

RRM's release decides a match with an invalid verdict by the parity of a hash (its offline script)
or counts it as a draw (its later online rewards); here it is a draw. Its online reward is
(elo - 1000) / 200 + 0.5; here ratings stay ratings.
"""

import json
import math
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, fields
from typing import Optional

import numpy as np

import cli
from cli import BadInput, note, one_line
from match_files import read_matches
from schedules import num_games, run_schedule

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

    Players that are connected by matches form a component. Each component has mean strength 0.
    The strengths are the maximum of the likelihood where it exists; elsewhere the weak prior of
    `fit_strengths` applies, with a warning. Raises ValueError for impossible matches.
    """
    strengths, weak = fit_strengths(win_table(matches, num_players)[None])
    if weak.any():
        warnings.warn(f"{int(weak.sum())} of {num_players} players {NO_MAXIMUM}", stacklevel=2)
    return strengths[0].tolist()


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


def win_table(matches, num_players):
    """(num_players, num_players): the sum of the scores that row i took from column j."""
    i, j, score = match_columns(matches, num_players)
    return add_up_wins(i, j, score, 1, num_players)


def add_up_wins(i, j, score, counts, num_players):
    """The win table of matches that were played `counts` times each."""
    cells = num_players**2
    wins_of_i = np.bincount(i * num_players + j, counts * score, cells)
    wins_of_j = np.bincount(j * num_players + i, counts * (1 - score), cells)
    return (wins_of_i + wins_of_j).reshape(num_players, num_players)


def fit_strengths(wins, start=0.0):
    """Bradley-Terry strengths of a batch of win tables: (batch, n, n) -> (batch, n), and `weak`.

    Maximises the log-likelihood, sum over i and j of wins_ij log P(i beats j), by Newton's method.
    weak: (batch, n) booleans, the players to whom the weak prior was applied.

    The weak prior. If nobody of a group ever lost to the others of its component, then the
    likelihood grows without end as the group moves up: there is no maximum. All players of such a
    component get one draw against an imagined opponent of strength 0. Strengths then stay finite.

    The step bound. Where the logistic curve is flat, a full Newton step d may overshoot. It changes
    each difference s_i - s_j by at most w = 2 max |d|. After a fraction t of the step, the
    curvature is at most e^(wt) times that at its start (the logistic loss bounds its third
    derivative by its second). So the likelihood still rises as long as e^(wt) <= 1 + w: we go the
    fraction t = log(1 + w) / w. Near the maximum w goes to 0 and t to 1, which is Newton's fast end
    (Bach 2010, "Self-concordant analysis for logistic regression", proposition 1).
    """
    component, weak = components(wins)  # (batch, n, n), (batch, n)
    games = wins + wins.swapaxes(1, 2)
    # The likelihood stays the same if all players of a component move by one constant, so its
    # matrix is singular. Where no prior fixes that constant, a component's mean step is set to 0.
    fixed_mean = component * ~weak[:, :, None] / component.sum(2, keepdims=True)
    strengths = np.zeros(weak.shape) + start
    diagonal = np.arange(weak.shape[1])
    for _ in range(500):
        expected = logistic(strengths[:, :, None] - strengths[:, None, :])  # P(i beats j)
        reference = logistic(strengths)  # P(i beats the imagined opponent)
        gradient = (wins - games * expected).sum(2) + weak * (0.5 - reference)
        curvature = games * expected * expected.swapaxes(1, 2)
        hessian = fixed_mean - curvature  # of the negative log-likelihood
        hessian[:, diagonal, diagonal] += curvature.sum(2) + weak * reference * (1 - reference)
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        width = 2 * np.abs(step).max(axis=1, keepdims=True, initial=1e-300)
        strengths = strengths + step * np.log1p(width) / width
        if np.abs(step).max(initial=0) < 1e-11:
            break
    means = (component @ strengths[:, :, None])[:, :, 0] / component.sum(2)
    return strengths - means, weak


def components(wins):
    """Who is connected with whom by matches, (batch, n, n), and who needs the prior, (batch, n).

    A component has a maximum of the likelihood if each of its players is reached from each other
    one by a chain of wins. Sums of scores below 1e-6 do not count as wins: the strengths that they
    lead to are too far apart for floating point.
    """
    won = wins > 1e-6
    connected = closure(won | won.swapaxes(1, 2))
    chain = closure(won)
    both_ways = chain & chain.swapaxes(1, 2)
    return connected, (connected & ~both_ways).any(2)


def closure(edges):
    """Which node reaches which by any number of edges, itself included: (..., n, n) booleans."""
    reach = edges | np.eye(edges.shape[-1], dtype=bool)
    while True:  # each squaring doubles the length of the chains
        longer = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
        if np.array_equal(longer, reach):
            return reach
        reach = longer


def logistic(x):
    return 0.5 + 0.5 * np.tanh(x / 2)  # 1 / (1 + exp(-x)) without overflow


# ---- how sure the ratings are ----


def bootstrap(matches, num_players, rounds=None, level=0.95, seed=0):
    """Percentile intervals of the Bradley-Terry strengths: (low, high), arrays (num_players,).

    A round draws as many matches as there are, with replacement, and fits the strengths again. The
    interval holds the middle `level` of a player's strengths over the rounds. rounds None: 1000,
    fewer for more than 30 players, at least 100.
    """
    if len(matches) == 0:
        return np.zeros(num_players), np.zeros(num_players)
    rounds = rounds or min(1000, max(100, 30_000 // num_players))
    # A start near the solution saves steps. Far out, drawn tables without a loss have no slope.
    start = np.clip(fit_strengths(win_table(matches, num_players)[None])[0], -3, 3)
    # Equal matches are drawn together, as multinomial counts: fast for long files.
    kinds, counts = zip(*Counter(map(tuple, matches)).items())
    i, j, score = match_columns(kinds, num_players)
    shares = np.array(counts) / len(matches)
    rng = np.random.default_rng(seed)
    num_batches = max(1, math.ceil(rounds * num_players**2 / 500_000))  # a few megabytes each
    strengths = []
    for batch in np.array_split(np.arange(rounds), num_batches):
        drawn = rng.multinomial(len(matches), shares, len(batch))  # (batch, kinds)
        wins = [add_up_wins(i, j, score, times, num_players) for times in drawn]
        strengths.append(fit_strengths(np.stack(wins), start)[0])  # (batch, num_players)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(np.concatenate(strengths), tails, axis=0)
    return low, high


def intransitive_triples(matches, strengths):
    """{decided, intransitive, expected}: how often three players beat each other in a circle.

    decided: triples in which each pair has a leader. intransitive: those in which the leads form a
    circle. expected: as many are intransitive on average for a judge that follows Bradley-Terry
    with these strengths, if each pair has a lead as large as here, in a random direction.
    """
    wins = win_table(matches, len(strengths))
    strengths = np.array(strengths)
    lead = wins - wins.T
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
    return float(np.trace(edges @ edges @ edges)) / 3  # a circle starts at each of its three nodes


def rate(matches, num_players, seed=0):
    """One row for each player, the strongest first.

    A row: {player, rank, strength, low, high, elo, win_rate (None: unplayed), matches}. A rank is
    1 + the number of players whose whole interval lies above the player's, so players whom the
    matches cannot tell apart share one.
    """
    wins = win_table(matches, num_players)
    strengths, weak = fit_strengths(wins[None])
    if weak.any():
        note(f"{int(weak.sum())} of {num_players} players {NO_MAXIMUM}")
    low, high = bootstrap(matches, num_players, seed=seed)
    elos = elo(matches, num_players)
    scores = wins.sum(1)
    played = Counter(player for i, j, _ in matches for player in (i, j))
    rows = []
    for player in range(num_players):
        row = {
            "player": player,
            "rank": 1 + int((low > high[player]).sum()),
            "strength": float(strengths[0, player]),
            "low": float(low[player]),
            "high": float(high[player]),
            "elo": elos[player],
            "win_rate": float(scores[player] / played[player]) if played[player] else None,
            "matches": played[player],
        }
        rows.append(row)
    # rounded, so that equal players keep their order whatever their last bits are
    return sorted(rows, key=lambda row: -round(row["strength"], 9))


# ---- command line ----


@dataclass
class FileSettings:
    """The flags that go with --matches; --help explains them with all others (ranking.py)."""

    matches: Optional[str] = None
    candidates: Optional[str] = None
    seed: int = 0
    json: bool = False


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    flags = [argument.partition("=")[0] for argument in argv if argument.startswith("--")]
    asks_for_help = "--help" in argv or "-h" in argv
    if "--matches" in flags and not asks_for_help:
        check_no_judge(flags)
        rate_file(cli.parse_settings(FileSettings, argv))
    else:
        rank_answers(argv)


def check_no_judge(flags):
    known = [field.name for field in fields(FileSettings)]
    for flag in flags:
        if flag[2:].replace("-", "_") not in known:
            raise BadInput(
                f"{flag}: --matches rates what has been played: leave out one of the two"
            )


def rate_file(settings):
    """Rates the matches of a file. No model is needed."""
    candidates = None
    if settings.candidates is not None:
        from ranking import read_candidates

        candidates = read_candidates(settings.candidates)
    matches, names = read_matches(settings.matches, candidates)
    ranking = rate(matches, len(names), settings.seed)
    result = summary(matches, ranking, ranking[0], names, candidates)
    if settings.json:
        print(json.dumps(result, allow_nan=False))
    else:
        show(result)


def rank_answers(argv):
    """Lets a judge play the matches of a schedule between answers, and rates them."""
    from ranking import EloSettings, judged_play, read_candidates, report_spent

    settings = cli.parse_settings(EloSettings, argv, text_fields=("query",), description=__doc__)
    if settings.candidates is None or settings.query is None:
        raise BadInput("--query and --candidates are needed: give both, or --matches")
    candidates = read_candidates(settings.candidates)
    if settings.games is not None and (settings.games < 1 or settings.schedule == "full"):
        raise BadInput(
            "--games: must be at least 1, and goes with --schedule random, halving, leaders or "
            "swiss"
        )
    games = num_games(len(candidates), settings.schedule, settings.games)
    play, spent = judged_play(settings, candidates, games)
    matches = run_schedule(len(candidates), play, settings.schedule, settings.games, settings.seed)
    report_spent(settings, spent)
    ranking = rate(matches, len(candidates), settings.seed)
    best = max(ranking, key=lambda row: round(row["elo"], 9))
    result = summary(matches, ranking, best, candidates=candidates)
    if settings.json:
        print(json.dumps(result, allow_nan=False))
    else:
        show(result)
        print(f"\nbest answer (highest Elo): {one_line(label(best))}")


def summary(matches, ranking, best, names=None, candidates=None):
    """The object that --json prints. The texts of `candidates` are added
    to the rows; else the `names` of the players replace their numbers."""
    by_player = sorted(ranking, key=lambda row: row["player"])
    triples = intransitive_triples(matches, [row["strength"] for row in by_player])
    for row in ranking:
        if candidates is not None:
            row["text"] = candidates[row["player"]]
        else:
            row["player"] = names[row["player"]]
    return {
        "best": best["player"],
        "num_matches": len(matches),
        "ranking": ranking,
        "triples": triples,
    }


def show(result):
    """Prints a summary as a table."""
    print(
        "Sorted by strength (Bradley-Terry, natural log, mean 0); "
        "players whose intervals overlap share a rank"
    )
    print("rank  strength    95 % interval      elo  win rate  matches  player")
    for row in result["ranking"]:
        strength = round(row["strength"], 3) + 0.0  # never -0.0
        win_rate = "-" if row["win_rate"] is None else f"{row['win_rate']:.3f}"
        print(
            f"{row['rank']:4}  {strength:8.3f}  {row['low']:6.2f} ...{row['high']:6.2f}  "
            f"{row['elo']:7.1f}  {win_rate:>8}  {row['matches']:7}  {one_line(label(row))}"
        )
    triples = result["triples"]
    if triples["decided"]:
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
