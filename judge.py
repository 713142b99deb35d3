"""The judge: it reads a query and two answers, thinks, and says which answer is better.

    python judge.py --query "347+586" --a 933 --b 923 --num_votes 4
    python judge.py --pairs pairs.jsonl --out judged.jsonl       a second call resumes the first

    judgment = Judge("tiny").judge([("347+586", "933", "923")], num_votes=4)[0]
    judgment.winner, judgment.p_first, judgment.consistent       # "a", 1.0, True

A model's verdict depends on which answer it reads first, so each pair is judged in both orders.
Three results are kept apart: the winner (the majority of valid votes), whether the orders agree,
and which games ended without a verdict. A winner is an answer, "a" the one that was given first,
never a place in a prompt. torch is imported when a model is loaded, not before.
"""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Literal, Optional

import cli
import judge_file
from backends import LocalBackend, Progress
from checkpoint import check_model_folder, resolve_model, with_adapter
from cli import BadInput, note, setting
from data import Pair, load_pairs, place
from datafiles import read_text_fields
from formats import judge_input, missing_fields
from plugins import load_extra
from seeding import stable_hash
from styles import OPTIONAL, default_style, judge_messages, load_style
from verdicts import (
    BOTH_ORDERS,
    conclude,
    parse_verdict,  # noqa: F401  users look for it here
    read_verdict,
    vote_of,
)

CHUNK_PROMPTS = 512  # in one call of a backend: bounds the memory for its results


@dataclass
class Comparison:
    """A pair in one order and its judging prompt."""

    pair: Pair
    order: list  # order[0]: index of the answer that is shown first
    prompt: list  # of the backend's `encode`
    games: list  # of the pair, in both orders: see verdicts.py

    def add(self, records):
        self.games += [{"order": list(self.order)} | record for record in records]


def as_pair(item, where="pair 1"):
    """(query or messages, first, second) or {query | messages, a, b} as a Pair. Raises BadInput.

    Its id is that of the dict, else a hash of its content.
    """
    if isinstance(item, Pair):
        return item
    is_triple = isinstance(item, (tuple, list)) and len(item) == 3
    row = dict(zip(("query", "a", "b"), item)) if is_triple else item
    if not isinstance(row, dict) or missing_fields(row, "query|messages a b"):
        raise BadInput(
            f"{where}: {item!r:.80} is no pair: give (query or messages, first answer, second "
            "answer), {query | messages, a, b} or a data.Pair"
        )
    meta = dict(row)
    pair = judge_input(meta, where)  # leaves the other fields
    if pair is None:
        raise BadInput(f"{where}: has two different prompts: keep one")
    check_question(pair.messages, where)
    default_id = f"{stable_hash(pair.messages, *pair.answers):016x}"
    pair.id = default_id if row.get("id") is None else str(row["id"])
    pair.meta = meta
    return pair


def check_question(messages, where):
    if not any(turn["content"].strip() for turn in messages):
        raise BadInput(f"{where}: the question is empty: give what was answered")


def as_pairs(items):
    """The Pairs of a list of what `as_pair` takes, or of one alone. Raises BadInput."""
    is_triple = isinstance(items, (tuple, list)) and len(items) == 3 and isinstance(items[1], str)
    if is_triple or isinstance(items, (Pair, dict, str)):
        items = [items]
    return [as_pair(item, f"pair {number}") for number, item in enumerate(items, start=1)]


# ---- judge ----


