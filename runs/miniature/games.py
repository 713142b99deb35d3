"""Games of a judge of the tiny world.

A task is a row of tiny/*.jsonl with an order ([0, 1]: answer a is shown first) and its sibling: the
number of the two questions that have the same two answers. A game is a task with a verdict (1, 2
or None), whether it is right, text, tokens and think_tokens.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tiny"), str(ROOT / "runs")]

from measures import read_rows  # noqa: E402

from chat import encode_chat, load_tokenizer, stop_token_ids  # noqa: E402
from checkpoint import resolve_model  # noqa: E402
from seeding import stable_hash  # noqa: E402
from styles import judge_messages, load_style  # noqa: E402
from verdicts import BOTH_ORDERS, read_completion  # noqa: E402


def load_tasks(path, limit=None):
    """Both orders of the first `limit` rows; siblings are next to each other in the file."""
    rows = read_rows(path)[:limit]
    return [
        row | {"sibling": number // 2, "order": order}
        for number, row in enumerate(rows)
        for order in BOTH_ORDERS
    ]


def load_judge(model):
    """(model, tokenizer, stop tokens) of a folder or of an embedded name."""
    import torch

    from model import Model

    folder = resolve_model(str(model))
    tokenizer = load_tokenizer(folder)
    decoder = Model.from_pretrained(folder, "cpu", torch.float32)
    return decoder, tokenizer, stop_token_ids(tokenizer, folder)


def shown_answers(task):
    return [task["ab"[index]] for index in task["order"]]


def better_place(task):
    """1 or 2: where the better answer is shown."""
    return task["order"].index(task["label"]) + 1


def prompt_of(tokenizer, task):
    messages = judge_messages(load_style("tiny"), task["query"], *shown_answers(task))
    return encode_chat(tokenizer, messages)


def play(judge, tasks, start="", votes=1, temperature=1.0):
    """Samples `votes` games of each task. start: what every completion begins with."""
    from sampler import Completion, generate

    model, tokenizer, stops = judge
    begun = tokenizer.encode(start, add_special_tokens=False)
    prompts = [prompt_of(tokenizer, task) + begun for task in tasks]
    seeds = [stable_hash(0, task["id"], task["order"][0]) % 2**63 for task in tasks]
    drawn = generate(model, prompts, votes, 96, temperature, stop_token_ids=stops, seed=seeds)
    games = []
    for task, completions in zip(tasks, drawn):
        for completion in completions:
            tokens = begun + completion.tokens
            completion = Completion(tokens, [0.0] * len(tokens), completion.finish_reason)
            record = read_completion(tokenizer, completion, load_style("tiny"), False, stops)
            games.append(task | record | {"right": record["verdict"] == better_place(task)})
    return games


def majority_right(games):
    """1, 0 or 0.5 (a draw): whether most of the valid verdicts of these games are right."""
    lead = sum(1 if game["right"] else -1 for game in games if game["verdict"])
    return 0.5 + 0.5 * ((lead > 0) - (lead < 0))
