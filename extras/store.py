"""Where `extras.make_data` keeps its rows, and the data formats that only it reads.

An interrupted command continues from the rows of OUT.partial.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

import cli
import data
import formats
from cli import BadInput, setting
from data import checked_text, load_pairs
from formats import to_messages, two_answers
from judge_file import check_paths
from questions import Format
from ranking import lock
from resume import model_hash, resumable_rows
from runlog import append_rows, write_atomically

# ---- formats that only data making meets (formats.py reads the others) ----


def step_pairs(row, place):
    """xinlai/Math-Step-DPO-10K: two solutions that share their first steps."""
    steps = checked_text(row["initial_reason_steps"], "initial_reason_steps", place)
    for side in ("chosen", "rejected"):
        row[side] = steps + checked_text(row.pop(f"full_{side}"), f"full_{side}", place)
    return two_answers(row, place, "prompt", "chosen", "rejected", 0)


def code_pairs(row, place):
    return two_answers(row, place, "input", "accepted", "rejected", 0)


SINGLE_TURN = re.compile(
    r"\[Client Question\]\n(.*?)\n\n"
    r"\[The Start of Chatbot A's Response\]\n(.*)\n\[The End of Chatbot A's Response\]\n\n"
    r"\[The Start of Chatbot B's Response\]\n(.*)\n\[The End of Chatbot B's Response\]",
    re.DOTALL,
)
CONVERSATIONS = re.compile(
    r"\[The Start of the Conversation between Chatbot A and the Client\]\n(.*)\n"
    r"\[The End of the Conversation between Chatbot A and the Client\]\n\n"
    r"\[The Start of the Conversation between Chatbot B and the Client\]\n(.*)\n"
    r"\[The End of the Conversation between Chatbot B and the Client\]",
    re.DOTALL,
)


def rm_r1_prompt(row, place):
    """gaotang/RM-R1-...: ready prompts, taken apart again.

    Its conversations call one side "Chabot B" where side A is the better one: the names are
    removed. Returns None where the two conversations differ in more than their last answer.
    """
    label = data.label_of(row, "winner", place, {"model_a": 0, "model_b": 1})
    text = to_messages(row.pop("context_messages"), "context_messages", place)[-1]["content"]
    single, conversations = SINGLE_TURN.search(text), CONVERSATIONS.search(text)
    if single:
        question, *answers = single.groups()
        return data.Pair("", [{"role": "user", "content": question}], tuple(answers), label)
    if not conversations:
        raise BadInput(
            f"{place}: context_messages holds no blocks of Chatbot A and B: give the prompts as "
            "they were published"
        )
    first, second = map(turns_of, conversations.groups())
    for turns in (first, second):
        if not turns or turns[-1]["role"] != "assistant":
            return None
    if first[:-1] != second[:-1]:
        return None
    return data.Pair("", first[:-1], (first[-1]["content"], second[-1]["content"]), label)


def turns_of(conversation):
    """The messages of a text of lines "User: ..." and "Chatbot A: ..."."""
    pieces = re.split(r"(?:^|\n)(User|Cha(?:t?)bot [AB]): ", conversation)[1:]
    turns = []
    for speaker, content in zip(pieces[::2], pieces[1::2]):
        role = "user" if speaker == "User" else "assistant"
        turns.append({"role": role, "content": content})
    return turns


formats.FORMATS[:0] = [
    Format("Math-Step-DPO", "prompt initial_reason_steps full_chosen full_rejected", step_pairs),
    Format("Code-Preference-Pairs", "input accepted rejected", code_pairs),
    Format("RM-R1 prompts", "context_messages winner", rm_r1_prompt),
]


# ---- files ----

FREE_TO_CHANGE = "base_url", "second_base_url"  # between two calls: a server may move


@dataclass
class Base:
    data: Optional[str] = setting(None, "files or hub datasets, joined by commas")
    out: Optional[str] = setting(
        None, "JSON lines to write; OUT.report.json has settings and counts"
    )
    seed: int = setting(0, "decides everything that is random")


class Store:
    """OUT in the making: rows by key in OUT.partial until `finish` writes OUT.

    The first line of OUT.partial has the settings. Raises BadInput where OUT or OUT.partial was
    made with other settings. `done`: OUT is there already.
    """

    def __init__(self, command, settings):
        self.out = Path(settings.out)
        self.partial = self.out.with_name(self.out.name + ".partial")
        self.report = self.out.with_name(self.out.name + ".report.json")
        self.rows = {}
        given = asdict(settings)
        self.settings = {"command": command}
        for name, value in given.items():
            if name not in ("out", "concurrency", "price_in", "price_out"):
                self.settings[name] = value
        self.settings["inputs"] = hashes_of_inputs(given)
        if command == "sample" and given["model"] and not given["base_url"]:
            self.settings["model_hash"] = model_hash(given["model"])
        check_paths(given["data"], settings.out)
        self.done = self.out.exists()
        folder = next(path for path in self.out.absolute().parents if path.exists())
        if self.out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise BadInput(f"--out: {self.out} cannot be written: give another file")
        earlier = self.earlier_settings()
        if earlier is not None:
            self.check_same(earlier)
        self.fresh = earlier is None

    def earlier_settings(self):
        """Those of an earlier call, whose rows are read; None if there was none."""
        if self.done:
            if not self.report.exists():
                raise BadInput(f"--out: {self.out} was not made by this command: give another file")
            text = cli.read_text(self.report, "--out")
            return cli.parse_json(text, self.report).get("settings")
        if self.partial.exists():
            rows = [row for _, row in resumable_rows(self.partial, "--out")]
            self.rows = {row["key"]: row for row in rows[1:]}
            return rows[0] if rows else None
        return None

    def check_same(self, earlier):
        before = {"model_hash": self.settings.get("model_hash")}  # of older versions: unknown
        for name, value in self.settings.items():
            if name not in FREE_TO_CHANGE and earlier.get(name, before.get(name)) != value:
                flag = name.removesuffix("_hash")
                raise BadInput(
                    f"--{flag}: {self.out} was begun with {earlier.get(name)!r}, not {value!r}: "
                    "use that, or another --out"
                )

    def add(self, rows):
        """Writes rows, each with its "key", to disk before the next ones are made."""
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        if self.fresh:
            self.partial.touch()
            rows = [self.settings, *rows]
        lock(self.partial)
        append_rows(self.partial, rows, is_new=False)
        self.rows.update((row["key"], row) for row in rows[self.fresh :])
        self.fresh = False

    def finish(self, lines, counts, **more):
        """Writes the report and OUT, completely or not at all, and prints the counts.

        OUT is written last: it says that everything is done.
        """
        self.out.parent.mkdir(parents=True, exist_ok=True)
        report = {"settings": self.settings, "counts": counts} | more
        write_atomically(self.report, json.dumps(report, indent=1, allow_nan=False) + "\n")
        # OUT.partial holds the rows, so OUT is not written through a file of that name.
        unfinished = self.out.with_name(self.out.name + ".new")
        write_atomically(unfinished, "".join(line + "\n" for line in lines))
        unfinished.replace(self.out)
        self.partial.unlink(missing_ok=True)
        print(json.dumps(counts))


def hashes_of_inputs(given):
    """{file: start of its SHA-256} of the settings that name files; not those of a hub."""
    hashes = {}
    for name in ("data", "judged", "against"):
        for part in given[name].split(",") if given.get(name) else []:
            path = Path(part.strip())
            if not path.exists():  # FILE=WEIGHT of a mixture
                path = Path(part.partition("=")[0].strip())
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    hashes[str(file)] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return hashes


def named_pairs(name, keep_ties=False):
    """load_pairs; a row's own field "source" is its source: parts of a mixture keep their names."""
    pairs = load_pairs(name, keep_ties=keep_ties)
    for pair in pairs:
        pair.source = str(pair.meta.get("source") or pair.source)
    return pairs
