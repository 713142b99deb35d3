"""What a training run shows on the terminal: a line for a step, warnings, a summary at the end."""

import sys

from tqdm import tqdm

from checkpoint import is_embedded
from cli import note, read_json_lines

PROGRESS = {
    "judge/accuracy": "accuracy {:.3f}",
    "reward/oracle": "right {:.3f}",
    "reward": "reward {:+.3f}",
    "completions/mean_length": "length {:.0f}",
    "judge/parse_fail": "parse_fail {:.2f}",
    "reward/unanswered": "unanswered {:.2f}",
    "entropy": "entropy {:.2f}",
    "grad_norm": "grad {:.2f}",
    "timing/tokens_per_second": "{:.0f} tokens/s",
    "reward/judge_accuracy": "judge {:.2f} right",
    "reward/judge_invalid": "{:.2f} invalid",
    "eval/judge/accuracy": "held-out accuracy {:.3f}",
    "eval/judge/consistency": "consistency {:.3f}",
    "eval/reward/oracle": "held-out right {:.3f}",
    "eval/reward/win_rate": "judged better than at first {:.3f}",
}


def progress_line(row):
    """A step or an evaluation in one line, without the judge's numbers where it played no match."""
    hidden = ("reward/judge_accuracy", "reward/judge_invalid")
    if row.get("reward/judge_matches"):
        hidden = ()
    shown = [name for name in PROGRESS if name in row and name not in hidden]
    return "  ".join(PROGRESS[name].format(row[name]) for name in shown)


def warnings_for(rows):
    """What the last row of a metrics.jsonl shows to go wrong, and what to change.

    Returns sentences that begin with a metric.
    """
    steps = [row for row in rows if "reward" in row and not row.get("skipped_steps")]
    if not steps or steps[-1] is not rows[-1]:
        return []
    first, row = steps[0], steps[-1]
    right, unscored = "reward/oracle", "reward/unanswered"
    if "judge/accuracy" in row:
        right, unscored = "judge/accuracy", "judge/parse_fail"
    warnings = []

    entropy = sum(row["entropy"] for row in steps[-5:]) / 5
    if len(steps) > 5 and entropy < 0.1 * first["entropy"]:
        warnings.append(
            f"entropy {entropy:.3g} in five steps, {first['entropy']:.3g} at first: completions "
            "hardly differ any more: lower --learning_rate, raise --epsilon_high (0.28) or "
            "--temperature, or set --beta"
        )
    clipped = row["completions/clipped_ratio"]
    if clipped > 0.5:
        warnings.append(
            f"completions/clipped_ratio {clipped:.2f}: most completions are cut off: raise "
            "--max_completion_length; where their length only grows, try --loss_type dr_grpo"
        )
    elif row[unscored] > 0.5:
        warnings.append(
            f"{unscored} {row[unscored]:.2f}: most completions end without an answer to score: "
            "train_sft.py first, on texts that have one"
        )
    if len(steps) > 2 and all(row["frac_reward_zero_std"] == 1 for row in steps[-3:]):
        if row[right] > 0.5:
            advice = "too easy: take harder data"
        elif row[unscored] > 0.5:
            advice = "nothing to score: train_sft.py first"
        else:
            advice = "too hard: take easier data or a better model, raise --num_generations"
        warnings.append(
            "frac_reward_zero_std 1 in three steps: all completions of a prompt get the same "
            f"reward, so nothing is learned; {advice}, or raise --temperature"
        )
    empty, empty_at_first = row.get("judge/think_empty", 0), first.get("judge/think_empty", 0)
    if empty > max(0.9, empty_at_first):
        warnings.append(
            f"judge/think_empty {empty:.2f}, {empty_at_first:.2f} at first: the judge stops "
            "thinking: take data on which a guess fails, lower --learning_rate, or set --beta"
        )
    gap = row["sampling/logp_diff_mean"]
    if gap > 0.1:
        warnings.append(
            f"sampling/logp_diff_mean {gap:.2f}: sampler and trainer disagree on the model's "
            "probabilities: try --dtype float32"
        )
    return warnings


def open_bar(settings, first_step, runtime):
    """A bar over steps for `show_progress`: on a terminal only, on the first process only."""
    return tqdm(
        total=settings.max_steps,
        initial=first_step,
        unit="step",
        dynamic_ncols=True,
        disable=None if runtime.is_main else True,  # None: tqdm looks for a terminal
    )


def show_progress(bar, rows, warned):
    """Shows the last row: on a terminal next to a moving bar, in a log file as a line.

    warned: {first word of a warning: the step when it came}; it comes again after 20 steps.
    """
    row, line = rows[-1], progress_line(rows[-1])
    if not bar.disable:
        bar.update(row["step"] - bar.n)
        bar.set_postfix_str(line.split("  held-out")[0])
    if bar.disable or "held-out" in line:
        note_above(bar, f"step {row['step']}  {line}  {row['step_time']:.1f} s")
    for warning in warnings_for(rows):
        metric = warning.split()[0]
        if row["step"] >= warned.get(metric, -20) + 20:
            warned[metric] = row["step"]
            note_above(bar, f"warning: {warning}")


def note_above(bar, text):
    if bar.disable:
        note(text)
    else:
        bar.write(text, file=sys.stderr)


def summarize(output_dir, settings):
    """Notes at the end of a run: what was reached, what to try next."""
    rows = [row for _, row in read_json_lines(output_dir / "metrics.jsonl")]
    length = "eval/completions/mean_length"
    held_out = [row for row in rows if length in row]
    if held_out:
        first, last = held_out[0], held_out[-1]
        names = {
            "eval/judge/accuracy": "accuracy",
            "eval/judge/consistency": "both orders agree",
            "eval/reward/oracle": "right answers",
        }
        changes = [
            f"{text} {first[name]:.3f} -> {last[name]:.3f}"
            for name, text in names.items()
            if name in first
        ]
        minutes = sum(row.get("step_time", 0) for row in rows) / 60
        note(
            f"held out, from step {first['step']} to {last['step']}: {', '.join(changes)}, tokens "
            f"{first[length]:.0f} -> {last[length]:.0f}; {minutes:.1f} minutes of training"
        )
    question = "--query Q --a A --b B"
    if is_embedded(settings.model):
        question = '--query "347+586" --a 933 --b 923'
    checkpoint = output_dir / f"checkpoint-{settings.max_steps}"
    note(
        f"try: python judge.py --model {checkpoint} {question}\n"
        f"     python -m extras.view {output_dir}\n"
        f"     python -m extras.plot {output_dir}    (needs matplotlib)"
    )
