"""What models write for `extras.make_data`: answers of a policy to questions, and judgments of a teacher."""

import json
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Literal, Optional

import tqdm

import data
from backends import load_model
from chat import decode_completion, encode_chat, load_tokenizer, opens_think, stop_token_ids
from checkpoint import check_model_folder, resolve_model
from cli import BadInput, setting
from data import load_questions
from extras.endpoint import Endpoint
from extras.store import Base, named_pairs
from questions import question_key
from rewards import final_answer
from rm_r1 import format_rates, task_type
from seeding import stable_hash, uniform
from styles import judge_messages, load_style
from verdicts import VERDICTS, parse_verdict

CHUNK = 32  # questions that are answered and written together
BOXING = "Please reason step by step, and put your final answer within \\boxed{}."
TOLD = re.compile(
    r"(?i)\b((correct|right|given|known|true|expected) (verdict|label)|(previous|earlier|other|another|wrong) "
    r"(judge|judge?ment|verdict|evaluation)|(was|were|been|am|as) (told|instructed|informed)|(note|hint) (says|tells|states|above))\b"
)


# ---- answers of a policy ----


@dataclass
class Sample(Base):
    model: Optional[str] = setting(
        None, "who answers: Hugging Face folder, or the name behind --base_url"
    )
    base_url: Optional[str] = setting(None, "OpenAI-compatible server")
    concurrency: int = setting(16, "requests under way at once")
    num_answers: int = setting(8, "answers to each question")
    temperature: float = setting(1.0, "of the sampling")
    max_completion_length: int = setting(
        1024, "tokens of an answer at most; longer ones are counted and make no pair"
    )
    instruction: str = setting(BOXING, "put behind each question; empty: nothing")
    limit: Optional[int] = setting(None, "so many questions, chosen by a hash")
    chunk: int = setting(
        CHUNK, "questions that the own sampler answers and writes together: a kill loses no more"
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "auto: bf16 where the hardware is fast at it"
    )


def sample(settings, store):
    if not settings.model:
        raise BadInput("--model: give the model that answers")
    for name in ("num_answers", "max_completion_length", "concurrency", "chunk"):
        if getattr(settings, name) < 1:
            raise BadInput(f"--{name}: must be at least 1, got {getattr(settings, name)}")
    questions, distinct = load_questions(settings.data), {}
    for question in questions:
        distinct.setdefault(question_key(question), question)
    chosen = set(
        sorted(distinct, key=lambda key: uniform(f"limit:{settings.seed}:{key}"))[: settings.limit]
    )
    asked = [distinct[key] for key in distinct if key in chosen]
    failed = (answers_of_server if settings.base_url else answers_of_model)(asked, settings, store)
    if failed:
        raise RuntimeError(
            f"{failed} questions got no answer from the server; the others are kept: call again to go on"
        )
    rows = [store.rows[question.id] for question in asked]
    counts = {"questions": len(rows), "repeated": len(questions) - len(distinct)} | Counter(
        status for row in rows for status in row["status"]
    )
    store.finish((json.dumps(row, ensure_ascii=False) for row in rows), counts)


def prompt_of(question, settings):
    """The question's messages with the instruction behind the last one."""
    *before, last = question.messages
    return [
        *before,
        last
        | {
            "content": f"{last['content']}\n\n{settings.instruction}"
            if settings.instruction
            else last["content"]
        },
    ]


def checked_rows(questions, texts, finished, settings):
    """Rows for the store. texts[question][answer]; finished: "stop", "length" or "refused" each. A verifier error is no wrong answer."""
    from verify import check_answers

    rows = []
    for question, own, reasons in zip(questions, texts, finished, strict=True):
        candidates = [final_answer(answer) for answer in own]
        status = [
            reason
            if reason == "refused"
            else "truncated"
            if reason == "length"
            else "empty"
            if not candidate
            else "unchecked"
            for candidate, reason in zip(candidates, reasons)
        ]
        rows.append(
            {
                "key": question.id,
                "id": question.id,
                "messages": question.messages,
                "answer": question.answer,
                "source": question.source,
                "candidates": candidates,
                "status": status,
                "generators": [settings.model] * len(own),
            }
        )
    asked = [
        (row, index)
        for row in rows
        if row["answer"] is not None
        for index, status in enumerate(row["status"])
        if status == "unchecked"
    ]
    verdicts = check_answers(
        [row["candidates"][index] for row, index in asked], [row["answer"] for row, _ in asked]
    )
    for (row, index), verdict in zip(asked, verdicts):
        row["status"][index] = {True: "right", False: "wrong", None: "verifier error"}[verdict]
    return rows


