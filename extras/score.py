r"""A judge that rates each answer by itself, \boxed{7}, instead of comparing two.

    python -m extras.score --data pairs.jsonl --out scores.jsonl --model MODEL --num_votes 4
    python evaluate.py --benchmark pairs --data pairs.jsonl --predictions scores.jsonl

    scorer = Scorer("MODEL")
    scorer.score([("347+586", "933"), ("347+586", "923")], num_votes=4)      # [9.25, 2.0]
    reward = score_reward(scorer, num_votes=4)                               # of a group

The prompt file (score.txt) has the scale. The score of an answer is the mean of its valid votes,
None without one. Each line of --out has the scores of the answers of one pair or question.
"""

import functools
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import cli
from cli import BadInput, note, read_text, setting
from data import Pair, items_of
from judge import (
    Judge,
    JudgeSettings,
    as_pair,
    check_judge,
    check_votes,
    note_usage_at_end,
)
from judge_file import check_paths, complete_rows, is_csv, recorded_settings
from seeding import stable_hash
from styles import Style, check_placeholders

STYLE = str(Path(__file__).with_name("score.txt"))
CHUNK_ITEMS = 32  # scored together and written together
SCORE = re.compile(r"\\boxed\{\s*(-?\d{1,6}(?:\.\d{1,6})?)\s*\}")


@dataclass
class Settings(JudgeSettings):
    style: Optional[str] = setting(None, "prompt file with a scale; default: extras/score.txt")
    data: Optional[str] = setting(
        None,
        "pairs or questions with candidates, labelled or not: what data.py reads",
        group="what to score",
    )
    out: Optional[str] = setting(
        None, "JSON lines {id, scores}; an existing file is completed", group="what to score"
    )


def load_scale(path):
    """(Style, lowest score, highest score) of a prompt file. Raises BadInput."""
    head, _, user = read_text(path, "--style").partition("=== user\n")
    found = re.search(r"^scale: (-?\d+) (-?\d+)\s*$", head, re.MULTILINE)
    if not found or int(found[1]) >= int(found[2]) or not user.strip():
        raise BadInput(
            f"{path}: write a line such as 'scale: 1 10', the lowest and the highest score, then "
            "'=== user' and the prompt"
        )
    # As a prompt that compares, with the answer in the first place and nothing in the second.
    user = user.strip().replace("{answer}", "{answer_1}")
    check_placeholders(user + "{answer_2}", path)
    return Style(str(path), "boxed", "", user), int(found[1]), int(found[2])


def parse_score(text, lowest, highest):
    """The score behind the last </think>; None without one, or with two different ones."""
    start = text.rfind("</think>") + 1
    if text.find("<think>", start) >= 0:
        return None
    scores = {float(found[1]) for found in SCORE.finditer(text, start)}
    if len(scores) != 1 or not lowest <= min(scores) <= highest:
        return None
    return scores.pop()


class Scorer:
    """A model that rates answers. style: a file such as score.txt; options: of judge.Judge."""

    def __init__(self, model="tiny", style=STYLE, **options):
        self.style, self.lowest, self.highest = load_scale(style)
        self.judge = Judge(model, style=self.style, **options)

    def score(self, answers, num_votes=1, temperature=0.6, max_completion_length=1024):
        """The mean score of each answer, or None.

        answers: (query or messages, answer), or a data.Pair whose first answer is meant. Votes are
        seeded by the content, so equal answers to a question have equal scores.
        """
        check_votes(num_votes, temperature)
        pairs = []
        for number, answer in enumerate(answers, start=1):
            if not isinstance(answer, Pair):
                if not isinstance(answer, (tuple, list)) or len(answer) != 2:
                    raise BadInput(
                        f"answer {number}: {answer!r:.80} is none: give (query or messages, answer)"
                    )
                answer = as_pair((*answer, ""), f"answer {number}")
            pairs.append(answer)
        prompts, scores = {}, [None] * len(pairs)
        for index, pair in enumerate(pairs):
            prompt = self.judge.prompt(pair, [0, 1])
            problem = self.judge.too_long(pair, prompt, max_completion_length)
            if problem:
                note(f"{problem}: it has no score")
            else:
                prompts[index] = prompt
        seeds = [(self.judge.seed, stable_hash(pairs[index].id), 0) for index in prompts]
        games = self.judge.backend.generate(
            list(prompts.values()), seeds, num_votes, max_completion_length, temperature
        )
        for index, own in zip(prompts, games):
            texts = [game["text"] for game in own if game["status"] != "truncated"]
            votes = [parse_score(text, self.lowest, self.highest) for text in texts]
            valid = [vote for vote in votes if vote is not None]
            if valid:
                scores[index] = sum(valid) / len(valid)
        return scores


