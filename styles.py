"""Judging prompts: style files, and the messages that ask a judge about two answers."""

import re
from dataclasses import dataclass
from pathlib import Path

from cli import BadInput, read_text

PLACEHOLDERS = ("query", "answer_1", "answer_2")


VERDICT_RULES = ("boxed", "answer_tag")


# Prompt styles
@dataclass(frozen=True)
class Style:
    """How a judge is asked, and how its verdict is written: `verdict` is "boxed" or "answer_tag". `load_style(name)` gives it again."""

    name: str
    verdict: str
    system: str
    user: str


def default_style(folder, config):
    """The style that a model was trained with, "judge_style" in its config.json: a name, or a file in its folder; rrm where it says nothing."""
    name = str(config.get("judge_style") or "rrm")
    own = folder is not None and re.fullmatch(r"[\w.-]{1,99}", name) and (folder / name).is_file()
    if not own and not re.fullmatch(
        r"\w{1,99}", name
    ):  # a folder from elsewhere must not name files of this machine
        raise BadInput(
            f"{folder or 'model'}/config.json: judge_style is {name!r:.80}: expected the name of a style, or of a file beside it"
        )
    return str(folder / name) if own else name


def load_style(name_or_path):
    """The style of prompts/NAME.txt, or of the user's own file. Raises BadInput with the line that is wrong."""
    known = {file.stem: file for file in (Path(__file__).parent / "prompts").glob("*.txt")}
    path = known.get(str(name_or_path), Path(name_or_path))
    if re.fullmatch(r"\w{1,99}", str(path)) and not path.exists():
        raise BadInput(
            f"--style: no style is called {name_or_path!r}: choose one of {', '.join(sorted(known))}, or give the path of a file"
        )
    verdict, sections, section = None, {}, None
    for number, line in enumerate(
        read_text(path, "--style").removeprefix("\ufeff").split("\n"), start=1
    ):
        if line.startswith("==="):
            section = line.strip("= ")
            if section not in ("system", "user") or section in sections:
                raise BadInput(
                    f"{path} line {number}: section {section!r:.80} is unknown or written twice: use '=== system' and '=== user'"
                )
            sections[section] = []
        elif section:
            sections[section].append(line)
        elif line.strip() and not line.startswith("#"):
            key, _, verdict = (part.strip() for part in line.partition(":"))
            if key != "verdict" or verdict not in VERDICT_RULES:
                raise BadInput(
                    f"{path} line {number}: {line!r:.80} is no header: write 'verdict: boxed' (or answer_tag), then '=== user'"
                )
    if verdict is None or "user" not in sections:
        missing = (
            "the line 'verdict: boxed' (or answer_tag)"
            if verdict is None
            else "the section '=== user'"
        )
        raise BadInput(f"{path}: {missing} is missing: add it")
    system, user = ("\n".join(sections.get(name, [])).strip() for name in ("system", "user"))
    _check_placeholders(system + "\n" + user, path)
    return Style(str(name_or_path), verdict, system, user)


def _check_placeholders(text, path):
    for name in PLACEHOLDERS:
        if f"{{{name}}}" not in text:
            raise BadInput(
                f"{path}: the placeholder {{{name}}} is missing: write it where that text belongs"
            )
    for name in re.findall(
        r"(?<![A-Za-z])\{([a-z][a-z0-9_]+)\}", text
    ):  # not LaTeX: \boxed{...}, {b}
        if name not in PLACEHOLDERS:
            raise BadInput(
                f"{path}: {{{name}}} is not a placeholder: use {{query}}, {{answer_1}} and {{answer_2}}"
            )


def judge_messages(style, query, first, second):
    """The messages that ask a judge about two answers; `query` is a text or a list of messages, which becomes a transcript.

    Every placeholder is filled in one pass, so an answer that holds the text "{answer_2}" keeps it. The transcript stands in the
    prompt once, for both answers, so its labels cannot tell which answer is better.
    """
    if not isinstance(query, str):
        alone = len(query) == 1 and query[0]["role"] == "user"
        query = (
            query[0]["content"]
            if alone
            else "\n\n".join(f"{turn['role'].capitalize()}:\n{turn['content']}" for turn in query)
        )
    values = dict(zip(PLACEHOLDERS, (query, first, second)))
    messages = []
    for role, template in (("system", style.system), ("user", style.user)):
        if template:
            filled = re.sub(
                r"\{(" + "|".join(PLACEHOLDERS) + r")\}", lambda match: values[match[1]], template
            )
            messages.append({"role": role, "content": filled})
    return messages


# What a completion in RM-R1's format says beside its verdict
SECTIONS = {
    "Reasoning": "<type> </type> <solution> </solution> <eval> </eval> <answer> </answer>",
    "Chat": "<type> </type> <rubric> <justify> </justify> </rubric> <eval> </eval> <answer> </answer>",
}


def task_type(text):
    """("Reasoning" | "Chat" | None, whether all sections that RM-R1 asks for with this type stand there once, in order), behind the thinking.

    None: no type, an unknown one, or two. The verdict itself is read by `judge.parse_verdict`, which does not ask for any of this.
    """
    spoken = text.rpartition("</think>")[2]
    types = re.findall(r"<type>\s*(\w+)\s*</type>", spoken)
    kind = types[0] if len(types) == 1 and types[0] in SECTIONS else None
    return kind, kind is not None and SECTIONS[kind] == " ".join(
        re.findall(r"</?(?:type|solution|rubric|justify|eval|answer)>", spoken)
    )


def format_rates(texts):
    """Shares of completions in RM-R1's format, for a log: {judge/type_reasoning, judge/type_chat, judge/format}; 0.0 without texts."""
    kinds, formed = zip(*map(task_type, texts)) if texts else ((), ())
    counts = {
        "type_reasoning": kinds.count("Reasoning"),
        "type_chat": kinds.count("Chat"),
        "format": sum(formed),
    }
    return {f"judge/{name}": count / max(1, len(texts)) for name, count in counts.items()}
