"""Verdicts that some judge has written to a file before, as the rows that evaluate.py scores.

A file is read in one of these forms, the same in all of its rows:

    {id, winner}            a, b, tie or null; the place of the answers is not known
    {id, games, ...}        what judge.py --out writes, in any ending
    {id, scores}            a rating for each answer of an item, such as 1 to 10; null for none
    {pair_id, judgments}    JudgeBench's judgments
    {idx, NAME_result}      PandaLM's verdict file

A value that is none of those named here is refused, and so is an id that stands there twice.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from cli import BadInput, note, read_json_lines
from datafiles import ENDING, file_rows
from extras.items import tied_games
from extras.scoring import vote_in
from seeding import stable_hash
from verdicts import BOTH_ORDERS, first_share, majority

FORMS = (
    "expected id and winner (a, b, tie or null), id and scores, or what judge.py --out, JudgeBench "
    "and PandaLM write"
)
# What a judge writes -> the place that it names, "tie", or None for no verdict
WINNERS = {"a": 1, "b": 2, "tie": "tie", None: None, "": None}  # csv writes null as ""
JUDGEBENCH = {"A>B": 1, "B>A": 2, "A=B": "tie", None: None}
PANDALM = {"1": 1, "2": 2, "0": "tie", "Tie": "tie", "garbage": None, None: None}
PANDALM |= {1: 1, 2: 2, 0: "tie"}
ANSWERS = ("a", "b"), ("response_A", "response_B")  # fields in which a row repeats the answers


@dataclass
class Prediction:
    id: str
    games: list | None = None
    scores: list | None = None  # instead of games
    where: str = ""  # file and line
    content: str | None = None  # hash of the pair, as judge.py --out writes it
    answers: tuple | None = None  # the texts that were judged, where the row repeats them


# ---- values ----


def stored_game(order, said, words, name, where):
    """A game of another tool's judge. words: see WINNERS. Raises BadInput for another value."""
    # True == 1 == 1.0 in Python
    if isinstance(said, (bool, float, list, dict)) or said not in words:
        known = ", ".join(json.dumps(word) for word in words)
        raise BadInput(f"{where}: {name} is {said!r:.80}, expected one of {known}: correct the row")
    verdict = words[said]
    status = "unparsable" if verdict is None else "valid"
    return {"order": order, "verdict": verdict, "status": status}


def is_game(game):
    """Whether a game of judge.py --out has an order, a status and a verdict that fits it."""
    if not isinstance(game, dict) or not {"order", "status", "verdict"} <= game.keys():
        return False
    verdicts = ("1", "2", '"tie"') if game["status"] == "valid" else ("null",)
    known = game["status"] in ("valid", "unparsable", "truncated", "tie")
    return known and game["order"] in BOTH_ORDERS and json.dumps(game["verdict"]) in verdicts


def number_in(text):
    """A cell of a csv file as a number, or as it is."""
    return float(text) if re.fullmatch(r"[01]|[01]?\.\d{1,20}", text) else text


def is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def checked_scores(scores, where):
    is_list = isinstance(scores, list) and len(scores) > 1
    if not is_list or not all(score is None or is_number(score) for score in scores):
        raise BadInput(
            f"{where}: scores is {scores!r:.80}, expected a list with a number for each answer: "
            "correct the row"
        )
    return scores


def winner_of_scores(first, second):
    if first is None or second is None:
        return None
    return "tie" if first == second else "a" if first > second else "b"


# ---- rows ----


def own_prediction(row, where):
    """A row of judge.py --out, {id, winner} or {id, scores}; None for another one."""
    if "games" in row:
        games = row["games"]
        if not isinstance(games, list) or not games or not all(map(is_game, games)):
            return None
        votes = [vote_in(game) for game in games]
        winner = {0: "a", 1: "b", "tie": "tie", None: None}[majority(votes)]
        check_agreement(row, winner, first_share(votes), where)
        return Prediction(row["id"], games)
    if "scores" in row:
        scores = checked_scores(row["scores"], where)
        if len(scores) == 2:
            check_agreement(row, winner_of_scores(*scores), None, where)
        return Prediction(row["id"], scores=scores)
    if "winner" in row:
        game = stored_game([0, 1], row["winner"], WINNERS, "winner", where)
        check_agreement(row, row["winner"], None, where)
        return Prediction(row["id"], [game | {"place_known": False}])
    return None


