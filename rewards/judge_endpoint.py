"""A judge behind an OpenAI-compatible ``/v1/chat/completions``: a local server, or a paid one.

Whatever the server does in the middle of a run (hangs, fails, answers a web page), the question it was asked
is left unjudged with a reason that is counted; only a judge that never worked is an error.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .judge_backends import Answer, JudgeMisconfiguredError, Question
from .judge_cache import AnswerCache

try:
    import httpx2
except ImportError as error:
    raise ImportError("a judge behind a URL needs httpx2: pip install 'regrip[judge]'") from error

MISCONFIGURED = {
    401: "the token is missing or wrong",
    403: "the token may not use this model",
    404: "there is no such address or model",
    405: "this address takes no questions",
}
TOP_LOGPROBS = 20


@dataclass(frozen=True)
class EndpointSettings:
    """How an endpoint is asked.

    Attributes:
        max_tokens: of an answer.
        timeout_s: for a connection, and for the whole of one try.
        retries: tries after the first, on 408, 429, 5xx, timeouts and lost connections.
        backoff_s: wait before the first retry; doubles with each, unless the server says how long.
        longest_wait_s: a server that asks for more patience than this is given up on.
        parallel: requests under way at most.
        max_bytes: of an answer's body; a longer one is "too long".
        max_requests: sent by this object, retries included; then questions are unjudged ("budget"). None: no
            limit.
        budget: money, in the unit of the prices; the same. Requests that are under way when it is reached
            (`parallel` at most) are still paid for.
        price_in: of a million tokens of question.
        price_out: of a million tokens of answer.
        insecure_http: allow http to another machine; token and pictures can then be read on the way.
        extra: members of the request's JSON to add or replace; those that are None are left out.
    """

    max_tokens: int = 512
    timeout_s: float = 60.0
    retries: int = 3
    backoff_s: float = 1.0
    longest_wait_s: float = 60.0
    parallel: int = 4
    max_bytes: int = 1_000_000
    max_requests: int | None = None
    budget: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0
    insecure_http: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("max_tokens", "timeout_s", "longest_wait_s", "parallel", "max_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"endpoint settings: {name} is {getattr(self, name)}, expected more than 0")
        for name in ("retries", "backoff_s", "price_in", "price_out", "max_requests", "budget"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"endpoint settings: {name} is {getattr(self, name)}, expected 0 or more")
        if self.budget is not None and self.price_in == self.price_out == 0:
            raise ValueError("endpoint settings: a budget of money needs price_in or price_out")


class EndpointJudge:
    """A model behind an OpenAI-compatible address; a `Judge`.

    Pictures are sent as PNG in ``data:`` URLs, at temperature 0 and seed 0. Log-probabilities need a server
    that gives ``top_logprobs``; a candidate that is not among them gets an upper bound (the lowest given, or
    the log of what probability is left, whichever is less), counted as "bounded".

    `counts` has, for this object: requests, retries, cached, answered, bounded, tokens_in, tokens_out,
    unreported (answers whose server did not say how many tokens they took: charged as one for every four
    bytes sent and received), cache_trouble, and each reason for which questions stayed unjudged: "timeout",
    "no connection", "status 500" (any number), "not JSON", "wrong schema", "no answer", "no
    log-probabilities", "too long", "budget".

    The token is sent to the server and is nowhere else: not in the cache, nor in `repr`, nor in an error.

    Args:
        url: the base, ending in ``/v1``, or the whole address.
        model: its name for the server, and in the cache, whatever serves it.
        token: sent as bearer token; None for servers that want none.
        cache: file for answers (see `AnswerCache`); None keeps none. Answers with trouble are never kept.
        settings: how to ask.
        sleep: called to wait before a retry.

    Raises:
        JudgeMisconfiguredError: the address, the token or the cache cannot be used.
    """

    def __init__(
        self,
        url: str,
        model: str,
        token: str | None = None,
        cache: str | Path | None = None,
        settings: EndpointSettings | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.settings = settings or EndpointSettings()
        self.model = model
        self.url, local = _checked(url, self.settings.insecure_http)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if token is not None:
            if not token or not token.isascii() or not token.isprintable() or " " in token:
                raise JudgeMisconfiguredError(
                    "the judge's token is empty or holds characters that no token has; is there a line end?"
                )
            headers["Authorization"] = f"Bearer {token}"
        self.counts: Counter[str] = Counter()
        self._sleep = sleep
        self._lock = threading.Lock()
        self._proven = False
        self._cache = None if cache is None else AnswerCache(cache)
        self._client = httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(self.settings.timeout_s, pool=None),
            limits=httpx2.Limits(max_connections=self.settings.parallel),
            trust_env=not local,  # no proxy stands before this machine itself
        )

    def __repr__(self) -> str:
        return f"EndpointJudge({_shown(self.url)!r}, {self.model!r})"

    @property
    def cost(self) -> float:
        """Money spent by this object, in the unit of the prices."""
        asked, told = self.counts["tokens_in"], self.counts["tokens_out"]
        return (asked * self.settings.price_in + told * self.settings.price_out) / 1e6

    def close(self) -> None:
        self._client.close()
        if self._cache is not None:
            self._cache.close()

    def ask(self, questions: Sequence[Question], candidates: Sequence[str] = ()) -> list[Answer]:
        """See `Judge.ask`.

        Raises:
            JudgeMisconfiguredError: the server refuses (401, 403, 404, 405), and nothing has ever worked.
        """
        with ThreadPoolExecutor(self.settings.parallel, thread_name_prefix="judge") as pool:
            return list(pool.map(lambda question: self._answer(question, candidates), questions))

    def _answer(self, question: Question, candidates: Sequence[str]) -> Answer:
        key = self.key(question, candidates)
        held = None if self._cache is None else self._cache.get(key)
        if held is not None:
            self._count("cached")
            return held
        answer = self._asked(json.dumps(self._body(question, candidates)).encode(), candidates)
        self._count(answer.trouble or "answered")
        if self._cache is not None:
            self._cache.put(key, answer)
            with self._lock:
                self.counts["cache_trouble"] = self._cache.trouble
        return answer

    def key(self, question: Question, candidates: Sequence[str] = ()) -> str:
        """What a question is kept under: a hash of the model, the question and all that shapes the answer."""
        digest = hashlib.blake2b(digest_size=32)
        settings = {**self._shape(candidates), "candidates": list(candidates)}
        parts: list[str | bytes] = [json.dumps(settings, sort_keys=True)]
        for part in question.parts:
            parts += ["text", part] if isinstance(part, str) else [repr(part.shape), part.tobytes()]
        for held in parts:
            raw = held.encode("utf-8", "surrogatepass") if isinstance(held, str) else held
            digest.update(len(raw).to_bytes(8, "little") + raw)
        return digest.hexdigest()

    def _shape(self, candidates: Sequence[str]) -> dict[str, Any]:
        shape: dict[str, Any] = {
            "model": self.model,
            "temperature": 0,
            "seed": 0,
            "max_tokens": 1 if candidates else self.settings.max_tokens,
        }
        if candidates:
            shape |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        shape |= self.settings.extra
        return {name: value for name, value in shape.items() if value is not None}

    def _body(self, question: Question, candidates: Sequence[str]) -> dict[str, Any]:
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": data_url(part)}}
            for part in question.parts
        ]
        return {**self._shape(candidates), "messages": [{"role": "user", "content": content}]}

    def _asked(self, body: bytes, candidates: Sequence[str]) -> Answer:
        """Ask, and again while that may help."""
        settings, problem = self.settings, ""
        for attempt in range(settings.retries + 1):
            if not self._may_ask():
                return Answer(trouble=problem or "budget")
            status, wait, raw = self._sent(body)
            if status == 200:
                self._proven = True
                self._charge(body, raw)
                answer = _read(raw, candidates)
                self._count("bounded", answer.bounded)
                return answer.answer
            problem = status if isinstance(status, str) else f"status {status}"
            if status in MISCONFIGURED and not self._proven:
                raise JudgeMisconfiguredError(
                    f"the judge {self.model!r} at {_shown(self.url)} answered {status}: "
                    f"{MISCONFIGURED[status]}; correct the address, the model's name or the token"
                )
            again = status in ("timeout", "no connection", 408, 429) or (
                isinstance(status, int) and status >= 500
            )
            if not again or attempt == settings.retries or (wait or 0) > settings.longest_wait_s:
                break
            self._count("retries")
            self._sleep(
                min(settings.backoff_s * 2**attempt if wait is None else wait, settings.longest_wait_s)
            )
        return Answer(trouble=problem)

    def _may_ask(self) -> bool:
        settings = self.settings
        with self._lock:
            if settings.max_requests is not None and self.counts["requests"] >= settings.max_requests:
                return False
            if settings.budget is not None and self.cost >= settings.budget:
                return False
            self.counts["requests"] += 1
            return True

    def _sent(self, body: bytes) -> tuple[int | str, float | None, bytes]:
        """Status (or what went wrong), how long the server asks to wait, and its body."""
        deadline = time.monotonic() + self.settings.timeout_s
        raw = bytearray()
        try:
            with self._client.stream("POST", self.url, content=body) as response:
                if response.status_code != 200:
                    return response.status_code, _patience(response.headers.get("Retry-After")), b""
                for chunk in response.iter_raw():
                    raw += chunk
                    if len(raw) > self.settings.max_bytes:
                        return "too long", None, b""
                    if time.monotonic() > deadline:  # a server that drips keeps each read short
                        return "timeout", None, b""
        except httpx2.TimeoutException:
            return "timeout", None, b""
        except httpx2.TransportError:
            return "no connection", None, b""
        return 200, None, bytes(raw)

    def _charge(self, body: bytes, raw: bytes) -> None:
        usage = _member(_parsed(raw), "usage")
        asked, told = _member(usage, "prompt_tokens"), _member(usage, "completion_tokens")
        reported = all(isinstance(n, int) and 0 <= n < 10**9 for n in (asked, told))
        with self._lock:
            self.counts["tokens_in"] += asked if reported else len(body) // 4
            self.counts["tokens_out"] += told if reported else len(raw) // 4
            self.counts["unreported"] += not reported

    def _count(self, name: str, times: int = 1) -> None:
        with self._lock:
            self.counts[name] += times


@dataclass(frozen=True)
class _Read:
    answer: Answer
    bounded: int = 0


def _read(raw: bytes, candidates: Sequence[str]) -> _Read:
    """An answer of a body with status 200."""
    reply = _parsed(raw)
    if reply is None:
        return _Read(Answer(trouble="not JSON"))
    choices = _member(reply, "choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = _member(choice, "message")
    if not isinstance(message, dict):
        return _Read(Answer(trouble="wrong schema"))
    if candidates:
        return _log_probs(choice, candidates)
    text = message.get("content")
    if text is not None and not isinstance(text, str):
        return _Read(Answer(trouble="wrong schema"))
    return _Read(Answer(text=text) if text and text.strip() else Answer(trouble="no answer"))


def _log_probs(choice: object, candidates: Sequence[str]) -> _Read:
    content = _member(_member(choice, "logprobs"), "content")
    first = content[0] if isinstance(content, list) and content else None
    top = _member(first, "top_logprobs")
    known: list[tuple[str, float]] = []
    for entry in top if isinstance(top, list) else []:
        token, value = _member(entry, "token"), _member(entry, "logprob")
        if isinstance(token, str) and isinstance(value, int | float) and math.isfinite(value):
            known.append((token, min(0.0, float(value))))
    if not known:
        return _Read(Answer(trouble="no log-probabilities"))
    left = 1 - sum(math.exp(value) for _, value in known)
    bound = min(*(value for _, value in known), math.log(max(left, 1e-12)))
    told: dict[str, float] = {}
    bounded = 0
    for candidate in candidates:
        mass = sum(math.exp(value) for token, value in known if token.strip() == candidate)
        bounded += mass == 0
        told[candidate] = min(0.0, math.log(mass)) if mass > 0 else bound
    return _Read(Answer(log_prob=told), bounded)


def _parsed(raw: bytes) -> object:
    """JSON, or None if it is none."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):  # not UTF-8, cut short, a web page; or brackets without end
        return None


