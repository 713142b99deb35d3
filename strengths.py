"""Bradley-Terry strengths by maximum likelihood, with intervals; numpy alone, a million matches.

pairs = add_up(i, j, score, num_players)       # arrays, one entry a match
fit = fit_strengths(pairs)                     # fit.strengths, fit.group, fit.weak
low, high = intervals(pairs, fit, spread)      # 95 %
"""

from typing import NamedTuple

import numpy as np

DENSE = 300  # players; the variances of more come from samples
SAMPLES = 100
DROP = 3.8415 / 2  # of the log-likelihood, from the maximum to the ends of a 95 % interval
WALL = 7.0  # odds of 1,000 to 1 against the mean: see `intervals`


class Pairs(NamedTuple):
    """Who met whom, each pair in both directions: player took `wins` of `games` from opponent."""

    player: np.ndarray
    opponent: np.ndarray
    wins: np.ndarray
    games: np.ndarray
    num_players: int

    def total(self, values):
        """The sum of the values of each player's entries, (num_players,)."""
        return np.bincount(self.player, values, self.num_players)


class Fit(NamedTuple):
    strengths: np.ndarray  # of each player, mean 0 in each group
    group: np.ndarray  # of each player: the smallest number of a player that it is connected with
    weak: np.ndarray  # whether the player's group needed the weak prior


def add_up(i, j, score, num_players):
    """The Pairs of matches: arrays of the two players and of the share that i won."""
    swapped = i > j
    key = np.where(swapped, j, i) * num_players + np.where(swapped, i, j)
    key, kind = np.unique(key, return_inverse=True)
    first, second = np.divmod(key, max(num_players, 1))
    games = np.bincount(kind, minlength=len(key)).astype(float)
    wins = np.bincount(kind, np.where(swapped, 1 - score, score), len(key))
    return Pairs(
        np.concatenate([first, second]),
        np.concatenate([second, first]),
        np.concatenate([wins, games - wins]),
        np.concatenate([games, games]),
        num_players,
    )


def logistic(x):
    return 0.5 + 0.5 * np.tanh(x / 2)  # 1 / (1 + exp(-x)) without overflow


# ---- who can be compared ----


def find_groups(pairs):
    """(group, weak): see Fit.

    The likelihood of a group has a maximum if each player is reached from each other one by a chain
    of wins: if all are reached from the first one, and the first one from all. Wins that sum to
    less than 1e-6 do not count: they lead to strengths too far apart for floating point.
    """
    group = np.arange(pairs.num_players)
    while True:
        smallest = group.copy()
        np.minimum.at(smallest, pairs.player, group[pairs.opponent])
        smallest = smallest[smallest]  # a short cut: long chains take few turns
        if np.array_equal(smallest, group):
            break
        group = smallest
    is_first = group == np.arange(pairs.num_players)
    won, lost = pairs.wins > 1e-6, pairs.games - pairs.wins > 1e-6
    connected = reached(pairs, is_first, won) & reached(pairs, is_first, lost)
    weak = np.bincount(group[~connected], minlength=pairs.num_players)[group] > 0
    return group, weak


def reached(pairs, start, used):
    """The players that are reached from `start` by the `used` entries, player to opponent."""
    player, opponent = pairs.player[used], pairs.opponent[used]
    while True:
        found = start.copy()
        found[opponent[start[player]]] = True
        if np.array_equal(found, start):
            return found
        start = found


def centred(values, group):
    """Values minus the mean of their player's group."""
    sizes = np.bincount(group, minlength=len(group))
    return values - (np.bincount(group, values, len(group)) / np.maximum(sizes, 1))[group]


# ---- the maximum of the likelihood ----


