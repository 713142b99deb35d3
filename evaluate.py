"""Runs a judge over a benchmark, or scores what a judge has said before: per-item rows, the benchmark's own rule, and what stands beside it.

    python evaluate.py --benchmark gsm8k_solutions --data model_solutions.jsonl --model MODEL --output_dir out/gsm8k
    python evaluate.py --benchmark judgebench --data gpt-4o.jsonl --predictions judged.jsonl         no model: judge.py --out, or another tool's
    python evaluate.py --benchmark gsm8k_solutions --data model_solutions.jsonl --strategy knockout --num_votes 4
    python evaluate.py --benchmark gsm8k_solutions --data model_solutions.jsonl --sweep "strategy=knockout,elo num_votes=1,4"
    python evaluate.py --predictions out/new/results.json --compare out/old/results.json

Every pair is judged in both orders. OUTPUT_DIR/results.json holds all settings, the numbers and one row an item with its games; a killed
evaluation goes on where it was (chunks are cut by position in the data) and ends with the same file. Intervals come from a bootstrap
over questions: pairs of one question are not independent. A verdict that is missing is never right. In a knockout a match without a winner is
decided by a coin: one sample of what the judge leaves to chance, so the share of such matches stands beside the result.
"""

import functools
import hashlib
import itertools
import json
import os
import platform
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Optional

import cli
from benchmarks import BEST_OF_N, GROUPS, load, share
from cli import BadInput, note, note_every, setting
from data import ENDING, file_rows
from early_stopping import STOP_HELP, STOPS, spending
from judge import JudgeSettings, check_judge, judge_of
from protocol import compared, show, show_sweep, summarise
from runlog import check_same, sole_writer
from seeding import uniform
from verdicts import BOTH_ORDERS, VERDICTS, find_verdicts

CHUNK_ITEMS = 32  # judged together and written together
SCHEDULES = {
    "elo": "full",
    "random": "random",
    "halving": "halving",
    "leaders": "leaders",
    "swiss": "swiss",
}
SWEPT = {
    "num_votes": int,
    "max_completion_length": int,
    "temperature": float,
    "games": int,
    "seed": int,
    "strategy": str,
    "stop": str,
}
FREE = "output_dir", "json", "compare", "sweep"  # settings that change no row


@dataclass
class Settings(JudgeSettings):
    benchmark: Optional[str] = setting(
        None,
        f"one of {', '.join(GROUPS)}; pairs = any preference set, or questions with candidates and scores",
        group="what to evaluate",
    )
    data: Optional[str] = setting(
        None, "its official files (paths joined by commas), or a hub name"
    )
    predictions: Optional[str] = setting(
        None,
        "score these instead of a model: a results.json, the --out of judge.py, JudgeBench's judgments, "
        "PandaLM's verdict file, or rows {id, winner: a | b | tie | null}",
    )
    strategy: Literal["auto", "pairs", "knockout", *SCHEDULES] = setting(
        "auto",
        "which matches to play among N answers: pairs = each better against each worse one, elo = all against all, the others "
        "as in tournament.py and elo.py; auto: elo for gsm8k_solutions and rewardbench2, else pairs",
        group="how to judge",
    )
    games: Optional[int] = setting(
        None, "matches an item, for random, halving, leaders and swiss; default: 3 for each answer"
    )
    stop: Literal[tuple(STOPS)] = setting("never", STOP_HELP)
    one_order: bool = setting(False, "judge in one order, chosen by the pair's id, instead of both")
    force_verdict: bool = setting(
        False,
        "budget forcing: close the thinking of truncated completions and take the likelier verdict",
    )
    confidence: bool = setting(
        False,
        "read the verdict token's probability after the thinking: one more pass over every completion",
    )
    limit: Optional[int] = setting(
        None, "this many items, drawn by a hash of seed and id", group="run"
    )
    output_dir: Optional[str] = setting(
        None,
        "where results.json goes; default: new each time, under out/ (with --predictions: nowhere)",
    )
    compare: Optional[str] = setting(
        None,
        "an earlier results.json of the same benchmark: differences on the items that both have",
    )
    sweep: Optional[str] = setting(
        None,
        f'an evaluation for each combination of values, accuracy against tokens: "num_votes=1,4 '
        f'strategy=knockout,elo" ({", ".join(SWEPT)})',
    )
    json: bool = setting(False, "print the numbers as one JSON object")


# ---- rows from a model ----


class Unknown(Exception):
    """Matches that a schedule asks for and that nobody has judged yet."""


