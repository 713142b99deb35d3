"""The data formats of the official judge benchmarks, and advice on columns of other names.

formats.py loads this file. A reader takes (a copy of the row, its file and line) and returns a Pair
or a Question; it pops the fields that it uses.
"""

import re

from cli import BadInput, parse_json
from data import checked_text, label_of
from formats import SIDES, labelled, to_messages, two_answers
from questions import Format, several_answers


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


def lmsys(row, where):
    """LMSYS's arena: JSON lists of one text a turn, and three columns of 0 and 1.

    From the second turn on the two models saw different answers: such a row has two prompts.
    """
    texts = [checked_text(row.pop(name), name, where) for name in LMSYS[:3]]
    sides = [parse_json(text, f"{where}: prompt or response", (list,)) for text in texts]
    votes = [str(row.pop(name)) for name in LMSYS[3:]]
    if sorted(votes) != ["0", "0", "1"] or len({len(side) for side in sides}) != 1 or not sides[0]:
        raise BadInput(f"{where}: {', '.join(LMSYS[3:])} are {votes}, turns {sides!r:.80}: correct")
    if len(sides[0]) > 1:
        return None
    for old, new, side in zip(LMSYS, ("query", "a", "b"), sides):
        row[new] = checked_text(side[0], old, where)
    return two_answers(row, where, "query", "a", "b", (0, 1, 0.5)[votes.index("1")])


LMSYS = "prompt response_a response_b winner_model_a winner_model_b winner_tie".split()
FORMATS = [
    Format("LMSYS arena", " ".join(LMSYS), lmsys),
    labelled(
        "JudgeBench",
        "question response_A response_B label",
        {"A>B": 0, "B>A": 1, "A=B": 0.5},
    ),
    labelled("LLMBar", "input output_1 output_2 label", {1: 0, 2: 1}),
    Format("PPE correctness", "prompt response_1 response_2 scores", ppe_correctness),
    Format("PandaLM", "instruction response1 response2 annotator1 annotator2 annotator3", pandalm),
    Format("RMB best-of-N", "conversation_input bon_best loser_list", rmb_best_of_n),
    Format("RMB pairwise", "conversation_input chosen reject", rmb_pairwise),
]


# ---- columns of other names ----

# How the names of two answers differ in files that have to be renamed; the better one is first
RANKED = "chosen:rejected accepted:rejected better:worse winner:loser preferred:rejected"
RANKED += " preferred:non_preferred correct:incorrect"
RANKED = [tuple(pair.split(":")) for pair in RANKED.split()]
NAMES = [*SIDES[2:], ("0", "1"), ("first", "second"), ("left", "right"), *RANKED]


def renaming(row):
    """Advice for columns that look like a question and two answers."""
    texts = {n.lower(): n for n in row if row[n] and isinstance(row[n], (str, list))}
    found = []  # (characters, names)
    for name, old in texts.items():
        for first, second in NAMES:
            start, mark, end = name.rpartition(first)
            other = texts.get(start + second + end)
            if mark and other and not re.search("score|rating|reward|label", name):
                size = len(f"{row[old]}{row[other]}")
                found.append((size, old, other, (first, second) in RANKED))
    new = ("query", "a", "b"), ("prompt", "chosen", "rejected")
    if not found:
        return f"rename its columns to {', '.join(new[0])} or {', '.join(new[1])}"
    _, first, second, ranked = max(found)
    words = "prompt|question|instruct|query|input|text|history"
    asked = [name for name in row if re.search(words, name.lower()) and name != first]
    old = asked[0] if asked else "the question", first, second
    renamed = [f"{n:.40} to {better}" for n, better in zip(old, new[ranked]) if n != better]
    return (
        f"rename {', '.join(renamed)}; a label is 0 where a is better, 1 where b is, 0.5 for a tie"
    )
