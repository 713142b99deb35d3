"""Best of 8: which of a solver's answers to a question is picked by votes, by judges, by an oracle.

    python runs/qwen/best_of.py prepare answers.jsonl candidates.jsonl
    python evaluate.py --benchmark pairs --data candidates.jsonl --strategy knockout \\
        --model MODEL --output_dir out/best-base
    python runs/qwen/best_of.py table answers.jsonl OWN base=out/best-base tuned=out/best-tuned

answers.jsonl: rows of `extras.make_data sample`. Answers with the same result are one candidate,
and questions whose candidates are all right or all wrong need no judge. OWN: the judge's own
solutions of the questions, from `make_data sample` too, or `none`. As many of them as cost the
tokens of a knockout vote on a result.
"""

import sys
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import measures  # noqa: E402
from chains import number, own_result, result_of  # noqa: E402
from measures import (  # noqa: E402
    as_text,
    command,
    difference,
    grid,
    mean,
    named_paths,
    read_rows,
    result_rows,
    write_rows,
)

from cli import BadInput  # noqa: E402
from elo import elo  # noqa: E402
from extras.scoring import share  # noqa: E402

FIELDS = "id", "messages", "candidates", "status"  # of a row of answers
CHARACTERS_PER_TOKEN = 3  # of the judge's own solutions, whose tokens are not stored


def checked(row):
    """[(answer, its result, whether it is right)] of answers that ended and could be checked."""
    return [
        (answer, number(result_of(answer)), status == "right")
        for answer, status in zip(row["candidates"], row["status"])
        if status in ("right", "wrong")
    ]


def candidates_of(row):
    """(answers, scores): the first answer with each result. Empty where no judge is needed."""
    candidates = {}  # {result: (answer, score)}
    for answer, result, right in checked(row):
        candidates.setdefault(result, (answer, float(right)))
    scores = [score for _, score in candidates.values()]
    if len(set(scores)) < 2:
        return [], []
    return [answer for answer, _ in candidates.values()], scores


def prepare(answers, out):
    """Writes the questions that a judge can get right or wrong, for evaluate.py."""
    questions = []
    for row in read_rows(answers, FIELDS):
        texts, scores = candidates_of(row)
        if texts:
            question = {"id": row["id"], "messages": row["messages"]}
            questions.append(question | {"candidates": texts, "scores": scores})
    if not questions:
        raise BadInput(f"{answers}: no question has right and wrong answers")
    write_rows(out, questions)
    print(f"{len(questions)} questions have right and wrong candidates")


# ---- the table ----


def most_frequent(results):
    """The earliest of the most frequent results; None without any."""
    counts = Counter(result for result in results if result is not None)
    return counts.most_common(1)[0][0] if counts else None


def stated_most(results, games):
    """The one of the answers' results that most games state as the judge's own result.

    Of several, the one that more answers have, then the earliest.
    """
    answers = Counter(result for result in results if result is not None)
    stated = Counter(own_result(game["text"]) for game in games)
    return max(answers, key=lambda result: (stated[result], answers[result]))


def answer_picked(judged):
    """The winner of a knockout; where all pairs were judged, the answer with the highest Elo."""
    if judged["pick"] is not None:
        return judged["pick"]
    if not judged["ranked"]:
        raise BadInput(f"question {judged['id']}: only right and wrong met: use --strategy elo")
    matches = [(*match["pair"], share(match)) for match in judged["matches"]]
    ratings = elo(matches, len(judged["scores"]))
    return ratings.index(max(ratings))


def judge_picks(row, judges):
    """{who picks: whether the picked answer is right}, None for a question that needs no judge."""
    answers = [(result, is_right) for _, result, is_right in checked(row)]
    picked = {}
    for name, judged in judges.items():
        question = judged.get(row["id"])
        by_results = f"{name}: the result it states most"
        picked[name] = picked[by_results] = None
        if question is None and candidates_of(row)[0]:
            raise BadInput(f"{name}: question {row['id']} was not judged: finish the evaluation")
        if question is not None:
            games = [game for match in question["matches"] for game in match["games"]]
            picked[name] = question["scores"][answer_picked(question)] == 1
            most = stated_most((result for result, _ in answers), games)
            picked[by_results] = (most, True) in answers
    return picked


