"""How fast samples are read and written, against LeRobot, zarr-python and a bare loop; statistics; memory.

    python benchmarks/data.py            # about ten minutes on two cores, most of it LeRobot's
    python benchmarks/data.py --quick

A sample is two 128 px images at a random step, the state, and a chunk of 16 actions. All readers read the
same episodes in random order in one process with one thread, files in the page cache, in turns. Times are CPU
time, which holds on a busy machine; the least of all turns counts. The bare loop maps the shards, takes an
image's place from the index, decodes it with simplejpeg, and does nothing else: nothing that holds JPEG needs
less. LeRobot is run by REGRIP_REFEREES_PYTHON (else .venv-referees) and left out where there is none.
Episodes are photographs with moving objects, a panning second view, and sensor noise; made here.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image

from regrip.datasets.frames import EncodedFrames, encode_jpeg
from regrip.datasets.loading.exact_statistics import exact_statistics
from regrip.datasets.loading.loader import BatchLoader
from regrip.datasets.loading.mixture import Member, Samples
from regrip.datasets.loading.ram import RamRows
from regrip.datasets.loading.sampler import EpochOrder
from regrip.datasets.loading.streaming import StreamLoader
from regrip.datasets.recording import Contents, Recording, StreamSpec, Track
from regrip.datasets.store.reader import Store
from regrip.datasets.store.writer import StoreWriter

SIZE, FPS, CHUNK, BATCH = 128, 20, 16, 64
FRONT, WRIST = "observation.images.front", "observation.images.wrist"

Episode = dict[str, NDArray[Any]]


def episodes(num: int, steps: int) -> Iterator[Episode]:
    """Photographs with two discs and an arm that move, and a view that pans; noise of 1.5 grey levels."""
    photo = Image.fromarray(load_sample_image("china.jpg")).crop((100, 0, 527, 427))
    still = np.asarray(photo.resize((SIZE, SIZE), Image.Resampling.LANCZOS), np.float32)
    flower = Image.fromarray(load_sample_image("flower.jpg")).crop((0, 0, 427, 427))
    wide = np.asarray(flower.resize((3 * SIZE, 3 * SIZE), Image.Resampling.LANCZOS), np.float32)
    y, x = np.mgrid[:SIZE, :SIZE]
    for number in range(num):
        rng = np.random.default_rng(number)
        t = np.arange(steps) / FPS
        phase, rate = rng.uniform(0, 2 * np.pi, 7), rng.uniform(0.05, 0.35, 7)
        joints = np.sin(2 * np.pi * rate * t[:, None] + phase)
        state = np.concatenate([joints, np.sin(t + phase[0])[:, None] > 0], 1).astype(np.float32)
        action = np.concatenate([state[1:, :7], state[-1:, :7]])
        front = np.empty((steps, SIZE, SIZE, 3), np.uint8)
        wrist = np.empty_like(front)
        for step in range(steps):
            image = still.copy()
            for disc, colour in enumerate([(200, 40, 40), (40, 160, 60)]):
                cx, cy = SIZE / 2 + 45 * state[step, 2 * disc], SIZE / 2 + 40 * state[step, 2 * disc + 1]
                image[(x - cx) ** 2 + (y - cy) ** 2 < (12 + 3 * disc) ** 2] = colour
            arm = (np.abs(x - SIZE / 2 - 50 * state[step, 4]) < 6) & (y < SIZE / 2 + 40 * state[step, 5])
            image[arm] = (120, 120, 125)
            left, top = (int(SIZE + 100 * state[step, axis]) for axis in (0, 1))
            view = wide[top : top + SIZE, left : left + SIZE]
            front[step] = np.clip(image + rng.normal(0, 1.5, image.shape), 0, 255)
            wrist[step] = np.clip(view + rng.normal(0, 1.5, view.shape), 0, 255)
        yield {"front": front, "wrist": wrist, "state": state, "action": action}


def contents() -> Contents:
    streams = [
        StreamSpec(FRONT, "image", "uint8", (SIZE, SIZE, 3), rate_hz=FPS, about={"codec": "jpeg"}),
        StreamSpec(WRIST, "image", "uint8", (SIZE, SIZE, 3), rate_hz=FPS, about={"codec": "jpeg"}),
        StreamSpec("observation.state", "vector", "float32", (8,), rate_hz=FPS),
        StreamSpec("action", "vector", "float32", (7,), rate_hz=FPS),
    ]
    return Contents({one.key: one for one in streams}, FPS)


def record(path: Path, files: list[Path]) -> float:
    """Write the episodes frame by frame, as while recording; CPU ms per step."""
    cpu_s, frames = 0.0, 0
    began = time.process_time()
    writer = StoreWriter.record(path, contents())
    cpu_s += time.process_time() - began
    for number, file in enumerate(files):
        held = dict(np.load(file).items())
        began = time.process_time()
        writer.begin_episode(f"move block {number % 4}")
        for step in range(len(held["state"])):
            writer.add(FRONT, held["front"][step], step / FPS)
            writer.add(WRIST, held["wrist"][step], step / FPS)
            writer.add("observation.state", held["state"][step], step / FPS)
            writer.add("action", held["action"][step], step / FPS)
        writer.end_episode()
        cpu_s += time.process_time() - began
        frames += len(held["state"])
    began = time.process_time()
    writer.close()
    return 1e3 * (cpu_s + time.process_time() - began) / frames


def bare_loop(path: Path) -> Callable[[list[int]], None]:
    """Samples by nothing but numpy and simplejpeg."""
    views, indices = [], []
    for key in (FRONT, WRIST):
        shards = sorted((path / "streams" / key / "rows/c").iterdir(), key=lambda one: int(one.name))
        maps = [np.memmap(shard / "0/0/0", np.uint8, "r") for shard in shards]
        views.append([memoryview(one) for one in maps])
        indices.append([one[: 16 * 2048].view("<u8").reshape(-1, 2).tolist() for one in maps])
    store = Store(path)
    rows = np.arange(store.bounds("action")[-1, 1])
    state, action = store.vectors("observation.state", rows), store.vectors("action", rows)
    last = np.repeat(store.bounds("action")[:, 1] - 1, np.diff(store.bounds("action"), axis=1)[:, 0])
    steps = np.arange(CHUNK)

    def read(samples: list[int]) -> None:
        for row in samples:
            shard, local = divmod(row, 2048)
            for view, index in zip(views, indices, strict=True):
                offset, length = index[shard][local]
                simplejpeg.decode_jpeg(view[shard][offset : offset + length])
            state[row].copy()
            action[np.minimum(row + steps, last[row])]

    return read


def through_zarr(path: Path) -> Callable[[list[int]], None]:
    """Samples by zarr-python from the same files; numbers are held in memory for it."""
    import zarr

    from regrip.datasets.store import zarr_codec  # noqa: F401 - registers our codec

    group: Any = zarr.open_group(str(path), mode="r")["streams"]
    front, wrist = group[FRONT]["rows"], group[WRIST]["rows"]
    state, action = group["observation.state"]["rows"][:], group["action"]["rows"][:]
    bounds = Store(path).bounds("action")
    last = np.repeat(bounds[:, 1] - 1, bounds[:, 1] - bounds[:, 0])
    steps = np.arange(CHUNK)

    def read(samples: list[int]) -> None:
        for row in samples:
            front[row]
            wrist[row]
            state[row].copy()
            action[np.minimum(row + steps, last[row])]

    return read


def ours(rows: Any) -> Callable[[list[int]], None]:
    samples = Samples([Member(rows)])

    def read(wanted: list[int]) -> None:
        for first in range(0, len(wanted), BATCH):
            samples.batch(samples.locate(np.array(wanted[first : first + BATCH])))

    return read


def in_order(rows: Store) -> Callable[[list[int]], None]:
    """The training loop's own way: batches by their step."""
    samples = Samples([Member(rows)])
    loader = BatchLoader(samples, EpochOrder(len(samples), BATCH, seed=1))
    at = 0

    def read(wanted: list[int]) -> None:
        nonlocal at
        for _ in range(len(wanted) // BATCH):
            loader.batch(at)
            at += 1

    return read


def streamed(path: Path) -> Callable[[list[int]], None]:
    from regrip.datasets.loading.remote_rows import RemoteSet

    made = StreamLoader(RemoteSet(path.as_uri()), BATCH).batches()

    def read(wanted: list[int]) -> None:
        for _ in range(len(wanted) // BATCH):
            next(made)

    return read


def in_turns(
    readers: dict[str, Callable[[list[int]], None]], size: int, num: int, turns: int
) -> dict[str, Any]:
    """CPU ms per sample of each turn, and samples per second of wall time."""
    order = np.random.default_rng(0).permutation(size).tolist()
    cpu: dict[str, list[float]] = {name: [] for name in readers}
    for read in readers.values():
        read(order[: 2 * BATCH])  # the cache is warm, the decoders are loaded
    for turn in range(turns):
        first = turn * num % size
        mine = (order[first:] + order[:first])[:num]
        for name, read in readers.items():
            part = mine if "zarr-python" not in name else mine[: max(BATCH, num // 4)]
            began = time.process_time()
            read(part)
            cpu[name].append(1e3 * (time.process_time() - began) / len(part))
    return cpu


def lerobot(files: Path, scratch: Path, kind: str, samples: int) -> dict[str, Any] | None:
    python = Path(os.environ.get("REGRIP_REFEREES_PYTHON", ".venv-referees/bin/python"))
    if not python.exists():
        return None
    env = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    env |= {"HF_HOME": str(scratch / "hf"), "LD_LIBRARY_PATH": str(python.parent.parent / "ffmpeg")}
    script = Path(__file__).with_name("data_lerobot.py")
    command = [str(python), str(script), str(files), str(scratch), kind, str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        print(f"LeRobot ({kind}) failed:\n{done.stderr[-1500:]}", file=sys.stderr)
        return None
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def million(scratch: Path) -> tuple[float, float]:
    """CPU and wall seconds of the statistics over a million rows of 16 numbers in a store."""
    of = Contents({"action": StreamSpec("action", "vector", "float32", (16,), rate_hz=FPS)}, FPS)
    rng = np.random.default_rng(0)
    with StoreWriter.create(scratch / "million", of) as writer:
        for _ in range(50):
            rows = rng.standard_normal((20_000, 16)).astype(np.float32)
            writer.write(Recording({"action": Track(rows, np.arange(20_000) / FPS)}))
    store = Store(scratch / "million")
    cpu, wall = time.process_time(), time.perf_counter()
    assert exact_statistics(store).streams["action"].count == 1_000_000
    return time.process_time() - cpu, time.perf_counter() - wall


def memory_of(path: str, batches: int) -> dict[str, float]:
    """Run in a process of its own: memory after the first batches and at its highest, MB."""
    store = Store(path)
    samples = Samples([Member(store)])
    order = EpochOrder(len(samples), BATCH, keep_last=True)
    out = samples.new_arrays(BATCH)
    own, with_files = [], []
    process = psutil.Process()
    for step in range(batches):
        samples.fill(order.draw(step), out)
        if step % 10 == 9:
            info = process.memory_full_info()
            own.append(info.rss - info.shared)
            with_files.append(info.rss)
    return {"first": own[0] / 1e6, "most": max(own) / 1e6, "rss": max(with_files) / 1e6}


def memory(scratch: Path, files: list[Path], num: int, batches: int) -> list[dict[str, float]]:
    """The same reading over a set, and over one with ten times its episodes."""
    held = dict(np.load(files[0]).items())
    time_s = np.arange(len(held["state"])) / FPS
    tracks = {
        FRONT: Track(EncodedFrames([encode_jpeg(one) for one in held["front"]], (SIZE, SIZE, 3)), time_s),
        WRIST: Track(EncodedFrames([encode_jpeg(one) for one in held["wrist"]], (SIZE, SIZE, 3)), time_s),
        "observation.state": Track(held["state"], time_s),
        "action": Track(held["action"], time_s),
    }
    found = []
    for count in (num, 10 * num):
        path = scratch / f"memory-{count}"
        with StoreWriter.create(path, contents()) as writer:
            for _ in range(count):
                writer.write(Recording(tracks, task="t"))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append({"rows": count * len(time_s), **pool.apply(memory_of, (str(path), batches))})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a fifth of everything")
    args = parser.parse_args()
    num, steps, samples, turns = (4, 200, 256, 3) if args.quick else (20, 200, 640, 7)
    print(
        f"{num} episodes of {steps} steps, 2 cameras of {SIZE} px, state, chunk of {CHUNK}; "
        f"batches of {BATCH}, one process\n{platform.platform()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, numpy {np.__version__}, simplejpeg {simplejpeg.__version__}\n",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "episodes").mkdir()
        files = []
        for number, one in enumerate(episodes(num, steps)):
            files.append(scratch / "episodes" / f"{number:04}.npz")
            np.savez(files[-1], **one)  # type: ignore[arg-type]
        path = scratch / "set"
        written = record(path, files)
        size = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
        store = Store(path)
        bare, zarr_python, mine = "bare mmap and simplejpeg loop", "zarr-python, same files", "regrip"
        readers = {
            mine: in_order(store),
            f"{mine}, any samples": ours(store),
            f"{mine}, streamed from file://": streamed(path),
            f"{mine}, whole set in memory": ours(RamRows(store)),
            bare: bare_loop(path),
            zarr_python: through_zarr(path),
        }
        cpu = in_turns(readers, num * steps, samples, turns)
        theirs = {
            kind: lerobot(scratch / "episodes", scratch, kind, min(samples, 200))
            for kind in ("video", "image")
        }
        names = {"video": "LeRobot, video (AV1, torchcodec)", "image": "LeRobot, images (PNG)"}
        for kind, answer in theirs.items():
            if answer is not None:
                cpu[names[kind]] = answer["read_ms"]
        print(f"{'reading':34} CPU ms per sample: least   median   times regrip's (least)")
        for name, times in cpu.items():
            ratio = min(times) / min(cpu[mine])
            print(f"{name:34} {min(times):24.3f} {statistics.median(times):8.3f} {ratio:10.2f}")
        print("\nrecording                          CPU ms per step    MB on disk   times regrip's")
        print(f"{mine + ', JPEG 95, durable':34} {written:15.2f} {size / 1e6:13.1f}")
        for kind, answer in theirs.items():
            if answer is None:
                print(f"{names[kind]:34} not measured: no interpreter with lerobot")
            else:
                ms, mb = answer["write_ms"], answer["bytes"] / 1e6
                print(
                    f"{names[kind] + ' ' + answer['version']:34} {ms:15.2f} {mb:13.1f} {ms / written:12.1f}"
                )
        cpu_s, wall_s = million(scratch)
        print(f"\nstatistics of 1,000,000 rows of 16 float32: {cpu_s:.2f} s of CPU, {wall_s:.2f} s")
        count, batches = (2, 40) if args.quick else (10, 120)
        for one in memory(scratch, files, count, batches):
            print(
                f"memory over {one['rows']:.0f} steps: {one['first']:.1f} MB of its own after 10 batches, "
                f"{one['most']:.1f} at most; {one['rss']:.1f} with mapped files"
            )


if __name__ == "__main__":
    main()
