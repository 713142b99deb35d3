"""A judge behind HTTP: for a pair, for any OpenAI client, and for the groups of a trainer.

    python -m extras.serve_judge --model MODEL --port 8765

    POST /judge                 {"query": text or messages, "a": text, "b": text}, and "reference"
                                and "rubric" where the style shows them
    POST /v1/chat/completions   as OpenAI's: the judge's model answers the messages
    POST /get_reward            rewards of groups, see serve_reward.py
    GET  /v1/models, /health

/judge answers with what `judge.py --json` prints and {votes, text, prompt_tokens, tokens, seconds},
with --price_in and --price_out also the cost.
Chat messages that end with two turns of the assistant are a pair: the model gets the judge's prompt
with the two as Assistant 1 and 2. Other messages go to the model as they are, so that
`judge.py --base_url` works as well. No text can write a token of the chat template. http_server.py
has the limits of the server.
"""

import random
import time
from collections import Counter
from dataclasses import asdict, dataclass

import cli
from backends import cost_of
from chat import decode_completion, opens_think
from cli import BadInput, note
from data import checked_text
from extras.http_server import JudgingThread, Refusal, Server, batches
from extras.serve_reward import Settings, check, reward_of, reward_route
from formats import to_messages
from judge import as_pair, judge_of
from judge_file import optional_of
from styles import judge_messages
from verdicts import BOTH_ORDERS, vote_of

MAX_CHOICES = 128  # `n` of a request
# what a request may say; another field would change the answer, and is refused
CHAT_FIELDS = {"model", "messages", "max_tokens", "max_completion_tokens", "temperature"}
CHAT_FIELDS |= {"top_p", "n", "seed", "user", "stream", "logprobs"}


# ---- POST /judge ----


def read_pair(request, style):
    """The Pair of a request. Raises BadInput."""
    known = ["query", "messages", "a", "b", "id", *optional_of(style)]
    unknown = sorted(request.keys() - set(known))
    if unknown:
        raise BadInput(
            f"body: the judge does not read {unknown[0]!r:.80}: give some of {', '.join(known)}"
        )
    pair = as_pair(request, "body")
    if pair.answers[0] == pair.answers[1]:
        raise BadInput("body: a and b are identical: give two different answers")
    return pair


def pairs_judged_by(judge, settings):
    """A function from [(Pair, time of its arrival), ...] to answers."""

    def judge_pairs(requests):
        pairs = [pair for pair, _ in requests]
        # Raises BadInput, which is the answer to that request alone.
        prompts = [
            [judge.encode(pair, order, settings.max_completion_length) for order in BOTH_ORDERS]
            for pair in pairs
        ]
        judgments = judge.judge(
            pairs,
            num_votes=settings.num_votes,
            temperature=settings.temperature,
            max_completion_length=settings.max_completion_length,
            quiet=True,
        )
        answers = []
        for judgment, both, (_, since) in zip(judgments, prompts, requests, strict=True):
            prompt_tokens = num_prompt_tokens(judge, both, judgment.games)
            answer = answer_of(judgment, prompt_tokens, time.monotonic() - since)
            if settings.price_in is not None:
                answer["cost"] = None
                if prompt_tokens is not None:
                    prices = settings.price_in, settings.price_out
                    answer["cost"] = cost_of(prompt_tokens, answer["tokens"], *prices)
            answers.append(answer)
        return answers

    return judge_pairs


def num_prompt_tokens(judge, prompts, games):
    """Tokens of a pair's prompts; on a server, of each game's. None: the server does not say."""
    if judge.tokenizer is not None:
        return sum(map(len, prompts))
    counts = [game["prompt_tokens"] for game in games]
    return None if None in counts else sum(counts)


def answer_of(judgment, prompt_tokens, seconds):
    row = asdict(judgment)
    votes = [vote_of(game) for game in judgment.games]
    names = [{0: "a", 1: "b", None: "none"}.get(vote, vote) for vote in votes]
    counts = Counter({"a": 0, "b": 0, "none": 0})
    counts.update(names)
    deciding = names.index(row["winner"]) if row["winner"] in names else 0
    return row | {
        "votes": dict(counts),
        "text": judgment.games[deciding]["text"],  # of a game that voted for the winner
        "prompt_tokens": prompt_tokens,
        "tokens": sum(game["tokens"] for game in judgment.games),
        "seconds": round(seconds, 3),
    }


# ---- POST /v1/chat/completions ----


@dataclass
class Chat:
    """What a request asks of the model."""

    messages: list
    max_tokens: int | None
    temperature: float
    top_p: float
    n: int
    seed: int


