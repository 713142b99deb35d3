"""Plays every schedule on recorded matches. No model is needed.

    python evaluate.py --benchmark pairs --data questions.jsonl --strategy elo --num_votes 5 \\
        --output_dir out/all_pairs
    python runs/ranking/replay.py out/all_pairs/results.json --trials 5

The first command judges every pair of a question's answers in both orders. The table shows how
often one of the best answers is picked, and after how many judge generations. A match takes the
next num_votes of its recorded votes in each order. Each trial starts at its own place in the votes.
After the last vote the first one comes again, so a pair that meets too often repeats old verdicts.
"""

import argparse
import math
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path[:0] = [str(parent) for parent in Path(__file__).parents[1:3]]

from measures import markdown_table, result_rows  # noqa: E402

import cli  # noqa: E402
from cli import BadInput  # noqa: E402
from elo import elo  # noqa: E402
from schedules import SCHEDULES, run_schedule  # noqa: E402
from tournament import knockout  # noqa: E402
from verdicts import first_share, vote_of  # noqa: E402


def read_recording(path):
    """[{scores, votes, tokens}, ...] of a results.json, one a question whose answers differ.

    votes: {(i, j): [votes with i first, votes with j first]}, or [] where nothing was written. A
    vote is 0 for i, 1 for j and None for neither. tokens: likewise, the length of each completion.
    Raises BadInput for another file, and where a pair or a vote is missing.
    """
    rows = [row for row in result_rows(path) if len(set(row["scores"])) > 1]
    recorded = [recorded_votes(row, path) for row in rows]
    lengths = {len(order) for row in recorded for both in row["votes"].values() for order in both}
    if recorded and len(lengths) != 1:
        raise BadInput(f"{path}: pairs need equally many votes in both orders: judge them alike")
    return recorded


def recorded_votes(row, path):
    votes, tokens = {}, {}
    for match in row["matches"]:
        i, j = pair = tuple(sorted(match["pair"]))
        votes[pair], tokens[pair] = [[], []], [[], []]
        for game in match["games"]:
            if "tokens" not in game:
                raise BadInput(f"{path}: question {row['id']} has a game without its tokens")
            shown = [match["pair"][answer] for answer in game["order"]]
            vote = vote_of(game)
            winner = match["pair"][vote] if vote in (0, 1) else None
            votes[pair][shown.index(i)].append({i: 0, j: 1}.get(winner))
            tokens[pair][shown.index(i)].append(game["tokens"])
        if not any(map(sum, tokens[pair])):  # equal texts, or too long to judge: a draw
            votes[pair] = tokens[pair] = []
    if len(votes) < math.comb(len(row["scores"]), 2):
        raise BadInput(f"{path}: question {row['id']} has pairs without a game: --strategy elo")
    return {"scores": row["scores"], "votes": votes, "tokens": tokens}


def num_recorded(rows):
    return next(len(orders[0]) for row in rows for orders in row["votes"].values() if orders)


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
    """A row of the table: means over questions and trials, standard error over questions."""
    spent, shares = Counter(), []
    for row in rows:
        size, num_right = len(row["scores"]), 0
        for trial in range(trials):
            play = recorded_play(row, num_votes, trial, spent)
            picked = pick(size, schedule, per_player and per_player * size, play, trial)
            num_right += row["scores"][picked] == max(row["scores"])
        shares.append(num_right / trials)
    matches = {"knockout": "N - 1", "full": "all"}.get(schedule, f"{per_player}N")
    generations, tokens = (spent[name] / len(rows) / trials for name in ("generations", "tokens"))
    error = np.std(shares) / np.sqrt(len(shares))
    right = f"{np.mean(shares):.3f} +- {error:.3f}"
    return [schedule, matches, num_votes, f"{generations:.1f}", f"{tokens:.0f}", right]


def measure_all(rows, trials):
    """Rows for every schedule: single votes, then all votes."""
    for num_votes in dict.fromkeys([1, num_recorded(rows)]):
        for schedule in ("knockout", *SCHEDULES):
            for per_player in (None,) if schedule in ("knockout", "full") else (1, 2, 3, 5):
                yield measure(rows, schedule, per_player, num_votes, trials)


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


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", help="results.json of evaluate.py --strategy elo; or .json.gz")
    parser.add_argument("--trials", type=int, default=5, help="of every schedule on every question")
    options = parser.parse_args(argv)
    if options.trials < 1:
        raise BadInput(f"--trials: must be at least 1, got {options.trials}")
    rows = read_recording(options.results)
    if not rows:
        raise BadInput("the answers of each question are equally good: there is nothing to pick")
    best = np.mean([row["scores"].count(max(row["scores"])) / len(row["scores"]) for row in rows])
    accuracy, again = vote_errors(rows)
    print(f"{len(rows)} questions, {num_recorded(rows)} votes in each order")
    print(f"right: one of the best answers; an answer drawn by lot is right in {best:.3f}")
    print(f"a vote is right in {accuracy:.3f}")
    if num_recorded(rows) > 1:
        print(f"another vote of a pair and order with a wrong one: {again:.3f} (fixed errors: 0)")
    print(flush=True)
    columns = ["schedule", "matches", "votes", "generations", "tokens", "right answer picked"]
    print(markdown_table(columns, measure_all(rows, options.trials)))


if __name__ == "__main__":
    cli.run(main)
