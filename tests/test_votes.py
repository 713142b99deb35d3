"""early_stopping.py: the stop rules by hand and by enumeration; study, recording and replay.

A stopped judgment is the beginning of the one with all votes.
"""

import gzip
import itertools
import json
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
from cli import BadInput
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


# ---- study, recording, replay ----


@pytest.fixture
def ranking():
    import record
    import replay
    import vote_study

    return record, replay, vote_study


@pytest.mark.parametrize(
    "name, rule", [("coin 0.7", "likely"), ("order bias", "decided"), ("no verdict", "likely")]
)
def test_the_study_counts_what_a_simulation_counts(ranking, name, rule):
    vote_study = ranking[2]
    judge = dict(vote_study.judges())[name]
    row, draw, found = (
        vote_study.measure((judge[0] / judge[0].sum(), *judge[1:]), 5, rule),
        random.Random(0),
        [],
    )
    for _ in range(6000):
        (pair,) = draw.choices(range(len(judge[0])), judge[0])
        recorded = [
            [None if draw.random() < judge[3] else int(draw.random() >= p[pair]) for _ in range(5)]
            for p in judge[1:3]
        ]
        played = play_out(recorded, rule)
        winner = majority(sum(played, []))
        found.append(
            (
                sum(map(len, played)),
                0.5 if winner is None else 1 - winner,
                winner != majority(sum(recorded, [])),
            )
        )
    generations, right, differs = (sum(column) / len(found) for column in zip(*found))
    assert (
        abs(generations - row["generations"]) < 0.12
        and abs(right - row["right"]) < 0.025
        and abs(differs - row["differs"]) < 0.01
    )
    # the weights integrate a Beta(7, 3): mean 0.7, variance 0.7 * 0.3 / 11
    weights, p = vote_study.beta(7, 3)
    assert (weights * p).sum() == pytest.approx(0.7) and (
        weights * (p - 0.7) ** 2
    ).sum() == pytest.approx(0.21 / 11)


def test_recording_a_judge(ranking, coin, coin_judge, tmp_path):
    record, replay, _ = ranking
    questions = tmp_path / "q.jsonl"
    rows = [
        {
            "query": f"What is {n} + {n}?",
            "candidates": [str(2 * n), "no", str(2 * n), "ü"],
            "scores": [1, 0, 1, 0],
        }
        for n in range(3)
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        "--questions",
        questions,
        "--model",
        coin,
        "--num_votes",
        2,
        "--max_completion_length",
        40,
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]

    def run(name, *more):
        record.main([str(word) for word in [*arguments, "--out", tmp_path / name, *more]])
        return (tmp_path / name).read_bytes()

    whole = run("a.jsonl.gz")
    lines = gzip.decompress(whole).split(b"\n")
    assert len(lines) == 4 and not list(tmp_path.glob("*.partial"))
    for length in (
        0,
        5,
        len(lines[0]) + 1,
        len(lines[0]) + 50,
        len(lines[0] + lines[1]) + 2,
    ):  # what a kill can leave
        (tmp_path / "b.jsonl.gz.partial").write_bytes(gzip.decompress(whole)[:length])
        assert run("b.jsonl.gz") == whole
        (tmp_path / "b.jsonl.gz").unlink()
    row = json.loads(lines[1])
    pair = Pair(f"{row['id']} 1-3", [{"role": "user", "content": rows[1]["query"]}], ("no", "ü"))
    games = coin_judge.judge([pair], num_votes=2, max_completion_length=40)[0].games
    letters = ["1" if vote_of(game) == 0 else "0" if vote_of(game) == 1 else "?" for game in games]
    assert (
        row["votes"]["1-3"] == ["".join(letters[:2]), "".join(letters[2:])]
        and row["votes"]["0-2"] == [] == row["tokens"]["0-2"]
    )
    assert row["tokens"]["1-3"] == [
        [games[0]["tokens"], games[1]["tokens"]],
        [games[2]["tokens"], games[3]["tokens"]],
    ]
    assert (
        row["texts"] == rows[1]["candidates"]
        and row["scores"] == [1, 0, 1, 0]
        and row["settings"]["num_votes"] == 2
    )
    read = replay.read_recording(tmp_path / "a.jsonl.gz")
    assert read[1]["votes"][1, 3] == [
        [vote_of(game) for game in games[:2]],
        [vote_of(game) for game in games[2:]],
    ]
    # settings that differ are not mixed, and a finished recording is not written over
    (tmp_path / "b.jsonl.gz.partial").write_bytes(lines[0] + b"\n")
    for name, more, words in [
        ("b.jsonl.gz", ["--seed", 1], "line 1 was recorded with other settings"),
        ("a.jsonl.gz", [], "is there already"),
        ("c.jsonl", [], ".jsonl.gz"),
    ]:
        with pytest.raises(BadInput, match=words):
            run(name, *more)


