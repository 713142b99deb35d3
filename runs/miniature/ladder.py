"""5. RM-R1's ladder: SFT on verdicts, cold RL, and distillation of three forms of thinking, each before and after RL.

    python runs/miniature/ladder.py          (see rl.py for SEEDS, STEPS, ...; STARTS="weak solver": the bases)

The teacher is the world itself, which is always right; each form is a set of CHAINS judgments of training pairs, of the pairs that RL then sees:

    marks      constraint by constraint, column by column: which answer fits, nothing added up
    rubrics    for every question the criteria first, the heaviest in front (for sums the columns), then marks with the points so far
    types      the type of the task first (sum or line), and the rubric for lines alone; sums are worked out at once, as in RM-R1

This model cannot follow an English prompt: rubrics and types come in by distillation alone, not by the prompt, as they do in RM-R1's cold RL.

The rule: a rung is reproduced if the interval of the difference to the rung before it lies above 0. The ladder is reproduced if cold RL beats the
base and distillation before RL beats cold RL, partly if one of them does.
Cut with one seed: the weak base alone (it judges a little before all this, like RM-R1's instruct models), 120 steps of SFT a form.
"""

import json
import os
import random

import rl
from baselines import parse
from measure import told
from rl import OUT, ROOT, SEEDS, STEPS, difference, path_of, share
from world import LABELS, VERDICTS, columns, digit, is_met, judge_messages, number_of, what_counts

STARTS = os.environ.get("STARTS", "weak").split()
FORMS = ("marks", "rubrics", "types")
CHAINS, SFT_STEPS = 3000, 2 * STEPS  # of 64 rows
LEARNING_RATE = 5e-4  # a quarter of it where a distilled model goes on


# ---- forms of thinking ----


def think_sum(task, numbers, rubric):
    """Column by column; with a rubric, the names of the columns that will be looked at come first."""
    parts, length = (
        [],
        len(str(max(task[1:]))),
    )  # the criteria come before the working and cannot know where it will stop
    criteria = (
        [{"+": "plus", "-": "minus", "*": "times"}[task[0]], *LABELS[:length]] if rubric else []
    )
    for column, (text, value) in enumerate(columns(*task)):
        digits = [digit(number, column) for number in numbers]
        marks = ["ny"[value == right] for right in digits]
        parts.append(f"{LABELS[column]} {text} {digits[0]}{marks[0]}{digits[1]}{marks[1]}")
        if marks[0] != marks[1] or column + 1 == len(LABELS):
            return " ".join(criteria + parts)


def think_line(constraints, lines, rubric):
    """Constraint by constraint, for both answers; with a rubric the criteria come first, the heaviest in front, and points are added up."""
    parts, totals = [], [0, 0]
    if rubric:
        constraints = sorted(constraints, key=lambda part: -part[2])
        parts += [" ".join(str(field) for field in part if field != "") for part in constraints]
    for kind, value, weight in constraints:
        parts += [kind, str(value)] if value != "" else [kind]
        for index, line in enumerate(lines):
            met = is_met(kind, value, line)
            totals[index] += weight * met
            parts += [
                ("first", "second")[index],
                what_counts(kind, value, line),
                f"{'ny'[met]}{totals[index] if rubric else ''}",
            ]
    return " ".join(parts)


def chain(form, task, answers, better):
    if isinstance(task, tuple):
        text = ("sum " if form == "types" else "") + think_sum(
            task, [number_of(answer) for answer in answers], form == "rubrics"
        )
    else:
        text = ("line " if form == "types" else "") + think_line(task, answers, form != "marks")
    return f"<think> {text}</think>{VERDICTS[better]}"


def make_rows():
    """Files of conversations: verdicts.jsonl (all training pairs) and one of CHAINS judgments for each form."""
    pairs = [json.loads(line) for line in (ROOT / "tiny/train.jsonl").read_text().splitlines()]
    rng, rows = random.Random("ladder"), {"verdicts": [], **{form: [] for form in FORMS}}
    for number, row in enumerate(rng.sample(pairs, len(pairs))):
        order = rng.choice([[0, 1], [1, 0]])
        answers, better = [row["ab"[index]] for index in order], order.index(row["label"])
        messages, task = judge_messages(row["query"], answers), parse(row)
        texts = {"verdicts": VERDICTS[better]} | {
            form: chain(form, task, answers, better) for form in FORMS if number < CHAINS
        }
        for name, text in texts.items():
            rows[name].append({"messages": [*messages, {"role": "assistant", "content": text}]})
    return {name: rl.write_rows(OUT / f"data/{name}.jsonl", found) for name, found in rows.items()}


# ---- trainings ----


