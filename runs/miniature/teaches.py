"""1. Does RL on verdicts teach judging, or does it select a mode that the base has?

    python runs/miniature/teaches.py          (see rl.py for SEEDS, STEPS, ...)

Four bases; for each the base as it is, made to think, made to guess, thinking at temperature 0, the majority of 8 votes, GRPO, and for two
of them GRPO whose rewards are a coin. Every gain is split: with p the share of judgments of the trained judge that think, and T, G the accuracy of the *base*
made to think and made to guess, a base that thinks as often as the trained judge would be right in p T + (1 - p) G.

    change of mode = p T + (1 - p) G - (accuracy of the base)        change within the modes = (accuracy of the trained judge) - p T - (1 - p) G

Both add up to the gain. RL that only samples the thinking more greedily would also gain within the mode, so the trained judge's thinking is
compared with that of the base at temperature 0 and with its majority of 8 as well: only what is left above both is nothing the base had.

The rule: "reproduced: teaches" if the interval of the change within the modes lies above 0, "partly: selects" if only that of the change of mode does.
A coin teaches nothing if the interval of its change holds 0 and lies within 0.1 of it.
With one seed: 60 steps of the default run's 150, 200 pairs (100 for votes), the coin for two bases, and intervals over pairs alone.
"""

import os

import rl
from measure import told
from rl import BASES, GUESS, SEEDS, THINK, difference, estimate, path_of, share

