"""A judge or a teacher behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, transformers serve, a hosted one.

    endpoint = Endpoint("http://localhost:8000/v1", "Qwen/Qwen3-32B")
    for index, reply in endpoint.complete([{"messages": [...], "max_tokens": 1024, "temperature": 0.6}, ...]): ...

Replies come in the order in which they are done, so that the caller can keep each at once. A request that fails in passing (429, 5xx, a cut
connection, half an answer, silence) is sent again with growing pauses; one that fails for good is a Reply with its `error`, and the
others go on. The key is read from OPENAI_API_KEY; it is sent in one header, never over a redirect, and shown nowhere.

A plain HTTP request a thread, from the standard library: the `openai` package would add nothing here but its own retries, which know
neither the server's common pause nor a deadline over several attempts.
"""

import email.utils
import http.client
import json
import os
import queue
import random
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass

from cli import BadInput, note

PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}  # worth another attempt
LONGEST_PAUSE = 60.0  # seconds between two attempts, unless the server names a time
LONGEST_WISH = 300.0  # of the times that a server may name
SPECIAL = re.compile(
    r"<(?=[|｜]|/?(think|s|[a-z]+(_[a-z]+)+)>|([be]os|pad|unk|mask|unused\d+)>)|\[(?=/?(INST|THINK|[A-Z]+(_[A-Z]+)+)\])"
)
TOO_LONG = re.compile(r"(?i)status (400|413|422): .*(context|too long|too large)")
OPTIONAL = {
    "max_tokens": "max_completion_tokens",
    "seed": None,
    "temperature": None,
}  # fields that a server may refuse: the name it takes instead


@dataclass
class Reply:
    """What a server wrote, its thinking in front in <think> tags; `tokens` as the server counts them, 0 if it does not tell."""

    text: str = ""
    tokens: int = 0
    finish_reason: str = "stop"  # or "length"
    error: str | None = None  # then there is no text
    passing: bool = False  # an error that may be over later


def check_base_url(url):
    """The URL in front of /chat/completions; /v1 is put behind a bare address. Raises BadInput."""
    try:
        parts = urllib.parse.urlsplit(url)
        usable = (
            re.fullmatch("[!-~]+", url)
            and parts.scheme in ("http", "https")
            and parts.port != 0
            and parts.hostname.encode("idna")
        )
    except (
        ValueError,
        AttributeError,
    ):  # no number for a port, a host without a name or with one too long
        usable = False
    if not usable:
        raise BadInput(
            f"--base_url: {url.rpartition('@')[2]!r:.200} is no address: write http://HOST:PORT/v1"
        )
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise BadInput(
            "--base_url: holds a password or parameters, which would end up in result files: put the key into OPENAI_API_KEY"
        )
    return url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")


def disarm(text):
    """The text with a blank inside everything that a server may read as a control token: <think>, <|im_end|>, </s>, [INST], ...

    Here the server renders the template, from text that a tokenizer then searches for such tokens. It may know others than these.
    """
    return SPECIAL.sub(lambda match: match[0] + " ", text)


