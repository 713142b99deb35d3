"""When a pair has had enough votes. No model, no torch: recorded votes are replayed here as well.

    enough([0, 0, 0, 0], remaining=2, stop="decided")     True: two votes cannot change the winner

A pair is voted on in rounds, one vote in each order, at most num_votes rounds. Before each further
round we ask how likely it is that all remaining votes together would change the winner; a draw
counts as a change. "decided" stops when that is impossible, "likely" when the probability is at
most RISK, "never" plays all rounds. The probability is exact if each vote goes to answer 0 with one
unknown probability, the same in both orders, with a uniform prior on [0, 1].

This is curtailment by predictive power (Lan, Simon and Halperin 1982; Spiegelhalter, Freedman and
Blackburn 1986). Adaptive-Consistency (Aggarwal et al., arXiv 2305.11860) uses the same posterior
without the horizon. Under this prior the winner differs from that of all votes in at most 5 % of
the pairs (2.5 % with num_votes 8); for an even coin in 2 % with num_votes 5 and in 12 % with 32.
"""

import functools
import math

from verdicts import NUM_ANSWERS, majority, vote_of

RISK = 0.05
# the largest probability of another winner at which no more votes are asked for
STOPS = {"never": -1.0, "decided": 0.0, "likely": RISK}
STOP_HELP = (
    "skip the remaining votes of a pair once they cannot change its winner (decided), or would "
    f"change it in at most {RISK:.0%} of such cases (likely). For single pairs and knockouts, not "
    "for schedules that add up scores (runs/ranking)"
)


def play_in_rounds(play, matches, num_votes, stop):
    """Plays games until each match has had enough votes.

    matches: the comparisons of each pair, one in each order, with their `games`.
    play(matches, start, count): adds the games number start to start + count - 1 of each order.
    Rounds that are needed whatever their outcome are played together.
    """
    played = 0  # rounds
    while matches:
        count = min(
            rounds_to_ask(votes_of(match), len(match), num_votes - played, stop)
            for match in matches
        )
        play(matches, played, count)
        played += count
        remaining = num_votes - played
        matches = [
            match for match in matches if not enough(votes_of(match), len(match) * remaining, stop)
        ]


def votes_of(match):
    return [vote_of(game) for comparison in match for game in comparison.games]


def enough(votes, remaining, stop):
    """Whether to stop after `votes` (0, 1 or None each), with at most `remaining` to come."""
    *_, trailing, leading = sorted(votes.count(answer) for answer in range(NUM_ANSWERS))
    return chance_of_change(leading, trailing, remaining) <= STOPS[stop] or remaining == 0


@functools.cache
def chance_of_change(leading, trailing, remaining):
    """The probability that the leader does not lead after `remaining` more votes.

    leading >= trailing: votes so far; those without a verdict count in neither. Sums the
    beta-binomial distribution of the leader's further votes under a uniform prior.
    """
    cast, total = leading + trailing, leading + trailing + remaining
    return sum(
        math.comb(remaining, more)
        * math.comb(cast, leading)
        * (cast + 1)
        / (math.comb(total, leading + more) * (total + 1))
        for more in range((remaining - (leading - trailing)) // 2 + 1)
    )


def rounds_to_ask(votes, num_orders, max_rounds, stop):
    """The fewest rounds, of at most `max_rounds`, that are enough if the leader gets every vote."""
    leader = majority(votes) or 0
    for rounds in range(1, max_rounds + 1):
        future = votes + [leader] * num_orders * rounds
        if enough(future, num_orders * (max_rounds - rounds), stop):
            return rounds
    raise ValueError(f"no rounds left to ask for: max_rounds is {max_rounds}")


def spending(games, num_votes, num_orders=2):
    """{games, games_saved, tokens, tokens_saved}; a saved game counts the mean tokens of a game."""
    tokens = sum(game["tokens"] for game in games)
    saved = num_votes * num_orders - len(games)
    return {
        "games": len(games),
        "games_saved": saved,
        "tokens": tokens,
        "tokens_saved": round(saved * tokens / len(games)),
    }


def in_words(spent):
    words = f"{spent['games']} games, {spent['tokens']} tokens"
    if spent["games_saved"]:
        words += f"; {spent['games_saved']} games, about {spent['tokens_saved']} tokens saved"
    return words
