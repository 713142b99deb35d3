"""early_stopping.py: the stop rules by hand and by enumeration.

A stopped judgment is the beginning of the one with all votes.
"""

import itertools
import math
import random
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from tiny_models import COIN, make_scripted_folder

import judge as judge_file
import sampler
from data import Pair
from early_stopping import RISK, STOPS, chance_of_change, enough, in_words, rounds_to_ask, spending
from judge import Judge
from tournament import knockout
from verdicts import BOTH_ORDERS, conclude, majority, vote_of

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "runs" / "ranking"))

from replay import play_out  # noqa: E402

# ---- the rules ----


def test_chance_of_change_by_hand():
    # two votes to none, four to come: none for the leader 1/35, one 3/35 (and then it is a draw)
    assert chance_of_change(2, 0, 4) == pytest.approx(4 / 35)
    # one vote, one to come: it differs with probability 1/3 (Laplace's rule of succession)
    assert (
        chance_of_change(1, 0, 1) == pytest.approx(1 / 3)
        and chance_of_change(3, 0, 2) == 0
        and chance_of_change(2, 1, 1) == pytest.approx(2 / 5)
    )
    assert chance_of_change(4, 0, 6) == pytest.approx(1 / 77)  # none of six 1/462, one 5/462
    assert (
        chance_of_change(0, 0, 2) == pytest.approx(2 / 3)
        and chance_of_change(5, 5, 0) == 1
        and chance_of_change(6, 5, 0) == 0
    )
    for ahead, behind, remaining in itertools.product(range(5), range(5), range(7)):
        if ahead >= behind:  # against the integral over p of a binomial tail, exactly
            total = Fraction(0)
            for more in range(remaining + 1):
                if ahead - behind + 2 * more - remaining <= 0:
                    for_leader, against = (
                        ahead + more,
                        behind + remaining - more,
                    )  # integral of p^for_leader (1 - p)^against
                    beta = Fraction(
                        math.factorial(for_leader) * math.factorial(against),
                        math.factorial(for_leader + against + 1),
                    )
                    total += math.comb(remaining, more) * beta
            total *= Fraction(
                math.factorial(ahead + behind + 1), math.factorial(ahead) * math.factorial(behind)
            )
            assert chance_of_change(ahead, behind, remaining) == pytest.approx(
                float(total), abs=1e-12
            )


@pytest.mark.parametrize(
    "votes, remaining, decided, likely",
    [
        ([0, 0], 4, False, False),
        ([0, 0, 0, 0], 2, True, True),
        ([0, 0, 0, 1], 2, False, False),
        ([1, 1, 1, 1], 6, False, True),
        ([1, 1, 1, 0], 6, False, False),
        ([None, None], 0, True, True),
        ([None, None], 2, False, False),
        ([0, None, 0, None], 1, True, True),
        ([0, 1], 0, True, True),
        ([], 2, False, False),
        ([0, 1] * 10, 2, False, False),
        ([0] * 16 + [1] * 8, 8, False, True),
    ],
)
def test_enough_by_hand(votes, remaining, decided, likely):
    assert [enough(votes, remaining, stop) for stop in ("decided", "likely", "never")] == [
        decided,
        likely,
        remaining == 0,
    ]
    turned = [None if vote is None else 1 - vote for vote in votes]
    assert [enough(turned, remaining, stop) for stop in ("decided", "likely")] == [decided, likely]
    with pytest.raises(KeyError):
        enough(votes, remaining, "sometimes")


@pytest.mark.parametrize("num_votes, orders", [(1, 2), (2, 2), (3, 2), (4, 1), (5, 1)])
def test_decided_is_decided_and_not_later_than_needed(num_votes, orders):
    """All sequences of votes with a third outcome.

    At the stop no continuation has another winner; one round earlier some continuation has.
    """
    recordings = itertools.product(itertools.product([0, 1, None], repeat=num_votes), repeat=orders)
    for recorded in recordings:
        recorded = [list(votes) for votes in recorded]
        played = play_out(recorded, "decided")
        rounds = len(played[0])
        assert played == [votes[:rounds] for votes in recorded] and majority(
            sum(played, [])
        ) == majority(sum(recorded, []))
        for earlier in range(1, rounds):
            cast, left = (
                sum((votes[:earlier] for votes in recorded), []),
                orders * (num_votes - earlier),
            )
            assert majority(cast) is None or majority(
                cast + [1 - majority(cast)] * left
            ) != majority(cast)
        assert play_out(recorded, "never") == recorded


def disagreement(num_votes, weight):
    """The weight of the sequences whose winner by "likely" is not that of all votes.

    weight(number of ones): the probability of a sequence.
    """
    wrong = 0
    for votes in itertools.product([0, 1], repeat=2 * num_votes):
        played = play_out([list(votes[:num_votes]), list(votes[num_votes:])], "likely")
        wrong += weight(sum(votes)) * (majority(sum(played, [])) != majority(list(votes)))
    return wrong


@pytest.mark.parametrize("num_votes", [3, 4, 5, 6, 7])
def test_the_stated_error_of_likely(num_votes):
    n = 2 * num_votes
    uniform = disagreement(
        num_votes, lambda ones: 1 / ((n + 1) * math.comb(n, ones))
    )  # a sequence's probability when p is uniform on [0, 1]
    even = disagreement(num_votes, lambda ones: 0.5**n)
    assert uniform <= RISK and (num_votes > 3) == (uniform > 0)
    assert (
        even == pytest.approx({3: 0, 4: 0.0078125, 5: 0.021484375}.get(num_votes, even))
        and even < 0.09
    )
    biased = 0  # an order bias: the first order always votes for 0, the second is an even coin
    for votes in itertools.product([0, 1], repeat=num_votes):
        recorded = [[0] * num_votes, list(votes)]
        biased += (
            majority(sum(play_out(recorded, "likely"), [])) != majority(sum(recorded, []))
        ) * 0.5**num_votes
    assert biased <= even


