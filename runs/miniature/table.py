"""runs/miniature/README.md from runs/miniature/results: python runs/miniature/table.py

A result is results/NAME.json, as rl.write_result writes it; NAME-full.json has several RL seeds. What is not there is listed as not run. What an
experiment does and when a claim counts as reproduced is written down here and at the top of its script, and does not depend on the results.
"""

import json
import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORD = Path(os.environ.get("RECORD", ROOT / "runs/miniature"))
HEAD = """# The papers in miniature

Claims of RRM (arXiv 2505.14674) and RM-R1 (arXiv 2505.02387), tried on the small world of [`../../tiny`](../../tiny): a model of 0.9 M parameters,
questions whose answers are known, and no shortcut in the answers. `bash runs/miniature.sh` makes everything here again from the bases in `tiny/` (one
seed, 45 minutes on one core); `bash runs/miniature.sh teaches` makes one part; a part that was stopped goes on; `--full` is experiment 1 with
five RL seeds on two bases at full size. The one-seed version is cut: 60 steps instead of the default run's 150, 200 of the 1,000 held-out pairs; the
script of each experiment says what else.

Measured before every step (and not only every epoch) had the better answer first in half of its pairs (`rollouts.pair_stream`); the default run, measured
before and after that, ends at 0.968, 0.968, 0.968 and at 0.973, 0.953, 0.970.

**How a verdict is made.** Each script compares two judges on the same held-out pairs. An interval is a 95 % bootstrap over siblings (two questions
with the same two answers) and, where there are several, over RL seeds; with one seed it is that of the pairs alone and does not hold the scatter of
trainings. *Reproduced*: the interval of the difference lies on the claimed side of 0. *Partly*: the weaker form of the claim that the rule names.
*Not at this size*: neither; this is no proof of the opposite. The rules below were fixed before the results were there. Where there is no difference,
one claim in forty would be called reproduced by chance. Nothing here speaks of models a thousand times as large."""
EXPERIMENTS = {
    "teaches": (
        "Does RL on verdicts teach judging?",
        """
Four bases: *mixed* (half of its judgments think, half are a coin), *weak* (the same, but it errs within its thinking), *guesser* (always a coin, can
think when made to), *solver* (works questions out, has never compared anything). Each as it is, made to think, made to guess, greedy, voting over 8,
and after GRPO; mixed and weak also after GRPO on rewards from a coin. The gain is split into change of mode (it thinks more often) and change within
the modes (it is right more often in the same mode).""",
        """
Reproduced (*teaches*): the change within the modes has an interval above 0. Partly (*selects*): only the change of mode has. For the coin,
reproduced: the interval of its change holds 0 and lies within 0.1 of it. A mode can drift either way under such rewards, so its control needs several
seeds.""",
    ),
    "thinking": (
        "Is the thinking used, and does it adapt?",
        """
A judge's own thinking is cut, replaced by filler of equal length, by another item's or its sibling's, or edited in its last step; then the verdict is
forced. Length and gain per token by difficulty.""",
        """
Reproduced: whole thinking beats none, filler and shuffled thinking, and the thinking of the sibling and of the other order turns more than half of
the verdicts. Partly: one of the two. It adapts: tokens grow with the level and with the tokens needed, in both families; reproduced only if more
steeply than in the base, partly if the base does so already.""",
    ),
    "direct": (
        "Thinking against direct",
        """
From the mixed base: GRPO with 96 tokens against GRPO with 8 (no room to think), matched on pairs, on generated tokens and on time; and two simple
judges on the same backbone: cross-entropy of the verdict's token, and a Bradley-Terry scalar head.""",
        """
Reproduced: thinking is above all of them. Partly: above direct GRPO matched on pairs. Gap by difficulty: its slope on the level is above 0 in both
families (reproduced) or one (partly).""",
    ),
    "compute": (
        "Test-time compute",
        """
Votes, thinking budget, and number of comparisons against the score of the picked answer, for two trained judges made to think.""",
        """
Votes: voting@8 above voting@1 at both temperatures (reproduced) or one (partly). Budget: 96 tokens above none. Comparisons: all of them with three
votes above a knockout of single votes by two standard errors (reproduced), above it at all (partly).""",
    ),
    "ladder": (
        "RM-R1's ladder",
        """
From the weak base: SFT on verdicts, cold RL, distillation of three forms of thinking (marks; rubrics first; type of the task first, rubrics for
lines), each before and after the same RL, and SFT on verdicts after distillation. The teacher is the world, which is always right.""",
        """
Reproduced: cold RL is above the base, and distillation then RL above cold RL. Partly: one of them. Every rung has a row of its own.""",
    ),
    "teachers": (
        "Is the teacher a ceiling?",
        """
GRPO on gold labels, on labels of which 20 % are flipped at random, and on those of a teacher right in 80 % who errs for the longer answer only;
judged on gold labels.""",
        """
Reproduced (*the judge is better than its teacher*): judge minus teacher has an interval above 0 for both teachers. Partly: for one.""",
    ),
    "transfer": (
        "Does it carry over?",
        """
After RL on sums of 2 and 3 digits and lines of 1 to 3 constraints: sums of 4 and 5 digits, lines of 4 constraints; after RL on one family: the other.
Each judge as it is and made to think.""",
        """
Reproduced: all five gains over the base are above 0. Partly: at least one.""",
    ),
}


def line(cells):
    return (
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
    )


def table(columns, rows):
    return "\n".join([line(columns), "|" + " --- |" * len(columns), *map(line, rows)])


def section(name, result):
    many = len(result["seeds"]) > 1
    what = (
        f"`{result['command']}`: RL seed{'s' * many} {' '.join(map(str, result['seeds']))}, {result['steps']} steps of 32 prompts x 8, "
        f"{result['pairs']} held-out pairs in both orders, {result['machine']}."
    )
    parts = [what, table(["claim", "figure", "verdict"], result["claims"])]
    for heading, columns, rows in result["tables"]:
        parts += [f"*{heading}*", table(columns, rows)]
    parts += [f"![{name}]({name}.png)"] if (RECORD / f"{name}.png").exists() else []
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in result["notes"])])


def page(results):
    """The text of README.md from {name: result}."""
    rows, sections = [], []
    for number, (name, (title, what, rule)) in enumerate(EXPERIMENTS.items(), start=1):
        found = [
            (stored, results[stored]) for stored in (f"{name}-full", name) if stored in results
        ]
        claim, figure, verdict = found[0][1]["claims"][0] if found else ("", "", "not run")
        seeds = len(found[0][1]["seeds"]) if found else "-"
        anchor = re.sub(
            "[^a-z0-9-]", "", f"{number}-{title.lower().replace(' ', '-')}"
        )  # as GitHub names headings
        rows.append([f"[{number}. {title}](#{anchor})", claim, figure, verdict, seeds])
        prose = [
            f"## {number}. {title}",
            " ".join(what.split()),
            f"**Rule.** {' '.join(rule.split())}",
        ]
        sections.append("\n\n".join([*prose, *(section(*one) for one in found)]))
    return (
        "\n\n".join(
            [
                HEAD,
                table(
                    ["experiment", "main claim", "figure [95 % interval]", "verdict", "RL seeds"],
                    rows,
                ),
                *sections,
            ]
        )
        + "\n"
    )


def main():
    results = {
        path.stem: json.loads(path.read_text())
        for path in sorted((RECORD / "results").glob("*.json"))
    }
    RECORD.mkdir(parents=True, exist_ok=True)
    (RECORD / "README.md").write_text(page(results))


if __name__ == "__main__":
    main()
