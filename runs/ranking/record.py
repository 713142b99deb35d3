"""Records a judge: every pair of every question's candidates, in both orders, several votes each; replay.py then needs no model any more.

    python runs/ranking/record.py --questions questions.jsonl --out tiny.jsonl.gz --num_votes 3
    {"query": "...", "candidates": ["...", ...], "scores": [1, 0, ...]}            a line of questions.jsonl; or anything load_questions reads

Finished questions stand in OUT.partial, which a second call goes on with; at the end it becomes OUT. One line a question:

    {"id", "scores", "texts", "settings", "votes": {"0-1": ["110", "1?0"], ...}, "tokens": {"0-1": [[31, 28, 40], [33, 30, 29]], ...}}

"110": with 0 first, two votes for 0, then one for 1; "1?0": with 1 first, one for 0, one without a verdict, one for 1. So "1" always stands
for the first number of the key. Equal texts are not judged: [] for them.
"""

import gzip
import os
import sys
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Optional

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[2]))

import cli  # noqa: E402
from cli import BadInput, note, setting  # noqa: E402
from data import Pair, load_questions  # noqa: E402
from judge import JudgeSettings, check_judge, judge_of
from runlog import append_rows, resumable_rows  # noqa: E402
from verdicts import vote_of  # noqa: E402


@dataclass
class Settings(JudgeSettings):
    questions: Optional[str] = setting(
        None, "questions with candidates and their scores, higher is better"
    )
    out: Optional[str] = setting(None, "the recording: a name that ends in .jsonl.gz")
    limit: Optional[int] = setting(None, "only the first so many questions")


def record(judge, question, options):
    """The votes and tokens of one question, as in the file."""
    texts, votes, tokens = question.candidates, {}, {}
    keys = list(combinations(range(len(texts)), 2))
    pairs = [
        Pair(f"{question.id} {i}-{j}", question.messages, (texts[i], texts[j]))
        for i, j in keys
        if texts[i] != texts[j]
    ]
    judgments = iter(judge.judge(pairs, *options))
    for i, j in keys:
        games = next(judgments).games if texts[i] != texts[j] else []
        orders = (
            [[game for game in games if game["order"] == order] for order in ([0, 1], [1, 0])]
            if games
            else []
        )
        votes[f"{i}-{j}"] = [
            "".join({0: "1", 1: "0", None: "?"}[vote_of(game)] for game in order)
            for order in orders
        ]
        tokens[f"{i}-{j}"] = [[game["tokens"] for game in order] for order in orders]
    return {"votes": votes, "tokens": tokens}


def main(argv=None):
    settings = cli.parse_settings(Settings, argv, description=__doc__)
    if settings.questions is None or settings.out is None or not settings.out.endswith(".jsonl.gz"):
        raise BadInput(
            "--questions and --out are needed, the latter with a name that ends in .jsonl.gz: give both"
        )
    if Path(settings.out).exists():
        raise BadInput(f"--out: {settings.out} is there already: give another file")
    check_judge(settings)
    questions = load_questions(settings.questions, limit=settings.limit)
    for question in questions:
        if question.scores is None or len(question.scores) < 2:
            raise BadInput(
                f"{settings.questions}: question {question.id} lacks candidates with scores: give two at least, and a score for each"
            )
    recorded = {
        name: value
        for name, value in asdict(settings).items()
        if name not in ("questions", "out", "limit")
    }
    heads = [
        {
            "id": question.id,
            "scores": question.scores,
            "texts": question.candidates,
            "settings": recorded,
        }
        for question in questions
    ]
    partial, done = Path(settings.out + ".partial"), 0
    for done, row in resumable_rows(partial, "--out", b'{"id": '):
        if done > len(heads) or not heads[done - 1].items() <= row.items():
            raise BadInput(
                f"{partial} line {done} was recorded with other settings or questions: remove the file, or give another --out"
            )
    note(
        f"{done} of {len(questions)} questions are recorded already"
        if done
        else f"{len(questions)} questions to record"
    )
    if done < len(questions):
        judge, options = (
            judge_of(settings),
            (settings.num_votes, True, settings.temperature, settings.max_completion_length),
        )
        for index in tqdm(
            range(done, len(questions)),
            initial=done,
            total=len(questions),
            unit="question",
            disable=None,
        ):
            row = heads[index] | record(judge, questions[index], options)
            append_rows(partial, [row])
    whole = Path(
        settings.out + ".whole.partial"
    )  # renamed when it is complete, so that OUT is never half a file
    whole.write_bytes(gzip.compress(partial.read_bytes(), mtime=0))
    os.replace(whole, settings.out)
    partial.unlink()


if __name__ == "__main__":
    cli.run(main)
