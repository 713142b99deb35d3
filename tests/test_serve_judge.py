"""extras/serve_judge.py: pairs, chat completions, rewards; many clients; what is refused."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import loopback
import pytest
from test_serve_reward import ask, post
from tiny_models import COIN, make_scripted_folder

import judge as judge_command
from extras.serve_judge import Settings, make_server
from judge import Judge

ROOT = Path(__file__).parents[1]
PAIR = {"query": "what is 6 * 7?", "a": "42", "b": "43"}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def coin(tmp_path_factory):
    return str(make_scripted_folder(tmp_path_factory.mktemp("judges") / "coin", COIN))


@pytest.fixture(scope="module")
def coin_judge(coin):
    return Judge(coin)


@pytest.fixture()
def serve(start):
    """serve(judge, **settings) -> port"""
    fixed = {"port": 0, "max_completion_length": 24}
    return lambda judge, **settings: start(make_server(judge, Settings(**fixed | settings)))


def chat(*contents, **more):
    messages = [{"role": "user", "content": content} for content in contents]
    return {"model": "coin", "messages": messages} | more


def test_a_pair(serve, coin_judge):
    port = serve(coin_judge, num_votes=4)
    status, answer = post(port, PAIR, "/judge")
    query = [{"role": "user", "content": PAIR["query"]}]
    (expected,) = coin_judge.judge([(query, "42", "43")], num_votes=4, max_completion_length=24)
    assert status == 200 and answer["p_first"] == expected.p_first
    assert [game["text"] for game in answer["games"]] == [game["text"] for game in expected.games]
    votes = answer["votes"]
    assert set(votes) == {"a", "b", "none"} and sum(votes.values()) == 8
    assert answer["winner"] in ("a", "b", None)
    if answer["winner"]:
        assert votes[answer["winner"]] > 4 - votes["none"] and "boxed" in answer["text"]
    assert answer["tokens"] == sum(game["tokens"] for game in expected.games)
    assert answer["prompt_tokens"] > 100 and answer["seconds"] > 0
    assert post(port, PAIR | {"query": query}, "/judge")[1]["games"] == answer["games"]


def test_a_pair_with_a_rubric(serve, coin):
    port = serve(Judge(coin, style="rubric"))
    short = post(port, PAIR, "/judge")[1]
    status, answer = post(port, PAIR | {"rubric": "Prefer the even number."}, "/judge")
    assert status == 200 and answer["prompt_tokens"] > short["prompt_tokens"] + 20
    assert post(port, PAIR | {"Rubric": "x"}, "/judge")[0] == 400


def test_what_a_pair_costs(serve, start):
    """Of a judge on a server; unknown where that server does not count the tokens of a prompt."""
    counted = {"usage": {"prompt_tokens": 90, "completion_tokens": 10}}
    reply = json.loads(loopback.chat("\\boxed{Assistant 1}"))

    def behave(request, attempt):
        silent = "silent" in request["messages"][-1]["content"]
        return json.dumps(reply if silent else reply | counted).encode()

    remote = loopback.Server(behave)
    start(remote)
    prices = {"base_url": remote.url, "price_in": 2.0, "price_out": 10.0}
    port = serve(Judge("m", base_url=remote.url), **prices)
    status, answer = post(port, PAIR, "/judge")
    assert status == 200 and (answer["prompt_tokens"], answer["tokens"]) == (180, 20)
    assert answer["cost"] == pytest.approx((180 * 2 + 20 * 10) / 1e6)
    answer = post(port, PAIR | {"query": "silent"}, "/judge")[1]
    assert answer["prompt_tokens"] is None and answer["cost"] is None
    without = serve(Judge("m", base_url=remote.url), base_url=remote.url)
    assert "cost" not in post(without, PAIR, "/judge")[1]


def test_sixty_four_clients_of_all_kinds(serve, coin, coin_judge):
    port = serve(coin_judge, model="coin")

    def client(number):
        if number % 3 == 0:
            return post(port, PAIR | {"query": f"question {number}"}, "/judge")
        if number % 3 == 1:
            return post(port, chat("hello", seed=number, max_tokens=24), CHAT)
        return post(port, ask("q", "a", "b" * number))

    with ThreadPoolExecutor(64) as pool:
        replies = list(pool.map(client, range(192)))
    assert [status for status, _ in replies] == [200] * 192
    for number, (_, reply) in enumerate(replies):
        kind = ("winner", "choices", "rewards")[number % 3]
        assert kind in reply
    one_alone = client(30)[1]
    assert one_alone["games"] == replies[30][1]["games"]  # whatever else is judged


def test_chat_completions(serve, coin_judge):
    port = serve(coin_judge, model="coin")
    status, answer = post(port, chat("hello", n=3, seed=5, max_tokens=24), CHAT)
    assert status == 200 and answer["object"] == "chat.completion" and answer["model"] == "coin"
    choices = answer["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert {choice["finish_reason"] for choice in choices} <= {"stop", "length"}
    assert len({choice["message"]["content"] for choice in choices}) > 1
    usage = answer["usage"]
    prompt = coin_judge.backend.encode([{"role": "user", "content": "hello"}])
    assert usage["prompt_tokens"] == len(prompt) and 3 <= usage["completion_tokens"] <= 72
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    again = post(port, chat("hello", n=3, seed=5, max_tokens=24), CHAT)[1]
    assert again["choices"] == choices and again["id"] != answer["id"]
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    request = chat("hello", n=3, seed=5, max_completion_tokens=24, stream=False, stop=None)
    request["messages"][0]["content"] = parts
    assert post(port, request, CHAT)[1]["choices"] == choices
    cut = post(port, chat("hello", max_tokens=1), CHAT)[1]
    assert cut["choices"][0]["finish_reason"] == "length"
    unseeded = [post(port, chat("hello"), CHAT)[1]["choices"] for _ in range(6)]
    assert any(choices != unseeded[0] for choices in unseeded)
    assert post(port, chat("x"), CHAT)[0] == 200


def test_two_turns_of_the_assistant_are_a_pair(serve, coin_judge):
    port = serve(coin_judge, model="coin")
    turns = [("user", "what is 6 * 7?"), ("assistant", "42"), ("assistant", "43")]
    messages = [{"role": role, "content": content} for role, content in turns]
    answer = post(port, {"model": "coin", "messages": messages}, CHAT)[1]
    shown = coin_judge.encode(judge_command.as_pair(("what is 6 * 7?", "42", "43")), [0, 1], 24)
    assert answer["usage"]["prompt_tokens"] == len(shown)
    assert "<think>" in answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "path, request_, status, problem",
    [
        ("/judge", {"query": "q", "a": "x"}, 400, "is no pair"),
        ("/judge", PAIR | {"b": "42"}, 400, "identical"),
        ("/judge", PAIR | {"votes": 3}, 400, "does not read 'votes'"),
        ("/judge", PAIR | {"query": [3]}, 400, "query is [3]"),
        ("/judge", PAIR | {"query": " "}, 400, "the question is empty"),
        ("/judge", PAIR | {"a": "x y " * 3000}, 400, "fit (context 4096"),
        (CHAT, chat("q", model="other"), 404, "the model here is 'coin'"),
        (CHAT, chat("q", stream=True), 400, "unsupported parameter: 'stream'"),
        (CHAT, chat("q", tools=[{}]), 400, "unsupported parameter: 'tools'"),
        (CHAT, chat("q", temperature="hot"), 400, "temperature is 'hot'"),
        (CHAT, chat("q", temperature=0.001), 400, "temperature"),
        (CHAT, chat("q", n=True), 400, "n is True"),
        (CHAT, chat("q", n=999), 400, "n is 999"),
        (CHAT, chat("q", max_tokens=0), 400, "max_tokens is 0"),
        (CHAT, chat("q", max_tokens=9999), 400, "context of this model is 4096"),
        (CHAT, chat("x y " * 3000), 400, "context of this model is 4096"),
        (CHAT, chat(), 400, "messages"),
        (CHAT, {"model": "coin", "messages": "hi there", "n": None}, 200, None),
        (CHAT, {"model": "coin", "messages": [{"role": "boss", "content": "q"}]}, 400, "boss"),
        (CHAT, {"model": "coin", "messages": [3]}, 400, "messages"),
    ],
)
def test_what_is_refused(serve, coin_judge, path, request_, status, problem):
    port = serve(coin_judge, model="coin")
    found, answer = post(port, request_, path)
    assert found == status, answer
    if problem:
        error = answer["error"]
        assert problem in (error if path == "/judge" else error["message"])


def test_a_request_that_fails_leaves_the_others_alone(serve, coin_judge):
    port = serve(coin_judge, model="coin")

    def client(number):
        if number == 3:
            return post(port, PAIR | {"a": "x y " * 3000}, "/judge")
        if number == 4:
            return post(port, chat("x y " * 3000), CHAT)
        return post(port, PAIR if number % 2 else chat("q"), "/judge" if number % 2 else CHAT)

    with ThreadPoolExecutor(24) as pool:
        statuses = [status for status, _ in pool.map(client, range(24))]
    assert statuses == [200] * 3 + [400, 400] + [200] * 19


def test_our_own_judge_behind_it(serve, coin, coin_judge):
    """judge.py --base_url gives the verdicts of the model here; greedy, so to the letter."""
    port = serve(coin_judge, model="coin")
    remote = Judge("coin", base_url=f"http://127.0.0.1:{port}")
    pairs = [("q", "x" * size, "y") for size in range(1, 8)] + [("q", "x y " * 3000, "z")]
    options = {"temperature": 0.0, "max_completion_length": 24}
    here, there = coin_judge.judge(pairs, **options), remote.judge(pairs, **options)
    assert [one.winner for one in here] == [one.winner for one in there]
    for one, other in zip(here, there):
        assert [game["text"] for game in one.games] == [game["text"] for game in other.games]
        assert [game["status"] for game in one.games] == [game["status"] for game in other.games]


def test_the_command(coin):
    command = [sys.executable, "-m", "extras.serve_judge", "--model", coin, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--max_completion_length", "24"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs ignore Ctrl-C, and so would this child of one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        url = process.stdout.readline().strip()
        port = int(url.rpartition(":")[2])
        assert post(port, PAIR, "/judge")[0] == 200
        assert post(port, {"model": coin, "messages": "q"}, CHAT)[0] == 200
    finally:
        process.send_signal(2)  # Ctrl-C
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    done = subprocess.run([*command[:-1], "70000"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "--port" in done.stderr