class Judge:
    """A judging prompt and a backend that completes it: a model on this machine or a server.

    model: a folder, a hub name, or a Model (which needs its tokenizer as well); with base_url, the
    name of a model on that server. style: a name or a Style; None: the "judge_style" of the model's
    config.json, else rrm. adapter: the folder of a LoRA adapter (lora.py) that is put on the model.
    Raises BadInput for what cannot be loaded.
    """

    def __init__(
        self,
        model="tiny",
        tokenizer=None,
        style=None,
        adapter=None,
        base_url=None,
        device=None,
        dtype=None,
        seed=0,
    ):
        if base_url and adapter:
            raise BadInput("--adapter: a server loads its own: give its name there as --model")
        if base_url:
            self.backend = load_extra("server").ServerBackend(base_url, model, style)
        else:
            self.backend = LocalBackend(model, tokenizer, style, device, dtype, adapter)
        self.style = self.backend.style
        self.tokenizer = self.backend.tokenizer  # None for a server
        self.context = self.backend.context  # tokens that prompt and completion may take together
        self.seed = seed

    def judge(
        self,
        pairs,
        num_votes=1,
        both_orders=True,
        temperature=0.6,
        max_completion_length=1024,
        quiet=False,
    ):
        """A list with the Judgment of each pair. Raises BadInput for anything that is no pair.

        pairs: (query or messages, first, second), {query | messages, a, b}, data.Pair, or one of
        these alone. num_votes: games in each order; with one order, `data.place` chooses it by the
        pair's id. The draws of a game are seeded by (seed, id, order, number of the game), whatever
        else is judged. quiet: no progress bar, and no notes on the pairs.
        """
        check_votes(num_votes, temperature)
        pairs = as_pairs(pairs)
        if not quiet:
            self.backend.check_texts(pairs)
        games, comparisons = [[] for _ in pairs], []
        for pair, own_games in zip(pairs, games):
            for order in BOTH_ORDERS if both_orders else [place(pair, self.seed)]:
                prompt = self.prompt(pair, order)
                comparisons.append(Comparison(pair, order, prompt, own_games))
        comparisons = self.fitting(comparisons, num_votes, max_completion_length, quiet)
        with Progress("judging", "games", len(comparisons) * num_votes, quiet=quiet) as progress:
            for first in range(0, len(comparisons), CHUNK_PROMPTS):
                chunk = comparisons[first : first + CHUNK_PROMPTS]
                done = progress.done
                records = self.backend.generate(
                    [one.prompt for one in chunk],
                    [(self.seed, stable_hash(one.pair.id), one.order[0]) for one in chunk],
                    num_votes,
                    max_completion_length,
                    temperature,
                    progress=lambda new, total, done=done: progress.move_to(done + new),
                )
                for one, own_records in zip(chunk, records, strict=True):
                    one.add(own_records)
        return [conclude(own_games) for own_games in games]

    async def ajudge(self, pairs, **options):
        """`judge` in a thread: other tasks go on meanwhile, and calls to a server overlap."""
        import asyncio

        return await asyncio.to_thread(self.judge, pairs, **options)

    def prompt(self, pair, order):
        """The judging prompt, with answer order[0] first: token ids, for a server messages."""
        shown = [pair.answers[index] for index in order]
        return self.backend.encode(judge_messages(self.style, pair.messages, *shown, pair.meta))

    def encode(self, pair, order, max_completion_length):
        """`prompt`; raises BadInput where the context has no room for it and a completion."""
        prompt = self.prompt(pair, order)
        problem = self.too_long(pair, prompt, max_completion_length)
        if problem:
            raise BadInput(problem)
        return prompt

    def too_long(self, pair, prompt, max_completion_length):
        """What to say of a prompt if the context cannot hold it and a completion, else None."""
        room = self.context - max_completion_length
        if room <= 0:
            raise BadInput(
                f"--max_completion_length {max_completion_length}: the context of this judge is "
                f"{self.context}: give less"
            )
        if len(prompt) > room:
            return (
                f"pair {pair.id}: its prompt has {len(prompt)} tokens, and {room} fit "
                f"(context {self.context} less --max_completion_length {max_completion_length})"
            )
        return None

    def fitting(self, comparisons, num_votes, max_completion_length, quiet):
        """The comparisons that the context can hold. The games of others count as truncated."""
        fitting, problems = [], {}  # by the pair's id
        for one in comparisons:
            problem = self.too_long(one.pair, one.prompt, max_completion_length)
            if problem is None:
                fitting.append(one)
            else:
                problems.setdefault(one.pair.id, problem)
                one.add([read_verdict("", self.style, 0, "length")] * num_votes)
        if problems and not quiet:
            first, *others = problems.values()
            more = f", and {len(others)} more pairs like it" if others else ""
            note(f"{first}{more}: counted as truncated")
        return fitting

    def play(self, query, candidates, num_votes=1, **options):
        """A function for `elo.run_schedule` and `tournament.knockout`.

        It maps matches [(i, j), ...] to scores of i in [0, 1], over both orders; a game without a
        verdict counts half for each. options: of `judge`.
        """
        if isinstance(candidates, str):
            raise BadInput(f"candidates is {candidates!r:.80}: give a list of answers")

        def play_matches(matches):
            pairs = [(query, candidates[i], candidates[j]) for i, j in matches]
            return [judgment.p_first for judgment in self.judge(pairs, num_votes, **options)]

        return play_matches


