"""Tables and figures of solver.sh.

    python runs/reward/table.py          out/reward/runs/* -> runs/reward/solver.jsonl (one run a line) -> solver.md, solver.png, accuracy.png

Runs that are gone from out/ stay in solver.jsonl. Intervals are 95 %, Student's t over seeds; one seed has none. Right answers in
training are counted from the rollouts, with the sums of the world, since the training questions have no answers.
"""

import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runs/reward")]
from rewards_tiny import number, solution  # noqa: E402

from rewards import final_answer  # noqa: E402

HERE, RUNS = ROOT / "runs/reward", ROOT / "out/reward/runs"
T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 8: 2.36, 10: 2.26}  # by number of seeds
LAST = 10  # steps: 1,280 completions, to questions that came once only
KINDS = {
    "fresh": "errors anew in every game",
    "fixed": "errors fixed for a pair of answers",
    "longer": "errors in favour of length",
}
COLOURS = {
    "oracle": "#000000",
    "judge": "#0072B2",
    "majority": "#009E73",
    "untrained": "#E69F00",
    "coin": "#999999",
}
NAMES = {
    "oracle": "oracle: 1 for the right number",
    "judge": "judge (tiny)",
    "majority": "majority of the group",
    "untrained": "untrained judge (tiny-base)",
    "coin": "coin",
}


def read_lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


# ---- from a run's folder to one row ----


def is_right(question, text):
    return number(final_answer(text)) == solution(question)


def matches_of(row):
    """(kind of pair, what the right or the longer answer got) of each judged match of a group; equal answers are not judged."""
    question = row["prompt"][-1]["content"]
    answers = [final_answer(game["text"]) for game in row["completions"]]
    right = [number(answer) == solution(question) for answer in answers]
    for i, j, score in row.get("matches") or []:
        if answers[i] == answers[j] or "" in (answers[i], answers[j]):
            yield "equal", None
        elif right[i] != right[j]:
            yield "right-wrong", score if right[i] else 1 - score
        elif len(answers[i]) != len(answers[j]):
            yield (
                "right-right" if right[i] else "wrong-wrong",
                score if len(answers[i]) > len(answers[j]) else 1 - score,
            )
        else:
            yield "right-right" if right[i] else "wrong-wrong", None


def read_run(folder):
    """One row of solver.jsonl, or None for a run that has not ended."""
    config, metrics = (
        json.loads((folder / "config.json").read_text())["settings"],
        read_lines(folder / "metrics.jsonl"),
    )
    if metrics[-1]["step"] < config["max_steps"]:
        return None
    name, seed = re.fullmatch(r"(.+)-(\d+)", folder.name).groups()
    row = {
        "name": name,
        "seed": int(seed),
        "steps": config["max_steps"],
        "right": [],
        "totals": [],
        "kinds": {},
        "held_out": [],
        "games": 0,
    }
    for path in sorted((folder / "rollouts").glob("[0-9]*.jsonl"), key=lambda path: int(path.stem)):
        groups = read_lines(path)
        texts = [
            (group["prompt"][-1]["content"], game["text"])
            for group in groups
            for game in group["completions"]
        ]
        row["right"].append(round(sum(is_right(*text) for text in texts) / len(texts), 4))
        row["totals"].append(
            round(sum(":" in final_answer(text) for _, text in texts) / len(texts), 4)
        )
        for kind, share in (match for group in groups for match in matches_of(group)):
            found = row["kinds"].setdefault(
                kind, [0, 0, 0.0]
            )  # matches, those with a share, sum of shares
            found[0], found[1], found[2] = (
                found[0] + 1,
                found[1] + (share is not None),
                found[2] + (share or 0.0),
            )
    for step in (step for step in metrics if "eval/reward/oracle" in step):
        names = "step", "eval/reward/oracle", "eval/reward/win_rate", "eval/completions/mean_length"
        row["held_out"].append([round(step[name], 4) for name in names])
    steps = [step for step in metrics if "reward" in step]
    row["games"] = sum(step["reward/judge_games"] for step in steps) / len(steps)
    row |= {
        f"seconds_{part}": round(sum(step[f"timing/{part}"] for step in steps) / len(steps), 3)
        for part in ("rollout", "reward", "update")
    }
    return row


