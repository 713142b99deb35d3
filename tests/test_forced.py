"""The miniature experiments: forced verdicts, edits of the thinking, votes.

They are compared with plain softmaxes and with cases worked by hand.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runs/miniature"))
import compute  # noqa: E402
import forced  # noqa: E402
import thinking  # noqa: E402


def test_edits_exchange_what_the_last_step_says():
    found = thinking.edits(" ones 7+6=13 3y3y tens 4+8+1=13 3y2n", "sums")
    assert found == {
        thinking.MARKS: " ones 7+6=13 3y3y tens 4+8+1=13 3n2y",
        thinking.NUMBERS: " ones 7+6=13 3y3y tens 4+8+1=13 2y3n",
        thinking.BOTH: " ones 7+6=13 3y3y tens 4+8+1=13 2n3y",
    }
    start = " has fig first rice fig y3 second oat pea n0 max 2"
    found = thinking.edits(f"{start} first 3 n3 second 2 y1", "lines")
    assert found == {
        thinking.MARKS: f"{start} first 3 y3 second 2 n1",
        thinking.NUMBERS: f"{start} first 3 n1 second 2 y3",
        thinking.BOTH: f"{start} first 3 y1 second 2 n3",
    }
    found = thinking.edits(" no oat first rice oat n0 second Jam pea y2", "lines")
    assert found[thinking.BOTH] == " no oat first rice oat y2 second Jam pea n0"
    assert thinking.edits(" has fig first fig y2 second fig y2", "lines") == dict.fromkeys(
        (thinking.MARKS, thinking.NUMBERS, thinking.BOTH)
    )
    assert thinking.edits(" ones 7+6=1", "sums")[thinking.MARKS] is None


def test_probabilities_are_the_softmax_over_the_two_verdict_tokens():
    torch = pytest.importorskip("torch")
    from measure import load_judge, load_rows

    from kernels.packed_attention import packed_attention
    from model import pack_groups

    judge = model, tokenizer, _ = load_judge("tiny")
    row = load_rows(limit=1)[0]
    prompts = [forced.prompt_of(tokenizer, row, order) for order in forced.ORDERS]
    texts = ["<think> rice</think>", "<think></think>"]
    found = forced.probabilities(judge, prompts, texts)
    for prompt, text, value in zip(prompts, texts, found):
        one, two = (
            tokenizer.encode(text + verdict, add_special_tokens=False)
            for verdict in forced.VERDICTS
        )
        place = next(index for index in range(len(one)) if one[index] != two[index])
        pack = pack_groups([(prompt + one[:place], [[0]])])
        with torch.no_grad():
            logits = (
                model(pack.tokens, pack.positions, packed_attention(pack))[-1] @ model.head_weight.T
            )
        assert value == pytest.approx(
            logits[[one[place], two[place]]].softmax(0)[0].item(), abs=1e-5
        )
    games = forced.judged(
        [row, row], forced.ORDERS, [0.9, 0.9]
    )  # the same place in both orders: right in one of them
    assert [game["right"] for game in games] == [row["label"] == 0, row["label"] == 1]
    assert sum(game["chance_right"] for game in games) == pytest.approx(1.0)


def test_votes_are_majorities_of_disjoint_sets(monkeypatch):
    monkeypatch.setattr(compute, "MOST", 2)
    games = [
        {
            "id": "p",
            "sibling": 0,
            "family": "sums",
            "level": 2,
            "order": order,
            "verdict": verdict,
            "right": right,
            "tokens": 10,
        }
        for order, votes in (
            ([0, 1], [(1, True), (1, True)]),
            ([1, 0], [(1, False), (None, False)]),
        )
        for verdict, right in votes
    ]
    assert [game["right"] for game in compute.voted(games, 1)] == [
        0.5,
        1.0,
    ]  # a draw; one valid vote, which is right
    assert [(game["right"], game["tokens"]) for game in compute.voted(games, 2)] == [(1.0, 40)]


def test_slopes_by_hand():
    games = [
        {"level": level, "needed": needed, "think_tokens": tokens}
        for level, needed, tokens in ((1, 10, 11), (1, 12, 11), (2, 20, 31), (2, 22, 33))
    ]
    assert thinking.slope("level", "think_tokens")(games) == pytest.approx(21.0)
    assert thinking.slope("needed", "think_tokens", within_levels=True)(games) == pytest.approx(
        0.5
    )  # slopes 0 and 1, equally spread


def test_gap_verdict_grows_with_the_level():
    def played(right):
        return [
            {
                "id": f"{family}{level}{index}",
                "order": [0, 1],
                "sibling": index,
                "family": family,
                "level": level,
                "right": right(level),
            }
            for family in ("sums", "lines")
            for level in (1, 2)
            for index in range(20)
        ]

    figure, word = forced.gap_verdict(played(lambda level: True), played(lambda level: level == 1))
    assert word == "reproduced" and figure.startswith("the gap grows by 1.000")
    assert (
        forced.gap_verdict(played(lambda level: True), played(lambda level: False))[1]
        == "not at this size"
    )