class Passing(Exception):
    """A failure that may be over at the next attempt; `pause`: seconds that the server asks for, or None."""

    def __init__(self, reason, pause=None):
        super().__init__(reason)
        self.pause = pause


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to wherever it points, and turn the request into a GET."""

    def redirect_request(self, *arguments):
        return None


class Endpoint:
    """A model behind a server. concurrency: requests under way at once; timeout: seconds for one attempt; deadline: seconds for a request
    with all its attempts; key: the environment variable that holds it. Raises BadInput for an address that is none."""

    def __init__(
        self,
        base_url,
        model,
        concurrency=16,
        timeout=600.0,
        deadline=3600.0,
        attempts=8,
        first_pause=0.5,
        key="OPENAI_API_KEY",
    ):
        self.url, self.model = check_base_url(base_url) + "/chat/completions", model
        self.concurrency, self.timeout, self.deadline, self.attempts, self.first_pause = (
            concurrency,
            timeout,
            deadline,
            attempts,
            first_pause,
        )
        self.key = os.environ.get(key, "").strip()
        if not re.fullmatch("[!-~]*", self.key):  # http.client would raise, and show it
            raise BadInput(
                f"{key}: holds a blank, a line break or another character that no header can carry: set it again"
            )
        self.opener = urllib.request.build_opener(NoRedirect)
        self.refused, self.noted, self.opens_think, self.worked = set(), set(), False, False
        self.resume_at = 0.0  # a server that has had enough means all threads
        if (
            self.key
            and base_url.startswith("http://")
            and urllib.parse.urlsplit(base_url).hostname not in ("localhost", "127.0.0.1", "::1")
        ):
            note(f"{base_url}: {key} goes there unencrypted; https would protect it")

    def complete(self, requests):
        """Yields (index, Reply) of each request, {"messages": ..., "max_tokens": ..., ...}, as they are done.

        Raises BadInput where no request can succeed (address, key, name of the model), after the replies that were under way.
        """
        entries, done, stop, failure = (
            enumerate(requests),
            queue.SimpleQueue(),
            threading.Event(),
            None,
        )  # all threads take from `entries`

        def work():
            try:
                for index, request in entries:
                    if stop.is_set():
                        break
                    done.put((index, self.ask(request, stop)))
            except BaseException as error:  # raised in the caller's thread, after what is under way
                stop.set()
                done.put(error)
            done.put(None)

        threads = [
            threading.Thread(target=work, daemon=True)
            for _ in range(min(self.concurrency, len(requests)))
        ]
        for thread in threads:
            thread.start()
        try:
            for result in (
                result for _ in threads for result in iter(done.get, None)
            ):  # up to the None of each thread
                if isinstance(result, tuple):
                    yield result
                else:
                    failure = failure or result
        finally:
            stop.set()
        if failure:
            raise failure

    def generate(
        self,
        prompts,
        seeds,
        num_generations,
        max_new_tokens,
        temperature,
        first_generation=0,
        progress=None,
    ):
        """Replies [prompt][generation] to prompts as messages, like sampler.generate. RuntimeError for a request that failed."""
        requests = [
            {
                "messages": prompt,
                "max_tokens": max_new_tokens,
                "temperature": temperature,
                "seed": (start + vote) % 2**31,
            }
            for prompt, start in zip(prompts, seeds, strict=True)
            for vote in range(first_generation, first_generation + num_generations)
        ]
        replies = [None] * len(requests)
        for done, (index, reply) in enumerate(self.complete(requests), start=1):
            replies[index] = reply
            if progress:
                progress(done, len(requests))
        for (
            reply
        ) in replies:  # what the server's context cannot hold is no reason to lose the others
            if reply.error and TOO_LONG.match(reply.error):
                note(f"{self.url}: {reply.error}: counted as truncated")
                reply.error, reply.finish_reason = None, "length"
        failed = [reply.error for reply in replies if reply.error]
        if failed:
            raise RuntimeError(
                f"{self.url}: {len(failed)} of {len(requests)} requests failed; the first: {failed[0]}"
            )
        for reply in replies:  # a server whose template opens <think> without telling: a text that was cut off shows no tag at all
            self.opens_think |= "</think>" in reply.text and "<think>" not in reply.text
        for reply in replies:
            reply.text = "<think>" * (self.opens_think and "<think>" not in reply.text) + reply.text
        groups = [
            replies[start : start + num_generations]
            for start in range(0, len(replies), num_generations)
        ]
        if (
            temperature > 0
            and len(groups) > 1 < num_generations
            and all(len({reply.text for reply in group}) == 1 for group in groups)
        ):
            note(
                f"{self.url}: all generations of each prompt are alike: the server may ignore temperature and seed, so that votes mean nothing"
            )
        return groups

    def disarmed(self, messages):
        if "forged" not in self.noted:
            self.noted.add("forged")
            note(
                "the server renders the chat template: control tokens inside answers are broken up, but other forgeries cannot be excluded"
            )
        return [message | {"content": disarm(message["content"])} for message in messages]

    def ask(self, request, stop=None):
        """One request with its attempts -> Reply. Raises BadInput where every other request would fail in the same way."""
        stop, end, reason = (
            stop or threading.Event(),
            time.monotonic() + self.deadline,
            "no attempt",
        )
        for attempt in range(self.attempts):
            stop.wait(max(0.0, min(self.resume_at, end) - time.monotonic()))
            left = end - time.monotonic()
            if left <= 0 or stop.is_set():
                break
            try:
                return self.post(request, min(self.timeout, left))
            except Passing as error:
                reason = self.hide_key(str(error))
                pause = error.pause or min(
                    LONGEST_PAUSE, self.first_pause * 2**attempt
                ) * random.uniform(0.75, 1.25)
                if error.pause:
                    self.resume_at = max(self.resume_at, time.monotonic() + pause)
                if reason not in self.noted:
                    self.noted.add(reason)
                    note(f"{self.url}: {reason}: trying again")
                if attempt + 1 < self.attempts:
                    stop.wait(min(pause, max(0.0, end - time.monotonic())))
        return Reply(error=f"given up after {attempt + 1} attempts: {reason}", passing=True)

    def post(self, request, timeout):
        """One attempt. Raises Passing, or BadInput."""
        body = {"model": self.model} | request
        for name in self.refused & body.keys():
            value = body.pop(name)
            body |= {OPTIONAL[name]: value} if OPTIONAL[name] else {}
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {self.key}"} if self.key else {}
        )
        message = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        end, content = time.monotonic() + timeout, bytearray()
        try:
            with self.opener.open(message, timeout=timeout) as response:
                while chunk := response.read1(
                    1 << 16
                ):  # a server that sends a byte now and then would never time out
                    content += chunk
                    if time.monotonic() > end:
                        raise TimeoutError
        except urllib.error.HTTPError as error:
            return self.refusal(error, body)
        except urllib.error.URLError as error:
            if isinstance(error.reason, socket.gaierror) and error.reason.errno != socket.EAI_AGAIN:
                raise BadInput(
                    f"--base_url: {self.url}: no such host ({error.reason}): check the address"
                ) from None
            raise Passing(f"no connection ({error.reason})") from None
        except TimeoutError:
            raise Passing(f"no answer within {timeout:.0f} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise Passing(f"connection broke off ({type(error).__name__})") from None
        self.worked = True
        return read_reply(content)

    def refusal(self, error, body):
        """What an error status means: Passing, BadInput for all requests, or a Reply with the error for this one."""
        try:
            said = self.hide_key(error.read(8000).decode(errors="replace"))[
                :4000
            ]  # before a cut could leave half of it
        except (OSError, http.client.HTTPException):
            said = ""
        text = " ".join(re.sub(r'[{}"\[\]]', " ", said).split())[:300]
        if error.code in PASSING and "insufficient_quota" not in said:
            raise Passing(f"status {error.code}", wished_pause(error.headers.get("Retry-After")))
        moderated = (
            error.code == 403 and self.worked
        )  # hosted models also refuse single texts in this way
        if (
            error.code in (301, 302, 303, 307, 308, 401, 403, 404, 405)
            and not moderated
            or "insufficient_quota" in said
        ):
            hint = {
                401: "set OPENAI_API_KEY",
                403: "set OPENAI_API_KEY",
                404: f"check --base_url and --model {self.model}",
            }
            raise BadInput(
                f"--base_url: {self.url} answers {error.code} ({text}): {hint.get(error.code, 'check the address and the account')}"
            )
        unwanted = [name for name in OPTIONAL if name in body and name in said]
        if (
            error.code in (400, 422)
            and unwanted
            and re.search("(?i)unsupported|not support|unrecogni|unknown|not permitted|extra", said)
        ):
            self.refused.update(unwanted)
            raise Passing(f"does not take {', '.join(unwanted)}", pause=0.001)
        return Reply(error=f"status {error.code}: {text}")

    def hide_key(self, text):
        return text.replace(self.key, "***") if self.key else text


def read_reply(content):
    """The Reply in the JSON of a chat completion; Passing for anything else, such as half of one."""
    try:
        value = json.loads(content)
        choice = value["choices"][0]
        message, usage = choice["message"], value.get("usage") or {}
        thinking = message.get("reasoning_content") or message.get("reasoning") or ""
        text = message.get("content") or ""
        if thinking:  # a server that tells thinking and answer apart; without an answer the thinking was cut off
            text = (
                "<think>"
                + thinking
                + ("</think>" + text if text or choice.get("finish_reason") != "length" else "")
            )
        text = re.sub(
            "[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text
        )  # half a surrogate pair: no file could hold it
        tokens = max(0, int(usage.get("completion_tokens") or 0))
        return Reply(text, tokens, "length" if choice.get("finish_reason") == "length" else "stop")
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
    ):
        raise Passing("the answer is no chat completion") from None


def wished_pause(header):
    """Seconds that a Retry-After header asks for, as a number or a date; None without a header that can be read."""
    if not header:
        return None
    try:
        seconds = (
            float(header)
            if re.fullmatch(r"\d+(\.\d+)?", header.strip())
            else email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        )
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.001), LONGEST_WISH)
