"""The student's own answers before the judge: how good it is there, and pairs of them for DPO.

    python runs/reward/answers.py measure MODEL JUDGE [QUESTIONS]          the judge on pairs of the policy's answers, both orders
    python runs/reward/answers.py pairs MODEL JUDGE QUESTIONS FOLDER       FOLDER/judge.jsonl oracle.jsonl coin.jsonl: three ways to label
    python runs/reward/answers.py test MODEL [MODEL ...]                   right answers to held-out questions, 4 completions each

`measure` takes all kinds of pairs: right against wrong, right against right (`933`, `13,13,9: 933`), wrong against wrong. A judge that has
learned from pairs with one right answer has met no others. Answers are judged without their thinking, and DPO learns the whole completion.
"""

import json
import random
import sys
from collections import defaultdict
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runs/reward")]
from rewards_tiny import number, solution  # noqa: E402

from chat import decode_completion, encode_chat, load_tokenizer, stop_token_ids  # noqa: E402
from checkpoint import resolve_model  # noqa: E402
from cli import read_json_lines
from judge import Judge
from model import Model  # noqa: E402
from rewards import final_answer  # noqa: E402
from sampler import generate  # noqa: E402
from seeding import stable_hash  # noqa: E402

WORK = ROOT / "out/reward"  # where solver.sh writes questions.jsonl and test.jsonl


def sample(folder, questions, num_generations, seed=0):
    """Completions [question][generation] as texts, temperature 1."""
    folder = resolve_model(folder)
    tokenizer, model = load_tokenizer(folder), Model.from_pretrained(folder, "cpu", torch.float32)
    stops = stop_token_ids(tokenizer, folder)
    prompts = [
        encode_chat(tokenizer, [{"role": "user", "content": question}]) for question in questions
    ]
    drawn = generate(
        model,
        prompts,
        num_generations,
        64,
        stop_token_ids=stops,
        seed=[stable_hash(seed, question) % 2**63 for question in questions],
    )
    return [
        [decode_completion(tokenizer, completion.tokens, stops) for completion in row]
        for row in drawn
    ]


def load_questions(count, name="questions"):
    return [row["question"] for _, row in read_json_lines(WORK / f"{name}.jsonl")][
        -count:
    ]  # the end: trainings begin at the other one


def draw_pairs(questions, completions, a_question=2, seed=0):
    """[(question, completion, completion), ...]: pairs whose answers differ in their texts, `a_question` of each question if there are so many."""
    rng, pairs = random.Random(f"pairs:{seed}"), []
    for question, texts in zip(questions, completions):
        by_answer = {
            final_answer(text): text for text in rng.sample(texts, len(texts)) if final_answer(text)
        }
        choices = [
            (question, first, second)
            for index, first in enumerate(by_answer.values())
            for second in list(by_answer.values())[:index]
        ]
        pairs += rng.sample(choices, min(a_question, len(choices)))
    return pairs


def judge_pairs(judge, pairs):
    shown = [
        (question, final_answer(first), final_answer(second)) for question, first, second in pairs
    ]
    return Judge(judge, device="cpu", dtype=torch.float32).judge(shown, max_completion_length=96)


def measure(model, judge, count=400):
    questions = load_questions(int(count))
    pairs = draw_pairs(questions, sample(model, questions, 8), a_question=3)
    found = defaultdict(list)
    for (question, *texts), judgment in zip(pairs, judge_pairs(judge, pairs)):
        answers = [final_answer(text) for text in texts]
        right = [number(answer) == solution(question) for answer in answers]
        kind = (
            "right-wrong" if right[0] != right[1] else "right-right" if right[0] else "wrong-wrong"
        )
        sign = next(
            (
                name
                for name, marks in {"*": "* times", "+": "+ plus", "-": "- minus"}.items()
                if any(m in question for m in marks.split())
            )
        )
        for name in (kind, f"{kind} {sign}"):
            found[name].append((judgment, right, [len(answer) for answer in answers]))
    print(
        f"{judge} on answers of {model}: {len(pairs)} pairs with different answers to {count} questions, both orders, temperature 0.6"
    )
    print(
        "kind             pairs  right (of games)  orders agree  first place  longer answer  no verdict"
    )
    for kind, rows in sorted(found.items()):
        games = [
            (game, right, lengths) for judgment, right, lengths in rows for game in judgment.games
        ]
        valid = [row for row in games if row[0]["verdict"]]
        chosen = [
            (game["order"][game["verdict"] - 1], right, lengths) for game, right, lengths in valid
        ]
        accuracy = (
            f"{sum(right[place] for place, right, _ in chosen) / len(games):.3f}"
            if kind.startswith("right-wrong")
            else "-"
        )
        unequal = [
            lengths[place] == max(lengths)
            for place, _, lengths in chosen
            if lengths[0] != lengths[1]
        ]
        print(
            f"{kind:15} {len(rows):6}  {accuracy:>16}  {sum(bool(row[0].consistent) for row in rows) / len(rows):12.3f}  "
            f"{sum(game['verdict'] == 1 for game, *_ in valid) / max(len(valid), 1):11.3f}  {sum(unequal) / max(len(unequal), 1):13.3f}  "
            f"{1 - len(valid) / len(games):10.3f}"
        )


def make_pairs(model, judge, count, folder):
    questions, folder = load_questions(int(count)), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pairs = draw_pairs(questions, sample(model, questions, 4))
    judged = [judgment.winner for judgment in judge_pairs(judge, pairs)]
    truth, rng = [], random.Random("coin")
    for question, *texts in pairs:
        right = [number(final_answer(text)) == solution(question) for text in texts]
        truth.append(None if right[0] == right[1] else right.index(True))
    coins = [rng.randrange(2) for _ in pairs]
    for name, labels in (("judge", judged), ("oracle", truth), ("coin", coins)):
        rows = [
            {"query": question, "a": first, "b": second, "label": label}
            for (question, first, second), label in zip(pairs, labels)
            if label is not None
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        agree = [
            label == right
            for label, right in zip(labels, truth)
            if label is not None and right is not None
        ]
        print(
            f"{name}: {len(rows)} of {len(pairs)} pairs labelled, {sum(agree) / len(agree):.3f} of the {len(agree)} with one right answer as the truth has it"
        )


def test(*models):
    rows = [row for _, row in read_json_lines(WORK / "test.jsonl")]
    for model in models:
        completions = sample(model, [row["question"] for row in rows], 4, seed=1)
        right = [
            sum(number(final_answer(text)) == int(row["answer"]) for text in texts) / 4
            for row, texts in zip(rows, completions)
        ]
        mean = sum(right) / len(right)
        error = (sum((value - mean) ** 2 for value in right) / len(right) ** 2) ** 0.5
        works = sum("<think>" in text for texts in completions for text in texts) / (4 * len(rows))
        totals = sum(":" in final_answer(text) for texts in completions for text in texts) / (
            4 * len(rows)
        )
        print(
            f"{model} right {mean:.3f} +- {1.96 * error:.3f} works {works:.2f} answers with totals {totals:.2f}"
        )


if __name__ == "__main__":
    command, *arguments = sys.argv[1:] or ["help"]
    commands = {"measure": measure, "pairs": make_pairs, "test": test}
    commands[command](*arguments) if command in commands else print(__doc__)
