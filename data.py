"""Preference and verifiable data: every public format becomes a Pair or a Question.

`load_pairs` and `load_questions` read .jsonl, .json, .csv (each also .gz), .parquet, a folder, several joined by commas (one by one), or a
dataset of the Hugging Face hub, `owner/name[/data_dir][:config][@split]`. The first row of a file decides its format (FORMATS); every later
row must fit. What cannot be read is a BadInput that names file, line and field; what is left out on purpose is counted on standard error.
In most sets the better answer comes first: whoever shows a Pair to a judge takes the order from `place` or (whole sets) `balanced_orders`.
"""

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from cli import BadInput, note, parse_json
from seeding import uniform


@dataclass
class Pair:
    """Two answers to one prompt. `label` is the index of the better one: 0 or 1, 0.5 for a tie, None where nobody judged."""

    id: str
    messages: list  # the prompt: [{"role": ..., "content": ...}, ...]
    answers: tuple  # (str, str)
    label: float | None = None
    source: str = ""  # name of the file without its ending, or the hub name
    meta: dict = field(
        default_factory=dict
    )  # the row's other fields; "generators": who wrote answer 0 and answer 1, where known


@dataclass
class Question:
    """A prompt with a checkable `answer`, or with `candidates` and their `scores` (higher is better); None where there is none."""

    id: str
    messages: list
    answer: str | None = None
    candidates: list | None = None
    scores: list | None = None
    source: str = ""
    meta: dict = field(
        default_factory=dict
    )  # "generators" and "styles" run parallel to the candidates


def text(value, name, place):
    """A string that UTF-8 can hold: half a surrogate pair (JSON can write one) would only fail much later, inside a tokenizer."""
    if not isinstance(value, str) or re.search("[\ud800-\udfff]", value):
        raise BadInput(
            f'{place}: {name} is {value!r:.80}, expected text: write it in quotes ("" if empty), without half surrogates'
        )
    return value


def choice(row, name, place, meaning):
    """Looks a label up in `meaning`: what the file writes -> index of the better answer. csv writes numbers as text."""
    value = row.get(name)
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,3}(\.\d{1,3})?", value):
        value = float(value)
    if isinstance(value, (bool, list, dict)) or value not in meaning:  # bool: True == 1 in Python
        raise BadInput(
            f"{place}: {name} is {value!r:.80}, expected one of {json.dumps(list(meaning))}: correct the row"
        )
    return meaning[value]


def conversation(value, name, place):
    """A prompt as a list of messages; plain text is one user message. Fields other than role and content are left behind."""
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    roles = (
        [isinstance(message, dict) and message.get("role") for message in messages]
        if isinstance(messages, list)
        else []
    )
    if not roles or not all(role in ["system", "user", "assistant", "tool"] for role in roles):
        raise BadInput(
            f"{place}: {name} is {value!r:.120}, expected text or messages of role system, user, assistant or tool: correct it"
        )
    return [
        {"role": role, "content": text(message.get("content"), f"content in {name}", place)}
        for role, message in zip(roles, messages)
    ]


# Readers: (copy of a row, place) -> Pair, Question, or None if it holds two prompts. They pop what they use; what is left becomes meta.


def two_answers(row, place, prompt, first, second, label):
    prompt, answers = (
        present(row, prompt),
        (text(row.pop(first), first, place), text(row.pop(second), second, place)),
    )
    return Pair("", conversation(row.pop(prompt), prompt, place), answers, label)


def several_answers(messages, answers, scores, place, answer=None):
    sizes = [
        len(values) if isinstance(values, list) else 0
        for values in (answers, answers if scores is None else scores)
    ]
    if not 0 < sizes[0] == sizes[1] or not all(
        type(score) in (bool, int, float) and abs(score) < 1e300 for score in scores or []
    ):
        raise BadInput(
            f"{place}: answers {answers!r:.60}, scores {scores!r:.60}: expected a list of answers, a number for each: correct"
        )
    answers = [
        text(value, f"answer {number} of {len(answers)}", place)
        for number, value in enumerate(answers, start=1)
    ]
    return Question("", messages, answer, answers, scores and [float(score) for score in scores])