def play_item(item, settings, known):
    """Plays an item's matches as far as `known`, {(item id, i, j, repetition): games}, goes -> row; raises Unknown with the next ones."""
    from elo import run_schedule
    from tournament import cached, knockout

    played, size = [], len(item.answers)

    def look_up(pairs, repetitions):
        keys = [(item.id, *pair, repetition) for pair, repetition in zip(pairs, repetitions)]
        if missing := [key for key in keys if key not in known]:
            raise Unknown(missing)
        new = [{"pair": list(key[1:3]), "games": known[key]} for key in keys]
        played.extend(new)
        return [share(match) for match in new]

    order = sorted(
        range(size), key=lambda player: (-item.scores[player], player)
    )  # one direction, that of Item.matches, whichever is asked for
    play = cached(look_up, None, [f"{order.index(player):9}" for player in range(size)])
    pick, seed = None, int(uniform(f"schedule:{settings.seed}:{item.id}") * 2**53)
    if settings.strategy == "pairs":
        look_up(item.matches, [0] * len(item.matches))
    elif settings.strategy == "knockout":
        pick = knockout(size, play, seed).winner
    else:
        run_schedule(size, play, SCHEDULES[settings.strategy], settings.games, seed)
    return row_of(item, played) | {"ranked": settings.strategy != "pairs", "pick": pick}


def row_of(item, matches):
    question = hashlib.sha256(item.question.encode()).hexdigest()[:16]
    return {
        "id": item.id,
        "question": question,
        "group": item.group,
        "scores": [float(score) for score in item.scores],
        "lengths": [len(answer) for answer in item.answers],
        "ranked": False,
        "pick": None,
        "matches": matches,
    }


def judge_items(items, settings, judge):
    """The rows of some items. Schedules are played from the start again whenever the matches that they wait for are judged, those of all
    items at once."""
    known, rows, by_id = {}, {}, {item.id: item for item in items}
    options = (
        settings.num_votes,
        not settings.one_order,
        settings.temperature,
        settings.max_completion_length,
        settings.stop,
    )
    while len(rows) < len(items):
        wanted = []
        for item in items:
            try:
                rows.update({} if item.id in rows else {item.id: play_item(item, settings, known)})
            except Unknown as unknown:
                wanted += unknown.args[0]
        pairs = [by_id[name].pair(*match) for name, *match in wanted]
        judgments = judge.judge(pairs, *options) if pairs else []
        known.update((key, judgment.games) for key, judgment in zip(wanted, judgments))
        if settings.force_verdict or settings.confidence:
            read_verdicts(
                judge,
                [
                    (pair, game)
                    for pair, judgment in zip(pairs, judgments)
                    for game in judgment.games
                ],
                settings,
            )
    return [rows[item.id] for item in items]


def read_verdicts(judge, games, settings):
    """Adds p_verdict to games [(Pair, game)]: with both verdicts written where the completion has its own, the first one's share of their
    probability. With force_verdict truncated games get it too, behind their closed thinking: the likelier verdict, `forced`."""
    import torch

    from chat import opens_think
    from model import pack_groups
    from sampler import batches_by_length

    tokenizer, rule, groups, read = judge.tokenizer, judge.style.verdict, [], []
    for pair, game in games:
        if game["tokens"] and (
            game["status"] == "valid" or settings.force_verdict and game["status"] == "truncated"
        ):  # 0: beyond the context
            prompt, text = (
                judge.encode(pair, game["order"], settings.max_completion_length),
                game["text"],
            )
            ending = "\n</think>\n\n" if text.rfind("<think>") > text.rfind("</think>") else "\n\n"
            text = (
                text[: find_verdicts(text, rule)[0][0]]
                if game["status"] == "valid"
                else text + ending
            )
            text = text.removeprefix("<think>") if opens_think(tokenizer, prompt) else text
            both = [
                tokenizer(text + verdict, add_special_tokens=False)["input_ids"]
                for verdict in VERDICTS[rule]
            ]
            same = next(place for place, (a, b) in enumerate(zip(*both)) if a != b)
            groups.append((prompt + both[0][:same], [[both[0][same]], [both[1][same]]]))
            read.append(game)
    for batch in batches_by_length(range(len(groups)), [prefix for prefix, _ in groups], 8192):
        pack = pack_groups([groups[index] for index in batch], judge.model.device)
        with torch.inference_mode():
            logprobs, _ = judge.model.logprobs(pack)
        for index, probability in zip(batch, logprobs.view(-1, 2).softmax(dim=1)[:, 0].tolist()):
            read[index]["p_verdict"] = round(probability, 6)
            if read[index]["status"] == "truncated":
                read[index].update(
                    verdict=1 if probability >= 0.5 else 2, status="valid", forced=True
                )


