"""Runs a judge over labelled answers, or scores stored verdicts; accuracy with intervals.

    python evaluate.py --benchmark pairs --data pairs.jsonl --model MODEL --output_dir out/pairs
    python evaluate.py --benchmark judgebench --data gpt-4o.jsonl --predictions judged.jsonl
    python evaluate.py --benchmark gsm8k_solutions --data solutions.jsonl --strategy knockout
    python evaluate.py --benchmark gsm8k_solutions --data solutions.jsonl --sweep "num_votes=1,4"
    python evaluate.py --predictions out/new/results.json --compare out/old/results.json

Every pair is judged in both orders. OUTPUT_DIR/results.json holds all settings, the numbers and one
row an item with its games. A killed evaluation goes on where it stopped and ends with the same
file. Intervals come from a bootstrap over questions, because pairs of one question are not
independent. A missing verdict is never right. A knockout decides drawn matches by a coin, so the
share of such matches is reported with the result.
"""

import functools
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, Optional

import cli
from cli import BadInput, setting
from extras.agreement import agreement, show_agreement
from extras.benchmarks import BENCHMARKS, GROUP_OF, load
from extras.items import tied_games
from extras.predictions import match_predictions, read_predictions
from extras.rank_file import rank_together
from extras.results import (
    check_out,
    check_writable,
    head_of,
    judged_rows,
    read_result,
    results_file,
    write_pairs,
    write_results,
)
from extras.scoring import BASELINES, OUTCOMES, compared, share, summarise
from judge import JudgeSettings, check_judge, judge_of, refuse_copies
from seeding import uniform
from verdicts import BOTH_ORDERS

CHUNK_ITEMS = 32  # judged together and written together
OFFICIAL = tuple(GROUP_OF)
# Sets of N answers, among which any schedule of matches may choose; the others fix their pairs.
BEST_OF_N = "gsm8k_solutions", "ppe", "rewardbench2", "pairs"
WITH_GAMES = "random", "halving", "leaders", "swiss"  # schedules of --games matches
STRATEGIES = "pairs", "knockout", "elo", *WITH_GAMES
# What --predictions leaves to choose: for a results.json, and for verdicts of any other form
FOR_RESULTS = "predictions", "benchmark", "compare", "out", "json"
FOR_VERDICTS = *FOR_RESULTS, "data", "limit", "seed", "output_dir"
ROW = {"id", "question", "group", "scores", "lengths", "matches"}


@dataclass
class Settings(JudgeSettings):
    benchmark: Optional[str] = setting(
        None,
        f"pairs (any set of pairs, or questions with candidates and scores), or one of "
        f"{', '.join(OFFICIAL)}",
        group="what to evaluate",
    )
    data: Optional[str] = setting(
        None, "its official files (paths joined by commas), or a hub name"
    )
    predictions: Optional[str] = setting(
        None,
        "instead of running a model: a results.json, the --out of judge.py, rows {id, winner: a | "
        "b | tie | null} or {id, scores}, or verdicts of JudgeBench or PandaLM",
    )
    strategy: Literal["auto", *STRATEGIES] = setting(
        "auto",
        "matches among N answers; pairs: each better against each worse one, elo: all; auto: elo "
        "for gsm8k_solutions and rewardbench2, else pairs",
        group="how to judge",
    )
    games: Optional[int] = setting(
        None, "matches an item, for random to swiss; default: 3 an answer"
    )
    one_order: bool = setting(False, "judge in one order, chosen by the pair's id, instead of both")
    force_verdict: bool = setting(
        False, "close the thinking of truncated completions, take the likelier verdict"
    )
    confidence: bool = setting(False, "also read the probability of the verdict's token")
    limit: Optional[int] = setting(
        None, "this many items, drawn by a hash of seed and id", group="run"
    )
    output_dir: Optional[str] = setting(
        None, "folder of results.json; default: a new one under out/"
    )
    out: Optional[str] = setting(
        None,
        "a row a pair, with winner and outcome; with --sweep a row an evaluation: x.csv is a "
        "spreadsheet, else JSON lines",
    )
    compare: Optional[str] = setting(
        None, "an earlier results.json: differences on their common items"
    )
    sweep: Optional[str] = setting(
        None,
        'an evaluation for each combination: "num_votes=1,4 strategy=knockout,elo"',
    )
    json: bool = setting(False, "print the numbers as one JSON object")


# ---- rows from a judge ----