def fit_strengths(pairs):
    """The Fit of Pairs: the maximum of sum wins log P(player beats opponent), by Newton's method.

    The weak prior. If nobody of some players ever lost to the others of their group, the likelihood
    grows without end as they move up: there is no maximum. All players of such a group get one draw
    against an imagined opponent of strength 0. Strengths then stay finite.

    The step bound. Where the logistic curve is flat, a full Newton step d may overshoot. It changes
    each difference s_i - s_j by at most w = 2 max |d|. After a fraction t of the step, the
    curvature is at most e^(wt) times that at its start (the logistic loss bounds its third
    derivative by its second). So the likelihood still rises as long as e^(wt) <= 1 + w: we go the
    fraction t = log(1 + w) / w. Near the maximum w goes to 0 and t to 1, which is Newton's fast end
    (Bach 2010, "Self-concordant analysis for logistic regression", proposition 1).
    """
    group, weak = find_groups(pairs)
    wins, games = pairs.total(pairs.wins), pairs.total(pairs.games)
    strengths = centred(np.log((wins + 1) / (games - wins + 1)), group)
    for _ in range(500):
        expected = logistic(strengths[pairs.player] - strengths[pairs.opponent])
        reference = logistic(strengths)  # P(player beats the imagined opponent)
        gradient = pairs.total(pairs.wins - pairs.games * expected) + weak * (0.5 - reference)
        weights = pairs.games * expected * (1 - expected)
        prior = weak * reference * (1 - reference)
        # rounding must not leave a part along the constants of a group, which has no solution
        gradient = np.where(weak, gradient, centred(gradient, group))
        step = conjugate_gradients(pairs, weights, prior, gradient)
        largest = np.abs(step).max(initial=1e-300)
        strengths = strengths + step * np.log1p(2 * largest) / (2 * largest)
        if largest < 1e-7:  # what is left is its square, or its product with the solver's accuracy
            break
    return Fit(centred(strengths, group), group, weak)


def conjugate_gradients(pairs, weights, prior, target, accuracy=1e-4):
    """Solves A x = target, up to constants of a group, without the matrix.

    A, the information, holds the second derivatives of the negative log-likelihood: -weight for a
    pair, and on the diagonal a player's weights and its prior. A larger error than `accuracy` would
    lose the slow waves along a ladder, where players meet neighbours alone.
    """
    diagonal = pairs.total(weights) + prior
    scale = np.where(diagonal > 0, diagonal, 1)
    solution, rest = np.zeros_like(target), target
    direction, before = 0, 1
    for _ in range(2 * pairs.num_players):
        scaled = rest / scale
        product = rest @ scaled
        if product <= accuracy**2 * (target @ (target / scale)):
            break
        direction = scaled + direction * (product / before)
        image = diagonal * direction - pairs.total(weights * direction[pairs.opponent])
        length = product / (direction @ image)
        solution = solution + length * direction
        rest, before = rest - length * image, product
    return solution


# ---- how sure the strengths are ----


def intervals(pairs, fit, dispersion=1.0):
    """95 % intervals of the strengths relative to the mean of their group: (low, high).

    An interval holds the values of a player's strength at which the log-likelihood of its own games
    lies less than DROP below its maximum. The opponents move the other way, so that the mean stays,
    and the games are weighted so that the curvature at the maximum is the inverse variance of the
    strength: its opponents' strengths are estimates too. The result is close to the interval of the
    profile likelihood, and equal to it for two players. For few games that one is too short (93 %
    for 9 games of each of 10 players): with 1 + 2 / games times the DROP it covers 95 %
    (runs/ranking).

    dispersion: see there. Who won everything has no upper end. So all players get a win against an
    imagined one of strength -WALL and a loss against one of WALL, and ends lie within WALL + 6.
    """
    sizes = np.bincount(fit.group, minlength=len(fit.group))[fit.group]
    lever = sizes / np.maximum(sizes - 1, 1)  # how a difference grows with the player's strength
    differences = fit.strengths[pairs.player] - fit.strengths[pairs.opponent]
    expected = logistic(differences)
    weights = pairs.games * expected * (1 - expected)
    reference = logistic(fit.strengths)
    prior = fit.weak * reference * (1 - reference)
    variance = variances(pairs, weights, prior, fit)
    curvature = pairs.total(weights) * lever**2 + prior * lever
    share = 1 / np.maximum(variance * curvature, 1e-12) / dispersion
    share[curvature == 0] = 0
    lever = lever[pairs.player]

    def likelihood(strength):
        """(value, slope)"""
        x = differences + lever * (strength - fit.strengths)[pairs.player]
        win = logistic(x)
        games = pairs.total(pairs.wins * x - pairs.games * np.logaddexp(0, x))
        slope = pairs.total(lever * (pairs.wins - pairs.games * win))
        walls = np.logaddexp(0, -strength - WALL) + np.logaddexp(0, strength - WALL)
        wall_slope = logistic(-strength - WALL) - logistic(strength - WALL)
        return share * games - walls, share * slope + wall_slope

    outside = np.full(len(sizes), max(WALL, np.abs(fit.strengths).max(initial=0)) + 5)
    best = fit.strengths
    if fit.weak.any():
        best = bisect(lambda strength: likelihood(strength)[1] > 0, -outside, outside)
    enough = likelihood(best)[0] - DROP * (1 + 2 / np.maximum(pairs.total(pairs.games), 1))
    low = newton(likelihood, enough, -outside)
    high = newton(likelihood, enough, outside)
    return np.minimum(low, fit.strengths), np.maximum(high, fit.strengths)


