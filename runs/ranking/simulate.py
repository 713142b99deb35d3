"""How many judge generations does it take to pick a right answer out of N? A simulation without any model.

    python runs/ranking/simulate.py             some minutes on one core; writes simulate.log, table.md and simulate.png beside itself
    python runs/ranking/simulate.py --report    tables and plot again, from the log

N answers, a share of them right (at least one). One generation of the judge compares two answers, and an answer is picked by wins less
losses (equal ones by lot; the Elo of elo.py with its small k ranks alike). `accuracy` is the chance that one generation prefers a right
answer to a wrong one, averaged over such pairs; between two right or two wrong ones it is even. Ways to err:

    fresh       every generation is a new coin
    fixed       the same coin for each generation of a pair: repeating a match changes nothing
    mixed       half of the pairs are fixed, half are fresh
    convincing  right answers have a lead in log odds, and each answer a convincingness, normal with deviation 1 (Bradley-Terry: transitive)
    position    fresh, with 1.0 added to the log odds of whichever answer stands first
    circles     convincing, and 1.0 sin(a_i - a_j) added for random angles a: rock, paper, scissors among the answers

A match is judged in both orders, one generation each, if not said otherwise; knockout with v votes: v in each order. The schedules are
those of schedules.py (stage sizes, pairing rules), written for arrays of trials; a test compares both.
"""

import functools
import json
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from schedules import stage_sizes  # noqa: E402

NOISES = "fresh", "fixed", "mixed", "convincing", "position", "circles"


def sigmoid(x):
    return 0.5 + 0.5 * np.tanh(x / 2)


@functools.cache
def lead_for(accuracy, noise):
    """The log odds of right against wrong that give this accuracy on average over the other differences."""
    draw = np.random.default_rng(0)
    other = np.zeros(1)
    if noise in ("convincing", "circles"):
        other = draw.normal(0, np.sqrt(2), 100_000) + (noise == "circles") * np.sin(
            draw.uniform(0, 2 * np.pi, 100_000)
        )
    if noise == "position":
        other = np.array([1.0, -1.0])
    low, high = 0.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(middle + other).mean() < accuracy else (low, middle)
    return low


class World:
    """A batch of trials: which answers are right, and a judge. Arrays are (trials, ...); i and j are (trials, matches) player numbers."""

    def __init__(self, trials, num_players, share, accuracy, noise, orders=2, drawn=False, seed=0):
        self.rng = np.random.default_rng(seed)
        self.trials, self.num_players, self.noise, self.orders = trials, num_players, noise, orders
        self.row = np.arange(trials)[:, None]
        right = np.arange(num_players) < max(1, round(share * num_players))
        self.right = self.rng.permuted(np.broadcast_to(right, (trials, num_players)), axis=1)
        if drawn:  # each answer by itself: their number varies, and may be none
            self.right = self.rng.random(self.right.shape) < share
        self.value = self.right * lead_for(accuracy, noise)
        if noise in ("convincing", "circles"):
            self.value = self.value + self.rng.normal(0, 1, self.value.shape)
        self.angle = (
            self.rng.uniform(0, 2 * np.pi, self.value.shape) if noise == "circles" else None
        )
        if noise in ("fixed", "mixed"):
            self.coin = self.rng.random((trials, num_players, num_players), dtype=np.float32)
            self.is_fixed = self.rng.random(self.coin.shape, dtype=np.float32) < (
                0.5 if noise == "mixed" else 1
            )

    def play(self, i, j, votes=1):
        """Scores of i: the mean over both orders (or one, drawn by lot) and `votes` generations in each."""
        log_odds = self.value[self.row, i] - self.value[self.row, j]
        if self.angle is not None:
            log_odds = log_odds + np.sin(self.angle[self.row, i] - self.angle[self.row, j])
        bias = 1.0 if self.noise == "position" else 0.0
        first = np.where(self.rng.random(i.shape) < 0.5, bias, -bias) if self.orders == 1 else bias
        chances = [sigmoid(log_odds + first)] + [sigmoid(log_odds - first)] * (self.orders == 2)
        score = sum(self.rng.random(i.shape) < chance for chance in chances * votes) / (
            votes * self.orders
        )
        if self.noise in ("fixed", "mixed"):
            low, high = np.minimum(i, j), np.maximum(i, j)
            settled = (
                self.coin[self.row, low, high] < np.where(i < j, chances[0], 1 - chances[0])
            ) == (i < j)
            score = np.where(self.is_fixed[self.row, low, high], settled, score)
        return score

    def picked_right(self, lead):
        return self.right[
            self.row[:, 0], np.argmax(lead + 1e-6 * self.rng.random(lead.shape), axis=1)
        ]


