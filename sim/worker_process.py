"""The parent's end of a worker process: starting it, talking to it in JSON lines, ending it for certain."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_PACKAGE = __name__.split(".")[0]
_PACKAGE_DIR = Path(__file__).absolute().parent.parent
# Makes this very copy of our package importable without putting the folder it lies in (perhaps the parent's
# site-packages) on the path of another interpreter.
_BOOTSTRAP = """
import importlib, importlib.util, sys
name, folder, module = sys.argv[1:4]
spec = importlib.util.spec_from_file_location(
    name, folder + "/__init__.py", submodule_search_locations=[folder]
)
sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[name])
importlib.import_module(name + module).main()
"""
_STDERR_LINES = 15


class WorkerProcess:
    """One running `worker.main`. No call blocks on it, whatever state it is in, except `end`.

    Args:
        config: what `worker.Worker` needs to know; the first line it reads.
        shared_file: descriptor of the memory file, inherited by the worker under the same number.
        python: its interpreter, None for this one.
        environment: variables it gets in addition to ours, for instance where a driver lies.
    """

    def __init__(
        self,
        config: dict[str, Any],
        shared_file: int,
        python: str | Path | None,
        environment: Mapping[str, str],
    ) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        self._process = subprocess.Popen(
            [str(python or sys.executable), "-c", _BOOTSTRAP, _PACKAGE, str(_PACKAGE_DIR), ".sim.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            pass_fds=(shared_file,),
            start_new_session=True,  # Ctrl-C at the terminal goes to the parent alone
            env={**_environment(inherit_path=python is None), **environment},
        )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None, "started with both pipes"
        assert stdout is not None, "started with both pipes"
        self._stdin: IO[bytes] = stdin
        self._stdout: IO[bytes] = stdout
        for pipe in (stdin, stdout):
            os.set_blocking(pipe.fileno(), False)
        self._outgoing, self._incoming = bytearray(), bytearray()
        self._ending: tuple[int, str, str] | None = None
        self.send(
            {
                **config,
                "file": shared_file,
                "parent": os.getpid(),
                # Linux means the thread that started the worker; only the main one lives as long as we do.
                "die_with_parent": threading.current_thread() is threading.main_thread(),
            }
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def reply_file(self) -> int:
        """Descriptor to poll for reading."""
        return self._stdout.fileno()

    @property
    def call_file(self) -> int | None:
        """Descriptor to poll for writing, None if nothing waits to be written."""
        return self._stdin.fileno() if self._outgoing else None

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message and write what the pipe takes."""
        self._outgoing += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes; a worker that reads nothing cannot hold us up."""
        try:
            while self._outgoing:
                written = os.write(self._stdin.fileno(), self._outgoing)
                del self._outgoing[:written]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # it is gone; `receive` tells how
            self._outgoing.clear()

    def receive(self) -> list[dict[str, Any]] | None:
        """The replies that have arrived, or None at their end: the worker is gone or going."""
        try:
            data = os.read(self._stdout.fileno(), 1 << 20)
        except BlockingIOError:
            return []
        if not data:
            return None
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def hang_up(self) -> None:
        """Close its input: an idle worker then closes its environments and ends."""
        self._stdin.close()

    def kill(self) -> None:
        self._process.kill()

    def end(self, patience_s: float) -> tuple[int, str, str]:
        """Let it end by itself for a while, then kill it; may be called again.

        Returns:
            exit code, the same in words, and the last lines of its stderr.
        """
        if self._ending is not None:
            return self._ending
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._stdin.close()
        self._stdout.close()
        end = os.fstat(self._stderr.fileno()).st_size
        text = os.pread(self._stderr.fileno(), 16384, max(0, end - 16384)).decode(errors="replace")
        self._stderr.close()
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
        self._ending = code, name, "\n".join(text.splitlines()[-_STDERR_LINES:]) or "(nothing)"
        return self._ending


def ask(python: Path | None, module: str, args: Sequence[str], timeout_s: float = 120.0) -> str:
    """What `main` of one of our modules prints, run once by the workers' interpreter.

    Args:
        python: the interpreter, None for this one.
        module: below our package, with a leading dot: ``.sim.gym.skeleton``.
        args: its ``sys.argv[4:]``.
        timeout_s: how long it may take.

    Raises:
        RuntimeError: if it fails, with the last of what it wrote to stderr; if it takes too long.
    """
    line = [str(python or sys.executable), "-c", _BOOTSTRAP, _PACKAGE, str(_PACKAGE_DIR), module, *args]
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, check=False, timeout=timeout_s,
            env=_environment(inherit_path=python is None),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{' '.join(args)}: nothing came within {timeout_s:g} s") from None
    if done.returncode:
        lines = [text for text in done.stderr.splitlines() if text.strip()]
        why = (
            re.sub(r"^[\w.]+(Error|Exception): ", "", lines[-1]) if lines else f"exit code {done.returncode}"
        )
        raise RuntimeError(why)
    return done.stdout


def _environment(inherit_path: bool) -> dict[str, str]:
    inherited = dict(os.environ)
    if inherit_path:  # as multiprocessing does: what is importable here is importable there
        inherited["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    return {
        "MUJOCO_GL": "egl",
        **inherited,
        "LP_NUM_THREADS": "0",  # llvmpipe in the calling thread: parallelism is the pool's business
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",  # a replay must meet sets in the same order
        "PYTHONSAFEPATH": "1",
        "PYTHONFAULTHANDLER": "1",
    }
