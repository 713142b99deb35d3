"""Knockout tournament: the best of N answers with N - 1 matches, each round judged as one batch.

    python tournament.py --query "take fig" --candidates answers.txt --num_votes 3
    python tournament.py --candidates questions.jsonl --out best.jsonl     many questions; resumes

    bracket = knockout(8, play)     # play: pairs [(i, j), ...] of a round -> scores of i in [0, 1]

RRM's paper names the strategy (winners advance, N - 1 comparisons) and leaves pairing, byes and
draws open. Here a seed draws the pairs. Byes fall into the first round, so that everybody has at
most one. A drawn match (the orders disagree, or no game has a verdict) is decided by a coin. Coins
say nothing about the answers, so every result reports how many there were.
"""

import json
import random
from dataclasses import asdict, dataclass

import cli
from cli import BadInput
from tables import one_line


@dataclass
class Bracket:
    winner: int
    rounds: list  # of lists of (i, j, score of i, winner), byes left out
    num_matches: int

    @property
    def num_coins(self):
        """How many matches were drawn, and decided by a coin."""
        return sum(score == 0.5 for matches in self.rounds for _, _, score, _ in matches)


def knockout(num_players, play, seed=0):
    """Plays a knockout of ceil(log2 N) rounds and N - 1 matches; returns its Bracket.

    play: takes the pairs [(i, j), ...] of one whole round and returns the scores of i in [0, 1].
    A score of exactly 0.5 is decided by a coin seeded by (seed, i, j).
    Raises ValueError for no players and for scores out of range.
    """
    if num_players < 1:
        raise ValueError("a tournament needs a player")
    players = random.Random(seed).sample(range(num_players), num_players)
    rounds = []
    while len(players) > 1:
        # the first round leaves a power of two, later ones halve it
        power_of_two = 2 ** ((len(players) - 1).bit_length() - 1)
        num_matches = len(players) - power_of_two
        playing, waiting = players[: 2 * num_matches], players[2 * num_matches :]
        pairs = list(zip(playing[0::2], playing[1::2]))
        matches = []
        for (i, j), score in zip(pairs, play(pairs), strict=True):
            if not 0 <= score <= 1:
                raise ValueError(f"the score of match ({i}, {j}) is {score}: it must lie in [0, 1]")
            matches.append((i, j, score, winner_of(i, j, score, seed)))
        rounds.append(matches)
        players = [winner for _, _, _, winner in matches] + waiting
    return Bracket(players[0], rounds, num_players - 1)


def winner_of(i, j, score, seed):
    if score == 0.5:
        return i if random.Random(f"{seed} {i} {j}").random() < 0.5 else j
    return i if score > 0.5 else j


def draw_tree(bracket, label):
    """The bracket as lines of text: below each match, indented, those that led to it.

    label: a function that names a player.
    """
    trees = {}  # player -> the lines of the last match that it won, and of those below
    for matches in bracket.rounds:
        for i, j, score, winner in matches:
            loser = j if winner == i else i
            share = score if winner == i else 1 - score
            coin = " (coin)" if score == 0.5 else ""
            line = f"{label(winner)} beats {label(loser)} {share:.2f}{coin}"
            branches = [trees[player] for player in (winner, loser) if player in trees]
            trees[winner] = [line, *indented(branches)]
    return trees.get(bracket.winner, [label(bracket.winner)])


def indented(branches):
    """The lines of all branches, each with its branch of the tree in front."""
    lines = []
    for number, (first, *others) in enumerate(branches, start=1):
        is_last = number == len(branches)
        lines.append(("└─ " if is_last else "├─ ") + first)
        lines += [("   " if is_last else "│  ") + line for line in others]
    return lines


# ---- command line ----


def main(argv=None):
    from datafiles import read_text_fields
    from plugins import load_extra
    from ranking import RankSettings, judged_play, read_candidates

    settings = cli.parse_settings(RankSettings, argv, description=__doc__)
    read_text_fields(settings, ["query"])
    if settings.query is None:
        load_extra("rank_file").rank_file(settings, rank)
        return
    if settings.out is not None:
        raise BadInput("--out: goes with a file of questions: leave --query out")
    candidates = read_candidates(settings.candidates)
    play = judged_play(settings, candidates, num_matches=len(candidates) - 1)
    bracket = knockout(len(candidates), play, settings.seed)
    if settings.json:
        print(json.dumps(as_result(bracket, candidates)))
    else:
        show(bracket, candidates)


def rank(settings, candidates, play):
    return as_result(knockout(len(candidates), play, settings.seed), candidates)


def as_result(bracket, candidates):
    """The object that --json prints."""
    coins = {"num_coins": bracket.num_coins}
    return asdict(bracket) | coins | {"text": candidates[bracket.winner]}


def show(bracket, candidates):
    """Prints the tree and the best answer."""
    for line in draw_tree(bracket, lambda player: f"{player}: {one_line(candidates[player], 40)}"):
        print(line)
    coins = ""
    if bracket.num_coins > 0:
        matches = f"{bracket.num_coins} of {bracket.num_matches} matches"
        coins = f"; {matches} had no winner: a coin decided"
    print(f"\nbest answer: {bracket.winner}: {one_line(candidates[bracket.winner])}{coins}")


if __name__ == "__main__":
    cli.run(main)
