"""Stage 2: judgments that the model itself writes, and which of them it is trained on so that it knows the format of a verdict.

    python runs/smollm2/chains.py sample --data train.jsonl --model MODEL --examples runs/smollm2/examples.jsonl --out samples.jsonl
    python runs/smollm2/chains.py keep --data train.jsonl --samples samples.jsonl --out chains.jsonl
    python runs/smollm2/chains.py keep --data train.jsonl --samples samples.jsonl --direct --out verdicts.jsonl
    python runs/smollm2/chains.py labels --data train.jsonl --out labels.jsonl

sample: every pair in both orders, `num_samples` judgments each, behind examples shown as earlier turns of the chat (an untrained model of this
size writes no verdict without them). Killed and called again it goes on, and the result is the same.
keep: the examples are gone from the prompt; the chain stays (as in STaR, arXiv 2203.14465). The rule of choice is a ladder: the strictest
step of RULES that leaves `at_least` pairs, and the report counts what each would have left. From a kept pair come as many chains of one order as
of the other, so that each verdict is written equally often, and for the direct judge the same games without their thinking.
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import cli  # noqa: E402
from chat import encode_chat
from cli import BadInput, setting  # noqa: E402
from data import load_pairs
from extras.ask import VERDICTS  # noqa: E402
from extras.store import Base, Store  # noqa: E402
from seeding import (
    stable_hash,  # noqa: E402
    uniform,  # noqa: E402
)
from styles import judge_messages, load_style  # noqa: E402
from verdicts import (
    find_verdicts,  # noqa: E402
    parse_verdict,
)

CHUNK = 8  # pairs sampled together and written together
ORDERS = [0, 1], [1, 0]


def both_right(right, wanted):
    return sum(first and second for first, second in zip(*right)) >= wanted


RULES = {  # strictest first; right: [order][sample]
    "right in both orders in 3 samples": lambda right: both_right(right, 3),
    "right in both orders in 2 samples": lambda right: both_right(right, 2),
    "right in both orders in 1 sample": lambda right: both_right(right, 1),
    "right in some sample of each order": lambda right: all(map(any, right)),
}


# ---- sampling ----


@dataclass
class Sample(Base):
    model: str = setting("models/smollm2", "who writes: Hugging Face folder or hub name")
    style: str = setting("rrm_short", "judging prompt")
    examples: str = setting(
        "", "JSON lines {query, a, b, judgment} shown as earlier turns; empty: none"
    )
    limit: int = setting(240, "so many pairs, chosen by a hash")
    num_samples: int = setting(4, "judgments of a pair in each order")
    temperature: float = setting(0.7, "of the sampling")
    max_completion_length: int = setting(96, "tokens of a judgment at most")


def turns_of(path, style):
    """The examples of a file as messages: what the judge was asked, what it answered. Raises BadInput."""
    turns = []
    for number, row in cli.read_json_lines(path, "--examples") if path else ():
        if (
            not {"query", "a", "b", "judgment"} <= row.keys()
            or parse_verdict(row["judgment"], style) is None
        ):
            raise BadInput(
                f"{path} line {number}: an example has query, a, b and a judgment with one verdict: correct it"
            )
        turns += [
            *judge_messages(style, row["query"], row["a"], row["b"]),
            {"role": "assistant", "content": row["judgment"]},
        ]
    return turns


def sample(settings, store):
    from judge import Judge

    style = load_style(settings.style)
    pairs, examples = load_pairs(settings.data), turns_of(settings.examples, style)
    chosen = set(
        sorted(
            (pair.id for pair in pairs), key=lambda name: uniform(f"chains:{settings.seed}:{name}")
        )[: settings.limit]
    )
    pairs, judge = [pair for pair in pairs if pair.id in chosen], None
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        if all(pair.id in store.rows for pair in chunk):
            continue
        judge = judge or Judge(settings.model, style=style, seed=settings.seed)
        games = [(pair, order) for pair in chunk for order in ORDERS]
        prompts = [
            encode_chat(
                judge.tokenizer,
                examples
                + judge_messages(style, pair.messages, *(pair.answers[index] for index in order)),
            )
            for pair, order in games
        ]
        seeds = [(settings.seed, stable_hash(pair.id), order[0]) for pair, order in games]
        drawn = judge.backend.generate(
            prompts,
            seeds,
            settings.num_samples,
            settings.max_completion_length,
            settings.temperature,
        )
        store.add(
            [
                {"key": pair.id, "records": drawn[2 * index : 2 * index + 2]}
                for index, pair in enumerate(chunk)
            ]
        )
        cli.note(f"{start + len(chunk)} of {len(pairs)} pairs sampled")
    rows = [store.rows[pair.id] for pair in pairs]
    counts = Counter(
        record["status"] for row in rows for order in row["records"] for record in order
    )
    counts["first named"] = sum(
        record["verdict"] == 1 for row in rows for order in row["records"] for record in order
    )
    store.finish((json.dumps(row, ensure_ascii=False) for row in rows), dict(counts))


# ---- choosing ----


@dataclass
class Keep(Base):
    samples: str = setting("", "what `sample` wrote for the same pairs")
    style: str = setting("rrm_short", "judging prompt of the chains")
    direct: bool = setting(
        False, "only the verdict of each game, behind the judging prompt of --direct_style"
    )
    direct_style: str = setting("direct_short", "judging prompt of the judge that does not think")
    at_least: int = setting(
        60, "pairs that the rule of choice has to leave; the last rule may leave fewer"
    )
    per_order: int = setting(2, "chains of a pair in each order at most")


def is_chain(record, rule):
    """Whether a judgment thinks (8 tokens or more), speaks of both answers before its verdict, and ends with it."""
    found = find_verdicts(record["text"], rule)
    if record["verdict"] is None or record["think_tokens"] < 8:
        return False
    thought, ending = record["text"][: found[0][0]], record["text"][found[0][0] :].strip()
    return all(f"Assistant {place}" in thought for place in (1, 2)) and ending in VERDICTS[rule]


def choose(pairs, rows, rule, at_least, per_order):
    """({rule of choice: pairs that it leaves}, the one that was taken, [(pair, order, place of the better answer, text), ...])."""
    good = {}
    for pair in pairs:
        if pair.id in rows:
            places = [order.index(int(pair.label)) + 1 for order in ORDERS]
            good[pair.id] = [
                [record["verdict"] == place and is_chain(record, rule) for record in own]
                for place, own in zip(places, rows[pair.id]["records"])
            ]
    left = {name: sum(map(passes, good.values())) for name, passes in RULES.items()}
    taken = next((name for name, number in left.items() if number >= at_least), list(RULES)[-1])
    kept = []
    for pair in pairs:
        if pair.id not in good or not RULES[taken](good[pair.id]):
            continue
        texts = [
            [record["text"] for record, fits in zip(own, marks) if fits]
            for own, marks in zip(rows[pair.id]["records"], good[pair.id])
        ]
        number = min(per_order, *map(len, texts))
        kept += [
            (pair, order, order.index(int(pair.label)) + 1, text)
            for order, own in zip(ORDERS, texts)
            for text in own[:number]
        ]
    return left, taken, kept


def keep(settings, store):
    style, direct = load_style(settings.style), load_style(settings.direct_style)
    pairs = load_pairs(settings.data)
    rows = {
        row["key"]: row
        for _, row in cli.read_json_lines(settings.samples, "--samples")
        if "records" in row
    }
    left, taken, kept = choose(pairs, rows, style.verdict, settings.at_least, settings.per_order)
    if not kept:
        raise BadInput(
            f"--samples: {settings.samples} has no pair that is right in both orders: sample more pairs, or show other examples"
        )
    made = []
    for pair, order, place, text in kept:
        messages = judge_messages(
            direct if settings.direct else style,
            pair.messages,
            *(pair.answers[index] for index in order),
        )
        answer = VERDICTS[direct.verdict][place - 1] if settings.direct else text
        row = {"id": pair.id, "messages": [*messages, {"role": "assistant", "content": answer}]}
        made += [row] if row not in made else []  # the chains of a game end in one verdict
    sources = Counter(pair.meta.get("source", pair.source) for pair, *_ in kept)
    counts = (
        {"pairs sampled": len(rows)} | left | {"rule taken": taken, "rows": len(made)} | sources
    )
    store.finish((json.dumps(row, ensure_ascii=False) for row in made), counts)


# ---- the labels themselves ----


@dataclass
class Labels(Base):
    direct_style: str = setting("direct_short", "judging prompt of the judge that does not think")


def labels(settings, store):
    style, rows = load_style(settings.direct_style), []
    for pair in load_pairs(settings.data):
        for order in ORDERS:
            messages = judge_messages(
                style, pair.messages, *(pair.answers[index] for index in order)
            )
            rows.append(
                {
                    "id": pair.id,
                    "messages": [
                        *messages,
                        {
                            "role": "assistant",
                            "content": VERDICTS[style.verdict][order.index(int(pair.label))],
                        },
                    ],
                }
            )
    store.finish((json.dumps(row, ensure_ascii=False) for row in rows), {"rows": len(rows)})


COMMANDS = {"sample": (Sample, sample), "keep": (Keep, keep), "labels": (Labels, labels)}


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == [] or argv[0] not in COMMANDS:
        raise BadInput(
            f"give one of {', '.join(COMMANDS)}: python runs/smollm2/chains.py sample --help"
        )
    kind, command = COMMANDS[argv[0]]
    settings = cli.parse_settings(kind, argv[1:], description=__doc__)
    if not settings.data or not settings.out:
        raise BadInput("--data, --out: give the pairs, and the file to write")
    store = Store(f"chains {argv[0]}", settings)
    if store.done:
        return cli.note(f"{settings.out} is made already")
    command(settings, store)


if __name__ == "__main__":
    cli.run(main)