def head_of(settings, items):
    """What the rows of a results.json depend on: settings, and a hash of the data."""
    content = json.dumps(
        [(item.id, item.messages, item.answers, item.scores, item.matches) for item in items]
    )
    kept = {name: value for name, value in asdict(settings).items() if name not in FREE}
    return {"settings": kept, "data": hashlib.sha256(content.encode()).hexdigest()}


def judged_rows(settings, items, head, load_judge):
    """The rows of all items: whole chunks that OUTPUT_DIR has, the others from the judge."""
    path = Path(settings.output_dir) / "rows.jsonl"
    rows = earlier_rows(path, head)
    if len(rows) == len(items):
        return rows
    rows = rows[: len(rows) - len(rows) % CHUNK_ITEMS]
    note(
        f"{path.parent}: {len(rows)} of {len(items)} items are judged already"
        if rows
        else f"{len(items)} items to judge"
    )
    judge, started, say = load_judge(), time.perf_counter(), note_every(30)
    judge.seed = settings.seed  # a sweep may change it
    with sole_writer(path.parent):
        partial = path.with_suffix(".partial")  # a kill here leaves the rows that there were
        partial.write_text("".join(as_line(row) + "\n" for row in (head, *rows)), encoding="utf-8")
        partial.replace(path)
        with open(path, "a", encoding="utf-8") as file:
            for start in range(len(rows), len(items), CHUNK_ITEMS):
                rows += (new := judge_items(items[start : start + CHUNK_ITEMS], settings, judge))
                file.writelines(as_line(row) + "\n" for row in new)
                file.flush()
                os.fsync(file.fileno())
                say(
                    f"{len(rows)} of {len(items)} items judged, {time.perf_counter() - started:.0f} s"
                )
    note(f"{len(items)} items, {time.perf_counter() - started:.0f} s")
    return rows


