"""Best of 8: a judge picks one of a solver's answers to each question, by a knockout in both orders.

    python runs/qwen/best_of.py --model models/qwen2.5-coder-1.5b --adapter out/qwen/run-0/checkpoint-30 \\
        --answers out/qwen/answers05_test.jsonl --out out/qwen/best-run-0.jsonl
    python runs/qwen/best_of.py --table out/qwen/best-base.jsonl,out/qwen/best-run-0.jsonl \\
        --answers out/qwen/answers05_test.jsonl --own out/qwen/answers15_test.jsonl

The first call plays the matches, one line a question, and goes on where it stopped; equal results are
not played against each other, because it does not matter which of them wins. The second call prints the
table. --own: solutions of the judge's base model to the same questions, made by `make_data sample`: as
many of them as cost the tokens of the knockout vote on a result of their own.
"""

import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

import cli  # noqa: E402
from cli import BadInput, note, setting  # noqa: E402
from data import Pair  # noqa: E402
from judge import JudgeSettings, check_judge, judge_of  # noqa: E402
from table import bootstrap, line, percent  # noqa: E402
from tournament import knockout  # noqa: E402
from verify import plain, stated_answer  # noqa: E402


@dataclass
class Settings(JudgeSettings):
    answers: Optional[str] = setting(None, "rows of make_data sample: questions with candidates")
    out: Optional[str] = setting(None, "JSON lines, one a question; what is there already is kept")
    limit: int = setting(10**9, "so many questions, from the beginning of the file")
    table: Optional[str] = setting(
        None, "instead: a table of these files of --out, joined by commas"
    )
    own: Optional[str] = setting(
        None, "with --table: the judge's own solutions, rows of make_data sample"
    )


def result_of(answer):
    """The final result of an answer, to count votes: the boxed one, or the last number; None without one."""
    stated = stated_answer(answer)
    if stated is None:
        numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", answer)
        stated = numbers[-1] if numbers else ""
    number = plain(stated).replace(",", "").replace("$", "").strip()
    try:
        return str(float(number))
    except ValueError:
        return number or None


def usable(row):
    """Numbers of the candidates that ended and were checked."""
    return [n for n, status in enumerate(row["status"]) if status in ("right", "wrong")]


# ---- playing ----


def play_question(judge, row, settings):
    """{id, pick, tokens, matches: [[i, j, score of i], ...]}: the knockout of one question."""
    numbers, tokens, matches = usable(row), 0, []
    results = {n: result_of(row["candidates"][n]) for n in numbers}

    def play(rounds):
        nonlocal tokens
        pairs = [(numbers[i], numbers[j]) for i, j in rounds]
        open_pairs = [(i, j) for i, j in pairs if results[i] != results[j]]
        asked = [
            Pair(
                f"{row['id']} {i}-{j}",
                row["messages"],
                (row["candidates"][i], row["candidates"][j]),
            )
            for i, j in open_pairs
        ]
        options = dict(
            temperature=settings.temperature, max_completion_length=settings.max_completion_length
        )
        judged = judge.judge(asked, settings.num_votes, **options) if asked else []
        tokens += sum(game["tokens"] for judgment in judged for game in judgment.games)
        scores = dict(zip(open_pairs, [judgment.p_first for judgment in judged]))
        matches.extend([i, j, scores[i, j]] for i, j in open_pairs)
        return [scores.get(pair, 1.0) for pair in pairs]

    pick = numbers[knockout(len(numbers), play, settings.seed).winner] if numbers else None
    return {"id": row["id"], "pick": pick, "tokens": tokens, "matches": matches}


def play_all(settings):
    check_judge(settings)
    rows = [row for _, row in cli.read_json_lines(settings.answers, "--answers")][: settings.limit]
    out = Path(settings.out)
    done = {row["id"] for _, row in cli.read_json_lines(out)} if out.exists() else set()
    todo = [row for row in rows if row["id"] not in done]
    judge = judge_of(settings) if todo else None
    for number, row in enumerate(todo, start=1):
        played = play_question(judge, row, settings)
        with open(out, "a", encoding="utf-8") as file:
            file.write(json.dumps(played) + "\n")
        note(f"{len(done) + number} of {len(rows)} questions")


# ---- the table ----


def vote(results):
    """The most frequent result, the earliest of equally frequent ones; None without any."""
    counted = Counter(result for result in results if result is not None)
    return counted.most_common(1)[0][0] if counted else None


def picks(row, played, own, budget):
    """{name of the picker: 1 if its answer is right, else 0} for one question."""
    right = [status == "right" for status in row["status"]]
    numbers = usable(row)
    results = {n: result_of(row["candidates"][n]) for n in numbers}
    majority = vote(results.values())
    found = {
        "first answer": right[0],
        "mean of 8": np.mean(right),
        "majority of 8": any(right[n] for n in numbers if results[n] == majority),
        "pass@8 (any right)": any(right),
    }
    found |= {
        name: right[one["pick"]] if one["pick"] is not None else 0 for name, one in played.items()
    }
    if own is not None:
        chosen = own["candidates"][: max(1, budget)]
        ended = [text for text, s in zip(chosen, own["status"]) if s in ("right", "wrong")]
        solved = vote(map(result_of, ended))
        statuses = zip(own["candidates"], own["status"])
        solves = any(s == "right" and result_of(text) == solved for text, s in statuses)
        agreeing = [n for n in numbers if results[n] == solved] or numbers[:1]
        found["judge's own solution, equal tokens"] = solves
        found["candidate that agrees with it"] = right[agreeing[0]] if agreeing else 0
    return {name: float(value) for name, value in found.items()}


def print_table(settings):
    files = settings.table.split(",")
    rows = {row["id"]: row for _, row in cli.read_json_lines(settings.answers, "--answers")}
    played = {Path(file).stem: {r["id"]: r for _, r in cli.read_json_lines(file)} for file in files}
    common = [name for name in rows if all(name in games for games in played.values())]
    own = {r["id"]: r for _, r in cli.read_json_lines(settings.own)} if settings.own else {}
    common = [name for name in common if not own or name in own]
    if not common:
        raise BadInput("--table: no question is in all files: play them first")
    spent = np.mean([games[name]["tokens"] for games in played.values() for name in common])
    lengths = [
        len(text) / 3 for row in own.values() for text in row["candidates"]
    ]  # 3 characters a token
    budget = int(spent / np.mean(lengths)) if own else 0
    table = [
        picks(
            rows[name], {who: games[name] for who, games in played.items()}, own.get(name), budget
        )
        for name in common
    ]
    print(f"{len(common)} questions; a knockout takes {spent:.0f} tokens on average\n")
    print(line("picked by", "right", "less the first answer", "less the majority of 8"))
    print(line(*["---"] * 4))
    for name in table[0]:
        columns = [
            [row[name], row[name] - row["first answer"], row[name] - row["majority of 8"]]
            for row in table
        ]
        print(line(name, *map(percent, bootstrap(np.array(columns), common).T)))


def main():
    settings = cli.parse_settings(Settings, description=__doc__.split("\n")[0])
    if not settings.answers or not (settings.table or settings.out):
        raise BadInput("--answers, and --out or --table, are needed (--help shows two examples)")
    print_table(settings) if settings.table else play_all(settings)


if __name__ == "__main__":
    cli.run(main)
