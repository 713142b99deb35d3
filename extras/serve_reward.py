"""The judge as a reward server for trainers: POST /get_reward in OpenRLHF's format.

    python -m extras.serve_reward --model MODEL --port 8765
    request:  {"query": [prompt + completion, ...], "prompts": [...], "labels": [...]}
    answer:   {"rewards": [...], "scores": [...], "extra_logs": {}}

A pairwise judge needs the complete group of a prompt. By default a request has complete groups.
With --group_size, completions of any connection wait for each other until their group is full or
--wait seconds have passed.

One thread judges everything that has arrived as one batch. The number of waiting requests (503) and
the size of a body (413) are limited. The server listens on the loopback and has no passwords: put a
proxy of your own in front of it before others can reach it.
"""

import itertools
import json
import queue
import threading
import time
import traceback
from collections import defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Optional

import cli
from cli import BadInput, note, setting
from data import checked_text
from judge import Judge
from rewards import SCALES, judge_reward


@dataclass
class Settings:
    model: str = setting(
        "tiny", "the judge: Hugging Face folder or hub name; tiny = the embedded judge"
    )
    adapter: Optional[str] = setting(None, "LoRA adapter in PEFT's format, for the model")
    base_url: Optional[str] = setting(
        None, "OpenAI-compatible server of the judge; --model is its name there"
    )
    style: Optional[str] = setting(
        None,
        "judging prompt: a name in prompts/ or a file; default: the model's own one, or rrm",
    )
    opponents: int = setting(
        4, "number of other answers of its group that each answer is compared with"
    )
    scale: Literal[SCALES] = setting(
        "shrunk", "from matches to rewards: see match_rewards in rewards.py"
    )
    max_completion_length: int = setting(1024, "at most so many tokens of a judgment")
    stop: str = setting("", "text to remove from the end of completions, such as <|im_end|>")
    group_size: Optional[int] = setting(
        None, "completions of a prompt that wait for each other; default: requests have full groups"
    )
    wait: float = setting(10.0, "at most so many seconds that an incomplete group waits")
    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8765, "port; 0 = any free one")
    queue: int = setting(256, "at most so many requests wait")
    max_body: int = setting(32_000_000, "at most so many bytes of a request")
    seed: int = setting(0, "decides opponents, placement and sampling")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "auto: bf16 where the hardware is fast at it"
    )


class Job:
    """A request: the worker sets its rewards or its error, and then `done`."""

    def __init__(self, items):
        self.items = items  # [(prompt, completion), ...]
        self.rewards = [None] * len(items)
        self.error = None
        self.done = threading.Event()
        self.since = time.monotonic()


def read_request(body, stop):
    """The [(prompt, completion), ...] of a request. Raises BadInput."""
    request = cli.parse_json(body, "body")
    queries, prompts = request.get("query"), request.get("prompts")
    if (
        not isinstance(queries, list)
        or not isinstance(prompts, list)
        or not 0 < len(queries) == len(prompts)
    ):
        raise BadInput(
            "body: expected query and prompts, two lists of equal length with at least one entry"
        )
    items = []
    for number, (query, prompt) in enumerate(zip(queries, prompts)):
        query = checked_text(query, f"query {number}", "body")
        prompt = checked_text(prompt, f"prompts {number}", "body")
        if not query.startswith(prompt):
            raise BadInput(
                f"body: query {number} does not begin with prompts {number}: a query is a prompt "
                "followed by its completion"
            )
        completion = query[len(prompt) :]
        if stop:
            completion = completion.rstrip().removesuffix(stop)
        items.append((prompt, completion))
    return items


def take_groups(waiting, group_size, wait):
    """Removes the groups that can be judged now from `waiting`, [(job, index), ...]; returns them.

    Without group_size, a group is a job's completions of one prompt. With it, a group is group_size
    completions of one prompt in any jobs, or fewer if the first one has waited too long.
    """
    gathered = defaultdict(list)
    for job, index in waiting:
        prompt, _ = job.items[index]
        gathered[prompt if group_size else (id(job), prompt)].append((job, index))
    late, ready = time.monotonic() - wait, []
    for members in gathered.values():
        size = group_size or len(members)
        for start in range(0, len(members), size):
            group = members[start : start + size]
            first_job, _ = group[0]
            if len(group) == size or first_job.since <= late:
                ready.append(group)
    taken = {(id(job), index) for group in ready for job, index in group}
    waiting[:] = [(job, index) for job, index in waiting if (id(job), index) not in taken]
    return ready


