"""How should a group's matches become rewards? Signal to noise of the advantages, without a model.

    python runs/reward/simulate.py > runs/reward/simulate.log        (15 s on one core)

A group has N answers, each right with the question's probability p. A judge sees a right and a wrong answer and prefers the right one with
probability q; between equals it throws a coin. From its matches come rewards, from rewards advantages, and these are held against those
that the truth gives (1 for right, 0 for wrong, less the group's mean). With c the cosine of all advantages of a batch with the true ones,
signal to noise is c^2 / (1 - c^2): the gradient's energy along the true one over the energy beside it, whatever the scale.

Ways from matches to advantages:
    elo / std        RRM's reward, divided by the group's standard deviation: what a GRPO trainer does by default
    win rate / std   the same with win rates
    win rate         not divided
    shrunk k         win rates shrunk by S / (S + k N) (rewards.match_rewards; SHRINK is k), not divided
    threshold        win rates shrunk by max(0, 1 - N / S), the textbook's estimate of signal / (signal + noise), not divided
"""

import random
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from rewards import SHRINK, draw_matches, match_rewards, num_matches  # noqa: E402

GROUPS, SCHEDULES = 20_000, 20
MIXES = {
    "p spread out": lambda rng, size: rng.beta(
        0.3, 0.3, size
    ),  # many questions nearly always or never solved
    "p = 0.5": lambda rng, size: np.full(size, 0.5),
    "p = 0.1": lambda rng, size: np.full(size, 0.1),
    "3 of 4 groups equal": lambda rng, size: np.where(
        rng.random(size) < 0.75, rng.integers(0, 2, size), 0.5
    ),
}


def play(truth, matches, q, rng, bias=0.0, taste=0.0, both_orders=False):
    """Scores of i, (groups, matches). bias: log-odds for the first place. taste: size of a judge's fixed likings for each answer (log-odds
    too), which no number of games averages out."""
    i, j = np.array(matches).T
    liking = taste * rng.standard_normal(truth.shape)
    odds = (truth[:, i] - truth[:, j]) * np.log(q / (1 - q)) + liking[:, i] - liking[:, j]
    games = [
        rng.random(odds.shape) < 1 / (1 + np.exp(-odds - place))
        for place in ((bias, -bias) if both_orders else (bias,))
    ]
    return np.mean(games, axis=0)


def ways(scores, matches, size):
    """{way: advantages (groups, size)}, vectorised over groups; `check` holds them against rewards.py."""
    i, j = np.array(matches).T
    total, noise = np.zeros((len(scores), size)), np.zeros((len(scores), 1))
    played = np.bincount(np.concatenate((i, j)), minlength=size)
    ratings = np.full((len(scores), size), 1000.0)
    for match, (a, b) in enumerate(matches):
        score = scores[:, match]
        total[:, a] += score
        total[:, b] += 1 - score
        noise[:, 0] += (score - 0.5) ** 2 * (played[a] ** -2.0 + played[b] ** -2.0)
        change = 4 * (score - 1 / (1 + 10 ** ((ratings[:, b] - ratings[:, a]) / 400)))
        ratings[:, a] += change
        ratings[:, b] -= change
    rates = total / played
    centered = rates - rates.mean(1, keepdims=True)
    spread = (centered**2).sum(1, keepdims=True)

    def standardised(values):
        values = values - values.mean(1, keepdims=True)
        return values / (values.std(1, ddof=1, keepdims=True) + 1e-4)

    safe = np.maximum(spread, 1e-12)
    result = {
        "elo / std": standardised((ratings - 1000) / 200 + 0.5),
        "win rate / std": standardised(rates),
        "win rate": centered,
    }
    result |= {
        f"shrunk {k}": centered * spread / np.maximum(spread + k * noise, 1e-12) for k in (1, 2, 4)
    }
    return result | {"threshold": centered * np.maximum(0, 1 - noise / safe)}


def check():
    """The vectorised formulas are those of rewards.py."""
    rng = random.Random(0)
    matches = draw_matches(7, 3, rng)
    scores = np.array([[rng.choice((0.0, 0.5, 1.0)) for _ in matches] for _ in range(50)])
    found = ways(scores, matches, 7)
    for number, row in enumerate(scores):
        played = [(i, j, score) for (i, j), score in zip(matches, row)]
        for scale, way in (("win_rate", "win rate"), ("shrunk", f"shrunk {SHRINK:.0f}")):
            rewards = np.array(match_rewards(played, 7, scale)[0])
            assert np.allclose(rewards - rewards.mean(), found[way][number]), way
        ratings = np.array(match_rewards(played, 7, "elo")[0])
        assert np.allclose(
            (ratings - ratings.mean()) / (ratings.std(ddof=1) + 1e-4), found["elo / std"][number]
        )


