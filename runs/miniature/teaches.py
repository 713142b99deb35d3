"""1. Does RL on verdicts teach judging, or does it select a mode that the base has?

    python runs/miniature/teaches.py

Every gain is split. With p the share of judgments of the trained judge that think, and T, G the
accuracy of the *base* made to think and made to guess, a base that thinks as often as the trained
judge would be right in p T + (1 - p) G:

    change of mode          = p T + (1 - p) G - accuracy of the base
    change within the modes = accuracy of the trained judge - p T - (1 - p) G

Both add up to the gain.
"""

import lab
from games import majority_right
from measures import accuracy, as_text, difference, estimate

VOTED = max(4, lab.LIMIT // 2)  # pairs that are voted on


def majorities(games):
    """One row a prompt: whether the majority of its votes is right."""
    prompts = {}
    for game in games:
        prompts.setdefault((game["id"], game["order"][0]), []).append(game)
    return [votes[0] | {"right": majority_right(votes)} for votes in prompts.values()]


def measure(base):
    """{condition: the games of each run} of one base."""
    model, trained = lab.FOLDERS[base], lab.default_runs(base)
    coin = lab.grpo_runs(f"coin-{base}", model, reward="lab:coin_reward")
    votes = lab.recorded(f"base-{base}-votes", model, votes=8, limit=VOTED)
    greedy = lab.recorded(f"base-{base}-greedy", model, start=lab.THINK, temperature=0.0)
    return {
        "base": [lab.recorded(f"base-{base}", model)],
        "base, made to think": [lab.recorded(f"base-{base}-think", model, start=lab.THINK)],
        "base, made to think, greedy": [greedy],
        "base, made to guess": [lab.recorded(f"base-{base}-guess", model, start=lab.GUESS)],
        "base, majority of 8": [majorities(votes)],
        "GRPO": lab.recorded_runs(trained),
        "GRPO, made to think": lab.recorded_runs(trained, "-think", start=lab.THINK),
        "GRPO, rewards from a coin": lab.recorded_runs(coin),
    }


def split(cells, thinking):
    """{part of the gain: interval}. cells: {condition: grid}; thinking: GRPO's games that think."""
    arms = [cells["base"], cells["base, made to think"], cells["base, made to guess"]]
    arms += [cells["GRPO"], thinking]

    def change_of_mode(before, think, guess, after, share):
        return share * think + (1 - share) * guess - before

    def change_within(before, think, guess, after, share):
        return after - share * think - (1 - share) * guess

    greedy = cells["base, made to think, greedy"]
    return {
        "gain": difference(cells["GRPO"], cells["base"]),
        "mode": estimate(change_of_mode, *arms),
        "within": estimate(change_within, *arms),
        "over_greedy": difference(cells["GRPO, made to think"], greedy),
        "coin": difference(cells["GRPO, rewards from a coin"], cells["base"]),
    }


def teaches(parts):
    """It selects, unless the interval of the change within the modes is above 0."""
    if parts["within"][1] > 0:
        shown = ", above" if parts["over_greedy"][1] > 0 else "; not shown above"
        return f"reproduced: teaches{shown} greedy thinking of the base"
    return "partly: selects" if parts["mode"][1] > 0 else "not at this size: no gain shown"


def coin_teaches_nothing(interval):
    _, low, high = interval
    if not low <= 0 <= high:
        return "not at this size: they change the judge"
    return "reproduced" if max(-low, high) <= 0.1 else "not at this size: undecided"


def claims_of(base, parts):
    figure = (
        f"gain {as_text(parts['gain'])}; change of mode {as_text(parts['mode'])}; "
        f"within {as_text(parts['within'])}; its thinking over the base's greedy thinking "
        f"{as_text(parts['over_greedy'])}"
    )
    coin = as_text(parts["coin"]), coin_teaches_nothing(parts["coin"])
    return [
        [f"RL on verdicts teaches judging: {base}", figure, teaches(parts)],
        [f"Rewards from a coin teach nothing: {base}", *coin],
    ]


def draw_figure(splits, cells):
    """One bar a base: its accuracy, and the two parts of the gain on top of it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.2))
    for place, (base, parts) in enumerate(splits.items()):
        start = accuracy(cells[base]["base"])[0]
        top = start + parts["mode"][0]
        axes.bar(place, start, 0.5, color="#bbbbbb", label="base")
        axes.bar(place, top - start, 0.5, start, color="#4477aa", label="change of mode")
        within = parts["within"][0]
        axes.bar(place, within, 0.5, top, color="#ee6677", label="change within the mode")
        end, low, high = accuracy(cells[base]["GRPO"])
        errors = [[end - low], [high - end]]
        axes.errorbar(place, end, errors, color="black", capsize=4, label="after GRPO, 95 %")
        for shift, mark, condition in (
            (-0.34, "x", "GRPO, rewards from a coin"),
            (0.34, "o", "base, majority of 8"),
            (0.42, "^", "base, made to think, greedy"),
        ):
            value = accuracy(cells[base][condition])[0]
            axes.plot(place + shift, value, mark, color="black", label=condition)
        if place == 0:
            axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=4)
    axes.axhline(0.5, color="black", linewidth=0.6, linestyle=":")
    axes.set(xticks=range(len(splits)), xticklabels=list(splits), ylim=(0.4, 1.0))
    axes.set(ylabel="held-out accuracy (0.5: a coin)")
    figure.tight_layout()
    figure.savefig(lab.RECORD / f"teaches{lab.FULL}.png", dpi=80)


def main():
    rows, claims, splits, cells = [], [], {}, {}
    for base in ("mixed", "weak"):
        found = measure(base)
        cells[base] = {condition: lab.right(runs) for condition, runs in found.items()}
        splits[base] = split(cells[base], lab.thinks(found["GRPO"]))
        claims += claims_of(base, splits[base])
        for condition, runs in found.items():
            rows.append([base, condition, lab.accuracy_text(runs), lab.thinks_text(runs)])
    lab.write_result("teaches", claims, ["base", "judge", "accuracy", "thinks"], rows)
    draw_figure(splits, cells)


if __name__ == "__main__":
    main()