def pandalm(row, place):
    """The majority of three annotators, or else a tie (never in testset-v1). Answers "True" became JSON booleans there: back to text."""
    row.update(
        {name: str(row[name]) for name in ("response1", "response2") if isinstance(row[name], bool)}
    )
    row["instruction"] = "\n\n".join(
        text(row[name], name, place)
        for name in ("instruction", "input")
        if row.get(name) not in (None, "")
    )
    votes = [choice(row, f"annotator{number}", place, {0: 0.5, 1: 0, 2: 1}) for number in (1, 2, 3)]
    row.update(
        {"generators": str(row["cmp_key"]).split("_")}
        if str(row.get("cmp_key")).count("_") == 1
        else {}
    )
    return two_answers(
        row,
        place,
        "instruction",
        "response1",
        "response2",
        next((vote for vote in votes if votes.count(vote) > 1), 0.5),
    )


def prompt_and_answer(value, name, place, transcripts):
    """One side of a preference -> (messages in front, answer); hh-rlhf transcripts are cut at the last "\\n\\nAssistant:"."""
    if isinstance(value, str):
        before, mark, answer = f"\n\n{text(value, name, place).lstrip()}".rpartition(
            "\n\nAssistant:"
        )
        turns = re.split(
            r"\n\n(Human|Assistant):", before
        )  # "", speaker, words, speaker, words, ...
        if not transcripts or not mark or turns[0] or turns[1:2] != ["Human"]:
            return [], value
        roles = [{"Human": "user", "Assistant": "assistant"}[speaker] for speaker in turns[1::2]]
        return [
            {"role": role, "content": words.strip()} for role, words in zip(roles, turns[2::2])
        ], answer.strip()
    messages = conversation(value, name, place)
    if messages[-1]["role"] != "assistant":
        raise BadInput(
            f"{place}: {name} ends with a message of role {messages[-1]['role']}: the last one must be the assistant's answer"
        )
    return messages[:-1], messages[-1]["content"]


def preference(row, place):
    """TRL, UltraFeedback, Skywork, RewardBench, hh-rlhf. Without a prompt field, the messages in front of the answers are the prompt. Equal
    scores are a tie. Sides with different prompts (5 of 2,312 harmless test rows of hh-rlhf) cannot be compared: None."""
    chosen, rejected, name = row.pop("chosen"), row.pop("rejected"), present(row, PROMPT)
    prompt = conversation(row.pop(name), name, place) if name else []
    if name and all(
        isinstance(side, list) and side and isinstance(side[0], str) for side in (chosen, rejected)
    ):  # RM-Bench, RewardBench 2
        row.update(
            {"styles": [0, 1, 2, 0, 1, 2]} if len(chosen) == len(rejected) == 3 else {}
        )  # concise, detailed, markdown
        return several_answers(
            prompt, chosen + rejected, [1] * len(chosen) + [0] * len(rejected), place
        )
    (before, first), (other, second) = (
        prompt_and_answer(*side, place, not name)
        for side in ((chosen, "chosen"), (rejected, "rejected"))
    )
    if type(chosen) is not type(rejected) or not (prompt or before or other):
        problem = (
            "chosen and rejected differ in type"
            if type(chosen) is not type(rejected)
            else "prompt is missing"
        )
        raise BadInput(
            f"{place}: {problem} (chosen {chosen!r:.40}, rejected {rejected!r:.40}; other fields {list(row)!r:.80}): correct it"
        )
    if before != other:
        return None
    row.pop(
        "messages", None
    )  # UltraFeedback: chosen once more. Its lists repeat the prompt; TRL's begin behind it, with the assistant:
    messages = before if before and before[0]["role"] != "assistant" else prompt + before
    tied = row.get("score_chosen") is not None and row["score_chosen"] == row.get("score_rejected")
    return Pair("", messages, (first, second), 0.5 if tied else 0)


def rmb(row, place):
    """Pairwise {chosen, reject} and best-of-N {bon_best, loser_list}, each answer {answer, llm_name}: the first candidate is the best."""
    best, losers = (
        (row.pop("bon_best"), row.pop("loser_list"))
        if "bon_best" in row
        else (row.pop("chosen"), [row.pop("reject")])
    )
    candidates = [
        entry if isinstance(entry, dict) else {}
        for entry in [best, *(losers if isinstance(losers, list) else [losers])]
    ]
    row["generators"] = [entry.get("llm_name") for entry in candidates]
    messages = conversation(row.pop("conversation_input"), "conversation_input", place)
    return several_answers(
        messages,
        [entry.get("answer") for entry in candidates],
        [1] + [0] * (len(candidates) - 1),
        place,
    )


