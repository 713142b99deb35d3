"""4. Does more compute at test time help? Votes, and a budget of thinking tokens.

    python runs/miniature/compute.py

Two judges: both bases after GRPO. Completions begin with <think>.
"""

from collections import defaultdict

import lab
from games import forced, load_judge, majority_right, thinking_tokens
from measures import accuracy, as_text, difference, judged, judged_together

VOTES, TEMPERATURES = (1, 2, 4, 8), (1.0, 0.6)
BUDGETS = (0, 4, 8, 12, 16, 20, 24, 32, 40, 48, 64, 96)


def voted(games, k):
    """Outcomes of voting@k in each order: the majority over disjoint sets of the recorded votes."""
    pairs = defaultdict(lambda: ([], []))
    for game in games:
        pairs[game["id"]][game["order"][0]].append(game)
    outcomes = []
    for one_order, other_order in pairs.values():
        for start in range(0, len(one_order), k):
            drawn = one_order[start : start + k] + other_order[start : start + k]
            outcomes.append(drawn[0] | {"right": majority_right(drawn)})
    return outcomes


def votes(base, folder):
    """(rows of the table, claim) of one judge."""
    rows, gains = [], {}
    for temperature in TEMPERATURES:
        options = {"start": lab.THINK, "votes": 8, "temperature": temperature}
        run = f"compute-{base}-votes-{temperature}"
        games = lab.recorded(run, folder, limit=max(4, lab.LIMIT // 2), **options)
        cells = {k: lab.right([voted(games, k)]) for k in VOTES}
        for k, outcomes in cells.items():
            gain = difference(outcomes, cells[1])
            label = f"voting@{k} in each order, temperature {temperature}"
            rows.append([base, label, as_text(accuracy(outcomes)), as_text(gain)])
        gains[temperature] = gain  # of the most votes
    figure = ", ".join(f"{as_text(gain)} at temperature {at}" for at, gain in gains.items())
    claim = f"More sampled judgments a pair raise accuracy (RRM: voting@16): {base}, GRPO"
    return rows, [claim, f"voting@8 less voting@1: {figure}", judged_together(gains.values())]


def budgets(base, folder):
    """(rows of the table, claim): thinking cut after B tokens, then the likelier verdict."""
    judge = load_judge(folder)
    games = lab.recorded(f"grpo-{base}-0-think", folder, start=lab.THINK)
    opened, closed = (
        judge[1].encode(text, add_special_tokens=False) for text in ("<think>", "</think>")
    )
    thinking = [opened + thinking_tokens(judge[1], game) for game in games]
    cells = {}
    for budget in BUDGETS:
        cut = [part[: max(1, budget)] + closed for part in thinking]
        cells[budget] = lab.right([forced(judge, games, cut)])
    most, rows = cells[BUDGETS[-1]], []
    for budget, outcomes in cells.items():
        gain = as_text(difference(outcomes, cells[0]))
        rows.append([base, f"{budget} tokens", as_text(accuracy(outcomes)), gain])
    enough = next(budget for budget in BUDGETS if difference(most, cells[budget])[1] <= 0)
    gain = difference(most, cells[0])
    figure = f"{as_text(gain)} from no thinking to 96 tokens, no gain shown beyond {enough}"
    claim = f"A longer thinking budget raises accuracy (RRM sec. 4.5): {base}, GRPO"
    return rows, [claim, figure, judged(gain)]


def main():
    rows, claims = [], []
    for base in ("mixed", "weak"):
        folder = lab.default_runs(base)[f"grpo-{base}-0"]
        for study in (votes, budgets):
            more, claim = study(base, folder)
            rows += more
            claims.append(claim)
    lab.write_result("compute", claims, ["judge", "compute", "right", "gain"], rows)


if __name__ == "__main__":
    main()
