"""Splits and held-out questions: no question is in both parts, in whatever order rows come."""

import random

import pytest
from test_data import some_pairs

from cli import BadInput
from extras.split import split_by_question
from questions import hold_out, question_key


@pytest.mark.parametrize("held_out", [0.1, 0.5, 1, 40, 99])
def test_split_keeps_questions_apart(held_out):
    pairs = some_pairs(300)
    train, test = split_by_question(pairs, held_out, seed=3)
    train_keys, test_keys = ({question_key(pair) for pair in side} for side in (train, test))
    assert train_keys and test_keys and not train_keys & test_keys and len(train) + len(test) == 300
    if isinstance(held_out, int):
        assert len(test_keys) == held_out
    else:
        assert (
            abs(len(test_keys) - held_out * 100) < 16
        )  # a share is met in the mean: three standard deviations of 100 questions
    shuffled = random.Random(1).sample(pairs, 300)
    assert {pair.id for pair in split_by_question(shuffled, held_out, seed=3)[1]} == {
        pair.id for pair in test
    }
    assert [pair.id for pair in test] == [
        pair.id for pair in pairs if question_key(pair) in test_keys
    ]  # order is kept
    assert {
        question_key(pair) for pair in split_by_question(pairs, held_out, seed=4)[1]
    } != test_keys


def test_a_share_puts_a_question_on_the_same_side_in_every_file():
    pairs = some_pairs(300)
    test = {question_key(pair) for pair in split_by_question(pairs, 0.3)[1]}
    half = pairs[:150]
    assert {question_key(pair) for pair in split_by_question(half, 0.3)[1]} == test & {
        question_key(pair) for pair in half
    }


@pytest.mark.parametrize("held_out", [0, 0.0, 1.0, 100, 101, -1, -0.5, float("nan")])
def test_split_refuses_an_empty_side(held_out):
    with pytest.raises(BadInput, match="held_out"):
        split_by_question(some_pairs(300), held_out)


def test_split_of_few_questions_leaves_both_sides_some():
    for share in (0.001, 0.999):
        assert [len(side) for side in split_by_question(some_pairs(6), share, seed=7)] == [3, 3]
    with pytest.raises(BadInput):
        split_by_question(some_pairs(3), 0.5)


# ---- what a training holds out of its own data ----


def test_a_training_holds_out_a_tenth_of_its_questions_and_says_so(capsys):
    pairs = some_pairs(300)
    num_questions = len({question_key(pair) for pair in pairs})
    for most in (5, 1000):
        rest, held_out = hold_out(pairs, most)
        chosen = {question_key(pair) for pair in held_out}
        assert len(chosen) == min(most, num_questions // 10)
        assert chosen.isdisjoint(map(question_key, rest))
        assert sorted(pair.id for pair in [*rest, *held_out]) == sorted(pair.id for pair in pairs)
        assert [pair for pair in pairs if pair in rest] == rest  # in their order
        said = capsys.readouterr().err
        assert f"{len(chosen)} of {num_questions} questions" in said and "--eval_data none" in said
        turned = hold_out(pairs[::-1], most)[1]
        assert {pair.id for pair in turned} == {pair.id for pair in held_out}
    nine = list({question_key(pair): pair for pair in pairs}.values())[:9]
    assert (
        hold_out(nine, 200) == (nine, []) and "9 questions are too few" in capsys.readouterr().err
    )