def play_item(item, settings, judge):
    """The row of an item. judge.judge(pairs): the games of each pair."""
    from ranking import cached
    from schedules import run_schedule
    from tournament import knockout

    played, size = [], len(item.answers)

    def play_matches(pairs, repetitions):
        if any(repetitions):
            refuse_copies("a match that is played again", settings.temperature)
        matches, to_judge = [], []
        for (i, j), repetition in zip(pairs, repetitions):
            match = {"pair": [i, j], "games": []}
            matches.append(match)
            if item.same_text(i, j):
                match["games"] = tied_games(BOTH_ORDERS[: 1 if settings.one_order else 2])
            else:
                to_judge.append((match, item.pair(i, j, repetition)))
        if to_judge:
            judged = judge.judge([pair for _, pair in to_judge])
            for (match, _), games in zip(to_judge, judged):
                match["games"] = games
        played.extend(matches)
        return [share(match) for match in matches]

    # A match always goes in one direction, the better answer first as in Item.matches.
    best_first = sorted(range(size), key=lambda player: (-item.scores[player], player))
    names = [f"{best_first.index(player):9}" for player in range(size)]
    play = cached(play_matches, None, names)
    seed = int(uniform(f"schedule:{settings.seed}:{item.id}") * 2**53)
    winner = None
    if settings.strategy == "pairs":
        play_matches(item.matches, [0] * len(item.matches))
    elif settings.strategy == "knockout":
        winner = knockout(size, play, seed).winner
    else:
        schedule = "full" if settings.strategy == "elo" else settings.strategy
        run_schedule(size, play, schedule, settings.games, seed)
    return row_of(item, played) | {"ranked": settings.strategy != "pairs", "pick": winner}


def row_of(item, matches):
    return {
        "id": item.id,
        "question": hashlib.sha256(item.question.encode()).hexdigest()[:16],
        "group": item.group,
        "scores": [float(score) for score in item.scores],
        "lengths": [len(answer) for answer in item.answers],
        "ranked": False,
        "pick": None,
        "matches": matches,
    }


def judge_items(items, settings, judge):
    """The rows of some items. The matches that all of them wait for are judged together."""
    judge.seed = settings.seed  # a sweep may change it
    shared = SimpleNamespace(judge=lambda pairs: play_games(pairs, settings, judge))
    tasks = [functools.partial(play_item, item, settings) for item in items]
    return rank_together(tasks, lambda: shared)


def play_games(pairs, settings, judge):
    """The games of each pair, as lists of dicts."""
    judgments = judge.judge(
        pairs,
        settings.num_votes,
        not settings.one_order,
        settings.temperature,
        settings.max_completion_length,
    )
    games = [judgment.games for judgment in judgments]
    if settings.force_verdict or settings.confidence:
        from extras.forced_verdicts import read_verdicts  # imports torch

        flat = [(pair, game) for pair, own in zip(pairs, games) for game in own]
        read_verdicts(judge, flat, settings)
    return games


def evaluate(settings, load_judge):
    """One evaluation -> (its numbers, its rows), written to OUTPUT_DIR/results.json at the end."""
    items = load(settings.benchmark, settings.data, settings.limit, settings.seed)
    head = head_of(settings, items)
    if settings.predictions:
        rows = predicted_rows(settings.predictions, items, settings.benchmark)
    else:
        rows = judged_rows(settings, items, head, CHUNK_ITEMS, load_judge, judge_items)
    result = numbers_of(settings.benchmark, rows)
    if settings.output_dir:
        write_results(Path(settings.output_dir) / "results.json", head, result, rows)
    return result, rows


def predicted_rows(path, items, benchmark="pairs"):
    """The rows of stored verdicts, in our own form or in that of a benchmark's authors."""
    rows = []
    for item, matches, ratings in match_predictions(path, read_predictions(path, benchmark), items):
        row = row_of(item, matches)
        if ratings is not None:
            row |= {"values": ratings, "ranked": len(ratings) > 2}
        rows.append(row)
    return rows


def numbers_of(benchmark, rows):
    return summarise(BENCHMARKS[benchmark], rows) | {"agreement": agreement(rows)}


# ---- command line ----


def check(settings):
    """Checks settings before torch is imported, and fills in those that depend on others."""
    if settings.benchmark not in ("pairs", *OFFICIAL):
        problem = "is missing" if settings.benchmark is None else f"{settings.benchmark!r} is none"
        raise BadInput(
            f"--benchmark: {problem}: choose one of {', '.join(OFFICIAL)}, or pairs for any "
            "preference set"
        )
    if not settings.data:
        raise BadInput("--data is missing: give the official files of the benchmark")
    if settings.strategy == "auto":
        plays_all = settings.benchmark in ("gsm8k_solutions", "rewardbench2")
        settings.strategy = "elo" if plays_all and not settings.predictions else "pairs"
    if settings.strategy not in STRATEGIES:  # --sweep may have set it
        raise BadInput(
            f"--strategy: {settings.strategy!r} is none: choose one of {', '.join(STRATEGIES)}"
        )
    if settings.strategy != "pairs" and settings.benchmark not in BEST_OF_N:
        raise BadInput(
            f"--strategy {settings.strategy}: is for sets of N answers, {', '.join(BEST_OF_N)}: "
            f"{settings.benchmark} fixes its pairs"
        )
    takes_games = settings.strategy in WITH_GAMES
    if settings.games is not None and (settings.games < 1 or not takes_games):
        raise BadInput(
            "--games: must be at least 1, and goes with --strategy random, halving, leaders or "
            "swiss"
        )
    if settings.base_url and (settings.force_verdict or settings.confidence):
        raise BadInput(
            "--force_verdict and --confidence read the probabilities of a local model: leave out "
            "--base_url"
        )
    if settings.output_dir is None and settings.predictions is None:
        settings.output_dir = f"out/{settings.benchmark}-{time.strftime('%Y%m%d-%H%M%S')}"
    check_writable(settings.output_dir or "")
    if settings.predictions is None:
        check_judge(settings)
    return settings