def score_reward(scorer, **options):
    """A reward(prompts, completions, **columns): scores from 0 to 1, None without a valid vote.

    options: of Scorer.score. For TRL, or in a file mine.py for `--reward solve:mine:reward`.
    """

    def reward(prompts, completions, **columns):
        answers = []
        for prompt, completion in zip(prompts, completions, strict=True):
            is_text = isinstance(completion, str)
            answers.append((prompt, completion if is_text else completion[-1]["content"]))
        span = scorer.highest - scorer.lowest
        scores = scorer.score(answers, **options)
        return [None if score is None else (score - scorer.lowest) / span for score in scores]

    return reward


# ---- command line ----


def answers_of(item):
    """The answers of a Pair or Question as Pairs with an empty second answer."""
    texts = item.answers if isinstance(item, Pair) else item.candidates
    if not texts:
        raise BadInput(f"--data: row {item.id} has no answers: give pairs, or candidates")
    pairs = [as_pair((item.messages, text, "")) for text in texts]
    for pair in pairs:
        pair.meta = item.meta
    return pairs


def reference_of(pair):
    return [pair.meta["reference"]] if pair.meta.get("reference") else []


def main(argv=None):
    settings = cli.parse_settings(Settings, argv, description=__doc__)
    if not settings.data or not settings.out:
        raise BadInput("--data and --out are needed: give both")
    check_paths(settings.data, settings.out)
    if is_csv(settings.out):
        raise BadInput(f"--out: {settings.out}: rows are JSON lines: give a name in .jsonl")
    settings.style, style = "rrm", settings.style or STYLE  # check_judge knows styles that compare
    check_judge(settings)
    recorded = recorded_settings(settings, ("out", "price_in", "price_out")) | {
        "style": style,
        "style_hash": f"{stable_hash(read_text(style, '--style')):016x}",
    }
    load_scale(style)
    dropped = Counter()
    items = list(items_of(settings.data, "train", dropped))
    for reason, count in dropped.items():
        note(f"data: {count} {reason} are left out")
    heads = []
    for item in items:
        shown = [
            [pair.messages, pair.answers[0], pair.meta.get("rubric"), *reference_of(pair)]
            for pair in answers_of(item)
        ]
        heads.append({"id": item.id, "content": f"{stable_hash(shown):016x}"})
    counts = Counter()

    @functools.cache
    def load_scorer():
        names = ("adapter", "base_url", "device", "dtype", "seed")
        options = {name: getattr(settings, name) for name in names}
        scorer = Scorer(settings.model, style, **options)
        note_usage_at_end(scorer.judge.backend.usage, settings)
        return scorer

    def score_chunk(start, end):
        groups = [answers_of(item) for item in items[start:end]]
        sampling = settings.num_votes, settings.temperature, settings.max_completion_length
        scores = load_scorer().score([pair for group in groups for pair in group], *sampling)
        counts.update(scored=len(scores), missing=scores.count(None))
        scores = iter(scores)
        return [{"scores": [next(scores) for _ in group]} for group in groups]

    complete_rows(
        settings.out,
        heads,
        settings,
        recorded,
        [(start, start + CHUNK_ITEMS) for start in range(0, len(items), CHUNK_ITEMS)],
        score_chunk,
        lambda: load_scorer().judge.backend.usage,
        "item",
    )
    if counts:
        note(
            f"{settings.out}: {counts['scored']} answers scored now, {counts['missing']} without "
            "a valid vote"
        )


if __name__ == "__main__":
    cli.run(main)
