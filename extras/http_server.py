"""A small HTTP server in front of one judge: JSON in, JSON out, bounded in every direction.

    thread = JudgingThread()
    routes = {"POST /judge": lambda request: thread.add(judge_all, request)}
    Server(routes, ServerSettings(port=0)).serve_forever()

One asyncio loop reads and answers all connections, so a slow client costs a socket, not a thread.
A request has READ_SECONDS to arrive in full, and takes a place in the queue after that. One thread
judges: everything that has arrived meanwhile is one batch.

The server has no passwords. It listens on the loopback by default, and refuses requests that a web
page sends from a browser: those have a foreign Origin, or (DNS rebinding) a foreign Host.
"""

import asyncio
import concurrent.futures
import ipaddress
import json
import queue
import re
import socket
import threading
import time
import traceback
import urllib.parse
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Callable

import cli
from cli import BadInput, note, setting

READ_SECONDS = 30.0  # for a whole request to arrive, and for the client to take the answer
MAX_READING = 256  # requests that arrive at once; one more ends the one that takes longest
MAX_HEAD = 32_768  # bytes of the request line and the headers
HELD_BODIES = 16  # so many times --max_body bytes are held for all requests together
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass
class ServerSettings:
    host: str = setting("127.0.0.1", "address to listen on", group="server")
    port: int = setting(8765, "port; 0 = any free one")
    queue: int = setting(256, "at most so many requests wait")
    max_body: int = setting(32_000_000, "at most so many bytes of a request")