def question(row, place):
    """A prompt with an answer (GSM8K, MATH-500, Big-Math, WebInstruct, verl, DAPO, Tulu's RLVR), with candidates and scores, or alone.
    GSM8K's answer stands behind "####" (rationale kept in meta), or behind "A:" in OpenAI's model solutions to GSM8K TEST questions."""
    prompt, name = present(row, QUESTION), present(row, ANSWER)
    messages, answer = conversation(row.pop(prompt), prompt, place), row.pop(name, None)
    messages = (
        messages[:-1] if len(messages) > 1 and messages[-1]["role"] == "assistant" else messages
    )  # supervised sets end with it
    if name:
        answer = answer.get("ground_truth") if isinstance(answer, dict) else answer
        answer = str(answer) if type(answer) in (int, float) else text(answer, name, place).strip()
    candidates, scores = row.pop("candidates", None), row.pop("scores", None)
    solved = [
        key
        for key, value in row.items()
        if isinstance(value, dict) and {"is_correct", "solution"} <= value.keys()
    ]
    if solved:
        solutions = [row.pop(key) for key in solved]
        candidates, scores = (
            [solution[key] for solution in solutions] for key in ("solution", "is_correct")
        )
        row.update(generators=solved, test_set="GSM8K", question=messages[0]["content"])
    if answer and (solved or "####" in answer):
        row["rationale"], _, answer = map(
            str.strip, answer.rpartition("\nA:" if solved else "####")
        )
        answer = answer.replace(",", "")
    if name and not answer:
        raise BadInput(f"{place}: {name} has no answer in it: add it, or remove the field")
    return (
        Question("", messages, answer)
        if candidates is None
        else several_answers(messages, candidates, scores, place, answer)
    )


PROMPT, QUESTION, ANSWER = (
    "prompt|question|instruction|query",
    "problem|question|query|prompt|messages",
    "answer|ground_truth|reward_model",
)
ID_FIELDS = "id|pair_id|pair_uid|bon_uid|prompt_id|question_id|unique_id|uid|idx"
SIGN = {
    -3: 0,
    -2: 0,
    -1: 0,
    0: 0.5,
    1: 1,
    2: 1,
    3: 1,
}  # HelpSteer 2 and 3: negative means that the FIRST answer is better
# Name, required fields ("x|y": one of them), reader or meaning of the label (then the fields are prompt, answers, label). First fit wins
FORMATS = [
    ("HelpSteer3", "context response1 response2 overall_preference", SIGN),
    ("HelpSteer2 preference", "prompt response_1 response_2 preference_strength", SIGN),
    ("JudgeBench", "question response_A response_B label", {"A>B": 0, "B>A": 1, "A=B": 0.5}),
    ("LLMBar", "input output_1 output_2 label", {1: 0, 2: 1}),
    (
        "PPE human preference",
        "prompt response_1 response_2 winner",
        {"model_a": 0, "model_b": 1, "tie": 0.5, "tie (bothbad)": 0.5},
    ),
    (
        "PPE correctness",
        "prompt response_1 response_2 scores",
        lambda row, place: several_answers(
            conversation(
                row.pop("prompt"), "prompt", place
            ),  # response_1, response_2, ..., response_10, ...
            [
                row.pop(name)
                for name in sorted(
                    filter(re.compile(r"response_\d+").fullmatch, list(row)),
                    key=lambda name: (len(name), name),
                )
            ],
            row.pop("scores"),
            place,
        ),
    ),
    ("PandaLM", "instruction response1 response2 annotator1 annotator2 annotator3", pandalm),
    ("RMB best-of-N", "conversation_input bon_best loser_list", rmb),
    ("RMB pairwise", "conversation_input chosen reject", rmb),
    (
        "judge input",
        "query|messages a b",
        {0: 0, 1: 1, 0.5: 0.5, None: None, "": None},
    ),  # its label may be missing
    ("preference", f"{PROMPT} chosen rejected", preference),
    ("preference with the prompt inside", "chosen rejected", preference),
    ("question and candidates", f"{QUESTION} candidates", question),
    ("question and answer", f"{QUESTION} {ANSWER}", question),
    ("question alone", QUESTION, question),
]
ENDING = re.compile(r"(\.jsonl|\.json|\.csv|\.parquet)(\.gz)?$", re.IGNORECASE)


def present(row, names):
    """The first of the fields "x|y" that the row has and that is not null (tables fill up rows with null), or None."""
    return next((name for name in names.split("|") if row.get(name) is not None), None)


def missing(row, fields):
    return [names.replace("|", " or ") for names in fields.split() if present(row, names) is None]