def check_agreement(row, winner, share, where):
    """Raises BadInput where `winner` and `p_first` of a row do not fit its own verdicts.

    share: what p_first must be; None: it must only be on the winner's side.
    """
    if "winner" in row and (row["winner"] or "tie") != (winner or "tie"):
        raise BadInput(
            f"{where}: winner is {row['winner']!r:.80}, but the verdicts beside it say {winner!r}: "
            "correct the row"
        )
    p_first = row.get("p_first", 0.5 if share is None else share)
    fits = is_number(p_first) and 0 <= p_first <= 1
    if fits and share is not None:
        fits = abs(p_first - share) < 1e-6
    if not fits or (winner == "a" and p_first < 0.5) or (winner == "b" and p_first > 0.5):
        raise BadInput(
            f"{where}: p_first is {p_first!r:.80}, which does not fit the winner {winner!r}: it is "
            "the share of votes for a, 0 to 1: correct the row"
        )


def judgebench_prediction(row, where):
    """The second game was played with the answers swapped, and is stored as it was written.

    A judgment is null where the judge failed. Then it counts for neither answer.
    """
    judgments = row.get("judgments")
    if "pair_id" not in row or not isinstance(judgments, list) or len(judgments) not in (1, 2):
        return None
    games = []
    for order, judgment in zip(BOTH_ORDERS, judgments):
        judgment = {"decision": None} if judgment is None else judgment
        if not isinstance(judgment, dict) or "decision" not in judgment:
            return None
        games.append(stored_game(order, judgment["decision"], JUDGEBENCH, "decision", where))
    return Prediction(row["pair_id"], games)


def pandalm_prediction(row, where):
    names = [name for name in row if name.endswith("_result")]
    if "idx" not in row or len(names) != 1:
        return None
    return Prediction(row["idx"], [stored_game([0, 1], row[names[0]], PANDALM, names[0], where)])


def read_prediction(row, benchmark, where):
    """The Prediction of a row. The authors' own form goes with their benchmark, or with pairs."""
    found = None
    if isinstance(row, dict):
        if "id" in row:
            found = own_prediction(row, where)
        if found is None and benchmark in ("judgebench", "pairs"):
            found = judgebench_prediction(row, where)
        if found is None and benchmark in ("pandalm", "pairs"):
            found = pandalm_prediction(row, where)
    if found is None or type(found.id) not in (str, int):
        fields = ", ".join(row) if isinstance(row, dict) else repr(row)
        raise BadInput(
            f"{where}: no judgment that --predictions reads: {FORMS}; this row has {fields:.200}"
        )
    found.id, found.where, found.content = str(found.id), where, row.get("pair")
    for names in ANSWERS:
        if row.keys() >= set(names):
            found.answers = tuple(row[name] for name in names)
    return found


def read_predictions(path, benchmark):
    """{id of a pair, or of an item with scores: its Prediction} of a file. Raises BadInput."""
    if not Path(path).is_file():
        raise BadInput(f"--predictions: {path} is no file: check the path")
    with open(path, "rb") as file:
        is_own = file.read(7) == b'{"id": '  # judge.py --out writes JSON lines whatever the name
    if ENDING.search(path) and not is_own:
        rows = file_rows(Path(path))
    else:
        rows = ((f"line {number}", row) for number, row in read_json_lines(path, "--predictions"))
    predicted = {}
    for place, row in rows:
        if re.search(r"\.[ct]sv(\.gz)?$", path, re.IGNORECASE) and row.get("p_first"):
            row["p_first"] = number_in(row["p_first"])
        found = read_prediction(row, benchmark, f"{path} {place}")
        before = predicted.setdefault(found.id, found)
        if before is not found:
            raise BadInput(
                f"{found.where}: id {found.id!r} stands already at {before.where}: remove one"
            )
        first = next(iter(predicted.values()))
        if (first.scores is None) != (found.scores is None):
            raise BadInput(
                f"{found.where}: has {'games' if found.scores is None else 'scores'}, unlike "
                f"{first.where}: give a file of one form"
            )
    if not predicted:
        raise BadInput(f"--predictions: {path} holds no judgments: check the file")
    return predicted


