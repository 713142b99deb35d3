"""Ratings and their intervals, against evalica and by hand."""

import json
import math
import os
import random
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import elo as elo_file
import strengths
from elo import (
    bradley_terry,
    elo,
    intransitive_triples,
    rate,
    read_matches,
)

DATA = Path(os.environ.get("RRM_DATA", Path(__file__).parents[2] / "shared" / "data"))


def random_matches(num_players, count, seed, scores=(0.0, 0.5, 1.0)):
    draw = random.Random(seed)
    return [(*draw.sample(range(num_players), 2), draw.choice(scores)) for _ in range(count)]


def peer(matches, num_players, name, **options):
    evalica = pytest.importorskip("evalica")
    winners = [
        {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}[score]
        for _, _, score in matches
    ]
    scores = getattr(evalica, name)(
        [i for i, _, _ in matches], [j for _, j, _ in matches], winners, **options
    ).scores
    return [scores[player] for player in range(num_players)]


@pytest.fixture(scope="module")
def crowd():
    if not (DATA / "crowd" / "llmfao.csv").exists():
        pytest.skip(f"no crowd/llmfao.csv in {DATA}")
    return read_matches(DATA / "crowd" / "llmfao.csv")


# ---- Elo ----


def test_elo_by_hand():
    # Even players: the winner gains k / 2.
    # Then 1002 meets 1000: expected 1 / (1 + 10 ** (-2 / 400)) = 0.502878...
    assert elo([(0, 1, 1.0)], 3) == [1002.0, 998.0, 1000.0]
    expected = 1 / (1 + 10 ** (-2 / 400))
    assert elo([(0, 1, 1.0), (2, 0, 0.25)], 3) == pytest.approx(
        [1002 + 4 * (0.75 - expected), 998, 1000 - 4 * (0.75 - expected)], abs=1e-9
    )
    assert elo([(0, 1, 1.0)], 2, k=32, initial=0, scale=100, base=2) == [16.0, -16.0]


