"""Makes runs/miniature/README.md from runs/miniature/results: python runs/miniature/table.py

A result is results/NAME.json; NAME-full.json has several RL seeds. The programs that wrote them
are in the history. head.md and experiments.md say what an experiment does and when a claim counts
as reproduced.
"""

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from measures import markdown_table  # noqa: E402


def experiments():
    """[(name, title, text)] of experiments.md, in order."""
    text = (HERE / "experiments.md").read_text()
    parts = re.split(r"^## (\w+): (.*)\n", text, flags=re.MULTILINE)[1:]
    return list(zip(parts[0::3], parts[1::3], parts[2::3], strict=True))


def section(name, result):
    """The numbers of one result."""
    seeds = " ".join(map(str, result["seeds"]))
    plural = "s" if len(result["seeds"]) > 1 else ""
    command = result["command"].removeprefix("bash runs/")
    what = (
        f"`{command}`: RL seed{plural} {seeds}, {result['steps']} steps of 32 prompts "
        f"x 8, {result['pairs']} held-out pairs in both orders, {result['machine']}."
    )
    parts = [what, markdown_table(["claim", "figure", "verdict"], result["claims"])]
    for heading, columns, rows in result["tables"]:
        parts += [f"*{heading}*", markdown_table(columns, rows)]
    if (HERE / f"{name}.png").exists():
        parts.append(f"![{name}]({name}.png)")
    if result["notes"]:
        parts.append("\n".join(f"- {note}" for note in result["notes"]))
    return "\n\n".join(parts)


def page(results):
    """The text of README.md from {name: result}."""
    rows, sections = [], []
    for number, (name, title, text) in enumerate(experiments(), start=1):
        stored = [one for one in (f"{name}-full", name) if one in results]
        main = results[stored[0]]
        # GitHub makes the anchor of a heading like this.
        anchor = re.sub("[^a-z0-9-]", "", f"{number}-{title.lower().replace(' ', '-')}")
        rows.append([f"[{number}. {title}](#{anchor})", *main["claims"][0], len(main["seeds"])])
        sections += [f"## {number}. {title}", text.strip()]
        sections += [section(one, results[one]) for one in stored]
    columns = ["experiment", "main claim", "figure [95 % interval]", "verdict", "RL seeds"]
    head = (HERE / "head.md").read_text().strip()
    return "\n\n".join([head, markdown_table(columns, rows), *sections]) + "\n"


def main():
    results = {}
    for path in sorted((HERE / "results").glob("*.json")):
        results[path.stem] = json.loads(path.read_text())
    (HERE / "README.md").write_text(page(results))


if __name__ == "__main__":
    main()