def add(world, lead, i, j, score, counts=1.0):
    gain = (score - 0.5) * counts
    np.add.at(lead, (np.broadcast_to(world.row, i.shape), i), gain)
    np.add.at(lead, (np.broadcast_to(world.row, j.shape), j), -gain)


def circle_rounds(size):
    """(rounds, size // 2, 2): the circle method on places 0 ... size - 1 (even)."""
    circle, rounds = list(range(size)), []
    for _ in range(size - 1):
        rounds.append(list(zip(circle[: size // 2], circle[: size // 2 - 1 : -1])))
        circle.insert(1, circle.pop())
    return np.array(rounds)


def random_pairs(world, players, count):
    """The first `count` pairs of a round robin among `players` (trials, size), drawn for each trial; (trials, count) twice."""
    rounds, parts = circle_rounds(players.shape[1]), []
    while sum(part.shape[1] for part in parts) < count:
        shuffled = world.rng.permuted(players, axis=1)
        order = np.argsort(world.rng.random((world.trials, len(rounds))), axis=1)[
            :, : -(-count // rounds.shape[1])
        ]
        places = rounds[order].reshape(world.trials, -1, 2)
        parts.append(shuffled[world.row[:, :, None], places])
    pairs = np.concatenate(parts, axis=1)[:, :count]
    return pairs[:, :, 0], pairs[:, :, 1]


def by_lead(world, lead):
    return np.argsort(-(lead + 1e-6 * world.rng.random(lead.shape)), axis=1)


def swiss_round(world, lead, met, size, left):
    """One round as in schedules.leaders_round without repeats; `left`: matches that each trial may still play. Returns i, j, which are played."""
    order, free, left = by_lead(world, lead), np.ones(lead.shape, bool), left.copy()
    place = np.argsort(order, axis=1)
    row, chosen = world.row[:, 0], []
    for index in range(size):
        player = order[:, index]
        active = free[row, player] & (left > 0)
        free[row, player] = False
        cost = np.where(free, met[row, player].astype(np.int32) * 1000 + place, 10**8)
        other = cost.argmin(axis=1)
        active &= free[row, other]
        free[row[active], other[active]] = False
        left -= active
        chosen.append((player, other, active))
    return [np.stack(column, axis=1) for column in zip(*chosen)]


def run(world, schedule, games):
    """Whether each trial picks a right answer after `games` matches."""
    size_all, lead = world.num_players, np.zeros((world.trials, world.num_players))
    everyone = np.broadcast_to(np.arange(size_all), lead.shape)
    if schedule == "full":
        i, j = (
            np.broadcast_to(side, (world.trials, len(side)))
            for side in np.triu_indices(size_all, 1)
        )
        score = world.play(i, j) - 0.5
        for player in range(size_all):
            lead[:, player] = score[:, i[0] == player].sum(axis=1) - score[:, j[0] == player].sum(
                axis=1
            )
        return world.picked_right(lead)
    if schedule == "random":
        i, j = random_pairs(world, everyone, games)
        add(world, lead, i, j, world.play(i, j))
        return world.picked_right(lead)
    met = np.zeros((*lead.shape, size_all), np.int16) if schedule == "swiss" else None
    sizes, used, played, survivors = (
        stage_sizes(size_all, schedule),
        0,
        np.zeros(world.trials, int),
        everyone,
    )
    for stage, size in enumerate(sizes, start=1):
        until = round(games * stage / len(sizes))
        if schedule == "halving":
            inside = np.take_along_axis(lead, survivors, axis=1)
            survivors = np.take_along_axis(survivors, by_lead(world, inside)[:, :size], axis=1)
            if until > used:
                i, j = random_pairs(world, survivors, until - used)
                add(world, lead, i, j, world.play(i, j))
            used = until
        while schedule == "leaders" and used < until:
            order, pairs = by_lead(world, lead), min((size + 1) // 2, until - used)
            i, j = order[:, 0 : 2 * pairs : 2], order[:, 1 : 2 * pairs : 2]
            add(world, lead, i, j, world.play(i, j))
            used += pairs
        while schedule == "swiss" and (played < until).any():
            i, j, active = swiss_round(world, lead, met, size, until - played)
            add(world, lead, i, j, world.play(i, j), active)
            np.add.at(met, (np.broadcast_to(world.row, i.shape), i, j), active)
            np.add.at(met, (np.broadcast_to(world.row, i.shape), j, i), active)
            played += active.sum(axis=1)
    return world.picked_right(lead)


def knockout(world, votes):
    players = world.rng.permuted(
        np.broadcast_to(np.arange(world.num_players), (world.trials, world.num_players)), axis=1
    )
    while players.shape[1] > 1:
        i, j = players[:, 0::2], players[:, 1::2]
        score = world.play(i, j, votes)
        heads = world.rng.random(score.shape) < 0.5
        players = np.where((score > 0.5) | (score == 0.5) & heads, i, j)
    return world.right[world.row[:, 0], players[:, 0]]


def measure(
    method, games, trials, num_players, share, accuracy, noise, orders=2, drawn=False, seed=0
):
    """One row of the log: share of trials that pick a right answer, standard error, generations."""
    hits, chunk = (
        [],
        max(1, min(trials, 2_000_000 // num_players**2)),
    )  # a few dozen megabytes at once
    for start in range(0, trials, chunk):
        world = World(
            min(chunk, trials - start),
            num_players,
            share,
            accuracy,
            noise,
            orders,
            drawn,
            [seed, start, num_players],
        )
        hits.append(knockout(world, games) if method == "knockout" else run(world, method, games))
    hits, total = np.concatenate(hits), num_players * (num_players - 1) // 2
    matches = {"knockout": num_players - 1, "full": total}.get(method, games)
    votes = games if method == "knockout" else 1
    return {
        "noise": noise,
        "n": num_players,
        "share": share,
        "drawn": drawn,
        "accuracy": accuracy,
        "orders": orders,
        "method": method,
        "votes": votes,
        "matches": matches,
        "generations": matches * votes * orders,
        "right": round(float(hits.mean()), 5),
        "se": round(float(hits.std() / np.sqrt(len(hits))), 5),
        "trials": trials,
    }


def all_cells():
    """Arguments of `measure` for the whole study."""
    for n in (8, 16, 32, 64):  # the first tables, 20,000 trials: one coin a match, and both orders
        for orders in (1, 2):
            for share in (0.15, 0.4):
                for accuracy in (0.65, 0.8):
                    for method in ("knockout", "full", "random", "halving", "leaders", "swiss"):
                        for games in {"knockout": (1,), "full": (None,)}.get(
                            method, (3 * n, 5 * n)
                        ):
                            if orders == 1 or method in ("full", "leaders", "halving"):
                                yield method, games, 20_000, n, share, accuracy, "fresh", orders
    for noise in NOISES:
        for n in (8, 16, 32, 64):
            for share in (0.15, 0.4):
                for accuracy in (0.6, 0.65, 0.8, 0.95):
                    for method in ("knockout", "full", "random", "halving", "leaders", "swiss"):
                        for games in {"knockout": (1, 3, 5), "full": (None,)}.get(
                            method, (n, 2 * n, 3 * n, 5 * n)
                        ):
                            yield (
                                method,
                                games,
                                {8: 2000, 16: 2000, 32: 1500, 64: 800}[n],
                                n,
                                share,
                                accuracy,
                                noise,
                                2,
                            )
    for method in (
        "knockout",
        "full",
        "leaders",
    ):  # position bias with one order a match, drawn by lot
        for games in {"knockout": (1, 3), "full": (None,)}.get(method, (96, 160)):
            for share in (0.15, 0.4):
                for accuracy in (0.65, 0.8):
                    yield method, games, 4000, 32, share, accuracy, "position", 1
    for share in (0.15, 0.4):  # the number of right answers drawn as well
        for accuracy in (0.65, 0.8):
            for method in ("knockout", "full", "random", "halving", "leaders", "swiss"):
                for games in {"knockout": (1,), "full": (None,)}.get(method, (96, 160)):
                    yield method, games, 20_000, 32, share, accuracy, "fresh", 1, True


def mean_ratio(rows, method, matches_per_player, n, orders, drawn=False):
    """(mean, smallest) over the cells of right(method) / right(full), fresh coins, the runs with 20,000 trials."""
    rows = [
        row
        for row in rows
        if (row["trials"], row["orders"], row["n"], row["drawn"]) == (20_000, orders, n, drawn)
    ]
    full = {(row["share"], row["accuracy"]): row for row in rows if row["method"] == "full"}
    ratios = []
    for row in rows:
        if row["method"] == method and (
            method == "knockout" or row["matches"] == matches_per_player * n
        ):
            ratios.append(row["right"] / full[row["share"], row["accuracy"]]["right"])
    return np.mean(ratios), min(ratios)


def tables(rows):
    """The tables of README.md as lines."""
    cells = [(share, accuracy) for share in (0.15, 0.4) for accuracy in (0.65, 0.8)]
    for drawn, title in (
        (False, "5 or 13 of 32 answers right"),
        (True, "each answer right with that chance"),
    ):
        fresh = [
            row
            for row in rows
            if (row["trials"], row["orders"], row["n"], row["drawn"]) == (20_000, 1, 32, drawn)
        ]
        yield f"\nN = 32, one coin a match, share right / judge accuracy; {title} (standard errors at most 0.0036):\n"
        yield (
            "| schedule | matches | "
            + " | ".join(f"{share} / {accuracy}" for share, accuracy in cells)
            + " | ratio to full |"
        )
        yield "|---|---|" + "---|" * 5
        for method, matches in dict.fromkeys((row["method"], row["matches"]) for row in fresh):
            right = {
                (row["share"], row["accuracy"]): row["right"]
                for row in fresh
                if (row["method"], row["matches"]) == (method, matches)
            }
            ratio = "{:.3f} ({:.3f})".format(*mean_ratio(rows, method, matches / 32, 32, 1, drawn))
            yield (
                f"| {method} | {matches} | "
                + " | ".join(f"{right[cell]:.3f}" for cell in cells)
                + f" | {ratio} |"
            )
    yield "\nRatio to the round robin, mean (smallest) of these four cells:\n"
    yield (
        "| games a match | schedule | matches | "
        + " | ".join(f"N = {n}" for n in (8, 16, 32, 64))
        + " |\n|---|---|---|"
        + "---|" * 4
    )
    for orders in (1, 2):
        for method in (
            ("knockout", "random", "halving", "leaders", "swiss")
            if orders == 1
            else ("halving", "leaders")
        ):
            for games in (1,) if method == "knockout" else (3, 5):
                ratios = [mean_ratio(rows, method, games, n, orders) for n in (8, 16, 32, 64)]
                label = "N - 1" if method == "knockout" else f"{games}N"
                yield (
                    f"| {orders} | {method} | {label} | "
                    + " | ".join(f"{mean:.3f} ({low:.3f})" for mean, low in ratios)
                    + " |"
                )
    for n in (32, 64):
        yield f"\nN = {n}, both orders, right answers picked, mean of 8 cells (share right 0.15, 0.4; accuracy 0.6 to 0.95):\n"
        yield (
            "| schedule | generations | "
            + " | ".join(NOISES)
            + " |\n|---|---|"
            + "---|" * len(NOISES)
        )
        grid = [
            row for row in rows if row["trials"] < 4000 and row["n"] == n and row["orders"] == 2
        ]
        for method, votes, generations in dict.fromkeys(
            (row["method"], row["votes"], row["generations"]) for row in grid
        ):
            name = f"knockout, {votes} vote{'s' * (votes > 1)}" if method == "knockout" else method
            means = [
                np.mean(
                    [
                        row["right"]
                        for row in grid
                        if (row["method"], row["votes"], row["generations"], row["noise"])
                        == (method, votes, generations, noise)
                    ]
                )
                for noise in NOISES
            ]
            yield (
                f"| {name} | {generations} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |"
            )
    yield "\nPosition bias, N = 32, mean of the four cells of the first table: one order drawn by lot against both orders:\n"
    yield "| schedule | generations, one order | right | generations, both | right |\n|---|---|---|---|---|"
    one = [row for row in rows if row["noise"] == "position" and row["orders"] == 1]
    both = [
        row
        for row in rows
        if row["noise"] == "position"
        and row["orders"] == 2
        and row["n"] == 32
        and row["accuracy"] in (0.65, 0.8)
    ]
    for key in dict.fromkeys((row["method"], row["votes"], row["matches"]) for row in one):
        right = [
            np.mean(
                [
                    row["right"]
                    for row in part
                    if (row["method"], row["votes"], row["matches"]) == key
                ]
            )
            for part in (one, both)
        ]
        cost = key[1] * key[2]
        yield f"| {key[0]}, votes: {key[1]}, matches: {key[2]} | {cost} | {right[0]:.3f} | {2 * cost} | {right[1]:.3f} |"


def plot(rows):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(NOISES), 4, figsize=(14, 17), sharey="row", layout="constrained"
    )
    methods, names = (
        ("knockout", "full", "random", "halving", "leaders", "swiss"),
        ("grey", "black", "brown", "blue", "red", "green"),
    )
    colours = dict(zip(methods, names))
    for noise, line in zip(NOISES, axes):
        for n, axis in zip((8, 16, 32, 64), line):
            for method, colour in colours.items():
                points = {}
                for row in rows:
                    if row["trials"] < 4000 and (
                        row["noise"],
                        row["n"],
                        row["method"],
                        row["orders"],
                    ) == (noise, n, method, 2):
                        points.setdefault(row["generations"], []).append(row["right"])
                axis.plot(
                    *zip(*sorted((x, np.mean(y)) for x, y in points.items())),
                    "o-",
                    color=colour,
                    label=method,
                    markersize=4,
                )
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter("{x:.0f}")
            axis.set_title(f"{noise}, N = {n}")
    axes[0][0].legend(fontsize=8)
    figure.supxlabel("judge generations (both orders counted)")
    figure.supylabel(
        "picks a right answer (mean of 8 cells: share right 0.15, 0.4; accuracy 0.6, 0.65, 0.8, 0.95)"
    )
    figure.savefig(HERE / "simulate.png", dpi=70)


def main():
    begin, rows = time.time(), []
    if (
        "--report" in sys.argv
    ):  # tables and plot from the log: a line of names, lines of values, a line on the run
        names, *lines, _ = [
            json.loads(line) for line in (HERE / "simulate.log").read_text().splitlines()
        ]
        rows = [dict(zip(names, line)) for line in lines]
    else:
        with open(HERE / "simulate.log", "w") as log:
            for seed, cell in enumerate(all_cells()):
                rows.append(measure(*cell, seed=seed))
                print(
                    *[json.dumps(list(rows[0]))] * (seed == 0),
                    json.dumps(list(rows[-1].values())),
                    sep="\n",
                    file=log,
                )
            print(
                json.dumps({"seconds": round(time.time() - begin), "numpy": np.__version__}),
                file=log,
            )
    (HERE / "table.md").write_text("\n".join(tables(rows)) + "\n")
    try:
        plot(rows)
    except ImportError:
        print("no plot: matplotlib is not installed", file=sys.stderr)


if __name__ == "__main__":
    main()
