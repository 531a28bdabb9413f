"""What `regrip node` records: a set, an MCAP file, the last seconds when somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from ..datasets.recording import Contents
from ..real_robot.keeper import Keeper, KeeperConfig
from ..real_robot.mcap_recorder import McapRecorder
from ..real_robot.recorder import Recorder


class Recordings:
    """The watchers of a node that record, as many as are asked for.

    Args:
        console: is told what was kept, and at the end what is missing.
        threaded: False writes at once, for simulated time.

    Attributes:
        listeners: are told what was kept, too.
    """

    def __init__(self, console: Console, *, threaded: bool) -> None:
        self._console, self._threaded = console, threaded
        self.listeners: list[Callable[[str], None]] = []
        self.watchers: list[Recorder | McapRecorder | Keeper] = []

    def open(
        self,
        contents: Contents,
        facts: dict[str, str],
        record: Path | None,
        record_mcap: Path | None,
        keep: Path | None,
        keep_s: float,
    ) -> None:
        """Begin.

        Raises:
            DataError: a set is another one, somebody else writes to it, or the file is there already.
        """
        try:
            if record is not None:
                self.watchers.append(Recorder(record, contents, facts, threaded=self._threaded))
            if record_mcap is not None:
                self.watchers.append(McapRecorder(record_mcap, contents, facts, threaded=self._threaded))
            if keep is not None:
                self.watchers.append(Keeper(keep, contents, facts, KeeperConfig(keep_s), say=self._say))
        except BaseException:
            self.close()
            raise

    def _say(self, words: str) -> None:
        self._console.print(words, highlight=False)
        for listener in self.listeners:
            listener(words)

    def close(self) -> None:
        """Write what waits, and say what is there and what is not."""
        for one in self.watchers:
            one.close()
            if isinstance(one, Recorder):
                self._console.print(f"{one.episodes} episodes in the set", highlight=False)
            for problem in one.problems:
                self._console.print(f"NOT RECORDED: {problem}", highlight=False)
