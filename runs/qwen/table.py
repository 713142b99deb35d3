"""Tables of judged pairs, with intervals over questions, next to a judge that sees no question.

    python runs/qwen/table.py train_pairs.jsonl test_pairs.jsonl base=out/qwen/games/test-base ...

Each name stands for the folder of an evaluation with its forced.json (forced.py), or for a gzipped
forced.json in logs/. Only games of the test pairs count. Columns: right (no verdict counts as
wrong), forced (it counts as the likelier one), both (right in both orders), verdicts written,
verdicts for the first place, tokens of a game. The differences are to the first judge and to
logistic regression on the words of the answers, trained on the same pairs.
"""

import sys
from collections import defaultdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from gsm8k_sets import words_of  # noqa: E402
from measures import accuracy, as_text, difference, forced_rows, grid, markdown_table  # noqa: E402

from cli import BadInput, run  # noqa: E402
from data import load_pairs  # noqa: E402
from extras.mixture import answers_apart, fit_blind  # noqa: E402
from extras.scoring import decided  # noqa: E402
from verdicts import vote_of  # noqa: E402

COLUMNS = "right", "forced", "both", "verdict", "first", "tokens"


def games_of(rows):
    """One row a game of the rows of a results.json, with a number for each of COLUMNS."""
    games = []
    for row in rows:
        for match, better in decided(row):
            own = [numbers_of(game, better) for game in match["games"]]
            both = all(game["right"] for game in own)
            for game in own:
                games.append(game | {"id": row["id"], "question": row["question"], "both": both})
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
    firsts, seconds = zip(*(pair.answers for pair in train))
    model = fit_blind(answers_apart(firsts, seconds), [pair.label == 0 for pair in train])
    firsts, seconds = zip(*(pair.answers for pair in test))
    predicted = model.predict(answers_apart(firsts, seconds))
    games = []
    for pair, first_is_better in zip(test, predicted):
        right, longer = first_is_better == (pair.label == 0), longer_is_right(pair)
        games.append({"question": questions[pair.id], "right": right, "longer": longer})
    return games


def longer_is_right(pair):
    better, worse = (len(pair.answers[index]) for index in (pair.label, 1 - pair.label))
    return 0.5 if better == worse else float(better > worse)


def check_apart(train, test):
    shared = {question_words(pair) for pair in train} & {question_words(pair) for pair in test}
    if shared:
        raise BadInput(f"{len(shared)} questions are in both sets, such as {min(shared)[:80]!r}")


def question_words(pair):
    return words_of(pair.messages[-1]["content"])


def tables(train, test, judges):
    """Yields the lines of the tables. judges: {name: rows of a results.json}."""
    games = {name: games_of(rows) for name, rows in judges.items()}
    grids = defaultdict(dict)  # {judge: {column: grid}}
    rows = []
    for name, own in games.items():
        for column in COLUMNS:
            grids[name][column] = grid([own], column, "question")
        cells = [as_text(accuracy(grids[name][column])) for column in COLUMNS[:3]]
        cells += [f"{accuracy(grids[name][column])[0]:.3g}" for column in COLUMNS[3:]]
        rows.append([name, len(own), grids[name]["right"].shape[1], *cells])
    yield markdown_table(["judge", "games", "questions", *COLUMNS], rows)
    questions = {game["id"]: game["question"] for game in next(iter(games.values()))}
    blind = blind_games(train, [pair for pair in test if pair.id in questions], questions)
    rows = [["words of the answers", as_text(accuracy(grid([blind], "right", "question")))]]
    rows.append(["longer answer", as_text(accuracy(grid([blind], "longer", "question")))])
    yield markdown_table(["judge that sees no question", "right"], rows)
    first, *others = grids
    rows = []
    for name in grids:
        cells = [as_text(difference(grids[name][c], grids[first][c])) for c in COLUMNS[:2]]
        blind_grid = grid([blind], "right", "question")
        rows.append([name, *cells, as_text(difference(grids[name]["right"], blind_grid))])
    yield markdown_table(["less", f"right - {first}", f"forced - {first}", "right - words"], rows)


def main(train_path, test_path, *named):
    train, test = (
        [pair for pair in load_pairs(path) if pair.label in (0, 1)]
        for path in (train_path, test_path)
    )
    check_apart(train, test)
    print(f"{len(train)} training and {len(test)} test pairs share no question.")
    judges, ids = {}, {pair.id for pair in test}
    for name, _, path in (text.partition("=") for text in named):
        judges[name] = [row for row in forced_rows(path) if row["id"] in ids]
    for table in tables(train, test, judges):
        print(f"\n{table}")


if __name__ == "__main__":
    run(lambda: main(*sys.argv[1:]))
