"""3. Thinking against direct, from one base on the same pairs: GRPO without room to think (8 tokens), and two simple judges.

    python runs/miniature/direct.py          (see rl.py for STEPS, LIMIT, ...)

The direct judge is trained at three learning rates for as many steps as the thinking one, the GRPO run of experiment 1; the best by the reward of its
last third (pairs that it had not seen before) goes on until it has generated as many tokens, and taken as much time. Time is steps times the
median recorded step. The simple judges (simple_judges.py): cross-entropy of the verdict's token, and a Bradley-Terry scalar head.

The rule: reproduced if the intervals of (thinking - direct) lie above 0 against all of them: matched on pairs, on tokens, on time, and both
simple judges; partly if at least against direct matched on pairs. Thinking pays most where it is hard: the slope of the gap on the
level lies above 0 in both families (reproduced), in one (partly).
Cut with one seed: one base (mixed); simple judges have a few passes over 8,000 pairs and no newly made ones.
"""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import forced  # noqa: E402
import rl  # noqa: E402
import simple_judges  # noqa: E402
from forced import ORDERS, kinds_of  # noqa: E402
from measure import interval, load_judge, load_rows, mean, told  # noqa: E402

from cli import read_json_lines  # noqa: E402

BASE, LEARNING_RATES = "mixed", ("1e-4", "3e-4", "1e-3")
ROOM = 8  # tokens: a verdict and the end of the turn


def spent(folder, steps):
    """(pairs, tokens generated, seconds) of the first `steps`: seconds by the median step, since a shared machine makes single ones long."""
    rows = [row for _, row in read_json_lines(folder / "metrics.jsonl") if row["step"] > 0][:steps]
    tokens = (
        sum(row["completions/mean_length"] for row in rows) * rl.PROMPTS_PER_STEP * rl.GENERATIONS
    )
    return (
        len(rows) * rl.PROMPTS_PER_STEP,
        tokens,
        len(rows) * statistics.median(row["step_time"] for row in rows),
    )


def reward_at_end(folder):
    rows = [
        row["reward"] for _, row in read_json_lines(folder / "metrics.jsonl") if row["step"] > 0
    ]
    return mean(rows[-max(1, rl.STEPS // 3) :])


def direct_games(folder, rows):
    """The likelier verdict of a direct judge in both orders."""
    judge = load_judge(folder)
    games = [(row, order) for row in rows for order in ORDERS]
    prompts = [forced.prompt_of(judge[1], row, order) for row, order in games]
    return forced.judged(*zip(*games), forced.probabilities(judge, prompts, [""] * len(prompts)))


def trained_direct(thinking):
    """Trains the direct judges: (learning rate, {learning rate: reward}, {what is matched: folder}, {what is matched: spent}) of the chosen one."""

    def job(rate, steps):
        return rl.grpo(f"direct-{rate}", rl.base(BASE), steps=steps, room=ROOM, learning_rate=rate)

    tried = {rate: job(rate, rl.STEPS) for rate in LEARNING_RATES}
    rl.run_all(tried.values())
    chosen, rewards = rl.OUT / "data/direct.json", {}
    if not chosen.exists():  # kept, since the chosen run goes on and its last steps are then others
        rewards = {rate: reward_at_end(folder.parent) for rate, (folder, _) in tried.items()}
        rl.write_rows(chosen, [rewards])
    rewards = next(row for _, row in read_json_lines(chosen))
    best = max(rewards, key=rewards.get)
    folder = tried[best][0].parent
    (_, tokens, seconds), (_, own_tokens, own_seconds) = (
        spent(thinking.parent, rl.STEPS),
        spent(folder, rl.STEPS),
    )
    matched = {
        "pairs": rl.STEPS,
        "tokens": max(rl.STEPS, round(rl.STEPS * tokens / own_tokens)),
        "time": max(rl.STEPS, round(rl.STEPS * seconds / own_seconds)),
    }
    for steps in sorted(set(matched.values())):
        rl.run_all([job(best, steps)])
    return (
        best,
        rewards,
        {name: job(best, steps)[0] for name, steps in matched.items()},
        {name: spent(folder, steps) for name, steps in matched.items()},
    )


def cells(games, kinds):
    for index, (_, belongs) in enumerate(kinds):
        found = interval([game for game in games if belongs(game)])
        yield told(found) if index < 3 else f"{found[0]:.3f}"


def main():
    thinking_folder, rows = rl.default_judge(BASE), load_rows(limit=rl.LIMIT)
    measurement = rl.games(f"grpo-{BASE}-0", thinking_folder)  # the same games as in experiment 1
    rl.play_all([measurement])
    thinking = rl.read_games(measurement["result"])
    best, rewards, folders, spending = trained_direct(thinking_folder)
    judges = {
        f"direct GRPO, {name}": (direct_games(folder, rows), spending[name])
        for name, folder in folders.items()
    }
    judges |= simple_judges.trained_all(load_judge(rl.base(BASE)), rows)
    kinds = kinds_of(thinking)
    table = [
        [
            "thinking, GRPO",
            *(f"{number:.0f}" for number in spent(thinking_folder.parent, rl.STEPS)),
            *cells(thinking, kinds),
            "",
        ]
    ]
    table += [
        [
            name,
            *(f"{number:.0f}" if number else "-" for number in spends),
            *cells(games, kinds),
            told(interval(thinking, other=games)),
        ]
        for name, (games, spends) in judges.items()
    ]
    gap_rows = []
    for kind, belongs in kinds:
        part = [game for game in thinking if belongs(game)]
        gap_rows.append(
            [
                kind,
                len(part),
                *(
                    told(interval(part, other=[game for game in games if belongs(game)]))
                    for games, _ in judges.values()
                ),
            ]
        )
    gaps = {name: interval(thinking, other=games) for name, (games, _) in judges.items()}
    above = [low > 0 for _, low, _ in gaps.values()]
    word = "reproduced" if all(above) else "partly" if above[0] else "not at this size"
    nearest = min(gaps, key=gaps.get)
    claims = [
        [
            "A judge that thinks beats a direct judge and a scalar reward model trained on the same pairs (RRM, DirectJudge ablation): "
            + BASE,
            "thinking less " + ", ".join(f"{name} {told(gap)}" for name, gap in gaps.items()),
            word,
        ],
        [
            f"Thinking pays most where the question is hard: against {nearest}",
            *forced.gap_verdict(thinking, judges[nearest][0]),
        ],
    ]
    notes = [
        f"Direct: learning rate {best} of {', '.join(f'{rate} (reward {reward:+.3f})' for rate, reward in rewards.items())}; {ROOM} tokens at most; "
        "the likelier verdict is taken. Thinking: 96 tokens at most, learning rate 1e-4, verdicts drawn at temperature 1.",
        "Seconds: steps times the median step; for simple judges CPU time of the chosen training. Pairs: prompts drawn; simple judges see each pair once "
        "or in several passes. `matched on time` means the time of the thinking GRPO run.",
        simple_judges.NOTE,
    ]
    columns = [
        "judge",
        "pairs",
        "tokens",
        "seconds",
        *(name for name, _ in kinds),
        "thinking is better by",
    ]
    rl.write_result(
        "direct",
        claims,
        [
            ["Judges from one base", columns, table],
            [
                "Gap by difficulty and family: thinking less ...",
                ["kind", "games", *judges],
                gap_rows,
            ],
        ],
        notes,
    )


if __name__ == "__main__":
    main()