# ---- predictions and items ----


def check_content(found, pair):
    """Raises BadInput where a prediction is of other texts than the pair with its id."""
    own = f"{stable_hash(pair.messages, pair.answers):016x}"
    other_answers = found.answers is not None and found.answers != tuple(pair.answers)
    if other_answers or found.content not in (None, own):
        raise BadInput(
            f"{found.where}: judges other texts than --data has under the id {found.id!r}, or in "
            "the other order: give files that belong together"
        )


def match_predictions(path, predicted, items):
    """[(item, matches with their games, its ratings or None)], and a note of what is missing.

    A pair without a prediction counts as unparsable in each order, so that it has the weight of the
    others; so does an order that is missing where other pairs have both. Without ratings the
    answers of an item count as equal. Raises BadInput where no pair has a prediction.
    """
    rated = next(iter(predicted.values())).scores is not None
    num_orders = 1
    if not rated:
        num_orders = max(len(orders_of(found.games)) for found in predicted.values())
    matched, used, missing, halves = [], set(), [], []
    for item in items:
        matches = []
        for match in item.matches:
            name = item.id if rated else item.pair(*match).id
            games = predicted_games(predicted.get(name), item, match)
            used.add(name)
            if name not in predicted and item.same_text(*match):
                games = tied_games(BOTH_ORDERS[:num_orders])  # judge.py leaves such pairs out
            elif name not in predicted:
                missing.append(name)
            elif len(orders_of(games)) < num_orders:
                halves.append(name)
            games = with_missing_orders(games, num_orders)
            matches.append({"pair": list(match), "games": games})
        ratings = None
        if rated:
            found = predicted.get(item.id)
            ratings = found.scores if found else [0] * len(item.answers)
            if None in ratings:  # the pairs alone count, without those that lack a score
                ratings = None
        matched.append((item, matches, ratings))
    num_pairs = sum(len(item.matches) for item in items)
    unused = [name for name in predicted if name not in used]
    if len(missing) == num_pairs:
        raise BadInput(
            f"--predictions: {path} has none of the pairs of --data (its first id: {unused[0]!r}): "
            "give files that belong together"
        )
    remarks = [f"{num_pairs - len(missing)} of {num_pairs} pairs have a prediction"]
    for names, remark in (
        (missing, "without one count as unparsable"),
        (halves, "have one order alone, the other one counts as unparsable"),
        (unused, "predictions are of no pair of --data"),
    ):
        if names:
            remarks.append(f"{len(names)} {remark} (the first: {names[0]!r})")
    note(f"{path}: {'; '.join(remarks)}")
    return matched


def predicted_games(found, item, match):
    """The games of a pair by its Prediction, or by that of its whole item; none for None."""
    if found is None:
        return []
    if found.scores is None:
        check_content(found, item.pair(*match))
        return found.games
    if len(found.scores) != len(item.answers):
        raise BadInput(
            f"{found.where}: has {len(found.scores)} scores, and the item {item.id!r} has "
            f"{len(item.answers)} answers: give one for each"
        )
    if len(item.answers) == 2:
        check_content(found, item.pair(0, 1))
    winner = winner_of_scores(*(found.scores[player] for player in match))
    game = stored_game([0, 1], winner, WINNERS, "scores", found.where)
    return [game | {"place_known": False}]


def orders_of(games):
    return [order for order in BOTH_ORDERS if any(game["order"] == order for game in games)]


def with_missing_orders(games, num_orders):
    """The games, and one without a verdict for each order that is missing."""
    judged = orders_of(games)
    absent = [order for order in BOTH_ORDERS if order not in judged]
    missing = absent[: num_orders - len(judged)]
    lost = {"verdict": None, "status": "unparsable"}
    return games + [{"order": order} | lost for order in missing]
