"""From a text to a verdict, from games to a judgment, and when a pair has had votes enough. No model, no torch: recorded votes are replayed
by the same functions.

    parse_verdict("<think>...</think>\\boxed{Assistant 1}", "rrm")     1
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

import bisect
import functools
import math
import re
from dataclasses import dataclass

from chat import Style, decode_completion, load_style

# Models trained on mathematics write words in a formula as \text{...}: \boxed{\text{Assistant 1}}.
BOXED = re.compile(r"\\boxed\{\s*(?:\\text(?:bf)?\{\s*Assistant ([12])\s*\}|Assistant ([12]))\s*\}")
ANSWER_TAG = re.compile(r"<answer>\[\[([AB])\]\]</answer>")
VERDICTS = {"boxed": ("\\boxed{Assistant 1}", "\\boxed{Assistant 2}"), "answer_tag": ("<answer>[[A]]</answer>", "<answer>[[B]]</answer>")}
BOTH_ORDERS = [0, 1], [1, 0]
RISK = 0.05
STOPS = {"never": -1.0, "decided": 0.0, "likely": RISK}  # stop -> largest chance of another winner at which no more votes are asked for
STOP_HELP = ("leave out votes of a pair once they cannot change its winner (decided), or would in "
             f"{RISK:.0%} of such cases at most (likely): for single pairs and knockouts, not for schedules that add up scores (runs/ranking)")


# ---- from a text to a verdict ----

@functools.cache  # a training run asks for every completion
def verdict_rule(style):
    """The `verdict` rule of a Style or of a style's name. Names rm_r1... need no file: the released RM-R1 models share one rule."""
    if isinstance(style, Style):
        return style.verdict
    return "answer_tag" if re.fullmatch(r"rm_r1\w*", str(style)) else load_style(style).verdict


def find_verdicts(text, rule):
    """[(offset in the text, 1 or 2), ...]: all verdicts that stand where the rule looks for them.

    boxed: after the last </think>, nowhere while a <think> is open, anywhere in a text without such tags (RRM; its release reads
    training and matches by two different rules). answer_tag: in the last 80 characters (RM-R1's reward code).
    """
    if rule == "answer_tag":
        return [(match.start(), "AB".index(match[1]) + 1) for match in ANSWER_TAG.finditer(text, max(0, len(text) - 80))]
    start = text.rfind("</think>") + 1
    if text.find("<think>", start) >= 0:
        return []
    return [(match.start(), int(match[1] or match[2])) for match in BOXED.finditer(text, start)]


def parse_verdict(text, style):
    """1 or 2, the place of the answer that a generated text calls the better one; None: no verdict, or two different ones.

    `text` is the judge's own words alone, with "<think>" in front where the prompt had opened it; `style` is a Style or its name.
    """
    places = {verdict for _, verdict in find_verdicts(text, verdict_rule(style))}
    return places.pop() if len(places) == 1 else None


def read_text(text, style, tokens, finish_reason):
    """({verdict, status, text, tokens, think_tokens}, where in the text the thinking ends or None) of generated text with "<think>" in front.

    status: "valid" (there is a verdict, even if the text was cut off behind it), else "truncated" (finish_reason "length"), else
    "unparsable". The thinking ends before the last </think>, without one before the first verdict; think_tokens is `tokens` until counted.
    """
    verdict = parse_verdict(text, style)
    status = "valid" if verdict else "truncated" if finish_reason == "length" else "unparsable"
    ends = [text.rfind("</think>")] if "</think>" in text else [offset for offset, _ in find_verdicts(text, verdict_rule(style))]
    return {"verdict": verdict, "status": status, "text": text, "tokens": tokens, "think_tokens": tokens}, ends[0] if ends else None


def read_completion(tokenizer, completion, style, opened_think, stops):
    """What a Completion says: the record of `read_text`; think_tokens counts the generated tokens before the end of the thinking."""
    generated, opened = decode_completion(tokenizer, completion.tokens, stops), "<think>" * opened_think
    record, end = read_text(opened + generated, style, len(completion.tokens), completion.finish_reason)
    if end is not None:  # the largest number of tokens that spell no more than the text up to there, found by halving
        record["think_tokens"] = bisect.bisect_right(range(record["tokens"] + 1), end - len(opened), key=lambda count: len(
            decode_completion(tokenizer, completion.tokens[:count], ()))) - 1
    return record


def verdict_counts(records):
    """Counts over games, to be added up over processes before `verdict_rates` divides them: always the same keys in one order. A record:
    verdict (1, 2, None), right (1 or 2: place of the better answer), longer (1, 2, None: equally many characters), think_tokens."""
    valid = [record for record in records if record["verdict"] is not None]
    unequal = [record for record in valid if record["longer"] is not None]
    return {
        "games": len(records), "valid": len(valid), "unequal": len(unequal),
        "right": sum(record["verdict"] == record["right"] for record in valid),
        "first": sum(record["verdict"] == 1 for record in valid),
        "think_empty": sum(record["think_tokens"] < 8 for record in valid),
        "for_longer": sum(record["verdict"] == record["longer"] for record in unequal),
        "longer_right": sum(record["right"] == record["longer"] for record in unequal),
    }


