"""The less common data formats: benchmarks and public sets whose fields have names of their own.

data.py loads this file for a row that fits none of its own formats. A reader takes (a copy of the
row, its file and line) and returns a Pair or a Question; it pops the fields that it uses.
"""

import re

import data
from cli import BadInput
from data import (
    checked_text,
    label_of,
    missing_fields,
    to_messages,
    two_answers,
)
from questions import FORMATS as QUESTION_FORMATS
from questions import QUESTION, several_answers

# HelpSteer 2 and 3: a negative number means that the FIRST answer is better.
PREFERENCE_SIGN = {-3: 0, -2: 0, -1: 0, 0: 0.5, 1: 1, 2: 1, 3: 1}


def helpsteer3(row, where):
    label = label_of(row, "overall_preference", where, PREFERENCE_SIGN)
    return two_answers(row, where, "context", "response1", "response2", label)


def helpsteer2(row, where):
    label = label_of(row, "preference_strength", where, PREFERENCE_SIGN)
    return two_answers(row, where, "prompt", "response_1", "response_2", label)


def judgebench(row, where):
    label = label_of(row, "label", where, {"A>B": 0, "B>A": 1, "A=B": 0.5})
    return two_answers(row, where, "question", "response_A", "response_B", label)


def llmbar(row, where):
    label = label_of(row, "label", where, {1: 0, 2: 1})
    return two_answers(row, where, "input", "output_1", "output_2", label)


def ppe_human(row, where):
    meanings = {"model_a": 0, "model_b": 1, "tie": 0.5, "tie (bothbad)": 0.5}
    label = label_of(row, "winner", where, meanings)
    return two_answers(row, where, "prompt", "response_1", "response_2", label)


def ppe_correctness(row, where):
    """response_1 ... response_32 in any order of columns, with one score for each."""
    messages = to_messages(row.pop("prompt"), "prompt", where)
    names = [name for name in row if re.fullmatch(r"response_\d+", name)]
    names.sort(key=lambda name: (len(name), name))  # response_2 before response_10
    candidates = [row.pop(name) for name in names]
    return several_answers(messages, candidates, row.pop("scores"), where)


def pandalm(row, where):
    """The majority of three annotators; without one a tie (never in testset-v1).

    JSON holds some answers as booleans: "True" became true. They are text again here.
    """
    for name in ("response1", "response2"):
        if isinstance(row[name], bool):
            row[name] = str(row[name])
    instruction = checked_text(row["instruction"], "instruction", where)
    if row.get("input") not in (None, ""):
        instruction_input = checked_text(row["input"], "input", where)
        instruction = f"{instruction}\n\n{instruction_input}" if instruction else instruction_input
    row["instruction"] = instruction
    names = ("annotator1", "annotator2", "annotator3")
    votes = [label_of(row, name, where, {0: 0.5, 1: 0, 2: 1}) for name in names]
    label = 0.5
    for vote in votes:
        if votes.count(vote) > 1:
            label = vote
    generators = str(row.get("cmp_key")).split("_")
    if len(generators) == 2:
        row["generators"] = generators
    return two_answers(row, where, "instruction", "response1", "response2", label)


def rmb_pairwise(row, where):
    return best_and_losers(row, where, row.pop("chosen"), [row.pop("reject")])


def rmb_best_of_n(row, where):
    losers = row.pop("loser_list")
    return best_and_losers(
        row, where, row.pop("bon_best"), losers if isinstance(losers, list) else [losers]
    )


def best_and_losers(row, where, best, losers):
    """A Question whose first candidate is the best; an entry is {answer, llm_name}."""
    entries = [entry if isinstance(entry, dict) else {} for entry in [best, *losers]]
    row["generators"] = [entry.get("llm_name") for entry in entries]
    messages = to_messages(row.pop("conversation_input"), "conversation_input", where)
    candidates = [entry.get("answer") for entry in entries]
    return several_answers(messages, candidates, [1] + [0] * len(losers), where)


def several_chosen(row, where, prompt, chosen, rejected):
    """RM-Bench and RewardBench 2: lists of right and of wrong answers to one prompt."""
    if not prompt or not isinstance(rejected, list):
        raise BadInput(
            f"{where}: rejected is {rejected!r:.80}, and the fields are {list(row)!r:.80}: "
            "a list of chosen answers needs a list of rejected ones, and a prompt"
        )
    if len(chosen) == len(rejected) == 3:
        row["styles"] = [0, 1, 2, 0, 1, 2]  # RM-Bench: concise, detailed, markdown
    scores = [1] * len(chosen) + [0] * len(rejected)
    return several_answers(prompt, chosen + rejected, scores, where)


def split_transcript(text):
    """The messages before the answer, and the answer, of "\n\nHuman: ...\n\nAssistant: ...".

    hh-rlhf writes both in one text; 5 of its 2,312 harmless test rows have two different prompts.
    """
    before, mark, answer = f"\n\n{text.lstrip()}".rpartition("\n\nAssistant:")
    turns = re.split(r"\n\n(Human|Assistant):", before)  # "", speaker, words, speaker, words, ...
    if not mark or turns[0] or turns[1:2] != ["Human"]:
        return [], text
    roles = {"Human": "user", "Assistant": "assistant"}
    messages = [
        {"role": roles[speaker], "content": words.strip()}
        for speaker, words in zip(turns[1::2], turns[2::2])
    ]
    return messages, answer.strip()


# (name, required fields, reader) as in data.FORMATS
FORMATS = [
    ("HelpSteer3", "context response1 response2 overall_preference", helpsteer3),
    ("HelpSteer2 preference", "prompt response_1 response_2 preference_strength", helpsteer2),
    ("JudgeBench", "question response_A response_B label", judgebench),
    ("LLMBar", "input output_1 output_2 label", llmbar),
    ("PPE human preference", "prompt response_1 response_2 winner", ppe_human),
    ("PPE correctness", "prompt response_1 response_2 scores", ppe_correctness),
    ("PandaLM", "instruction response1 response2 annotator1 annotator2 annotator3", pandalm),
    ("RMB best-of-N", "conversation_input bon_best loser_list", rmb_best_of_n),
    ("RMB pairwise", "conversation_input chosen reject", rmb_pairwise),
]


def find_format(row):
    """The first format of this file or questions.py that a row fits, or None."""
    known_formats = FORMATS + QUESTION_FORMATS
    fitting = [known for known in known_formats if not missing_fields(row, known[1])]
    # A prompt with fields of unknown meaning is rather a misspelt row of another format.
    alone = {*f"{QUESTION}|{data.ID_FIELDS}|source|data_source|meta".split("|")}
    if not fitting or fitting[0][1] == QUESTION and not row.keys() <= alone:
        return None
    return fitting[0]


def misfit(row, known, name, where):
    """The BadInput for a row without the fields of its file's format; None: it fits no format."""
    hint = "the file began as"
    if known is None:
        hint, known = "nearest format:", nearest(row)
    missing = ", ".join(missing_fields(row, known[1]))
    if re.search(r"\.csv(\.gz)?$", name, re.IGNORECASE):
        where = f"{name} line 1"  # the names of the columns
    return BadInput(
        f"{where}: {missing} missing ({hint} {known[0]}; it has {list(row)!r:.200}): add it"
    )


def nearest(row):
    """The format of which a row has the most fields and lacks the fewest."""

    def fit(known):
        return len(known[1].split()) - 2 * len(missing_fields(row, known[1]))

    known_formats = FORMATS + data.FORMATS + QUESTION_FORMATS[:-1]  # without "question alone"
    return max(reversed(known_formats), key=fit)
