"""RM-R1's format of a judgment: the type of the task, then the sections of this type.

Training counts completions in this format if the style asks for a type (prompts/rm_r1.txt).
"""

import re

# The sections of a completion for each type of task.
SECTIONS = {
    "Reasoning": "<type> </type> <solution> </solution> <eval> </eval> <answer> </answer>",
    "Chat": (
        "<type> </type> <rubric> <justify> </justify> </rubric> <eval> </eval> <answer> </answer>"
    ),
}


def task_type(text):
    """(type, whether the completion has exactly the sections of this type, in order).

    The type is "Reasoning", "Chat", or None where the text names no type, an unknown one or two.
    Thinking is skipped. The verdict does not depend on this: see `verdicts.parse_verdict`.
    """
    text = text.rpartition("</think>")[2]
    types = re.findall(r"<type>\s*(\w+)\s*</type>", text)
    if len(types) != 1 or types[0] not in SECTIONS:
        return None, False
    tags = re.findall(r"</?(?:type|solution|rubric|justify|eval|answer)>", text)
    return types[0], SECTIONS[types[0]] == " ".join(tags)


def format_rates(texts):
    """Shares of completions that name each type, and that have its format; 0.0 without texts."""
    found = [task_type(text) for text in texts]
    counts = {
        "judge/type_reasoning": sum(kind == "Reasoning" for kind, _ in found),
        "judge/type_chat": sum(kind == "Chat" for kind, _ in found),
        "judge/format": sum(well_formed for _, well_formed in found),
    }
    return {name: count / max(1, len(texts)) for name, count in counts.items()}