class Refusal(Exception):
    """An answer with an error status."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


# ---- one thread that judges ----


@dataclass
class Job:
    """A request whose answer is computed by the judging thread."""

    judge_ready: Callable  # of its kind, see JudgingThread.add
    request: Any
    since: float = field(default_factory=time.monotonic)
    future: concurrent.futures.Future = field(default_factory=concurrent.futures.Future)
    parts: list = field(default_factory=list)  # of the answer, where it comes in parts

    def finish(self, outcome):
        if not self.future.set_running_or_notify_cancel():
            return  # the client has gone
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class JudgingThread:
    """Judges the jobs of all kinds in one thread."""

    def __init__(self):
        self.jobs = queue.SimpleQueue()
        threading.Thread(target=self.run, daemon=True).start()

    def add(self, judge_ready, request):
        """The future answer to a request. judge_ready(jobs) is called with all the jobs of this
        kind that wait; it finishes what it can, and removes those jobs from the list."""
        job = Job(judge_ready, request)
        self.jobs.put(job)
        return job.future

    def run(self):
        waiting = {}  # judge_ready -> its jobs
        while True:
            try:
                job = self.jobs.get(timeout=0.05 if any(waiting.values()) else None)
                while True:
                    waiting.setdefault(job.judge_ready, []).append(job)
                    job = self.jobs.get_nowait()
            except queue.Empty:
                pass
            for judge_ready, jobs in waiting.items():
                try:
                    judge_ready(jobs)
                except Exception as error:  # without this thread the server would hang
                    note_error(error)
                    for job in jobs:
                        job.finish(error)
                    jobs.clear()


def outcomes(function, units):
    """function(units), a list with a result for each unit. Where it raises, both halves are tried
    by themselves, so that in the end only the units that fail alone have an exception as result."""
    try:
        results = list(function(units)) if units else []
        if len(results) != len(units):
            raise RuntimeError(f"the judge gave {len(results)} results for {len(units)} requests")
        return results
    except Exception as error:
        if len(units) == 1:
            note_error(error)
            return [error]
    half = len(units) // 2
    return outcomes(function, units[:half]) + outcomes(function, units[half:])


def note_error(error):
    if isinstance(error, (BadInput, ValueError)):  # a request is wrong
        note(f"{type(error).__name__}: {error}")
    else:
        note("".join(traceback.format_exception(error)).rstrip())


def batches(function):
    """A `judge_ready` that judges all jobs at once: function(requests) -> their answers."""

    def judge_ready(jobs):
        batch = [job for job in jobs if not job.future.cancelled()]
        jobs.clear()
        for job, outcome in zip(batch, outcomes(function, [job.request for job in batch])):
            job.finish(outcome)

    return judge_ready


# ---- HTTP ----


class Server:
    """Is bound when it is made (or raises BadInput); the caller runs serve_forever.

    routes: {"POST /path": function}. A function gets the JSON object of the request (None for a
    GET), in the thread that parses, and gives the answer or a future of it. Either may raise
    BadInput, ValueError or Refusal. remote: the judge's model runs on a server.
    """

    def __init__(self, routes, settings, remote=False):
        self.routes, self.settings, self.remote = routes, settings, remote
        self.socket = bind(settings)
        self.server_port = self.socket.getsockname()[1]
        name = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = f"http://{name}:{self.server_port}"
        self.names = LOOPBACK | {settings.host.lower()}
        if settings.host not in LOOPBACK:
            self.names.add(socket.gethostname().lower())
        self.reading = {}  # writer of a connection -> bytes of its body that are here; oldest first
        self.num_waiting, self.bytes_waiting = 0, 0
        # one at a time: parsed JSON may take 30 times the memory of its text
        self.parser = concurrent.futures.ThreadPoolExecutor(1)
        self.max_held = HELD_BODIES * settings.max_body
        self.started, self.ended = threading.Event(), threading.Event()

    def serve_forever(self):
        try:
            asyncio.run(self.serve())
        finally:
            self.ended.set()

    async def serve(self):
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self.handle, sock=self.socket, limit=MAX_HEAD)
        self.started.set()
        await self.stop.wait()
        server.close()

    def shutdown(self):
        """Ends serve_forever, from another thread."""
        self.started.wait()
        self.loop.call_soon_threadsafe(self.stop.set)
        self.ended.wait()

    def server_close(self):
        self.socket.close()

    async def handle(self, reader, writer):
        """Serves one connection, which is one request."""
        self.reading[writer] = 0
        self.drop_slow()
        writer.transport.set_write_buffer_limits(0)  # drain waits until all is sent
        try:
            status, answer, all_read = await self.respond(reader, writer)
            await asyncio.wait_for(send(writer, status, answer), READ_SECONDS)
            if not all_read:
                # Closing now would reset the connection, and the client would not see the answer.
                writer.write_eof()
                self.reading[writer] = 0
                await asyncio.wait_for(read_away(reader), READ_SECONDS)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            pass  # the client has gone
        except asyncio.CancelledError:
            pass  # the server ends
        finally:
            self.reading.pop(writer, None)
            writer.transport.abort()

    def drop_slow(self):
        """Ends the oldest requests that still arrive, where they are too many or too large."""
        while len(self.reading) > MAX_READING or (
            len(self.reading) > 1
            and self.bytes_waiting + sum(self.reading.values()) > self.max_held
        ):
            oldest = next(iter(self.reading))
            del self.reading[oldest]
            oldest.transport.abort()

    async def respond(self, reader, writer):
        """(status, answer, whether the whole request was read)"""
        path, all_read = "", False
        try:
            try:
                request = self.read_request(reader, writer)
                route, path, body = await asyncio.wait_for(request, READ_SECONDS)
                self.reading.pop(writer, None)
            except asyncio.TimeoutError:
                raise Refusal(
                    408, f"the request did not arrive within {READ_SECONDS:.0f} s"
                ) from None
            all_read = True
            answer = await self.answer(route, body, reader)
            return 200, json.dumps(answer, allow_nan=False), all_read
        except Refusal as error:
            status, message = error.status, str(error)
        except (BadInput, UnicodeDecodeError) as error:
            status, message = 400, str(error)
        except ConnectionAbortedError:
            raise
        except Exception as error:
            status, message = 500, f"{type(error).__name__}: {error}"
        return status, json.dumps(error_object(path, status, message)), all_read

    async def read_request(self, reader, writer):
        """(function of the route, path, body). Raises Refusal."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise Refusal(431, f"the headers have more than {MAX_HEAD} bytes") from None
        method, path, headers = parse_head(head)
        self.check_caller(headers)
        route = self.routes.get(f"{method} {path}")
        if route is None:
            raise Refusal(404, ", ".join(self.routes))
        if method == "GET":
            return route, path, None
        length = headers.get("content-length", "")
        if not re.fullmatch("[0-9]{1,18}", length) or "transfer-encoding" in headers:
            raise Refusal(411, "Content-Length is missing or no number")
        most = self.settings.max_body
        if int(length) > most:
            raise Refusal(413, f"the body has {length} bytes, {most} are allowed (--max_body)")
        if headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()
        while len(body) < int(length):
            chunk = await reader.read(min(1 << 18, int(length) - len(body)))
            if not chunk or writer not in self.reading:
                raise ConnectionError
            body += chunk
            self.reading[writer] = len(body)
            self.drop_slow()
        return route, path, body

    def check_caller(self, headers):
        """Raises Refusal for a request that a web page from elsewhere makes a browser send."""
        addresses = ["//" + headers.get("host", "")]
        if "origin" in headers:
            addresses.append(headers["origin"])
        for address in addresses:
            try:
                parts = urllib.parse.urlsplit(address)
                name = (parts.hostname or "").rstrip(".")
                if "@" in address or address.partition("//")[2] != parts.netloc or parts.port == 0:
                    name = ""  # a user name or a path, which no browser sends; `port` may raise
            except ValueError:
                name = ""
            if not self.is_own_name(name):
                raise Refusal(
                    403, f"Host and Origin must name this server, not {address.strip('/')!r:.100}"
                )

    def is_own_name(self, name):
        if name in self.names:
            return True
        if self.settings.host in LOOPBACK:
            return False
        try:  # no page has an IP address as its name unless it came from there
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    async def answer(self, route, body, reader):
        """The answer of a route to a request that has arrived."""
        if body is None:
            return route(None)
        size = len(body)
        if (
            self.num_waiting >= self.settings.queue
            or self.num_waiting > 0
            and self.bytes_waiting + size > self.max_held
        ):
            raise Refusal(
                503, f"{self.num_waiting} requests are waiting (--queue): come back later"
            )
        self.num_waiting += 1
        self.bytes_waiting += size
        try:
            found = await self.loop.run_in_executor(
                self.parser, lambda: route(cli.parse_json(body.decode(), "body"))
            )
            if not isinstance(found, concurrent.futures.Future):
                return found
            try:
                return await until_gone(asyncio.wrap_future(found), reader)
            except (BadInput, ValueError) as error:  # on a server it is the judge that failed
                raise Refusal(502 if self.remote else 400, str(error)) from error
        finally:
            self.num_waiting -= 1
            self.bytes_waiting -= size


