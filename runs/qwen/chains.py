r"""Judgments for the format stage: the model's own right solution, both results, the verdict.

    python runs/qwen/chains.py PAIRS SOLUTIONS OUT [one|both] [STYLE]

SOLUTIONS: answers of the judge's own model to the questions of PAIRS (extras.make_data sample).
A pair gives a chain where one of them is right: the shortest, then the final result of each answer,
then the verdict. There are as many chains for the first answer as for the second. With `both`
every pair gives two chains, one in each order, which differ in the places alone. STYLE is the
prompt that the judge answers, solve_first unless given.
"""

import re
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measures import command, labelled_pairs, read_rows, write_rows  # noqa: E402

from cli import BadInput  # noqa: E402
from extras.equality import candidates  # noqa: E402
from seeding import uniform  # noqa: E402
from styles import judge_messages, load_style  # noqa: E402

ANSWER_LINE = re.compile(r"(\n\d+\.)?\s*\**Answer:.*\Z", re.DOTALL)
NUMBER = re.compile(r"-?[\d,]*\.?\d+")


def shortest_right(row):
    """The solution without its last line `Answer: N`, or None."""
    right = [text for text, status in zip(row["candidates"], row["status"]) if status == "right"]
    right = [ANSWER_LINE.sub("", text).strip() for text in right]
    return min((text for text in right if "boxed" not in text and text), key=len, default=None)


def result_of(answer):
    """The final result of an answer: the number in the last of its readings that are compared."""
    return (NUMBER.findall(candidates(answer)[-1]) or [None])[-1]


def number(text):
    """The last number of a text as a float, or None."""
    found = NUMBER.findall(text or "")
    return float(found[-1].replace(",", "")) if found else None


def own_result(judgment):
    """The result that a judgment states as its own, as a number or None.

    The base writes "My result is 24", as its example does. Trained judges write "My result: 24",
    and later "My result is that of Assistant 1".
    """
    own = re.search("My result(?:: | is (?!that of))(.*)", judgment)
    return number(own[1]) if own else None


def chain(pair, solution, reference, style):
    """The messages of a prompt and its judgment; None where a result cannot be read off."""
    results = [result_of(answer) for answer in pair.answers]
    if None in results or results[0] == results[1]:
        return None
    place = pair.label + 1
    judgment = (
        f"{solution}\n\nMy result: {reference}\nResult of Assistant 1: {results[0]}\n"
        f"Result of Assistant 2: {results[1]}\nMy result is that of Assistant {place}.\n"
        f"Verdict: \\boxed{{Assistant {place}}}"
    )
    prompt = judge_messages(style, pair.messages, *pair.answers)
    return [*prompt, {"role": "assistant", "content": judgment}]


def balanced(chains):
    """As many chains of either verdict, in an order that a hash decides."""
    count = min(map(len, chains.values()))
    chosen = chains[1][:count] + chains[2][:count]
    return sorted(chosen, key=lambda chain: uniform(f"chain:{chain[-1]['content']}"))


def swapped(pair):
    return replace(pair, answers=pair.answers[::-1], label=1 - pair.label)


def main(pairs, solutions, out, orders="one", style="solve_first"):
    if orders not in ("one", "both"):
        raise BadInput(f"{orders}: the orders of a pair are one or both")
    own, chains, style = {}, {1: [], 2: []}, load_style(style)
    for row in read_rows(solutions, ("messages", "answer", "candidates", "status")):
        own[row["messages"][-1]["content"]] = row
    for pair in labelled_pairs(pairs):
        row = own.get(pair.messages[-1]["content"])
        solution = row and shortest_right(row)
        if solution:
            for shown in [pair, swapped(pair)] if orders == "both" else [pair]:
                messages = chain(shown, solution, row["answer"], style)
                if messages:
                    chains[shown.label + 1].append(messages)
    chosen = balanced(chains)
    if not chosen:
        raise BadInput(f"{solutions}: no right solution fits the pairs of both labels in {pairs}")
    write_rows(out, [{"messages": messages} for messages in chosen])
    print(f"{len(chosen)} chains; by verdict: {len(chains[1])}, {len(chains[2])}")


if __name__ == "__main__":
    command(main)
