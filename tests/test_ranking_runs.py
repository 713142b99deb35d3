"""runs/ranking: simulated judges, the numbers of the vote study, recording and replay."""

import gzip
import json
import math
import random
import re
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

import strengths
from cli import BadInput
from extras import evaluate
from extras.intervals import binomial_interval, mid_p, wilson

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
RANKING = ROOT / "runs" / "ranking"
sys.path.insert(0, str(RANKING))

import replay  # noqa: E402
import simulate  # noqa: E402

# ---- do intervals cover? ----


def test_the_page_has_the_rows_of_the_log():
    log = (RANKING / "interval_coverage.log").read_text()
    page = (RANKING / "README.md").read_text()
    assert all(table in page for table in log.strip().split("\n\n"))


def test_intervals_of_ratings_cover_the_strengths():
    """5 players, 50 random matches: the row of the log has 0.951, a width of 333, 0.08."""
    rng, covered, widths, without_maximum = np.random.default_rng(0), [], [], 0
    for _ in range(150):
        truth, i = rng.standard_normal(5), rng.integers(5, size=50)
        j = (i + 1 + rng.integers(4, size=50)) % 5
        score = (rng.random(50) < strengths.logistic(truth[i] - truth[j])).astype(float)
        pairs = strengths.add_up(i, j, score, 5)
        fit = strengths.fit_strengths(pairs)
        scatter = strengths.dispersion(i, j, score, fit.strengths)
        low, high = strengths.intervals(pairs, fit, scatter)
        truth = strengths.centred(truth, fit.group)
        covered.append(((low <= truth) & (truth <= high)).mean())
        widths += list((high - low) * 400 / np.log(10))
        without_maximum += fit.weak.any()
    assert 0.92 < np.mean(covered) < 0.99
    assert 250 < np.median(widths) < 450 and 0 < without_maximum < 0.3 * 150


@pytest.mark.parametrize("size", [20, 50, 200])
def test_shares_are_covered_whatever_they_are(size):
    """Exactly, over the binomial distribution: Wilson's interval alone goes down to 0.84."""
    right = np.arange(size + 1)
    logs = [math.lgamma(size + 1) - math.lgamma(k + 1) - math.lgamma(size - k + 1) for k in right]
    shares = np.linspace(0.5, 0.9999, 600)

    def coverage(interval):
        ends = np.array([interval(k / size, size) for k in right])
        found = []
        for share in shares:
            chances = np.exp(logs + right * math.log(share) + (size - right) * math.log1p(-share))
            found.append(chances[(ends[:, 0] <= share) & (share <= ends[:, 1])].sum())
        return np.array(found)

    assert coverage(wilson).min() < 0.91
    covered = coverage(binomial_interval)
    assert covered.min() > 0.929 and covered.mean() < 0.97


def test_mid_p_by_hand():
    low, high = mid_p(1.0, 20)  # half of P(20 of 20) is 0.025
    assert low == pytest.approx(0.05 ** (1 / 20), abs=0.001) and high == 1
    assert mid_p(0.0, 20) == pytest.approx((0, 1 - low), abs=0.001)
    _, high = mid_p(0.95, 20)  # P(19 or fewer of 20) less half of P(19 of 20) is 0.025
    assert 1 - high**20 - 10 * high**19 * (1 - high) == pytest.approx(0.025, abs=0.001)


# ---- simulated judges ----


def test_the_table_of_the_docs_is_that_of_the_log():
    found = {}
    for line in simulate.table(simulate.read_log()).splitlines()[2:]:
        schedule, votes, generations, *shares = line.strip("| ").split(" | ")
        found[schedule, generations] = shares
    docs = (ROOT / "docs" / "ranking.md").read_text()
    table = docs[docs.index("| schedule | generations |") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) == 5
    for line in table:
        schedule, generations, *columns = line.strip("| ").split(" | ")
        rows = [found[schedule.split(",")[0], number] for number in generations.split(" / ")]
        assert [column.split(" / ") for column in columns] == [list(part) for part in zip(*rows)]


@pytest.mark.parametrize("noise", ["fresh", "fixed", "mixed"])
def test_simulated_judges_err_as_their_names_say(noise):
    rights, repeats = [], []
    for seed in range(400):
        play = simulate.simulated_play(2, 0.8, noise, votes=1, seed=seed)
        first, turned, even = play([(0, 2), (2, 0), (0, 1)])
        rights.append(first)
        repeats.append(first == 1 - turned)
        assert first in (0, 0.5, 1) and even in (0, 0.5, 1)
    assert abs(sum(rights) / 400 - 0.8) < 0.07
    same = 0.64**2 + 0.32**2 + 0.04**2  # two matches of two fresh generations each
    expected = {"fresh": same, "fixed": 1, "mixed": (1 + same) / 2}[noise]
    assert abs(sum(repeats) / 400 - expected) < 0.1


