"""A judge or a teacher behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, a hosted one.

    endpoint = Endpoint("http://localhost:8000/v1", "Qwen/Qwen3-32B")
    requests = [{"messages": [...], "max_tokens": 1024, "temperature": 0.6}, ...]
    for index, reply in endpoint.complete(requests): ...

Replies come in the order in which they are done, so the caller can keep each at once. A request
that fails for a moment (429, 5xx, a cut connection, half an answer, silence) is sent again after
growing pauses. One that fails for good gives a Reply with its `error`, and the others go on. The
key is read from OPENAI_API_KEY; it is sent in one header, never over a redirect, and never shown.

Each thread sends plain HTTP requests with the standard library. The `openai` package would add
only its own retries, without a pause common to all threads or a deadline over all attempts.
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
from dataclasses import dataclass, field

from backends import Usage
from cli import BadInput, note

TRANSIENT_STATUSES = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
MAX_PAUSE = 60.0  # seconds between two attempts, unless the server names a time
MAX_RETRY_AFTER = 300.0  # seconds; servers may name more
CONNECT_SECONDS = 10.0  # until a server has taken a connection
# How long no connection at all is tried again, before and after the first success: a server that
# is not there ends the run at once, one that restarts does not.
NEVER_THERE, GONE = 3.0, 30.0
SILENT_SECONDS = 5.0  # in which a server has to answer GET /models, if only with an error
UNSUPPORTED = re.compile("(?i)unsupported|not support|unrecogni|unknown|not permitted|extra")
# fields that a server may refuse -> the name that it takes instead, None: leave it out
OPTIONAL_FIELDS = {"max_tokens": "max_completion_tokens", "seed": None, "temperature": None}
FATAL_STATUSES = {301, 302, 303, 307, 308, 401, 403, 404, 405}  # no request would succeed


@dataclass
class Reply:
    """What a server wrote, with its thinking in front in <think> tags."""

    text: str = ""
    tokens: int = 0  # as the server counts them; 0 if it does not say
    finish_reason: str = "stop"  # or "length"
    error: str | None = None  # then there is no text
    transient: bool = False  # an error that may be over later
    prompt_tokens: int = 0  # as `tokens`
    attempts: int = field(default=1, compare=False)


class TransientError(Exception):
    """A failure that may be over at the next attempt.

    pause: seconds that the server asks for, or None.
    """

    def __init__(self, reason, pause=None):
        super().__init__(reason)
        self.pause = pause


class QuickConnect:
    """Waits CONNECT_SECONDS for a connection, and the whole timeout for what comes over it."""

    def connect(self):
        timeout, self.timeout = self.timeout, min(self.timeout, CONNECT_SECONDS)
        super().connect()
        self.sock.settimeout(timeout)


class Connection(QuickConnect, http.client.HTTPConnection):
    pass


class SecureConnection(QuickConnect, http.client.HTTPSConnection):
    pass


class OpenHTTP(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(Connection, request)


class OpenHTTPS(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return self.do_open(SecureConnection, request)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host, and turn the request into a GET."""

    def redirect_request(self, *arguments):
        return None


