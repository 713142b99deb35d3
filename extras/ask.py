"""What models write for `extras.make_data`: answers of a policy, and judgments of a teacher."""

import os
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Literal, Optional

import cli
from backends import Progress, Usage, load_model, note_rest
from chat import decode_completion, encode_chat, load_tokenizer, opens_think, stop_token_ids
from checkpoint import check_model_folder, resolve_model
from cli import BadInput, note, setting
from data import balanced_orders, load_questions
from extras.endpoint import Endpoint
from extras.store import Base, named_pairs
from judge import check_prices, prices_of
from questions import question_key
from rewards import final_answer
from rm_r1 import format_rates, task_type
from runlog import json_line
from seeding import hash64, stable_hash, uniform
from styles import judge_messages, load_style
from verdicts import parse_verdict

# How a judge writes that the first or the second answer is better, by the rule of its style
BOXES = ("\\boxed{Assistant 1}", "\\boxed{Assistant 2}")
TAGS = ("<answer>[[A]]</answer>", "<answer>[[B]]</answer>")
VERDICTS = {"boxed": BOXES, "boxed_or_tie": BOXES, "answer_tag": TAGS}

CHUNK = 32  # questions that are answered and written together
FIRST_REQUESTS = 64  # after so many, a note says what the rest will take
BOXING = "Please reason step by step, and put your final answer within \\boxed{}."
MENTIONS_HINT = re.compile(
    r"(?i)\b("
    r"(correct|right|given|known|true|expected) (verdict|label)|"
    r"(previous|earlier|other|another|wrong) (judge|judge?ment|verdict|evaluation)|"
    r"(was|were|been|am|as) (told|instructed|informed)|"
    r"(note|hint) (says|tells|states|above)"
    r")\b"
)


# ---- what asking takes ----


@dataclass
class Asking(Base):
    concurrency: int = setting(16, "requests at the same time")
    price_in: Optional[float] = setting(None, "with --base_url: price of a million prompt tokens")
    price_out: Optional[float] = setting(None, "price of a million completion tokens")


def note_at_end(usage, model):
    """Notes what `model` has taken, however the command ends."""
    cli.at_end.callback(lambda: usage.calls and note(f"{model} took {usage.in_words()}"))


def replies_of(endpoint, requests):
    """Endpoint.complete, with a note on what the rest will take, and one on what all has taken."""
    note_at_end(endpoint.usage, endpoint.model)
    for done, result in enumerate(endpoint.complete(requests), start=1):
        yield result
        if done == FIRST_REQUESTS:
            note_rest(endpoint.usage, done, len(requests) - done, "request")


# ---- answers of a policy ----


@dataclass
class Sample(Asking):
    model: Optional[str] = setting(
        None, "who answers: Hugging Face folder, or the name behind --base_url"
    )
    base_url: Optional[str] = setting(None, "OpenAI-compatible server")
    num_answers: int = setting(8, "answers to each question")
    temperature: float = setting(1.0, "sampling temperature")
    max_completion_length: int = setting(
        1024, "at most so many tokens of an answer; longer ones are counted and make no pair"
    )
    instruction: str = setting(
        BOXING, "added after each question; empty: nothing", may_be_empty=True
    )
    limit: Optional[int] = setting(None, "only so many questions, chosen by a hash")
    chunk: int = setting(
        CHUNK, "questions that our sampler answers and writes together: a kill loses no more"
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "auto: bf16 where the hardware is fast at it"
    )


def sample(settings, store):
    if not settings.model:
        raise BadInput("--model: give the model that answers")
    if settings.num_answers > 1 and settings.temperature == 0:
        raise BadInput("--temperature: at 0 all answers to a question are equal: give more")
    check_prices(settings)
    questions, distinct = load_questions(settings.data), {}
    for question in questions:
        distinct.setdefault(question_key(question), question)
    by_hash = sorted(distinct, key=lambda key: uniform(f"limit:{settings.seed}:{key}"))
    chosen = set(by_hash[: settings.limit])
    asked = [question for key, question in distinct.items() if key in chosen]
    answer = answer_by_server if settings.base_url else answer_by_model
    failed = answer(asked, settings, store)
    if failed:
        raise RuntimeError(
            f"{failed} questions got no answer from the server; the others are kept: call again to "
            "continue"
        )
    rows = [store.rows[question.id] for question in asked]
    counts = {"questions": len(rows), "repeated": len(questions) - len(distinct)}
    counts |= Counter(status for row in rows for status in row["status"])
    store.finish(map(json_line, rows), counts)


