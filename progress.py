"""What a training run shows on the terminal: a line for a step, warnings, a summary at the end."""

import os
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
HELD_OUT = {
    "eval/judge/accuracy": "accuracy",
    "eval/judge/consistency": "both orders agree",
    "eval/reward/oracle": "right answers",
}


def open_bar(unit, total, done, doing=None, quiet=False):
    """A tqdm bar, on the terminal of the first process only; done: where it begins."""
    return tqdm(
        desc=doing,
        unit=unit,
        total=total,
        initial=done,
        leave=doing is None,  # the bar of a training stays
        dynamic_ncols=True,
        disable=quiet or os.environ.get("RANK", "0") != "0" or None,  # None: without a terminal
    )


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

    advice = {}
    entropy = sum(row["entropy"] for row in steps[-5:]) / 5
    if len(steps) > 5 and entropy < 0.1 * first["entropy"]:
        advice["entropy"] = (
            "completions hardly differ any more: lower --learning_rate, raise --epsilon_high "
            "(0.28) or --temperature, or set --beta"
        )
    if row["completions/clipped_ratio"] > 0.5:
        advice["completions/clipped_ratio"] = (
            "most completions are cut off: raise --max_completion_length; where their length "
            "only grows, try --loss_type dr_grpo"
        )
    elif row[unscored] > 0.5:
        advice[unscored] = "too few answers to score: train_sft.py first, on texts that have one"
    if len(steps) > 2 and all(row["frac_reward_zero_std"] == 1 for row in steps[-3:]):
        cause = "too hard: take easier data or a better model, raise --num_generations"
        if row[right] > 0.5:
            cause = "too easy: take harder data"
        elif row[unscored] > 0.5:
            cause = "nothing to score: train_sft.py first"
        advice["frac_reward_zero_std"] = (
            "for three steps all completions of a prompt got the same reward, so nothing is "
            f"learned; {cause}, or raise --temperature"
        )
    if row.get("judge/think_empty", 0) > max(0.9, first.get("judge/think_empty", 0)):
        advice["judge/think_empty"] = (
            "the judge stops thinking: take data on which a guess fails, lower --learning_rate, "
            "or set --beta"
        )
    if row["sampling/logp_diff_mean"] > 0.1:
        advice["sampling/logp_diff_mean"] = (
            "sampler and trainer disagree on the model's probabilities: try --dtype float32"
        )
    return [
        f"{metric} {row[metric]:.2f}, {first.get(metric, 0):.2f} at first: {text}"
        for metric, text in advice.items()
    ]


def show_progress(bar, rows, warned):
    """Shows the last row: on a terminal next to a moving bar, in a log file as a line.

    warned: {first word of a warning: the step when it came}; it comes again after 20 steps.
    """
    row, line = rows[-1], progress_line(rows[-1])
    if not bar.disable:
        bar.update(row["step"] - bar.n)
        bar.set_postfix_str(line.split("  held-out")[0])
    if bar.disable or "held-out" in line:
        note_above_bar(f"step {row['step']}  {line}  {row['step_time']:.1f} s")
    for warning in warnings_for(rows):
        metric = warning.split()[0]
        if row["step"] >= warned.get(metric, -20) + 20:
            warned[metric] = row["step"]
            note_above_bar(f"warning: {warning}")


def note_above_bar(text):
    with tqdm.external_write_mode(sys.stderr):
        note(text)


def summarize(output_dir, settings):
    """Notes at the end of a run: what was reached, what to try next."""
    rows = [row for _, row in read_json_lines(output_dir / "metrics.jsonl")]
    held_out = [row for row in rows if "eval/completions/mean_length" in row]
    if held_out:
        first, last = held_out[0], held_out[-1]
        changes = ""
        for name, text in HELD_OUT.items():
            if name in first:
                changes += f"{text} {first[name]:.3f} -> {last[name]:.3f}, "
        lengths = [f"{row['eval/completions/mean_length']:.0f}" for row in (first, last)]
        minutes = sum(row.get("step_time", 0) for row in rows) / 60
        note(
            f"held out, from step {first['step']} to {last['step']}: {changes}tokens "
            f"{lengths[0]} -> {lengths[1]}; {minutes:.1f} minutes of training"
        )
    question = "--query Q --a A --b B"
    if is_embedded(settings.model):
        question = '--query "347+586" --a 933 --b 923'
    checkpoint = output_dir / f"checkpoint-{settings.max_steps}"
    note(f"try: python judge.py --model {checkpoint} {question}")
    note(f"     python -m extras.view {output_dir}")
