"""endpoint.py against a server on the loopback that fails in every way in which servers fail.

The judge behind a server is tested in test_endpoint_judge.py.
"""

import contextlib
import email.utils
import json
import socket
import threading
import time

import pytest
from loopback import KEY, Handler, chat, text_of

import train_grpo
from cli import BadInput
from extras import endpoint
from extras.endpoint import Endpoint, Reply, check_base_url, read_reply, retry_after


def ask(text="hi", **more):
    return {"messages": [{"role": "user", "content": text}]} | more


def quick(server, **options):
    return Endpoint(server.url, "m", **({"timeout": 1.0, "first_pause": 0.02} | options))


def replies_of(endpoint, requests):
    return [reply for _, reply in sorted(endpoint.complete(requests), key=lambda entry: entry[0])]


# ---- one request ----

HALF = chat("hello")[:30]
FAULTS = {
    "429": (429, {}, b"slow down"),
    "500": (500, {}, b"oops"),
    "503": (503, {"Retry-After": "0"}, b""),
    "529": (529, {}, b"{}"),
    "hang": "hang",
    "cut": "cut",
    "half": HALF,
    "promised more": (200, {"Content-Length": "900"}, HALF),
    "html": b"<html>gateway</html>",
    "no choices": b'{"choices": []}',
    "error in 200": b'{"error": {"message": "overloaded"}}',
    "list": b"[1]",
    "null": b'{"choices": [null]}',
    "empty": b"",
    "bytes": b"\xff\xfe",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_in_passing_is_asked_again(fault, serve):
    server = serve(lambda request, attempt: FAULTS[fault] if attempt < 2 else chat("hello"))
    assert quick(server, timeout=0.3 if fault == "hang" else 5.0).ask(ask()) == Reply(
        "hello", 7, "stop"
    )
    assert len(server.seen) == 3


@pytest.mark.parametrize("fault", ["500", "cut", "half", "hang"])
def test_what_goes_on_failing_is_given_up_and_says_why(fault, serve):
    server = serve(lambda request, attempt: FAULTS[fault])
    reply = quick(server, timeout=0.2 if fault == "hang" else 5.0, attempts=3).ask(ask())
    reason = {
        "500": "status 500",
        "cut": "connection",
        "half": "no chat completion",
        "hang": "no answer within 0 s",
    }[fault]
    assert (
        len(server.seen) == 3
        and "given up after 3 attempts" in reply.error
        and reason in reply.error
    )


def test_a_pause_that_the_server_names_holds_for_all_threads(serve):
    server = serve(
        lambda request, attempt: (
            (429, {"Retry-After": "1"}, b"") if len(server.seen) == 1 else chat("ok")
        )
    )
    started = time.monotonic()
    replies = replies_of(quick(server, concurrency=1), [ask("a"), ask("b")])
    assert [reply.text for reply in replies] == [
        "ok",
        "ok",
    ] and 1.0 <= time.monotonic() - started < 5
    assert all(entry["time"] - server.seen[0]["time"] >= 0.9 for entry in server.seen[1:])


def test_pauses_grow_and_a_deadline_ends_them(serve, monkeypatch):
    server = serve(lambda request, attempt: FAULTS["500"])
    quick(server, attempts=5, first_pause=0.1).ask(ask())
    gaps = [later["time"] - earlier["time"] for earlier, later in zip(server.seen, server.seen[1:])]
    assert len(gaps) == 4 and all(gap >= 0.07 * 2**number for number, gap in enumerate(gaps))
    server.seen.clear()
    started = time.monotonic()
    assert "given up" in quick(server, attempts=50, first_pause=0.1, deadline=0.5).ask(ask()).error
    assert time.monotonic() - started < 2 and len(server.seen) < 8


def test_a_server_that_trickles_meets_the_deadline(serve):
    server = serve(None)

    class Trickle(Handler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            try:
                for _ in range(30):
                    self.wfile.write(b" ")
                    time.sleep(0.1)
            except OSError:
                pass

    server.RequestHandlerClass = Trickle
    started = time.monotonic()
    assert (
        "no answer within" in quick(server, timeout=0.5, attempts=1).ask(ask()).error
        and time.monotonic() - started < 2.5
    )


def test_one_bad_request_leaves_the_others_alone(serve):
    server = serve(
        lambda request, attempt: (
            (400, {}, b'{"error": {"message": "context length exceeded"}}')
            if text_of(request) == "3"
            else chat(text_of(request))
        )
    )
    replies = replies_of(quick(server), [ask(str(number)) for number in range(6)])
    assert [reply.text for reply in replies] == ["0", "1", "2", "", "4", "5"] and [
        number for number in range(6) if replies[number].error
    ] == [3]
    assert "status 400" in replies[3].error and "context length exceeded" in replies[3].error
    assert sum(text_of(entry) == "3" for entry in server.seen) == 1  # it would fail again


@pytest.mark.parametrize(
    "status, words",
    [
        (401, "OPENAI_API_KEY"),
        (403, "OPENAI_API_KEY"),
        (404, "--model m"),
        (302, "address"),
        (405, "address"),
    ],
)
def test_what_no_request_can_survive_is_bad_input(status, words, serve):
    server = serve(lambda request, attempt: (status, {"Location": "/elsewhere"}, b"no"))
    with pytest.raises(BadInput, match=f"answers {status} .*{words}"):
        replies_of(quick(server, concurrency=1), [ask(str(number)) for number in range(50)])
    assert len(server.seen) == 1


def test_replies_under_way_are_kept_when_the_run_ends(serve):
    """The quota ends after five replies: those five reach the caller before the exception."""

    def behave(request, attempt):
        return (
            chat("ok")
            if len(server.seen) <= 5
            else (429, {}, b'{"error": {"code": "insufficient_quota"}}')
        )

    server, kept = serve(behave), []
    with pytest.raises(BadInput, match="insufficient_quota"):
        for index, reply in quick(server, concurrency=1).complete(
            [ask(str(number)) for number in range(20)]
        ):
            kept.append((index, reply.text))
    assert kept == [(number, "ok") for number in range(5)]


def test_a_refusal_of_one_text_is_no_refusal_of_the_key(serve):
    server = serve(
        lambda request, attempt: (
            (403, {}, b"flagged by moderation") if text_of(request) == "bad" else chat("ok")
        )
    )
    replies = replies_of(quick(server, concurrency=1), [ask("good"), ask("bad"), ask("good")])
    assert [reply.error is None for reply in replies] == [True, False, True]


def test_nobody_listens():
    reply = Endpoint("http://127.0.0.1:9", "m", attempts=2, first_pause=0.01).ask(ask())
    assert "given up after 2 attempts: no connection" in reply.error


def test_a_server_that_is_not_there_ends_the_run_in_seconds():
    started = time.monotonic()
    with pytest.raises(BadInput, match="no connection for [34] s .*refused.*: start the server"):
        list(Endpoint("http://127.0.0.1:9", "m").complete([ask(str(n)) for n in range(40)]))
    assert time.monotonic() - started < 6


def test_a_training_whose_judge_is_not_there_ends_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("extras.endpoint.NEVER_THERE", 0.2)
    data = tmp_path / "questions.jsonl"
    data.write_text('{"question": "2+3", "answer": "5"}\n')
    settings = train_grpo.Settings(
        train_data=str(data),
        reward="judge",
        judge_model="m@http://127.0.0.1:9",
        output_dir=str(tmp_path / "run"),
    )
    with pytest.raises(BadInput, match="no connection for"):
        train_grpo.prepare(settings)


def test_a_server_that_dies_ends_the_run(serve, monkeypatch):
    monkeypatch.setattr("extras.endpoint.GONE", 0.5)
    server, replies = serve(lambda request, attempt: chat("x")), []
    requests = [ask(str(number)) for number in range(40)]
    with pytest.raises(BadInput, match="no connection for . s"):
        for _, reply in quick(server, concurrency=2).complete(requests):
            replies.append(reply)
            if len(replies) == 5:
                server.shutdown()
                server.server_close()
    answered = [reply for reply in replies if not reply.error]
    assert 5 <= len(answered) <= len(replies) < 20


def test_a_server_that_answers_no_request_at_all_ends_the_run(serve):
    server = serve(lambda request, attempt: FAULTS["503"])
    with pytest.raises(BadInput, match="no request has succeeded; .*status 503: look after"):
        list(quick(server, attempts=2, concurrency=2).complete([ask(str(n)) for n in range(40)]))
    assert len(server.seen) <= 6


def test_a_host_that_takes_no_connection(monkeypatch):
    monkeypatch.setattr("extras.endpoint.CONNECT_SECONDS", 0.3)
    monkeypatch.setattr("extras.endpoint.NEVER_THERE", 0.2)
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    address = full.getsockname()
    waiting = [socket.socket() for _ in range(4)]  # fill its queue: the next one gets no answer
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(address)
    with pytest.raises(BadInput, match="no connection for 0 s .*timed out"):
        Endpoint(f"http://127.0.0.1:{address[1]}", "m").ask(ask())
    for one in [*waiting, full]:
        one.close()


def behave_silent(connection):
    time.sleep(5)


def behave_drip(connection):
    """A byte of a status line now and then: each one moves the deadline of a plain socket."""
    with contextlib.suppress(OSError):
        for byte in b"HTTP/1.1 200 OK\r\nA: " + b"a" * 30:
            connection.sendall(bytes([byte]))
            time.sleep(0.1)


def behave_busy(connection):
    """GET is answered, a POST never: a server whose model hangs from the second request on."""
    if connection.recv(10).startswith(b"GET") and not behave_busy.hangs:
        connection.sendall(b"HTTP/1.1 404 no\r\nContent-Length: 0\r\n\r\n")
        behave_busy.hangs = True
        connection.close()
    else:
        time.sleep(5)


@pytest.mark.parametrize("behave", [behave_silent, behave_drip, behave_busy])
def test_a_server_that_takes_connections_and_says_nothing(behave, monkeypatch):
    monkeypatch.setattr("extras.endpoint.SILENT_SECONDS", 0.5)
    behave_busy.hangs = False
    listener = socket.create_server(("127.0.0.1", 0))

    def serve_all():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=behave, args=(connection,), daemon=True).start()

    threading.Thread(target=serve_all, daemon=True).start()
    url, started = f"http://127.0.0.1:{listener.getsockname()[1]}", time.monotonic()
    with pytest.raises(BadInput, match="no answer to GET /models within 0 s: start the server"):
        list(Endpoint(url, "m", timeout=1.0).complete([ask(str(n)) for n in range(40)]))
    assert time.monotonic() - started < 4
    listener.close()


def test_a_slow_model_is_not_a_silent_server(serve, monkeypatch):
    monkeypatch.setattr("extras.endpoint.SILENT_SECONDS", 0.3)

    def behave(request, attempt):
        time.sleep(1)
        return chat("late")

    assert replies_of(quick(serve(behave), timeout=9.0), [ask()]) == [Reply("late", 7)]


def test_requests_under_way_are_bounded_and_come_as_they_are_done(serve):
    def behave(request, attempt):
        time.sleep(0.3 if text_of(request) == "0" else 0.03)
        return chat(text_of(request))

    server = serve(behave)
    order = [
        index
        for index, _ in quick(server, concurrency=4, timeout=9.0).complete(
            [ask(str(number)) for number in range(16)]
        )
    ]
    assert sorted(order) == list(range(16)) and order[0] != 0 and 2 <= server.most <= 4


def test_fields_that_a_server_refuses_are_renamed_or_left_out(serve):
    def behave(request, attempt):
        for name, hint in (("max_tokens", "use max_completion_tokens"), ("seed", "")):
            if name in request:
                return 400, {}, f"Unsupported parameter: '{name}' {hint}".encode()
        return chat(json.dumps({name: request[name] for name in request if name != "messages"}))

    server = serve(behave)
    there = quick(server, concurrency=1)
    for _ in range(2):
        (reply,) = replies_of(there, [ask(max_tokens=5, seed=1, temperature=0.5)])
        assert json.loads(reply.text) == {
            "model": "m",
            "max_completion_tokens": 5,
            "temperature": 0.5,
        }
    assert len(server.seen) == 4  # the second call knows


# ---- the key ----


def test_the_key_goes_into_its_header_and_nowhere_else(serve, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    server = serve(
        lambda request, attempt: (
            (500, {}, KEY.encode()) if attempt == 0 else (400, {}, f"bad key {KEY}".encode())
        )
    )
    reply = quick(server).ask(ask())
    assert (
        server.seen[0]["authorization"] == f"Bearer {KEY}"
        and server.seen[0]["path"] == "/v1/chat/completions"
    )
    assert "***" in reply.error and KEY not in reply.error + "".join(capsys.readouterr())
    server.behave = lambda request, attempt: (
        401,
        {},
        f"Incorrect API key provided: {KEY}".encode(),
    )
    with pytest.raises(BadInput) as caught:
        quick(server).ask(ask("again"))
    assert "Incorrect API key" in str(caught.value) and KEY not in str(caught.value)
    monkeypatch.delenv("OPENAI_API_KEY")
    server.behave = lambda request, attempt: chat("ok")
    quick(server).ask(ask("no key"))
    assert server.seen[-1]["authorization"] is None


def test_a_redirect_does_not_carry_the_key_away(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    thief = serve(lambda request, attempt: chat("thanks"))
    server = serve(
        lambda request, attempt: (307, {"Location": thief.url + "/chat/completions"}, b"")
    )
    with pytest.raises(BadInput, match="answers 307"):
        quick(server).ask(ask())
    assert thief.seen == []


@pytest.mark.parametrize(
    "url, meant",
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("https://h/v1/", "https://h/v1"),
        ("https://h/api/openai/v1", "https://h/api/openai/v1"),
    ],
)
def test_addresses(url, meant):
    assert check_base_url(url) == meant


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "h",
        "",
        "ftp://h/v1",
        "http://",
        "https://me:key@h/v1",
        "http://h/v1?api_key=1",
    ],
)
def test_what_is_no_address(url):
    with pytest.raises(BadInput, match="--base_url"):
        check_base_url(url)


