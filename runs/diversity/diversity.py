"""Does training make all thinking the same? Traces of a base and of its checkpoints, on the same held-out pairs.

    python runs/diversity/diversity.py --run out/default-0                       writes traces.md beside itself
    python runs/diversity/diversity.py --run out/judge --data pairs.jsonl --pairs 50 --samples 10 --max_completion_length 2048 --out traces.md

The model that the run began with, its middle and its last checkpoint judge the same pairs in one order, `samples` times each at temperature 1. Traces of one pair are
compared with each other, never with those of another: distance is 1 minus the share of words in common, in order (difflib). Traces closer than `near` to
any of a cluster belong to it. Moves are counted by words: of prose those of MOVES, in the embedded world the steps of its working. Intervals
are 95 % bootstrap over pairs.
"""

import difflib
import re
import sys
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Optional

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import cli  # noqa: E402
from cli import BadInput, setting  # noqa: E402
from data import load_pairs
from judge import Judge  # noqa: E402
from seeding import uniform  # noqa: E402
from verdicts import vote_of  # noqa: E402

MOVES = {  # how often a trace turns to something else, doubts itself, sets the answers beside each other, takes the task apart
    "transition": r"\b(however|alternatively|on the other hand|next|now|moving on|turning to)\b",
    "reflection": r"\b(wait|hmm|actually|let me (re-?)?(check|think|read)|double-check|on second thought|re-?examine|re-?consider)\b",
    "comparison": r"\b(compar\w+|whereas|while (assistant|answer|response)|better than|worse than|both (assistants|answers|responses)|difference between)\b",
    "breakdown": r"\b(step by step|first(ly)?,|second(ly)?,|finally,|break (it|this) down|criteri\w+)|^\s*(\d+\.|[-*]) ",
}
TINY_MOVES = {  # the working of tiny/world.py has neither of the first two
    "comparison": r"\d[yn]\d[yn]|\bfirst [\w ]+? [yn]\d+ second",
    "breakdown": r"\b(ones|tens|hundreds|thousands|myriads|has|no|starts|ends|max|lower)\b",
}


@dataclass
class Settings:
    run: Optional[str] = setting(
        None, "the folder of a run of train_grpo.py with at least two checkpoints"
    )
    data: str = setting("tiny/test.jsonl", "held-out pairs")
    pairs: int = setting(50, "pairs, drawn by a hash of their ids")
    samples: int = setting(10, "traces of each pair")
    max_completion_length: int = setting(96, "tokens of a trace at most")
    near: float = setting(0.2, "traces of at most this distance belong together")
    seed: int = setting(0, "of the draws")
    out: Optional[str] = setting(None, "the table; default: traces.md beside this file")


def distance(first, second):
    """0 for the same words in the same order, 1 for none in common; texts are lists of words."""
    return 1 - difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()


def clusters(distances, near):
    """Numbers of clusters, the largest one is 0, of a symmetric (n, n) table: whoever is near to one of a cluster belongs to it."""
    labels = np.arange(len(distances))
    for i, j in zip(*np.nonzero(distances <= near)):
        labels[labels == labels[i]] = labels[j]
    _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return np.argsort(np.argsort(-counts, kind="stable"))[labels]


def measures(texts, right, moves, near):
    """{name: (sum, count)} of the traces of one pair."""
    words, size = [text.split() for text in texts], len(texts)
    distances = np.zeros((size, size))
    for i, j in combinations(range(size), 2):
        distances[i, j] = distances[j, i] = distance(words[i], words[j])
    labels = clusters(distances, near)
    found = {
        "right": (sum(right), size),
        "words": (sum(map(len, words)), size),
        "mean distance": (distances.sum() / (size * (size - 1)), 1),
        "different texts": (len(set(texts)), 1),
        "clusters": (labels.max() + 1, 1),
        "share of the largest": ((labels == 0).sum(), size),
        "right in the largest": (right[labels == 0].sum(), (labels == 0).sum()),
        "right in the second": (right[labels == 1].sum(), (labels == 1).sum()),
        "right in the others": (right[labels > 1].sum(), (labels > 1).sum()),
    }
    return found | {
        move: (sum(len(re.findall(pattern, text, re.I | re.M)) for text in texts), size)
        for move, pattern in moves.items()
    }


def traced(model, pairs, settings):
    """[(texts, right or not)] of each pair: what the judge writes before its verdict."""
    judge = Judge(model, style=None, seed=settings.seed)
    judgments = judge.judge(
        pairs,
        settings.samples,
        both_orders=False,
        temperature=1.0,
        max_completion_length=settings.max_completion_length,
    )
    return [
        (
            [game["text"] for game in judgment.games],
            np.array([vote_of(game) == pair.label for game in judgment.games]),
        )
        for pair, judgment in zip(pairs, judgments)
    ], judge.style.name


def models_of(run):
    """{name: folder} of what the run began with, its middle and its last checkpoint."""
    config = cli.parse_json(
        cli.read_text(Path(run) / "config.json", "--run"), Path(run) / "config.json"
    )
    saved = sorted(Path(run).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    if len(saved) < 2 or "settings" not in config:
        raise BadInput(
            f"--run: {run} has {len(saved)} checkpoints: give the folder of a run of train_grpo.py with two at least"
        )
    start = config["settings"]["model"]
    return {f"before ({Path(start).name})": start} | {
        path.name: path for path in (saved[(len(saved) - 1) // 2], saved[-1])
    }


def cell(parts, name, rng):
    """A mean with its interval; parts: [(sum, count)] a pair."""
    sums, counts = (np.array(column, float) for column in zip(*(part[name] for part in parts)))
    if not counts.sum():
        return "-"
    drawn = rng.integers(len(parts), size=(1000, len(parts)))
    with np.errstate(invalid="ignore"):
        low, high = np.nanquantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
    return f"{sums.sum() / counts.sum():.3f} [{low:.3f}, {high:.3f}]"


def main(argv=None):
    settings = cli.parse_settings(Settings, argv, description=__doc__)
    if settings.run is None:
        raise BadInput("--run is missing: give the folder of a run")
    if settings.pairs < 2 or settings.samples < 2:
        raise BadInput("--pairs, --samples: distances need two or more")
    pairs = sorted(
        load_pairs(settings.data), key=lambda pair: uniform(f"traces:{settings.seed}:{pair.id}")
    )[: settings.pairs]
    columns = {}
    for name, model in models_of(settings.run).items():
        found, style = traced(str(model), pairs, settings)
        columns[name] = [
            measures(texts, right, TINY_MOVES if style == "tiny" else MOVES, settings.near)
            for texts, right in found
        ]
    lines = [
        f"| {len(pairs)} pairs x {settings.samples} traces | " + " | ".join(columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for row in next(iter(columns.values()))[0]:
        lines.append(
            f"| {row} | "
            + " | ".join(cell(parts, row, np.random.default_rng(0)) for parts in columns.values())
            + " |"
        )
    text = "\n".join(lines) + "\n"
    Path(settings.out or HERE / "traces.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    cli.run(main)