# ---- command line ----


@dataclass
class JudgeSettings:
    """The settings of every command that judges."""

    model: str = setting("tiny", "the judge: Hugging Face folder or hub name", group="judge")
    adapter: Optional[str] = setting(None, "LoRA adapter in PEFT's format, for the model")
    base_url: Optional[str] = setting(
        None, "OpenAI-compatible server that has --model; its key: OPENAI_API_KEY"
    )
    price_in: Optional[float] = setting(None, "with --base_url: price of a million prompt tokens")
    price_out: Optional[float] = setting(None, "price of a million completion tokens")
    style: Optional[str] = setting(
        None, "a prompt in prompts/ or a file; default: the model's own, else rrm"
    )
    num_votes: int = setting(1, "completions in each order", group="sampling")
    temperature: float = setting(0.6, "sampling temperature; 0 = greedy")
    max_completion_length: int = setting(1024, "tokens of a completion at most")
    seed: int = setting(0, "decides sampling and all else that is random")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = setting("auto", "bfloat16 where it is fast")


def check_votes(num_votes, temperature):
    """Raises BadInput for no votes, and for votes of which all but the first would be copies."""
    if num_votes < 1:
        raise BadInput(f"--num_votes: must be at least 1, got {num_votes}")
    if num_votes > 1:
        refuse_copies(f"--num_votes {num_votes}", temperature)


def refuse_copies(what, temperature):
    if temperature == 0:
        raise BadInput(
            f"{what}: at --temperature 0 a second completion is a copy of the first and no vote: "
            "give one vote and no repeated matches, or --temperature 0.6"
        )


def check_prices(settings):
    prices = [price for price in (settings.price_in, settings.price_out) if price is not None]
    wrong_price = not all(0 <= price < float("inf") for price in prices)
    if prices and (wrong_price or len(prices) < 2 or not settings.base_url):
        raise BadInput("--price_in, --price_out: give both, at least 0, together with --base_url")


def prices_of(settings):
    """Those of a million prompt tokens and completion tokens, or ()."""
    return () if settings.price_in is None else (settings.price_in, settings.price_out)


def check_judge(settings):
    """Checks JudgeSettings before torch is imported, and fills in `style` and `adapter`.

    Returns the model's folder, None with --base_url.
    """
    temperature = settings.temperature
    if temperature != 0 and not 0.01 <= temperature < float("inf"):
        raise BadInput(f"--temperature: must be 0 (greedy) or at least 0.01, got {temperature}")
    if settings.max_completion_length < 1:
        length = settings.max_completion_length
        raise BadInput(f"--max_completion_length: must be at least 1, got {length}")
    check_votes(settings.num_votes, temperature)
    check_prices(settings)
    folder = None if settings.base_url else resolve_model(settings.model)
    config = check_model_folder(folder) if folder else {}
    if folder and settings.adapter:
        settings.adapter = str(resolve_model(settings.adapter, "--adapter"))
        with_adapter(folder, settings.adapter)
    if not settings.style:
        settings.style = default_style(folder, config, settings.adapter)
    load_style(settings.style)
    return folder


def judge_of(settings):
    """The Judge of JudgeSettings that were checked."""
    names = ("style", "adapter", "base_url", "device", "dtype", "seed")
    judge = Judge(settings.model, **{name: getattr(settings, name) for name in names})
    note_usage_at_end(judge.backend.usage, settings)
    return judge


def note_usage_at_end(usage, settings):
    """Notes what judging took, however the command ends. One local judgment shows it anyway."""
    usage.prices = prices_of(settings)
    if settings.base_url or getattr(settings, "a", None) is None:
        cli.at_end.callback(lambda: usage.calls and note(f"judging took {usage.in_words()}"))


@dataclass
class JudgeCommandSettings(JudgeSettings):
    query: Optional[str] = setting(
        None,
        "what was asked; @path reads a file, - standard input (so for --a and --b)",
        group="what to judge",
    )
    a: Optional[str] = setting(None, "one answer", may_be_empty=True)
    b: Optional[str] = setting(None, "the other answer", may_be_empty=True)
    reference: Optional[str] = setting(
        None, "a right answer, for styles with {reference}; rows may have a column of this name"
    )
    rubric: Optional[str] = setting(None, "criteria, for styles with {rubric}; likewise")
    pairs: Optional[str] = setting(
        None,
        "instead: a file of pairs {id?, query | messages, a, b}, or any preference set that "
        "data.py reads",
    )
    out: Optional[str] = setting(
        None,
        "with --pairs: JSON lines, one judgment each; an existing file is completed; x.csv: a "
        "spreadsheet, beside x.csv.jsonl",
    )
    one_order: bool = setting(
        False,
        "judge in one order, chosen by the pair's id, instead of both: half the work, consistency "
        "unknown",
        group="how to judge",
    )
    json: bool = setting(False, "print one JSON object")