@pytest.mark.parametrize("schedule", ["full", "random", "halving", "leaders", "swiss", "knockout"])
def test_the_schedules_pick_as_often_as_in_the_log(schedule):
    """simulate.log is the work of another program, which had schedules of its own."""
    names, *lines, _ = map(json.loads, (RANKING / "simulate.log").read_text().splitlines())
    cell = {"n": 8, "orders": 1, "share": 0.15, "accuracy": 0.8, "method": schedule}
    rows = [dict(zip(names, line)) for line in lines]
    row = next(row for row in rows if cell.items() <= row.items() and row["trials"] == 20_000)
    games = None if schedule in ("full", "knockout") else row["matches"]
    draw, hits, trials = random.Random(0), 0, 1500

    def coin(pairs):  # one of the eight answers is right
        return [float(draw.random() < 0.5 + 0.3 * ((i < 1) - (j < 1))) for i, j in pairs]

    for seed in range(trials):
        hits += replay.pick(8, schedule, games, coin, seed) < 1
    assert abs(hits / trials - row["right"]) < 4 * math.sqrt(0.25 / trials)


# ---- the vote study: its log against the binomial distribution ----


def test_the_numbers_of_the_vote_study():
    checked = 0
    for row in map(json.loads, (RANKING / "vote_study.log").read_text().splitlines()):
        if row.get("judge", "").startswith("coin") and row["stop"] == "never":
            p, votes, right = float(row["judge"].split()[1]), 2 * row["num_votes"], 0.0
            for good in range(votes + 1):  # a draw counts half
                chance = math.comb(votes, good) * p**good * (1 - p) ** (votes - good)
                right += chance * (0.5 if 2 * good == votes else 2 * good > votes)
            assert (votes, right) == pytest.approx((row["generations"], row["right"]), abs=1e-4)
            checked += 1
    assert checked == 36


# ---- replay ----


def test_replayed_matches_by_hand():
    row = {
        "votes": {(0, 1): [[0, 0, 0], [0, 0, 1]], (0, 2): [[1, 0, None], [0, 0, 0]], (1, 2): []},
        "tokens": {(0, 1): [[1, 2, 4], [8, 16, 32]], (0, 2): [[1] * 3, [1] * 3], (1, 2): []},
    }
    spent = Counter()
    play = replay.recorded_play(row, 3, 0, spent)
    assert play([(0, 1), (1, 0), (2, 1), (2, 0)]) == pytest.approx([5 / 6, 1 / 6, 0.5, 1 - 4.5 / 6])
    assert spent == {"generations": 18, "tokens": 63 * 2 + 6}
    for seed in range(12):  # three meetings with one vote each use the three recorded ones
        play = replay.recorded_play(row, 1, seed, Counter())
        shares = [score for _ in range(3) for score in play([(0, 1)] * 3)]
        assert sorted(shares) == [0.5] * 3 + [1.0] * 6
    for schedule, games in (("knockout", None), ("random", 9), ("swiss", 9)):
        play = replay.recorded_play(row, 3, 1, Counter())
        assert replay.pick(3, schedule, games, play, 1) == 0


def recording(num_questions, draw_accuracy, num_votes=4):
    """Rows of read_recording: 2 of 8 answers are right, draw_accuracy(rng) for each such pair."""
    rng, rows = random.Random(0), []
    for _ in range(num_questions):
        scores = rng.sample([1.0] * 2 + [0.0] * 6, 8)
        votes = {}
        for i, j in combinations(range(8), 2):
            chance = draw_accuracy(rng)
            if scores[i] <= scores[j]:
                chance = 0.5 if scores[i] == scores[j] else 1 - chance
            votes[i, j] = [[int(rng.random() >= chance) for _ in range(num_votes)] for _ in "ab"]
        tokens = {pair: [[10] * num_votes] * 2 for pair in votes}
        rows.append({"scores": scores, "votes": votes, "tokens": tokens})
    return rows


