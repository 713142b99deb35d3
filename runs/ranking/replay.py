"""Every schedule and vote rule on recorded matches: is the picked answer a right one, after how many judge generations? No model is needed.

    python runs/ranking/replay.py recording.jsonl.gz [--trials 5] [--plot recording.png]

The recording is record.py's. A match between i and j takes the next num_votes of its recorded votes in each order, as many as the stop rule asks
for. Each trial begins at a place of its own in them, and after the last recorded vote the first one comes again: where a schedule lets
two players meet more often than there are votes for, it hears old verdicts. The answer picked is the one with the highest Elo
(equal ones by lot), in a knockout the winner. Questions whose answers all have the same score say nothing and are left out.
"""

import gzip
import random
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import cli  # noqa: E402
from cli import BadInput, setting  # noqa: E402
from early_stopping import STOPS, enough
from elo import elo, intransitive_triples  # noqa: E402
from extras import split_arguments  # noqa: E402
from schedules import SCHEDULES, run_schedule  # noqa: E402
from tournament import knockout  # noqa: E402
from verdicts import first_share, majority  # noqa: E402

VERDICTS = {
    "1": 0,
    "0": 1,
    "?": None,
}  # votes as elsewhere: the index of the answer, 0 for the first number of the key


@dataclass
class Settings:
    trials: int = setting(5, "of every schedule on every question")
    plot: Optional[str] = setting(None, "name of a picture")


def read_recording(path):
    """[{id, scores, votes: {(i, j): [votes with i first, votes with j first], or []}, tokens likewise}, ...]; BadInput names the line."""
    try:
        with (gzip.open if str(path).endswith(".gz") else open)(
            path, "rt", encoding="utf-8"
        ) as file:
            lines = file.read().split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {path} ({error}): give a recording of record.py") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        row, place = cli.parse_json(line, f"{path} line {number}"), f"{path} line {number}"
        if not {"id", "scores", "votes"} <= row.keys():
            raise BadInput(
                f"{place}: id, scores and votes are needed: give a recording of record.py"
            )
        players = range(len(row["scores"]))
        votes = {(i, j): row["votes"].get(f"{i}-{j}") for i in players for j in players if i < j}
        for pair, orders in votes.items():
            good = (
                isinstance(orders, list)
                and len(orders) in (0, 2)
                and all(isinstance(order, str) and order for order in orders)
            )
            if (
                not good
                or not set("".join(orders)) <= VERDICTS.keys()
                or len(set(map(len, orders))) > 1
            ):
                raise BadInput(
                    f"{place}: votes of {pair[0]}-{pair[1]} are {orders!r:.80}: expected two equally long texts of 1, 0 and ?, or []"
                )
        tokens = (
            {(i, j): row["tokens"].get(f"{i}-{j}", []) for i, j in votes}
            if row.get("tokens")
            else None
        )  # may be left out
        if tokens and any(
            [len(order) for order in tokens[pair]] != [len(order) for order in orders]
            for pair, orders in votes.items()
        ):
            raise BadInput(
                f"{place}: tokens are not one number for each vote: give a recording of record.py, or leave tokens out"
            )
        rows.append(
            {
                "id": row["id"],
                "scores": row["scores"],
                "tokens": tokens,
                "votes": {
                    pair: [[VERDICTS[vote] for vote in order] for order in orders]
                    for pair, orders in votes.items()
                },
            }
        )
    if (
        len({len(order) for row in rows for orders in row["votes"].values() for order in orders})
        != 1
    ):
        raise BadInput(
            f"{path}: no votes, or more of them for some pairs than for others: record all pairs alike"
        )
    return rows


def play_out(recorded, stop):
    """Of recorded votes, one equally long list for each order, those that a judge with this rule would have asked for."""
    for rounds in range(
        1, len(recorded[0]) + 1
    ):  # [[0, 0, 0], [0, 0, 1]] with "decided": [[0, 0], [0, 0]]
        played = [votes[:rounds] for votes in recorded]
        if enough(sum(played, []), sum(map(len, recorded)) - rounds * len(recorded), stop):
            break
    return played