def test_elo_of_pizza_burger_sushi():
    # The example of evalica's README, K = 30:
    # pizza beats burger, burger loses to sushi, pizza and sushi draw.
    ratings = elo([(0, 1, 1.0), (1, 2, 0.0), (0, 2, 0.5)], 3, k=30)
    assert ratings == pytest.approx([1014.972058, 970.647200, 1014.380742], abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_elo_equals_evalica(seed):
    matches = random_matches(12, 500, seed)
    assert elo(matches, 12) == pytest.approx(peer(matches, 12, "elo"), abs=1e-6)
    assert elo(matches, 12, k=30.0) == pytest.approx(peer(matches, 12, "elo", k=30.0), abs=1e-6)


def test_crowd_votes_equal_evalica(crowd):
    matches, names = crowd
    assert (len(matches), len(names)) == (8931, 59)
    assert [sum(score == s for _, _, score in matches) for s in (1.0, 0.0, 0.5)] == [
        2911,
        2549,
        3471,
    ]
    assert elo(matches, 59) == pytest.approx(peer(matches, 59, "elo"), abs=1e-6)
    assert bradley_terry(matches, 59) == pytest.approx(
        centred_logs(peer(matches, 59, "bradley_terry", tolerance=1e-12, limit=100_000)), abs=1e-6
    )


def test_many_players_have_the_strengths_and_intervals_of_few():
    """600 players go by conjugate gradients and draws; by the dense matrix they come out equal."""
    matches = random_matches(600, 12_000, 0, (0.0, 1.0))
    i, j, score = elo_file.match_columns(matches, 600)
    pairs = strengths.add_up(i, j, score, 600)
    results = []
    for dense in 0, 1000:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(strengths, "DENSE", dense)
            fit = strengths.fit_strengths(pairs)
            results.append((fit.strengths, *strengths.intervals(pairs, fit)))
    assert not fit.weak.any()
    sparse, exact = np.array(results)
    assert np.abs(sparse[0] - exact[0]).max() < 1e-8
    widths = (sparse[2] - sparse[1]) / (exact[2] - exact[1])
    assert widths.min() > 0.97 and widths.max() < 1.03
    # a ladder, where players meet neighbours alone
    i = np.arange(599).repeat(4)
    pairs = strengths.add_up(i, i + 1, np.tile([1.0, 0.0], 1198), 600)
    fit = strengths.fit_strengths(pairs)
    low, high = strengths.intervals(pairs, fit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strengths, "DENSE", 1000)
        exact_low, exact_high = strengths.intervals(pairs, fit)
    assert np.abs((high - low) / (exact_high - exact_low) - 1).max() < 0.15
    chain = [(player, player + 1, score) for player in range(999) for score in (1.0, 1.0, 0.0)]
    steps = np.diff(bradley_terry(chain, 1000))  # a thousand players in a row
    assert steps == pytest.approx([-math.log(2)] * 999, abs=1e-7)


def test_a_hundred_thousand_matches_in_a_second_or_so():
    matches = random_matches(100, 100_000, 0)
    start = time.process_time()
    elo(matches, 100), bradley_terry(matches, 100)
    assert time.process_time() - start < 4  # about 0.3 s on an idle core


def test_thousands_of_players_equal_evalica():
    matches = random_matches(2000, 60_000, 0, (0.0, 1.0))
    start = time.process_time()
    found = bradley_terry(matches, 2000)
    assert time.process_time() - start < 3  # about 0.3 s
    expected = peer(matches, 2000, "bradley_terry", tolerance=1e-12, limit=100_000)
    assert found == pytest.approx(centred_logs(expected), abs=1e-8)
    start = time.process_time()
    assert len(rate(matches, 2000)) == 2000
    assert time.process_time() - start < 10  # about 1 s


def test_elo_never_overflows():
    ratings = elo([(0, 1, 1.0), (1, 0, 1.0)] * 50, 2, k=1e9)
    assert all(map(math.isfinite, ratings))


# ---- Bradley-Terry ----


def centred_logs(scores):
    logs = np.log(scores)
    return (logs - logs.mean()).tolist()


def test_two_players_by_hand():
    assert bradley_terry([(0, 1, 1.0)] * 3 + [(0, 1, 0.0)], 2) == pytest.approx(
        [math.log(3) / 2, -math.log(3) / 2], abs=1e-12
    )
    assert bradley_terry([(0, 1, 0.75)], 2) == pytest.approx(
        [math.log(3) / 2, -math.log(3) / 2], abs=1e-12
    )  # a soft score is a share
    assert bradley_terry([(0, 1, 0.5)], 2) == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_bradley_terry_equals_evalica_on_strongly_connected_sets(seed):
    cycle = [(player, (player + 1) % 9, 1.0) for player in range(9)]  # makes it so
    matches = cycle + random_matches(9, 100, seed)
    assert bradley_terry(matches, 9) == pytest.approx(
        centred_logs(peer(matches, 9, "bradley_terry", tolerance=1e-12, limit=100_000)), abs=1e-9
    )


def test_the_likelihood_has_no_slope_at_the_solution():
    # A chain in which player p beats p + 1 in 99 of 100 matches:
    # strengths from +50 to -50, known exactly.
    matches = [(p, p + 1, 0.99) for p in range(22)]
    steps = np.diff(bradley_terry(matches, 23))
    assert steps == pytest.approx([-math.log(99)] * 22, abs=1e-9)


def test_one_who_won_all():
    with pytest.warns(UserWarning, match="draw against"):
        strengths = bradley_terry([(0, 1, 1.0)], 2)
    # 1 - P(2s) = P(s) - 1/2, with P the logistic function:
    # the draw against strength 0 holds the winner back.
    top = strengths[0]
    assert 1 / (1 + math.exp(2 * top)) == pytest.approx(
        1 / (1 + math.exp(-top)) - 0.5, abs=1e-9
    ) and strengths[1] == pytest.approx(-top)


def test_unplayed_and_disconnected_players():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # each component has its maximum: no prior, no warning
        strengths = bradley_terry([(0, 1, 0.75), (3, 4, 0.25)], 6)
    half = math.log(3) / 2
    assert strengths == pytest.approx([half, -half, 0, -half, half, 0], abs=1e-12)
    assert bradley_terry([], 3) == [0, 0, 0] and bradley_terry([], 0) == []
    with pytest.warns(UserWarning):  # the prior of one component does not touch the other
        assert bradley_terry([(0, 1, 0.75), (2, 3, 1.0)], 4)[:2] == pytest.approx(
            [half, -half], abs=1e-12
        )


# ---- properties of both ----

SCORES = st.floats(0, 1).map(lambda score: round(score, 3)) | st.sampled_from([0.0, 0.5, 1.0])
MATCHES = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), SCORES).filter(
        lambda match: match[0] != match[1]
    ),
    max_size=30,
)


def ratings_of(matches):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [elo(matches, 7), bradley_terry(matches, 7)]


