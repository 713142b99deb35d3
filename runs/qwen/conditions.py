r"""Pairs in which one answer meets a condition and the other does not, and judgments of them.

    python runs/qwen/conditions.py pairs ANSWERS PAIRS PER_QUESTION
    python runs/qwen/conditions.py chains PAIRS CHAINS STYLE
    python runs/qwen/conditions.py statements PAIRS RESULTS      what judgments say of the answers

ANSWERS: answers of one model (extras.make_data sample). Both answers of a pair have the right
result, so the condition alone decides. It stands behind the question: the answer must, or must
not, contain a word, begin with a word, or have more than so many lines. A hash chooses the
condition, and whether it is "must" or "must not". A chain is a judgment that this program writes:
it quotes both answers and concludes.
"""

import re
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from chains import balanced  # noqa: E402
from measures import (  # noqa: E402
    command,
    forced_rows,
    labelled_pairs,
    read_rows,
    write_rows,
)

from cli import BadInput  # noqa: E402
from seeding import uniform  # noqa: E402
from styles import judge_messages, load_style  # noqa: E402
from verdicts import vote_of  # noqa: E402

LONGEST_ANSWER = 400  # characters: a judgment copies both answers
LONGEST = 12  # lines of an answer that are counted
HERE, NOWHERE = "here it is", "to its end"  # the copy of an answer ends with the word, or without
WORD = re.compile(r"[A-Za-z]+")
CONDITION = re.compile(
    r"\n\nThe answer (?P<must>must|must not) "
    r"(?:contain the word '(?P<word>\w+)'|begin with the word '(?P<first>\w+)'"
    r"|have more than (?P<lines>\d+) lines \(empty lines do not count\))\.\Z"
)


def lines_of(answer):
    return [line.strip() for line in answer.split("\n") if line.strip()]


def whole(word):
    """The pattern of a whole word."""
    return rf"(?<![A-Za-z]){word}(?![A-Za-z])"


def has_word(answer, word):
    return re.search(whole(word), answer, re.IGNORECASE) is not None


def first_word(answer):
    found = WORD.search(answer)
    return found[0] if found else ""


def properties(answers):
    """{kind: ends of the sentence "The answer must ..."} that are true of one of two answers."""
    words = [{word.lower() for word in WORD.findall(answer) if len(word) > 3} for answer in answers]
    found = {"word": [f"contain the word '{word}'" for word in sorted(words[0] ^ words[1])]}
    first = [first_word(answer) for answer in answers]
    if first[0].lower() != first[1].lower():
        found["first"] = [f"begin with the word '{word}'" for word in first if word]
    few, many = sorted(len(lines_of(answer)) for answer in answers)
    if many <= LONGEST:
        found["lines"] = [  # from two on: "more than 1 lines" is no English
            f"have more than {count} lines (empty lines do not count)"
            for count in range(max(few, 2), many)
        ]
    return {kind: ends for kind, ends in found.items() if ends}


def holds(condition, answer):
    """Whether an answer meets a condition, a match of CONDITION."""
    if condition["word"]:
        has_it = has_word(answer, condition["word"])
    elif condition["first"]:
        has_it = first_word(answer).lower() == condition["first"].lower()
    else:
        has_it = len(lines_of(answer)) > int(condition["lines"])
    return has_it == (condition["must"] == "must")


def evidence(condition, answer):
    """What a judgment says of an answer before it concludes.

    To look for a word, it copies the answer up to the word. A model cannot tell at once whether an
    answer has a word, but each step of a copy is easy, and so is the step that ends it.
    """
    if condition["word"]:
        found = re.search(whole(condition["word"]), answer, re.IGNORECASE)
        copied = " ".join(answer[: found.end() if found else None].split())
        return f'"{copied}" {HERE if found else NOWHERE}'
    if condition["first"]:
        return f'it begins "{" ".join(answer.split()[:4])}"'
    starts = ", ".join(f'"{" ".join(line.split()[:2])}"' for line in lines_of(answer))
    return f"its lines begin {starts}, so it has {len(lines_of(answer))}"


def condition_of(pair):
    """The condition at the end of a pair's question, a match of CONDITION. Raises BadInput."""
    condition = CONDITION.search(pair.messages[-1]["content"])
    if not condition:
        raise BadInput(f"pair {pair.id}: its question has no condition: make it with `pairs`")
    return condition


