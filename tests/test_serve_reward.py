"""extras/serve_reward.py: OpenRLHF's request, many clients, groups in pieces, refusals."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_rewards import OracleJudge, longer
from tiny_models import COIN, make_scripted_folder

from extras.serve_reward import Settings, make_server
from rewards import judge_reward

ROOT = Path(__file__).parents[1]


@pytest.fixture()
def serve(start):
    """serve(**settings) -> port of a server whose judge prefers the longer answer."""

    def begin(verdict=longer, **settings):
        reward = judge_reward(OracleJudge(verdict), scale="win_rate")
        return start(make_server(reward, Settings(**settings | {"port": 0})))

    return begin


def post(port, content, path="/get_reward", headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(
        "POST", path, content if isinstance(content, bytes) else json.dumps(content), headers or {}
    )
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def ask(prompt, *answers):
    return {
        "query": [prompt + answer for answer in answers],
        "prompts": [prompt] * len(answers),
        "labels": [""] * len(answers),
    }


def test_a_request_in_openrlhfs_shape(serve):
    first, second = (
        ask("<|user|>one<|assistant|>", "a", "aaa", "aa"),
        ask("two ", "x", "<think>hm</think>xx"),
    )
    whole = {name: first[name] + second[name] for name in first}
    mixed = {
        name: [values[index] for index in (3, 0, 1, 4, 2)] for name, values in whole.items()
    }  # groups need not stand side by side
    port = serve(stop="</s>")
    status, reply = post(port, mixed)
    assert status == 200 and reply == {
        "rewards": [0.0, 0.0, 1.0, 1.0, 0.5],
        "scores": [0.0, 0.0, 1.0, 1.0, 0.5],
        "extra_logs": {},
    }
    assert post(port, ask("q", "aa</s>", "aaa"))[1]["rewards"] == [
        0.0,
        1.0,
    ]  # the end of turn is no part of an answer
    assert post(port, ask("q<think>", "a long thought", "b</think>c"))[1]["rewards"] == [
        0.0,
        1.0,
    ]  # the prompt had opened it


def test_sixteen_clients_at_once_and_none_is_lost(serve):
    port = serve()

    def client(number):
        replies = []
        for request in range(8):
            sizes = [1 + (number * 7 + request * 3 + index) % 11 for index in range(6)]
            status, reply = post(
                port, ask(f"question {number % 3}", *("y" * size for size in sizes))
            )  # some ask the same question
            replies.append((status, sizes, reply["rewards"]))
        return replies

    with ThreadPoolExecutor(16) as pool:
        replies = [
            reply for client_replies in pool.map(client, range(16)) for reply in client_replies
        ]
    assert len(replies) == 128 and all(status == 200 for status, *_ in replies)
    for _, sizes, values in replies:  # each got the rewards of its own answers
        assert values[sizes.index(max(sizes))] == max(values) == 1.0 or sizes.count(max(sizes)) > 1
        assert values[sizes.index(min(sizes))] == min(values) and len(values) == 6


def test_completions_that_come_one_by_one_wait_for_their_group(serve):
    port = serve(group_size=4, wait=30.0)
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(
                lambda item: post(port, ask(*item)),
                [(prompt, "z" * size) for size in (1, 2, 3, 4) for prompt in ("p", "q")],
            )
        )
    assert [reply["rewards"] for _, reply in found] == [
        [share] for share in (0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1)
    ]
    hasty = serve(group_size=4, wait=0.2)
    assert post(hasty, ask("p", "z", "zz"))[1]["rewards"] == [
        0.0,
        1.0,
    ]  # what is there when the time is up


def test_a_client_that_has_gone_is_no_member_of_a_group(serve):
    """Trainers give up after some minutes and ask again, so half of a group would be ghosts."""
    port = serve(group_size=3, wait=60.0)
    body = json.dumps(ask("p", "zzzz")).encode()
    ghost = socket.create_connection(("127.0.0.1", port))
    head = f"POST /get_reward HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    ghost.sendall(head.encode() + body)
    time.sleep(0.5)
    ghost.close()
    time.sleep(0.5)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda answer: post(port, ask("p", answer)), ["z", "zz", "zzz"]))
    assert [reply["rewards"] for _, reply in found] == [[0.0], [0.5], [1.0]]


def test_what_is_refused(serve):
    port = serve(max_body=2000)
    bad = {
        400: [
            b"no json",
            {"query": ["a"]},
            {"query": [], "prompts": []},
            {"query": ["ab"], "prompts": ["b"]},
            {"query": [3], "prompts": ["b"]},
            {"query": ["a", "b"], "prompts": ["a"]},
            b'{"query": ["\\ud800"], "prompts": ["\\ud800"]}',
            b"\xff",
        ],
        413: [ask("q", "x" * 3000)],
    }
    for status, requests in bad.items():
        for request in requests:
            found, reply = post(port, request)
            assert found == status and reply["error"], request
    assert post(port, {}, path="/other")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest("POST", "/get_reward")
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    assert post(port, ask("q", "a", "aa"))[0] == 200  # and it goes on


def test_a_full_queue_and_a_failing_judge_are_told(serve):
    started, go_on = threading.Event(), threading.Event()

    def slow(first, second):
        started.set()
        go_on.wait(20)
        if "boom" in (first, second):
            raise RuntimeError("the judge is out of memory")
        return longer(first, second)

    port = serve(slow, queue=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, port, ask("q", "a", "aa"))
        assert (
            started.wait(20) and post(port, ask("s", "a", "aa"))[0] == 503
        )  # the only place is taken
        go_on.set()
        assert waiting.result()[0] == 200
    status, reply = post(port, ask("r", "boom", "aa"))
    assert status == 500 and "out of memory" in reply["error"]
    assert post(port, ask("q", "a", "aa"))[1]["rewards"] == [0.0, 1.0]


def test_a_reward_of_the_wrong_length_is_an_error_and_no_silence(start):
    port = start(make_server(lambda prompts, completions, spans: [0.5], Settings(port=0)))
    for _ in range(2):
        status, reply = post(port, ask("q", "a", "b"))
        assert status in (400, 500) and "zip" in reply["error"]


def test_the_command(tmp_path):
    make_scripted_folder(tmp_path / "judge", COIN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "extras.serve_reward",
        "--model",
        str(tmp_path / "judge"),
        "--max_completion_length",
        "24",
    ]
    process = subprocess.Popen(
        [*command, "--port", "0"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        url = process.stdout.readline()
        assert url.startswith("http://127.0.0.1:")
        port = int(url.split(":")[2].split("/")[0])
        status, reply = post(port, ask("what is 6 * 7?", "42", "43", "44"))
        assert (
            status == 200
            and len(reply["rewards"]) == 3
            and sum(reply["rewards"]) == pytest.approx(1.5)
        )
        asked = [
            ask("too long " * 3000, "a", "b") if n == 7 else ask("q", "a", "b" * n)
            for n in range(20)
        ]
        with ThreadPoolExecutor(20) as pool:  # the judge's context is 4096
            replies = list(pool.map(lambda one: post(port, one), asked))
        assert [status for status, _ in replies] == [200] * 7 + [400] + [200] * 12
        assert "the judge's context is 4096" in replies[7][1]["error"]
    finally:
        process.terminate()
        process.wait()
    for flag, value in (("--port", "70000"), ("--group_size", "1")):
        done = subprocess.run(
            [*command, flag, value], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert (
            done.returncode == 2
            and flag in done.stderr.splitlines()[-1]
            and "Traceback" not in done.stderr
        )
