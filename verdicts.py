r"""From a generated text to a verdict, from the games of a pair to a judgment. No torch.

    parse_verdict("<think>...</think>\boxed{Assistant 1}", "rrm")     1

A game is one completion that compares the answers of a pair in one order. Its record is a dict,
{order, verdict, status, text, tokens, think_tokens}. The verdict names a place in the prompt,
1 or 2; the vote is the index of the answer that stood there. Both are "tie" where the style allows
it and the judge says so.
"""

import bisect
import functools
import re
from dataclasses import dataclass, field

from chat import decode_completion
from styles import Style, load_style

# ---- two answers: what a judge of three would change ----

NUM_ANSWERS = 2
BOTH_ORDERS = [0, 1], [1, 0]  # order[0]: index of the answer that is shown first
BOXES = {"Assistant 1": 1, "Assistant 2": 2, "Tie": "tie"}
BOXED = re.compile(r"\\boxed\{\s*(Assistant 1|Assistant 2|Tie)\s*\}")
ANSWER_TAG = re.compile(r"<answer>\[\[([AB])\]\]</answer>")

# ---- from a text to a verdict ----


@functools.cache  # training asks for every completion
def verdict_rule(style):
    """The `verdict` rule of a Style, or of a style's name."""
    return style.verdict if isinstance(style, Style) else load_style(style).verdict


def find_verdicts(text, rule):
    """[(offset in the text, 1, 2 or "tie"), ...]: the verdicts in the part of the text that counts.

    boxed: after the last </think>; nowhere while a <think> is open; anywhere in a text without
    tags (RRM; its release uses two different rules in training and evaluation).
    answer_tag: in the last 80 characters (RM-R1's reward code).
    """
    if rule == "answer_tag":
        found = ANSWER_TAG.finditer(text, max(0, len(text) - 80))
        return [(match.start(), "AB".index(match[1]) + 1) for match in found]
    start = text.rfind("</think>") + 1  # 0 without a tag
    if text.find("<think>", start) >= 0:
        return []
    found = [(match.start(), BOXES[match[1]]) for match in BOXED.finditer(text, start)]
    return [one for one in found if one[1] != "tie" or rule == "boxed_or_tie"]


def parse_verdict(text, style):
    """The place of the better answer, 1 or 2, or "tie"; None: no verdict, or two different ones.

    text: the judge's own words alone, with "<think>" in front where the prompt had opened it.
    style: a Style or its name.
    """
    places = {place for _, place in find_verdicts(text, verdict_rule(style))}
    return places.pop() if len(places) == 1 else None


def read_verdict(text, style, num_tokens, finish_reason, count_tokens=None):
    """The record of a game, without its order, from a text with "<think>" in front.

    status: "truncated" where the text was cut off (finish_reason "length"), else "valid" or
    "unparsable". A text that was cut off has no verdict, even where a box was already closed: its
    continuation might have contradicted it, and a judge in training should learn to stop.
    Thinking ends with the last </think>, else with the first verdict, else never.
    count_tokens(end): the generated tokens in text[:end]; needed where thinking ends.
    """
    verdict, status = None, "truncated"
    if finish_reason != "length":
        verdict = parse_verdict(text, style)
        status = "unparsable" if verdict is None else "valid"
    ends = [offset for offset, _ in find_verdicts(text, verdict_rule(style))]
    if "</think>" in text:
        ends = [text.rfind("</think>")]
    return {
        "verdict": verdict,
        "status": status,
        "text": text,
        "tokens": num_tokens,
        "think_tokens": count_tokens(ends[0]) if ends else num_tokens,
    }


def read_completion(tokenizer, completion, style, opened_think, stops):
    """The record of a sampled Completion. opened_think: the prompt ends with "<think>"."""
    opening = "<think>" if opened_think else ""
    text = opening + decode_completion(tokenizer, completion.tokens, stops)
    num_tokens = len(completion.tokens)

    def num_characters(count):
        return len(decode_completion(tokenizer, completion.tokens[:count], ()))

    def count_tokens(end):  # the most tokens that spell no more than text[:end], by halving
        counts = range(num_tokens + 1)
        return bisect.bisect_right(counts, end - len(opening), key=num_characters) - 1

    return read_verdict(text, style, num_tokens, completion.finish_reason, count_tokens)


# ---- from games to a judgment ----


@dataclass
class Judgment:
    """The outcome for one pair. Answer "a" is the one that was given first."""

    winner: str | None  # "a", "b" or "tie", see `majority`; None: a draw, or no valid vote
    p_first: float  # mean over games of 1 (vote for a), 0 (for b), 0.5 (tie, no verdict)
    consistent: bool | None  # both orders have the same majority; None: judged in one order
    games: list = field(repr=False)  # records, see the top of this file

    @property
    def winner_index(self):
        """0 for "a", 1 for "b", else None."""
        return {"a": 0, "b": 1}.get(self.winner)


def vote_of(game):
    """The index of the answer that a game's verdict names, "tie", or None."""
    verdict = game["verdict"]
    return game["order"][verdict - 1] if isinstance(verdict, int) else verdict


def majority(votes):
    """The index of the answer with the most votes; "tie" where more votes say that; None: a draw.

    A vote may be None. [0, "tie"] gives 0: votes for a tie must outnumber those for each answer.
    """
    counts = [votes.count(answer) for answer in range(NUM_ANSWERS)]
    most = max(counts)
    if votes.count("tie") > most:
        return "tie"
    return counts.index(most) if counts.count(most) == 1 else None


def first_share(votes):
    """The mean of 1 (a vote for answer 0), 0 (for another answer) and 0.5 (a tie, None)."""
    return sum(0.5 if vote in (None, "tie") else float(vote == 0) for vote in votes) / len(votes)


def conclude(games):
    """The Judgment that follows from games.

    If one order is right and the other has no verdict, there is a winner, but no consistency.
    """
    votes, votes_by_order = [], {}
    for game in games:
        votes.append(vote_of(game))
        votes_by_order.setdefault(tuple(game["order"]), []).append(votes[-1])
    winners = {majority(votes_in_order) for votes_in_order in votes_by_order.values()}
    consistent = None
    if len(votes_by_order) > 1:
        consistent = len(winners) == 1 and None not in winners
    winner = {0: "a", 1: "b", "tie": "tie", None: None}[majority(votes)]
    return Judgment(winner, first_share(votes), consistent, games)
