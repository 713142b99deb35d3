"""Records a judge on every pair of every question's candidates. replay.py then needs no model.

    python runs/ranking/record.py --questions questions.jsonl --out tiny.jsonl.gz --num_votes 3

A line of questions.jsonl: {"query": "...", "candidates": ["...", ...], "scores": [1, 0, ...]}.
Finished questions are kept in OUT.partial, and a second call goes on from there. A line of OUT:

    {"id", "scores", "texts", "settings", "votes": {"0-1": ["110", "1?0"], ...},
     "tokens": {"0-1": [[31, 28, 40], [33, 30, 29]], ...}}

"110": shown first, answer 0 got two votes and then none. "1?0": shown second, it got a vote, then
the judge named no answer, then the other one. Equal texts are not judged: [] for them.
"""

import gzip
import sys
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Optional

sys.path.insert(0, str(Path(__file__).parents[2]))

import cli  # noqa: E402
from backends import Progress  # noqa: E402
from cli import BadInput, note, setting  # noqa: E402
from data import Pair, load_questions  # noqa: E402
from judge import JudgeSettings, check_judge, judge_of  # noqa: E402
from resume import resumable_rows  # noqa: E402
from runlog import append_rows  # noqa: E402
from verdicts import BOTH_ORDERS, vote_of  # noqa: E402

JUDGING = JudgeSettings.__dataclass_fields__.keys() - {"price_in", "price_out"}
LETTERS = {0: "1", 1: "0", None: "?"}


@dataclass
class Settings(JudgeSettings):
    questions: Optional[str] = setting(None, "questions with candidates and scores")
    out: Optional[str] = setting(None, "the recording: a name that ends in .jsonl.gz")


def record(judge, question, options):
    """The votes and tokens of one question, as in the file."""
    texts, votes, tokens = question.candidates, {}, {}
    pairs = []
    for i, j in combinations(range(len(texts)), 2):
        votes[f"{i}-{j}"], tokens[f"{i}-{j}"] = [], []
        if texts[i] != texts[j]:
            pairs.append(Pair(f"{question.id} {i}-{j}", question.messages, (texts[i], texts[j])))
    for pair, judgment in zip(pairs, judge.judge(pairs, **options)):
        key = pair.id.split()[-1]
        for order in BOTH_ORDERS:
            games = [game for game in judgment.games if game["order"] == list(order)]
            votes[key].append("".join(LETTERS[vote_of(game)] for game in games))
            tokens[key].append([game["tokens"] for game in games])
    return {"votes": votes, "tokens": tokens}


def read_questions(settings):
    """[(question, the fields of its line that are known before it is judged), ...]"""
    judging = {name: value for name, value in asdict(settings).items() if name in JUDGING}
    found = []
    for question in load_questions(settings.questions):
        if question.scores is None or len(question.scores) < 2:
            raise BadInput(
                f"{settings.questions}: question {question.id} needs two candidates or more, "
                "and a score for each"
            )
        head = {"id": question.id, "scores": question.scores, "texts": question.candidates}
        found.append((question, head | {"settings": judging}))
    return found


def main(argv=None):
    settings = cli.parse_settings(Settings, argv, description=__doc__)
    if settings.questions is None or not str(settings.out).endswith(".jsonl.gz"):
        raise BadInput("give --questions, and --out with a name that ends in .jsonl.gz")
    if Path(settings.out).exists():
        raise BadInput(f"--out: {settings.out} exists: give another file")
    check_judge(settings)
    questions = read_questions(settings)
    partial = Path(settings.out + ".partial")
    done = 0
    for done, row in resumable_rows(partial, "--out", b'{"id": '):
        if done > len(questions) or not questions[done - 1][1].items() <= row.items():
            raise BadInput(
                f"{partial} line {done} was recorded with other settings or questions: "
                "remove the file, or give another --out"
            )
    note(f"{done} of {len(questions)} questions are recorded already")
    options = {
        name: getattr(settings, name)
        for name in ("num_votes", "temperature", "max_completion_length")
    }
    judge = judge_of(settings)
    with Progress("recording", "questions", len(questions), done) as progress:
        for number, (question, head) in enumerate(questions[done:], start=done + 1):
            append_rows(partial, [head | record(judge, question, options)])
            progress.move_to(number)
    # Renamed when it is complete, so that OUT is never half a file.
    complete = Path(settings.out + ".complete")
    complete.write_bytes(gzip.compress(partial.read_bytes(), mtime=0))
    complete.replace(settings.out)
    partial.unlink()


if __name__ == "__main__":
    cli.run(main)
