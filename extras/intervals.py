"""Intervals of shares that stay honest where everything is right or everything is wrong."""

import math

import numpy as np

Z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations
EDGE = 10  # a bootstrap needs this many units that are right, and as many that are wrong


def wilson(share, size):
    """Wilson's 95 % interval of a share of `size` independent units: (low, high).

    20 of 20 right: 0.839 to 1. It always has a width, and never leaves [0, 1].
    """
    middle = (share + Z**2 / (2 * size)) / (1 + Z**2 / size)
    spread = math.sqrt(share * (1 - share) / size + Z**2 / (4 * size**2))
    reach = Z * spread / (1 + Z**2 / size)
    return min(share, max(0.0, middle - reach)), max(share, min(1.0, middle + reach))


def share_interval(share, draws, num_units):
    """The 95 % interval of a share, from bootstrap draws of it: (low, high).

    Percentiles of the draws, unless nearly all units agree: draws then miss what has not been seen.
    There it is Wilson's interval. Its size is that of a sample of independent units whose share
    scatters as the draws do, or num_units where the draws do not scatter at all.
    """
    variance = float(np.var(draws)) if len(draws) else 0.0
    size = share * (1 - share) / variance if variance > 1e-12 else num_units
    if size * min(share, 1 - share) < EDGE:
        return wilson(share, max(size, 1))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
