"""Accuracy against the number of votes, from one evaluation with `--num_votes N`.

    python runs/qwen/votes.py test_pairs.jsonl trained=out/qwen/votes/results.json

The file may be gzipped. A verdict by force (forced.py) is no vote.

N games of each order are cut into N / k blocks of k. Each block decides its pair by the majority of
its 2 k votes. Of a tie half counts as right. `verdicts` counts the verdicts, and `own results`
counts whose result each game states as its own. The differences are to one vote in each order.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from chains import number, own_result, result_of  # noqa: E402
from measures import (  # noqa: E402
    accuracy,
    as_text,
    command,
    difference,
    grid,
    labelled_pairs,
    markdown_table,
    mean,
    named_paths,
    result_rows,
)

from cli import BadInput  # noqa: E402
from verdicts import vote_of  # noqa: E402


def votes_of(pair, games):
    """For each order (the first games, then the swapped ones): 1 for a right vote, -1, or 0."""
    results = [number(result_of(answer)) for answer in pair.answers]
    right, wrong = results[pair.label], results[1 - pair.label]
    by_verdict, by_result = {}, {}
    for game in games:
        order = tuple(game["order"])
        vote = None if game.get("forced") else vote_of(game)
        verdict = {pair.label: 1, 1 - pair.label: -1}.get(vote, 0)
        result = {right: 1, wrong: -1}.get(own_result(game["text"]), 0)
        by_verdict.setdefault(order, []).append(verdict)
        by_result.setdefault(order, []).append(result)
    return list(by_verdict.values()), list(by_result.values())


def shares_right(votes_of_pairs, size):
    """A grid: for each pair the share of its blocks that the right answer wins."""
    rows = []
    for index, votes in enumerate(votes_of_pairs):
        starts = range(0, len(votes[0]), size)
        sums = [sum(sum(order[start : start + size]) for order in votes) for start in starts]
        right = mean(0.5 if total == 0 else total > 0 for total in sums)
        rows.append({"pair": index, "right": right})
    return grid([rows], "right", "pair")


def main(pairs, *named):
    by_id, table = {pair.id: pair for pair in labelled_pairs(pairs)}, []
    for name, path in named_paths(named).items():
        rows = [row for row in result_rows(path) if row["id"] in by_id]
        if not rows:
            raise BadInput(f"{path}: has no pair of {pairs}: give its test file")
        games = [votes_of(by_id[row["id"]], row["matches"][0]["games"]) for row in rows]
        counts = {len(votes) for by_verdict, _ in games for votes in by_verdict}
        if len(counts) != 1:
            raise BadInput(f"{path}: has pairs with unlike numbers of votes: {sorted(counts)}")
        count = counts.pop()
        for size in (size for size in (1, 2, 4, 8, 16) if count % size == 0):
            texts = []
            for kind in zip(*games):
                cells, one = (shares_right(kind, votes_each) for votes_each in (size, 1))
                texts += [as_text(accuracy(cells)), as_text(difference(cells, one))]
            table.append([name, len(rows), size, *texts])
    columns = "judge", "pairs", "votes each", "verdicts", "gain", "own results", "gain"
    print(markdown_table(columns, table))


if __name__ == "__main__":
    command(main)
