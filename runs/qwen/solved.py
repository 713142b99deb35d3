"""What a judge gets right and wrong: does its own result agree with the right answer?

    python runs/qwen/solved.py test_pairs.jsonl format=out/qwen/games/pairs_test-format
    python runs/qwen/solved.py train_pairs.jsonl grpo=rollouts.jsonl    games of a training

A row is a kind of game: the judge's own result is that of the right answer, of the wrong one, of
neither, or is not stated. `read`: both results of the answers were read off as they are. A verdict
by force counts as none (forced.py). rollouts.jsonl: files rollouts/STEP.jsonl of a run, joined.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from chains import number, own_result, result_of  # noqa: E402
from measures import (  # noqa: E402
    command,
    forced_rows,
    labelled_pairs,
    markdown_table,
    mean,
    named_paths,
    read_rows,
)

from cli import BadInput  # noqa: E402
from verdicts import vote_of  # noqa: E402

KINDS = "right answer", "wrong answer", "neither", "not stated"


def kind_of(text, right, wrong):
    """Which answer's result the judge states as its own. right, wrong: those results."""
    own = own_result(text)
    if own is None:
        return "not stated"
    return {right: "right answer", wrong: "wrong answer"}.get(own, "neither")


def game_rows(pair, row):
    """{kind, right, read} of each game of one row of results.json."""
    results = [number(result_of(answer)) for answer in pair.answers]
    right, wrong = results[pair.label], results[1 - pair.label]
    for match in row["matches"]:
        for game in match["games"]:
            named = re.findall("Result of Assistant [12]: (.*)", game["text"])
            yield {
                "kind": kind_of(game["text"], right, wrong),
                "right": vote_of(game) == pair.label and not game.get("forced"),
                "read": [number(text) for text in named] == [results[i] for i in game["order"]],
            }


def rollout_rows(path):
    """The games of a training as rows of a results.json."""
    rows = []
    for group in read_rows(path, ("id", "order", "completions")):
        games = [game | {"order": group["order"]} for game in group["completions"]]
        rows.append({"id": group["id"], "matches": [{"games": games}]})
    return rows


def main(pairs, *named):
    by_id, rows = {pair.id: pair for pair in labelled_pairs(pairs)}, []
    for name, path in named_paths(named).items():
        games = defaultdict(list)
        for row in rollout_rows(path) if path.endswith(".jsonl") else forced_rows(path):
            pair = by_id.get(row["id"])  # None: a game of another set
            for game in game_rows(pair, row) if pair else ():
                games[game["kind"]].append(game)
        if not games:
            raise BadInput(f"{path}: has no game of a pair in {pairs}: give its test file")
        for kind in KINDS:
            if games[kind]:
                shares = (mean(game[key] for game in games[kind]) for key in ("right", "read"))
                rows.append([name, kind, len(games[kind]), *(f"{share:.3f}" for share in shares)])
    print(markdown_table(["judge", "own result is that of", "games", "right", "read"], rows))


if __name__ == "__main__":
    command(main)