class Endpoint:
    """A model on a server.

    concurrency: requests under way at once. timeout: seconds for one attempt. deadline: seconds for
    a request with all its attempts. key: the environment variable that holds the key. Raises
    BadInput for a URL or a key that cannot be used.
    """

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
        self.base_url = check_base_url(base_url)
        self.url = self.base_url + "/chat/completions"
        self.model = model
        self.concurrency = concurrency
        self.timeout = timeout
        self.deadline = deadline
        self.attempts = attempts
        self.first_pause = first_pause
        self.key = os.environ.get(key, "").strip()
        if not re.fullmatch("[!-~]*", self.key):  # http.client would raise, and show it
            raise BadInput(
                f"{key}: holds a blank, a line break or another character that no header can "
                "carry: set it again"
            )
        self.headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        self.opener = urllib.request.build_opener(NoRedirect, OpenHTTP, OpenHTTPS)
        self.usage = Usage()  # of `complete`
        self.refused_fields = set()  # of OPTIONAL_FIELDS
        self.noted = set()  # reasons for another attempt; each is said once
        self.worked = False  # a request has succeeded
        self.gone_since = None  # start of the first attempt without a connection, since a success
        self.resume_at = 0.0  # a pause that the server asks for holds for all threads
        local = urllib.parse.urlsplit(base_url).hostname in ("localhost", "127.0.0.1", "::1")
        if self.key and base_url.startswith("http://") and not local:
            note(f"{base_url}: {key} goes there unencrypted; https would protect it")

    def complete(self, requests):
        """Yields (index, Reply) of each request, {"messages": ..., ...}, as they are done.

        Raises BadInput where no request can succeed (address, key, name of the model), after the
        replies that were under way.
        """
        if requests and not self.worked:
            self.check_there()
        numbered, results = enumerate(requests), queue.SimpleQueue()
        stop = threading.Event()

        def work():
            try:
                for index, request in numbered:  # all threads take from the same iterator
                    if stop.is_set():
                        break
                    reply = self.ask(request, stop)
                    results.put((index, reply))
                    if reply.transient and not self.worked and not stop.is_set():
                        raise BadInput(
                            f"--base_url: {self.url}: no request has succeeded; this one was "
                            f"{reply.error}: look after the server, then call again"
                        )
            except BaseException as error:  # raised below, in the caller's thread
                stop.set()
                results.put(error)
            results.put(None)  # this thread is done

        num_threads = min(self.concurrency, len(requests))
        for _ in range(num_threads):
            threading.Thread(target=work, daemon=True).start()
        running, failure, last = num_threads, None, time.perf_counter()
        try:
            while running:
                result = results.get()
                if result is None:
                    running -= 1
                elif isinstance(result, BaseException):
                    failure = failure or result
                else:
                    self.count(result[1], time.perf_counter() - last)
                    last = time.perf_counter()
                    yield result
        finally:
            stop.set()
        if failure:
            raise failure

    def count(self, reply, seconds):
        usage = self.usage
        usage.calls += 1
        usage.retries += reply.attempts - 1
        usage.prompt_tokens += reply.prompt_tokens
        usage.completion_tokens += reply.tokens
        usage.seconds += seconds
        usage.uncounted += not reply.error and not reply.prompt_tokens

    def ask(self, request, stop=None):
        """The Reply to one request, after as many attempts as it takes.

        stop: an Event that ends the attempts. Raises BadInput where every other request would fail
        in the same way.
        """
        stop = stop or threading.Event()
        end, reason = time.monotonic() + self.deadline, "no attempt"
        for attempt in range(self.attempts):
            stop.wait(max(0.0, min(self.resume_at, end) - time.monotonic()))
            left = end - time.monotonic()
            if left <= 0 or stop.is_set():
                break
            try:
                reply = self.post(request, min(self.timeout, left))
                reply.attempts = attempt + 1
                return reply
            except TransientError as error:
                reason = self.hide_key(str(error))
                if reason not in self.noted:
                    self.noted.add(reason)
                    note(f"{self.url}: {reason}: trying again")
                pause = self.pause_after(error, attempt)
                if attempt + 1 < self.attempts:
                    stop.wait(min(pause, max(0.0, end - time.monotonic())))
        error = f"given up after {attempt + 1} attempts: {reason}"
        return Reply(error=error, transient=True, attempts=attempt + 1)

    def pause_after(self, error, attempt):
        """Seconds until the next attempt."""
        if error.pause:
            self.resume_at = max(self.resume_at, time.monotonic() + error.pause)
            return error.pause
        return min(MAX_PAUSE, self.first_pause * 2**attempt) * random.uniform(0.75, 1.25)

    def post(self, request, timeout):
        """The Reply to one attempt. Raises TransientError, or BadInput."""
        body = {"model": self.model} | request
        for name in self.refused_fields & body.keys():
            value, new_name = body.pop(name), OPTIONAL_FIELDS[name]
            if new_name:
                body[new_name] = value
        headers = self.headers | {"Content-Type": "application/json"}
        message = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        started = time.monotonic()
        try:
            content = self.read_response(message, timeout)
        except urllib.error.HTTPError as error:
            self.gone_since = None
            return self.refusal(error, body)
        except urllib.error.URLError as error:
            self.check_gone(started, error.reason)
            raise TransientError(f"no connection ({error.reason})") from None
        except TimeoutError:
            self.check_alive()
            raise TransientError(f"no answer within {timeout:.0f} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise TransientError(f"connection broke off ({type(error).__name__})") from None
        self.worked, self.gone_since = True, None
        return read_reply(content)

    def check_gone(self, started, reason):
        """Raises BadInput for a host that does not exist, and where no connection has succeeded for
        longer than is worth waiting."""
        if isinstance(reason, socket.gaierror) and reason.errno != socket.EAI_AGAIN:
            raise BadInput(f"--base_url: {self.url}: no such host ({reason}): check the address")
        self.gone_since = self.gone_since or started
        seconds = time.monotonic() - self.gone_since
        if seconds > (GONE if self.worked else NEVER_THERE):
            raise BadInput(
                f"--base_url: {self.url}: no connection for {seconds:.0f} s ({reason}): start the "
                "server or correct the address, then call again"
            )

    def check_there(self):
        """Raises BadInput within 10 seconds where no server answers: to be called before long
        work, and before the first request."""
        while True:
            started = time.monotonic()
            problem = self.check_alive()
            if problem is None:
                self.gone_since = None
                return
            self.check_gone(started, problem)
            time.sleep(self.first_pause)

    def check_alive(self):
        """Raises BadInput for a server that takes connections and then says nothing.

        A completion may take minutes, so another request shows whether anybody is there. Returns
        why there was no connection, or None.
        """
        request = urllib.request.Request(self.base_url + "/models", None, self.headers)
        done, problems = threading.Event(), [None]

        def knock():
            try:
                self.opener.open(request, timeout=2 * SILENT_SECONDS).close()
            except urllib.error.HTTPError:
                pass  # an answer
            except urllib.error.URLError as error:
                problems[0] = error.reason
            except (OSError, http.client.HTTPException):
                pass  # a problem that `post` will meet
            done.set()

        threading.Thread(target=knock, daemon=True).start()
        if not done.wait(SILENT_SECONDS):
            raise BadInput(
                f"--base_url: {self.base_url}: no answer to GET /models within "
                f"{SILENT_SECONDS:.0f} s: start the server anew or correct the address, then call "
                "again"
            )
        return problems[0]

    def read_response(self, message, timeout):
        """The body of a response. TimeoutError also for a server that sends a byte now and then."""
        end, content = time.monotonic() + timeout, bytearray()
        with self.opener.open(message, timeout=timeout) as response:
            while chunk := response.read1(1 << 16):
                content += chunk
                if time.monotonic() > end:
                    raise TimeoutError
        return content

    def refusal(self, error, body):
        """What an error status means.

        A Reply with the error for this request alone; TransientError; BadInput for all requests.
        """
        try:
            answer = error.read(8000).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            answer = ""
        answer = self.hide_key(answer)[:4000]  # hidden before a cut could leave half of the key
        text = " ".join(re.sub(r'[{}"\[\]]', " ", answer).split())[:300]
        out_of_quota = "insufficient_quota" in answer
        if error.code in TRANSIENT_STATUSES and not out_of_quota:
            pause = retry_after(error.headers.get("Retry-After"))
            raise TransientError(f"status {error.code}", pause)
        moderated = error.code == 403 and self.worked  # hosted models refuse single texts like this
        if out_of_quota or error.code in FATAL_STATUSES and not moderated:
            hints = {
                401: "set OPENAI_API_KEY",
                403: "set OPENAI_API_KEY",
                404: f"check --base_url and --model {self.model}",
            }
            hint = hints.get(error.code, "check the address and the account")
            raise BadInput(f"--base_url: {self.url} answers {error.code} ({text}): {hint}")
        unwanted = [name for name in OPTIONAL_FIELDS if name in body and name in answer]
        if error.code in (400, 422) and unwanted and UNSUPPORTED.search(answer):
            self.refused_fields.update(unwanted)
            raise TransientError(f"does not take {', '.join(unwanted)}", pause=0.001)
        return Reply(error=f"status {error.code}: {text}")

    def hide_key(self, text):
        return text.replace(self.key, "***") if self.key else text


# ---- addresses, replies, headers ----


def check_base_url(url):
    """The URL that /chat/completions is added to; a bare address gets /v1. Raises BadInput."""
    try:
        parts = urllib.parse.urlsplit(url)
        usable = (
            re.fullmatch("[!-~]+", url)
            and parts.scheme in ("http", "https")
            and parts.port != 0
            and parts.hostname.encode("idna")
        )
    except (ValueError, AttributeError):  # a port that is no number, a host that is missing or long
        usable = False
    if not usable:
        raise BadInput(
            f"--base_url: {url.rpartition('@')[2]!r:.200} is no address: write http://HOST:PORT/v1"
        )
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise BadInput(
            "--base_url: holds a password or parameters, which would end up in result files: put "
            "the key into OPENAI_API_KEY"
        )
    return url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")


# finish reasons of servers for a text that is not whole: Mistral's, Gemini's, vLLM's
CUT_OFF = "length", "model_length", "max_tokens", "abort", "error"


def read_reply(content):
    """The Reply in the JSON of a chat completion; TransientError for anything else."""
    try:
        value = json.loads(content)
        choice = value["choices"][0]
        message, usage = choice["message"], value.get("usage") or {}
        thinking = message.get("reasoning_content") or message.get("reasoning") or ""
        text = message.get("content") or ""
        is_cut = str(choice.get("finish_reason")).lower() in CUT_OFF
        finish_reason = "length" if is_cut else "stop"
        if thinking and not text and finish_reason == "length":
            text = "<think>" + thinking  # the thinking was cut off
        elif thinking:
            text = "<think>" + thinking + "</think>" + text
        # no file could hold half a surrogate pair
        text = re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)
        tokens, prompt_tokens = (
            max(0, int(usage.get(name) or 0)) for name in ("completion_tokens", "prompt_tokens")
        )
        return Reply(text, tokens, finish_reason, prompt_tokens=prompt_tokens)
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        raise TransientError("the answer is no chat completion") from None


def retry_after(header):
    """Seconds that a Retry-After header asks for, as a number or a date; None if unreadable."""
    if not header:
        return None
    try:
        if re.fullmatch(r"\d+(\.\d+)?", header.strip()):
            seconds = float(header)
        else:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.001), MAX_RETRY_AFTER)
