"""Judging prompts: style files, and the messages that ask a judge about two answers.

A style is a file `prompts/NAME.txt`, or a file of your own that is given by its path. Lines with
`#` before the first section are remarks. The header says how the verdict is written:
boxed: \\boxed{Assistant 1} or \\boxed{Assistant 2}
boxed_or_tie: the same, or \\boxed{Tie}
answer_tag: <answer>[[A]]</answer> or <answer>[[B]]</answer>

    verdict: boxed
    === system
    ... (this section may be left out; then there is no system message)
    === user
    ... {query} ... {answer_1} ... {answer_2} ...
    ... {reference} ... {rubric} ... (optional: a paragraph is left out where the pair lacks a text)
"""

import re
from dataclasses import dataclass
from pathlib import Path

from cli import BadInput, parse_json, read_text
from data import OPTIONAL, text_or_number

STYLES = {file.stem: file for file in (Path(__file__).parent / "prompts").glob("*.txt")}
PLACEHOLDERS = ("query", "answer_1", "answer_2")
VERDICT_RULES = ("boxed", "boxed_or_tie", "answer_tag")


@dataclass(frozen=True)
class Style:
    """How a judge is asked, and how it writes its verdict (one of VERDICT_RULES)."""

    name: str  # load_style(name) gives the same style again
    verdict: str
    system: str
    user: str

    def as_text(self):
        """The style as a file that `load_style` reads."""
        return f"verdict: {self.verdict}\n=== system\n{self.system}\n=== user\n{self.user}\n"


def default_style(folder, config, adapter=None):
    """The style that a model was trained with: "judge_style" in its config.json, or else rrm.

    It is the name of a style, or a file in the model's folder. Other paths are refused, because a
    folder from elsewhere must not name files of this machine. A config.json in the folder of a LoRA
    adapter comes first. Raises BadInput.
    """
    if adapter is not None and (Path(adapter) / "config.json").exists():
        folder = Path(adapter)
        config = parse_json(read_text(folder / "config.json", "--adapter"), folder / "config.json")
    name = str(config.get("judge_style") or "rrm")
    if folder is not None and re.fullmatch(r"[\w.-]{1,99}", name) and (folder / name).is_file():
        return str(folder / name)
    if name not in STYLES:
        raise BadInput(
            f"{folder or 'model'}/config.json: judge_style is {name!r:.80}: "
            "expected the name of a style, or of a file beside it"
        )
    return name


def load_style(name_or_path):
    """The style of prompts/NAME.txt, or of the user's own file.

    Raises BadInput with the line that is wrong.
    """
    path = STYLES.get(str(name_or_path), Path(name_or_path))
    if re.fullmatch(r"\w{1,99}", str(path)) and not path.exists():
        raise BadInput(
            f"--style: no style is called {name_or_path!r}: "
            f"choose one of {', '.join(sorted(STYLES))}, or give the path of a file"
        )
    verdict, sections, section = None, {"system": [], "user": []}, None
    for number, line in enumerate(read_text(path, "--style").split("\n"), start=1):
        place = f"{path} line {number}"
        if line.startswith("==="):
            section = line.strip("= ")
            if sections.get(section) != []:
                raise BadInput(
                    f"{place}: section {section!r:.80} is unknown or written twice: use "
                    "'=== system' and '=== user'"
                )
        elif section:
            sections[section].append(line)
        elif line.strip() and not line.startswith("#"):
            key, _, verdict = (part.strip() for part in line.partition(":"))
            if key != "verdict" or verdict not in VERDICT_RULES:
                raise BadInput(
                    f"{place}: {line!r:.80} is no header: write 'verdict: boxed' (or "
                    f"{' or '.join(VERDICT_RULES[1:])}), then '=== user'"
                )
    system, user = ("\n".join(lines).strip() for lines in sections.values())
    if verdict is None or not user:
        part = "section '=== user'" if verdict else "line 'verdict: boxed' (or answer_tag)"
        raise BadInput(f"{path}: the {part} is missing: add it")
    check_placeholders(system + "\n" + user, path)
    return Style(str(name_or_path), verdict, system, user)


def check_placeholders(text, path):
    for name in PLACEHOLDERS:
        if f"{{{name}}}" not in text:
            raise BadInput(
                f"{path}: the placeholder {{{name}}} is missing: write it where that text belongs"
            )
    # Braces of LaTeX are no placeholders: \boxed{...}, {b}.
    for name in re.findall(r"(?<![A-Za-z])\{([a-z][a-z0-9_]+)\}", text):
        if name not in PLACEHOLDERS + OPTIONAL:
            raise BadInput(
                f"{path}: {{{name}}} is not a placeholder: use {{query}}, {{answer_1}} and "
                "{answer_2}, and where rows have them {reference} and {rubric}"
            )


def judge_messages(style, query, first, second, row=()):
    """The messages that ask a judge about two answers. row: a dict that may hold OPTIONAL texts.

    `query` is a text or a list of messages. Several messages become a transcript. The prompt shows
    it once: two transcripts, one for each answer, could tell by their labels which one is better.
    All placeholders are filled in one pass, so an answer with the text "{answer_2}" keeps it.
    """
    if not isinstance(query, str):
        query = transcript(query)
    values = dict(zip(PLACEHOLDERS, (query, first, second)))
    for name in OPTIONAL:
        text = dict(row).get(name)
        if text not in (None, "") and f"{{{name}}}" in style.system + style.user:
            values[name] = text_or_number(text, name, "the pair's row")
    pattern = r"\{(" + "|".join(PLACEHOLDERS + OPTIONAL) + r")\}"
    messages = []
    for role, template in (("system", style.system), ("user", style.user)):
        if template:
            parts = template.split("\n\n")
            shown = [part for part in parts if values.keys() >= {*re.findall(pattern, part)}]
            content = re.sub(pattern, lambda match: values[match[1]], "\n\n".join(shown))
            messages.append({"role": role, "content": content})
    return messages


def transcript(messages):
    """Messages as one text, with a line for each role; a single user message stays as it is."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}:\n{turn['content']}" for turn in messages)
