"""Ratings against evalica and by hand, schedules, the files that elo.py reads, and its command."""

import gzip
import importlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import elo as elo_file
import strengths
from cli import BadInput
from elo import (
    bradley_terry,
    elo,
    intransitive_triples,
    rate,
    read_matches,
    run_schedule,
)

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("RRM_DATA", Path(__file__).parents[2] / "shared" / "data"))
ADAPTIVE = ["halving", "leaders", "swiss"]


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
    start = time.perf_counter()
    elo(matches, 100), bradley_terry(matches, 100)
    assert time.perf_counter() - start < 4  # about 0.3 s on an idle core


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
    path = write(tmp_path, "\n".join(["i,j,score", *lines]))
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


# ---- schedules ----


def by_number(pairs):
    """The player with the larger number wins."""
    return [float(i > j) for i, j in pairs]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(0, 3))
def test_full_is_every_pair_once(num_players, seed):
    matches = run_schedule(num_players, by_number, seed=seed)
    assert sorted(tuple(sorted(match[:2])) for match in matches) == [
        (i, j) for i in range(num_players) for j in range(i + 1, num_players)
    ]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 33),
    st.integers(1, 150),
    st.sampled_from(["random", *ADAPTIVE]),
    st.integers(0, 3),
)
def test_schedules_spend_their_games(num_players, games, schedule, seed):
    rounds = []
    matches = run_schedule(
        num_players, lambda pairs: rounds.append(pairs) or by_number(pairs), schedule, games, seed
    )
    assert len(matches) == games and all(i != j for i, j, _ in matches)
    assert [pair for pairs in rounds for pair in pairs] == [match[:2] for match in matches]
    again = run_schedule(num_players, by_number, schedule, games, seed)
    assert again == matches
    met = [frozenset(match[:2]) for match in matches]
    if schedule == "random" and games <= num_players * (num_players - 1) // 2:
        assert len(set(met)) == games


def test_random_is_balanced_and_defaults_to_three_a_player():
    matches = run_schedule(16, by_number, "random", seed=1)
    played = [sum(player in match[:2] for match in matches) for player in range(16)]
    assert len(matches) == 48 and set(played) == {6}


@pytest.mark.parametrize("schedule", ["full", *ADAPTIVE])
@pytest.mark.parametrize("num_players", [2, 3, 7, 16, 33])
def test_a_judge_without_error_finds_the_best(schedule, num_players):
    for seed in range(5):
        matches = run_schedule(num_players, by_number, schedule, seed=seed)
        assert int(np.argmax(elo(matches, num_players))) == num_players - 1


def test_swiss_repeats_a_pair_only_when_all_are_met():
    matches, met = (
        run_schedule(12, by_number, "swiss", games=30, seed=0),
        {player: set() for player in range(12)},
    )
    for number, (i, j, _) in enumerate(matches):
        if j in met[i]:
            assert number > 18 and 11 in (
                len(met[i]),
                len(met[j]),
            )  # the leader has met everybody by then
        met[i].add(j)
        met[j].add(i)
    again = run_schedule(12, by_number, "leaders", games=30, seed=0)
    assert len({frozenset(match[:2]) for match in again}) < len(
        {frozenset(match[:2]) for match in matches}
    )


def test_halving_stages():
    rounds = []
    run_schedule(
        16, lambda pairs: rounds.append(pairs) or by_number(pairs), "halving", games=64, seed=0
    )
    seen = [len({player for pair in pairs for player in pair}) for pairs in rounds]
    assert [
        sum(len(pairs) for pairs, players in zip(rounds, seen) if players == size)
        for size in (16, 8, 4, 2)
    ] == [16] * 4


@pytest.mark.parametrize(
    "arguments", [(0, "full", None), (4, "best", None), (4, "full", 6), (4, "random", 0)]
)
def test_impossible_schedules(arguments):
    num_players, schedule, games = arguments
    with pytest.raises(ValueError):
        run_schedule(num_players, by_number, schedule, games)


def test_a_play_that_returns_nonsense():
    with pytest.raises(ValueError):
        run_schedule(4, lambda pairs: [1.0], "full")
    with pytest.raises(ValueError):
        run_schedule(4, lambda pairs: [2.0] * len(pairs), "full")


# ---- files ----


