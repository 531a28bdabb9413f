"""What happens to data: writers that are killed, and files that are damaged."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from regrip.datasets.formats import tfrecord

WRITER = """
import sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
import recordings as rec
from regrip.datasets.formats import WriteOptions, get_format
from regrip.datasets.ledger import Ledger
of = rec.contents()
sink = get_format({name!r}).create(Path({path!r}), of, WriteOptions(), Ledger())
for i in range(sink.done, 1000):
    sink.write(rec.recording(of, 3 + i % 3, seed=i))
    print(sink.done, flush=True)
"""


def killed_writer(name: str, path: Path, after: int) -> int:
    """A process that writes episodes and is killed in the middle of it; how many it said were done."""
    here = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "src")]
    code = WRITER.format(paths=here, name=name, path=str(path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = 0
    for line in process.stdout:
        said = int(line)
        if said >= after:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    return said


def mutated(data: bytes, rng: np.random.Generator, records: bool) -> bytes:
    """Cut, flip, overwrite, repeat or replace numbers; in a TFRecord also behind checksums that are right."""
    if records:
        frames, at = [], 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            frames.append(data[at + 12 : at + 12 + size])
            at += size + 16
        frames = [mutated(payload, rng, False) if rng.integers(2) else payload for payload in frames]
        return b"".join(tfrecord.frame(payload) for payload in frames)
    way, at = rng.integers(6), int(rng.integers(max(len(data), 1)))
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]
    if way == 2:
        return data[:at] + rng.bytes(8) + data[at + 8 :]
    if way == 3:
        return data[:at] + data[max(0, at - 30) :]
    digits = [i for i in range(len(data)) if data[i : i + 1].isdigit()] or [at]
    at = digits[int(rng.integers(len(digits)))]
    if way == 4:
        return (
            data[:at]
            + rng.choice([b"99999999999999", b"-1", b"null", b"NaN", b"{}", b"1e999"])
            + data[at + 1 :]
        )
    return data[:at] + data[at + int(rng.integers(1, 40)) :]
