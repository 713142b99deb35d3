"""The judge: it reads a query and two answers, thinks, and says which answer is better. Votes, both orders, and the command line.

    python judge.py --query "What is 6 * 7?" --a 42 --b 48 --num_votes 4
    python judge.py --pairs pairs.jsonl --out judged.jsonl           a second call finishes what an interrupted one left

    judgment = Judge("tiny").judge([("What is 6 * 7?", "42", "48")], num_votes=4)[0]
    judgment.winner, judgment.p_first, judgment.consistent           # 0, 0.875, True: seven of eight games went to "42"

A model's verdict depends on which answer it reads first, so both orders are judged, and three things stay apart: who won (the majority of
valid votes), whether the orders agree, and which games ended without a verdict. Winners are indices of the answers as they were given,
never places in a prompt. torch is imported when a model is loaded, not before.
"""

import hashlib
import json
import os
import re
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Optional

from tqdm import tqdm

import cli
from chat import Style, default_style, encode_chat, judge_messages, load_style, load_tokenizer, opens_think, stop_token_ids
from cli import BadInput, note, note_every, setting
from data import Pair, load_pairs, place
from endpoint import Endpoint
from votes import BOTH_ORDERS, STOP_HELP, STOPS, conclude, enough, in_words, read_completion, read_text, rounds_to_ask, spending, vote_of
from votes import parse_verdict  # noqa: F401  (a judge's users look for it here)

CHUNK_PROMPTS = 512  # in one call of the sampler: bounds the memory for results; even, so that both games of a pair are in it
CHUNK_PAIRS = 64  # of a file: judged together and written together
SUMMARY = "pairs", "a", "b", "no_winner", "orders_agree", "games", "games_saved", "tokens", "tokens_saved"


# ---- pairs ----

def stable_hash(*texts):
    """64 bits of texts or message lists: the same in every process, on every machine."""
    return int(hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16], 16)


def as_pair(item):
    """A Pair as it is; (query or messages, first, second) as a Pair whose id is a hash of its content."""
    if isinstance(item, Pair):
        return item
    query, first, second = item
    messages = [{"role": "user", "content": query}] if isinstance(query, str) else query
    return Pair(f"{stable_hash(messages, first, second):016x}", messages, (first, second))


# ---- judge ----

class TooLong(BadInput):
    """A pair that the context of the judge cannot hold."""


