"""What a judge of the tiny world does on held-out pairs: one row a game, and the numbers of a table with their intervals.

    python runs/miniature/measure.py MODEL... [--pairs tiny/test.jsonl --limit 500 --votes 1 --forced "<think>" --out games.jsonl]

`forced` is text that the completion has to begin with: "<think>" makes a judge think that would rather guess, "<think></think>" makes it
guess. Each pair is judged in both orders. Intervals: bootstrap over pairs of siblings (two questions with the same two answers).
"""

import json
import random
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from chat import encode_chat, load_tokenizer, stop_token_ids  # noqa: E402
from checkpoint import resolve_model  # noqa: E402
from cli import read_json_lines  # noqa: E402
from seeding import stable_hash  # noqa: E402
from styles import judge_messages, load_style  # noqa: E402
from verdicts import read_completion  # noqa: E402

THINKS = 8  # a verdict after fewer tokens is a guess (judge/think_empty)


def load_rows(path=ROOT / "tiny/test.jsonl", limit=None, **wanted):
    """Rows of the world's pairs, the first `limit` of those wanted: family="sums", level=3, ..."""
    rows = [
        row | {"sibling": number // 2} for number, (_, row) in enumerate(read_json_lines(path))
    ]  # siblings stand side by side
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())][
        :limit
    ]


def load_judge(model):
    """(model, tokenizer, stop tokens) of a folder or of an embedded name, fp32 on the CPU: products this small are no faster in bf16."""
    import torch

    from model import Model

    folder = resolve_model(model)
    tokenizer = load_tokenizer(folder)
    return (
        Model.from_pretrained(folder, "cpu", torch.float32),
        tokenizer,
        stop_token_ids(tokenizer, folder),
    )


def play(judge, rows, forced="", votes=1, temperature=1.0, max_completion_length=96, seed=0):
    """Judges rows of pairs in both orders, `votes` times each: a list of games.

    forced: one text for all, or a function (row, order) -> text or None (None: this game is left out). A game: id, sibling, family, level,
    order, verdict (1, 2, None), right, think_tokens, tokens (both with the forced ones), longer (verdict for the longer answer; None), text.
    """
    from sampler import Completion, generate

    model, tokenizer, stops = judge
    style, games = load_style("tiny"), []
    for row in rows:
        for order in ([0, 1], [1, 0]):
            text = forced(row, order) if callable(forced) else forced
            if text is not None:
                answers = [(row["a"], row["b"])[index] for index in order]
                prompt = encode_chat(
                    tokenizer,
                    judge_messages(style, [{"role": "user", "content": row["query"]}], *answers),
                )
                games.append(
                    (row, order, answers, prompt, tokenizer.encode(text, add_special_tokens=False))
                )
    seeds = [stable_hash(seed, row["id"], order[0]) % 2**63 for row, order, *_ in games]
    drawn = generate(
        model,
        [prompt + begun for *_, prompt, begun in games],
        votes,
        max_completion_length,
        temperature,
        stop_token_ids=stops,
        seed=seeds,
    )
    results = []
    for (row, order, answers, _, begun), completions in zip(games, drawn):
        better, lengths = order.index(row["label"]) + 1, [len(answer) for answer in answers]
        for completion in completions:
            whole = Completion(
                begun + completion.tokens,
                [0.0] * len(begun) + completion.logprobs,
                completion.finish_reason,
            )
            game = read_completion(tokenizer, whole, style, False, stops)
            game |= {name: row[name] for name in ("id", "sibling", "family", "level")} | {
                "order": order,
                "right": game["verdict"] == better,
            }
            unequal = game["verdict"] and lengths[0] != lengths[1]
            game["longer"] = lengths[game["verdict"] - 1] == max(lengths) if unequal else None
            results.append(game)
    return results


# ---- numbers ----


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def accuracy(games):
    return mean(game["right"] for game in games)


def interval(games, statistic=accuracy, other=None, draws=2000, seed=0):
    """(value, low, high): 95 % bootstrap over siblings of statistic(games), or of statistic(games) - statistic(other)."""

    def clusters(rows):
        found = defaultdict(list)
        for row in rows:
            found[row["sibling"]].append(row)
        return found

    arms, rng = [clusters(rows) for rows in (games, other) if rows is not None], random.Random(seed)
    names = sorted(set().union(*arms))

    def value(drawn):
        first, *rest = [
            statistic([row for name in drawn for row in arm.get(name, [])]) for arm in arms
        ]
        return first - rest[0] if rest else first

    values = (value(rng.choices(names, k=len(names))) for _ in range(draws))
    values = sorted(one for one in values if one == one) or [
        float("nan")
    ]  # a draw may hold nothing that the statistic is of
    return (
        value(names),
        values[int(0.025 * len(values))],
        values[max(0, int(0.975 * len(values)) - 1)],
    )


def told(triple):
    return "{:.3f} [{:.3f}, {:.3f}]".format(*triple)


def summary(games):
    """The usual columns: accuracy, share that thinks, accuracy within thinking and within guessing, tokens, parse failures, biases."""
    valid = [game for game in games if game["verdict"]]
    thought = [game for game in games if game["think_tokens"] >= THINKS]
    guessed = [game for game in games if game["think_tokens"] < THINKS]
    lengths = [game for game in valid if game["longer"] is not None]
    gold_longer = mean(
        game["longer"] == game["right"] for game in lengths
    )  # chosen the longer and right, or the shorter and wrong
    return {
        "accuracy": interval(games),
        "thinks": mean(game["think_tokens"] >= THINKS for game in games),
        "right_thinking": accuracy(thought),
        "right_guessing": accuracy(guessed),
        "tokens": mean(game["tokens"] for game in games),
        "parse_fail": 1 - len(valid) / len(games),
        "position_bias": mean(game["verdict"] == 1 for game in valid) - 0.5,
        "length_bias": mean(game["longer"] for game in lengths) - gold_longer,
    }


def main():
    import argparse

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--pairs", default=str(ROOT / "tiny/test.jsonl"))
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--votes", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--forced", default="")
    parser.add_argument("--out", help="the games of the last model, one a line")
    options = parser.parse_args()
    for model in options.models:
        games = play(
            load_judge(model),
            load_rows(options.pairs, options.limit),
            options.forced,
            options.votes,
            options.temperature,
        )
        found = summary(games)
        print(
            model,
            "right",
            told(found.pop("accuracy")),
            " ".join(f"{name} {value:.3f}" for name, value in found.items()),
        )
    if options.out:
        Path(options.out).write_text("".join(json.dumps(game) + "\n" for game in games))


if __name__ == "__main__":
    main()