def test_replayed_matches_by_hand(ranking):
    replay = ranking[1]
    row = {
        "scores": [1.0, 0.0, 0.0],
        "votes": {(0, 1): [[0, 0, 0], [0, 0, 1]], (0, 2): [[1, 0, None], [0, 0, 0]], (1, 2): []},
        "tokens": {(0, 1): [[1, 2, 4], [8, 16, 32]], (0, 2): [[1] * 3, [1] * 3], (1, 2): []},
    }
    spent = Counter()
    play = replay.recorded_play(row, 3, "never", 0, spent)
    assert play([(0, 1), (1, 0), (2, 1), (2, 0)]) == pytest.approx([5 / 6, 1 / 6, 0.5, 1 - 4.5 / 6])
    assert spent == {"generations": 18, "tokens": 63 * 2 + 6}
    for seed in range(
        12
    ):  # wherever a trial begins, three meetings with one vote each are the three recorded ones
        shares = [
            score
            for _ in range(3)
            for score in replay.recorded_play(row, 1, "never", seed, Counter())([(0, 1)] * 3)
        ]
        assert sorted(shares) == [0.5] * 3 + [1.0] * 6
    found = set()
    for seed in range(12):  # the vote for 1 comes third, and is not asked for, or before
        spent = Counter()
        found.add(
            (
                replay.recorded_play(row, 3, "decided", seed, spent)([(0, 1)])[0],
                spent["generations"],
            )
        )
    assert found == {(1.0, 4), (5 / 6, 6)}
    assert [
        replay.pick(row, name, 9, replay.recorded_play(row, 3, "never", 1, Counter()), 1)
        for name in ("knockout", "random", "swiss")
    ] == [0] * 3


def test_replay_of_simulated_judges(ranking, tmp_path):
    _, replay, vote_study = ranking
    recording = vote_study.recording
    perfect = recording(6, 8, 3, lambda draw: 1.0)
    for schedule, per_player in [("knockout", None), ("full", None), ("halving", 5), ("swiss", 5)]:
        result = replay.measure(perfect, schedule, per_player, 3, "decided", 2)
        assert result["right"] == 1 and result["tokens"] == pytest.approx(
            10 * result["generations"]
        )
        never = replay.measure(perfect, schedule, per_player, 3, "never", 2)
        matches = {"knockout": 7, "full": 28}.get(schedule, 8 * (per_player or 0))
        assert (
            never["generations"] == 6 * matches
            and 4 * matches <= result["generations"] < 6 * matches
        )
    assert replay.errors(perfect)[0] == 1 and replay.errors(perfect)[2] <= replay.errors(perfect)[3]
    accuracy, again, *_ = replay.errors(recording(60, 8, 4, lambda draw: 0.7))
    assert abs(accuracy - 0.7) < 0.03 and abs(again - 0.7) < 0.03  # fresh errors
    accuracy, again, *_ = replay.errors(
        recording(60, 8, 4, lambda draw: float(draw.random() < 0.7))
    )
    assert abs(accuracy - 0.7) < 0.05 and again == 0  # fixed ones
    generations, tokens, share = replay.verdicts(perfect, 3, "decided")
    assert (generations, tokens, share) == (4, 40, 1)
    path = tmp_path / "r.jsonl"
    letters = {0: "1", 1: "0"}
    texts = [
        {
            f"{i}-{j}": ["".join(map(letters.get, order)) for order in orders]
            for (i, j), orders in row["votes"].items()
        }
        for row in perfect
    ]
    path.write_text(
        "".join(
            json.dumps(row | {"votes": votes, "tokens": {}}) + "\n"
            for row, votes in zip(perfect, texts)
        )
    )
    assert [row["votes"] for row in replay.read_recording(path)] == [
        row["votes"] for row in perfect
    ]
    lines = list(replay.report(replay.read_recording(path), 1))
    assert (
        sum(line.startswith("| knockout") for line in lines if isinstance(line, str)) == 4
        and len(lines[-1]) == 4 * 18
    )
    replay.plot(lines[-1], tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "change, words",
    [
        ({"votes": {}}, "line 1: votes of 0-1 are None"),
        ({"votes": {"0-1": ["12", "11"]}}, "expected two equally long texts"),
        ({"scores": None, "id": 1}, "scores"),
        ({"votes": {"0-1": ["11", "1"]}}, "two equally long"),
        ({"votes": {"0-1": []}}, "no votes"),
        ({"votes": {"0-1": ["11"]}}, "line 1"),
        ({"tokens": {"0-1": [[1, 2], [3]]}}, "line 1: tokens are not"),
    ],
)
def test_damaged_recordings(ranking, tmp_path, change, words):
    row = {"id": "a", "scores": [1, 0], "votes": {"0-1": ["11", "10"]}} | change
    row = {name: value for name, value in row.items() if value is not None}
    (tmp_path / "r.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(BadInput, match=words):
        ranking[1].read_recording(tmp_path / "r.jsonl")
    for arguments in (
        [],
        ["r.jsonl", "s.jsonl"],
        ["r.jsonl", "--trials", "0"],
        ["r.jsonl", "--trial", "2"],
    ):
        with pytest.raises(BadInput, match="trials"):
            ranking[1].main(arguments)
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(b"x" * 100)[:20])
    with pytest.raises(BadInput, match="cannot read"):
        ranking[1].read_recording(tmp_path / "r.jsonl.gz")