def test_replay_of_simulated_judges():
    perfect = recording(6, lambda rng: 1.0, num_votes=3)
    for schedule, per_player in [("knockout", None), ("full", None), ("halving", 5), ("swiss", 5)]:
        found = replay.measure(perfect, schedule, per_player, 3, 2)
        matches = {"knockout": 7, "full": 28}.get(schedule, 8 * (per_player or 0))
        assert found[3:] == [f"{6 * matches:.1f}", f"{60 * matches}", "1.000 +- 0.000"]
    assert replay.vote_errors(perfect)[0] == 1
    accuracy, again = replay.vote_errors(recording(60, lambda rng: 0.7))
    assert abs(accuracy - 0.7) < 0.03 and abs(again - 0.7) < 0.03  # fresh errors
    accuracy, again = replay.vote_errors(recording(60, lambda rng: float(rng.random() < 0.7)))
    assert abs(accuracy - 0.7) < 0.05 and again == 0  # fixed ones


def test_the_recording_of_the_embedded_judge_gives_its_log():
    rows = replay.read_recording(RANKING / "tiny.json.gz")
    line = " | ".join(map(str, replay.measure(rows, "knockout", None, 1, 2)))
    log = (RANKING / "tiny.log").read_text().replace("never | ", "")
    assert line in log
    accuracy, again = replay.vote_errors(rows)
    assert f"a vote is right {accuracy:.3f}" in log and f"with a wrong one {again:.3f}" in log


QUESTION = {"id": "a", "question": "q", "scores": [0.0, 1.0, 0.0]}


def game(order, verdict, tokens=9):
    return {"order": order, "verdict": verdict, "tokens": tokens}


def written(path, matches):
    rows = [QUESTION | {"matches": matches}]
    path.write_bytes(gzip.compress(json.dumps({"rows": rows}).encode()))
    return str(path)


def test_the_votes_of_a_results_file(tmp_path):
    """evaluate.py names the better answer of a pair first: [1, 0]."""
    turned = [game([0, 1], 1), game([0, 1], None), game([1, 0], 1, 5), game([1, 0], 2, 4)]
    equal = [game([0, 1], "tie", 0), game([1, 0], "tie", 0)]
    plain = [game([0, 1], 2, 6), game([1, 0], "tie", 7), game([0, 1], 1), game([1, 0], 1)]
    matches = [
        {"pair": [1, 0], "games": turned},
        {"pair": [0, 2], "games": equal},
        {"pair": [1, 2], "games": plain},
    ]
    (row,) = replay.read_recording(written(tmp_path / "r.json.gz", matches))
    assert row["votes"] == {(0, 1): [[0, 1], [1, None]], (0, 2): [], (1, 2): [[1, 0], [None, 1]]}
    assert row["tokens"] == {(0, 1): [[5, 4], [9, 9]], (0, 2): [], (1, 2): [[6, 9], [7, 9]]}
    assert row["scores"] == QUESTION["scores"]


@pytest.mark.parametrize(
    "changed_games, words",
    [
        (None, "pairs without a game"),
        ([game([0, 1], 1)], "equally many votes in both orders"),
        ([{"order": [0, 1], "verdict": 1}], "a game without its tokens"),
    ],
)
def test_results_that_cannot_be_replayed(tmp_path, changed_games, words):
    both = [game([0, 1], 1), game([1, 0], 1)]
    matches = [{"pair": pair, "games": both} for pair in ([0, 1], [0, 2])]
    if changed_games is not None:
        matches.append({"pair": [1, 2], "games": changed_games})
    path = written(tmp_path / "r.json.gz", matches)
    with pytest.raises(BadInput, match=words):
        replay.main([path])
    Path(path).write_bytes(Path(path).read_bytes()[:20])
    with pytest.raises(BadInput, match="cannot be read"):
        replay.main([path])


def test_evaluate_records_a_judge_and_replay_plays_it(tmp_path, capsys):
    rows = [
        {"query": f"{n}+{n}", "candidates": [str(2 * n), "7", "9"], "scores": [1, 0, 0]}
        for n in (11, 12)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--data", tmp_path / "q.jsonl", "--output_dir", tmp_path / "out", "--num_votes", "2"]
    evaluate.main(["--benchmark", "pairs", "--strategy", "elo", *map(str, flags)])
    capsys.readouterr()
    replay.main([str(tmp_path / "out" / "results.json"), "--trials", "1"])
    table = capsys.readouterr().out
    with pytest.raises(BadInput, match="--trials: must be at least 1, got 0"):
        replay.main([str(tmp_path / "out" / "results.json"), "--trials", "0"])
    assert "2 questions, 2 votes in each order" in table
    assert re.search(r"full +\| all +\| 2 +\| 12.0", table)
