"""Plays every schedule on recorded matches. No model is needed.

    python runs/ranking/replay.py recording.jsonl.gz --trials 5

record.py made the recording. The table shows how often one of the best answers is picked, and
after how many judge generations. A match takes the next num_votes of its recorded votes in each
order. Each trial starts at its own place in the votes. After the last vote the first one comes
again, so a pair that meets too often repeats old verdicts.
"""

import argparse
import gzip
import random
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np

sys.path[:0] = [str(parent) for parent in Path(__file__).parents[1:3]]

from measures import markdown_table  # noqa: E402

import cli  # noqa: E402
from cli import BadInput  # noqa: E402
from elo import elo  # noqa: E402
from schedules import SCHEDULES, run_schedule  # noqa: E402
from tournament import knockout  # noqa: E402
from verdicts import first_share  # noqa: E402

VOTES = {"1": 0, "0": 1, "?": None}  # the index of the answer: "1" is for the first of the key


# ---- the recording ----


def read_recording(path):
    """[{scores, votes, tokens}, ...], one a question. Raises BadInput that names the line.

    votes: {(i, j): [votes with i first, votes with j first]}, or [] for equal answers;
    tokens: the same with the length of each completion.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {path} ({error}): give a recording of record.py") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if line:
            place = f"{path} line {number}"
            rows.append(read_question(cli.parse_json(line, place), place))
    lengths = {len(order) for row in rows for orders in row["votes"].values() for order in orders}
    if len(lengths) != 1:
        raise BadInput(f"{path}: pairs need equally many votes, one at least: record them alike")
    return rows


def read_question(row, place):
    votes, tokens = {}, {}
    try:
        for i, j in combinations(range(len(row["scores"])), 2):
            orders = row["votes"][f"{i}-{j}"]
            votes[i, j] = [[VOTES[vote] for vote in order] for order in orders]
            tokens[i, j] = row["tokens"][f"{i}-{j}"]
    except (KeyError, TypeError) as error:
        raise BadInput(f"{place}: {error!r}: give a recording of record.py") from error
    return {"scores": row["scores"], "votes": votes, "tokens": tokens}


# ---- playing ----


def recorded_play(row, num_votes, seed, spent):
    """A `play` for schedules; it adds generations and tokens to `spent`. Equal answers draw."""
    meetings = Counter()

    def score(i, j):
        pair = min(i, j), max(i, j)
        recorded = row["votes"][pair]
        if not recorded:
            return 0.5
        start = random.Random(f"{seed} {pair[0]} {pair[1]}").randrange(len(recorded[0]))
        start += num_votes * meetings[pair]
        meetings[pair] += 1
        places = [(start + vote) % len(recorded[0]) for vote in range(num_votes)]
        spent["generations"] += 2 * num_votes
        for lengths in row["tokens"][pair]:
            spent["tokens"] += sum(lengths[place] for place in places)
        share = first_share([votes[place] for votes in recorded for place in places])
        return share if i < j else 1 - share

    return lambda pairs: [score(i, j) for i, j in pairs]


def pick(num_players, schedule, games, play, seed):
    """The winner of a knockout, else the answer with the highest Elo, equal ones by lot."""
    if schedule == "knockout":
        return knockout(num_players, play, seed).winner
    ratings = elo(run_schedule(num_players, play, schedule, games, seed), num_players)
    best = [i for i, rating in enumerate(ratings) if rating > max(ratings) - 1e-9]
    return random.Random(seed).choice(best)


def measure(rows, schedule, per_player, num_votes, trials):
    """Means over questions and trials, and the standard error over questions."""
    spent, shares = Counter(), []
    for row in rows:
        size, best = len(row["scores"]), max(row["scores"])
        right = 0
        for trial in range(trials):
            play = recorded_play(row, num_votes, trial, spent)
            picked = pick(size, schedule, per_player and per_player * size, play, trial)
            right += row["scores"][picked] == best
        shares.append(right / trials)
    return {
        "schedule": schedule,
        "games": per_player,
        "num_votes": num_votes,
        "generations": spent["generations"] / len(rows) / trials,
        "tokens": spent["tokens"] / len(rows) / trials,
        "right": float(np.mean(shares)),
        "se": float(np.std(shares) / np.sqrt(len(shares))),
    }


def measure_all(rows, trials):
    """Yields `measure` of every schedule: single votes, then all votes."""
    for num_votes in dict.fromkeys([1, num_recorded(rows)]):
        for schedule in ("knockout", *SCHEDULES):
            for per_player in (None,) if schedule in ("knockout", "full") else (1, 2, 3, 5):
                yield measure(rows, schedule, per_player, num_votes, trials)


# ---- how the judge errs ----


def num_recorded(rows):
    return next(len(orders[0]) for row in rows for orders in row["votes"].values() if orders)


def vote_errors(rows):
    """(share of valid votes that are right, the same after one wrong vote of the pair and order).

    The second is about as large as the first where errors are fresh, and 0 where they are fixed.
    """
    right, valid, right_after, after = 0, 0, 0, 0
    for row in rows:
        for (i, j), recorded in row["votes"].items():
            difference = row["scores"][i] - row["scores"][j]
            for votes in recorded if difference else []:
                good, bad = votes.count(int(difference < 0)), votes.count(int(difference > 0))
                right += good
                valid += good + bad
                right_after += bad * good
                after += bad * (good + bad - 1)
    return right / max(valid, 1), right_after / max(after, 1)


# ---- the report ----


def summary(rows):
    """Lines on the recording and its judge."""
    best = np.mean([row["scores"].count(max(row["scores"])) / len(row["scores"]) for row in rows])
    accuracy, again = vote_errors(rows)
    return [
        f"{len(rows)} questions, {num_recorded(rows)} votes in each order",
        f"right: one of the best answers; an answer drawn by lot is right in {best:.3f}",
        f"a vote is right in {accuracy:.3f}, another vote of a pair and order with a wrong one "
        f"in {again:.3f} (fixed errors: 0)",
    ]


def table(results):
    lines = []
    for found in results:
        schedule = found["schedule"]
        matches = {"knockout": "N - 1", "full": "all"}.get(schedule, f"{found['games']}N")
        line = [schedule, matches, found["num_votes"]]
        line += [f"{found['generations']:.1f}", f"{found['tokens']:.0f}"]
        lines.append([*line, f"{found['right']:.3f} +- {found['se']:.3f}"])
    columns = "schedule, matches, votes, generations, tokens, right answer picked"
    return markdown_table(columns.split(", "), lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recording")
    parser.add_argument("--trials", type=int, default=5, help="of every schedule on every question")
    options = parser.parse_args(argv)
    rows = read_recording(options.recording)
    rows = [row for row in rows if len(set(row["scores"])) > 1]
    if not rows:
        raise BadInput("the answers of each question are equally good: there is nothing to pick")
    print("\n".join(summary(rows)), flush=True)
    print("\n" + table(measure_all(rows, options.trials)))


if __name__ == "__main__":
    cli.run(main)
