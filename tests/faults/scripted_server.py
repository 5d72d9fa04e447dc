"""A judge's server for the harness: it grades a response by its text alone, and can be told to misbehave."""

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Handler = BaseHTTPRequestHandler
Misbehave = Callable[[Handler, dict[str, Any]], None]  # given the good answer, writes another one, or none


def grade(text: str) -> tuple[int, dict[str, Any]]:
    """Return the grade of a text, from its hash, and a chat completion that says it, with the grades' likelihoods."""
    digest = hashlib.sha256(text.encode()).digest()
    number = 1 + digest[0] % 5
    likely = [
        {"token": str(n), "logprob": -0.1 - abs(n - number) - digest[n] / 512, "bytes": None} for n in range(1, 6)
    ]
    tokens = [
        {"token": token, "logprob": -0.1, "bytes": None, "top_logprobs": likely if token.isdigit() else []}
        for token in ("Score", ": [[", str(number), "]]")
    ]
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "logprobs": {"content": tokens},
        "message": {"role": "assistant", "content": f"Score: [[{number}]]"},
    }
    usage = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    return number, {
        **{"id": "1", "object": "chat.completion", "created": 0, "model": "fake-model"},
        **{"choices": [choice], "usage": usage},
    }


class GradingServer:
    """An HTTP server on a loopback port that grades what it is asked about.

    Attributes:
        script: What becomes of the next requests, one each: None for a good answer; when it is spent, all are good.
        always: What becomes of all requests, while it is set.
        num_requests: So far.
    """

    def __init__(self, script: Iterable[Misbehave | None] = (), *, always: Misbehave | None = None) -> None:
        self.script, self.always, self.num_requests = list(script), always, 0
        self._lock = threading.Lock()
        server = self

        class OneHandler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with suppress(OSError):  # of a client that has given up
                    server.answer(self, body)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: Any) -> None:  # clients that were killed
                pass

        self.http = Server(("127.0.0.1", 0), OneHandler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, handler: Handler, body: dict[str, Any]) -> None:
        """Answer one request, well or as the script says."""
        with self._lock:
            self.num_requests += 1
            misbehave = self.always or (self.script.pop(0) if self.script else None)
        (misbehave or well)(handler, grade(body["messages"][-1]["content"])[1])

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def reply(
    handler: Handler,
    content: bytes,
    *,
    status: int = 200,
    length: int | None = None,
    closes: bool = False,
    headers: dict[str, str] | None = None,
) -> None:
    """Send an answer whose Content-Length may be wrong."""
    given = {"Content-Type": "application/json", "Content-Length": str(len(content) if length is None else length)}
    handler.send_response(status)
    for name, value in (given | (headers or {})).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)
    handler.close_connection = closes


def well(handler: Handler, answer: dict[str, Any]) -> None:
    reply(handler, json.dumps(answer).encode())


def status(number: int, **headers: str) -> Misbehave:
    """Refuse with a status."""
    body = json.dumps({"error": {"message": "no", "type": "error", "code": None}}).encode()
    return lambda handler, _: reply(handler, body, status=number, headers={**headers})


def body(content: bytes, **how: Any) -> Misbehave:
    """Answer with these bytes."""
    return lambda handler, _: reply(handler, content, **how)


def half(handler: Handler, answer: dict[str, Any]) -> None:
    """Send half of the JSON, as if it were all of it."""
    content = json.dumps(answer).encode()
    reply(handler, content[: len(content) // 2])


def hangs_up_early(handler: Handler, answer: dict[str, Any]) -> None:
    """Say the right length, send half and hang up."""
    content = json.dumps(answer).encode()
    reply(handler, content[: len(content) // 2], length=len(content), closes=True)


def says_less(handler: Handler, answer: dict[str, Any]) -> None:
    """Send more than was said: what is over stands where the next answer is expected."""
    content = json.dumps(answer).encode()
    reply(handler, content, length=len(content) // 2)


def resets(handler: Handler, answer: dict[str, Any]) -> None:
    """Reset the connection in place of an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def resets_in_answer(handler: Handler, answer: dict[str, Any]) -> None:
    """Send half of an answer and reset the connection."""
    content = json.dumps(answer).encode()
    reply(handler, content[: len(content) // 2], length=len(content))
    handler.wfile.flush()
    resets(handler, answer)


def hangs_up(handler: Handler, answer: dict[str, Any]) -> None:
    """Close the connection in place of an answer."""
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def drips(*, seconds: float, every_s: float = 0.05) -> Misbehave:
    """Send white space, a byte at a time, and never the answer."""

    def drip(handler: Handler, answer: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(every_s)
        handler.close_connection = True

    return drip


def changed(change: Callable[[dict[str, Any]], Any]) -> Misbehave:
    """Answer with the good completion, in which something was changed in place."""

    def answer_changed(handler: Handler, answer: dict[str, Any]) -> None:
        found = change(answer)
        reply(handler, json.dumps(answer if found is None else found).encode())

    return answer_changed


def uses(usage: Any) -> Misbehave:
    """Say this of the tokens that were used."""
    return changed(lambda answer: answer.update(usage=usage))


def says_nothing(handler: Handler, answer: dict[str, Any]) -> None:
    """Answer with no text."""
    answer["choices"][0]["message"]["content"] = ""
    well(handler, answer)


def says_nothing_of_odd_ones(handler: Handler, answer: dict[str, Any]) -> None:
    """Answer with no text where the grade is odd, which the text that is graded decides: always the same questions."""
    number = int(answer["choices"][0]["logprobs"]["content"][2]["token"])
    (says_nothing if number % 2 else well)(handler, answer)