def answers_of_model(questions, settings, store):
    """Chunks are cut by position and sampled whole, since the last bits of a logit may depend on the batch. Returns 0 failures."""
    from sampler import generate
    from seeding import hash64

    folder = resolve_model(settings.model)
    context = check_model_folder(folder).get("max_position_embeddings") or sys.maxsize
    tokenizer, model = load_tokenizer(folder), None
    stops = stop_token_ids(tokenizer, folder)
    bar = tqdm.tqdm(total=len(questions), initial=len(store.rows), unit="question", disable=None)
    for start in range(0, len(questions), settings.chunk):
        chunk = questions[start : start + settings.chunk]
        if all(question.id in store.rows for question in chunk):
            continue
        model = model or load_model(folder, settings.device, settings.dtype)
        prompts = [encode_chat(tokenizer, prompt_of(question, settings)) for question in chunk]
        fits = [len(prompt) + settings.max_completion_length <= context for prompt in prompts]
        seeds = [hash64(settings.seed, stable_hash(question.id)) for question in chunk]
        drawn = iter(
            generate(
                model,
                [prompt for prompt, fit in zip(prompts, fits) if fit],
                settings.num_answers,
                settings.max_completion_length,
                settings.temperature,
                stop_token_ids=stops,
                seed=[seed for seed, fit in zip(seeds, fits) if fit],
            )
        )
        texts, reasons = [], []
        for prompt, fit in zip(prompts, fits):
            completions = next(drawn) if fit else []
            opened = "<think>" * opens_think(tokenizer, prompt)
            texts.append(
                [opened + decode_completion(tokenizer, one.tokens, stops) for one in completions]
                if fit
                else [""] * settings.num_answers
            )
            reasons.append(
                [one.finish_reason for one in completions]
                if fit
                else ["refused"] * settings.num_answers
            )
        store.add(checked_rows(chunk, texts, reasons, settings))
        bar.update(len(chunk))
    bar.close()
    return 0


def answers_of_server(questions, settings, store):
    """A question is written when all its answers are there. Returns how many questions the server failed at in passing."""
    todo = [question for question in questions if question.id not in store.rows]
    requests = [
        {
            "messages": prompt_of(question, settings),
            "max_tokens": settings.max_completion_length,
            "temperature": settings.temperature,
            "seed": (stable_hash(settings.seed, question.id) + number) % 2**31,
        }
        for question in todo
        for number in range(settings.num_answers)
    ]
    replies, failed = {}, set()
    for index, reply in Endpoint(settings.base_url, settings.model, settings.concurrency).complete(
        requests
    ):
        number = index // settings.num_answers
        replies.setdefault(number, {})[index % settings.num_answers] = reply
        failed |= {number} if reply.error and reply.transient else set()
        if len(replies[number]) == settings.num_answers and number not in failed:
            own = [replies[number].pop(order) for order in range(settings.num_answers)]
            reasons = ["refused" if reply.error else reply.finish_reason for reply in own]
            store.add(
                checked_rows([todo[number]], [[reply.text for reply in own]], [reasons], settings)
            )
    return len(failed)


# ---- chains of a teacher ----


@dataclass
class Chains(Base):
    model: Optional[str] = setting(None, "the teacher, by its name behind --base_url")
    base_url: Optional[str] = setting(None, "OpenAI-compatible server")
    second_model: Optional[str] = setting(
        None,
        "told the right verdict, it redoes what the first one got wrong; none: that is dropped",
    )
    second_base_url: Optional[str] = setting(
        None,
        "of the second teacher; default: --base_url. Its key: SECOND_API_KEY, else OPENAI_API_KEY",
    )
    style: str = setting("rm_r1", "judging prompt, which the student will see")
    concurrency: int = setting(16, "requests under way at once")
    temperature: float = setting(1.0, "of the sampling")
    max_completion_length: int = setting(8192, "tokens of a chain at most; longer ones are dropped")
    limit: Optional[int] = setting(None, "the first so many pairs")


