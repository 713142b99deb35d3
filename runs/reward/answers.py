"""The student's own answers: pairs of them for DPO, and how many are right.

    python runs/reward/answers.py pairs MODEL JUDGE QUESTIONS FOLDER
    python runs/reward/answers.py test MODEL [MODEL ...]

`pairs` writes judge.jsonl, oracle.jsonl and coin.jsonl to FOLDER: the same pairs, labelled in three
ways. Answers are judged without their thinking, and DPO learns the whole completion. `test` takes 4
completions of each held-out question. solver.sh has written the questions.
"""

import random
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runs"), str(ROOT / "runs/reward")]
from measures import mean, read_rows, write_rows  # noqa: E402
from rewards_tiny import is_right  # noqa: E402

from chat import decode_completion, encode_chat, load_tokenizer, stop_token_ids  # noqa: E402
from checkpoint import resolve_model  # noqa: E402
from judge import Judge  # noqa: E402
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
    chats = [[{"role": "user", "content": question}] for question in questions]
    drawn = generate(
        model,
        [encode_chat(tokenizer, chat) for chat in chats],
        num_generations,
        max_new_tokens=64,
        stop_token_ids=stops,
        seed=[stable_hash(seed, question) % 2**63 for question in questions],
    )
    return [
        [decode_completion(tokenizer, completion.tokens, stops) for completion in group]
        for group in drawn
    ]


def draw_pairs(questions, completions):
    """[(question, completion, completion), ...]: two a question, if the answers differ."""
    rng, pairs = random.Random("pairs:0"), []
    for question, texts in zip(questions, completions):
        by_answer = {final_answer(text): text for text in rng.sample(texts, len(texts))}
        by_answer.pop("", None)
        found = list(by_answer.values())
        choices = [(question, found[i], found[j]) for i in range(len(found)) for j in range(i)]
        pairs += rng.sample(choices, min(2, len(choices)))
    return pairs


def make_pairs(model, judge, count, folder):
    # Trainings begin at the start of the questions, so these are from the end.
    questions = [row["question"] for row in read_rows(WORK / "questions.jsonl")][-int(count) :]
    pairs = draw_pairs(questions, sample(model, questions, 4))
    shown = [(question, final_answer(a), final_answer(b)) for question, a, b in pairs]
    judge = Judge(judge, device="cpu", dtype=torch.float32)
    judgments = judge.judge(shown, max_completion_length=96)
    truth, rng = [], random.Random("coin")
    for question, *texts in pairs:
        right = [is_right(question, text) for text in texts]
        truth.append(None if right[0] == right[1] else right.index(True))
    labels = {
        "judge": [judgment.winner_index for judgment in judgments],
        "oracle": truth,
        "coin": [rng.randrange(2) for _ in pairs],
    }
    for name, own in labels.items():
        rows = [
            {"query": question, "a": a, "b": b, "label": label}
            for (question, a, b), label in zip(pairs, own)
            if label is not None
        ]
        write_rows(Path(folder) / f"{name}.jsonl", rows)
        known = [label == right for label, right in zip(own, truth) if None not in (label, right)]
        print(
            f"{name}: {len(rows)} of {len(pairs)} pairs labelled, {mean(known):.3f} of the "
            f"{len(known)} with one right answer as the truth has it"
        )


def test(*models):
    questions = [row["question"] for row in read_rows(WORK / "test.jsonl")]
    for model in models:
        completions = sample(model, questions, 4, seed=1)
        right = [
            mean(is_right(question, text) for text in texts)
            for question, texts in zip(questions, completions)
        ]
        error = (sum((share - mean(right)) ** 2 for share in right)) ** 0.5 / len(right)
        print(f"{model} right {mean(right):.3f} +- {1.96 * error:.3f}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    {"pairs": make_pairs, "test": test}[sys.argv[1]](*sys.argv[2:])