def find_format(row):
    """The first entry of FORMATS that a row fits, or None. A prompt beside fields of unknown meaning is rather another format, misspelt."""
    alone = row.keys() <= {*f"{QUESTION}|{ID_FIELDS}|source|data_source|meta".split("|")}
    return next(
        (
            entry
            for entry in FORMATS
            if not missing(row, entry[1]) and (alone or entry[1] != QUESTION)
        ),
        None,
    )


def file_rows(path):
    """Yields (`line N` or `row N`, row) of one file, counted from 1."""
    kind, zipped = ENDING.search(path.name.lower()).groups()
    try:
        if kind == ".parquet":
            import pyarrow.parquet

            rows = (
                row
                for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1024)
                for row in batch.to_pylist()
            )
            yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))
            return
        content = (gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()).decode(
            "utf-8-sig"
        )
    except ImportError as error:
        raise BadInput(
            f"{path}: reading parquet needs the package pyarrow: pip install pyarrow"
        ) from error
    except (
        OSError,
        EOFError,
        ValueError,
        NotImplementedError,
        zlib.error,
    ) as error:  # among them pyarrow's and UnicodeDecodeError
        raise BadInput(
            f"{path}: cannot be read ({str(error)!r:.300}): check the path, save text as UTF-8, or fetch it again"
        ) from error
    if kind == ".csv":
        yield from csv_rows(path, content)
    elif kind == ".json" and (rows := json_rows(path, content)) is not None:
        yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))
    else:  # str.splitlines would also cut inside strings, at U+2028 for one
        lines = (
            (f"line {number}", line)
            for number, line in enumerate(content.split("\n"), start=1)
            if line.strip()
        )
        yield from ((place, parse_json(line, f"{path} {place}")) for place, line in lines)


def csv_rows(path, content):
    """The first line names the columns; a cell that begins a JSON list of messages is read as one. Rows are named by their last line."""
    csv.field_size_limit(2**31 - 1)  # the default refuses answers above 128 KiB
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    try:
        for row in reader:
            place = f"{path} line {reader.line_num}"
            if (
                None in row
                or None in row.values()
                or len(set(reader.fieldnames)) < len(reader.fieldnames)
            ):
                raise BadInput(
                    f"{place}: does not fit line 1, which names {len(reader.fieldnames)} columns: one cell each, no name twice"
                )
            row.update(
                {
                    name: parse_json(cell, f"{place}: {name}", (list,))
                    for name, cell in row.items()
                    if cell.startswith('[{"')
                }
            )
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise BadInput(
            f"{path} line {reader.line_num}: not valid csv ({error}): quote cells with commas or line breaks"
        ) from error


