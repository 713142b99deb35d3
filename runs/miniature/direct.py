"""3. Thinking against direct judging, from the mixed base on the same pairs.

    python runs/miniature/direct.py

The direct judge has room for 8 tokens. It is trained at three learning rates for as many steps as
the thinking one; the best by the reward of its last third goes on until it has generated as many
tokens, and taken as much time (steps times the median step). Two more judges see as many pairs as
GRPO draws, once: cross-entropy on verdicts, and a scalar Bradley-Terry reward model.
"""

import statistics

import lab
from games import better_place, forced, load_judge, load_tasks
from ladder import distill
from measures import accuracy, as_text, difference, judged_together, mean, read_rows

from extras import train_scalar

BASE = lab.FOLDERS["mixed"]
PAIRS = lab.STEPS * lab.PROMPTS_PER_STEP
RATES = (1e-4, 3e-4, 1e-3)


def first_steps(checkpoint):
    """The metrics of a run's first STEPS steps."""
    rows = read_rows(checkpoint.parent / "metrics.jsonl")
    return [row for row in rows if 0 < row["step"] <= lab.STEPS]


def cost(checkpoint):
    """(mean tokens a completion, median seconds a step): a shared machine makes some steps long."""
    rows = first_steps(checkpoint)
    tokens = mean(row["completions/mean_length"] for row in rows)
    return tokens, statistics.median(row["step_time"] for row in rows)


def reward_at_end(checkpoint):
    rows = first_steps(checkpoint)
    return mean(row["reward"] for row in rows[-max(1, lab.STEPS // 3) :])


def train_direct(rate, steps):
    options = {"max_steps": steps, "max_completion_length": 8, "learning_rate": rate}
    return lab.grpo(f"direct-{rate:g}", BASE, **options)


def direct_judges(thinking):
    """{what is matched: checkpoint} of the direct judge of the best learning rate."""
    tried = {rate: train_direct(rate, lab.STEPS) for rate in RATES}
    best = max(RATES, key=lambda rate: reward_at_end(tried[rate]))
    (tokens, seconds), (own_tokens, own_seconds) = cost(thinking), cost(tried[best])
    steps = {
        "pairs": lab.STEPS,
        "tokens": round(lab.STEPS * max(1, tokens / own_tokens)),
        "time": round(lab.STEPS * max(1, seconds / own_seconds)),
    }
    # In rising order, since each run continues the one before.
    for count in sorted(steps.values()):
        train_direct(best, count)
    return {matched: train_direct(best, count) for matched, count in steps.items()}


def likelier_verdicts(checkpoint, tasks):
    return forced(load_judge(checkpoint), tasks, [[] for _ in tasks])


def scalar_games(tasks):
    """Games of a scalar reward model, which names the answer with the higher score."""
    folder = lab.OUT / "runs/scalar"
    if not (folder / "config.json").exists():
        options = {"max_steps": PAIRS // 32, "batch_size": 32, "learning_rate": 1e-3}
        settings = train_scalar.Settings(str(BASE), str(lab.TRAIN), str(folder), **options)
        train_scalar.train(settings)
    judge = train_scalar.ScalarJudge(folder)
    games = []
    for task in tasks:
        scores = judge.scores(task["query"], [task["a"], task["b"]]).tolist()
        named = 0 if scores[0] > scores[1] else 1
        verdict = task["order"].index(named) + 1
        games.append(task | {"verdict": verdict, "right": verdict == better_place(task)})
    return games


def main():
    tasks = load_tasks(lab.TEST, lab.LIMIT)
    folder = lab.default_runs("mixed")["grpo-mixed-0"]
    judges = {"thinking": lab.recorded("grpo-mixed-0", folder)}
    for matched, checkpoint in direct_judges(folder).items():
        judges[f"direct GRPO, matched on {matched}"] = likelier_verdicts(checkpoint, tasks)
    verdicts = distill("mixed", "verdicts", PAIRS, PAIRS // 64, thinking=False)
    judges["cross-entropy on verdicts"] = likelier_verdicts(verdicts, tasks)
    judges["scalar head"] = scalar_games(tasks)
    cells = {name: lab.right([games]) for name, games in judges.items()}
    thinking = cells["thinking"]
    rows, gaps = [["thinking", as_text(accuracy(thinking)), ""]], {}
    for name in list(judges)[1:]:
        gaps[name] = difference(thinking, cells[name])
        rows.append([name, as_text(accuracy(cells[name])), as_text(gaps[name])])
    figure = ", ".join(f"{name} {as_text(gap)}" for name, gap in gaps.items())
    claim = "A judge that thinks beats direct judges and a scalar reward model trained on the same "
    claim += "pairs (RRM, DirectJudge ablation): mixed"
    claims = [[claim, f"thinking less {figure}", judged_together(gaps.values())]]
    lab.write_result("direct", claims, ["judge", "right", "thinking is better by"], rows)


if __name__ == "__main__":
    main()