def chains(settings, store):
    """RM-R1, section 2.3.1: a chain is kept if its verdict is right and its format whole. What stands in the result is the student's own
    prompt and the chain behind the teacher's thinking: never the hint that the second teacher got."""
    for name in ("model", "base_url"):
        if not getattr(settings, name):
            raise BadInput(f"--{name}: give the teacher's server and its name there")
    style = load_style(settings.style)
    pairs = [pair for pair in named_pairs(settings.data) if pair.label is not None][
        : settings.limit
    ]
    orders = data.balanced_orders(pairs, settings.seed)
    cases = {
        pair.id: (
            judge_messages(style, pair.messages, *(pair.answers[index] for index in order)),
            order.index(pair.label) + 1,
        )
        for pair, order in zip(pairs, orders)
    }
    failed = ask_teacher(
        1,
        {name: case[0] for name, case in cases.items()},
        settings.base_url,
        settings.model,
        cases,
        style,
        settings,
        store,
    )
    if settings.second_model and not failed:
        wrong = {
            name: hinted(prompt, right, store.rows[f"1:{name}"]["text"], style)
            for name, (prompt, right) in cases.items()
            if store.rows[f"1:{name}"]["fate"] == "wrong"
        }
        failed = ask_teacher(
            2,
            wrong,
            settings.second_base_url or settings.base_url,
            settings.second_model,
            cases,
            style,
            settings,
            store,
        )
    if failed:
        raise RuntimeError(
            f"{failed} pairs got no chain from the server; the others are kept: call again to go on"
        )
    kept = [
        (pair, row)
        for pair in pairs
        for stage in (1, 2)
        if (row := store.rows.get(f"{stage}:{pair.id}")) and row["fate"] == "kept"
    ]
    teachers = {"1": settings.model, "2": settings.second_model}
    made = [
        {
            "id": pair.id,
            "source": pair.source,
            "teacher": teachers[row["key"][0]],
            "messages": [*cases[pair.id][0], {"role": "assistant", "content": row["text"]}],
        }
        for pair, row in kept
    ]
    fates = Counter(f"teacher {row['key'][0]}: {row['fate']}" for row in store.rows.values())
    if not made:
        raise BadInput(
            f"--data: no chain of {len(pairs)} pairs can be kept ({dict(fates)}): read {store.partial}, and take another teacher or --style"
        )
    store.finish(
        (json.dumps(row, ensure_ascii=False) for row in made),
        {"pairs": len(pairs), "chains": len(kept)} | dict(sorted(fates.items())),
        format=format_rates([row["text"] for _, row in kept]),
    )


def ask_teacher(stage, prompts, base_url, model, cases, style, settings, store):
    """Stores the chains of prompts {id: messages} with their fates; returns how many the server failed at in passing."""
    todo = [name for name in prompts if f"{stage}:{name}" not in store.rows]
    requests = [
        {
            "messages": prompts[name],
            "max_tokens": settings.max_completion_length,
            "temperature": settings.temperature,
            "seed": stable_hash(settings.seed, stage, name) % 2**31,
        }
        for name in todo
    ]
    failed, key = (
        0,
        "SECOND_API_KEY" if stage == 2 and "SECOND_API_KEY" in os.environ else "OPENAI_API_KEY",
    )
    for index, reply in (
        Endpoint(base_url, model, settings.concurrency, key=key).complete(requests) if todo else ()
    ):
        if reply.error and reply.transient:
            failed += 1
            continue
        chain = final_answer(reply.text)
        fate = (
            "refused"
            if reply.error
            else "truncated"
            if reply.finish_reason == "length"
            else fate_of(chain, cases[todo[index]][1], style, stage)
        )
        store.add([{"key": f"{stage}:{todo[index]}", "fate": fate, "text": chain}])
    return failed


def fate_of(chain, right, style, stage):
    """kept, wrong, malformed, or contaminated: the second teacher speaks of what it was told."""
    verdict = parse_verdict(chain, style)
    if (
        verdict is None
        or all(tag in style.system for tag in ("<type>", "<solution>"))
        and not task_type(chain)[1]
    ):
        return "malformed"
    if verdict != right:
        return "wrong"
    return "contaminated" if stage == 2 and TOLD.search(chain) else "kept"


def hinted(prompt, right, wrong_chain, style):
    """The prompt with the right verdict and the wrong chain behind it, as RM-R1 shows them to o3."""
    verdict = VERDICTS[style.verdict][right - 1]
    hint = (
        f"\n\n(A note that the reader of your evaluation will not see. The response that is better here is the one that {verdict} names. "
        "Another judge chose the other one; what it wrote follows. Write the evaluation of a careful judge who finds out by itself which "
        f"response is better, in the format asked for above, and mention neither this note nor that judge.)\n\n{wrong_chain}"
    )
    return [*prompt[:-1], prompt[-1] | {"content": prompt[-1]["content"] + hint}]
