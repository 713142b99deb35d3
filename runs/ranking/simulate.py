"""How many judge generations does it take to pick a right answer out of 32? No model is needed.

    python runs/ranking/simulate.py --report     the table of docs/ranking.md, from simulate.log
    python runs/ranking/simulate.py 200          plays it anew, 200 trials a cell; 4 minutes

The simulated judge prefers a right answer to a wrong one with probability `accuracy`; between two
right or two wrong answers it is even. Its errors are

    fresh    a new coin for every generation
    fixed    one coin for all generations of a pair: repeating a match changes nothing
    mixed    half of the pairs are fixed, half are fresh

A match is judged in both orders, one generation each; a knockout may have more votes in each order.
"""

import itertools
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from measures import markdown_table, mean, read_rows  # noqa: E402
from replay import pick  # noqa: E402

SHARE_FIXED = {"fresh": 0.0, "fixed": 1.0, "mixed": 0.5}
NUM_PLAYERS, SHARES_RIGHT, ACCURACIES = 32, (0.15, 0.4), (0.6, 0.65, 0.8, 0.95)
METHODS = [("knockout", votes, NUM_PLAYERS - 1) for votes in (1, 3, 5)]  # schedule, votes, matches
METHODS.append(("full", 1, NUM_PLAYERS * (NUM_PLAYERS - 1) // 2))
for schedule in ("random", "halving", "leaders", "swiss"):
    METHODS += [(schedule, 1, per_player * NUM_PLAYERS) for per_player in (1, 2, 3, 5)]


def simulated_play(num_right, accuracy, noise, votes, seed):
    """A `play` for schedules. The players 0 to num_right - 1 are right."""
    rng = random.Random(f"{num_right} {accuracy} {noise} {votes} {seed}")
    fixed = {}  # pair -> the score of its first player; None where errors are fresh

    def score(i, j):
        if i > j:
            return 1 - score(j, i)
        chance = 0.5 if (i < num_right) == (j < num_right) else accuracy
        if (i, j) not in fixed:
            is_fixed = rng.random() < SHARE_FIXED[noise]
            fixed[i, j] = float(rng.random() < chance) if is_fixed else None
        if fixed[i, j] is not None:
            return fixed[i, j]
        return mean(rng.random() < chance for _ in range(2 * votes))

    return lambda pairs: [score(i, j) for i, j in pairs]


def measure(method, share, accuracy, noise, trials):
    """How often a right answer is picked, as a row of simulate.log."""
    schedule, votes, matches = method
    num_right, hits = round(share * NUM_PLAYERS), 0
    games = None if schedule in ("knockout", "full") else matches
    for seed in range(trials):
        play = simulated_play(num_right, accuracy, noise, votes, seed)
        hits += pick(NUM_PLAYERS, schedule, games, play, seed) < num_right
    row = {"method": schedule, "votes": votes, "matches": matches, "noise": noise}
    return row | {"right": hits / trials}


def table(rows):
    """Right answers picked: the mean over shares of right answers and accuracies."""
    lines = []
    for schedule, votes, matches in METHODS:
        line = [schedule, votes, 2 * votes * matches]
        for noise in SHARE_FIXED:
            cell = {"method": schedule, "votes": votes, "matches": matches, "noise": noise}
            right = mean(row["right"] for row in rows if cell.items() <= row.items())
            line.append(f"{right:.3f}")
        lines.append(line)
    return markdown_table(["schedule", "votes", "generations", *SHARE_FIXED], lines)


def read_log():
    """The rows of simulate.log that the table needs; 1,500 trials each."""
    names, *lines, _ = read_rows(HERE / "simulate.log")
    rows = [dict(zip(names, line)) for line in lines]
    wanted = {"n": NUM_PLAYERS, "orders": 2, "trials": 1500}
    return [row for row in rows if wanted.items() <= row.items()]


def play_all(trials):
    cells = itertools.product(METHODS, SHARES_RIGHT, ACCURACIES, SHARE_FIXED)
    return [measure(*cell, trials) for cell in cells]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(table(read_log() if sys.argv[1] == "--report" else play_all(int(sys.argv[1]))))
