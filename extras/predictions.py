"""Verdicts that some judge has written to a file before, as the rows that evaluate.py scores."""

import json
from pathlib import Path

from cli import BadInput, note
from datafiles import ENDING, file_rows
from verdicts import BOTH_ORDERS

FORMS = (
    "expected id and winner (a, b, tie or null), or what judge.py --out, JudgeBench and PandaLM "
    "write"
)


def stored_game(order, said, words):
    """A game of another tool's judge; `words`: what it writes for place 1, place 2 and a tie."""
    if said == words[2] or str(said) == words[2]:
        return {"order": order, "verdict": None, "status": "tie"}
    for verdict in (1, 2):
        if str(said) == words[verdict - 1]:
            return {"order": order, "verdict": verdict, "status": "valid"}
    return {"order": order, "verdict": None, "status": "unparsable"}


NO_VERDICT = stored_game([0, 1], None, ("a", "b", "tie"))


def own_games(row):
    """(id of a pair, its games) of a row of judge.py --out or {id, winner}, else None."""
    if "id" not in row:
        return None
    if "games" in row:
        if not isinstance(row["games"], list) or not all(map(is_game, row["games"])):
            return None
        return row["id"], row["games"]
    if "winner" in row:
        return row["id"], [stored_game([0, 1], row["winner"], ("a", "b", "tie"))]
    return None


def is_game(game):
    """Whether a game of judge.py --out has an order, a status and a verdict that fits it."""
    if not isinstance(game, dict) or not {"order", "status", "verdict"} <= game.keys():
        return False
    verdicts = ("1", "2") if game["status"] == "valid" else ("null",)
    return game["order"] in BOTH_ORDERS and json.dumps(game["verdict"]) in verdicts  # not 1.0


def read_predictions(path, read_row):
    """{id of a pair: its games} of a predictions file. read_row(row): (id, games), or None."""
    if not Path(path).is_file() or not ENDING.search(path):
        raise BadInput(f"--predictions: {path} is no .json or .jsonl file: check the path")
    predicted = {}
    for place, row in file_rows(Path(path)):
        found = read_row(row) if isinstance(row, dict) else None
        if found is None:
            fields = ", ".join(row) if isinstance(row, dict) else repr(row)[:80]
            raise BadInput(
                f"{path} {place}: no judgment that --predictions reads: {FORMS}; this row has "
                f"{fields}"
            )
        name, games = found
        predicted[str(name)] = games or [NO_VERDICT]
    return predicted


def match_predictions(path, predicted, items):
    """[(item, matches with their games)]; a pair without a prediction counts as unparsable.

    Raises BadInput where no pair of the items has a prediction.
    """
    found, num_pairs, num_missing = [], 0, 0
    for item in items:
        matches = []
        for match in item.matches:
            games = predicted.get(item.pair(*match).id)
            num_pairs += 1
            num_missing += games is None
            matches.append({"pair": list(match), "games": games or [NO_VERDICT]})
        found.append((item, matches))
    if num_missing == num_pairs:
        first = next(iter(predicted), None)
        raise BadInput(
            f"--predictions: {path} has none of the pairs of --data (its first id: {first!r}): "
            "give files that belong together"
        )
    missing = ", the others count as unparsable" if num_missing else ""
    note(f"{path}: {num_pairs - num_missing} of {num_pairs} pairs have a prediction{missing}")
    return found