def write(tmp_path, text, name="m.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def test_formats_agree(tmp_path):
    expected = [(0, 1, 1.0), (1, 2, 0.0), (0, 2, 0.5)], ["pizza", "burger", "sushi"]
    rows = [("pizza", "burger", "left"), ("burger", "sushi", "right"), ("pizza", "sushi", "tie")]
    assert (
        read_matches(
            write(
                tmp_path, "id,left,right,winner\n" + "".join(f"7,{','.join(row)}\n" for row in rows)
            )
        )
        == expected
    )
    lines = "\n".join(json.dumps(dict(zip(("left", "right", "winner"), row))) for row in rows)
    assert read_matches(write(tmp_path, lines + "\n\n")) == expected
    assert (
        read_matches(
            write(
                tmp_path,
                "\ufeffi, j, score\r\npizza, burger, 1\r\n"
                "burger, sushi, 0.0\r\npizza, sushi, 5e-1\r\n",
            )
        )
        == expected
    )
    arena = {"left": "model_a", "right": "model_b", "tie": "tie (bothbad)"}
    objects = [
        {"model_a": i, "model_b": j, "turn": 1, "winner": arena[word]} for i, j, word in rows
    ]
    assert read_matches(write(tmp_path, json.dumps(objects), "arena.json")) == expected
    zipped = gzip.compress(json.dumps(objects).encode())
    (tmp_path / "arena.json.gz").write_bytes(zipped)
    assert read_matches(tmp_path / "arena.json.gz") == expected
    pyarrow = pytest.importorskip("pyarrow")
    columns = pyarrow.Table.from_pylist(objects)
    importlib.import_module("pyarrow.parquet").write_table(columns, tmp_path / "arena.parquet")
    assert read_matches(str(tmp_path / "arena.parquet")) == expected
    for tie in "tie", "both_bad":
        text = f"winner,model_a,model_b\nmodel_a, 007 ,7\n{tie},7,007\n"
        assert read_matches(write(tmp_path, text)) == ([(0, 1, 1.0), (1, 0, 0.5)], ["007", 7])
    numbers = '{"i": 4, "j": "0", "score": 1}\n{"i": 0, "j": 2, "score": 0.25}\n'
    assert read_matches(write(tmp_path, numbers)) == ([(0, 1, 1.0), (1, 2, 0.25)], [4, 0, 2])
    assert read_matches(write(tmp_path, numbers), list("abcde")) == (
        [(4, 0, 1.0), (0, 2, 0.25)],
        list("abcde"),
    )


BAD_FILES = {
    "empty": ("", "holds no matches"),
    "header only": ("i,j,score\n", "holds no matches"),
    "score 2": ("i,j,score\n0,1,1\n0,1,2\n", "line 3: score is '2'"),
    "nan": ("i,j,score\n0,1,nan\n", "line 2: score is 'nan'"),
    "json nan": ('{"i": 0, "j": 1, "score": NaN}', "line 1: score is nan"),
    "true": ('{"i": 0, "j": 1, "score": true}', "line 1: score is True"),
    "dots": ("i,j,score\n0,1,1.2.3\n", "line 2: score"),
    "infinite": ("i,j,score\n0,1,1e999\n", "line 2: score"),
    "no score": ("i,j,score\n0,1\n", "line 2: does not fit line 1"),
    "negative": ("i,j,score\n0,-1,1\n", "line 2: j is -1"),
    "no player": ("i,j,score\n,1,1\n", "line 2: i is ''"),
    "null": ('{"i": null, "j": 1, "score": 1}', "line 1: i is None"),
    "list": ('{"i": [1], "j": 1, "score": 1}', "line 1: i is [1]"),
    "fraction": ('{"i": 0.5, "j": 1, "score": 1}', "line 1: i is 0.5"),
    "itself": ("i,j,score\n0,1,1\n\n2,2,1\n", "line 4: 2 plays against itself"),
    "winner": (
        "left,right,winner\na,b,left\na,b,model_a\n",
        "line 3: winner is 'model_a': expected left or right or tie",
    ),
    "winner of another type": ('{"left": "a", "right": "b", "winner": 1}', "line 1: winner is 1"),
    "column": (
        "i,j,result\n0,1,1\n",
        "line 1: columns are i, j, result: expected one of i, j, score or left, right, winner or",
    ),
    "two meanings": (
        "i,j,score,left,right,winner\na,b,1,a,b,right\n",
        "line 1: columns are i, j, score, left, right, winner: expected one of",
    ),
    "no header": ("ann,bob,left\n", "line 1: columns are ann, bob, left"),
    "spread": ('i,j\n"a\nb",1\n', "line 1: columns are i, j:"),
    "half a line": ('{"i": 0, "j": 1, "score": 1}\n{"i": 0', "line 2"),
    "json list": ("[[0, 1, 1]]", "row 1: [0, 1, 1]: expected an object"),
    "arena": (
        "model_a,model_b,winner\na,b,tie\na,b,draw\n",
        "line 3: winner is 'draw': expected model_a or model_b or tie or tie (bothbad)",
    ),
    "missing field": ('{"i": 0, "j": 1, "score": 1}\n{"i": 0, "score": 1}', "line 2"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_malformed_files_are_refused_by_line(name, tmp_path):
    text, words = BAD_FILES[name]
    with pytest.raises(BadInput) as refusal:
        read_matches(write(tmp_path, text))
    assert (
        "m.csv" in str(refusal.value)
        and words in str(refusal.value)
        and "\n" not in str(refusal.value)
    )


@pytest.mark.parametrize("player", ["3", "fig", "99999999999999999999"])
def test_unknown_players_are_refused(player, tmp_path):
    with pytest.raises(BadInput, match=f"line 2: unknown player .*{player}.*players 0 to 2"):
        read_matches(write(tmp_path, f"i,j,score\n0,{player},1\n"), ["a", "b", "c"])


# ---- command ----

QUICK = [
    "--query",
    "347+586",
    "--max_completion_length",
    "60",
    "--device",
    "cpu",
    "--dtype",
    "float32",
]
WORDS = ["fig", "ice", "date", "apple", "bean"]


def command(*arguments, script="elo.py", **environment):
    words = [sys.executable, ROOT / script, *map(str, arguments)]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment,
    )


def test_rating_a_file_needs_no_torch(tmp_path):
    path = write(
        tmp_path,
        "left,right,winner\npizza,burger,left\nburger,sushi,right\npizza,sushi,tie\nsushi,burger,left\n",
    )
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "torch.py").write_text("raise SystemExit('torch was imported')")
    done = command("--matches", path, "--json", PYTHONPATH=str(tmp_path / "no"))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (
        result["num_matches"] == 4 and result["best"] == result["ranking"][0]["player"] == "sushi"
    )
    matches, names = read_matches(path)
    with pytest.warns(UserWarning):
        strengths = bradley_terry(matches, 3)
    rows = {row["player"]: row for row in result["ranking"]}
    assert [rows[name]["elo"] for name in names] == pytest.approx(elo(matches, 3))
    assert [rows[name]["strength"] for name in names] == pytest.approx(strengths)
    assert rows["burger"]["win_rate"] == 0 and rows["burger"]["matches"] == 3
    table = command("--matches", path)
    assert (
        table.stdout.startswith("rating: Bradley-Terry on the scale of Elo")
        and table.stdout.count("\n") == 6
    )
    assert "no circles to look for" in table.stdout and "draw against strength 0" in table.stderr
    order = [line.split()[-1] for line in table.stdout.splitlines()[2:5]]
    assert (
        order
        == [row["player"] for row in result["ranking"]]
        == sorted(names, key=lambda name: -rows[name]["strength"])
    )


STANDALONE = """
import sys
from pathlib import Path
import elo
import tournament
own = lambda: sorted(
    name for name, module in sys.modules.items()
    if getattr(module, "__file__", None)
    and Path(module.__file__).parent == Path(elo.__file__).parent
)
imported = own()
elo.main(["--matches", sys.argv[1]])
assert own() == imported, own()
print(*imported, "torch" in sys.modules)
"""


def test_ratings_and_knockouts_stand_alone(tmp_path):
    """Seven files without the others are enough to import both modules and to rate a file."""
    files = ["cli", "elo", "match_files", "schedules", "strengths", "tables", "tournament"]
    for name in files:
        shutil.copy(ROOT / f"{name}.py", tmp_path)
    matches = write(tmp_path, "i,j,score\n0,1,1\n1,0,1\n")
    done = subprocess.run(
        [sys.executable, "-c", STANDALONE, matches], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{' '.join(files)} False"


def test_an_interrupted_ranking_resumes_and_other_schedules_use_its_matches(tmp_path):
    candidates, cache = write(tmp_path, "\n".join(WORDS), "c.txt"), tmp_path / "cache.jsonl"
    once = command(*QUICK, "--candidates", candidates, "--json")
    assert once.returncode == 0, once.stderr
    result = json.loads(once.stdout)
    assert result["num_matches"] == 10 and sorted(
        row["text"] for row in result["ranking"]
    ) == sorted(WORDS)
    strengths = [round(row["strength"], 9) for row in result["ranking"]]
    assert strengths == sorted(
        strengths, reverse=True
    )  # as with --matches; the best answer is the one with the highest Elo
    assert result["best"] == max(result["ranking"], key=lambda row: row["elo"])["player"]

    whole = command(*QUICK, "--candidates", candidates, "--json", "--cache", cache)
    lines = cache.read_bytes().splitlines(keepends=True)
    assert json.loads(whole.stdout) == result and len(lines) == 10
    cache.write_bytes(b"".join(lines[:4]) + lines[4][:20])  # killed while writing the fifth
    again = command(*QUICK, "--candidates", candidates, "--json", "--cache", cache)
    assert json.loads(again.stdout) == result and cache.read_bytes() == b"".join(lines)

    # Every match is known now: another order of the candidates and the other command need no
    # judge, hence no torch.
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "torch.py").write_text("raise SystemExit('torch was imported')")
    shuffled, blocked = (
        write(tmp_path, "\n".join(WORDS[::-1]), "d.txt"),
        {"PYTHONPATH": str(tmp_path / "no")},
    )
    other = command(
        *QUICK,
        "--candidates",
        shuffled,
        "--schedule",
        "random",
        "--games",
        7,
        "--json",
        "--cache",
        cache,
        **blocked,
    )
    knockout = command(
        *QUICK,
        "--candidates",
        shuffled,
        "--json",
        "--cache",
        cache,
        script="tournament.py",
        **blocked,
    )
    assert other.returncode == knockout.returncode == 0, other.stderr + knockout.stderr
    assert (
        json.loads(other.stdout)["num_matches"] == 7
        and json.loads(knockout.stdout)["num_matches"] == 4
    )
    assert cache.read_bytes() == b"".join(lines)
    assert command(
        *QUICK, "--candidates", candidates, "--num_votes", 2, "--cache", cache, **blocked
    ).stderr.endswith("torch was imported\n")


def test_a_pair_that_meets_again_is_judged_anew(tmp_path):
    candidates, cache = write(tmp_path, "fig\nice\n", "c.txt"), tmp_path / "cache.jsonl"
    done = command(
        *QUICK[:2],
        *QUICK[4:],
        "--temperature",
        2,
        "--max_completion_length",
        20,
        "--candidates",
        candidates,
        "--schedule",
        "leaders",
        "--games",
        24,
        "--json",
        "--cache",
        cache,
    )
    rows = [json.loads(line) for line in cache.read_text().splitlines()]
    assert (
        done.returncode == 0
        and [row["repetition"] for row in rows] == list(range(24))
        and len({row["score"] for row in rows}) > 1
    )


BAD_COMMANDS = [
    ([], "--query and --candidates are needed"),
    (["--query", "q"], "needed"),
    (["--candidates", "C"], "needed"),
    (["--matches", "M", "--query", "q"], "--query: --matches rates what has been played"),
    (["--num-votes=2", "--matches=M"], "--num-votes: --matches rates what has been played"),
    (["--matches"], "--matches"),
    (["--matches", "M", "--out", "x.jsonl"], "--out: x.jsonl: give a new name that ends in .csv"),
    (["--matches", "M", "--out", "none/x.csv"], "--out: none/x.csv: there is no such folder"),
    (["--matches", "./none.csv"], "none.csv"),
    (["--matches", "BAD"], "bad.csv line 3: score is '2'"),
    (["--matches", "M", "--candidates", "ONE"], "line 2: unknown player 1"),
    (["--query", " ", "--candidates", "C"], "--query is missing or empty"),
    (["--query", "q", "--candidates", "EMPTY"], "empty.txt is empty"),
    (["--query", "q", "--candidates", "C", "--schedule", "best"], "best"),
    (["--query", "q", "--candidates", "C", "--games", "5"], "--games"),
    (["--query", "q", "--candidates", "C", "--schedule", "random", "--games", "0"], "--games"),
    (["--query", "q", "--candidates", "C", "--num_votes", "0"], "--num_votes"),
    (["--query", "q", "--candidates", "BADC"], "badc.jsonl line 2"),
    (["--query", "q", "--candidates", "C", "--cache", "C"], "c.txt line 1"),
    (["--query", "q", "--candidates", "C", "--model", "./none"], "none"),
    (["--query", "q", "--candidates", "C", "--style", "rmm"], "rmm"),
]


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    files = {
        "C": ("c.txt", "a\nb"),
        "M": ("m.csv", "i,j,score\n0,1,1\n"),
        "BAD": ("bad.csv", "i,j,score\n0,1,1\n0,1,2\n"),
        "ONE": ("one.txt", "a\n"),
        "EMPTY": ("empty.txt", " \n"),
        "BADC": ("badc.jsonl", '"a"\n{"answer": "b"}\n'),
    }
    paths = {key: write(tmp_path, text, name) for key, (name, text) in files.items()}
    for arguments, words in BAD_COMMANDS:
        with pytest.raises(BadInput) as refusal:
            elo_file.main([paths.get(word, word) for word in arguments])
        assert words in str(refusal.value) and "\n" not in str(refusal.value), (
            arguments,
            str(refusal.value),
        )
    assert capsys.readouterr().out == "" and Path(paths["C"]).read_text() == "a\nb"
    done = command("--matches", paths["BAD"])
    assert (
        done.returncode == 2
        and done.stdout == ""
        and done.stderr.count("\n") == 1
        and "bad.csv line 3: score is '2'" in done.stderr
    )