def json_rows(path, content):
    """The rows of a list, of an object with "data" or one list, or a single row; None for rows line by line, common in .json files too."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        if str(error).startswith("Extra data"):
            return None
        raise BadInput(
            f"{path}: not valid JSON ({error}): correct the file, or fetch it again"
        ) from error
    if isinstance(value, dict):
        lists = (
            [value["data"]]
            if "data" in value
            else [entry for entry in value.values() if isinstance(entry, list)]
        )
        value = [value] if find_format(value) else lists[0] if len(lists) == 1 else value
    if not isinstance(value, list):
        raise BadInput(
            f'{path}: expected a list of rows, or an object with one list such as "data", got {value!r:.80}: correct the file'
        )
    return value


def hub_rows(name, split):
    repository, folder, config, own_split = re.fullmatch(
        r"(?s)([^/:@]*(?:/[^/:@]*)?)(?:/([^:@]*))?(?::([^@]*))?(?:@(.*))?", name
    ).groups()
    try:
        import datasets

        rows = datasets.load_dataset(repository, config, data_dir=folder, split=own_split or split)
    except Exception as error:  # whatever the hub or the network raises, or the package is missing: the message says what
        raise BadInput(
            f"{name}: no such file, folder or hub dataset ({str(error)!r:.300}): check it, or pip install datasets"
        ) from error
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def sources(name_or_path, split):
    """Yields (name for messages, source, rows) of each file, of the files of a split in a folder, or of a hub dataset."""
    for name in (
        [str(name_or_path)]
        if os.path.exists(name_or_path)
        else map(str.strip, str(name_or_path).split(","))
    ):
        path, files = Path(os.path.expanduser(name)), [Path(os.path.expanduser(name))]
        if name and os.path.isdir(path):
            found = sorted(
                entry
                for entry in [*path.glob("*"), *path.glob("data/*")]
                if ENDING.search(entry.name)
            )
            starts = [
                [entry for entry in found if entry.name.startswith(split + end)]
                for end in (".", "-", "_")
            ]
            files = next(filter(None, starts), found)
            if (
                len({re.sub(r"-\d+-of-\d+\..*", "", entry.name) for entry in files}) != 1
            ):  # the shards of a split count as one
                names = ", ".join(str(entry.relative_to(path)) for entry in files) or "no data file"
                raise BadInput(
                    f"{path}: which file holds the split {split}? The folder has {names}: name one file"
                )
        elif not os.path.exists(path) and not ENDING.search(name) and re.match(r"\w", name):
            yield name, name, hub_rows(name, split)
            continue
        elif not ENDING.search(name):
            raise BadInput(
                f"{name}: no such file, or of unknown ending: give a .jsonl, .json, .csv (each also .gz) or .parquet"
            )
        yield from ((str(entry), ENDING.sub("", entry.name), file_rows(entry)) for entry in files)


def items_of(name_or_path, split, dropped):
    """Each row as Pair or Question, in order. Ids are the file's own or else SOURCE-LINE; one that comes again gets "-2", "-3", ..."""
    used, repeats = Counter(), set()
    for name, source, rows in sources(name_or_path, split):
        entry = None
        for place, row in rows:
            where, hint = f"{name} {place}", "the file began as" if entry else "nearest format:"
            if not isinstance(row, dict):
                raise BadInput(
                    f"{where}: expected an object with fields, got {row!r:.80}: correct the row"
                )
            entry = entry or find_format(row)
            title, fields, reader = entry or max(
                FORMATS[-2::-1],
                key=lambda known: len(known[1].split()) - 2 * len(missing(row, known[1])),
            )
            if not entry or missing(row, fields):
                where = (
                    f"{name} line 1" if re.search(r"\.csv(\.gz)?$", name, re.IGNORECASE) else where
                )  # the names of the columns
                raise BadInput(
                    f"{where}: {', '.join(missing(row, fields))} missing ({hint} {title}; it has {list(row)!r:.200}): add it"
                )
            rest, own, extra, names = (
                dict(row),
                present(row, ID_FIELDS),
                row.get("extra_info"),
                [*fields.split(), "label"],
            )
            item = (
                reader(rest, where)
                if callable(reader)
                else two_answers(rest, where, *names[:3], choice(row, names[3], where, reader))
            )
            repeat = (
                isinstance(extra, dict)
                and extra.get("index") is not None
                and item
                and (str(extra["index"]), question_key(item))
            )
            if (
                item is None or repeat and repeat in repeats
            ):  # DAPO-Math-17k holds each of its rows a hundred times
                dropped["rows with two different prompts" if item is None else "repeated rows"] += 1
                continue
            repeats.add(repeat)
            item.id = identity = (
                own
                and (
                    str(row[own]) if type(row[own]) in (int, float) else text(row[own], own, where)
                )
                or f"{source}-{place.split()[1]}"
            )
            while used[item.id]:
                used[identity] += 1
                item.id = f"{identity}-{used[identity]}"
            used[item.id] += 1
            item.source, item.meta = (
                source,
                {key: value for key, value in rest.items() if value is not None},
            )
            yield item
        if entry is None:
            raise BadInput(f"{name}: holds no rows: check the file")


def pairs_of(item, keep_ties, dropped):
    """A Pair itself; of a Question each better candidate (first) with each worse one: 3 x 3 in RM-Bench, best with each loser in RMB."""
    pairs, scores = ([item], []) if isinstance(item, Pair) else ([], item.scores or [])
    for i, j in (
        (i, j) for i, high in enumerate(scores) for j, low in enumerate(scores) if high > low
    ):
        parallel = {
            key: item.meta[key]
            for key in ("generators", "styles")
            if isinstance(item.meta.get(key), list)
        }
        meta = item.meta | {
            key: [values[i], values[j]]
            for key, values in parallel.items()
            if len(values) == len(scores)
        }
        name = f"{item.id}-{i}-{j}" if len(scores) > 2 else item.id
        pairs.append(
            Pair(
                name, item.messages, (item.candidates[i], item.candidates[j]), 0, item.source, meta
            )
        )
    decided = [pair for pair in pairs if keep_ties or pair.label != 0.5]
    kept = [
        pair
        for pair in decided
        if pair.answers[0].strip() != pair.answers[1].strip()
        or keep_ties
        and pair.label in (None, 0.5)
    ]
    dropped.update(
        {
            "ties": len(pairs) - len(decided),
            "identical answers": len(decided) - len(kept),
            "rows without a winner": not pairs,
        }
    )
    return kept