def _member(held: object, name: str) -> Any:
    return held.get(name) if isinstance(held, dict) else None


def _patience(said: str | None) -> float | None:
    """Seconds that a ``Retry-After`` asks for; None if it does not say."""
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def data_url(picture: NDArray[np.uint8]) -> str:
    """A picture (H,W,3) as PNG in a URL."""
    held = BytesIO()
    Image.fromarray(picture).save(held, format="PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def _checked(url: str, insecure_http: bool) -> tuple[str, bool]:
    """The whole address, and whether it is on this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        httpx2.URL(url)
    except (ValueError, httpx2.InvalidURL) as error:
        raise JudgeMisconfiguredError(f"the judge's address cannot be read: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise JudgeMisconfiguredError(
            "the judge's address must look like https://host/v1 or http://127.0.0.1:8000/v1"
        )
    if parts.username is not None or parts.password is not None:
        raise JudgeMisconfiguredError(
            "the judge's address holds a user name or password: give a token instead"
        )
    local = _is_loopback(host)
    if parts.scheme == "http" and not local and not insecure_http:
        raise JudgeMisconfiguredError(
            f"the judge at {host} is another machine, and http shows token and pictures to all on the way: "
            "use https, or set insecure_http if the network is yours"
        )
    path = parts.path.rstrip("/")
    whole = path if path.endswith("/chat/completions") else f"{path}/chat/completions"
    return parts._replace(path=whole, fragment="").geturl(), local


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(url: str) -> str:
    """An address for people: without what may be secret in its query."""
    return urlsplit(url)._replace(query="").geturl()
