"""5. RM-R1's ladder from the weak base: SFT on verdicts, cold RL, and distillation before RL.

    python runs/miniature/ladder.py

The teacher is the world itself, which is always right. It judges in RM-R1's form: the type of the
task first (sum or line), then for lines the rubric (the criteria, the heaviest first), then the
working. This model cannot follow an English prompt, so rubrics come by distillation alone.
"""

import random

import lab
from baselines import parse
from games import VERDICTS, better_place, shown_answers
from measures import as_text, difference, judged, judged_together, read_rows, write_rows
from world import judge_messages, think, think_line

CLAIMS = (
    ("Cold RL beats the base", "cold RL", "base"),
    ("Distillation before RL beats cold RL", "types, then RL", "cold RL"),
    ("Cold RL beats SFT on verdicts", "cold RL", "SFT on verdicts"),
    ("RL after distillation beats distillation alone", "types, then RL", "distilled: types"),
)


def chain(question, answers):
    """The thinking in RM-R1's form: type, rubric for lines, working."""
    if isinstance(question, tuple):
        return f"<think> sum{think(question, answers)}</think>"
    rubric = sorted(question, key=lambda part: -part[2])  # parts are (kind, value, weight)
    criteria = [str(field) for part in rubric for field in part if field != ""]
    return f"<think> line {' '.join(criteria)}{think_line(rubric, answers)}</think>"


def distill(base, name, count, steps, thinking):
    """Supervised training on right judgments of `count` training pairs; returns the checkpoint."""
    pairs, rng, rows = read_rows(lab.TRAIN), random.Random("ladder"), []
    for row in rng.sample(pairs, len(pairs))[:count]:
        task = row | {"order": rng.choice([[0, 1], [1, 0]])}
        answers, verdict = shown_answers(task), VERDICTS[better_place(task) - 1]
        text = (chain(parse(row), answers) if thinking else "") + verdict
        messages = judge_messages(row["query"], answers)
        rows.append({"messages": [*messages, {"role": "assistant", "content": text}]})
    data = write_rows(lab.OUT / f"data/{name}-{base}.jsonl", rows)
    options = {"train_data": data, "max_steps": steps, "learning_rate": 5e-4}
    model = lab.FOLDERS[base]
    return lab.train("train_sft.py", lab.SFT, f"{base}-{name}", model=model, **options)


def main():
    verdicts = distill("weak", "verdicts", 8000, 2 * lab.STEPS, thinking=False)
    types = distill("weak", "types", 3000, 2 * lab.STEPS, thinking=True)
    arms = {
        "base": [lab.recorded("base-weak", lab.FOLDERS["weak"])],
        "SFT on verdicts": [lab.recorded("ladder-verdicts", verdicts)],
        "cold RL": lab.recorded_runs(lab.default_runs("weak")),
        "distilled: types": [lab.recorded("ladder-types", types)],
        "types, then RL": lab.recorded_runs(lab.grpo_runs("weak-types-rl", types)),
    }
    cells = {arm: lab.right(runs) for arm, runs in arms.items()}
    gaps = {claim: difference(cells[one], cells[other]) for claim, one, other in CLAIMS}
    cold, distilled = list(gaps.values())[:2]
    figure = f"cold RL over the base {as_text(cold)}, "
    figure += f"distillation + RL over cold RL {as_text(distilled)}"
    claim = "Every stage adds to the one before it (RM-R1, table 2): weak"
    claims = [[claim, figure, judged_together([cold, distilled])]]
    claims += [[f"{claim}: weak", as_text(gap), judged(gap)] for claim, gap in gaps.items()]
    rows = []
    for arm, runs in arms.items():
        families = [lab.accuracy_text(runs, family) for family in ("sums", "lines")]
        rows.append(["weak", arm, lab.accuracy_text(runs), *families, lab.thinks_text(runs)])
    columns = ["base", "judge", "accuracy", "sums", "lines", "thinks"]
    lab.write_result("ladder", claims, columns, rows)


if __name__ == "__main__":
    main()