def num_recorded(rows):
    return next(len(orders[0]) for row in rows for orders in row["votes"].values() if orders)


def recorded_play(row, num_votes, stop, seed, spent):
    """A `play` for schedules; counts generations and tokens in `spent`. Equal answers draw unplayed, as in ranking.cached."""
    met = Counter()

    def play_one(i, j):
        low, high = min(i, j), max(i, j)
        recorded = row["votes"][low, high]
        if not recorded:
            return 0.5
        begin = (
            random.Random(f"{seed} {low} {high}").randrange(len(recorded[0]))
            + num_votes * met[low, high]
        )
        met[low, high] += 1
        places = [(begin + vote) % len(recorded[0]) for vote in range(num_votes)]
        played = play_out([[order[place] for place in places] for order in recorded], stop)
        spent["generations"] += sum(map(len, played))
        if row["tokens"]:
            tokens = row["tokens"][low, high]
            spent["tokens"] += sum(
                order[place]
                for order, votes in zip(tokens, played)
                for place, _ in zip(places, votes)
            )
        share = first_share(sum(played, []))
        return share if i == low else 1 - share

    return lambda pairs: [play_one(i, j) for i, j in pairs]


def pick(row, schedule, games, play, seed):
    """The answer that a schedule picks: knockout, or one of schedules.py's with its number of matches."""
    size = len(row["scores"])
    if schedule == "knockout":
        return knockout(size, play, seed).winner
    ratings = elo(run_schedule(size, play, schedule, games, seed), size)
    return random.Random(seed).choice(
        [player for player in range(size) if ratings[player] > max(ratings) - 1e-9]
    )


def measure(rows, schedule, per_player, num_votes, stop, trials):
    """One line of the table: means over questions and trials, and the standard error over questions."""
    spent, values = Counter(), []
    for row in rows:
        games = per_player and per_player * len(row["scores"])
        picked = [
            pick(row, schedule, games, recorded_play(row, num_votes, stop, trial, spent), trial)
            for trial in range(trials)
        ]
        values.append(np.mean([row["scores"][player] == max(row["scores"]) for player in picked]))
    runs = len(rows) * trials
    return {
        "schedule": schedule,
        "games": per_player,
        "num_votes": num_votes,
        "stop": stop,
        "generations": spent["generations"] / runs,
        "tokens": spent["tokens"] / runs,
        "right": float(np.mean(values)),
        "se": float(np.std(values) / np.sqrt(len(values))),
    }


def verdicts(rows, num_votes, stop):
    """(generations, tokens, share right; a draw half) of a pair whose answers differ in score, by the first num_votes votes."""
    found = []
    for row in rows:
        for (i, j), recorded in row["votes"].items():
            if recorded and row["scores"][i] != row["scores"][j]:
                played = play_out([order[:num_votes] for order in recorded], stop)
                winner, right = majority(sum(played, [])), int(row["scores"][j] > row["scores"][i])
                tokens = (
                    sum(
                        sum(order[: len(votes)])
                        for order, votes in zip(row["tokens"][i, j], played)
                    )
                    if row["tokens"]
                    else 0
                )
                found.append(
                    (sum(map(len, played)), tokens, 0.5 if winner is None else winner == right)
                )
    return np.mean(found, axis=0)


def errors(rows):
    """(share of valid votes that are right, the same among the other votes of a pair and order of which one was wrong, circles, triples).

    With fresh errors the second is about as large as the first (a little smaller if pairs differ), with fixed ones it is 0.
    """
    right, valid, after, right_after, circles, triples = 0, 0, 0, 0, 0, 0
    for row in rows:
        for (i, j), recorded in row["votes"].items():
            better = int(row["scores"][j] > row["scores"][i])
            for order in recorded if row["scores"][i] != row["scores"][j] else []:
                good, bad = order.count(better), order.count(1 - better)
                right, valid, right_after, after = (
                    right + good,
                    valid + good + bad,
                    right_after + bad * good,
                    after + bad * (good + bad - 1),
                )
        winners = {pair: majority(sum(recorded, [])) for pair, recorded in row["votes"].items()}
        matches = [(i, j, 1 - winner) for (i, j), winner in winners.items() if winner is not None]
        found = intransitive_triples(matches, [0.0] * len(row["scores"]))
        circles, triples = circles + found["intransitive"], triples + found["decided"]
    return right / max(valid, 1), right_after / max(after, 1), circles, triples


