"""GR00T's ZeroMQ dialect: what its client sends over a REQ socket.

Endpoints ``get_action``, ``reset``, ``ping`` and ``get_modality_config``; ``kill`` is refused. Messages are
msgpack maps, arrays ``{"__ndarray_class__": true, "as_npy": <npy file>}``. An observation is ``{"video":
{camera: (B,T,H,W,3)}, "state": {"state": (B,T,S)}, "language": {"task": [[text]]}}``, of which the last of T
is looked at; the answer is ``[{"action": (B,H,A)}, info]``. The older flat form (``video.front`` (T,H,W,3),
...) is answered by ``{"action.action": (H,A)}``. Each row of each client is a session.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from ..messages import PolicyError, TransportError
from .access import same_token
from .engine import Engine
from .schema import ObservationError
from .server import ServerConfig
from .sessions import Answer, Session, SupersededError
from .wire import WireError, array_of, look_over

_SESSIONS = 256


class ZmqServer:
    """Answers GR00T's clients in the event loop that runs `run`.

    Args:
        engine: started by whoever made it.
        config: where; `token` is what a request's ``api_token`` must be.
    """

    def __init__(self, engine: Engine, config: ServerConfig) -> None:
        self.engine, self.config = engine, config
        self.port = config.port
        self.ready = asyncio.Event()
        self._sessions: dict[bytes, list[Session]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Answer until cancelled.

        Raises:
            TransportError: the package zmq is missing, or the port is taken.
        """
        try:
            import zmq
            import zmq.asyncio
        except ModuleNotFoundError as error:
            raise TransportError(
                "GR00T's dialect needs the package pyzmq: pip install 'regrip[serve]'"
            ) from error
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        address = f"tcp://{'*' if host == '0.0.0.0' else host}:{self.config.port or '*'}"
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.ROUTER)  # to many REQ clients it looks like the REP socket of each
        socket.setsockopt(zmq.MAXMSGSIZE, self.config.max_bytes)
        socket.setsockopt(zmq.LINGER, 500)
        try:
            try:
                socket.bind(address)
            except zmq.ZMQError as error:
                raise TransportError(f"cannot listen on {address}: {error}") from error
            self.port = int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rsplit(":", 1)[1])
            self.ready.set()
            while True:
                frames = await socket.recv_multipart()
                if len(frames) != 3 or frames[1]:
                    continue  # not from a REQ socket
                task = asyncio.create_task(self._reply(socket, frames[0], frames[2]))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            for task in self._tasks:
                task.cancel()
            socket.close()
            context.term()

    async def _reply(self, socket: Any, who: bytes, data: bytes) -> None:
        try:
            result = await self._result(who, data, time.monotonic_ns())
        except (ObservationError, WireError, PolicyError) as error:
            if not isinstance(error, PolicyError):
                self.engine.metrics.count("refused")
            result = {"error": f"{type(error).__name__}: {error}"}
        await socket.send_multipart([who, b"", msgpack.packb(result, default=_encode)])

    async def _result(self, who: bytes, data: bytes, received_ns: int) -> Any:
        request = read(data)
        if not same_token(request.get("api_token"), self.config.token):
            raise PolicyError("Unauthorized: api_token is missing or wrong")
        endpoint = request.get("endpoint", "get_action")
        given = request.get("data") or {}
        if not isinstance(given, dict):
            raise ObservationError(f"data: expected a map, got a {type(given).__name__}")
        if endpoint == "ping":
            return {"status": "ok", "message": "Server is running"}
        if endpoint == "get_modality_config":
            return modalities(self.engine)
        if endpoint == "reset":
            for session in self._sessions_of(who, 1):
                self.engine.reset(session)
            return {}
        if endpoint == "get_action":
            return await self._act(who, given, received_ns)
        if endpoint == "kill":
            raise PolicyError("kill: nobody ends this server from afar")
        raise ObservationError(
            f"endpoint {endpoint!r}: expected get_action, reset, ping, get_modality_config"
        )

    def _sessions_of(self, who: bytes, rows: int) -> list[Session]:
        sessions = self._sessions.pop(who, [])
        while len(sessions) < rows:
            sessions.append(self.engine.session())
        self._sessions[who] = sessions  # the newest last: ZeroMQ does not say who has left
        while len(self._sessions) > _SESSIONS:
            for session in self._sessions.pop(next(iter(self._sessions))):
                self.engine.leave(session)
        return sessions

    async def _act(self, who: bytes, given: Mapping[str, Any], received_ns: int) -> Any:
        flat = "observation" not in given
        observation = given if flat else given["observation"]
        if not isinstance(observation, Mapping):
            raise ObservationError(f"observation: expected a map, got a {type(observation).__name__}")
        rows = unbatched(observation)
        asks = [self.engine.schema.read(row) for row in rows]
        if len(asks) > self.engine.config.max_batch:
            raise ObservationError(
                f"{len(asks)} observations at once, at most {self.engine.config.max_batch}"
            )
        sessions = self._sessions_of(who, len(asks))
        futures = [
            asyncio.wrap_future(self.engine.submit(session, ask, received_ns))
            for session, ask in zip(sessions, asks, strict=False)
        ]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        actions = []
        for answer in answers:
            if isinstance(answer, SupersededError):
                raise PolicyError(f"superseded: {answer}")
            if isinstance(answer, BaseException):
                raise answer
            actions.append(answer.actions)
        newest = next(answer for answer in answers if isinstance(answer, Answer))
        stacked = np.stack(actions)
        if flat:
            return {"action.action": stacked[0]}
        return [{"action": stacked}, {"version": newest.version, "chunk": newest.chunk}]


