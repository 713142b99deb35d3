"""Reads files of match results: csv, JSON lines, a JSON list, also .gz, or parquet; no torch.

i,j,score             left,right,winner      model_a,model_b,winner
pizza,burger,1        pizza,burger,left      pizza,burger,model_a
burger,sushi,0.25     burger,sushi,tie       burger,sushi,tie (bothbad)
"""

import re
from pathlib import Path

import cli
from cli import BadInput
from tables import read_csv

ARENA_TIES = "tie", "tie (bothbad)", "both_bad", "bothbad"  # of Chatbot Arena's releases
# (columns, what the last one may say -> the score of the first player); None: a number
FORMATS = [
    (("i", "j", "score"), None),
    (("left", "right", "winner"), {"left": 1.0, "right": 0.0, "tie": 0.5}),
    (
        ("model_a", "model_b", "winner"),
        {"model_a": 1.0, "model_b": 0.0} | dict.fromkeys(ARENA_TIES, 0.5),
    ),
]
KNOWN_COLUMNS = " or ".join(", ".join(columns) for columns, _ in FORMATS)


def read_matches(path):
    """Matches of a file, and the names of the players: (matches, names).

    Players are numbered in order of appearance. Raises BadInput with the line.
    """
    matches, numbers = [], {}
    for place, row in match_rows(path):
        (first, second, result), words = format_of(row, place)
        players = [read_player(row[column], column, place) for column in (first, second)]
        if players[0] == players[1]:
            raise BadInput(f"{place}: {players[0]!r:.80} plays against itself: remove the line")
        score = read_score(row[result], result, words, place)
        i, j = (numbers.setdefault(player, len(numbers)) for player in players)
        matches.append((i, j, score))
    if not matches:
        raise BadInput(f"--matches: {path} holds no matches: expected rows {KNOWN_COLUMNS}")
    return matches, list(numbers)


def match_rows(path):
    """Yields (place for messages, row as a dict)."""
    if str(path).lower().endswith((".parquet", ".gz")):
        import datafiles

        for place, row in datafiles.file_rows(Path(path)):
            yield f"{path} {place}", row
        return
    text = cli.read_text(path, "--matches")
    start = text.lstrip()[:1]
    if start == "{":
        for number, row in cli.read_json_lines(path, "--matches"):
            yield f"{path} line {number}", row
    elif start == "[":
        for number, row in enumerate(cli.parse_json(text, path, (list,)), start=1):
            if not isinstance(row, dict):
                raise BadInput(f"{path} row {number}: {row!r:.80}: expected an object")
            yield f"{path} row {number}", row
    else:
        names, rows = read_csv(path, text)
        if names:  # an empty file has none
            format_of(names, f"{path} line 1")
        for number, row in rows:
            yield f"{path} line {number}", row


def format_of(names, place):
    """The one entry of FORMATS whose columns are among `names`. Raises BadInput."""
    known = [entry for entry in FORMATS if all(column in names for column in entry[0])]
    if len(known) != 1:  # two could contradict each other
        found = ", ".join(map(str, names))[:120]
        raise BadInput(f"{place}: columns are {found}: expected one of {KNOWN_COLUMNS}")
    return known[0]


def read_player(value, column, place):
    """A name without outer blanks, or a number as an integer; 007 is a name."""
    if isinstance(value, str):
        value = value.strip()
        if re.fullmatch(r"0|-?[1-9]\d{0,17}", value):
            value = int(value)
    is_name = isinstance(value, str) and value != ""
    is_number = type(value) is int and value >= 0  # True is an int as well, but no number
    if not is_name and not is_number:
        raise BadInput(
            f"{place}: {column} is {value!r:.80}: "
            "expected the name of a player or its number, 0 or more"
        )
    return value


def read_score(value, column, words, place):
    """The score of the first player, from a number or from one of the words."""
    text = str(value).strip()
    if words:
        score, expected = words.get(text), " or ".join(words)
    else:
        is_number = re.fullmatch(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", text)
        score = float(text) if is_number else None
        expected = "a number from 0 to 1, the share of i"
    if score is None or not 0 <= score <= 1:
        raise BadInput(f"{place}: {column} is {value!r:.80}: expected {expected}")
    return score