def test_a_host_that_does_not_exist(monkeypatch):
    def fail(*arguments, **options):
        raise endpoint.urllib.error.URLError(
            endpoint.socket.gaierror(endpoint.socket.EAI_NONAME, "unknown")
        )

    there = Endpoint("http://nowhere.invalid/v1", "m")
    monkeypatch.setattr(there, "opener", type("Opener", (), {"open": staticmethod(fail)}))
    with pytest.raises(BadInput, match="no such host"):
        there.ask(ask())


# ---- what a reply says ----


@pytest.mark.parametrize(
    "body, reply",
    [
        (chat("a", 3), Reply("a", 3)),
        (chat("a", 3, "length"), Reply("a", 3, "length")),
        (chat(None), Reply("", 7)),
        (chat("a", 3, "content_filter"), Reply("a", 3)),
        (chat("verdict", reasoning_content="hm"), Reply("<think>hm</think>verdict", 7)),
        (chat("v", reasoning="hm"), Reply("<think>hm</think>v", 7)),
        (chat(None, 9, "length", reasoning_content="hm"), Reply("<think>hm", 9, "length")),
        (chat("", reasoning_content="hm"), Reply("<think>hm</think>", 7)),
        (b'{"choices": [{"message": {"content": "x"}}]}', Reply("x", 0)),
        (b'{"choices": [{"message": {"content": "x"}}], "usage": {}}', Reply("x", 0)),
        (
            b'{"choices": [{"message": {"content": "x"}}], '
            b'"usage": {"prompt_tokens": 31, "completion_tokens": 2}}',
            Reply("x", 2, prompt_tokens=31),
        ),
    ],
)
def test_replies(body, reply):
    assert read_reply(body) == reply


