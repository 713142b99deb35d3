"""Verdicts by force: which of the two a judge would write at this place, as an exact probability instead of a draw.

probabilities(judge, prompts, ["<think> ones 7+6=13</think>", ...])     P(verdict 1 | prompt, text, a verdict follows), one a prompt
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from measure import interval, load_style, mean, told  # noqa: E402

from chat import encode_chat
from styles import judge_messages  # noqa: E402

VERDICTS = "\\boxed{Assistant 1}", "\\boxed{Assistant 2}"
ORDERS = [0, 1], [1, 0]


def verdict_tokens(tokenizer):
    """(the tokens that both verdicts begin with, the next token of the one, of the other)."""
    one, two = (tokenizer.encode(verdict, add_special_tokens=False) for verdict in VERDICTS)
    common = next(place for place, (left, right) in enumerate(zip(one, two)) if left != right)
    return one[:common], one[common], two[common]


def prompt_of(tokenizer, row, order):
    """Token ids of the judging prompt of a row of pairs, answer order[0] first."""
    answers = [(row["a"], row["b"])[index] for index in order]
    return encode_chat(
        tokenizer,
        judge_messages(load_style("tiny"), [{"role": "user", "content": row["query"]}], *answers),
    )


def packs(lists, budget=8192):
    """Places of token lists in packs of about `budget` tokens, short ones together."""
    pack, size = [], 0
    for index in sorted(range(len(lists)), key=lambda index: len(lists[index])):
        if pack and size + len(lists[index]) > budget:
            yield pack
            pack, size = [], 0
        pack.append(index)
        size += len(lists[index])
    if pack:
        yield pack


def probabilities(judge, prompts, texts):
    """P(verdict 1) of each, given that the completion is prompt + text + a verdict: token ids and texts, or token ids and token ids.

    Only the token in which the verdicts differ is looked at; the softmax is over these two (temperature 1)."""
    import torch

    from model import pack_groups

    model, tokenizer, _ = judge
    common, one, two = verdict_tokens(tokenizer)
    written = [
        tokenizer.encode(text, add_special_tokens=False) if isinstance(text, str) else text
        for text in texts
    ]
    contexts, found = (
        [prompt + text + common for prompt, text in zip(prompts, written)],
        [None] * len(prompts),
    )
    with torch.no_grad():
        for pack in packs(contexts):
            layout = pack_groups([(contexts[index], [[one], [two]]) for index in pack])
            logprobs, _ = model.logprobs(layout)
            for index, value in zip(pack, torch.sigmoid(logprobs[0::2] - logprobs[1::2]).tolist()):
                found[index] = value
    return found


def judged(rows, orders, chances):
    """Games as measure.py has them, from the probability of verdict 1 of each (row, order)."""
    games = []
    for row, order, chance in zip(rows, orders, chances):
        better, verdict = order.index(row["label"]) + 1, 1 if chance > 0.5 else 2
        games.append(
            {name: row[name] for name in ("id", "sibling", "family", "level")}
            | {
                "order": order,
                "verdict": verdict,
                "right": verdict == better,
                "chance_right": chance if better == 1 else 1 - chance,
            }
        )
    return games


def kinds_of(games):
    """[(name, test of a game)]: all, the families, and each family's levels."""
    found = sorted({(game["family"], game["level"]) for game in games})
    kinds = [("all", lambda game: True)]
    kinds += [
        (family, lambda game, family=family: game["family"] == family)
        for family in sorted({family for family, _ in found})
    ]
    return kinds + [
        (
            f"{family} {level}",
            lambda game, kind=(family, level): (game["family"], game["level"]) == kind,
        )
        for family, level in found
    ]


def least_squares(points):
    """Slope of y on x over [(x, y), ...]; NaN if x does not vary."""
    points = list(points)
    x_mean, y_mean = mean(x for x, _ in points), mean(y for _, y in points)
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread else math.nan


def gap_verdict(thinking, games):
    """(figure, verdict): whether thinking gains more over `games` (of another judge on the same pairs) where the level is higher, for each family."""
    other = {(game["id"], game["order"][0]): game["right"] for game in games}
    gained = [
        game | {"gain": game["right"] - other[game["id"], game["order"][0]]} for game in thinking
    ]
    slopes = {
        family: interval(
            [game for game in gained if game["family"] == family],
            lambda part: least_squares((game["level"], game["gain"]) for game in part),
        )
        for family in ("sums", "lines")
    }
    shown = sum(low > 0 for _, low, _ in slopes.values())
    word = ("not at this size", "partly", "reproduced")[shown]
    return "the gap grows by " + ", ".join(
        f"{told(found)} a level of {family}" for family, found in slopes.items()
    ), word
