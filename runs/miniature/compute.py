"""4. Does more compute at test time help? voting@k, a budget of thinking tokens, and the number of comparisons behind a best-of-N choice.

    python runs/miniature/compute.py          (see rl.py for LIMIT, ...)

Two judges: the mixed base and the weak base, both after GRPO. Completions begin with <think>, so that none guesses.

The rules, for each judge: voting@8 in each order beats voting@1 at both temperatures (reproduced) or at one (partly). Budget: the interval of
(right with 96 tokens) - (right with none) lies above 0. Comparisons, for the first judge: (score of the answer picked after all comparisons with all
votes) - (after a knockout of single votes) is above two standard errors (reproduced), above 0 (partly).
Cut with one seed: 100 pairs for the votes, 40 questions of 6 answers for the comparisons.
"""

import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import forced  # noqa: E402
import rl  # noqa: E402
from measure import ROOT, interval, load_judge, load_rows, mean, play, told  # noqa: E402

VOTES, BUDGETS, TEMPERATURES, MOST = (
    (1, 2, 4, 8),
    (0, 4, 8, 12, 16, 20, 24, 32, 40, 48, 64, 96),
    (1.0, 0.6),
    8,
)


# ---- votes ----


def voted(games, k):
    """Outcomes of voting@k in each order: disjoint sets of k of the recorded votes, the majority of all valid ones, a draw half right."""
    votes, outcomes = defaultdict(lambda: ([], [])), []
    for game in games:
        votes[game["id"]][game["order"][0]].append(game)
    for orders in votes.values():
        for start in range(0, MOST, k):
            drawn = [game for order in orders for game in order[start : start + k]]
            lead = sum(1 if game["right"] else -1 for game in drawn if game["verdict"])
            outcomes.append(
                {name: drawn[0][name] for name in ("sibling", "family", "level")}
                | {
                    "right": 0.5 + 0.5 * ((lead > 0) - (lead < 0)),
                    "tokens": sum(game["tokens"] for game in drawn),
                }
            )
    return outcomes