@settings(deadline=None, max_examples=60)
@given(MATCHES, st.permutations(range(7)))
def test_ratings_follow_the_players(matches, names):
    renamed = ratings_of([(names[i], names[j], score) for i, j, score in matches])
    for before, after in zip(ratings_of(matches), renamed):
        assert [after[names[player]] for player in range(7)] == pytest.approx(before, abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(MATCHES)
def test_reversed_results_reverse_the_ratings(matches):
    for centre, one, other in zip(
        (1000, 0), ratings_of(matches), ratings_of([(i, j, 1 - score) for i, j, score in matches])
    ):
        assert other == pytest.approx([2 * centre - rating for rating in one], abs=1e-6)
    for one, other in zip(
        ratings_of(matches), ratings_of([(j, i, 1 - score) for i, j, score in matches])
    ):
        assert other == pytest.approx(one, abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(MATCHES)
def test_nothing_is_nan(matches):
    for ratings in ratings_of(matches):
        assert all(map(math.isfinite, ratings))
    assert ratings_of(matches)[1] == pytest.approx(
        ratings_of(matches[::-1])[1], abs=1e-6
    )  # Bradley-Terry: no matter in which order
    rows = rate(matches, 7)
    json.dumps(rows, allow_nan=False)
    assert sorted(row["player"] for row in rows) == list(range(7))


@pytest.mark.parametrize(
    "match",
    [
        (0, 3, 1.0),
        (-1, 0, 1.0),
        (1, 1, 1.0),
        (0, 1, 2),
        (0, 1, -0.1),
        (0, 1, math.nan),
        (0.5, 1, 1.0),
    ],
)
def test_impossible_matches_are_refused(match):
    for function in elo, bradley_terry:
        with pytest.raises(ValueError):
            function([(0, 1, 1.0), match], 3)


# ---- intervals, ranks, triples ----


def row_of(matches, num_players, player=0):
    return next(row for row in rate(matches, num_players) if row["player"] == player)


def test_intervals_narrow_with_the_square_root_of_the_matches():
    matches = [(0, 1, float(number % 4 > 0)) for number in range(400)]
    row, other = row_of(matches, 2), row_of(matches, 2, 1)
    # Delta method: the log odds of 300 of 400 have standard error sqrt(1 / 300 + 1 / 100).
    # A strength is half of that.
    width = 2 * 1.96 * math.sqrt(1 / 300 + 1 / 100) / 2
    assert row["high"] - row["low"] == pytest.approx(width, rel=0.02)
    assert row["low"] < math.log(3) / 2 < row["high"] and other["low"] == pytest.approx(
        -row["high"]
    )
    scale = 400 / math.log(10)
    for on_scale, natural in ("rating", "strength"), ("rating_low", "low"), ("rating_high", "high"):
        assert row[on_scale] == pytest.approx(1000 + scale * row[natural])


@pytest.mark.parametrize("count", [1, 5, 20])
def test_one_who_won_every_match_has_a_lower_end(count):
    """By hand: 20 of 20 is likely enough if log P^20 > -3.84 / 2 (1 + 2 / 20)."""
    row = row_of([(0, 1, 1.0)] * count, 2)
    chance = math.exp(-3.8415 / 2 * (1 + 2 / count) / count)
    assert row["low"] == pytest.approx(math.log(chance / (1 - chance)) / 2, abs=0.02)
    assert row["low"] < row["strength"] < 7 < row["high"] < 13


def test_two_players_have_the_interval_of_the_likelihood():
    for wins in range(1, 12):
        row = row_of([(0, 1, 1.0)] * wins + [(0, 1, 0.0)] * (12 - wins), 2)

        def log_likelihood(strength, wins=wins):
            chance = 1 / (1 + math.exp(-2 * strength))
            return wins * math.log(chance) + (12 - wins) * math.log(1 - chance)

        for end in row["low"], row["high"]:
            drop = log_likelihood(row["strength"]) - log_likelihood(end)
            assert drop == pytest.approx(3.8415 / 2 * (1 + 2 / 12), rel=0.01)


def test_draws_and_votes_count_as_less_than_wins():
    """200 matches of two equal players: wins and losses, half of them draws, means of 4 games."""
    decided = [(0, 1, float(number % 2)) for number in range(200)]
    drawn = [(0, 1, 0.5)] * 100 + decided[:100]
    votes = [(0, 1, score) for score in (0, 0.25, 0.25, 0.5, 0.5, 0.5, 0.75, 0.75, 1)] * 22
    widths = [
        row["high"] - row["low"]
        for row in (row_of(matches, 2) for matches in (decided, drawn, votes))
    ]
    assert widths[1] / widths[0] == pytest.approx(math.sqrt(0.5), rel=0.02)
    assert widths[2] / widths[0] == pytest.approx(math.sqrt(1 / 3 * 200 / 198), rel=0.05)
    only_draws = row_of([(0, 1, 0.5)] * 20, 2)
    assert -0.25 < only_draws["low"] < -0.1 and 0.1 < only_draws["high"] < 0.25


@settings(deadline=None, max_examples=60)
@given(MATCHES)
def test_a_point_lies_in_its_interval_and_every_interval_has_a_width(matches):
    for row in rate(matches, 7):
        assert row["low"] < row["strength"] < row["high"] and row["high"] - row["low"] > 0.05
        assert row["low"] > -20 and row["high"] < 20


def test_a_rank_counts_the_intervals_above():
    clear = [
        (i, j, float(number % 10 > 0))
        for i in range(3)
        for j in range(i + 1, 3)
        for number in range(200)
    ]
    assert [(row["player"], row["rank"]) for row in rate(clear, 3)] == [(0, 1), (1, 2), (2, 3)]
    level = [(0, 1, float(number % 2)) for number in range(20)] + [
        match for match in clear if 2 in match
    ]
    assert [(row["player"], row["rank"]) for row in rate(level, 3)] == [(0, 1), (1, 1), (2, 3)]
    row = {row["player"]: row for row in rate(clear, 4)}
    assert row[0]["win_rate"] == 0.9 and row[0]["matches"] == 400
    assert row[3]["win_rate"] is row[3]["rank"] is None and row[3]["group"] == 2
    for rows in (
        rate(random_matches(9, 60, seed, (0.0, 1.0)) + [(9, 10, 1.0)], 11) for seed in range(5)
    ):
        for row in rows:
            above = [
                other
                for other in rows
                if other["group"] == row["group"] and other["low"] > row["high"]
            ]
            assert row["rank"] == 1 + len(above)


def test_separate_groups_are_never_ranked_against_each_other(tmp_path, capsys):
    """a and b met 40 times, c, d and e a few times: three is the larger group, b is still 2nd."""
    lines = ["a,b,1"] * 35 + ["b,a,1"] * 5 + ["c,d,1", "d,c,1", "d,e,1", "e,d,1"]
    path = str(tmp_path / "m.csv")
    Path(path).write_text("\n".join(["i,j,score", *lines]))
    matches, names = read_matches(path)
    rows = {names[row["player"]]: row for row in rate(matches, 5)}
    assert [rows[name]["group"] for name in "abcde"] == [2, 2, 1, 1, 1]
    assert [rows[name]["rank"] for name in "abcde"] == [1, 2, 1, 1, 1]
    elo_file.main(["--matches", path, "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["best"] is None and [row["player"] for row in result["ranking"]][3:] == ["a", "b"]
    elo_file.main(["--matches", path])
    table = capsys.readouterr().out
    out = tmp_path / "ratings.csv"
    elo_file.main(["--matches", path, "--json", "--out", str(out)])
    assert json.loads(capsys.readouterr().out) == result
    sheet = [line.split(",") for line in out.read_text(encoding="utf-8-sig").splitlines()]
    assert sheet[0] == list(result["ranking"][0])
    assert [line[0] for line in sheet[1:]] == [row["player"] for row in result["ranking"]]
    assert "group 1, which has no matches with the others" in table and "group 2" in table


def test_circles():
    circle = [(0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0)]
    assert intransitive_triples(circle, [0, 0, 0]) == {
        "decided": 1,
        "intransitive": 1,
        "expected": pytest.approx(1 / 4),
    }
    line = [(0, 1, 1.0), (1, 2, 0.75), (2, 0, 0.0), (2, 3, 0.5)]
    p, q, r = (
        1 / (1 + math.exp(-1)),
        1 / (1 + math.exp(-0.5)),
        1 / (1 + math.exp(-2)),
    )  # the second lead is half a match
    expected = p * q * (1 - r) + (1 - p) * (1 - q) * r
    assert intransitive_triples(line, [1, 0, -1, 0]) == {
        "decided": 1,
        "intransitive": 0,
        "expected": pytest.approx(expected),
    }


def test_expected_circles_are_those_of_a_bradley_terry_judge():
    draw, strengths = np.random.default_rng(0), np.linspace(-1, 1, 8)
    matches = [
        (i, j, float(draw.random() < 1 / (1 + math.exp(strengths[j] - strengths[i]))))
        for i in range(8)
        for j in range(i)
    ]
    expected = intransitive_triples(matches, strengths)["expected"]
    counts = []
    for _ in range(300):
        again = [
            (i, j, float(draw.random() < 1 / (1 + math.exp(strengths[j] - strengths[i]))))
            for i in range(8)
            for j in range(i)
        ]
        counts.append(intransitive_triples(again, strengths)["intransitive"])
    assert abs(np.mean(counts) - expected) < 4 * np.std(counts) / math.sqrt(300)