def collect():
    """All known runs, {(name, seed): row}; solver.jsonl is brought up to date."""
    path = HERE / "solver.jsonl"
    rows = {(row["name"], row["seed"]): row for row in (read_lines(path) if path.exists() else [])}
    for folder in sorted(RUNS.glob("*-*")) if RUNS.exists() else []:
        row = read_run(folder) if (folder / "metrics.jsonl").exists() else None
        if row:
            rows[row["name"], row["seed"]] = row
    rows = dict(sorted(rows.items()))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    return rows


# ---- numbers ----


def told(values, digits=3):
    """Mean and half of the interval over seeds."""
    values = list(values)
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    spread = (sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)) ** 0.5
    return f"{mean:.{digits}f} ± {T95.get(len(values), 2.0) * spread:.{digits}f}"


def gain(row):
    """Held-out accuracy at the end less that of the same seed before training, on the same questions."""
    return row["held_out"][-1][1] - row["held_out"][0][1]


def of(rows, name):
    return [row for (found, _), row in rows.items() if found == name]


def table(rows, names):
    """Lines of a Markdown table."""
    best = [
        gain(row)
        for row in of(rows, "forgetful_oracle" if names[0].startswith("forgetful") else "oracle")
    ]
    oracle = sum(best) / len(best) if best else float("nan")
    yield "| reward | seeds | held out, right | gain | share of the oracle's | last 10 steps, right | games a step | judge right | answers with totals |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name in names:
        found = of(rows, name)
        if found:
            sums = [
                sum(row["kinds"].get("right-wrong", [0, 0, 0.0])[k] for row in found)
                for k in (1, 2)
            ]
            cells = (
                NAMES.get(name, name),
                len(found),
                told(row["held_out"][-1][1] for row in found),
                told(map(gain, found)),
                told((gain(row) / oracle for row in found), 2),
                told(sum(row["right"][-LAST:]) / LAST for row in found),
                f"{sum(row['games'] for row in found) / len(found):.0f}",
                f"{sums[1] / sums[0]:.3f}" if sums[0] else "-",
                told((sum(row["totals"][-LAST:]) / LAST for row in found), 2),
            )
            yield "| " + " | ".join(map(str, cells)) + " |"