def newton(function, target, start):
    """Where concave functions take the target value, from a start at which they lie below it."""
    for _ in range(30):
        value, slope = function(start)
        step = (target - value) / np.where(slope == 0, 1, slope)
        start = start + step
        if np.abs(step).max(initial=0) < 1e-6:
            break
    return start


def bisect(is_below, low, high):
    """Where is_below (of arrays) turns from true to false between low and high."""
    for _ in range(30):
        middle = (low + high) / 2
        below = is_below(middle)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def variances(pairs, weights, prior, fit):
    """The variances of the strengths relative to their group's mean, by the Fisher information.

    For more than DENSE players: samples x with the inverse information as covariance. Given its
    opponents, a strength has variance 1 / d and mean (sum of weight x_opponent) / d, where d is its
    diagonal of the information, so its variance is 1 / d plus that of the sampled means. The first
    part is exact and mostly the larger one.
    """
    diagonal = pairs.total(weights) + prior
    if pairs.num_players <= DENSE:
        information = np.diag(diagonal)
        information[pairs.player, pairs.opponent] = -weights
        same = (fit.group[:, None] == fit.group).astype(float)
        averaging = same / same.sum(1)  # takes values to the mean of their player's group
        # a whole group may move by one constant, unless a prior fixes it: ask for a mean of 0
        inverse = np.linalg.inv(information + averaging * ~fit.weak)
        centre = np.eye(pairs.num_players) - averaging
        return np.sum(centre @ inverse * centre, axis=1)
    rng = np.random.default_rng(0)
    half = len(weights) // 2
    total = np.zeros(pairs.num_players)
    for _ in range(SAMPLES):
        noise = rng.standard_normal(half) * np.sqrt(weights[:half])
        target = pairs.total(np.concatenate([noise, -noise]))
        target += rng.standard_normal(pairs.num_players) * np.sqrt(prior)
        sample = centred(conjugate_gradients(pairs, weights, prior, target), fit.group)
        total += (pairs.total(weights * sample[pairs.opponent]) / np.maximum(diagonal, 1e-300)) ** 2
    return total / SAMPLES + 1 / np.maximum(diagonal, 1e-300)


def dispersion(i, j, score, strengths, pseudo=0.5):
    """How the scores scatter around their expected values, as a share of wins and losses alone.

    Draws and means over votes scatter less, and count as less than a match in a likelihood of wins
    and losses. 1 for wins and losses; `pseudo` keeps it from 0 where all matches are draws.
    """
    if np.all((score == 0) | (score == 1)):
        return 1.0
    expected = logistic(strengths[i] - strengths[j])
    found = np.sum((score - expected) ** 2)
    return min(1.0, (pseudo + found) / (pseudo + np.sum(expected * (1 - expected))))
