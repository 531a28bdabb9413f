"""All that a node is told, as one MCAP file of ROS 2 messages, to look at with the tools of that world.

Unlike a `Recorder` it does not ask whether anybody drives: the file goes from the first message to the last.
Where episodes begin and end, the topic ``/task`` says, which `open_rosbag2` takes for that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..datasets.ledger import DataError
from ..datasets.recording import Contents, StreamSpec
from .background import Background
from .messages import Decision, Frame, Joints, Tick
from .recorder import ACTING
from .rows import Rows, arrived

if TYPE_CHECKING:
    from ..datasets.formats.rosbag2_file import McapStream


class McapRecorder:
    """A watcher of a node.

    Args:
        path: of the file; nothing may be there.
        contents: from `contents_of_node`.
        about: said in the file: checkpoint, configuration, who.
        threaded: False writes at once, for simulated time.

    Raises:
        DataError: something is there, the disk refuses, or a package is missing.
    """

    LONGEST_QUEUE = 2000

    def __init__(
        self, path: Path, contents: Contents, about: Mapping[str, Any], *, threaded: bool = True
    ) -> None:
        try:
            from ..datasets.formats.rosbag2_file import McapStream
        except ModuleNotFoundError as error:
            raise DataError(
                f"recording to MCAP needs the package {error.name}", "pip install 'regrip[bags]'", file=path
            ) from error
        more = {
            "task": StreamSpec("task", "text", "str", ()),
            "checkpoint": StreamSpec("checkpoint", "text", "str", ()),
            "outcome": StreamSpec("outcome", "vector", "bool", ()),
        }
        self._contents = replace(contents, streams={**contents.streams, **more})
        self.problems: list[str] = []
        self.path = path
        self._stream: McapStream | None = McapStream(path, self._contents, time.time_ns(), dict(about))
        self._rows: Rows | None = None
        self._began = 0.0
        self._task = self._version = ""
        self._thread = Background(self._take, "mcap", self.LONGEST_QUEUE) if threaded else None

    def __call__(self, what: object) -> None:
        if not isinstance(what, (Frame, Joints, Decision, Tick)):
            return
        if self._thread is None:
            self._take(what)
        else:
            self._thread.put(what)

    def _take(self, what: Frame | Joints | Decision | Tick) -> None:
        if self._stream is None:
            return
        try:
            if self._rows is None:
                self._began = arrived(what)
                self._rows = Rows(self._contents, self._began, lambda image: image, self._stream.add)
            if isinstance(what, Tick):
                self._mark(self._stream, what)
            elif isinstance(what, Decision) and what.reply.version != self._version:
                self._version = what.reply.version
                self._stream.add("checkpoint", self._version, arrived(what) - self._began)
            self._rows.take(what)
        except DataError as error:  # the arm goes on; the file ends here, and that is said
            self.problems.append(str(error))
            self._end()

    def _mark(self, stream: McapStream, tick: Tick) -> None:
        task = (tick.task or "(no task)") if tick.state in ACTING else ""
        if task == self._task:
            return
        now = tick.now - self._began
        if self._task and not task and tick.outcome is not None:
            stream.add("outcome", tick.outcome, now)
        stream.add("task", task, now)
        self._task = task

    def _end(self) -> None:
        stream, self._stream = self._stream, None
        try:
            if stream is not None:
                stream.close()
        except DataError as error:
            self.problems.append(str(error))

    def close(self) -> None:
        """Write what is waiting, and finish the file."""
        if self._thread is not None:
            self._thread.close()
            if self._thread.dropped:
                self.problems.append(
                    f"the disk is too slow: {self._thread.dropped} messages are not in {self.path}"
                )
        self._end()
        if self._rows is None:  # nothing ever came
            self.path.unlink(missing_ok=True)