def measure(size, opponents, q, mix, **judge):
    """{way: (signal to noise, share of the advantages' energy that lies in groups of equal answers)}"""
    rng, parts, truths = np.random.default_rng(0), {}, []
    for schedule in range(SCHEDULES):
        p = MIXES[mix](rng, GROUPS // SCHEDULES)
        truth = (rng.random((len(p), size)) < p[:, None]).astype(float)
        matches = draw_matches(size, opponents, random.Random(schedule))
        for way, advantages in ways(play(truth, matches, q, rng, **judge), matches, size).items():
            parts.setdefault(way, []).append(advantages)
        truths.append(truth)
    truth = np.concatenate(truths)
    target = truth - truth.mean(1, keepdims=True)
    equal, result = (target == 0).all(1), {}
    for way, advantages in parts.items():
        advantages = np.concatenate(advantages)
        energy = (
            advantages**2
        ).sum() + 1e-9  # with one opponent each, the threshold leaves nothing
        cosine = (advantages * target).sum() / np.sqrt(energy * (target**2).sum())
        result[way] = cosine**2 / (1 - cosine**2), (advantages[equal] ** 2).sum() / energy
    return result


def main():
    check()
    logs, wasted = {}, {}
    print(
        "Signal to noise of the advantages (in brackets: share of their energy in groups whose answers are all right or all wrong)\n"
    )
    for mix in MIXES:
        print(
            f"{mix}\n  N  D  judge "
            + "".join(f"{way:>17}" for way in ways(np.zeros((1, 1)), [(0, 1)], 2))
        )
        for size, opponents in ((8, 2), (8, 4), (8, 7), (16, 4), (16, 15)):
            for q in (0.6, 0.75, 0.9):
                row = measure(size, opponents, q, mix)
                print(
                    f"{size:3} {opponents:2} {q:6.2f} "
                    + "".join(f"{ratio:10.4f} ({waste:.2f})" for ratio, waste in row.values())
                )
                best = max(ratio for ratio, _ in row.values())
                for way, (ratio, waste) in row.items():
                    logs.setdefault(way, []).append(np.log(ratio / best))
                    wasted.setdefault(way, []).append(waste)
    print(
        "\nOver all 60 rows, signal to noise relative to the best way of the row:\n"
        + " " * 17
        + "geometric mean    worst"
    )
    for way, values in logs.items():
        print(f"{way:17} {np.exp(np.mean(values)):14.3f} {np.exp(min(values)):8.3f}")

    print(
        "\nA judge with fixed likings (log-odds of standard deviation 1 an answer), q = 0.9, p spread out, N 8: no rating tells a liking "
        "from quality"
    )
    for opponents in (4, 7):
        row = measure(8, opponents, 0.9, "p spread out", taste=1.0)
        print(
            f"  D {opponents}  "
            + ", ".join(f"{way} {ratio:.3f} ({waste:.2f})" for way, (ratio, waste) in row.items())
        )

    print(
        "\nBoth orders of D opponents, or one order of 2 D, at the same number of judgments (q = 0.75, p spread out, N 8, shrunk)"
    )
    for bias in (0.0, 1.0, 2.0):
        for opponents in (1, 2, 3):
            both = measure(8, opponents, 0.75, "p spread out", bias=bias, both_orders=True)
            one = measure(8, 2 * opponents, 0.75, "p spread out", bias=bias)
            way = f"shrunk {SHRINK:.0f}"
            print(
                f"  log-odds {bias:.0f} for the first place, {8 * opponents:2} judgments: both orders {both[way][0]:.3f}, one order {one[way][0]:.3f}"
            )

    print(
        "\nJudgments a group, one order: "
        + "; ".join(
            f"N {size}: " + ", ".join(f"D {d} {num_matches(size, d)}" for d in (1, 2, 4, size - 1))
            for size in (4, 7, 8, 16)
        )
    )


if __name__ == "__main__":
    main()
