"""Schedules: which of N players meet, and how often. No model, no torch.

    matches = run_schedule(16, play, "halving", games=64)     # [(i, j, score of i), ...]

full: every two players meet once. It needs n (n - 1) / 2 matches.
random: the first rounds of a full schedule.
halving, leaders, swiss: an equal share of the matches goes to all n players, to the n / 2 that lead
(most wins minus losses so far), to the n / 4 that lead, and so on down to 2.
- halving: the others are out; those that remain meet in random pairs.
- leaders: nobody is out; the leaders are chosen anew each round and meet their neighbours in the
  table, again and again. A last share goes to matches of the leader against the runner-up.
- swiss: as leaders, but a player meets those again whom it has met least often.

Repeated pairs help if a second judgment of a pair is a fresh one. swiss helps if the judge makes
the same mistake on a pair again. runs/ranking has the measurements.
"""

import math
import random
from collections import Counter

SCHEDULES = "full", "random", "halving", "leaders", "swiss"


def run_schedule(num_players, play, schedule="full", games=None, seed=0):
    """Plays the matches of a schedule and returns them: [(i, j, score of i), ...].

    play: takes pairs [(i, j), ...] and returns the scores of i, each in [0, 1]. It gets all pairs
    at once that do not depend on each other's results.
    games: the number of matches, 3 for each player by default; `full` sets its own.
    Raises ValueError for no players, an unknown schedule, and games or scores out of range.
    """
    if num_players < 1 or schedule not in SCHEDULES:
        raise ValueError(f"a schedule is one of {', '.join(SCHEDULES)}, for at least one player")
    if games is not None and (games < 1 or schedule == "full"):
        raise ValueError("games must be positive, and full sets its own number")
    rng = random.Random(seed)
    games = num_games(num_players, schedule, games)
    players = list(range(num_players))
    matches = []
    lead = [0.0] * num_players  # (wins - losses) / 2
    met = Counter()  # {i, j} -> how often these two have met
    sizes = stage_sizes(num_players, schedule)
    for stage, size in enumerate(sizes, start=1):
        stage_end = round(games * stage / len(sizes))
        if schedule == "halving":
            players = best_first(players, lead, rng)[:size]
        while len(matches) < stage_end:
            if schedule in ("leaders", "swiss"):
                pairs = leaders_round(lead, met, size, rng, repeats=schedule == "leaders")
            else:
                pairs = round_robin(players, rng)
            pairs = pairs[: stage_end - len(matches)]
            for (i, j), score in zip(pairs, play(pairs), strict=True):
                if not 0 <= score <= 1:
                    raise ValueError(f"the score of match ({i}, {j}) is {score}: not in [0, 1]")
                matches.append((i, j, score))
                lead[i] += score - 0.5
                lead[j] += 0.5 - score
                met[frozenset((i, j))] += 1
    return matches


def num_games(num_players, schedule, games=None):
    """How many matches a schedule plays."""
    if schedule == "full":
        return num_players * (num_players - 1) // 2
    return games or 3 * num_players


def stage_sizes(num_players, schedule):
    """How many players each stage is about: n, n / 2, ..., 2, and 1 for leaders and swiss.

    full and random have one stage, a single player has none.
    """
    if schedule in ("full", "random") or num_players == 1:
        return [num_players] if num_players > 1 else []
    num_halvings = (num_players - 1).bit_length()  # until one player is left
    last = num_halvings - 1 if schedule == "halving" else num_halvings
    return [math.ceil(num_players / 2**halvings) for halvings in range(last + 1)]


def best_first(players, lead, rng):
    """The players by decreasing lead, equal ones in random order."""
    return sorted(players, key=lambda player: (-lead[player], rng.random()))


def round_robin(players, rng):
    """All pairs of players, each once: rounds of disjoint pairs (circle method) in random order.

    The players sit on a circle and meet those opposite; for the next round all but the first move
    on by one seat.
    """
    circle = rng.sample(players, len(players))
    if len(circle) % 2 == 1:
        circle.append(None)  # whoever sits opposite does not play
    half = len(circle) // 2
    rounds = []
    for _ in range(len(circle) - 1):
        opposite = zip(circle[:half], reversed(circle[half:]))
        rounds.append([in_random_order(pair, rng) for pair in opposite if None not in pair])
        circle.insert(1, circle.pop())
    return [pair for pairs in rng.sample(rounds, len(rounds)) for pair in pairs]


def leaders_round(lead, met, size, rng, repeats):
    """One round of leaders (repeats) or swiss: disjoint pairs, each with one of the `size` best.

    Each of the best who is still free meets the best free player; without `repeats`, the best of
    those free players whom it has met least often.
    """
    free = best_first(range(len(lead)), lead, rng)
    leaders = free[:size]
    pairs = []
    while len(free) > 1 and free[0] in leaders:
        player = free.pop(0)
        other = free[0]
        if not repeats:
            other = min(free, key=lambda candidate: met[frozenset((player, candidate))])
        free.remove(other)
        pairs.append(in_random_order((player, other), rng))
    return pairs


def in_random_order(pair, rng):
    i, j = pair
    return (i, j) if rng.choice((1, -1)) == 1 else (j, i)