def test_pauses_that_are_wished_for():
    assert [retry_after(header) for header in ("2", "0.5", "", None, "soon", "-1", "1e9")] == [
        2.0,
        0.5,
        None,
        None,
        None,
        None,
        None,
    ]
    assert retry_after("99999") == endpoint.MAX_RETRY_AFTER and retry_after("0") == 0.001
    assert 55 < retry_after(email.utils.formatdate(time.time() + 60)) <= 60


def test_the_threads_end_with_the_caller(serve):
    server = serve(lambda request, attempt: chat("ok"))
    for _ in quick(server, concurrency=2).complete([ask(str(number)) for number in range(200)]):
        break
    time.sleep(0.5)
    count = len(server.seen)
    time.sleep(0.3)
    assert count == len(server.seen) < 200
    assert list(quick(server).complete([])) == []


@pytest.mark.parametrize(
    "reason, expected",
    [("stop", "stop"), (None, "stop"), ("eos_token", "stop"), ("length", "length")]
    + [(cut, "length") for cut in ("model_length", "MAX_TOKENS", "abort", "error")],
)
def test_a_text_that_a_server_cut_off_is_no_whole_text_whatever_it_calls_that(reason, expected):
    choice = {"message": {"content": "\\boxed{Assistant 1}"}, "finish_reason": reason}
    reply = read_reply(json.dumps({"choices": [choice]}))
    assert reply.finish_reason == expected