NAMES = os.environ.get("BASES", " ".join(BASES)).split()
COINS = ("mixed", "weak")  # bases with the control
VOTED = max(4, rl.LIMIT // 2)  # pairs that are voted on


def make_all():
    jobs = {}
    for seed in SEEDS:
        jobs |= {
            f"grpo-{name}-{seed}": rl.grpo(f"grpo-{name}", rl.base(name), seed) for name in NAMES
        }
        jobs |= {
            f"coin-{name}-{seed}": rl.grpo(
                f"coin-{name}", rl.base(name), seed, reward="rl:coin_reward"
            )
            for name in NAMES
            if name in COINS
        }
    rl.run_all(jobs.values())
    runs, play = (
        {f"base-{name}": rl.base(name) for name in NAMES}
        | {name: folder for name, (folder, _) in jobs.items()},
        [],
    )
    for name in NAMES:
        folder, votes = rl.base(name), dict(votes=8, limit=VOTED)
        play += [
            rl.games(f"base-{name}-think", folder, THINK),
            rl.games(f"base-{name}-guess", folder, GUESS),
            rl.games(f"base-{name}-greedy", folder, THINK, temperature=0.0),
            rl.games(f"base-{name}-votes", folder, **votes),
            rl.games(f"base-{name}-think-votes", folder, THINK, **votes),
        ]
    for run, model in runs.items():
        play += [rl.games(run, model)] + [rl.games(f"{run}-think", model, THINK)] * run.startswith(
            "grpo-"
        )
    rl.play_all([*play, *rl.triple_games(runs)])
    rl.write_logs(runs)


def tables(name):
    """Right or not, (runs, siblings), of every condition; `thinking`: the share of GRPO's judgments that think."""
    found = {
        kind: rl.table(path_of(f"base-{name}{end}"))
        for kind, end in (
            ("base", ""),
            ("think", "-think"),
            ("guess", "-guess"),
            ("greedy", "-greedy"),
        )
    }
    runs = [path_of(f"grpo-{name}-{seed}") for seed in SEEDS]
    if name in COINS:
        found["coin"] = rl.table([path_of(f"coin-{name}-{seed}") for seed in SEEDS])
    return found | {
        "votes": rl.majority(path_of(f"base-{name}-votes")),
        "think_votes": rl.majority(path_of(f"base-{name}-think-votes")),
        "grpo": rl.table(runs),
        "thinking": rl.table(runs, rl.thinks),
        "grpo_think": rl.table([path_of(f"grpo-{name}-{seed}-think") for seed in SEEDS]),
    }


def split(found):
    """gain, change of mode, change within the modes; and what GRPO's thinking has over the base's, sampled, greedy and voted."""
    arms = [found[kind] for kind in ("base", "think", "guess", "grpo", "thinking")]
    return {
        "gain": difference(found["grpo"], found["base"]),
        "mode": estimate(
            lambda base, think, guess, after, p: p * think + (1 - p) * guess - base, *arms
        ),
        "within": estimate(
            lambda base, think, guess, after, p: after - p * think - (1 - p) * guess, *arms
        ),
        "over_sampled": difference(found["grpo_think"], found["think"]),
        "over_greedy": difference(found["grpo_think"], found["greedy"]),
        "over_votes": difference(found["grpo_think"], found["think_votes"]),
    } | (
        {
            "coin": difference(found["coin"], found["base"]),
            "over_coin": difference(found["grpo"], found["coin"]),
        }
        if "coin" in found
        else {}
    )


def judged(parts):
    """It selects, unless the interval of the gain within the modes lies above 0."""
    if parts["within"][1] > 0:
        more = min(parts["over_greedy"][1], parts["over_votes"][1]) > 0
        return "reproduced: teaches" + (
            ", above greedy and voted thinking of the base"
            if more
            else "; not shown above greedy and voted thinking of the base"
        )
    return "partly: selects" if parts["mode"][1] > 0 else "not at this size: no gain shown"


def draw_figure(splits, bases):
    """Base, change of mode and change within the modes, stacked; what voting and rewards from a coin give beside it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.2))
    for place, (name, parts) in enumerate(splits.items()):
        start, first = rl.accuracy(bases[name]["base"])[0], place == 0
        axes.bar(place, start, 0.5, color="#bbbbbb", label="base" if first else None)
        axes.bar(
            place,
            parts["mode"][0],
            0.5,
            bottom=start,
            color="#4477aa",
            label="change of mode" if first else None,
        )
        axes.bar(
            place,
            parts["within"][0],
            0.5,
            bottom=start + parts["mode"][0],
            color="#ee6677",
            label="change within the mode" if first else None,
        )
        end, low, high = rl.accuracy(bases[name]["grpo"])
        axes.errorbar(
            place,
            end,
            [[max(0, end - low)], [max(0, high - end)]],
            color="black",
            capsize=4,
            label="after GRPO, 95 %" if first else None,
        )
        for shift, kind, marker, label in (
            (-0.34, "coin", "x", "GRPO, rewards from a coin"),
            (0.34, "votes", "o", "base, majority of 8"),
            (0.42, "greedy", "^", "base, made to think, greedy"),
        ):
            if kind in bases[name]:
                axes.plot(
                    place + shift,
                    rl.accuracy(bases[name][kind])[0],
                    marker,
                    color="black",
                    markersize=6,
                    label=label if first else None,
                )
    axes.axhline(0.5, color="black", linewidth=0.6, linestyle=":")
    axes.set(
        xticks=range(len(splits)),
        xticklabels=list(splits),
        ylim=(0.4, 1.0),
        ylabel="held-out accuracy (0.5: a coin)",
    )
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=4)
    figure.tight_layout()
    rl.RECORD.mkdir(parents=True, exist_ok=True)
    figure.savefig(rl.RECORD / f"teaches{'-full' * (len(SEEDS) > 1)}.png", dpi=80)


def table_rows(name, found):
    """One row for each condition of a base."""
    arms = {
        "base": ("base", [f"base-{name}"]),
        "base, made to think": ("think", [f"base-{name}-think"]),
        "base, made to think, greedy": ("greedy", [f"base-{name}-greedy"]),
        "base, made to guess": ("guess", [f"base-{name}-guess"]),
        "base, majority of 8": ("votes", []),
        "base, made to think, majority of 8": ("think_votes", []),
        "GRPO": ("grpo", [f"grpo-{name}-{seed}" for seed in SEEDS]),
        "GRPO, made to think": ("grpo_think", [f"grpo-{name}-{seed}-think" for seed in SEEDS]),
        "GRPO, rewards from a coin": ("coin", [f"coin-{name}-{seed}" for seed in SEEDS]),
    }
    for label, (kind, files) in arms.items():
        if kind in found:
            paths = [path_of(file) for file in files]
            shares = [
                share(rl.table(paths, value)) if paths else "-"
                for value in (rl.thinks, rl.compares)
            ]
            length = told(rl.accuracy(rl.table(paths, rl.chose_longer))) if paths else "-"
            cycles = (
                [rl.cycle_rate(path_of(f"{file}-triples")) for file in files]
                if kind in ("base", "grpo", "coin")
                else []
            )
            yield [
                name,
                label,
                told(rl.accuracy(found[kind])),
                *shares,
                length,
                f"{sum(cycles) / len(cycles):.2f}" if cycles else "-",
            ]


def main():
    make_all()
    rows, claims, coins, splits, bases = [], [], [], {}, {}
    for name in NAMES:
        found = bases[name] = tables(name)
        parts = splits[name] = split(found)
        rows += table_rows(name, found)
        figures = "; ".join(
            f"{label} {told(parts[part])}"
            for label, part in (
                ("gain", "gain"),
                ("change of mode", "mode"),
                ("within", "within"),
                ("its thinking over the base's: sampled", "over_sampled"),
                ("greedy", "over_greedy"),
                ("majority of 8", "over_votes"),
            )
        )
        claims.append(
            [f"RL on verdicts teaches judging: {name} ({BASES[name]})", figures, judged(parts)]
        )
        if "coin" in parts:
            _, low, high = parts["coin"]
            still = "reproduced" if max(-low, high) <= 0.1 else "not at this size: undecided"
            word = still if low <= 0 <= high else "not at this size: they change the judge"
            coins.append(
                [
                    f"Rewards from a coin teach nothing: {name}",
                    f"{told(parts['coin'])}; GRPO over it {told(parts['over_coin'])}",
                    word,
                ]
            )
    draw_figure(splits, bases)
    notes = [
        f"Majorities are of {VOTED} pairs, 8 votes in each order; an even vote counts one half. Everything at temperature 1 unless greedy.",
        "thinks: share of verdicts after 8 tokens of thinking or more; compares: share whose thinking sets both answers beside the working.",
        "Cycle rate: share of triples of answers whose three verdicts run in a circle; a coin has 0.25.",
    ]
    columns = ["base", "judge", "accuracy", "thinks", "compares", "length bias", "cycle rate"]
    rl.write_result("teaches", claims + coins, [["All conditions", columns, rows]], notes)


if __name__ == "__main__":
    main()
