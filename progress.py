"""What a training run shows on the terminal: a line for a step, warnings, a summary at the end."""

from datetime import timedelta

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
    "reward/judge_invalid": "judge {:.2f} invalid",
    "eval/judge/accuracy": "held-out accuracy {:.3f}",
    "eval/judge/consistency": "consistency {:.3f}",
    "eval/reward/oracle": "held-out right {:.3f}",
    "eval/reward/win_rate": "judged better than at first {:.3f}",
}
OF_A_JUDGE = "reward/judge_accuracy", "reward/judge_invalid"
LEARNED = {  # the first and the last value, at the end of a run
    "judge/accuracy": "accuracy {:.3f} -> {:.3f}",
    "judge/consistency": "both orders agree {:.3f} -> {:.3f}",
    "reward/oracle": "right answers {:.3f} -> {:.3f}",
    "rewards/accuracies": "right preferences {:.3f} -> {:.3f}",
    "loss": "loss {:.3f} -> {:.3f}",
    "completions/mean_length": "tokens {:.0f} -> {:.0f}",
}


def progress_line(row):
    """A step or an evaluation in one line, without the judge's numbers where it played no match."""
    hidden = () if row.get("reward/judge_matches") else OF_A_JUDGE
    shown = [name for name in PROGRESS if name in row and name not in hidden]
    return "  ".join(PROGRESS[name].format(row[name]) for name in shown)


def warnings_for(rows):
    """What goes wrong in the last row of a metrics.jsonl, in sentences that begin with a metric."""
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
        advice["entropy"] = "completions hardly differ any more: lower --learning_rate, set --beta"
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
        advice["judge/think_empty"] = "the judge stops thinking: take harder data, or set --beta"
    if abs(row.get("judge/position_bias", 0)) >= 0.45:
        advice["judge/position_bias"] = (
            "nearly every verdict names one place: lower --learning_rate, try --reward consistency"
        )
    if row["sampling/logp_diff_mean"] > 0.1:
        advice["sampling/logp_diff_mean"] = "sampler and trainer disagree: try --dtype float32"
    return [
        f"{metric} {row[metric]:.2f}, {first.get(metric, 0):.2f} at first: {text}"
        for metric, text in advice.items()
    ]


def show_progress(rows, num_steps, warned):
    """Notes the last row in a line, the time that is left, and warnings.

    warned: {first word of a warning: the step when it came}; it comes again after 20 steps.
    """
    row, times = rows[-1], [row["step_time"] for row in rows[-20:] if "step_time" in row]
    left = timedelta(seconds=int(sum(times) / len(times) * (num_steps - row["step"])))
    line = f"step {row['step']} of {num_steps}  {progress_line(row)}"
    note(f"{line}  {row['step_time']:.1f} s, {left} left")
    for warning in warnings_for(rows):
        metric = warning.split()[0]
        if row["step"] >= warned.get(metric, -20) + 20:
            warned[metric] = row["step"]
            note(f"warning: {warning}")


def summarize(output_dir, settings):
    """Notes what a run has learned and what to do next."""
    rows = [row for _, row in read_json_lines(output_dir / "metrics.jsonl")]
    checkpoint = output_dir / f"checkpoint-{settings.max_steps}"
    learned = changes(rows, "eval/") or changes(rows) or "no metrics"
    note(f"{learned}; {sum(row.get('step_time', 0) for row in rows) / 60:.1f} minutes of training")
    if any("judge/accuracy" in row for row in rows) or getattr(settings, "judge_style", None):
        question = '"347+586" --a 933 --b 923' if is_embedded(settings.model) else "Q --a A --b B"
        note(f"next: python judge.py --model {checkpoint} --query {question}")
    texts = ", or extras.view for texts" if (output_dir / "rollouts").exists() else ""
    note(f"look at it: python -m extras.plot {output_dir}{texts}")


def changes(rows, prefix=""):
    """What changed between two evaluations (None: there is one), or first and last ten steps."""
    rows = [row for row in rows if any(prefix + name in row for name in LEARNED)]
    if len(rows) < (2 if prefix else 1):
        return None
    size = 1 if prefix else max(1, min(10, len(rows) // 2))
    shown = []
    for name, form in LEARNED.items():
        values = [row[prefix + name] for row in rows if prefix + name in row]
        if values and not (name == "loss" and "reward" in rows[-1]):  # that of GRPO says nothing
            shown.append(form.format(sum(values[:size]) / size, sum(values[-size:]) / size))
    place = f"held out, from step {rows[0]['step']} to {rows[-1]['step']}"
    if not prefix:
        place = f"in training, from the first to the last {size} of {len(rows)} steps"
    return f"{place}: {', '.join(shown)}"
