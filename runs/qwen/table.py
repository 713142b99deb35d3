"""Tables of judged pairs, with intervals over questions, next to a judge that sees no question.

    python runs/qwen/table.py train_pairs.jsonl test_pairs.jsonl base=out/qwen/games/test-base ...
    python runs/qwen/table.py none none base=BASE trained=TRAINED     other sets: the judges alone

Each name stands for the folder of an evaluation with its forced.json (forced.py), or for a gzipped
forced.json in logs/. Of A+B, B replaces the pairs of A that it has too: those whose games were cut
off, judged again with more tokens. Only games of the test pairs count.

Columns: right (no verdict counts as wrong), forced (it counts as the likelier one), both (right in
both orders), verdicts written, verdicts for the first place, tokens of a game. The differences are
to the first judge and to logistic regression on the words of the answers, trained on the same
pairs. In the last table a game is right only where it takes no more tokens than the budget: a lower
--max_completion_length would cut it off.
"""

import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from gsm8k_sets import words_of  # noqa: E402
from measures import (  # noqa: E402
    accuracy,
    as_text,
    command,
    difference,
    forced_rows,
    grid,
    labelled_pairs,
    markdown_table,
    mean,
    named_paths,
)

from cli import BadInput  # noqa: E402
from extras.mixture import answers_apart, fit_blind  # noqa: E402
from extras.scoring import decided  # noqa: E402
from verdicts import vote_of  # noqa: E402

COLUMNS = "right", "forced", "both", "verdict", "first", "tokens"
BUDGETS = 80, 120, 160, 200, 240, 320, 512  # tokens of a game


def games_of(rows):
    """One row a game of the rows of a results.json, with a number for each of COLUMNS."""
    games = []
    for row in rows:
        question = {"id": row["id"], "question": row["question"]}
        for match, better in decided(row):
            own = [question | numbers_of(game, better) for game in match["games"]]
            both = all(game["right"] for game in own)
            games += [game | {"both": both} for game in own]
    return games


def numbers_of(game, better):
    named = vote_of(game)
    is_written = named is not None and not game.get("forced")
    return {
        "right": is_written and named == better,
        "forced": named == better,
        "verdict": is_written,
        "first": named == game["order"][0] if is_written else None,
        "tokens": game["tokens"],
    }


def blind_games(train, test, questions):
    """What a judge of words gets right, one row a pair; questions: {id of a pair: its question}."""
    apart = [answers_apart(*zip(*(pair.answers for pair in pairs))) for pairs in (train, test)]
    model = fit_blind(apart[0], [pair.label == 0 for pair in train])
    games = []
    for pair, first_is_better in zip(test, model.predict(apart[1])):
        better, worse = (len(pair.answers[index]) for index in (pair.label, 1 - pair.label))
        longer = 0.5 + 0.5 * np.sign(better - worse)
        right = first_is_better == (pair.label == 0)
        games.append({"question": questions[pair.id], "right": right, "longer": longer})
    return games


def check_apart(train, test):
    asked = [{words_of(pair.messages[-1]["content"]) for pair in pairs} for pairs in (train, test)]
    shared = asked[0] & asked[1]
    if shared:
        raise BadInput(f"{len(shared)} questions are in both sets, such as {min(shared)[:80]!r}")


def tables(train, test, judges):
    """Yields the tables. judges: {name: rows of a results.json}. train, test: may be None."""
    games = {name: games_of(rows) for name, rows in judges.items()}
    grids, rows = {}, []  # grids: {judge: {column: grid}}
    for name, own in games.items():
        grids[name] = {column: grid([own], column, "question") for column in COLUMNS}
        intervals = [accuracy(cells) for cells in grids[name].values()]
        texts = [*map(as_text, intervals[:3]), *(f"{value:.3g}" for value, _, _ in intervals[3:])]
        rows.append([name, len(own), grids[name]["right"].shape[1], *texts])
    yield markdown_table(["judge", "games", "questions", *COLUMNS], rows)
    first, words = next(iter(games)), None
    if test is not None:
        questions = {game["id"]: game["question"] for game in games[first]}
        blind = blind_games(train, [pair for pair in test if pair.id in questions], questions)
        words, longer = (grid([blind], column, "question") for column in ("right", "longer"))
        rows = [["words of the answers", as_text(accuracy(words))]]
        rows.append(["longer answer", as_text(accuracy(longer))])
        yield markdown_table(["judge that sees no question", "right"], rows)
    rows = []
    for name, cells in grids.items():
        gaps = [difference(cells[column], grids[first][column]) for column in COLUMNS[:2]]
        if words is not None:
            gaps.append(difference(cells["right"], words))
        rows.append([name, *map(as_text, gaps)])
    head = ["less", f"right - {first}", f"forced - {first}", "right - words"]
    yield markdown_table(head if words is not None else head[:3], rows)
    rows = []
    for name, own in games.items():
        shares = (mean(g["right"] and g["tokens"] <= budget for g in own) for budget in BUDGETS)
        rows.append([name, *(f"{share:.3f}" for share in shares)])
    yield markdown_table(["right within tokens", *BUDGETS], rows)


def main(train_path, test_path, *named):
    train = test = None
    if (train_path, test_path) != ("none", "none"):
        train, test = labelled_pairs(train_path), labelled_pairs(test_path)
        check_apart(train, test)
        print(f"{len(train)} training and {len(test)} test pairs share no question.")
    judges, first_asked = {}, None
    for name, paths in named_paths(named).items():
        rows = {row["id"]: row for path in paths.split("+") for row in forced_rows(path)}
        ids = rows.keys() if test is None else {pair.id for pair in test}
        judges[name] = [row for row in rows.values() if row["id"] in ids]
        asked = {row["id"] for row in judges[name]}
        first_asked = first_asked or asked
        if not asked or asked != first_asked:
            raise BadInput(
                f"{name}: {paths} has {len(asked)} of the pairs, and not the {len(first_asked)} of "
                "the first judge: give pairs that all judges share"
            )
    for table in tables(train, test, judges):
        print(f"\n{table}")


if __name__ == "__main__":
    command(main)