class Judge:
    """A model, its tokenizer and its judging prompt.

    model: folder, hub name or Model (which needs its tokenizer as well). style: a name or Style; None: the one that the model's
    config.json names as "judge_style", else rrm. base_url: a server, where `model` is a name. Raises BadInput for what cannot be loaded.
    """

    def __init__(self, model="tiny", tokenizer=None, style=None, *, adapter=None, base_url=None, device=None, dtype=None, seed=0):
        self.seed, self.endpoint, self.small_world = seed, Endpoint(base_url, model) if base_url else None, False
        if base_url:
            self.style, self.tokenizer = style if isinstance(style, Style) else load_style(style or "rrm"), None
            return
        folder = cli.resolve_model(model) if isinstance(model, (str, Path)) else None
        if folder is None and tokenizer is None:
            raise ValueError("a Model object comes without a tokenizer: pass its tokenizer as well")
        raw = cli.check_model_folder(folder) if folder else model.config.raw
        style = style or style_of(folder, raw, adapter)
        self.style = style if isinstance(style, Style) else load_style(style)
        self.tokenizer = tokenizer or load_tokenizer(folder)
        self.stops = stop_token_ids(self.tokenizer, folder or self.tokenizer.name_or_path)
        self.model = load_model(folder, device, dtype, adapter) if folder else model
        self.context = raw.get("max_position_embeddings") or sys.maxsize
        self.small_world = raw.get("judge_style") == "tiny"  # made from an embedded base, whose tokenizer knows that world's words alone

    def encode(self, pair, order, max_completion_length):
        """The prompt's token ids (an endpoint's: messages), answer order[0] first. TooLong where the context has no room for a completion."""
        messages = judge_messages(self.style, pair.messages, *(pair.answers[index] for index in order))
        if self.endpoint:
            return self.endpoint.disarmed(messages)
        prompt, room = encode_chat(self.tokenizer, messages), self.context - max_completion_length
        if room <= 0:
            raise BadInput(f"--max_completion_length {max_completion_length}: the context of this judge is {self.context}: give less")
        if len(prompt) > room:
            raise TooLong(f"pair {pair.id}: its prompt has {len(prompt)} tokens, and {room} fit (context {self.context} less "
                          f"--max_completion_length {max_completion_length})")
        return prompt

    def warn_of(self, pairs):
        """Says once that an embedded judge is asked about more than its small world: it would answer all the same. Words of that world are single
        tokens, all others fall apart."""
        texts = {text for pair in pairs for text in (*(message["content"] for message in pair.messages), *pair.answers)}
        words = set(re.findall("[A-Za-z]{3,}", " ".join(texts)))
        if strange := [word for word in sorted(words) if len(self.tokenizer.encode(f" {word}", add_special_tokens=False)) > 1]:
            self.small_world = False
            note(f"the embedded judge knows sums and lines of words (tiny/README.md), not {strange[0]!r}: its verdict means nothing here, give --model")

    def judge(self, pairs, num_votes=1, both_orders=True, temperature=0.6, max_completion_length=1024, stop="never"):
        """Judges pairs, (query or messages, first, second) or data.Pair; returns a Judgment for each.

        num_votes: completions in each order; one order alone is the one that `data.place` chooses by the pair's id. The draws of a game are
        seeded by (seed, id, order, vote), whatever else is judged. stop: "decided" or "likely" asks in rounds, and leaves out the votes
        that `votes.enough` calls needless; those played are the first ones of "never". The games of a pair that the context cannot hold are
        truncated before they begin, 0 tokens long, and a note says so.
        """
        games, prompts, width, too_long = [], [], 2 if both_orders else 1, []  # the games of a pair stand side by side
        pairs = [as_pair(pair) for pair in pairs]
        if self.small_world:
            self.warn_of(pairs)
        for pair in pairs:
            orders = BOTH_ORDERS if both_orders else [place(pair, self.seed)]
            games += [(pair, order) for order in orders]
            try:
                prompts += [self.encode(pair, order, max_completion_length) for order in orders]
            except TooLong as problem:
                too_long.append(problem)
                prompts += [None] * width
        if too_long:
            note(f"{too_long[0]}{f', and {len(too_long) - 1} more pairs like it' * (len(too_long) > 1)}: counted as truncated")
        seeds = [(self.seed, stable_hash(pair.id), order[0]) for pair, order in games]
        unplayed = {"verdict": None, "status": "truncated", "text": "", "tokens": 0, "think_tokens": 0}
        records = [[{"order": list(order)} | unplayed] * (num_votes if prompt is None else 0) for (_, order), prompt in zip(games, prompts)]
        hidden = True if os.environ.get("RANK", "0") != "0" else None  # None: shown on a terminal only
        say = note_every(30)  # elsewhere

        def votes_for_pair_of(game):
            first = game - game % width
            return [vote_of(record) for record in sum(records[first : first + width], [])]

        def advance(played):
            bar.update(played - bar.n)
            if bar.disable:
                say(f"judging: {played} of {bar.total} games")

        with tqdm(total=len(games) * num_votes, desc="judging", unit="game", leave=False, disable=hidden) as bar:
            for start in range(0, len(games), CHUNK_PROMPTS):
                asked, played = 0, start * num_votes
                wanted = [game for game in range(start, min(start + CHUNK_PROMPTS, len(games))) if prompts[game] is not None]
                while wanted:
                    rounds = min(rounds_to_ask(votes_for_pair_of(game), width, num_votes - asked, stop) for game in wanted)
                    results = self.draw([prompts[game] for game in wanted], [seeds[game] for game in wanted], rounds, max_completion_length,
                                        temperature, first_generation=asked, progress=lambda done, total: advance(played + done))
                    for game, drawn in zip(wanted, results):
                        records[game] += [{"order": list(games[game][1])} | record for record in drawn]
                    asked, played = asked + rounds, played + rounds * len(wanted)
                    wanted = [game for game in wanted if not enough(votes_for_pair_of(game), width * (num_votes - asked), stop)]
                bar.update(min(start + CHUNK_PROMPTS, len(games)) * num_votes - bar.n)
        return [conclude(sum(records[game : game + width], [])) for game in range(0, len(games), width)]

    def draw(self, prompts, seeds, *arguments, **options):
        """Records [prompt][generation] of what the model or the server writes; `seeds` are tuples of integers."""
        if self.endpoint:
            replies = self.endpoint.generate(prompts, [stable_hash(*seed) for seed in seeds], *arguments, **options)
            return [[self.read_reply(reply) for reply in group] for group in replies]
        from sampler import generate, hash64

        drawn = generate(self.model, prompts, *arguments, stop_token_ids=self.stops, seed=[hash64(*seed) for seed in seeds], **options)
        return [[read_completion(self.tokenizer, completion, self.style, opened, self.stops) for completion in completions]
                for prompt, completions in zip(prompts, drawn) for opened in [opens_think(self.tokenizer, prompt)]]

    def read_reply(self, reply):
        """The record of a server's Reply; think_tokens by the share of characters, since a server counts tokens but does not show them."""
        record, end = read_text(reply.text, self.style, reply.tokens, reply.finish_reason)
        return record if end is None else record | {"think_tokens": reply.tokens * end // len(reply.text)}

    def play(self, query, candidates, num_votes=1, **options):
        """A function for `elo.run_schedule` and `tournament.knockout`: matches [(i, j), ...] -> scores of i in [0, 1], over both orders.
        A game without a verdict counts half for each. `options` go to `judge`."""
        return lambda matches: [judgment.p_first for judgment in
                                self.judge([(query, candidates[i], candidates[j]) for i, j in matches], num_votes, **options)]


def style_of(folder, raw, adapter=None):
    """The name of the style that a model, or the adapter on top of it, was trained with."""
    if adapter is not None and (Path(adapter) / "config.json").exists():
        return default_style(Path(adapter), cli.parse_json(cli.read_text(Path(adapter) / "config.json", "--adapter"), adapter))
    return default_style(folder, raw)


def load_model(folder, device, dtype, adapter=None):
    import torch

    from model import Model, compute_dtype

    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device in (None, "auto") else device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: this PyTorch sees no GPU: use --device cpu, or install a CUDA build")
    return Model.from_pretrained(folder, device, dtype if isinstance(dtype, torch.dtype) else compute_dtype(dtype or "auto", device), adapter)


# ---- command line ----

@dataclass
class JudgeSettings:
    """What every command takes that judges."""

    model: str = setting("tiny", "the judge: Hugging Face folder or hub name; tiny = the embedded one")
    adapter: Optional[str] = setting(None, "a LoRA adapter in PEFT's format, put on top of the model")
    base_url: Optional[str] = setting(None, "OpenAI-compatible server, where --model is a name; the key comes from OPENAI_API_KEY")
    style: Optional[str] = setting(None, "judging prompt: a name in prompts/ or a file; default: that of the model's training, else rrm")
    num_votes: int = setting(1, "completions in each order")
    temperature: float = setting(0.6, "sampling temperature; 0 = greedy")
    max_completion_length: int = setting(1024, "tokens of a completion at most, thinking included")
    seed: int = setting(0, "decides sampling and all else that is random")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = setting("auto", "auto: bf16 where the hardware is fast at it")


def check_judge(settings):
    """What can be wrong with JudgeSettings, before torch is imported; `style` is then the name of a style that exists. Returns the model's folder."""
    if 0 < settings.temperature < 0.01:
        raise BadInput(f"--temperature: must be 0 (greedy) or at least 0.01, got {settings.temperature}")
    for name, lowest in (("num_votes", 1), ("max_completion_length", 1), ("temperature", 0)):
        if not lowest <= getattr(settings, name) < float("inf"):
            raise BadInput(f"--{name}: must be at least {lowest}, got {getattr(settings, name)}")
    folder = None if settings.base_url else cli.resolve_model(settings.model)
    if settings.adapter is not None and (settings.base_url or not Path(settings.adapter, "adapter_config.json").exists()):
        raise BadInput(f"--adapter: {settings.adapter} is no folder with an adapter_config.json, or --base_url has the model: a server loads its own")
    settings.style = settings.style or style_of(folder, cli.check_model_folder(folder) if folder else {}, settings.adapter)
    load_style(settings.style)
    return folder


def judge_of(settings):
    """The Judge of JudgeSettings that were checked."""
    return Judge(settings.model, None, settings.style, adapter=settings.adapter, base_url=settings.base_url, device=settings.device, dtype=settings.dtype, seed=settings.seed)


@dataclass
class Settings(JudgeSettings):
    query: Optional[str] = setting(None, "what was asked; @path reads a file, - standard input (so for --a and --b)")
    a: Optional[str] = setting(None, "one answer")
    b: Optional[str] = setting(None, "the other answer")
    pairs: Optional[str] = setting(None, "instead: a file of pairs {id?, query | messages, a, b}, or any preference set that data.py reads")
    out: Optional[str] = setting(None, "with --pairs: JSON lines, one judgment each; if the file is there, what it lacks is added")
    stop: Literal[tuple(STOPS)] = setting("never", STOP_HELP)
    one_order: bool = setting(False, "judge in one order, chosen by the pair's id, instead of both: half the work, consistency unknown")
    json: bool = setting(False, "print one JSON object")


def check(settings):
    """All that can be wrong before torch is imported. Returns the pairs."""
    missing = [f"--{name}" for name in ("query", "a", "b") if getattr(settings, name) is None]
    single = settings.pairs is None and settings.out is None
    if single and missing:
        raise BadInput(f"{', '.join(missing)} missing: give --query, --a and --b, or --pairs and --out")
    if single and not settings.query.strip():
        raise BadInput("--query is empty: give the question that was answered")
    if single and settings.a == settings.b:
        raise BadInput("--a and --b are identical, so neither is better: give two different answers")
    if not single and (len(missing) < 3 or None in (settings.pairs, settings.out)):
        raise BadInput("--query, --a and --b name one pair, --pairs and --out a file of pairs: give those three or these two")
    check_judge(settings)
    if single:
        return [as_pair((settings.query, settings.a, settings.b))]
    out, inputs = Path(settings.out).resolve(), {Path(name.strip()).resolve() for name in [settings.pairs, *settings.pairs.split(",")]}
    if not inputs.isdisjoint([out, *out.parents]):
        raise BadInput(f"--out: {settings.out} is the input or lies in its folder: give another file")
    if out.exists() and not out.is_file() and not out.is_dir():
        raise BadInput(f"--out: {settings.out} is no ordinary file: give the name of a file")
    return load_pairs(settings.pairs, keep_ties=True)


def as_row(judgment):
    """The JSON form of a Judgment, with "a" and "b" for the answers 0 and 1."""
    return asdict(judgment) | {"winner": None if judgment.winner is None else "ab"[judgment.winner]}


def describe(judgment):
    """The outcome in plain words, on one line."""
    votes, statuses = [vote_of(game) for game in judgment.games], [game["status"] for game in judgment.games]
    counts = [votes.count(0), votes.count(1)]
    words = [f"No winner: {counts[0]} for A, {counts[1]} for B" if any(counts) else "No winner: no valid vote"]
    if judgment.winner is not None:
        words = [f"{'AB'[judgment.winner]} is better: {counts[judgment.winner]} of {sum(counts)} vote{'s' * (sum(counts) > 1)}"]
    words += [f"{statuses.count(status)} of {len(votes)} games {status}" for status in ("unparsable", "truncated") if status in statuses]
    agreement = {True: "both orders agree", False: "the orders do not agree", None: "one order only"}[judgment.consistent]
    return ", ".join([*words, agreement] if any(counts) or judgment.consistent is None else words)


def show(judgment):
    """Prints the games as the judge wrote them, and the outcome."""
    dim, plain = ("\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "")
    for number, game in enumerate(judgment.games, start=1):
        first, second = ("AB"[index] for index in game["order"])
        text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", game["text"]).strip()  # no orders to the terminal
        outcome = game["status"] if game["verdict"] is None else f"{'AB'[vote_of(game)]} is better"
        print(f"--- game {number} of {len(judgment.games)}: {first} is Assistant 1, {second} is Assistant 2\n{dim}{text}{plain}")
        print(f"--- {outcome} ({game['tokens']} tokens)\n")
    print(describe(judgment))


def main(argv=None):
    settings = cli.parse_settings(Settings, argv, text_fields=("query", "a", "b"), description=__doc__.split("\n")[0])
    pairs = check(settings)
    options = settings.num_votes, not settings.one_order, settings.temperature, settings.max_completion_length, settings.stop
    if settings.pairs is not None:
        summary = judge_file(settings, pairs, options)
        print(json.dumps(summary)) if settings.json else note(", ".join(f"{name} {value}" for name, value in summary.items()))
        return
    judge = judge_of(settings)
    judge.encode(pairs[0], [0, 1], settings.max_completion_length)  # of a single pair that is too long there is nothing to tell
    judgment = judge.judge(pairs, *options)[0]
    print(json.dumps(as_row(judgment), allow_nan=False)) if settings.json else show(judgment)
    if settings.stop != "never":
        note(in_words(spending(judgment.games, settings.num_votes, 2 - settings.one_order)))


# ---- a file of pairs ----

def judge_file(settings, pairs, options):
    """Writes the judgment of each pair to --out, in the order of the input; what an earlier call has written stays. Returns a summary.

    Chunks are cut by position in the input and judged whole, because the last bits of a log-prob may depend on the batch: interrupted or
    not, the file is the same. Each row carries its settings and a hash of its pair, so no file can go on with others unnoticed.
    """
    recorded = {name: value for name, value in asdict(settings).items() if name not in ("query", "a", "b", "pairs", "out", "json")}
    heads = [{"id": pair.id, "pair": f"{stable_hash(pair.messages, pair.answers):016x}"} for pair in pairs]
    totals = finished(settings.out, heads, recorded)
    done = totals["pairs"]
    note(f"{settings.out}: {done} of {len(pairs)} pairs are judged already" if done else f"{len(pairs)} pairs to judge")
    if done < len(pairs):
        judge = judge_of(settings)
        bar, say = tqdm(total=len(pairs), initial=done, unit="pair", disable=None), note_every(30)
        with bar, open(settings.out, "a", encoding="utf-8") as file, cli.sole_writer(settings.out):
            if finished(settings.out, heads, recorded)["pairs"] != done:
                raise BadInput(f"--out: {settings.out} has grown meanwhile: call again to go on")
            for start in range(done - done % CHUNK_PAIRS, len(pairs), CHUNK_PAIRS):
                judgments = judge.judge(pairs[start : start + CHUNK_PAIRS], *options)
                for index in range(totals["pairs"], start + len(judgments)):
                    row = heads[index] | as_row(judgments[index - start]) | {"settings": recorded}
                    file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                    add_row(totals, row)
                file.flush()
                os.fsync(file.fileno())
                bar.update(totals["pairs"] - bar.n)
                if bar.disable:
                    say(f"{totals['pairs']} of {len(pairs)} pairs judged")
    return {name: totals[name] for name in SUMMARY} | ({"orders_agree": None} if settings.one_order else {})


def add_row(totals, row):
    """Adds a row of --out to a Counter for the summary."""
    spent = spending(row["games"], row["settings"]["num_votes"], 2 - row["settings"]["one_order"])
    totals.update({"pairs": 1, row["winner"] or "no_winner": 1, "orders_agree": int(row["consistent"] is True)} | spent)


def finished(path, heads, recorded):
    """The Counter of the rows that --out holds. BadInput for rows of another origin."""
    totals = Counter()
    for number, row in own_rows(path, "--out", b'{"id": '):
        if not {"id", "pair", "winner", "consistent", "games"} <= row.keys() or not isinstance(row.get("settings"), dict):
            raise BadInput(f"--out: {path} line {number} is no judgment that this command wrote: give another file")
        check_same(row["settings"], recorded, path, "--out")
        if number > len(heads) or not heads[number - 1].items() <= row.items():
            raise BadInput(f"--out: {path} line {number} judges pair {row['id']}, not pair {number} of the input: give another file")
        add_row(totals, row)
    return totals


def check_same(before, settings, path, flag):
    """BadInput where a file was made with other settings than the present ones."""
    for name, value in settings.items():
        if before.get(name) != value:
            raise BadInput(f"--{name}: {path} was made with {before.get(name)!r}, not {value!r}: use that, or another {flag}")


def own_rows(path, flag, beginning):
    """Yields (line number, row) of a JSON-lines file that a command adds to, creating it. A last line that was cut off is removed when the
    caller has taken all rows without complaint, if it begins as those of the command do: no other file is shortened. Raises BadInput."""
    try:
        with open(path, "a+b") as file:
            file.seek(0)
            *lines, rest = file.read().split(b"\n")
    except OSError as error:
        raise BadInput(f"{flag}: {path} cannot be written ({error.strerror}): give another file") from error
    cut_off = rest.startswith(beginning[: len(rest)])
    for number, line in enumerate(lines if cut_off else [*lines, rest], start=1):
        yield number, cli.parse_json(line, f"{flag}: {path} line {number}")
    if rest:
        os.truncate(path, os.path.getsize(path) - len(rest))


if __name__ == "__main__":
    cli.run(main)
