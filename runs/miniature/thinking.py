"""2. Is the thinking used? A judge's own thinking is cut, exchanged or edited, then the verdict is forced. And: is it longer where more is to be done?

    python runs/miniature/thinking.py          (see rl.py for LIMIT, ...)

Three judges: the mixed base after GRPO, the weak one after GRPO, and the mixed base itself. Every pair is judged in both orders at temperature 1,
the completion begun with <think>. The verdict after what is shown instead of the thinking is the likelier of the two (forced.py), so no drawing
noise comes in.

The rule, for the first judge: used = the intervals of (right after the whole thinking) - (right after none, a filler of the same length, its own
tokens shuffled) all lie above 0; causal = its sibling's thinking and that of the other order turn more than half of the verdicts. Reproduced: both,
partly: one. Adapts: the slopes of tokens on the level and on the tokens needed lie above 0 in both families; reproduced only if these slopes are
also steeper than the base's, partly if the base adapts as well.
"""

import random
import re
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import forced  # noqa: E402
import rl  # noqa: E402
from baselines import parse  # noqa: E402
from forced import kinds_of, least_squares  # noqa: E402
from measure import THINKS, interval, load_judge, load_rows, mean, play, told  # noqa: E402
from world import think  # noqa: E402  (rl.py put tiny/ on the path)

WHOLE, NONE, WORD, SHUFFLED = "whole (100 %)", "none (0 %)", "one word, as often", "own, shuffled"
CUTS = {NONE: 0, "first 25 %": 25, "first 50 %": 50, "first 75 %": 75, WHOLE: 100}
EXCHANGED, SIBLING = "own of the other order", "its sibling's"
SAME, OTHER = "another item's, same verdict", "another item's, other verdict"
MARKS, NUMBERS, BOTH = (
    "last step: y and n exchanged",
    "last step: numbers exchanged",
    "last step: both exchanged",
)
LAST_STEP = {  # what the last step of the working says of the two answers: (symbol, symbol) of the first, then of the second
    "sums": re.compile(r"(?P<one>\d)(?P<mark_one>[ny])(?P<two>\d)(?P<mark_two>[ny])$"),
    "lines": re.compile(
        r"(?P<mark_one>[ny])(?P<one>\d+) second (?:(?!first )\S+ )+(?P<mark_two>[ny])(?P<two>\d+)$"
    ),
}


def inner(text):
    """The thinking of a completion, without its tags; all of it where it never ends."""
    return text.removeprefix("<think>").split("</think>")[0]


def exchange(text, family, one, two):
    """The thinking with two symbols of its last step exchanged; None where there is no such step or they are equal."""
    match = LAST_STEP[family].search(text or "")
    if not match or match[one] == match[two]:
        return None
    (start, end), (first, last) = match.span(one), match.span(two)
    return text[:start] + match[two] + text[end:first] + match[one] + text[last:]


def edits(text, family):
    """{condition: edited thinking, or None where the symbols are equal}. The numbers: a sum's digits of the answers, a line's points so far."""
    marks, numbers = (
        exchange(text, family, "mark_one", "mark_two"),
        exchange(text, family, "one", "two"),
    )
    return {MARKS: marks, NUMBERS: numbers, BOTH: exchange(marks, family, "one", "two")}


def donors(games, rng):
    """For each game the indices of others whose thinking it is shown: {condition: index or None}."""
    place = {(game["id"], game["order"][0]): index for index, game in enumerate(games)}
    kinds, siblings = defaultdict(list), defaultdict(list)
    for index, game in enumerate(games):
        kinds[game["family"], game["level"], game["verdict"]].append(index)
        siblings[game["sibling"]].append(index)
    found = []
    for game in games:

        def another(verdict, game=game):
            others = kinds[game["family"], game["level"], verdict]
            drawn = (rng.choice(others) for _ in range(100 * bool(others)))
            return next(
                (index for index in drawn if games[index]["sibling"] != game["sibling"]), None
            )

        # of a sibling: the same two answers in the same places, the other question
        shown = [index for index in siblings[game["sibling"]] if games[index]["id"] != game["id"]]
        same = [index for index in shown if shown_answers(games[index]) == shown_answers(game)]
        found.append(
            {
                EXCHANGED: place[game["id"], 1 - game["order"][0]],
                SIBLING: same[0] if same else None,
                SAME: another(game["verdict"]),
                OTHER: another(3 - game["verdict"]),
            }
        )
    return found