def read(data: bytes) -> dict[str, Any]:
    """A request.

    Raises:
        WireError: it is not one.
    """
    look_over(data)
    try:
        request = msgpack.unpackb(data, object_hook=_decode)
    except WireError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"not a message of GR00T's dialect: {error}") from error
    if not isinstance(request, dict):
        raise WireError(f"a {type(request).__name__} came, expected a map")
    return request


def unbatched(observation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """GR00T's observation, nested or flat (``video.front``), as one observation a row.

    Raises:
        ObservationError: naming the key.
    """
    groups: dict[str, dict[str, Any]] = {"video": {}, "state": {}, "language": {}}
    for key, value in observation.items():
        group, _, name = str(key).partition(".")
        group = "language" if group == "annotation" else group
        if group not in groups:
            raise ObservationError(f"{key}: expected video, state or language")
        if name:
            groups[group][name] = value
        elif isinstance(value, Mapping):
            groups[group].update(value)
        else:
            raise ObservationError(f"{key}: expected a map, got a {type(value).__name__}")
    arrays = {f"video.{name}": (name, value, 5) for name, value in groups["video"].items()}
    state = _state(groups["state"])
    if state is not None:
        arrays["state"] = ("state", state, 3)
    rows: list[dict[str, Any]] = []
    for key, (name, value, dims) in arrays.items():
        if not isinstance(value, np.ndarray) or value.ndim not in (dims - 1, dims) or 0 in value.shape[:2]:
            got = value.shape if isinstance(value, np.ndarray) else type(value).__name__
            raise ObservationError(f"{key}: expected an array of {dims} dimensions (B,T,...), got {got}")
        batched = value if value.ndim == dims else value[None]
        rows = rows or [{} for _ in batched]
        if len(batched) != len(rows):
            raise ObservationError(f"{key}: {len(batched)} rows, the others have {len(rows)}")
        for row, part in zip(rows, batched, strict=True):
            row[name] = np.ascontiguousarray(part[-1])
    for key, value in groups["language"].items():
        for index, row in enumerate(rows):
            row["prompt"] = _sentence(key, value, index)
    return rows or [{}]


def _state(groups: Mapping[str, Any]) -> Any:
    """The state's parts side by side, in the order in which they came."""
    if not groups:
        return None
    parts = list(groups.values())
    if not all(isinstance(part, np.ndarray) and part.ndim == parts[0].ndim > 0 for part in parts):
        raise ObservationError(
            f"state: expected arrays of one number of dimensions under {', '.join(groups)}"
        )
    try:
        return np.concatenate(parts, axis=-1)
    except ValueError as error:
        raise ObservationError(f"state: {error}") from error


def _sentence(key: str, value: Any, row: int) -> str:
    while isinstance(value, (list, tuple)) and value:
        value, row = value[row if row < len(value) else 0], 0
    if not isinstance(value, str):
        raise ObservationError(f"language.{key}: expected [[text]], got {type(value).__name__}")
    return value


def modalities(engine: Engine) -> dict[str, Any]:
    """What GR00T's clients read as its ModalityConfig objects."""
    schema = engine.schema
    keys = {
        "video": ([0], [camera.name for camera in schema.spec.cameras]),
        "state": ([0], ["state"]),
        "action": (list(range(schema.horizon)), ["action"]),
        "language": ([0], ["task"]),
    }
    return {
        name: {
            "__ModalityConfig_class__": True,
            "as_json": {"delta_indices": indices, "modality_keys": names},
        }
        for name, (indices, names) in keys.items()
    }


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return {"__ndarray_class__": True, "as_npy": file.getvalue()}
    raise WireError(f"a {type(value).__name__} cannot be sent")


def _decode(value: dict[Any, Any]) -> Any:
    if "__ndarray_class__" not in value:
        return value
    data = value.get("as_npy")
    if not isinstance(data, bytes):
        raise WireError(f"as_npy is a {type(data).__name__}, expected bytes")
    file = io.BytesIO(data)
    try:  # only the header: what numpy would allocate for it is not decided by a stranger
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran, dtype = read_header[version](file)
    except (ValueError, KeyError, TypeError, SyntaxError) as error:
        raise WireError(f"as_npy is no npy file that is taken: {error}") from error
    rest = data[file.tell() :]
    if fortran:
        return array_of(rest, dtype.str, list(shape[::-1])).transpose()
    return array_of(rest, dtype.str, list(shape))