def as_line(row):
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def earlier_rows(path, head):
    """Rows that an earlier call has left. BadInput where they are of other settings or data, or the folder is of something else."""
    before, rows, folder = head, [], path.parent
    if (whole := path.with_name("results.json")).exists():
        before = cli.parse_json(cli.read_text(whole, "--output_dir"), whole)
        rows = before.get("rows")
    elif path.exists():
        lines = cli.read_text(path, "--output_dir").split("\n")[:-1]  # the last one was cut off
        before, *rows = [
            cli.parse_json(line, f"{path} line {number}")
            for number, line in enumerate(lines, start=1)
        ] or [head]
    elif folder.exists() and any(path.suffix != ".partial" for path in folder.iterdir()):
        raise BadInput(
            f"--output_dir: {folder} holds other files: give the folder of an evaluation, or a new one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(before.get("settings"), dict) or not isinstance(rows, list):
        raise BadInput(
            f"--output_dir: {folder} was not written by this command: give another folder"
        )
    check_same(before["settings"], head["settings"], folder, "--output_dir")
    if before["data"] != head["data"]:
        raise BadInput(
            f"--data: the evaluation in {folder} judged other items: give another --output_dir"
        )
    return rows


# ---- rows from predictions ----


def stored_game(order, said, words):
    """A game of another tool's judge: `words` are what it writes for the first place, the second, and a tie."""
    verdict = dict(zip(words, (1, 2, 0))).get(said if isinstance(said, str) else str(said))
    return {
        "order": order,
        "verdict": verdict or None,
        "status": {None: "unparsable", 0: "tie"}.get(verdict, "valid"),
    }


def games_said(row):
    """(id of a pair, its games) of one row of a predictions file; KeyError, TypeError or AttributeError for a row of no known form."""
    if (
        "judgments" in row
    ):  # JudgeBench: the second game has the answers swapped, and is stored as it was written
        decisions = zip(([0, 1], [1, 0]), row["judgments"])
        return row["pair_id"], [
            stored_game(order, one["decision"], ("A>B", "B>A", "A=B")) for order, one in decisions
        ]
    if "games" in row:  # judge.py --out
        for game in row["games"]:
            fits = {"valid": ("1", "2")}.get(game["status"], ("null",))
            if (
                game["order"] not in BOTH_ORDERS or json.dumps(game["verdict"]) not in fits
            ):  # 1.0 is no place
                raise KeyError("order, verdict, status")
        return row["id"], row["games"]
    if "winner" in row:
        return row["id"], [stored_game([0, 1], row["winner"], ("a", "b", "tie"))]
    verdict = next(
        value for key, value in row.items() if key.endswith("_result")
    )  # PandaLM and its peers
    return row["idx"], [stored_game([0, 1], verdict, ("1", "2", "0"))]


def predicted_rows(path, items):
    """Rows from what any judge has said, by the ids of pairs: see --predictions. A pair without a row counts as unparsable. Raises BadInput."""
    if not Path(path).is_file() or not ENDING.search(path):
        raise BadInput(f"--predictions: {path} is no .json or .jsonl file: check the path")
    said, rows, missing = {}, [], 0
    for place, row in file_rows(Path(path)):
        try:
            name, games = games_said(row)
        except (KeyError, TypeError, AttributeError, StopIteration) as error:
            raise BadInput(
                f"{path} {place}: no judgment that --predictions reads: expected id and winner (a, b, tie or null), or what judge.py "
                f"--out, JudgeBench and PandaLM write; this row has {', '.join(row)}"
            ) from error
        said[str(name)] = games or [stored_game([0, 1], None, ())]
    for item in items:
        names = [item.pair(*match).id for match in item.matches]
        missing += len(names) - sum(name in said for name in names)
        rows.append(
            row_of(
                item,
                [
                    {
                        "pair": list(match),
                        "games": said.get(name) or [stored_game([0, 1], None, ())],
                    }
                    for match, name in zip(item.matches, names)
                ],
            )
        )
    pairs = sum(len(item.matches) for item in items)
    if missing == pairs:
        first = next(iter(said), None)
        raise BadInput(
            f"--predictions: {path} has none of the pairs of --data (its first id: {first!r}): give files that belong together"
        )
    note(
        f"{path}: {pairs - missing} of {pairs} pairs have a prediction"
        + ", the others count as unparsable" * (missing > 0)
    )
    return rows


def read_result(path, flag, benchmark):
    """A results.json of this command, or None for another file; BadInput for one of another benchmark."""
    if not path.endswith(".json") or not cli.read_text(path, flag).startswith('{"settings"'):
        return None
    found = cli.parse_json(cli.read_text(path, flag), path)
    if not isinstance(found["settings"], dict) or not isinstance(found.get("rows"), list):
        raise BadInput(
            f"{flag}: {path} was not written by this command: give one of its results.json"
        )
    if benchmark not in (None, found["settings"].get("benchmark")):
        raise BadInput(
            f"{flag}: {path} is of --benchmark {found['settings'].get('benchmark')}, not {benchmark}: give results of one benchmark"
        )
    return found


# ---- command line ----


def check(settings):
    """All that can be wrong before torch is imported; fills in what depends on other settings."""
    if settings.benchmark not in GROUPS:
        problem = "is missing" if settings.benchmark is None else f"{settings.benchmark!r} is none"
        raise BadInput(
            f"--benchmark: {problem}: choose one of {', '.join(GROUPS)} (pairs: any preference set)"
        )
    if not settings.data:
        raise BadInput("--data is missing: give the official files of the benchmark")
    if settings.strategy == "auto":
        settings.strategy = (
            "elo"
            if settings.benchmark in ("gsm8k_solutions", "rewardbench2")
            and not settings.predictions
            else "pairs"
        )
    for name, known in (
        ("strategy", ("pairs", "knockout", *SCHEDULES)),
        ("stop", STOPS),
    ):  # --sweep may have set them
        if getattr(settings, name) not in known:
            raise BadInput(
                f"--{name}: {getattr(settings, name)!r} is none: choose one of {', '.join(known)}"
            )
    if settings.strategy != "pairs" and settings.benchmark not in BEST_OF_N:
        raise BadInput(
            f"--strategy {settings.strategy}: is for sets of N answers, {', '.join(BEST_OF_N)}: {settings.benchmark} fixes its pairs"
        )
    if settings.games is not None and (
        settings.games < 1 or settings.strategy in ("pairs", "knockout", "elo")
    ):
        raise BadInput(
            "--games: must be at least 1, and goes with --strategy random, halving, leaders or swiss"
        )
    if settings.predictions and (settings.sweep or settings.strategy != "pairs"):
        raise BadInput(
            "--predictions are of the pairs that the benchmark fixes: leave out --sweep and --strategy"
        )
    if settings.base_url and (settings.force_verdict or settings.confidence):
        raise BadInput(
            "--force_verdict and --confidence read the probabilities of a local model: leave out --base_url"
        )
    settings.output_dir = (
        settings.output_dir
        or f"out/{settings.benchmark}-{time.strftime('%Y%m%d-%H%M%S')}"
        * (settings.predictions is None)
    )
    parent = next(
        path
        for path in (
            Path(settings.output_dir).absolute(),
            *Path(settings.output_dir).absolute().parents,
        )
        if path.exists()
    )
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise BadInput(f"--output_dir: {parent} cannot hold results: give another folder")
    if settings.predictions is None:
        check_judge(settings)
    return settings


def numbers_of(settings, rows):
    """All numbers of rows; what votes were left out where settings (a dict) allow that."""
    result = summarise(settings["benchmark"], rows)
    if settings.get("stop", "never") != "never":
        spent = Counter()
        for match in (match for row in rows for match in row["matches"]):
            spent.update(spending(match["games"], settings["num_votes"], 2 - settings["one_order"]))
        result["votes"] = dict(spent)
    return result


def evaluate(settings, load_judge):
    """One evaluation -> (its numbers, its rows), written to OUTPUT_DIR/results.json: whole or not at all, one row a line."""
    items = load(settings.benchmark, settings.data, settings.limit, settings.seed)
    head = head_of(settings, items)
    rows = (
        predicted_rows(settings.predictions, items)
        if settings.predictions
        else judged_rows(settings, items, head, load_judge)
    )
    result = numbers_of(head["settings"], rows)
    if settings.output_dir:
        path = Path(settings.output_dir) / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, listed = path.with_suffix(".partial"), ",\n".join(map(as_line, rows))
        partial.write_text(
            as_line(head | {"made_with": origin(), "results": result})[:-1]
            + f', "rows": [\n{listed}\n]}}\n',
            encoding="utf-8",
        )
        partial.replace(path)
        path.with_name("rows.jsonl").unlink(missing_ok=True)
        note(f"{path}: settings, numbers and {len(rows)} rows")
    return result, rows


def origin():
    """Versions and the commit of this code, as far as they are known, without importing anything large."""
    git = ["git", "-C", Path(__file__).parent, "rev-parse", "HEAD"]
    commit = (
        shutil.which("git") and subprocess.run(git, capture_output=True, text=True).stdout.strip()
    )
    return {"commit": commit or None, "python": platform.python_version()} | {
        name: version(name) for name in ("torch", "transformers", "numpy")
    }


def swept(settings):
    """The settings of every evaluation of a sweep, each with a folder of its own below --output_dir. Raises BadInput."""
    names, values = [], []
    for word in settings.sweep.split():
        name, _, listed = word.partition("=")
        try:
            values.append([SWEPT[name](value) for value in listed.split(",")])
        except (KeyError, ValueError) as error:
            raise BadInput(
                f"--sweep: {word!r} is not understood: write name=value,value with a name of {', '.join(SWEPT)}"
            ) from error
        names.append(name)
    cases = [dict(zip(names, chosen)) for chosen in itertools.product(*values)]
    folders = ["-".join(f"{name}={value}" for name, value in case.items()) for case in cases]
    return [
        check(replace(settings, output_dir=str(Path(settings.output_dir) / folder), **case))
        for folder, case in zip(folders, cases)
    ]


def main(argv=None):
    settings = cli.parse_settings(Settings, argv, description=__doc__)
    earlier = settings.predictions and read_result(
        settings.predictions, "--predictions", settings.benchmark
    )
    settings.benchmark = earlier["settings"]["benchmark"] if earlier else settings.benchmark
    other = settings.compare and read_result(settings.compare, "--compare", settings.benchmark)
    if settings.compare and not other:
        raise BadInput(
            f"--compare: {settings.compare} is no results.json of this command: give one"
        )
    load_judge = functools.cache(lambda: judge_of(settings))
    if settings.sweep is not None:
        cases = swept(check(settings))
        results = [
            {"output_dir": case.output_dir} | evaluate(case, load_judge)[0] for case in cases
        ]
        print(json.dumps(results, allow_nan=False)) if settings.json else show_sweep(results)
        return
    result, rows = (
        (numbers_of(earlier["settings"], earlier["rows"]), earlier["rows"])
        if earlier
        else evaluate(check(settings), load_judge)
    )
    if other:
        result["compared"] = {"benchmark": settings.benchmark} | compared(
            settings.benchmark, rows, other["rows"]
        )
    print(json.dumps(result, allow_nan=False)) if settings.json else show(result)
    if other and not settings.json:
        print(
            f"\nDifferences: {settings.predictions if earlier else settings.output_dir or settings.predictions} less {settings.compare}, points of "
            "percent; above 0 the former is higher\n"
        )
        show(result["compared"])


if __name__ == "__main__":
    cli.run(main)