def shown_answers(game):
    return [game["row"]["ab"[index]] for index in game["order"]]


def conditions(judge, rows, seed=0):
    """{condition: games with the verdict forced after it}; each has `own`, the verdict after its own whole thinking, and `think_tokens`."""
    _, tokenizer, _ = judge
    rng, by_id = random.Random(seed), {row["id"]: row for row in rows}
    drawn = play(judge, rows, "<think>")
    rows, orders = [by_id[game["id"]] for game in drawn], [game["order"] for game in drawn]
    prompts, texts = (
        [forced.prompt_of(tokenizer, *place) for place in zip(rows, orders)],
        [inner(game["text"]) for game in drawn],
    )
    tokens = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    opened, closed, word = (
        tokenizer.encode(text, add_special_tokens=False)
        for text in ("<think>", "</think>", " rice")
    )

    def after(thinking):
        """Games with this thinking (token ids; None: left out) in place of their own."""
        chosen = [index for index, part in enumerate(thinking) if part is not None]
        chances = forced.probabilities(
            judge,
            [prompts[index] for index in chosen],
            [opened + thinking[index] + closed for index in chosen],
        )
        games = forced.judged(
            [rows[index] for index in chosen], [orders[index] for index in chosen], chances
        )
        return [game | {"index": index} for game, index in zip(games, chosen)]

    own = after(tokens)
    for game, row in zip(own, rows):
        game["row"] = row
    lent, edited = donors(own, rng), [edits(text, row["family"]) for text, row in zip(texts, rows)]
    shown = {
        name: [part[: len(part) * share // 100] for part in tokens] for name, share in CUTS.items()
    }
    shown |= {
        WORD: [word[:1] * len(part) for part in tokens],
        SHUFFLED: [rng.sample(part, len(part)) for part in tokens],
    }
    shown |= {
        name: [None if game[name] is None else tokens[game[name]] for game in lent]
        for name in lent[0]
    }
    shown |= {
        name: [
            None if game[name] is None else tokenizer.encode(game[name], add_special_tokens=False)
            for game in edited
        ]
        for name in edited[0]
    }
    results = {name: own if name == WHOLE else after(thinking) for name, thinking in shown.items()}
    for games in results.values():
        for game in games:
            index = game["index"]
            game |= {
                "own": own[index]["verdict"],
                "think_tokens": len(tokens[index]),
                "drawn": drawn[index]["verdict"],
                "needed": len(
                    tokenizer.encode(needed(rows[index], orders[index]), add_special_tokens=False)
                ),
            }
    return results


def needed(row, order):
    """The working that the world itself would write for this pair in this order."""
    return think(parse(row), shown_answers({"row": row, "order": order}))


def kept(games):
    """Share whose verdict is the one after the own whole thinking."""
    return mean(game["verdict"] == game["own"] for game in games)


def of(games, family):
    return [game for game in games if game["family"] == family]


def use_table(model, results):
    for name, games in results.items():
        cells = [told(interval(part)) for part in (games, of(games, "sums"), of(games, "lines"))]
        yield [
            model,
            name,
            len(games),
            *cells,
            told(interval(games, kept)),
            f"{mean(game['chance_right'] for game in games):.3f}",
        ]


def turned(games):
    return 1 - kept(games)


def use_verdict(model, results):
    gains = {name: interval(results[WHOLE], other=results[name]) for name in (NONE, WORD, SHUFFLED)}
    lent = {name: interval(results[name], turned) for name in (EXCHANGED, SIBLING)}
    single = {
        family: {
            name: interval(of(results[name], family), turned) for name in (MARKS, NUMBERS, BOTH)
        }
        for family in ("sums", "lines")
    }
    used, causal = (
        all(low > 0 for _, low, _ in gains.values()),
        all(low > 0.5 for _, low, _ in lent.values()),
    )
    word = "reproduced" if used and causal else "partly" if used or causal else "not at this size"
    edited = "; ".join(
        f"{family}: y and n {told(parts[MARKS])}, numbers {told(parts[NUMBERS])}, both {told(parts[BOTH])}"
        for family, parts in single.items()
    )
    figure = (
        f"right more often by {told(gains[NONE])} than without thinking, by {told(gains[WORD])} than after a filler of the "
        f"same length; its sibling's thinking turns {told(lent[SIBLING])} of the verdicts, another item's with the same verdict only "
        f"{told(interval(results[SAME], turned))}. Symbols of the last step exchanged turn, in {edited}"
    )
    return [f"The verdict rests on the thinking in front of it (RRM): {model}", figure, word]


# ---- length ----


def slope(x, y, within_levels=False):
    """A statistic for `interval`: least-squares slope of y on x over games; within_levels: after the means of each level are taken off."""

    def statistic(games):
        groups = defaultdict(list)
        for game in games:
            groups[within_levels and game["level"]].append((game[x], game[y]))
        centres = {
            level: [mean(column) for column in zip(*points)] for level, points in groups.items()
        }
        return least_squares(
            (a - centres[level][0], b - centres[level][1])
            for level, points in groups.items()
            for a, b in points
        )

    return statistic


def gain_per_ten(games):
    return 10 * mean(game["gain"] for game in games) / mean(game["think_tokens"] for game in games)


def length_table(model, results, unforced):
    games = [
        game | {"gain": game["right"] - none["right"]}
        for game, none in zip(results[WHOLE], results[NONE])
    ]
    rows = []
    for kind, belongs in kinds_of(games):
        part, none = (
            [game for game in games if belongs(game)],
            [game for game in results[NONE] if belongs(game)],
        )
        free = [game for game in unforced if belongs(game)]
        by_itself = mean(game["think_tokens"] >= THINKS for game in free)
        needed_tokens, tokens = (
            mean(game[name] for game in part) for name in ("needed", "think_tokens")
        )
        rows.append(
            [
                model,
                kind,
                len(part),
                f"{by_itself:.3f}",
                f"{needed_tokens:.1f}",
                f"{tokens:.1f}",
                told(interval(part)),
                told(interval(none)),
                told(interval(part, gain_per_ten)),
            ]
        )
    slopes = {}
    for family in ("sums", "lines"):
        part = of(games, family)
        found = [
            interval(part, statistic)
            for statistic in (
                slope("level", "think_tokens"),
                slope("needed", "think_tokens"),
                slope("needed", "think_tokens", within_levels=True),
            )
        ]
        slopes[family] = found
        rows.append(
            [
                model,
                f"{family}: slopes",
                len(part),
                "",
                "",
                f"a level {told(found[0])}",
                f"a needed token {told(found[1])}",
                f"the same within a level {told(found[2])}",
                "",
            ]
        )
    return rows, slopes


def length_verdict(slopes):
    """By the first judge, beside the last one: what it was trained from."""
    (model, own), (base, before) = list(slopes.items())[0], list(slopes.items())[-1]
    adapts = all(
        low > 0 for a_level, a_token, _ in own.values() for _, low, _ in (a_level, a_token)
    )
    words = "; ".join(
        f"{family}: {told(a_level)} tokens more a level, {told(a_token)} a needed token"
        for family, (a_level, a_token, _) in own.items()
    )
    learned = all(own[family][1][1] > before[family][1][2] for family in own)
    word = "reproduced" if adapts and learned else "partly" if adapts else "not at this size"
    beside = "; ".join(
        f"{family}: {told(a_token)} a needed token" for family, (_, a_token, _) in before.items()
    )
    return [
        f"The judge spends more thinking on harder pairs, without being told to (RRM): {model}",
        f"{words}. {base}, made to think: {beside}",
        word
        + (
            ": the training taught it"
            if adapts and learned
            else ": it was there before the training"
            if adapts
            else ""
        ),
    ]


def plot(found, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for (model, results), dash in zip(found.items(), ("-", "--", ":")):
        for family, colour in (("sums", "tab:blue"), ("lines", "tab:orange")):
            values = [interval(of(results[name], family)) for name in CUTS]
            errors = [
                [max(0, value - low) for value, low, _ in values],
                [max(0, high - value) for value, _, high in values],
            ]
            left.errorbar(
                list(CUTS.values()),
                [value for value, *_ in values],
                errors,
                fmt="o" + dash,
                color=colour,
                capsize=2,
                label=f"{model}, {family}",
            )
            means = defaultdict(list)
            for game in of(results[WHOLE], family):
                means[game["needed"]].append(game["think_tokens"])
            points = sorted(
                (needed, mean(tokens)) for needed, tokens in means.items() if len(tokens) >= 8
            )
            right.plot(
                [x for x, _ in points],
                [y for _, y in points],
                "o" + dash,
                color=colour,
                markersize=4,
                label=f"{model}, {family}",
            )
    left.set(
        xlabel="% of the own thinking shown before the verdict",
        ylabel="right (95 % interval over siblings)",
    )
    left.axhline(0.5, color="grey", linewidth=0.8)
    right.plot(right.get_xlim(), right.get_xlim(), color="grey", linewidth=0.8)
    right.set(xlabel="tokens of the working that the pair needs", ylabel="mean tokens of thinking")
    left.legend(fontsize=8)
    figure.savefig(path, dpi=80)


def main():
    folders = {
        "mixed, GRPO": rl.default_judge("mixed"),
        "weak, GRPO": rl.default_judge("weak"),
        "mixed base": rl.base("mixed"),
    }
    found, uses, lengths, slopes, claims = {}, [], [], {}, []
    for model, folder in folders.items():
        judge, pairs = load_judge(folder), load_rows(limit=rl.LIMIT)
        found[model] = results = conditions(judge, pairs)
        uses += use_table(model, results)
        rows, slopes[model] = length_table(model, results, play(judge, pairs))
        lengths += rows
        claims.append(use_verdict(model, results))
    claims.insert(1, length_verdict(slopes))
    first = found[next(iter(folders))]
    agree = mean(game["drawn"] == game["own"] for game in first[WHOLE])
    notes = [
        f"The verdict forced after the whole thinking is the one that was drawn in {agree:.3f} of the games of the first judge.",
        "A working of this world ends at the step that decides, so a cut takes the decisive step away first. Its sibling's: the other question "
        "about the same answers in the same places, where the other answer is better. Exchanged numbers: in a sum the answers' digits at the "
        "last column, in a line the points so far; games where the two symbols are equal are left out.",
        "Where another item's thinking keeps the verdict, the verdict is read off the thinking alone and not checked against the question.",
        "Needed: the working that the world would write; the bases were shown workings of that length in their supervised stage. "
        "Thinks by itself: share of judgments that think where nothing is forced.",
    ]
    tables = [
        [
            "What is shown instead of the thinking",
            [
                "judge",
                "thinking shown",
                "games",
                "right",
                "right, sums",
                "right, lines",
                "verdict as after the whole own thinking",
                "mean probability of the right verdict",
            ],
            uses,
        ],
        [
            "Length",
            [
                "judge",
                "kind",
                "games",
                "thinks by itself",
                "needed tokens",
                "thinking tokens",
                "right",
                "right without thinking",
                "gain in accuracy per ten tokens",
            ],
            lengths,
        ],
    ]
    rl.write_result("thinking", claims, tables, notes)
    plot(found, rl.RECORD / "thinking.png")


if __name__ == "__main__":
    main()
