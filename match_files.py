"""Reads files of match results, csv or JSON lines. No model, no torch.

i,j,score             left,right,winner
pizza,burger,1        pizza,burger,left
burger,sushi,0.25     burger,sushi,tie
"""

import re

import cli
from cli import BadInput
from tables import read_csv


def read_matches(path, names=None):
    """Matches of a csv or JSON-lines file, and the names of the players: (matches, names).

    Columns: i, j, score, or left, right, winner (left, right or tie). names: the players are these,
    and i and j are their numbers from 0. None: i, j, left and right are names, numbered in order of
    appearance. Raises BadInput with the line.
    """
    matches = []
    numbers = {number: number for number in range(len(names))} if names else {}
    for line, row in match_rows(path):
        place = f"{path} line {line}"
        columns = result_columns(row, place)
        players = []
        for column in columns[:2]:
            player = read_player(row[column], column, place)
            if names and player not in numbers:
                raise BadInput(
                    f"{place}: unknown player {player!r:.80} in {column}: "
                    f"--candidates has players 0 to {len(names) - 1}"
                )
            players.append(player)
        left, right = players
        if left == right:
            raise BadInput(f"{place}: {left!r:.80} plays against itself: remove the line")
        score = read_score(row[columns[2]], columns[2], place)
        i = numbers.setdefault(left, len(numbers))
        j = numbers.setdefault(right, len(numbers))
        matches.append((i, j, score))
    if not matches:
        raise BadInput(
            f"--matches: {path} holds no matches: expected rows i,j,score or left,right,winner"
        )
    return matches, names or list(numbers)


def match_rows(path):
    """Yields (line number, row as a dict) of a JSON-lines file or of a csv file with a header."""
    text = cli.read_text(path, "--matches")
    if text.lstrip().startswith(("{", "[")):
        yield from cli.read_json_lines(path, "--matches")
        return
    names, rows = read_csv(path, text)
    if names:  # an empty file has none
        result_columns(names, f"{path} line 1")
    yield from rows


def result_columns(names, place):
    """The three columns of a match among `names`. Raises BadInput."""
    for columns in (("i", "j", "score"), ("left", "right", "winner")):
        if set(columns) <= set(names):
            return columns
    raise BadInput(
        f"{place}: columns are {', '.join(map(str, names))[:120]}: "
        "expected i, j, score or left, right, winner"
    )


def read_player(value, column, place):
    """A name without outer blanks, or a number as an integer. 007 is a name, and not 7."""
    if isinstance(value, str):
        value = value.strip()
        if re.fullmatch(r"0|-?[1-9][0-9]{0,17}", value):
            value = int(value)
    is_name = isinstance(value, str) and value != ""
    is_number = type(value) is int and value >= 0  # True is an int as well, but no number
    if not is_name and not is_number:
        raise BadInput(
            f"{place}: {column} is {value!r:.80}: "
            "expected the name of a player or its number, 0 or more"
        )
    return value


def read_score(value, column, place):
    """The score of the first player: column `winner` holds a word, column `score` a number."""
    text = str(value).strip()
    if column == "winner":
        score = {"left": 1.0, "right": 0.0, "tie": 0.5}.get(text)
        expected = "left, right or tie"
    else:
        is_number = re.fullmatch(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", text)
        score = float(text) if is_number else None
        expected = "a number from 0 to 1, the share of i"
    if score is None or not 0 <= score <= 1:
        raise BadInput(f"{place}: {column} is {value!r:.80}: expected {expected}")
    return score
