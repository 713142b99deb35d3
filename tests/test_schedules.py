"""schedules.py: who meets whom, how often, and that a judge without error finds the best."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elo import elo
from schedules import run_schedule

ADAPTIVE = ["halving", "leaders", "swiss"]


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