def work(jobs, reward, group_size, wait):
    """Judges all groups that are ready in one call, for ever.

    An error of the judge is the answer to the requests of these groups, and the server continues.
    """
    waiting = []
    while True:
        try:
            job = jobs.get(timeout=0.05 if waiting else None)
            while True:
                waiting += [(job, index) for index in range(len(job.items))]
                job = jobs.get_nowait()
        except queue.Empty:
            pass
        groups = take_groups(waiting, group_size, wait)
        if not groups:
            continue
        flat = [place for group in groups for place in group]
        ends = list(itertools.accumulate(map(len, groups), initial=0))
        prompts, completions = zip(*(job.items[index] for job, index in flat))
        error = None
        try:
            rewards = reward(prompts, completions, spans=list(zip(ends, ends[1:])))
        except Exception as caught:
            traceback.print_exc()
            rewards, error = [0.0] * len(flat), f"{type(caught).__name__}: {caught}"
        for (job, index), value in zip(flat, rewards, strict=True):
            job.rewards[index], job.error = value, job.error or error
            if None not in job.rewards:
                job.done.set()


def make_server(reward, settings):
    """A server that is bound and judges; the caller runs serve_forever."""
    jobs, places = queue.Queue(), threading.BoundedSemaphore(settings.queue)
    threading.Thread(
        target=work, args=(jobs, reward, settings.group_size, settings.wait), daemon=True
    ).start()

    class Handler(BaseHTTPRequestHandler):
        timeout = 60  # seconds for a client that stops in the middle of its request

        def answer(self, status, content):
            body = json.dumps(content, allow_nan=False).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            if self.path == "/health":
                self.answer(200, {"status": "ok"})
            else:
                self.answer(404, {"error": "POST /get_reward, GET /health"})

        def do_POST(self):
            length = self.headers.get("Content-Length", "")
            if self.path != "/get_reward":
                self.answer(404, {"error": "POST /get_reward, GET /health"})
            elif not length.isdecimal():
                self.answer(411, {"error": "Content-Length is missing"})
            elif int(length) > settings.max_body:
                error = f"the body has {length} bytes, {settings.max_body} are allowed (--max_body)"
                self.answer(413, {"error": error})
            elif not places.acquire(blocking=False):
                error = f"{settings.queue} requests are waiting (--queue): try again later"
                self.answer(503, {"error": error})
            else:
                try:
                    status, content = self.judged(self.rfile.read(int(length)))
                finally:
                    places.release()
                self.answer(status, content)

        def judged(self, body):
            try:
                job = Job(read_request(body.decode(), settings.stop))
            except (BadInput, UnicodeDecodeError) as error:
                return 400, {"error": str(error)}
            jobs.put(job)
            job.done.wait()
            if job.error:
                return 500, {"error": job.error}
            return 200, {"rewards": job.rewards, "scores": job.rewards, "extra_logs": {}}

        def log_message(self, *arguments):  # no line for each request
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256  # connections that wait to be accepted

    return Server((settings.host, settings.port), Handler)


def main(argv=None):
    settings = cli.parse_settings(Settings, argv, description=__doc__)
    lowest_values = dict(opponents=1, max_completion_length=1, queue=1, max_body=1, wait=0, port=0)
    for name, lowest in lowest_values.items():
        if not lowest <= getattr(settings, name) < float("inf"):
            raise BadInput(f"--{name}: must be at least {lowest}, got {getattr(settings, name)}")
    if settings.port > 65535:
        raise BadInput(f"--port: must be at most 65535, got {settings.port}")
    if settings.group_size is not None and settings.group_size < 2:
        raise BadInput(f"--group_size: must be at least 2, got {settings.group_size}")
    remote = {"base_url": settings.base_url} if settings.base_url else {}
    judge = Judge(
        settings.model,
        style=settings.style,
        adapter=settings.adapter,
        device=settings.device,
        dtype=settings.dtype,
        seed=settings.seed,
        **remote,
    )
    reward = judge_reward(
        judge,
        settings.opponents,
        settings.scale,
        seed=settings.seed,
        max_completion_length=settings.max_completion_length,
    )
    try:
        server = make_server(reward, settings)
    except OSError as error:
        raise BadInput(
            f"--host, --port: cannot listen on {settings.host}:{settings.port} ({error}): choose "
            "another"
        ) from error
    note("one judge, one thread that judges; stop with Ctrl-C")
    print(f"http://{settings.host}:{server.server_port}/get_reward", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    cli.run(main)
