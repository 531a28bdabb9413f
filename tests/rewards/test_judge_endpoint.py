"""A judge behind a URL, against a real server on this machine that misbehaves in every way we know of."""

from __future__ import annotations

import base64
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regrip.rewards.judge_backends import Answer, JudgeMisconfiguredError, Question
from regrip.rewards.judge_cache import AnswerCache
from regrip.rewards.judge_endpoint import EndpointJudge, EndpointSettings

TOKEN = "a-token-nobody-may-see"


def reply(text: str | None = "yes", usage: tuple[int, int] | None = (10, 2), **choice: Any) -> bytes:
    held: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": text}, **choice}]}
    if usage is not None:
        held["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return json.dumps(held).encode()


def answered(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


Behaviour = Callable[[BaseHTTPRequestHandler, int, dict[str, Any]], None]


class Server:
    """Answers by a function of the handler, the number of the request and its JSON."""

    def __init__(self) -> None:
        self.behave: Behaviour = lambda handler, number, body: answered(handler, 200, reply())
        self.seen: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.paths: list[str] = []
        self.release = threading.Event()
        lock = threading.Lock()
        ours = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    ours.seen.append(body)
                    ours.tokens.append(self.headers["Authorization"])
                    ours.paths.append(self.path)
                    number = len(ours.seen) - 1
                try:
                    ours.behave(self, number, body)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    held = Server()
    yield held
    held.close()


QUICK = EndpointSettings(timeout_s=20, retries=0, backoff_s=0.0, parallel=2)


def question(text: str = "Is it there?") -> Question:
    return Question((text, np.arange(48, dtype=np.uint8).reshape(4, 4, 3)))


def asked(server: Server, settings: EndpointSettings = QUICK, **more: Any) -> tuple[Answer, EndpointJudge]:
    judge = EndpointJudge(server.url, "model", TOKEN, settings=settings, **more)
    answer = judge.ask([question()])[0]
    judge.close()
    return answer, judge


def sends(status: int, body: bytes, **headers: str) -> Behaviour:
    return lambda handler, number, said: answered(handler, status, body, **headers)


def hang_up(handler: BaseHTTPRequestHandler, number: int, body: dict[str, Any]) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def cut_short(handler: BaseHTTPRequestHandler, number: int, body: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(reply()[:20])
    handler.close_connection = True


@pytest.mark.parametrize(
    ("behave", "trouble"),
    [
        (sends(200, b"<html><body>Sign in</body></html>"), "not JSON"),
        (sends(200, b""), "not JSON"),
        (sends(200, reply()[:30]), "not JSON"),
        (sends(200, b"\xff\xfe\x00garbage"), "not JSON"),
        (sends(200, b"[" * 100_000), "not JSON"),
        (sends(200, b"9" * 10_000), "not JSON"),
        (sends(200, b"[]"), "wrong schema"),
        (sends(200, b'{"choices": []}'), "wrong schema"),
        (sends(200, b'{"choices": [{"message": "yes"}]}'), "wrong schema"),
        (sends(200, b'{"choices": [{"message": {"content": {"text": "yes"}}}]}'), "wrong schema"),
        (sends(200, b'{"error": {"message": "overloaded"}}'), "wrong schema"),
        (sends(200, reply(None)), "no answer"),
        (sends(200, reply(" \n")), "no answer"),
        (sends(200, reply("y" * 10_000_000)), "too long"),
        (sends(500, b"oops"), "status 500"),
        (sends(503, b"", Retry_After="not a date"), "status 503"),
        (sends(429, b""), "status 429"),
        (sends(400, b"too many pictures"), "status 400"),
        (sends(302, b"", Location="http://127.0.0.1:9/elsewhere"), "status 302"),
        (hang_up, "no connection"),
        (cut_short, "no connection"),
    ],
)
def test_every_misbehaviour_is_an_answer_with_a_counted_reason(
    server: Server, behave: Behaviour, trouble: str
) -> None:
    server.behave = behave
    answer, judge = asked(server)
    assert answer == Answer(trouble=trouble)
    assert judge.counts[trouble] == 1
    assert judge.counts["answered"] == 0
    assert len(server.seen) == 1


def test_a_server_that_hangs_or_drips_is_a_timeout(server: Server) -> None:
    def hang(handler: BaseHTTPRequestHandler, number: int, body: dict[str, Any]) -> None:
        server.release.wait(30)

    def drip(handler: BaseHTTPRequestHandler, number: int, body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not server.release.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    for server.behave in (hang, drip):
        answer, _ = asked(server, EndpointSettings(timeout_s=0.3, retries=0))
        assert answer.trouble == "timeout"


def test_no_server_at_all_is_no_connection() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    judge = EndpointJudge(f"http://127.0.0.1:{port}/v1", "model", settings=QUICK)
    assert judge.ask([question()])[0].trouble == "no connection"
    judge.close()


def test_what_is_sent(server: Server) -> None:
    settings = EndpointSettings(max_tokens=7, extra={"seed": None, "top_p": 0.5})
    answer, judge = asked(server, settings)
    assert answer == Answer(text="yes")
    body = server.seen[0]
    url = body["messages"][0]["content"][1]["image_url"]["url"]
    picture = Image.open(BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    assert np.array_equal(np.asarray(picture), question().pictures[0])
    assert body["messages"][0]["content"][0] == {"type": "text", "text": "Is it there?"}
    assert {key: body[key] for key in ("model", "temperature", "max_tokens", "top_p")} == {
        "model": "model",
        "temperature": 0,
        "max_tokens": 7,
        "top_p": 0.5,
    }
    assert "seed" not in body
    assert server.paths == ["/v1/chat/completions"]
    assert server.tokens == [f"Bearer {TOKEN}"]
    assert (judge.counts["tokens_in"], judge.counts["tokens_out"]) == (10, 2)


def test_answers_come_in_the_order_of_the_questions(server: Server) -> None:
    both = threading.Barrier(2)

    def behave(handler: BaseHTTPRequestHandler, number: int, body: dict[str, Any]) -> None:
        both.wait(20)  # only passes if two requests are under way at once
        answered(handler, 200, reply(body["messages"][0]["content"][0]["text"]))

    server.behave = behave
    judge = EndpointJudge(server.url, "model", settings=QUICK)
    said = [answer.text for answer in judge.ask([question(str(n)) for n in range(6)])]
    assert said == [str(n) for n in range(6)]
    judge.close()


def test_retries_wait_longer_each_time_or_as_long_as_the_server_says(server: Server) -> None:
    def behave(handler: BaseHTTPRequestHandler, number: int, body: dict[str, Any]) -> None:
        status, headers = [
            (500, {}),
            (429, {"Retry_After": "3"}),
            (503, {"Retry_After": formatdate(time.time() - 100, usegmt=True)}),
            (502, {}),
            (200, {}),
        ][number]
        answered(handler, status, reply(), **headers)

    server.behave = behave
    waits: list[float] = []
    answer, judge = asked(server, EndpointSettings(retries=5, backoff_s=0.5), sleep=waits.append)
    assert answer.text == "yes"
    assert waits == [0.5, 3.0, 0.0, 4.0]
    assert judge.counts["retries"] == 4


def test_a_server_that_asks_for_too_much_patience_is_given_up_on(server: Server) -> None:
    server.behave = sends(429, b"", Retry_After="3600")
    waits: list[float] = []
    answer, _ = asked(server, EndpointSettings(retries=5), sleep=waits.append)
    assert answer.trouble == "status 429"
    assert waits == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_judge_that_never_worked_is_an_error_without_the_token(server: Server, status: int) -> None:
    server.behave = sends(status, f"bad token {TOKEN}".encode())
    with pytest.raises(JudgeMisconfiguredError, match=f"answered {status}") as caught:
        asked(server)
    assert TOKEN not in str(caught.value)
    assert TOKEN not in repr(EndpointJudge(server.url, "model", TOKEN))


def test_a_refusal_after_an_answer_leaves_the_question_unjudged(server: Server) -> None:
    server.behave = lambda handler, number, body: answered(handler, 200 if number == 0 else 401, reply())
    judge = EndpointJudge(server.url, "model", TOKEN, settings=QUICK)
    assert judge.ask([question()])[0].text == "yes"
    assert judge.ask([question()])[0].trouble == "status 401"
    judge.close()


def test_answers_are_asked_for_once(server: Server, tmp_path: Path) -> None:
    cache = tmp_path / "answers.db"
    for fresh in (0, 1):
        judge = EndpointJudge(server.url, "model", TOKEN, cache, QUICK)
        assert judge.ask([question()])[0].text == "yes"
        assert judge.counts["cached"] == fresh
        judge.close()
    assert len(server.seen) == 1
    other = EndpointSettings(max_tokens=3)
    for judge, asks in (
        (EndpointJudge(server.url, "model", None, cache, other), question()),
        (EndpointJudge(server.url, "another", None, cache, QUICK), question()),
        (EndpointJudge(server.url, "model", None, cache, QUICK), question("And now?")),
        (EndpointJudge(server.url, "model", None, cache, QUICK), Question(("Is it there?",))),
    ):
        judge.ask([asks])
        assert judge.counts["cached"] == 0
        judge.close()
    assert TOKEN.encode() not in cache.read_bytes()


def test_trouble_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.behave = lambda handler, number, body: answered(handler, 500 if number == 0 else 200, reply())
    judge = EndpointJudge(server.url, "model", cache=tmp_path / "answers.db", settings=QUICK)
    assert judge.ask([question()])[0].trouble == "status 500"
    assert judge.ask([question()])[0].text == "yes"
    judge.close()


def test_a_number_of_requests_is_a_limit_and_says_so(server: Server) -> None:
    judge = EndpointJudge(server.url, "model", settings=EndpointSettings(max_requests=3, parallel=4))
    troubles = [answer.trouble for answer in judge.ask([question(str(n)) for n in range(5)])]
    assert sorted(troubles) == ["", "", "", "budget", "budget"]
    assert len(server.seen) == 3
    assert judge.counts["budget"] == 2
    judge.close()


def test_a_budget_of_money_is_kept_and_counted(server: Server) -> None:
    server.behave = sends(200, reply("yes", (1000, 500)))
    settings = EndpointSettings(budget=0.005, price_in=1.0, price_out=2.0, parallel=1)
    judge = EndpointJudge(server.url, "model", settings=settings)
    troubles = [answer.trouble for answer in judge.ask([question(str(n)) for n in range(5)])]
    assert troubles == ["", "", "", "budget", "budget"]  # 0.002 each: the third one passes 0.005
    assert judge.cost == pytest.approx(0.006)
    judge.close()


def test_a_server_that_hides_its_usage_is_charged_by_the_byte(server: Server) -> None:
    server.behave = sends(200, reply("yes", None))
    _, judge = asked(server)
    assert judge.counts["unreported"] == 1
    assert judge.counts["tokens_in"] > 50


def top(*tokens: tuple[str, float]) -> dict[str, Any]:
    entries = [{"token": token, "logprob": value} for token, value in tokens]
    return {"logprobs": {"content": [{"token": tokens[0][0], "top_logprobs": entries}]}}


def told(server: Server, choice: dict[str, Any]) -> tuple[Answer, EndpointJudge]:
    server.behave = sends(200, reply("x", (1, 1), **choice))
    judge = EndpointJudge(server.url, "model", settings=QUICK)
    answer = judge.ask([question()], ("yes", "no"))[0]
    judge.close()
    return answer, judge


def test_log_probabilities(server: Server) -> None:
    answer, judge = told(server, top(("yes", np.log(0.5)), (" yes", np.log(0.2)), ("no", np.log(0.1))))
    assert answer.log_prob == pytest.approx({"yes": np.log(0.7), "no": np.log(0.1)})
    assert server.seen[0]["logprobs"] is True
    assert (server.seen[0]["top_logprobs"], server.seen[0]["max_tokens"]) == (20, 1)
    assert judge.counts["bounded"] == 0


def test_a_candidate_that_was_not_told_gets_an_upper_bound(server: Server) -> None:
    answer, judge = told(server, top(("yes", np.log(0.6)), ("I", np.log(0.3))))
    assert answer.log_prob["no"] == pytest.approx(np.log(0.1))  # what is left is less than the 0.3 of "I"
    assert judge.counts["bounded"] == 1


@pytest.mark.parametrize(
    "choice", [{}, {"logprobs": None}, {"logprobs": {"content": []}}, top(("a", np.nan))]
)
def test_a_server_without_log_probabilities_is_found_out(server: Server, choice: dict[str, Any]) -> None:
    assert told(server, choice)[0].trouble == "no log-probabilities"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://judge.example/v1", "use https, or set insecure_http"),
        ("http://localhost.example/v1", "use https"),
        ("ftp://127.0.0.1/v1", "must look like"),
        ("judge", "must look like"),
        ("https://user:secret@judge.example/v1", "give a token instead"),
        ("http://127.0.0.1:port/v1", "cannot be read"),
    ],
)
def test_addresses_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(JudgeMisconfiguredError, match=message) as caught:
        EndpointJudge(url, "model")
    assert "secret" not in str(caught.value)


def test_addresses_that_are_not() -> None:
    for url in ("https://judge.example/v1", "http://localhost:1/v1", "http://[::1]:1/v1/chat/completions"):
        assert EndpointJudge(url, "model").url.endswith("/v1/chat/completions")
    EndpointJudge("http://judge.example/v1", "model", settings=EndpointSettings(insecure_http=True))


def test_settings_and_tokens_that_cannot_be() -> None:
    with pytest.raises(JudgeMisconfiguredError, match="line end"):
        EndpointJudge("https://judge.example/v1", "model", "token\n")
    with pytest.raises(ValueError, match="needs price_in or price_out"):
        EndpointSettings(budget=1.0)
    with pytest.raises(ValueError, match="parallel is 0"):
        EndpointSettings(parallel=0)
    with pytest.raises(ValueError, match=r"expected a text or a picture uint8 \(H,W,3\)"):
        Question((np.zeros((4, 4, 3)),))  # type: ignore[arg-type]


WRITER = """
import sys
from regrip.rewards.judge_backends import Answer
from regrip.rewards.judge_cache import AnswerCache
cache, name, count = AnswerCache(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for n in range(count):
    cache.put(f"{name} {n}", Answer(text=f"{name} {n} " + "x" * 5000))
    if n == 3:
        print("writing", flush=True)
"""


def test_the_cache_is_shared_by_processes_and_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, name, count], stdout=subprocess.PIPE)
        for name, count in (("a", "25"), ("b", "25"), ("endless", "1000000"))
    ]
    assert writers[2].stdout is not None
    assert writers[2].stdout.readline() == b"writing\n"
    writers[2].send_signal(signal.SIGKILL)
    for writer in writers:
        writer.communicate(timeout=60)
    cache = AnswerCache(path)
    for name in ("a", "b"):
        for n in range(25):
            assert cache.get(f"{name} {n}") == Answer(text=f"{name} {n} " + "x" * 5000)
    killed = [n for n in range(len(cache) - 50) if cache.get(f"endless {n}") is not None]
    assert len(killed) == len(cache) - 50 >= 4
    assert cache.trouble == 0
    cache.close()


def test_a_cache_that_is_none_is_refused_and_one_that_breaks_costs_a_question(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "text.db").write_text("this is not a data base, but long enough to be taken for one " * 20)
    with pytest.raises(JudgeMisconfiguredError, match=r"text\.db cannot be used"):
        AnswerCache(tmp_path / "text.db")
    with pytest.raises(JudgeMisconfiguredError, match="cannot be used"):
        AnswerCache(tmp_path / "no" / "folder.db")
    judge = EndpointJudge(server.url, "model", cache=tmp_path / "answers.db", settings=QUICK)
    judge.ask([question()])
    (tmp_path / "answers.db").write_bytes(b"\0" * 4096)
    answer = judge.ask([question("another")])[0]
    assert answer.text == "yes"
    judge.close()
