"""Makes runs/miniature/README.md from runs/miniature/results: python runs/miniature/table.py

A result is results/NAME.json, as rl.write_result writes it. NAME-full.json has several RL seeds.
What is missing is listed as not run. head.md and experiments.md say what an experiment does and
when a claim counts as reproduced; that does not depend on the results.
"""

import json
import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORD = Path(os.environ.get("RECORD", ROOT / "runs/miniature"))
HERE = Path(__file__).parent


def experiments():
    """[(name, title, text)] of experiments.md, in order."""
    parts = re.split(
        r"^## (\w+): (.*)\n", (HERE / "experiments.md").read_text(), flags=re.MULTILINE
    )
    return [
        (name, title, text.strip())
        for name, title, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    ]


def line(cells):
    return (
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
    )


def table(columns, rows):
    return "\n".join([line(columns), "|" + " --- |" * len(columns), *map(line, rows)])


def section(name, result):
    many = len(result["seeds"]) > 1
    seeds = f"RL seed{'s' * many} {' '.join(map(str, result['seeds']))}"
    what = (
        f"`{result['command']}`: {seeds}, {result['steps']} steps of 32 prompts x 8, "
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
    for number, (name, title, text) in enumerate(experiments(), start=1):
        found = [
            (stored, results[stored]) for stored in (f"{name}-full", name) if stored in results
        ]
        claim, figure, verdict = found[0][1]["claims"][0] if found else ("", "", "not run")
        seeds = len(found[0][1]["seeds"]) if found else "-"
        anchor = re.sub(
            "[^a-z0-9-]", "", f"{number}-{title.lower().replace(' ', '-')}"
        )  # as GitHub names headings
        rows.append([f"[{number}. {title}](#{anchor})", claim, figure, verdict, seeds])
        prose = [f"## {number}. {title}", text]
        sections.append("\n\n".join([*prose, *(section(*one) for one in found)]))
    return (
        "\n\n".join(
            [
                (HERE / "head.md").read_text().strip(),
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
