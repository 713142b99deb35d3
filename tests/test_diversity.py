"""runs/diversity: distances, clusters and moves against values counted by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runs/diversity"))
import diversity  # noqa: E402


def test_distances_and_clusters():
    assert (
        diversity.distance("a b c d".split(), "a b c d".split()) == 0
        and diversity.distance(["a"], ["b"]) == 1
    )
    assert diversity.distance("a b c d".split(), "a b x d".split()) == pytest.approx(
        0.25
    )  # 2 * 3 words of 8 in common
    # 1, 3 and 4 hang together by way of 3; 0 and 2 stand alone; the largest cluster is number 0
    table = np.ones((5, 5)) - np.eye(5)
    table[1, 3] = table[3, 1] = table[3, 4] = table[4, 3] = 0.2
    labels = diversity.clusters(table, 0.2)
    assert labels[1] == labels[3] == labels[4] == 0 and sorted(labels[[0, 2]]) == [1, 2]
    assert set(diversity.clusters(table, 0.1)) == set(range(5))


def test_measures_of_four_traces():
    texts = [
        "wait, a b c d e f g h",
        "wait, a b c d e f g x",
        "However, first, compare\n- this",
        "wait, a b c d e f g h",
    ]
    found = diversity.measures(
        texts, np.array([True, False, True, True]), diversity.MOVES, near=0.2
    )
    assert (
        found["right"] == (3, 4)
        and found["different texts"] == (3, 1)
        and found["clusters"] == (2, 1)
        and found["share of the largest"] == (3, 4)
    )
    assert (
        found["right in the largest"] == (2, 3)
        and found["right in the second"] == (1, 1)
        and found["right in the others"] == (0, 0)
    )
    assert found["mean distance"][0] == pytest.approx(
        (0 + 2 / 9 * 1 + 3) / 6
    )  # the equal ones, two that differ in one of nine words, three pairs with the third
    assert [found[move] for move in diversity.MOVES] == [(1, 4), (3, 4), (1, 4), (2, 4)]


def test_moves_of_the_embedded_world():
    text = "has fig first oat fig y3 second rice tea n0 max 2 first 3 n3 second 2 y1"
    found = diversity.measures(
        [text, "ones 7+6=13 3y3y tens 4+8+1=13 3y2n"],
        np.array([True, True]),
        diversity.TINY_MOVES,
        near=0.2,
    )
    assert found["comparison"] == (4, 2) and found["breakdown"] == (4, 2)
