"""Votes: what the majority of a pair's games says, and that batches change nothing."""

import pytest
import torch
from tiny_models import COIN, make_scripted_folder

import judge as judge_file
import sampler
from data import Pair
from judge import Judge
from verdicts import BOTH_ORDERS, majority

torch.set_num_threads(1)


@pytest.mark.parametrize(
    "votes, winner",
    [
        ([0, 0, 1], 0),
        ([1, None, None], 1),
        ([0, 1], None),
        ([None, None], None),
        ([], None),
        ([0, 0, 1, 1, None], None),
    ],
)
def test_majority_by_hand(votes, winner):
    assert majority(votes) == winner


@pytest.fixture(scope="module")
def coin_judge(tmp_path_factory):
    folder = make_scripted_folder(tmp_path_factory.mktemp("models") / "coin", COIN)
    return Judge(str(folder), device="cpu", dtype="float32")


PAIRS = [
    Pair(f"p{number}", [{"role": "user", "content": "q" * (1 + number)}], ("x", "y" * (number % 3)))
    for number in range(8)
]


@pytest.mark.parametrize("both_orders", [True, False])
def test_batches_and_more_votes_keep_the_games(coin_judge, monkeypatch, both_orders):
    """A game depends on seed, id, order and its number, not on what else is judged."""

    def judge(pairs, num_votes=6):
        return coin_judge.judge(pairs, num_votes, both_orders, max_completion_length=40)

    calls, generate = [], sampler.generate

    def counted(model, prompts, num_generations, *rest, **options):
        calls.append((len(prompts), num_generations))
        return generate(model, prompts, num_generations, *rest, **options)

    monkeypatch.setattr(sampler, "generate", counted)
    whole = judge(PAIRS)
    assert calls == [(len(PAIRS) * (1 + both_orders), 6)]  # in one call
    assert judge(PAIRS[::-1]) == whole[::-1]
    assert [judge([pair])[0] for pair in PAIRS[:3]] == whole[:3]
    for fewer, all_votes in zip(judge(PAIRS, num_votes=2), whole):
        for order in BOTH_ORDERS:
            games = [game for game in all_votes.games if game["order"] == order]
            assert [game for game in fewer.games if game["order"] == order] == games[:2]
    monkeypatch.setattr(judge_file, "CHUNK_PROMPTS", 4)
    assert judge(PAIRS) == whole