def bind(settings):
    """A socket that listens. Raises BadInput."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        raise BadInput(
            f"--host, --port: cannot listen on {settings.host}:{settings.port} ({error}): choose "
            "another"
        ) from error


def parse_head(head):
    """(method, path, {name in lower case: value}) of a request's first part. Raises Refusal."""
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    match = re.fullmatch(r"([A-Z]+) (/[!-~]*) HTTP/1\.[01]", first)
    if not match:
        raise Refusal(400, "the first line is not that of an HTTP/1.1 request for a path")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch("[!-~]+", name) or name.lower() in headers:
            raise Refusal(400, "a header is malformed or given twice")
        headers[name.lower()] = value.strip()
    return match[1], match[2].partition("?")[0], headers


def error_object(path, status, message):
    """An error as JSON: a text; under /v1 an object, as OpenAI's clients expect."""
    if not path.startswith("/v1/"):
        return {"error": message}
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


async def send(writer, status, answer):
    body = answer.encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()


async def until_gone(future, reader):
    """The result of a future. It is cancelled if the client closes its connection before."""
    gone = asyncio.ensure_future(read_away(reader))
    gone.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may be reset
    await asyncio.wait({future, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not future.done():
        future.cancel()
        raise ConnectionAbortedError
    gone.cancel()
    return future.result()


async def read_away(reader):
    while await reader.read(1 << 16):
        pass


def check_server_settings(settings, **lowest_values):
    """Raises BadInput for numbers out of range. lowest_values: of further settings."""
    for name, lowest in (lowest_values | dict(queue=1, max_body=1, port=0)).items():
        if not lowest <= getattr(settings, name) < float("inf"):
            raise BadInput(f"--{name}: must be at least {lowest}, got {getattr(settings, name)}")
    if settings.port > 65535:
        raise BadInput(f"--port: must be at most 65535, got {settings.port}")
    bind(settings).close()  # before minutes go into loading a model