def vote_rows(model, folder):
    """(rows of the table, {(temperature, k): outcomes})."""
    wanted = {
        temperature: rl.games(
            f"compute-{model}-votes-{temperature}",
            folder,
            "<think>",
            MOST,
            temperature,
            limit=max(4, rl.LIMIT // 2),
        )
        for temperature in TEMPERATURES
    }
    rl.play_all(wanted.values())
    rows, found = [], {}
    for temperature, measurement in wanted.items():
        games = rl.read_games(measurement["result"])
        for k in VOTES:
            found[temperature, k] = outcomes = voted(games, k)
            gain = "" if k == 1 else told(interval(outcomes, other=found[temperature, 1]))
            parts = [
                told(interval([part for part in outcomes if part["family"] == family]))
                for family in ("sums", "lines")
            ]
            rows.append(
                [
                    model,
                    temperature,
                    k,
                    f"{mean(part['tokens'] for part in outcomes):.0f}",
                    told(interval(outcomes)),
                    *parts,
                    gain,
                ]
            )
        wrong = defaultdict(list)
        for game in games:
            wrong[game["id"]].append(not game["right"])
        mixed = [votes for votes in wrong.values() if 0 < sum(votes) < len(votes)]
        always = sum(all(votes) for votes in wrong.values())
        rows.append(
            [
                model,
                temperature,
                "pairs",
                "",
                f"{always} of {len(wrong)} wrong in all {2 * MOST} votes, {len(mixed)} in some",
                "",
                "",
                "",
            ]
        )
    return rows, found


def vote_verdict(model, found):
    gains = {
        temperature: interval(found[temperature, MOST], other=found[temperature, 1])
        for temperature in TEMPERATURES
    }
    word = ("not at this size", "partly", "reproduced")[
        sum(low > 0 for _, low, _ in gains.values())
    ]
    words = ", ".join(
        f"{told(gain)} at temperature {temperature}" for temperature, gain in gains.items()
    )
    return [
        f"More sampled judgments a pair raise accuracy (RRM: voting@16): {model}",
        f"voting@{MOST} in each order less voting@1: {words}",
        word,
    ]


# ---- budget ----


def budget_rows(model, judge, pairs):
    """One completion a game at temperature 1, cut at B tokens: the verdict forced there, or none and hence wrong."""
    _, tokenizer, _ = judge
    by_id = {row["id"]: row for row in pairs}
    games = play(judge, pairs, "<think>")
    chosen, orders = [by_id[game["id"]] for game in games], [game["order"] for game in games]
    prompts = [forced.prompt_of(tokenizer, row, order) for row, order in zip(chosen, orders)]
    tokens = [
        tokenizer.encode(game["text"].split("</think>")[0], add_special_tokens=False)
        for game in games
    ]
    (closed,) = tokenizer.encode("</think>", add_special_tokens=False)
    rows, found = [], {}
    for budget in BUDGETS:
        thinking = [
            part[:budget] or tokenizer.encode("<think>", add_special_tokens=False)
            for part in tokens
        ]
        ended = forced.judged(
            chosen,
            orders,
            forced.probabilities(judge, prompts, [part + [closed] for part in thinking]),
        )
        for game, drawn, part, own in zip(ended, games, thinking, tokens):
            game |= {"tokens": min(len(part) + 1, drawn["tokens"]), "cut": len(own) > budget}
        plain = [
            game | {"right": drawn["right"] and len(own) <= budget}
            for game, drawn, own in zip(ended, games, tokens)
        ]
        found[budget] = ended, plain
        parts = [
            told(interval([game for game in ended if game["family"] == family]))
            for family in ("sums", "lines")
        ]
        rows.append(
            [
                model,
                budget,
                f"{mean(game['tokens'] for game in ended):.1f}",
                f"{mean(game['cut'] for game in ended):.3f}",
                told(interval(ended)),
                *parts,
                told(interval(plain)),
            ]
        )
    return rows, found


def budget_verdict(model, found):
    top = BUDGETS[-1]
    least = next(
        budget for budget in BUDGETS if interval(found[top][0], other=found[budget][0])[1] <= 0
    )
    gain, half = interval(found[top][0], other=found[0][0]), found[BUDGETS[len(BUDGETS) // 2]]
    forcing = interval(half[0], other=half[1])
    return [
        f"A longer thinking budget raises accuracy, with diminishing returns (RRM sec. 4.5): {model}",
        f"{told(gain)} from no thinking to {top} tokens, nothing that can be told apart beyond {least}; forcing a verdict at "
        f"{BUDGETS[len(BUDGETS) // 2]} tokens is right {told(forcing)} more often than none",
        "reproduced" if gain[1] > 0 else "not at this size",
    ]


# ---- comparisons ----


def recording(judge):
    """A recording of runs/ranking/record.py: a few of the questions of runs/ranking/tiny_questions.py, six answers each, three votes."""
    import tiny_questions

    path, rows = rl.OUT / "data/ranking.jsonl.gz", tiny_questions.questions(30)
    rows = [row | {name: row[name][:6] for name in ("candidates", "scores")} for row in rows]
    rows = [row for row in rows if len(set(row["scores"])) > 1][: max(2, rl.LIMIT // 5)]
    questions = rl.write_rows(rl.OUT / "data/ranking.jsonl", rows)
    rl.run_all(
        [
            (
                path,
                [
                    "runs/ranking/record.py",
                    "--questions",
                    questions,
                    "--out",
                    path,
                    "--model",
                    judge,
                    "--num_votes",
                    3,
                    "--temperature",
                    1.0,
                    "--max_completion_length",
                    96,
                ],
            )
        ]
    )
    return path


def comparison_rows(judge):
    sys.path.insert(0, str(ROOT / "runs/ranking"))
    import replay

    *lines, results = replay.report(replay.read_recording(recording(judge)), 5)
    results, names = (
        [found for found in results if found["stop"] == "never"],
        {"knockout": "N - 1", "full": "all"},
    )
    rows = [
        [
            found["schedule"],
            names.get(found["schedule"], f"{found['games']}N"),
            found["num_votes"],
            f"{found['generations']:.0f}",
            f"{found['tokens']:.0f}",
            f"{found['right']:.3f} +- {found['se']:.3f}",
        ]
        for found in results
    ]
    return rows, results, [line for line in lines[:4] if line]


def comparison_verdict(results):
    most = max(found["num_votes"] for found in results)
    few = next(
        found for found in results if found["schedule"] == "knockout" and found["num_votes"] == 1
    )
    many = next(
        found for found in results if found["schedule"] == "full" and found["num_votes"] == most
    )
    gain, error = (
        many["right"] - few["right"],
        (many["se"] ** 2 + few["se"] ** 2) ** 0.5,
    )  # the same questions: the true error is smaller
    word = "reproduced" if gain > 2 * error else "partly" if gain > 0 else "not at this size"
    return [
        "More comparisons find a better answer (RRM sec. 4.5.1): mixed, GRPO",
        f"{few['right']:.3f} after a knockout of single votes ({few['generations']:.0f} generations a question), {many['right']:.3f} after all "
        f"comparisons with {most} votes ({many['generations']:.0f}): {gain:+.3f} +- {error:.3f} (standard error, as if of different questions)",
        word,
    ]


def plot(votes, budgets, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for colour, (model, found) in zip(("tab:blue", "tab:orange", "tab:green"), votes.items()):
        for temperature, dash in zip(TEMPERATURES, ("-", "--")):
            values = [interval(found[temperature, k]) for k in VOTES]
            errors = [
                [max(0, value - low) for value, low, _ in values],
                [max(0, high - value) for value, _, high in values],
            ]
            label = f"{model}, temperature {temperature}"
            left.errorbar(
                [2 * k for k in VOTES],
                [value for value, *_ in values],
                errors,
                fmt="o" + dash,
                color=colour,
                capsize=2,
                label=label,
            )
        for place, dash, label in ((0, "-", "verdict forced"), (1, "--", "no verdict = wrong")):
            values = [interval(budgets[model][budget][place]) for budget in BUDGETS]
            right.plot(
                BUDGETS,
                [value for value, *_ in values],
                "o" + dash,
                color=colour,
                markersize=4,
                label=f"{model}, {label}",
            )
            right.fill_between(
                BUDGETS,
                [low for _, low, _ in values],
                [high for *_, high in values],
                color=colour,
                alpha=0.15,
            )
    left.set_xscale("log", base=2)
    left.set(xlabel="votes a pair (both orders)", ylabel="right (95 % interval over siblings)")
    right.set(xlabel="thinking budget, tokens")
    for axis in (left, right):
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=80)


def main():
    folders = {"mixed": rl.default_judge("mixed"), "weak": rl.default_judge("weak")}
    votes, budgets, claims, vote_table, budget_table = {}, {}, [], [], []
    for name, folder in folders.items():
        model = f"{name}, GRPO"
        rows, votes[model] = vote_rows(name, folder)
        vote_table += rows
        rows, budgets[model] = budget_rows(model, load_judge(folder), load_rows(limit=rl.LIMIT))
        budget_table += rows
        claims += [vote_verdict(model, votes[model]), budget_verdict(model, budgets[model])]
    rows, results, lines = comparison_rows(folders["mixed"])
    claims.insert(2, comparison_verdict(results))
    tables = [
        [
            "Votes",
            [
                "judge",
                "temperature",
                "votes in each order",
                "tokens a pair",
                "right",
                "right, sums",
                "right, lines",
                "better than one vote by",
            ],
            vote_table,
        ],
        [
            "Thinking budget",
            [
                "judge",
                "budget",
                "tokens a game",
                "cut short",
                "right, verdict forced",
                "sums",
                "lines",
                "right, no verdict = wrong",
            ],
            budget_table,
        ],
        [
            "Comparisons for a best of N",
            [
                "schedule",
                "matches",
                "votes in each order",
                "generations",
                "tokens",
                "score of the picked answer",
            ],
            rows,
        ],
    ]
    notes = [
        f"Votes: majority of the valid votes of both orders, a draw half right; {MOST} votes in each order, smaller k as means over "
        "disjoint sets of them. With a draw half right, one vote in each order is as good as one vote.",
        "Budget: one completion a game at temperature 1; tokens of thinking with its <think>. Forced: </think> is written there and the "
        "likelier verdict taken. The judge is not told its budget and was not trained with one.",
        f"Comparisons: {'; '.join(lines)}. Every schedule, stop rule and a larger set of questions: runs/ranking.",
    ]
    rl.write_result("compute", claims, tables, notes)
    plot(votes, budgets, rl.RECORD / "compute.png")


if __name__ == "__main__":
    main()
