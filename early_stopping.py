"""From a text to a verdict, from games to a judgment, and when a pair has had votes enough. No model, no torch: recorded votes are replayed
by the same functions.

    parse_verdict("<think>...</think>\boxed{Assistant 1}", "rrm")     1
    enough([0, 0, 0, 0], remaining=2, stop="decided")                  True: two votes cannot turn four

A pair is voted on in rounds, one vote in each order, num_votes rounds at most. Before each further round the question is how likely it is
that all votes still to come would change the winner, a draw in its stead included. "decided" stops when that is impossible, "likely" when it
is at most RISK, "never" asks no such question. The chance is exact if each vote goes to answer 0 with an unknown probability, the same in
both orders, before the first vote uniform on [0, 1]. This is curtailment by predictive power (Lan, Simon and Halperin 1982; Spiegelhalter,
Freedman and Blackburn 1986); Adaptive-Consistency (Aggarwal et al., arXiv 2305.11860) looks at the same posterior without the horizon.
So under that prior the winner differs from the one by all votes in at most 5 % of the pairs (2.5 % with num_votes 8). For the hardest pair, an
even coin, it does in 2 % with num_votes 5, 8 % with 8 or 16, 12 % with 32; for a judge with an order bias in fewer, since the votes of two
orders that differ vary less together (runs/ranking/vote_study.py).
"""

import functools
import math

from verdicts import majority

RISK = 0.05


STOPS = {
    "never": -1.0,
    "decided": 0.0,
    "likely": RISK,
}  # stop -> largest chance of another winner at which no more votes are asked for


STOP_HELP = (
    "leave out votes of a pair once they cannot change its winner (decided), or would in "
    f"{RISK:.0%} of such cases at most (likely): for single pairs and knockouts, not for schedules that add up scores (runs/ranking)"
)


@functools.cache
def chance_of_change(ahead, behind, remaining):
    """The probability that the leader, now with `ahead` >= `behind` votes, does not lead any more after `remaining` further ones.

    Sums the beta-binomial distribution of the leader's further votes under a uniform prior. Votes without a verdict count in neither number.
    """
    cast, total = ahead + behind, ahead + behind + remaining
    return sum(
        math.comb(remaining, more)
        * math.comb(cast, ahead)
        * (cast + 1)
        / (math.comb(total, ahead + more) * (total + 1))
        for more in range((remaining - (ahead - behind)) // 2 + 1)
    )


def enough(votes, remaining, stop):
    """Whether no more votes are to be asked for, after `votes` (0, 1 or None each) and with at most `remaining` to come."""
    lower, upper = sorted((votes.count(0), votes.count(1)))
    return chance_of_change(upper, lower, remaining) <= STOPS[stop] or remaining == 0


def rounds_to_ask(votes, orders, left, stop):
    """How many rounds of one vote in each of `orders` orders, out of `left`, can be asked for at once without one too many: after fewer, no
    outcome is enough, not even if the leader gets every vote."""
    leader = majority(votes) or 0
    return next(
        rounds
        for rounds in range(1, left + 1)
        if enough(votes + [leader] * orders * rounds, orders * (left - rounds), stop)
    )


def spending(games, num_votes, orders=2):
    """{games, games_saved, tokens, tokens_saved} of the games of a judgment. What a game that was not played would have taken nobody knows:
    the mean of the pair's games stands for it."""
    tokens, saved = sum(game["tokens"] for game in games), num_votes * orders - len(games)
    return {
        "games": len(games),
        "games_saved": saved,
        "tokens": tokens,
        "tokens_saved": round(saved * tokens / len(games)),
    }


def in_words(spent):
    saved = (
        f"; {spent['games_saved']} games, about {spent['tokens_saved']} tokens saved"
        if spent["games_saved"]
        else ""
    )
    return f"{spent['games']} games, {spent['tokens']} tokens{saved}"