def load_pairs(name_or_path, split="train", limit=None, keep_ties=False):
    """The pairs of files, a folder or a hub dataset, in their order; with `limit` the first that are left after dropping. Raises BadInput.

    Dropped and counted: ties (unless keep_ties), and answers equal but for outer blanks (with keep_ties only if a label calls one better).
    """
    dropped = Counter()
    pairs = (
        pair
        for item in items_of(name_or_path, split, dropped)
        for pair in pairs_of(item, keep_ties, dropped)
    )
    return collect(pairs, limit, "pairs", name_or_path, dropped)


def load_questions(name_or_path, split="train", limit=None):
    """The questions of files, a folder or a hub dataset, in their order; a Pair becomes a question with two candidates. Raises BadInput."""
    dropped, scores = Counter(), {0: [1.0, 0.0], 1: [0.0, 1.0], 0.5: [0.5, 0.5]}
    questions = (
        item
        if isinstance(item, Question)
        else Question(
            item.id,
            item.messages,
            None,
            list(item.answers),
            scores.get(item.label),
            item.source,
            item.meta,
        )
        for item in items_of(name_or_path, split, dropped)
    )
    return collect(questions, limit, "questions", name_or_path, dropped)


def collect(items, limit, noun, name, dropped):
    if limit is not None and limit < 1:
        raise BadInput(f"limit is {limit}: ask for one or more of the {noun}, or leave it out")
    kept = list(islice(items, limit))
    remarks = [
        f"{number} {what} dropped"
        for what, number in dropped.items()
        if number or what in ("ties", "identical answers")
    ]
    if not kept:
        raise BadInput(
            f"{name}: no {noun} left ({', '.join(remarks) or 'nothing dropped'}): give a file of {noun}, or keep its ties"
        )
    remarks += (
        ["the questions are TEST questions of GSM8K"]
        if any(item.meta.get("test_set") == "GSM8K" for item in kept)
        else []
    )
    note(f"data: {len(kept)} {noun} from {name}" + (f" ({', '.join(remarks)})" if remarks else ""))
    return kept


def question_key(item):
    """What a split goes by: the whole prompt without system messages, case and blanks aside."""
    return " ".join(
        " ".join(turn["content"] for turn in item.messages if turn["role"] != "system")
        .casefold()
        .split()
    )


def split_by_question(items, held_out, seed=0):
    """(train, test) with no question in both, whatever the order of rows. `held_out`: a number (int) or a share (float) of the questions; a
    share takes those whose hash lies below it (at least one, not all): each falls on the same side in every file. Raises BadInput."""
    keys = [question_key(item) for item in items]
    ranks = {key: uniform(f"split:{seed}:{key}") for key in keys}
    below = min(max(sum(rank < held_out for rank in ranks.values()), 1), len(ranks) - 1)
    number = held_out if isinstance(held_out, int) else below if 0 < held_out < 1 else 0
    if not 0 < number < len(ranks):
        raise BadInput(
            f"held_out is {held_out} with {len(ranks)} questions: hold out a share below 1 or a number below {len(ranks)}"
        )
    test = set(sorted(ranks, key=ranks.get)[:number])
    return [item for item, key in zip(items, keys) if key not in test], [
        item for item, key in zip(items, keys) if key in test
    ]


def place(pair, seed=0):
    """The order in which to show a pair's answers, [0, 1] or [1, 0]: a coin of seed and id, blind to label and texts."""
    return [0, 1] if uniform(f"place:{seed}:{pair.id}") < 0.5 else [1, 0]


def balanced_orders(pairs, seed=0):
    """An order for each pair, [0, 1] or [1, 0], so that the better answer is shown first in half of the labelled pairs (an odd one aside).

    Sorted by label, longer answer and a hash of seed and id, every other pair shows the better one first: none of these tells its place.
    """
    strata = [
        (
            pair.label not in (0, 1),
            pair.label == 1,
            len(pair.answers[0]) > len(pair.answers[1]),
            uniform(f"order:{seed}:{pair.id}"),
        )
        for pair in pairs
    ]
    order, coin = (
        sorted(range(len(pairs)), key=strata.__getitem__),
        int(2 * uniform(f"order:{seed}")),
    )
    shown_first = {
        index: (rank + coin + (pairs[index].label == 1)) % 2 for rank, index in enumerate(order)
    }
    return [[shown_first[index], 1 - shown_first[index]] for index in range(len(pairs))]