def train_all(start, files):
    """{judge: folders, one a seed}: distillation and SFT once, RL for each seed."""
    model = rl.base(start)
    first = {
        name: rl.sft(f"{start}-{name}", model, files[name], SFT_STEPS, LEARNING_RATE)
        for name in ("verdicts", *FORMS)
    }
    rl.run_all(first.values())
    runs = {"base": [model]} | {name: [folder] for name, (folder, _) in first.items()}
    second = {
        "marks+verdicts": [
            rl.sft(
                f"{start}-marks-verdicts",
                runs["marks"][0],
                files["verdicts"],
                SFT_STEPS,
                LEARNING_RATE / 4,
            )
        ]
    }
    second["cold RL"] = [
        rl.grpo(f"grpo-{start}", model, seed) for seed in SEEDS
    ]  # the run of experiment 1
    second |= {
        f"{form}+RL": [rl.grpo(f"{start}-{form}-rl", runs[form][0], seed) for seed in SEEDS]
        for form in FORMS
    }
    rl.run_all([job for jobs in second.values() for job in jobs])
    return runs | {name: [folder for folder, _ in jobs] for name, jobs in second.items()}


LABEL = {
    "base": "base",
    "verdicts": "SFT on verdicts",
    "cold RL": "cold RL",
    "marks": "distilled: marks",
    "rubrics": "distilled: rubrics for all",
    "types": "distilled: types, rubrics for lines",
    "marks+verdicts": "distilled: marks, then SFT on verdicts",
    "marks+RL": "marks, then RL",
    "rubrics+RL": "rubrics for all, then RL",
    "types+RL": "types, rubrics for lines, then RL",
}
CLAIMS = (
    ("Cold RL beats the base", "cold RL", "base"),
    ("Cold RL beats SFT on verdicts", "cold RL", "verdicts"),
    ("Rubrics help: rubrics for all + RL over marks + RL", "rubrics+RL", "marks+RL"),
    ("Types help: types + RL over rubrics for all + RL", "types+RL", "rubrics+RL"),
    ("Distillation before RL beats cold RL", "types+RL", "cold RL"),
    ("RL after distillation beats distillation alone", "types+RL", "types"),
    ("RL after distillation beats SFT on verdicts after it", "marks+RL", "marks+verdicts"),
)


def names_of(start, arm, folders):
    """Of the games of each folder; base and cold RL have theirs from experiment 1."""
    name = {"base": f"base-{start}", "cold RL": f"grpo-{start}"}.get(
        arm, f"ladder-{start}-{arm.replace('+', '-').lower()}"
    )
    return [name] if arm == "base" else [f"{name}-{seed}" for seed, _ in zip(SEEDS, folders)]


def measure(start, runs):
    """(rows of the table, {(arm, arm): interval of the difference}) of one base."""
    names = {arm: names_of(start, arm, folders) for arm, folders in runs.items()}
    folders = {name: folder for arm in runs for name, folder in zip(names[arm], runs[arm])}
    rl.play_all(
        [*(rl.games(name, folder) for name, folder in folders.items()), *rl.triple_games(folders)]
    )
    rl.write_logs(folders)
    paths = {arm: [path_of(name) for name in found] for arm, found in names.items()}
    right, rows = {arm: rl.table(found) for arm, found in paths.items()}, []
    for arm, label in LABEL.items():
        families = [
            told(
                rl.accuracy(
                    rl.table(paths[arm], keep=lambda game, family=family: game["family"] == family)
                )
            )
            for family in ("sums", "lines")
        ]
        cycles = [rl.cycle_rate(path_of(f"{name}-triples")) for name in names[arm]]
        tokens = rl.table(paths[arm], lambda game: game["tokens"]).mean()
        rows.append(
            [
                start,
                label,
                told(rl.accuracy(right[arm])),
                *families,
                share(rl.table(paths[arm], rl.thinks)),
                share(rl.table(paths[arm], rl.compares)),
                f"{tokens:.0f}",
                f"{sum(cycles) / len(cycles):.2f}",
            ]
        )
    return rows, {(one, other): difference(right[one], right[other]) for _, one, other in CLAIMS}


def main():
    files, rows, claims, ladders = make_rows(), [], [], []
    for start in STARTS:
        more, found = measure(start, train_all(start, files))
        rows += more
        claims += [
            [f"{claim}: {start}", told(found[one, other]), rl.verdict(found[one, other])]
            for claim, one, other in CLAIMS
        ]
        rungs = [found["cold RL", "base"], found["types+RL", "cold RL"]]
        figure = f"cold RL over the base {told(rungs[0])}, distillation + RL over cold RL {told(rungs[1])}"
        ladders.append(
            [
                f"Every stage adds to the one before it (RM-R1, table 2): {start}",
                figure,
                ("not at this size", "partly", "reproduced")[sum(low > 0 for _, low, _ in rungs)],
            ]
        )
    notes = [
        f"{CHAINS} chains a form; SFT: {SFT_STEPS} steps of 64 rows, on verdicts from all 8,000 training pairs. The teacher is always "
        "right, as RM-R1's is after its correction. SFT and distillation have one seed each.",
        "Other than in RM-R1, rubrics and types come by distillation: a prompt cannot ask this model for them. Cold RL is the GRPO run of experiment 1.",
    ]
    columns = [
        "base",
        "judge",
        "accuracy",
        "sums",
        "lines",
        "thinks",
        "compares",
        "tokens",
        "cycle rate",
    ]
    rl.write_result("ladder", ladders + claims, [["The rungs", columns, rows]], notes)


if __name__ == "__main__":
    main()