def prompt_of(question, settings):
    """The question's messages, with the instruction after the last one."""
    if not settings.instruction:
        return question.messages
    *earlier, last = question.messages
    content = f"{last['content']}\n\n{settings.instruction}"
    return [*earlier, last | {"content": content}]


def initial_status(candidate, finish_reason):
    if finish_reason == "refused":
        return "refused"
    if finish_reason == "length":
        return "truncated"
    return "unchecked" if candidate else "empty"


def checked_rows(questions, texts, finish_reasons, settings):
    """Rows for the store, with the status of each answer.

    texts[question][answer]; finish_reasons likewise: "stop", "length" or "refused". An error of the
    verifier does not make an answer wrong.
    """
    from extras.verify import check_answers

    rows, unchecked = [], []
    for question, own_texts, reasons in zip(questions, texts, finish_reasons, strict=True):
        candidates = [final_answer(text) for text in own_texts]
        row = {
            "key": question.id,
            "id": question.id,
            "messages": question.messages,
            "answer": question.answer,
            "source": question.source,
            "candidates": candidates,
            "status": [initial_status(*known) for known in zip(candidates, reasons)],
            "generators": [settings.model] * len(own_texts),
        }
        rows.append(row)
        if question.answer is not None:
            for index, status in enumerate(row["status"]):
                if status == "unchecked":
                    unchecked.append((row, index))
    candidates = [row["candidates"][index] for row, index in unchecked]
    results = check_answers(candidates, [row["answer"] for row, _ in unchecked])
    for (row, index), correct in zip(unchecked, results):
        row["status"][index] = {True: "right", False: "wrong", None: "verifier error"}[correct]
    return rows


def answer_by_model(questions, settings, store):
    """Samples in chunks that are cut by position. Returns 0 failures.

    A chunk is sampled completely or not at all: the last bits of a logit may depend on the batch.
    """
    folder = resolve_model(settings.model)
    context = check_model_folder(folder).get("max_position_embeddings") or sys.maxsize
    tokenizer, model, usage = load_tokenizer(folder), None, Usage()
    note_at_end(usage, settings.model)
    with Progress("answering", "questions", len(questions), len(store.rows)) as progress:
        for start in range(0, len(questions), settings.chunk):
            chunk = questions[start : start + settings.chunk]
            if all(question.id in store.rows for question in chunk):
                continue
            model = model or load_model(folder, settings.device, settings.dtype)
            texts, reasons = sample_chunk(model, tokenizer, folder, chunk, context, settings, usage)
            store.add(checked_rows(chunk, texts, reasons, settings))
            progress.move_to(start + len(chunk))
    return 0


def sample_chunk(model, tokenizer, folder, questions, context, settings, usage):
    """(texts, finish reasons) of each question's answers; a prompt that is too long is refused."""
    from sampler import generate

    stops = stop_token_ids(tokenizer, folder)
    prompts = [encode_chat(tokenizer, prompt_of(question, settings)) for question in questions]
    fits = [len(prompt) + settings.max_completion_length <= context for prompt in prompts]
    if not all(fits):
        note(
            f"{fits.count(False)} of the next {len(fits)} questions are refused: their prompt and "
            f"--max_completion_length exceed the model's context of {context} tokens"
        )
    seeds = [hash64(settings.seed, stable_hash(question.id)) for question in questions]
    fitting, started = [prompt for prompt, fit in zip(prompts, fits) if fit], time.perf_counter()
    sampled = generate(
        model,
        fitting,
        settings.num_answers,
        settings.max_completion_length,
        settings.temperature,
        stop_token_ids=stops,
        seed=[seed for seed, fit in zip(seeds, fits) if fit],
    )
    usage.count(fitting, sampled, time.perf_counter() - started)
    sampled, texts, reasons = iter(sampled), [], []
    for prompt, fit in zip(prompts, fits):
        if not fit:
            texts.append([""] * settings.num_answers)
            reasons.append(["refused"] * settings.num_answers)
            continue
        completions = next(sampled)
        opening = "<think>" if opens_think(tokenizer, prompt) else ""
        texts.append(
            [opening + decode_completion(tokenizer, one.tokens, stops) for one in completions]
        )
        reasons.append([one.finish_reason for one in completions])
    return texts, reasons