def picks(row, judged, own, budget):
    """{who picks: whether the picked answer of a question is right}.

    judged: from `judge_picks`. own: the row of the judge's own solutions, or None.
    """
    answers = [(result, is_right) for _, result, is_right in checked(row)]
    right = [status == "right" for status in row["status"]]
    picked = {
        "first answer": right[0],
        "mean of all answers": mean(right),
        "majority": (most_frequent(result for result, _ in answers), True) in answers,
        "oracle (any is right)": any(right),
    }
    for name, is_right in judged.items():
        picked[name] = any(right) if is_right is None else is_right
    if own is not None:
        within = {name: own[name][: max(1, budget)] for name in ("candidates", "status")}
        solutions = [(result, is_right) for _, result, is_right in checked(within)]
        solved = most_frequent(result for result, _ in solutions)
        agreeing = [is_right for result, is_right in answers if result == solved]
        picked["own solution, equal tokens"] = (solved, True) in solutions
        picked["answer that agrees with it"] = (agreeing or [right[0]])[0]
    return picked


def table(answers, own_path, *named):
    judges, spent = {}, []  # {judge: {id of a question: its row of results.json}}
    for name, folder in named_paths(named).items():
        judges[name] = {}
        for row in result_rows(Path(folder) / "results.json"):
            judges[name][row["id"]] = row
            spent.append(sum(game["tokens"] for match in row["matches"] for game in match["games"]))
    own = {} if own_path == "none" else {row["id"]: row for row in read_rows(own_path, FIELDS)}
    lengths = [len(text) for row in own.values() for text in row["candidates"]]
    budget = round(mean(spent) * CHARACTERS_PER_TOKEN / mean(lengths)) if own else 0
    found, by_right = [], {"1 or 2": [], "3 or more": []}
    for row in read_rows(answers, FIELDS):
        if own and row["id"] not in own:
            raise BadInput(f"{own_path}: has no solutions of question {row['id']}: finish it")
        judged = judge_picks(row, judges)
        found.append({"id": row["id"]} | picks(row, judged, own.get(row["id"]), budget))
        if None not in judged.values():
            many_are_right = row["status"].count("right") > 2
            by_right["3 or more" if many_are_right else "1 or 2"].append(found[-1])
    cells = {name: grid([found], name, "id") for name in found[0] if name != "id"}
    lines = []
    for name, own_cells in cells.items():
        intervals = [measures.accuracy(own_cells)]
        intervals += [difference(own_cells, cells[other]) for other in ("first answer", "majority")]
        lines.append([name, *map(as_text, intervals)])
    print(f"{len(found)} questions; judging one takes {mean(spent):.0f} tokens on average\n")
    columns = ["picked by", "right", "- first answer", "- majority"]
    print(measures.markdown_table(columns, lines))
    print("\nOf the questions with right and wrong results, how many are picked right:\n")
    lines, names = [], ["majority", *judged]
    for kind, rows in by_right.items():
        either = sum(any(row[name] for name in names) for row in rows)
        lines.append([kind, len(rows), *(sum(row[name] for row in rows) for name in names), either])
    columns = ["right answers", "questions", *names, "any of them"]
    print(measures.markdown_table(columns, lines))


def main(action, answers, other, *named):
    if action == "table":
        table(answers, other, *named)
    elif action == "prepare" and not named:
        prepare(answers, other)
    else:
        raise BadInput(f"{action}: write prepare ANSWERS OUT or table ANSWERS OWN NAME=FOLDER ...")


if __name__ == "__main__":
    command(main)