def chain(pair, style):
    """The messages of a prompt and its judgment."""
    condition = condition_of(pair)
    lines = [f"Condition: {condition[0].strip()}"]
    for place, answer in enumerate(pair.answers, start=1):
        meets = "meets" if holds(condition, answer) else "does not meet"
        lines.append(f"Assistant {place}: {evidence(condition, answer)}. It {meets} the condition.")
    lines.append(f"Verdict: \\boxed{{Assistant {pair.label + 1}}}")
    prompt = judge_messages(style, pair.messages, *pair.answers)
    return [*prompt, {"role": "assistant", "content": "\n".join(lines)}]


def pairs_of(row, count):
    """At most `count` pairs of one row of answers, each with another condition."""
    right = [text for text, status in zip(row["candidates"], row["status"]) if status == "right"]
    right = [text for text in right if len(text) <= LONGEST_ANSWER]
    both = list(combinations(sorted(set(right)), 2))
    both = [answers for answers in both if properties(answers)]
    found = {}  # question with its condition: pair
    for number in range(count if both else 0):
        answers = both[number % len(both)]
        # The published pairs were drawn with hashes of this name.
        kinds, name = properties(answers), f"constraint-{row['id']}-{number}"
        kind = sorted(kinds)[int(len(kinds) * uniform(f"kind:{name}"))]
        end = kinds[kind][int(len(kinds[kind]) * uniform(f"end:{name}"))]
        must = "must" if uniform(f"must:{name}") < 0.5 else "must not"
        *turns, last = row["messages"]
        question = f"{last['content']}\n\nThe answer {must} {end}."
        found[question] = {
            "id": f"{kind}-{row['id']}-{number}",
            "messages": [*turns, {"role": "user", "content": question}],
            "a": answers[0],
            "b": answers[1],
            "label": 0 if holds(CONDITION.search(question), answers[0]) else 1,
        }
    return list(found.values())


def statements(pairs, rows):
    """Counts of judgments: {name: [how many are so, of how many]}. rows: of a results.json."""
    by_id = {pair.id: pair for pair in pairs}
    names = (
        "quotes that the answer has",
        "statements on a word that are true",
        "verdicts that follow",
    )
    counts = {name: [0, 0] for name in names}

    def count(name, is_so):
        counts[name][0] += is_so
        counts[name][1] += 1

    for row in rows:
        pair = by_id.get(row["id"])
        if pair is None:
            raise BadInput(f"pair {row['id']} of the judgments is not in PAIRS: give that file")
        condition = condition_of(pair)
        for game in (game for match in row["matches"] for game in match["games"]):
            said = re.findall(r"^Assistant ([12]): (.*)$", game["text"], re.MULTILINE)
            for place, text in said:
                answer = pair.answers[game["order"][int(place) - 1]]
                for quote in re.findall('"([^"]+)"', text):
                    count(names[0], " ".join(quote.split()) in " ".join(answer.split()))
                says_it_has = HERE in text or "it says" in text  # the latter: an earlier form
                says_it_lacks = NOWHERE in text or "it has no" in text
                if condition["word"] and says_it_has != says_it_lacks:
                    count(names[1], says_it_has == has_word(answer, condition["word"]))
            met = [place for place, text in said if "It meets" in text]
            if len(said) == 2 and len(met) == 1 and vote_of(game) is not None:
                count(names[2], str(game["verdict"]) == met[0])
    return counts


def main(stage, source, target, argument=None):
    if stage == "statements":
        counts = statements(labelled_pairs(source), forced_rows(target))
        for name, (number, of) in counts.items():
            print(f"{name}: {number} of {of}")
        return
    if argument is None:
        raise BadInput(f"{stage}: an argument is missing: the head of conditions.py shows it")
    if stage == "pairs":
        fields = ("id", "messages", "candidates", "status")
        if not argument.isdigit():
            raise BadInput(f"PER_QUESTION: {argument!r} is no whole number: give pairs a question")
        rows = [pair for row in read_rows(source, fields) for pair in pairs_of(row, int(argument))]
    elif stage == "chains":
        style, by_verdict = load_style(argument), {1: [], 2: []}
        for pair in labelled_pairs(source):
            other = replace(pair, answers=pair.answers[::-1], label=1 - pair.label)
            for shown in pair, other:
                by_verdict[shown.label + 1].append(chain(shown, style))
        rows = [{"messages": messages} for messages in balanced(by_verdict)]
    else:
        raise BadInput(f"{stage}: the stages are pairs, chains and statements")
    if not rows:
        raise BadInput(f"{source}: gives no pair: two right answers of a question have to differ")
    write_rows(target, rows)
    print(f"{len(rows)} {stage}")


if __name__ == "__main__":
    command(main)