def read_chat(request, style, name):
    """The Chat of a request. Raises BadInput, or Refusal for another model."""
    request = {key: value for key, value in request.items() if value is not None}
    for key in sorted(request.keys() - CHAT_FIELDS) + ["stream", "logprobs"]:
        if request.get(key):
            raise BadInput(f"unsupported parameter: {key!r:.80}: leave it out")
    if request.get("model") != name:
        raise Refusal(404, f"the model here is {name!r}, not {request.get('model')!r:.200}")
    turns = request.get("messages")
    if isinstance(turns, list):
        turns = [with_text(turn) if isinstance(turn, dict) else turn for turn in turns]
    messages = to_messages(turns, "messages", "body")
    if [message["role"] for message in messages[-2:]] == ["assistant", "assistant"]:
        first, second = (message["content"] for message in messages[-2:])
        messages = judge_messages(style, messages[:-2], first, second)
    max_tokens = request.get("max_completion_tokens", request.get("max_tokens"))
    return Chat(
        messages,
        None if max_tokens is None else number("max_tokens", max_tokens, 1, 2**31, int),
        number("temperature", request.get("temperature", 1.0), 0, 100),
        number("top_p", request.get("top_p", 1.0), 1e-6, 1),
        number("n", request.get("n", 1), 1, MAX_CHOICES, int),
        number("seed", request.get("seed", random.getrandbits(31)), -(2**63), 2**63, int),
    )


def with_text(turn):
    """A message whose content may be a list of text parts."""
    parts = turn.get("content")
    if isinstance(parts, list) and all(
        isinstance(part, dict) and part.get("type") == "text" for part in parts
    ):
        texts = [checked_text(part.get("text"), "text", "body: messages") for part in parts]
        return turn | {"content": "".join(texts)}
    return turn


def number(name, value, lowest, highest, kind=(int, float)):
    if isinstance(value, bool) or not isinstance(value, kind) or not lowest <= value <= highest:
        raise BadInput(f"body: {name} is {value!r:.80}: give a number from {lowest} to {highest}")
    return value


def chats_completed_by(judge, settings):
    """A function from [Chat, ...] to answers. Chats with the same options run as one batch."""
    backend = judge.backend

    def complete(chats):
        prompts, batched = [], {}
        for index, chat in enumerate(chats):
            prompts.append(backend.encode(chat.messages))
            room = judge.context - len(prompts[-1])
            limit = chat.max_tokens or min(settings.max_completion_length, room)
            if not 0 < limit <= room:
                raise BadInput(
                    f"the prompt has {len(prompts[-1])} tokens and max_tokens is {limit}: the "
                    f"context of this model is {judge.context}"
                )
            options = (chat.n, limit, chat.temperature, chat.top_p)
            batched.setdefault(options, []).append(index)
        answers = [None] * len(chats)
        for options, indices in batched.items():
            groups = sample(
                backend, [prompts[i] for i in indices], options, [chats[i].seed for i in indices]
            )
            for index, completions in zip(indices, groups, strict=True):
                answers[index] = chat_completion(
                    backend, settings.model, prompts[index], completions
                )
        return answers

    return complete


def sample(backend, prompts, options, seeds):
    from sampler import generate

    return generate(backend.model, prompts, *options, stop_token_ids=backend.stops, seed=seeds)


def chat_completion(backend, name, prompt, completions):
    """The answer in OpenAI's shape."""
    opening = "<think>" if opens_think(backend.tokenizer, prompt) else ""
    choices = []
    for index, completion in enumerate(completions):
        text = decode_completion(backend.tokenizer, completion.tokens, backend.stops)
        choices.append(
            {
                "index": index,
                "message": {"role": "assistant", "content": opening + text},
                "logprobs": None,
                "finish_reason": completion.finish_reason,
            }
        )
    num_tokens = sum(len(completion.tokens) for completion in completions)
    return {
        "id": f"chatcmpl-{random.getrandbits(64):016x}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": choices,
        "usage": {
            "prompt_tokens": len(prompt),
            "completion_tokens": num_tokens,
            "total_tokens": len(prompt) + num_tokens,
        },
    }


# ---- the server ----


def make_server(judge, settings):
    """A server that is bound and judges; the caller runs serve_forever."""
    thread, name = JudgingThread(), settings.model
    judge_ready = batches(pairs_judged_by(judge, settings))
    routes = {
        "POST /judge": lambda request: thread.add(
            judge_ready, (read_pair(request, judge.style), time.monotonic())
        ),
        "POST /get_reward": reward_route(thread, reward_of(judge, settings), settings),
        "GET /health": lambda request: {"status": "ok"},
    }
    if not settings.base_url:  # the model is here
        complete_ready = batches(chats_completed_by(judge, settings))
        model = {"id": name, "object": "model", "created": 0, "owned_by": "local"}
        routes["GET /v1/models"] = lambda request: {"object": "list", "data": [model]}
        routes["POST /v1/chat/completions"] = lambda request: thread.add(
            complete_ready, read_chat(request, judge.style, name)
        )
    return Server(routes, settings, remote=bool(settings.base_url))


def main(argv=None):
    settings = cli.parse_settings(Settings, argv, description=__doc__)
    check(settings)
    server = make_server(judge_of(settings), settings)
    note("one judge, one thread that judges; stop with Ctrl-C")
    print(server.url, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    cli.run(main)
