"""Intervals of shares and means; those of shares stay honest where all is right or all is wrong."""

import math

import numpy as np

Z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations
EDGE = 30  # with so many units right, and so many wrong, percentiles of draws cover 95 %


def wilson(share, size):
    """Wilson's 95 % interval of a share of `size` independent units: (low, high).

    20 of 20 right: 0.839 to 1. It always has a width, and never leaves [0, 1].
    """
    middle = (share + Z**2 / (2 * size)) / (1 + Z**2 / size)
    spread = math.sqrt(share * (1 - share) / size + Z**2 / (4 * size**2))
    reach = Z * spread / (1 + Z**2 / size)
    return min(share, max(0.0, middle - reach)), max(share, min(1.0, middle + reach))


def mid_p(share, size):
    """The 95 % interval of a share by the exact binomial test with mid-P: (low, high).

    What is found counts half as more extreme than itself. 19 of 20 right: 0.777 to 0.997. The size
    need not be whole.
    """
    right, wrong = share * size, (1 - share) * size
    odds = np.linspace(-30, 30, 12_001)  # log-odds of the unknown share
    below = (beta_cdf(right, wrong + 1, odds) + beta_cdf(right + 1, wrong, odds)) / 2
    low, high = np.interp([0.025, 0.975], below, odds)
    return (
        0.0 if right == 0 else 1 / (1 + math.exp(-low)),
        1.0 if wrong == 0 else 1 / (1 + math.exp(-high)),
    )


def beta_cdf(a, b, odds):
    """P(log-odds of a Beta(a, b) variable <= odds), by a sum over the grid."""
    if a == 0 or b == 0:  # all of it at 0 or at 1
        return np.full(len(odds), float(a == 0))
    density = -a * np.logaddexp(0, -odds) - b * np.logaddexp(0, odds)
    density = np.exp(density - density.max())
    return np.cumsum(density) / density.sum()


def binomial_interval(share, size):
    """The wider of Wilson's and the mid-P interval at either end: (low, high).

    Wilson's covers only 84 % where nearly everything is right (a true share of 0.992, 20 units).
    The wider of both covers at least 93 % with 20 units or more, whatever the true share is.
    """
    ends = wilson(share, size), mid_p(share, size)
    return min(low for low, _ in ends), max(high for _, high in ends)


def share_interval(share, draws, num_units):
    """The 95 % interval of a share, from bootstrap draws of it: (low, high).

    Percentiles of the draws, unless nearly all units agree: draws then miss what has not been seen.
    There it is the binomial interval. Its size is that of a sample of independent units whose share
    scatters as the draws do, or num_units where the draws do not scatter at all.
    """
    variance = float(np.var(draws)) if len(draws) else 0.0
    size = share * (1 - share) / variance if variance > 1e-12 else num_units
    if size * min(share, 1 - share) < EDGE:
        return binomial_interval(share, max(size, 1))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


# 97.5 % points of Student's t with 1 to 9 degrees of freedom
T_QUANTILES = 12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622


def mean_interval(values):
    """Student's 95 % interval of a mean of two or more independent values: [low, high].

    0.9 and 1.0: 0.315 to 1.585. Two seeds say little.
    """
    mean, degrees = sum(values) / len(values), len(values) - 1
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / degrees)
    reach = t_quantile(degrees) * deviation / math.sqrt(len(values))
    return [mean - reach, mean + reach]


def t_quantile(degrees):
    """The 97.5 % point of Student's t: from a table, above 9 by the expansion around Z."""
    if degrees <= len(T_QUANTILES):
        return T_QUANTILES[degrees - 1]
    second = (Z**3 + Z) / 4
    third = (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96
    fourth = (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384
    return Z + second / degrees + third / degrees**2 + fourth / degrees**3
