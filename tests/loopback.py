"""A server on the loopback that fails in every way in which OpenAI-compatible servers fail.

The fixture `serve` starts it.
"""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-secret-0123456789"


def chat(text, tokens=7, reason="stop", **message):
    content = {"role": "assistant", "content": text} | message
    return json.dumps(
        {
            "choices": [{"message": content, "finish_reason": reason}],
            "usage": {"completion_tokens": tokens},
        }
    ).encode()


class Server(ThreadingHTTPServer):
    """Answers each request as `behave(request, number of this text's attempts so far)` says:
    (status, headers, body), or the name of a fault."""

    daemon_threads = True

    def __init__(self, behave):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave, self.seen, self.busy, self.most, self.guard = (
            behave,
            [],
            0,
            0,
            threading.Lock(),
        )
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def serve_forever(self):
        super().serve_forever(poll_interval=0.02)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.guard:
            attempt = sum(
                entry["messages"] == request["messages"]
                and entry.get("seed") == request.get("seed")
                for entry in server.seen
            )
            server.seen.append(
                request
                | {
                    "authorization": self.headers.get("Authorization"),
                    "path": self.path,
                    "time": time.monotonic(),
                }
            )
            server.busy += 1
            server.most = max(server.most, server.busy)
        answer = server.behave(request, attempt)
        with server.guard:
            server.busy -= 1
        if answer == "hang":
            time.sleep(3)
            return
        if answer == "cut":  # not even a status line
            self.connection.close()
            return
        status, headers, body = answer if isinstance(answer, tuple) else (200, {}, answer)
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def text_of(request):
    return request["messages"][-1]["content"]
