"""extras/http_server.py: slow, large, strange and many requests, and a judge that fails."""

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cli import BadInput
from extras import http_server
from extras.http_server import (
    JudgingThread,
    Server,
    ServerSettings,
    batches,
    check_server_settings,
    outcomes,
)


@pytest.fixture()
def serve(start):
    """serve(judge_all, **settings) -> port. A request is {"x": number}, its answer {"y": ...}."""

    def begin(judge_all=lambda numbers: [{"y": number} for number in numbers], **settings):
        judge_ready, thread = batches(judge_all), JudgingThread()
        routes = {
            "POST /judge": lambda request: thread.add(judge_ready, request["x"]),
            "POST /v1/chat": lambda request: thread.add(judge_ready, request["x"]),
            "GET /health": lambda request: {"status": "ok"},
        }
        begin.server = Server(routes, ServerSettings(**{"port": 0} | settings))
        return start(begin.server)

    return begin


def post(port, content=b'{"x": 1}', path="/judge", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", path, content, headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def raw(port, data):
    """Sends bytes and keeps the connection open."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=120)
    connection.sendall(data)
    return connection


def status_of(connection):
    return int(connection.makefile("rb").readline().split()[1])


def was_ended(connection):
    connection.settimeout(1)
    try:
        return connection.recv(10) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


HEAD = b"POST /judge HTTP/1.1\r\nHost: localhost\r\n"


# ---- many and slow ----


def test_sixty_four_clients_at_once(serve):
    port = serve()
    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(lambda n: post(port, json.dumps({"x": n})), range(256)))
    assert found == [(200, {"y": number}) for number in range(256)]


def test_slow_bodies_take_no_place_and_slow_headers_no_thread(serve):
    port, before = serve(queue=2), threading.active_count()
    slow = [raw(port, HEAD + b'Content-Length: 100\r\n\r\n{"x"') for _ in range(256)]
    slow += [raw(port, b"POST /judge HTTP/1.1\r\nHo") for _ in range(200)]
    started = time.monotonic()
    assert post(port) == (200, {"y": 1})
    assert time.monotonic() - started < 5 and threading.active_count() - before < 10
    for one in slow:
        one.close()


def test_a_request_has_a_total_deadline(serve, monkeypatch):
    monkeypatch.setattr(http_server, "READ_SECONDS", 0.6)
    port, started = serve(), time.monotonic()
    connections = [
        raw(port, b"POST /judge HTTP/1.1\r\n"),
        raw(port, HEAD + b"Content-Length: 100\r\n\r\n"),
    ]
    for _ in range(5):  # a byte now and then does not move the deadline
        time.sleep(0.1)
        for one in connections:
            one.sendall(b"a")
    assert [status_of(one) for one in connections] == [408, 408]
    assert time.monotonic() - started < 5


def test_the_oldest_of_too_many_slow_requests_is_ended(serve, monkeypatch):
    monkeypatch.setattr(http_server, "MAX_READING", 8)
    port = serve()
    slow = [raw(port, HEAD) for _ in range(12)]
    assert post(port) == (200, {"y": 1})
    assert was_ended(slow[0]) and not was_ended(slow[-1])


def test_the_bytes_of_all_requests_are_bounded(serve, monkeypatch):
    monkeypatch.setattr(http_server, "HELD_BODIES", 4)
    port = serve(max_body=10_000)
    slow = [raw(port, HEAD + b"Content-Length: 9999\r\n\r\n" + b" " * 9000) for _ in range(6)]
    time.sleep(0.5)
    assert post(port) == (200, {"y": 1})
    assert was_ended(slow[0]) and not was_ended(slow[-1])


def test_a_full_queue(serve):
    go_on = threading.Event()

    def judge_all(numbers):
        go_on.wait(100)
        return [{"y": number} for number in numbers]

    port = serve(judge_all, queue=2)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(post, port) for _ in range(2)]
        while serve.server.num_waiting < 2 and not any(one.done() for one in waiting):
            time.sleep(0.05)
        status, answer = post(port)
        assert status == 503 and "--queue" in answer["error"]
        go_on.set()
        assert [one.result()[0] for one in waiting] == [200, 200]
    assert post(port)[0] == 200


def test_nothing_is_judged_for_a_client_that_has_gone(serve):
    go_on, judged = threading.Event(), []

    def judge_all(numbers):
        judged.extend(numbers)
        go_on.wait(100)
        return [{"y": number} for number in numbers]

    port = serve(judge_all)
    body = b'{"x": %d}'
    clients = []
    for number in (1, 2, 3):
        clients.append(raw(port, HEAD + b"Content-Length: 8\r\n\r\n" + body % number))
        while serve.server.num_waiting < number or not judged:
            time.sleep(0.02)
    clients[0].close()  # is being judged
    clients[1].close()  # still waits
    while serve.server.num_waiting > 1:
        time.sleep(0.02)
    go_on.set()
    assert status_of(clients[2]) == 200 and judged == [1, 3]
    assert post(port) == (200, {"y": 1})


# ---- large and strange ----


def test_a_client_sees_that_its_body_is_too_large(serve):
    port = serve(max_body=1000)
    status, answer = post(port, b" " * 20_000_000)  # sent in full before the answer is read
    assert status == 413 and "--max_body" in answer["error"]
    assert status_of(raw(port, HEAD + b"Content-Length: 99999\r\n\r\n")) == 413


def test_a_body_may_wait_for_the_servers_word(serve):
    one = raw(serve(), HEAD + b"Expect: 100-continue\r\nContent-Length: 8\r\n\r\n")
    assert one.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    one.sendall(b'{"x": 2}')
    assert status_of(one) == 200


@pytest.mark.parametrize(
    "request_bytes, status",
    [
        (b"hello\r\n\r\n", 400),
        (b"POST /judge HTTP/2\r\nHost: localhost\r\n\r\n", 400),
        (b"\xff\x00\r\n\r\n", 400),
        (HEAD + b"no colon\r\n\r\n", 400),
        (HEAD + b"Host: localhost\r\n\r\n", 400),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (HEAD + b"\r\n", 411),
        (HEAD + b"Content-Length: -1\r\n\r\n", 411),
        (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 8\r\n\r\n", 411),
        (HEAD + b"A: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (HEAD + b"Content-Length: 2\r\n\r\n[]", 400),
        (HEAD + b"Content-Length: 2\r\n\r\n\xff\xfe", 400),
        (b"GET /judge HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /health?x=1 HTTP/1.1\r\nHost: LOCALHOST:99\r\n\r\n", 200),
        (b"GET /health HTTP/1.1\r\nHost: [::1]:8765\r\n\r\n", 200),
        (b"GET /health HTTP/1.1\r\n\r\n", 403),
        (b"GET /health HTTP/1.1\r\nHost: \r\n\r\n", 403),
        (b"GET /health HTTP/1.1\r\nHost: [::1\r\n\r\n", 403),
    ],
)
def test_requests_of_all_kinds(serve, request_bytes, status):
    port = serve()
    assert status_of(raw(port, request_bytes)) == status
    assert post(port) == (200, {"y": 1})  # and it goes on


@pytest.mark.parametrize(
    "host, origin, allowed",
    [
        ("127.0.0.1:8765", None, True),
        ("localhost", "http://localhost:8888", True),
        ("evil.example:8765", None, False),  # DNS rebinding
        ("localhost.evil.example", None, False),
        ("localhost@evil.example", None, False),
        ("evil.example@localhost", None, False),
        ("localhost/evil.example", None, False),
        ("localhost:port", None, False),
        ("localhost:99999", None, False),
        ("LocalHost.:8765", "http://[::1]:3000", True),
        ("localhost", "http://evil.example@localhost", False),
        ("192.168.0.9", None, False),
        ("localhost", "http://evil.example", False),
        ("localhost", "http://localhost.evil.example", False),
        ("localhost", "null", False),
    ],
)
def test_web_pages_from_elsewhere_are_refused(serve, host, origin, allowed):
    headers = {"Host": host} | ({"Origin": origin} if origin else {})
    status, answer = post(serve(), **headers)
    assert status == (200 if allowed else 403)
    assert allowed or "Host and Origin" in answer["error"]


def test_one_request_is_parsed_at_a_time(start):
    """Parsed JSON may take 30 times the memory of its text."""
    lock, most = threading.Lock(), []

    def slow(request):
        most.append(lock.acquire(blocking=False))
        time.sleep(0.02)
        if most[-1]:
            lock.release()
        return {}

    port = start(Server({"POST /judge": slow}, ServerSettings(port=0)))
    with ThreadPoolExecutor(16) as clients:
        assert {status for status, _ in clients.map(post, [port] * 32)} == {200}
    assert len(most) == 32 and all(most)


def test_addresses(capsys):
    server = Server({}, ServerSettings(host="::1", port=0))
    assert server.url == f"http://[::1]:{server.server_port}"
    taken = ServerSettings(host="::1", port=server.server_port)
    with pytest.raises(BadInput, match="--host, --port: cannot listen on ::1:"):
        check_server_settings(taken)
    server.server_close()
    check_server_settings(taken)


def test_names_of_a_server_that_others_can_reach():
    server = Server({}, ServerSettings(host="0.0.0.0", port=0))
    server.server_close()
    own = ["192.168.0.9", "10.1.1.1", "::1", "localhost", socket.gethostname().lower()]
    assert all(server.is_own_name(name) for name in own)
    assert not server.is_own_name("evil.example") and not server.is_own_name("")


# ---- a judge that fails ----


def fails_at_seven(numbers):
    if 7 in numbers:
        raise ValueError("\x1b[31mseven is too long")
    if 8 in numbers:
        raise RuntimeError("out of memory")
    return [{"y": number} for number in numbers]


def test_only_the_request_that_fails_is_told(serve, capsys):
    go_on = threading.Event()

    def judge_all(numbers):
        go_on.wait(100)
        return fails_at_seven(numbers)

    port = serve(judge_all)
    with ThreadPoolExecutor(40) as pool:
        found = [pool.submit(post, port, json.dumps({"x": number})) for number in range(40)]
        time.sleep(0.5)
        go_on.set()
        found = [one.result() for one in found]
    assert [status for status, _ in found] == [200] * 7 + [400, 500] + [200] * 31
    assert "seven is too long" in found[7][1]["error"] and "memory" in found[8][1]["error"]
    assert "\x1b" not in capsys.readouterr().err


def test_the_judging_thread_survives_what_nobody_expected(serve, capsys):
    def too_few(numbers):
        return [{"y": number} for number in numbers][1:]

    port = serve(too_few)
    status, answer = post(port)
    assert status == 500 and "0 results for 1 requests" in answer["error"]
    assert post(port)[0] == status  # and does not hang

    port = serve(lambda numbers: [{"y": float("nan")} for _ in numbers])
    assert post(port)[0] == 500
    assert "Task exception" not in capsys.readouterr().err


def test_a_batch_is_halved_until_the_one_that_fails_is_alone():
    calls = []

    def judge(numbers):
        calls.append(len(numbers))
        return fails_at_seven(numbers)

    found = outcomes(judge, list(range(10, 73)) + [7])
    assert isinstance(found[-1], ValueError) and found[:-1] == [{"y": n} for n in range(10, 73)]
    assert calls == [64, 32, 32, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1] and outcomes(judge, []) == []


def test_errors_under_v1_have_the_shape_that_openai_clients_read(serve):
    status, answer = post(serve(fails_at_seven), b'{"x": 7}', "/v1/chat")
    assert status == 400 and answer["error"]["type"] == "invalid_request_error"
    assert "seven" in answer["error"]["message"]