def write_tables(rows):
    first = [row for row in rows.values() if not row["name"].startswith("forgetful")]
    before, totals = (
        {row["seed"]: row["held_out"][0][1] for row in first},
        [row["totals"][0] for row in first],
    )
    lines = [
        f"No training: {told(before.values())} right held out ({len(before)} seeds), answers with totals {sum(totals) / len(totals):.2f}. "
        "A step has 16 questions x 8 answers, a run 60 steps.",
        "",
    ]
    names = sorted({name for name, _ in rows})
    parts = {
        "Arms": list(NAMES),
        "Opponents": ["judge_d1", "judge_d2", "judge", "judge_d7"],
        "Ratings": [
            "judge",
            "judge_win_rate_none",
            "judge_win_rate_group",
            "judge_elo_group",
            "judge_shrunk_group",
            "fixed_75",
            "fixed_75_win_rate_none",
            "fixed_75_win_rate_group",
            "fixed_75_elo_group",
        ],
        "A policy that forgets to carry": [
            "forgetful_oracle",
            "forgetful_judge",
            "forgetful_majority",
        ],
        "Judges by accuracy": sorted(
            (name for name in names if re.fullmatch(r"[a-z]+_\d+", name)),
            key=lambda name: name.split("_"),
        ),
    }
    for title, chosen in parts.items():
        if any(of(rows, name) for name in chosen):
            lines += [f"**{title}**", "", *table(rows, chosen), ""]
    judged = {name: of(rows, name) for name in ("judge", "untrained") if of(rows, name)}
    if judged:
        lines += [
            "**Pairs that the judge met in training**",
            "",
            "| judge | pair | share of matches | the right answer got | the longer answer got |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, found in judged.items():
            kinds = {
                kind: [
                    sum(values)
                    for values in zip(*(row["kinds"].get(kind, [0, 0, 0.0]) for row in found))
                ]
                for kind in ("equal", "right-wrong", "right-right", "wrong-wrong")
            }
            total = sum(count for count, _, _ in kinds.values())
            for kind, (count, shares, score) in kinds.items():
                share = f"{score / shares:.3f}" if shares else "-"
                cells = (share, "-") if kind == "right-wrong" else ("-", share)
                lines.append(
                    f"| {NAMES[name]} | {kind if kind != 'equal' else 'equal or empty, unjudged'} | {count / total:.2f} | {cells[0]} | {cells[1]} |"
                )
    (HERE / "solver.md").write_text("\n".join(lines).rstrip() + "\n")
    print((HERE / "solver.md").read_text())


# ---- figures ----


def mean_curve(curves):
    return [sum(values) / len(values) for values in zip(*curves)]


def draw_arms(rows, plt):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for name, colour in COLOURS.items():
        found = of(rows, name)
        for row in found:
            left.plot(
                [step for step, *_ in row["held_out"]],
                [value[1] for value in row["held_out"]],
                color=colour,
                alpha=0.25,
                linewidth=1,
            )
        if found:
            left.plot(
                [step for step, *_ in found[0]["held_out"]],
                mean_curve([[value[1] for value in row["held_out"]] for row in found]),
                color=colour,
                linewidth=2.5,
                label=f"{NAMES[name]} ({len(found)} seeds)",
            )
        if found and name in ("judge", "untrained"):
            believed, true = (
                mean_curve([[value[index] for value in row["held_out"]] for row in found])
                for index in (2, 1)
            )
            right.plot(believed, true, color=colour, marker="o", label=NAMES[name])
            for step, x, y in zip([step for step, *_ in found[0]["held_out"]], believed, true):
                right.annotate(
                    f"{step}", (x, y), textcoords="offset points", xytext=(4, -10), fontsize=8
                )
    left.set(
        xlabel="step",
        ylabel="held-out questions answered right",
        title="What the policy gains from each reward",
    )
    right.set(
        xlabel="what the judge believes: win rate against the answers of step 0",
        ylabel="held-out questions answered right",
        title="Judge's belief against the truth, by step",
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE / "solver.png", dpi=120)


def draw_accuracy(rows, plt):
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for (kind, text), colour in zip(KINDS.items(), ("#0072B2", "#009E73", "#D55E00")):
        points = sorted(
            (int(name.split("_")[1]), values)
            for name in {name for name, _ in rows}
            if re.fullmatch(rf"{kind}_\d+", name)
            for values in [[gain(row) for row in of(rows, name)]]
        )
        if points:
            axes.plot(
                [x for x, _ in points],
                [sum(values) / len(values) for _, values in points],
                color=colour,
                marker="o",
                label=text,
            )
            axes.scatter(
                [x for x, values in points for _ in values],
                [value for _, values in points for value in values],
                color=colour,
                alpha=0.3,
                s=15,
            )
    for name, style in (("oracle", "-"), ("judge", "--"), ("majority", ":"), ("coin", "-.")):
        values = [gain(row) for row in of(rows, name)]
        if values:
            axes.axhline(
                sum(values) / len(values),
                color=COLOURS[name],
                linestyle=style,
                linewidth=1.2,
                label=NAMES[name],
            )
    axes.set(
        xlabel="judge right, % of right-wrong pairs (by design)",
        ylabel="gain in right answers, held out",
        ylim=(None, None),
        title="How good must a judge be? 16 matches a group of 8",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE / "accuracy.png", dpi=120)


def main():
    rows = collect()
    if not rows:
        sys.exit("no finished run: bash runs/reward/solver.sh")
    write_tables(rows)
    os.environ.setdefault("MPLBACKEND", "Agg")
    import matplotlib.pyplot as plt

    draw_arms(rows, plt)
    draw_accuracy(rows, plt)


if __name__ == "__main__":
    main()