def check_settings(settings):
    """Raises BadInput for all that can be wrong before torch is imported. Returns the pairs."""
    either = "give --query, --a, --b for one pair, or --pairs and --out for a file"
    texts = settings.query, settings.a, settings.b
    missing = [f"--{name}" for name, text in zip(("query", "a", "b"), texts) if text is None]
    if settings.pairs is not None or settings.out is not None:
        if len(missing) < 3 or settings.pairs is None or settings.out is None:
            raise BadInput(either)
        check_judge(settings)
        judge_file.check_paths(settings.pairs, settings.out)
        pairs = load_pairs(settings.pairs, keep_ties=True)
        for pair in pairs:
            check_question(pair.messages, f"{settings.pairs}: pair {pair.id}")
        return judge_file.with_given(pairs, settings)
    if missing:
        raise BadInput(f"{', '.join(missing)} missing: {either}")
    if not settings.query.strip():
        raise BadInput("--query is empty: give the question that was answered")
    if settings.a == settings.b:
        raise BadInput("--a and --b are identical: give two different answers")
    check_judge(settings)
    return judge_file.with_given([as_pair(texts)], settings)


def describe(judgment):
    """The outcome in plain words, on one line."""
    votes = [vote_of(game) for game in judgment.games]
    counts = {"a": votes.count(0), "b": votes.count(1), "tie": votes.count("tie")}
    valid = sum(counts.values())
    if judgment.winner is not None:
        outcome = {"a": "A is better", "b": "B is better", "tie": "A tie"}[judgment.winner]
        unit = "vote" if valid == 1 else "votes"
        words = [f"{outcome}: {counts[judgment.winner]} of {valid} {unit}"]
    elif valid:
        ties = f", {counts['tie']} for a tie" if counts["tie"] else ""
        words = [f"No winner: {counts['a']} for A, {counts['b']} for B{ties}"]
    else:
        words = ["No winner: no valid vote"]
    statuses = [game["status"] for game in judgment.games]
    for status in ("unparsable", "truncated"):
        if status in statuses:
            words.append(f"{statuses.count(status)} of {len(votes)} games {status}")
    if judgment.consistent is None:
        words.append("one order only")
    elif valid:
        words.append("both orders agree" if judgment.consistent else "the orders do not agree")
    return ", ".join(words)


def show(judgment):
    """Prints the games as the judge wrote them, and the outcome."""
    dim, plain = ("\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "")
    for number, game in enumerate(judgment.games, start=1):
        first, second = ("AB"[index] for index in game["order"])
        place = f"game {number} of {len(judgment.games)}"
        outcomes = {0: "A is better", 1: "B is better", "tie": "a tie", None: game["status"]}
        print(f"--- {place}: {first} is Assistant 1, {second} is Assistant 2")
        print(dim + cli.visible(game["text"]).strip() + plain)
        print(f"--- {outcomes[vote_of(game)]} ({game['tokens']} tokens)\n")
    print(describe(judgment))


def main(argv=None):
    settings = cli.parse_settings(JudgeCommandSettings, argv, description=__doc__)
    read_text_fields(settings, ["query", "a", "b", *OPTIONAL])
    pairs = check_settings(settings)
    options = {
        "num_votes": settings.num_votes,
        "both_orders": not settings.one_order,
        "temperature": settings.temperature,
        "max_completion_length": settings.max_completion_length,
    }
    if settings.pairs is not None:
        summary = judge_file.judge_pairs(settings, pairs, lambda: judge_of(settings), options)
        if settings.json:
            print(json.dumps(summary))
        else:
            note(", ".join(f"{name} {value}" for name, value in summary.items()))
        return
    judge = judge_of(settings)
    judge.encode(pairs[0], [0, 1], settings.max_completion_length)  # refuses what is too long
    (judgment,) = judge.judge(pairs, **options)
    if settings.json:
        print(json.dumps(asdict(judgment), allow_nan=False))
    else:
        show(judgment)


if __name__ == "__main__":
    cli.run(main)