def test_steps_of_several_rounds_ask_for_the_same_votes():
    draw = random.Random(0)
    for _ in range(600):
        orders, num_votes, stop = draw.choice([1, 2]), draw.randint(1, 12), draw.choice(list(STOPS))
        recorded = [
            draw.choices([0, 1, None], [draw.random(), draw.random() / 2, 0.1], k=num_votes)
            for _ in range(orders)
        ]
        asked, steps = 0, 0
        while not asked or not enough(
            sum((votes[:asked] for votes in recorded), []), orders * (num_votes - asked), stop
        ):
            asked, steps = (
                asked
                + rounds_to_ask(
                    sum((votes[:asked] for votes in recorded), []), orders, num_votes - asked, stop
                ),
                steps + 1,
            )
        assert [votes[:asked] for votes in recorded] == play_out(recorded, stop)
        assert steps == 1 if stop == "never" else steps <= num_votes
    assert (
        rounds_to_ask([], 2, 5, "decided") == 3
        and rounds_to_ask([], 2, 5, "likely") == 2
        and rounds_to_ask([], 2, 5, "never") == 5
    )


def test_spending():
    games = [{"tokens": 10}, {"tokens": 20}, {"tokens": 30}, {"tokens": 41}]
    spent = spending(games, 3)
    assert (
        spent == {"games": 4, "games_saved": 2, "tokens": 101, "tokens_saved": 50}
        and spending(games, 4, 1)["games_saved"] == 0
    )
    assert in_words(spent) == "4 games, 101 tokens; 2 games, about 50 tokens saved"


# ---- judgments ----


@pytest.fixture(scope="module")
def coin(tmp_path_factory):
    return make_scripted_folder(tmp_path_factory.mktemp("models") / "coin", COIN)


@pytest.fixture(scope="module")
def coin_judge(coin):
    return Judge(str(coin), device="cpu", dtype="float32")


PAIRS = [
    Pair(f"p{number}", [{"role": "user", "content": "q" * (1 + number)}], ("x", "y" * (number % 3)))
    for number in range(8)
]
OPTIONS = dict(num_votes=6, max_completion_length=40)


@pytest.mark.parametrize("both_orders", [True, False])
def test_a_stopped_judgment_is_the_beginning_of_the_whole_one(coin_judge, monkeypatch, both_orders):
    calls, generate = [], sampler.generate

    def counted(model, prompts, num_generations, *rest, first_generation=0, **options):
        calls.append((len(prompts), num_generations, first_generation))
        return generate(
            model, prompts, num_generations, *rest, first_generation=first_generation, **options
        )

    monkeypatch.setattr(sampler, "generate", counted)
    whole = coin_judge.judge(PAIRS, both_orders=both_orders, **OPTIONS)
    orders = BOTH_ORDERS if both_orders else None
    assert calls == [(len(PAIRS) * (1 + both_orders), 6, 0)]  # no rounds where nothing stops
    for stop in ("decided", "likely"):
        calls.clear()
        stopped = coin_judge.judge(PAIRS, both_orders=both_orders, stop=stop, **OPTIONS)
        for short, full in zip(stopped, whole):
            of_orders = [
                [game for game in full.games if game["order"] == order]
                for order in orders or [full.games[0]["order"]]
            ]
            played = play_out([[vote_of(game) for game in games] for games in of_orders], stop)
            assert short == conclude(
                [game for games, votes in zip(of_orders, played) for game in games[: len(votes)]]
            )
            assert stop == "likely" or short.winner == full.winner
        lengths = Counter(len(judgment.games) for judgment in stopped)
        assert len(lengths) > 1 and all(
            length % (1 + both_orders) == 0 for length in lengths
        )  # orders stay balanced
        assert sum(prompts * rounds for prompts, rounds, _ in calls) == sum(
            len(judgment.games) for judgment in stopped
        )
        assert [first for _, _, first in calls] == list(
            itertools.accumulate([0] + [rounds for _, rounds, _ in calls[:-1]])
        )
        # batch, order and neighbours change nothing
        assert (
            coin_judge.judge(PAIRS[::-1], both_orders=both_orders, stop=stop, **OPTIONS)
            == stopped[::-1]
        )
        assert [
            coin_judge.judge([pair], both_orders=both_orders, stop=stop, **OPTIONS)[0]
            for pair in PAIRS[:3]
        ] == stopped[:3]
    monkeypatch.setattr(judge_file, "CHUNK_PROMPTS", 4)
    assert coin_judge.judge(PAIRS, both_orders=both_orders, stop="likely", **OPTIONS) == stopped


def test_a_knockout_has_the_same_winners_with_fewer_votes(coin_judge):
    answers = ["a", "bb", "ccc", "dddd", "eeeee"]
    results = []
    for stop in ("never", "decided"):
        bracket = knockout(
            5, coin_judge.play("q", answers, num_votes=3, stop=stop, max_completion_length=40)
        )
        results.append(
            [(i, j, winner) for matches in bracket.rounds for i, j, _, winner in matches]
        )
    assert results[0] == results[1]