def verdict_rates(counts):
    """The judge/... metrics of `verdict_counts`; 0.0 where there is nothing to divide by.

    Four games with the better and longer answer first, verdicts 1, 1, 2 and none after 5, 50, 50 and 50 thinking tokens:
    accuracy 2/4, position_bias 2/3 - 1/2, length_bias 2/3 - 3/3 (two of three verdicts for the longer answer, right in all three),
    parse_fail 1/4, think_empty 1/4. A judge that is always right has length bias 0, however often the longer answer is the better one.
    """
    def share(part, whole):
        return part / counts[whole] if counts[whole] else 0.0

    return {
        "judge/accuracy": share(counts["right"], "games"),  # no verdict = wrong
        "judge/position_bias": share(counts["first"] - counts["valid"] / 2, "valid"),
        "judge/length_bias": share(counts["for_longer"] - counts["longer_right"], "unequal"),
        "judge/parse_fail": share(counts["games"] - counts["valid"], "games"),
        "judge/think_empty": share(counts["think_empty"], "games"),
    }


# ---- from games to a judgment ----

@dataclass
class Judgment:
    """The outcome for one pair; answers go by their index, 0 or 1, as they were given. After an early stop all of it, `consistent` and
    p_first as well, is that of the games played: `winner` is then as certain as the rule says, and p_first lies further from 0.5 than the
    share over all votes would on average, since one-sided beginnings end early."""

    winner: int | None  # more of the valid votes; None: as many for each, or no valid one
    p_first: float  # mean over the games of 1 (for answer 0), 0 (for answer 1) and 0.5 (no verdict)
    consistent: bool | None  # each order has a majority, and it is the same; None: judged in one order
    games: list  # {order, verdict, status, text, tokens, think_tokens}; order [1, 0]: answer 1 stood first; verdict: the place


def vote_of(game):
    """The index of the answer that a game's verdict names, or None."""
    return None if game["verdict"] is None else game["order"][game["verdict"] - 1]


def majority(votes):
    """0 or 1, whichever has more votes; None for a draw. Votes of None count for neither."""
    lead = votes.count(0) - votes.count(1)
    return None if lead == 0 else int(lead < 0)


def first_share(votes):
    """The mean of 1 (a vote for answer 0), 0 (for answer 1) and 0.5 (None)."""
    return sum(0.5 if vote is None else 1 - vote for vote in votes) / len(votes)


def conclude(games):
    """The Judgment that follows from games. One order right and the other without a verdict has a winner, but is not consistent."""
    votes = [vote_of(game) for game in games]
    orders = [[vote for vote, game in zip(votes, games) if game["order"] == order] for order in BOTH_ORDERS]
    first, second = map(majority, orders)
    return Judgment(majority(votes), first_share(votes), first is not None and first == second if all(orders) else None, games)


# ---- when to stop ----

@functools.cache
def chance_of_change(ahead, behind, remaining):
    """The probability that the leader, now with `ahead` >= `behind` votes, does not lead any more after `remaining` further ones.

    Sums the beta-binomial distribution of the leader's further votes under a uniform prior. Votes without a verdict count in neither number.
    """
    cast, total = ahead + behind, ahead + behind + remaining
    return sum(math.comb(remaining, more) * math.comb(cast, ahead) * (cast + 1) / (math.comb(total, ahead + more) * (total + 1))
               for more in range((remaining - (ahead - behind)) // 2 + 1))


def enough(votes, remaining, stop):
    """Whether no more votes are to be asked for, after `votes` (0, 1 or None each) and with at most `remaining` to come."""
    lower, upper = sorted((votes.count(0), votes.count(1)))
    return chance_of_change(upper, lower, remaining) <= STOPS[stop] or remaining == 0


def rounds_to_ask(votes, orders, left, stop):
    """How many rounds of one vote in each of `orders` orders, out of `left`, can be asked for at once without one too many: after fewer, no
    outcome is enough, not even if the leader gets every vote."""
    leader = majority(votes) or 0
    return next(rounds for rounds in range(1, left + 1) if enough(votes + [leader] * orders * rounds, orders * (left - rounds), stop))


def spending(games, num_votes, orders=2):
    """{games, games_saved, tokens, tokens_saved} of the games of a judgment. What a game that was not played would have taken nobody knows:
    the mean of the pair's games stands for it."""
    tokens, saved = sum(game["tokens"] for game in games), num_votes * orders - len(games)
    return {"games": len(games), "games_saved": saved, "tokens": tokens, "tokens_saved": round(saved * tokens / len(games))}


def in_words(spent):
    saved = f"; {spent['games_saved']} games, about {spent['tokens_saved']} tokens saved" if spent["games_saved"] else ""
    return f"{spent['games']} games, {spent['tokens']} tokens{saved}"