def answer_by_server(questions, settings, store):
    """Writes a question when all its answers have arrived.

    Returns for how many questions the server failed for a passing reason.
    """
    missing, requests = [question for question in questions if question.id not in store.rows], []
    for question in missing:
        for number in range(settings.num_answers):
            request = {
                "messages": prompt_of(question, settings),
                "max_tokens": settings.max_completion_length,
                "temperature": settings.temperature,
                "seed": (stable_hash(settings.seed, question.id) + number) % 2**31,
            }
            requests.append(request)
    replies, failed = {}, set()
    endpoint = Endpoint(settings.base_url, settings.model, settings.concurrency)
    endpoint.usage.prices = prices_of(settings)
    for index, reply in replies_of(endpoint, requests):
        number, answer = divmod(index, settings.num_answers)
        own = replies.setdefault(number, {})
        own[answer] = reply
        if reply.error and reply.transient:
            failed.add(number)
        if len(own) == settings.num_answers and number not in failed:
            ordered = [own[answer] for answer in range(settings.num_answers)]
            del replies[number]
            texts = [reply.text for reply in ordered]
            reasons = ["refused" if reply.error else reply.finish_reason for reply in ordered]
            store.add(checked_rows([missing[number]], [texts], [reasons], settings))
    return len(failed)


# ---- chains of a teacher ----


@dataclass
class Chains(Asking):
    model: Optional[str] = setting(None, "the teacher, by its name behind --base_url")
    base_url: Optional[str] = setting(None, "OpenAI-compatible server")
    second_model: Optional[str] = setting(
        None,
        "gets the right verdict, and redoes what the first one got wrong; none: that is dropped",
    )
    second_base_url: Optional[str] = setting(
        None,
        "of the second teacher; default: --base_url. Its key: SECOND_API_KEY or OPENAI_API_KEY",
    )
    style: str = setting("rm_r1", "judging prompt, which the student will get")
    temperature: float = setting(1.0, "sampling temperature")
    max_completion_length: int = setting(
        8192, "at most so many tokens of a chain; longer ones are dropped"
    )
    limit: Optional[int] = setting(None, "only the first so many pairs")


