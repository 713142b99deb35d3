"""2. Is the thinking used? A judge's own thinking is cut or exchanged, then the verdict is forced.

    python runs/miniature/thinking.py

The verdict after what is shown instead of the thinking is the likelier one, so no noise of drawing
comes in.
"""

import random
from collections import defaultdict

import lab
from games import forced, load_judge, shown_answers, thinking_tokens
from measures import accuracy, as_text, difference, grid

WHOLE, NONE, FILLER, SHUFFLED = "whole", "none", "one word, as often", "own, shuffled"
OTHER_ORDER, SIBLING = "own of the other order", "its sibling's"


def donors(games):
    """For each game the places of the same pair in the other order, and of its sibling.

    The sibling shows the same two answers in the same places, and asks the other question.
    """
    place, by_answers = {}, defaultdict(list)
    for index, game in enumerate(games):
        place[game["id"], game["order"][0]] = index
        by_answers[game["sibling"], *shown_answers(game)].append(index)
    other_order, sibling = [], []
    for index, game in enumerate(games):
        other_order.append(place[game["id"], 1 - game["order"][0]])
        first, second = by_answers[game["sibling"], *shown_answers(game)]
        sibling.append(second if first == index else first)
    return other_order, sibling


def conditions(judge, games):
    """{what is shown instead of the thinking of these games: games with a forced verdict}."""
    tokenizer, rng = judge[1], random.Random(0)
    own = [thinking_tokens(tokenizer, game) for game in games]
    opened, closed, filler = (
        tokenizer.encode(text, add_special_tokens=False)[:1]
        for text in ("<think>", "</think>", " rice")
    )
    other_order, sibling = donors(games)
    shown = {NONE: [[] for _ in own]}
    for percent in (25, 50, 75):
        shown[f"first {percent} %"] = [part[: len(part) * percent // 100] for part in own]
    shown[WHOLE] = own
    shown[FILLER] = [filler * len(part) for part in own]
    shown[SHUFFLED] = [rng.sample(part, len(part)) for part in own]
    shown[OTHER_ORDER] = [own[index] for index in other_order]
    shown[SIBLING] = [own[index] for index in sibling]
    results = {}
    for name, parts in shown.items():
        results[name] = forced(judge, games, [opened + part + closed for part in parts])
    for changed in results.values():
        for game, whole in zip(changed, results[WHOLE]):
            game["flipped"] = game["verdict"] != whole["verdict"]
    return results


def flipped(games):
    """The interval of the share of verdicts that differ from those after the whole thinking."""
    return accuracy(grid([games], "flipped", "sibling"))


def claim_of(name, results):
    whole = lab.right([results[WHOLE]])
    gains = [difference(whole, lab.right([results[other]])) for other in (NONE, FILLER, SHUFFLED)]
    flips = [flipped(results[OTHER_ORDER]), flipped(results[SIBLING])]
    used = all(low > 0 for _, low, _ in gains)
    causal = all(low > 0.5 for _, low, _ in flips)
    figure = (
        f"right more often by {as_text(gains[0])} than without thinking, by {as_text(gains[1])} "
        f"than after a filler; its sibling's thinking flips {as_text(flips[1])} of the verdicts"
    )
    verdict = ("not at this size", "partly", "reproduced")[used + causal]
    return [f"The verdict rests on the thinking in front of it (RRM): {name}", figure, verdict]


def main():
    judges = {
        f"grpo-{base}-0": lab.default_runs(base)[f"grpo-{base}-0"] for base in ("mixed", "weak")
    }
    judges["base-mixed"] = lab.FOLDERS["mixed"]
    rows, claims = [], []
    for name, folder in judges.items():
        games = lab.recorded(f"{name}-think", folder, start=lab.THINK)
        results = conditions(load_judge(folder), games)
        claims.append(claim_of(name, results))
        for condition, games in results.items():
            rows.append([name, condition, as_text(accuracy(lab.right([games])))])
            rows[-1].append(as_text(flipped(games)))
    lab.write_result("thinking", claims, ["judge", "shown", "right", "verdicts flipped"], rows)


if __name__ == "__main__":
    main()