def report(rows, trials):
    """Yields lines of text, then the rows of `measure` as a list."""
    left_out, most = len(rows), num_recorded(rows)
    rows = [row for row in rows if len(set(row["scores"])) > 1]
    if not rows:
        raise BadInput("all answers of each question have the same score: there is nothing to pick")
    accuracy, again, circles, triples = errors(rows)
    yield f"{len(rows)} questions ({left_out - len(rows)} with equal scores left out), {most} votes in each order; standard errors over questions"
    drawn = np.mean([row["scores"].count(max(row["scores"])) / len(row["scores"]) for row in rows])
    yield f"right: one of the best answers; drawn by lot an answer is one in {drawn:.3f} of the questions"
    yield f"a vote is right {accuracy:.3f}, another vote of a pair and order with a wrong one {again:.3f} (fixed errors: 0)"
    yield f"{circles} of {triples} triples go in a circle (majority of all votes)"
    yield "\n| votes | stop | generations a pair | tokens a pair | right winner |\n|---|---|---|---|---|"
    for num_votes in range(1, most + 1):
        for stop in STOPS:
            generations, tokens, share = verdicts(rows, num_votes, stop)
            yield f"| {num_votes} | {stop} | {generations:.2f} | {tokens:.0f} | {share:.3f} |"
    yield "\n| schedule | matches | votes | stop | generations | tokens | right answer picked |\n|---|---|---|---|---|---|---|"
    results = []
    for num_votes, stop in dict.fromkeys([(1, "never"), *((most, stop) for stop in STOPS)]):
        for schedule in ("knockout", *SCHEDULES):
            for per_player in (None,) if schedule in ("knockout", "full") else (1, 2, 3, 5):
                results.append(
                    found := measure(rows, schedule, per_player, num_votes, stop, trials)
                )
                matches = {"knockout": "N - 1", "full": "all"}.get(schedule, f"{per_player}N")
                yield (
                    f"| {schedule} | {matches} | {num_votes} | {stop} | {found['generations']:.1f} | {found['tokens']:.0f} | "
                    f"{found['right']:.3f} +- {found['se']:.3f} |"
                )
    yield results


def plot(results, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys((row["num_votes"], row["stop"]) for row in results))
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(4 * len(panels), 4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    colours = dict(
        zip(("knockout", *SCHEDULES), ("grey", "black", "brown", "blue", "red", "green"))
    )
    for panel, axis in zip(panels, axes[0]):
        for schedule, colour in colours.items():
            points = [
                row
                for row in results
                if (row["num_votes"], row["stop"]) == panel and row["schedule"] == schedule
            ]
            columns = ([row[name] for row in points] for name in ("generations", "right", "se"))
            axis.errorbar(*columns, fmt="o-", color=colour, label=schedule, markersize=4)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.set_title(f"{panel[0]} votes, stop: {panel[1]}")
    axes[0][0].legend(fontsize=8)
    figure.supxlabel("judge generations a question (both orders counted)")
    figure.supylabel("one of the best answers picked")
    figure.savefig(path, dpi=70)


def main(argv=None):
    names, flags = split_arguments(sys.argv[1:] if argv is None else argv)
    settings = cli.parse_settings(Settings, flags, description=__doc__)
    if len(names) != 1 or settings.trials < 1:
        raise BadInput(
            "give one recording of record.py, and a positive number of --trials: replay.py recording.jsonl.gz --trials 5"
        )
    for line in report(read_recording(names[0]), settings.trials):
        if isinstance(line, str):
            print(line, flush=True)
        elif settings.plot:
            plot(line, settings.plot)


if __name__ == "__main__":
    cli.run(main)