def chains(settings, store):
    """Chains with a right verdict and a valid format (RM-R1, section 2.3.1).

    The result has the student's own prompt and the chain after the teacher's thinking, but never
    the hint that the second teacher got.
    """
    for name in ("model", "base_url"):
        if not getattr(settings, name):
            raise BadInput(f"--{name}: give the teacher's server and its name there")
    check_prices(settings)
    style = load_style(settings.style)
    pairs = [pair for pair in named_pairs(settings.data) if pair.label is not None]
    pairs = pairs[: settings.limit]
    prompts, right = {}, {}  # by the id of the pair
    for pair, order in zip(pairs, balanced_orders(pairs, settings.seed)):
        answers = [pair.answers[index] for index in order]
        prompts[pair.id] = judge_messages(style, pair.messages, *answers, pair.meta)
        right[pair.id] = order.index(pair.label) + 1
    failed = ask_teacher(1, prompts, right, style, settings, store)
    if settings.second_model and not failed:
        hinted_prompts = {}
        for name, prompt in prompts.items():
            row = store.rows[f"1:{name}"]
            if row["fate"] == "wrong":
                hinted_prompts[name] = hinted(prompt, right[name], row["text"], style)
        failed = ask_teacher(2, hinted_prompts, right, style, settings, store)
    if failed:
        raise RuntimeError(
            f"{failed} pairs got no chain from the server; the others are kept: call again to "
            "continue"
        )
    teachers = {1: settings.model, 2: settings.second_model}
    made, kept = [], []
    for pair in pairs:
        for stage, teacher in teachers.items():
            row = store.rows.get(f"{stage}:{pair.id}")
            if row and row["fate"] == "kept":
                reply = {"role": "assistant", "content": row["text"]}
                messages = [*prompts[pair.id], reply]
                source = {"id": pair.id, "source": pair.source, "teacher": teacher}
                made.append(source | {"messages": messages})
                kept.append(row["text"])
    fates = Counter(f"teacher {row['key'][0]}: {row['fate']}" for row in store.rows.values())
    if not made:
        raise BadInput(
            f"--data: no chain of {len(pairs)} pairs can be kept ({dict(fates)}): read "
            f"{store.partial}, and take another teacher or --style"
        )
    counts = {"pairs": len(pairs), "chains": len(kept)} | dict(sorted(fates.items()))
    store.finish(map(json_line, made), counts, format=format_rates(kept))


def ask_teacher(stage, prompts, right, style, settings, store):
    """Stores the chains for prompts {id: messages}, each with its fate.

    right: {id: the right verdict}. Returns for how many pairs the server failed for a passing
    reason.
    """
    base_url, model, key = settings.base_url, settings.model, "OPENAI_API_KEY"
    if stage == 2:
        base_url, model = settings.second_base_url or base_url, settings.second_model
        key = "SECOND_API_KEY" if "SECOND_API_KEY" in os.environ else key
    missing, requests = [name for name in prompts if f"{stage}:{name}" not in store.rows], []
    for name in missing:
        request = {
            "messages": prompts[name],
            "max_tokens": settings.max_completion_length,
            "temperature": settings.temperature,
            "seed": stable_hash(settings.seed, stage, name) % 2**31,
        }
        requests.append(request)
    if not requests:
        return 0
    failed = 0
    endpoint = Endpoint(base_url, model, settings.concurrency, key=key)
    endpoint.usage.prices = prices_of(settings) if stage == 1 else ()  # those of the first teacher
    for index, reply in replies_of(endpoint, requests):
        if reply.error and reply.transient:
            failed += 1
            continue
        name, chain = missing[index], final_answer(reply.text)
        if reply.error:
            fate = "refused"
        elif reply.finish_reason == "length":
            fate = "truncated"
        else:
            fate = fate_of(chain, right[name], style, stage)
        store.add([{"key": f"{stage}:{name}", "fate": fate, "text": chain}])
    return failed


def fate_of(chain, right, style, stage):
    """kept, wrong, malformed, or contaminated: the second teacher mentions its hint."""
    verdict = parse_verdict(chain, style)
    has_types = "<type>" in style.system and "<solution>" in style.system
    if verdict is None or (has_types and not task_type(chain)[1]):
        return "malformed"
    if verdict != right:
        return "wrong"
    return "contaminated" if stage == 2 and MENTIONS_HINT.search(chain) else "kept"


def hinted(prompt, right, wrong_chain, style):
    """The prompt, then the right verdict and the wrong chain, as RM-R1 shows them to o3."""
    verdict = VERDICTS[style.verdict][right - 1]
    hint = (
        "\n\n(A note that the reader of your evaluation will not see. The response that is better "
        f"here is the one that {verdict} names. Another judge chose the other one; what it wrote "
        "follows. Write the evaluation of a careful judge who finds out by itself which response "
        "is better, in the format asked for above, and mention neither this note nor that "
        f"judge.)\n\n{wrong_chain}"
    )
    return [*prompt[:-1], prompt[-1] | {"content": prompt[-1]["content"] + hint}]