def refuse_unused(argv, settings, used):
    """BadInput for a flag that --predictions makes useless: no model runs, no match is chosen."""
    for argument in argv:
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        if argument.startswith("--") and hasattr(settings, name) and name not in used:
            raise BadInput(
                f"--predictions: {settings.predictions} is scored as it is: leave out --{name}"
            )


def read_evaluation(path, flag, benchmark):
    """A results.json as a dict, or None for another kind of file. Raises BadInput."""
    found = read_result(path, flag, benchmark)
    if found is None:
        return None
    name, problem = found["settings"].get("benchmark"), None
    if str(name) not in BENCHMARKS:
        problem = f"is of benchmark {name!r:.80}, which is none"
    if not found["rows"]:
        problem = "has no rows"
    for number, row in enumerate(found["rows"], start=1):
        if not isinstance(row, dict) or not row.keys() >= ROW:
            problem = problem or f"row {number} lacks fields of an evaluation"
    if problem:
        raise BadInput(f"{flag}: {path} {problem}: give a results.json that evaluate.py wrote")
    return found


def shown(name, value):
    """A number as tables show it: shares in percent, others (Brier scores, counts) as they are."""
    if is_share(name):
        return f"{value * 100:7.2f}"
    return f"{value:7.3f}" if "Brier" in name else f"{value:7.2f}"


def is_share(name):
    return "Brier" not in name and not name.endswith("an item")


def show(result, percent="%"):
    """Prints values with their denominators and intervals, and trivial judges where there are."""
    kinds = list(BASELINES) if "baselines" in result else []
    titles = {"rule": f"rule of {result['benchmark']}", "protocol": "pairs with a better answer"}
    for part, title in titles.items():
        heads = "  ".join(f"{kind:>8}" for kind in kinds)
        print(f"{title:34} {'n':>6}   value    95 % interval      {heads}")
        unknown = []
        for name, value in result[part].items():
            if name in OUTCOMES:
                continue
            if value is None:
                unknown += [name] if part == "rule" else []
                continue
            middle, low, high = (shown(name, number) for number in value)
            columns = []
            if part == "rule" or name == "accuracy":
                for kind in kinds:
                    trivial = result["baselines"][kind].get(name)
                    columns.append("-" if trivial is None else shown(name, trivial))
            trivials = "  ".join(f"{column:>8}" for column in columns)
            number = result.get("counts", {}).get(part, {}).get(name, result["items"])
            name = cli.visible(name)
            unit = percent if is_share(name) else " " * len(percent)
            print(f"{name:34} {number:6} {middle} {unit}{low} ...{high} {unit}  {trivials}")
        if unknown:
            print(f"unknown (rows or matches are missing, or all are ties): {', '.join(unknown)}")
        print()
    if "outcomes" not in result:
        print(f"{result['items']} items")
        return
    outcomes = ", ".join(f"{count} {name}" for name, count in result["outcomes"].items())
    forced = f" ({result['forced']} games by force)" if result.get("forced") else ""
    print(f"{result['items']} items of {result['questions']} questions; pairs: {outcomes}{forced}")
    print("n: the items, pairs or games of a mean; all items where a number joins several means\n")
    show_agreement(result["agreement"])


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    settings = cli.parse_settings(Settings, argv, description=__doc__)
    for name in ("predictions", "compare"):
        if getattr(settings, name):
            setattr(settings, name, results_file(getattr(settings, name)))
    check_out(settings)
    earlier = other = None
    if settings.predictions:
        earlier = read_evaluation(settings.predictions, "--predictions", settings.benchmark)
        refuse_unused(argv, settings, FOR_RESULTS if earlier else FOR_VERDICTS)
    if earlier:
        settings.benchmark = earlier["settings"]["benchmark"]
    if settings.compare and settings.sweep:
        raise BadInput("--compare: does not go with --sweep: compare its results.json afterwards")
    if settings.compare:
        other = read_evaluation(settings.compare, "--compare", settings.benchmark)
        if other is None:
            raise BadInput(f"--compare: {settings.compare} is no results.json of this command")
    load_judge = functools.cache(lambda: judge_of(settings))
    if settings.sweep is not None:
        from extras.sweep import run_sweep  # which imports this file

        run_sweep(check(settings), load_judge)
        return
    if earlier:
        rows = earlier["rows"]
        result = numbers_of(settings.benchmark, rows)
    else:
        result, rows = evaluate(check(settings), load_judge)
    if other:
        differences = compared(BENCHMARKS[settings.benchmark], rows, other["rows"])
        result["compared"] = {"benchmark": settings.benchmark} | differences
    if settings.out:
        write_pairs(settings.out, rows)
    if settings.json:
        print(json.dumps(result, allow_nan=False))
        return
    show(result)
    if other:
        own = settings.predictions if earlier else settings.output_dir or settings.predictions
        print(f"\nDifferences: {own} minus {settings.compare}; points are percentage points\n")
        show(result["compared"], "points")
