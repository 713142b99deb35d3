"""Ratings from pairwise matches: Elo, Bradley-Terry, schedules that choose the matches, intervals, intransitive triples; and the command.

    python elo.py --matches results.csv                                       i,j,score or left,right,winner: no model is loaded
    python elo.py --query "take fig" --candidates answers.txt --schedule halving --cache judged.jsonl

A match is (i, j, score): players i and j, and the score of i in [0, 1]; 0.5 is a draw, values between are soft wins.
Where this differs from RRM's release: its offline script decides a match whose verdict is invalid by the parity of a hash, its later
online rewards count it as a draw; here it is 0.5. Its online reward is (elo - 1000) / 200 + 0.5; here ratings stay ratings. Elo depends on
the order of the matches, Bradley-Terry does not, so players are ranked by the latter.
"""

import csv
import hashlib
import io
import json
import math
import os
import random
import re
import sys
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Optional

import numpy as np

import cli
from cli import BadInput, note

NO_MAXIMUM = "a group without losses or without wins has no maximum of the likelihood: each of its players got one draw against strength 0"


# ---- ratings ----

def check_matches(matches, num_players):
    """(i, j, score) as arrays. ValueError for a player outside 0 ... num_players - 1, a match against oneself, a score outside [0, 1]."""
    i, j, score = (np.array(column) for column in zip(*matches)) if len(matches) else (np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    if i.dtype.kind not in "iu" or j.dtype.kind not in "iu" or not np.all((0 <= i) & (i < num_players) & (0 <= j) & (j < num_players) & (i != j)):
        raise ValueError(f"players of a match must be two different integers from 0 to {num_players - 1}")
    if not np.all((score >= 0) & (score <= 1)):
        raise ValueError("the score of a match must lie in [0, 1]")
    return i, j, score.astype(float)


def elo(matches, num_players, k=4.0, initial=1000.0, scale=400.0, base=10.0):
    """Elo ratings after matches played strictly in the order given: the caller shuffles. Defaults are those of `evalica.elo`, which RRM uses.

    Each match moves the two players by k (score - expected), where expected = 1 / (1 + base ** ((rating_j - rating_i) / scale)).
    """
    check_matches(matches, num_players)
    ratings, slope = [float(initial)] * num_players, math.log(base) / scale / 2
    for i, j, score in matches:
        change = k * (score - 0.5 - 0.5 * math.tanh(slope * (ratings[i] - ratings[j])))  # the same logistic curve; tanh never overflows
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
        warnings.warn(NO_MAXIMUM, stacklevel=2)
    return strengths[0].tolist()


def win_table(matches, num_players):
    """(num_players, num_players): the sum of scores that row i took from column j."""
    i, j, score = check_matches(matches, num_players)
    wins = np.bincount(i * num_players + j, score, num_players**2) + np.bincount(j * num_players + i, 1 - score, num_players**2)
    return wins.reshape(num_players, num_players)


def closure(edges):
    """Which node reaches which, itself included, over any number of edges: (..., n, n) booleans."""
    reach = edges | np.eye(edges.shape[-1], dtype=bool)
    for _ in range(max(edges.shape[-1] - 1, 1).bit_length()):  # each squaring doubles the length of the chains
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    return reach


def fit_strengths(wins):
    """Bradley-Terry strengths of a batch of win tables (batch, n, n) -> (batch, n), and which players needed the prior, (batch, n).

    Newton steps along the direction d are cut to log(1 + w) / w, w = max(d) - min(d): since the third derivative of the logistic loss is
    bounded by its second, the likelihood then never falls, and near the maximum the steps become whole (Bach 2010, proposition 1).
    """
    batch, size, _ = wins.shape
    won = wins > 1e-6  # smaller sums of soft scores would lead to strengths that floats cannot resolve
    together, reach = closure(won | won.swapaxes(1, 2)), closure(won)
    weak = (together & ~(reach & reach.swapaxes(1, 2))).any(2)  # alike for all of a component
    games = wins + wins.swapaxes(1, 2)
    # the likelihood does not feel a shift of a whole component: without the prior, ones in its block make the system solvable
    anchor = together * ~weak[:, :, None] / together.sum(2, keepdims=True)
    strengths, diagonal = np.zeros((batch, size)), np.arange(size)
    for _ in range(500):
        expected = 0.5 + 0.5 * np.tanh((strengths[:, :, None] - strengths[:, None, :]) / 2)  # (batch, i, j): P(i beats j)
        pull = 0.5 + 0.5 * np.tanh(strengths / 2)
        gradient = (wins - games * expected).sum(2) + weak * (0.5 - pull)
        curvature = games * expected * expected.swapaxes(1, 2)
        system = anchor - curvature
        system[:, diagonal, diagonal] += curvature.sum(2) + weak * pull * (1 - pull)
        step = np.linalg.solve(system, gradient[:, :, None])[:, :, 0]
        width = np.maximum(np.ptp(step, axis=1, keepdims=True), 1e-300)
        strengths = strengths + step * np.log1p(width) / width
        if np.abs(step).max(initial=0) < 1e-11:
            break
    return strengths - (together @ strengths[:, :, None])[:, :, 0] / together.sum(2), weak


# ---- what stands beside a rating ----

def bootstrap(matches, num_players, rounds=1000, level=0.95, seed=0):
    """Percentile intervals of the Bradley-Terry strengths when the matches are drawn again with replacement: (low, high), arrays (n,)."""
    if not len(matches):
        return np.zeros(num_players), np.zeros(num_players)
    kinds, counts = zip(*Counter(map(tuple, matches)).items())  # equal matches are drawn together: fast for long files
    i, j, score = check_matches(kinds, num_players)
    rng, size, strengths = np.random.default_rng(seed), num_players, []
    for draw in np.array_split(np.arange(rounds), max(1, math.ceil(rounds * size**2 / 500_000))):  # a few megabytes of tables at once
        drawn = rng.multinomial(len(matches), np.array(counts) / len(matches), len(draw))  # (batch, kinds)
        wins = np.zeros((len(draw), size * size))
        for table, weights in zip(wins, drawn):
            table += np.bincount(i * size + j, weights * score, size**2) + np.bincount(j * size + i, weights * (1 - score), size**2)
        strengths.append(fit_strengths(wins.reshape(-1, size, size))[0])
    return tuple(np.quantile(np.concatenate(strengths), [(1 - level) / 2, (1 + level) / 2], axis=0))


def intransitive_triples(matches, strengths):
    """{decided, intransitive, expected}: triples in which each pair has a leader, those where the leads form a circle, and how many
    circles a Bradley-Terry judge with these strengths gives in expectation, if each pair's lead is as large as here but free in direction."""
    wins, strengths = win_table(matches, len(strengths)), np.array(strengths)
    lead = wins - wins.T
    ahead = (lead > 1e-9).astype(float)
    # with a lead of L matches, the odds of the two directions are (p / (1 - p)) ** L = exp(L (s_i - s_j))
    chance = (ahead + ahead.T) * (0.5 + 0.5 * np.tanh(np.abs(lead) * (strengths[:, None] - strengths) / 2))
    circles = [float(np.trace(table @ table @ table)) / 3 for table in (ahead + ahead.T, ahead, chance)]
    return {"decided": round(circles[0] / 2), "intransitive": round(circles[1]), "expected": circles[2]}


def rate(matches, num_players, seed=0):
    """One row a player, best first: {player, rank, strength, low, high, elo, win_rate (None: unplayed), matches}.

    A rank is 1 + the number of players whose whole interval lies above: players that the matches cannot tell apart share one.
    """
    wins = win_table(matches, num_players)
    strengths, weak = fit_strengths(wins[None])
    if weak.any():
        note(f"{int(weak.sum())} of {num_players} players: {NO_MAXIMUM}")
    low, high = bootstrap(matches, num_players, seed=seed)
    played = Counter(player for i, j, _ in matches for player in (i, j))
    elos, scores = elo(matches, num_players), wins.sum(1)
    rows = [{"player": p, "rank": 1 + int((low > high[p]).sum()), "strength": float(strengths[0, p]), "low": float(low[p]), "high": float(high[p]),
             "elo": elos[p], "win_rate": float(scores[p] / played[p]) if played[p] else None, "matches": played[p]} for p in range(num_players)]
    return sorted(rows, key=lambda row: (-round(row["strength"], 9), -(row["win_rate"] or 0), -row["elo"]))
