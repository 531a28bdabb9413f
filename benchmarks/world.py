"""How fast a learned world is imagined and learnt, beside MuJoCo drawing the same pictures.

    python benchmarks/world.py                   # one thread; minutes
    python benchmarks/world.py --device cuda     # torch.compile and bfloat16, batches up to 4,096
    python benchmarks/world.py --only training

Imagination: one decision is a chunk of five control steps, after which two cameras of 64 pixels are seen. The
model has its default size and random weights; speed does not ask what they say. "no pictures" leaves the
decoder out, as scoring chunks does. MuJoCo plays the same decisions in our worker pool, its processes' CPU
time summed up. Rates are of CPU time, so they hold on a busy machine; with a GPU they are of wall time.

Training: one step, forward and backward, on windows of growing length. "kept" is what the backward pass finds
in memory, each tensor once, weights left out. Both should grow with the window, and not with its square.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import numpy as np
import torch
from random_play import CHUNK, begin, cpu_s
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from regrip.datasets.protocols import VectorEnv
from regrip.datasets.spec import RobotSpec
from regrip.launch.world_cameras import calibration
from regrip.sim.pool import WorkerPool
from regrip.sim.tabletop.env import make
from regrip.sim.tabletop.tasks import task_names
from regrip.sim.world.config import WorldConfig
from regrip.sim.world.dynamics import Batch
from regrip.sim.world.env import WorldEnv
from regrip.sim.world.model import Calibration, WorldModel
from regrip.sim.world.starts import Starts

SIZE, SUITE = 64, "demo"
KINDS = ("video", "views", "rssm")
WORDS = ["put", "the", "red", "block", "on", "plate"]
# Dense bfloat16, teraflops, by the makers' data sheets.
PEAK = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0}


def made(kind: Any, spec: RobotSpec, device: str) -> WorldModel:
    torch.manual_seed(0)
    cameras = calibration(SUITE) if kind == "views" else None
    model = WorldModel(WorldConfig(kind=kind, chunk=CHUNK), spec, WORDS, cameras).to(device).eval()
    model.calibration = Calibration(doubt=1.0, horizon=12, threshold=1.0)
    return model


def some(model: WorldModel, rows: int) -> tuple[Any, Tensor, Tensor]:
    """Memory, chunks and words of so many imaginations."""
    draw = np.random.default_rng(0)
    spec = model.spec
    pictures = draw.integers(0, 256, (1, len(spec.cameras), SIZE, SIZE, 3), dtype=np.uint8)
    memory = model.begin(np.repeat(pictures, rows, 0), np.zeros((rows, spec.state_dim), np.float32))
    chunks = draw.normal(size=(rows, CHUNK, spec.action_dim)).astype(np.float32)
    action = model.normal_action(chunks)
    return memory, action, model.words([" ".join(WORDS)] * rows)


def rate(one: Callable[[], object], least_s: float, clock: Callable[[], float]) -> float:
    """Calls per second, the first two left out."""
    one(), one()
    begin, calls = clock(), 0
    while (took := clock() - begin) < least_s or calls < 3:
        one()
        calls += 1
    return calls / took


# ---- imagination ---------------------------------------------------------------------------------------


def play(env: VectorEnv, tasks: Sequence[str], rounds: int) -> float:
    """Decisions per CPU second of a whole environment."""
    one = begin(env, tasks, "benchmark world")
    one()
    began = cpu_s()
    for _ in range(rounds):
        one()
    return rounds * env.num_slots / (cpu_s() - began)


def beginnings(spec: RobotSpec) -> Starts:
    shape = (1, len(spec.cameras), SIZE, SIZE, 3)
    return Starts(
        pictures=np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
        state=np.zeros((1, spec.state_dim), np.float32),
        task=np.zeros(1, np.int64), decision=np.zeros(1, np.int64), origin=np.zeros(1, np.int64),
        split=np.zeros(1, np.int64),
        tasks=("demo/benchmark",), instructions=(" ".join(WORDS),), limits=(12,),
    )  # fmt: skip


def line(name: str, rows: str, pictures: str, decisions: float, beside: float, more: str = "") -> None:
    times = f"{decisions / beside:7.2f}x" if beside else f"{'':8s}"
    print(
        f"{name:22s} {rows:>6s}  {pictures:12s} {decisions:11.0f} {CHUNK * decisions:11.0f} "
        f"{2 * decisions if pictures == 'two at 64 px' else 0:11.0f} {times}{more}",
        flush=True,
    )


def imagination(spec: RobotSpec, most: int, least_s: float) -> None:
    print(
        f"{'':22s} {'batch':>6s}  {'pictures':12s} {'decisions/s':>11s} {'control st/s':>11s} "
        f"{'pictures/s':>11s} {'MuJoCo':>8s}   (per CPU second)"
    )
    kwargs = {"suite": SUITE, "cameras": ("front", "wrist"), "image_size": SIZE}
    beside = []
    for cameras in (("front", "wrist"), ()):
        with WorkerPool(
            "regrip.sim.tabletop.env:make", {**kwargs, "cameras": cameras},
            num_slots=48, num_workers=1, chunk_size=CHUNK,
        ) as pool:  # fmt: skip
            beside.append(play(pool, task_names(SUITE), 12))
            line("MuJoCo, worker pool", "48", "two at 64 px" if cameras else "none", beside[-1], 0)
    for kind in KINDS:
        model = made(kind, spec, "cpu")
        with WorldEnv(model, beginnings(spec), num_slots=64, cut_off=float("inf")) as env:
            line(f"{kind}, WorldEnv", "64", "two at 64 px", play(env, ["demo/benchmark"], 6), beside[0])
        for rows in sizes(1, most):
            for pictures in (True, False):
                one = step_of(model, rows, pictures)
                found = rows * rate(one, least_s, time.process_time)
                line(kind, str(rows), "two at 64 px" if pictures else "none", found, beside[not pictures])


def sizes(least: int, most: int) -> Iterator[int]:
    while least <= most:
        yield least
        least *= 4


def step_of(model: WorldModel, rows: int, pictures: bool) -> Callable[[], object]:
    memory, action, words = some(model, rows)

    def one() -> object:
        _, step = model.step(memory, action, words)
        return model.pictures(step.tokens) if pictures else step

    return one


# ---- training ------------------------------------------------------------------------------------------


def window(model: WorldModel, rows: int, length: int) -> Batch:
    device, spec = model.device, model.spec
    tokens = torch.randn(
        rows, length + 1, len(spec.cameras), model.tokenizer.places, model.tokenizer.dims, device=device
    )
    return Batch(
        tokens=tokens,
        state=torch.randn(rows, length + 1, spec.state_dim, device=device),
        before=torch.randn(rows, length, spec.state_dim, device=device),
        origin=tokens[:, 0],
        began=torch.randn(rows, spec.state_dim, device=device),
        action=torch.randn(rows, length, CHUNK, spec.action_dim, device=device),
        words=model.words([" ".join(WORDS)] * rows),
        success=torch.zeros(rows, length, device=device),
        there=torch.ones(rows, length, dtype=torch.bool, device=device),
        follows=torch.ones(rows, length, dtype=torch.bool, device=device),
    )


def kept_mib(model: WorldModel, loss: Callable[[], Tensor]) -> float:
    """What the backward pass needs of one step."""
    weights = {held.untyped_storage().data_ptr() for held in model.parameters()}
    found: dict[int, int] = {}
    alive = []

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(x)  # so that no other tensor gets its address
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss()
    return sum(found.values()) / 2**20


def training(spec: RobotSpec, device: str, rows: int, least_s: float) -> None:
    clock = time.process_time if device == "cpu" else time.perf_counter
    print(f"\ntraining, {rows} windows in a batch, {'CPU' if device == 'cpu' else 'wall'} seconds")
    print(
        f"{'':22s} {'window':>6s} {'s/step':>8s} {'ms/decision':>12s} {'kept MiB':>9s} {'MiB/decision':>13s}"
    )
    for kind in KINDS:
        model = made(kind, spec, device)
        for imagined in (False, True):
            for length in (2, 4, 8, 16):
                batch = window(model, rows, length)

                def loss(
                    model: WorldModel = model, batch: Batch = batch, imagined: bool = imagined
                ) -> Tensor:
                    with model.half():
                        return model.dynamics.losses(batch, imagined)["total"]

                def one(loss: Callable[[], Tensor] = loss, model: WorldModel = model) -> None:
                    model.zero_grad(set_to_none=True)
                    loss().backward()
                    if device == "cuda":
                        torch.cuda.synchronize()

                took = 1 / rate(one, least_s, clock)
                kept = kept_mib(model, loss)
                name = f"{kind}{', imagined' if imagined else ''}"
                print(
                    f"{name:22s} {length:6d} {took:8.3f} {1e3 * took / length:12.1f} {kept:9.1f} "
                    f"{kept / length:13.2f}",
                    flush=True,
                )


# ---- on a GPU ------------------------------------------------------------------------------------------


def on_gpu(spec: RobotSpec, most: int, least_s: float, peak: float) -> None:
    """Compiled, in bfloat16. A step keeps the keys and values of those before (its KV cache) as it is."""
    name = torch.cuda.get_device_name()
    peak = peak or next((flops for part, flops in PEAK.items() if part in name), 0.0)
    said = f"{peak:.0f} TFLOP/s dense bfloat16" if peak else "peak not known: give --peak-tflops"
    print(f"\n{name}, {said}; torch.compile, wall time")
    for kind in KINDS:
        model = made(kind, spec, "cuda")
        for pictures in (True, False):

            def whole(
                memory: Any, action: Tensor, words: Tensor, model: WorldModel = model, seen: bool = pictures
            ) -> Any:
                after, step = model.dynamics.step(memory, action, words)
                return after, model.tokenizer.decode(step.tokens) if seen else step.success

            quick = torch.compile(whole)
            for rows in sizes(1, most):
                memory, action, words = some(model, rows)
                with torch.no_grad(), model.half():
                    with FlopCounterMode(display=False) as counter:
                        whole(memory, action, words)

                    def one(held: Any = (memory, action, words), quick: Any = quick) -> None:
                        quick(*held)
                        torch.cuda.synchronize()

                    found = rate(one, least_s, time.perf_counter)
                flops = found * counter.get_total_flops()
                share = f", {100 * flops / 1e12 / peak:.1f} % of peak" if peak else ""
                more = f"  {flops / 1e12:.2f} TFLOP/s{share}"
                line(kind, str(rows), "two at 64 px" if pictures else "none", rows * found, 0, more)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", choices=("imagination", "training"), default="")
    parser.add_argument("--most", type=int, default=0, help="rows; 256 on the CPU, 4,096 on a GPU")
    parser.add_argument("--batch", type=int, default=24, help="windows in a batch of training")
    parser.add_argument("--least-s", type=float, default=1.5, help="to measure each figure for")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of the GPU, dense bfloat16")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    env = make(suite=SUITE, cameras=("front", "wrist"), image_size=SIZE)
    spec = env.spec
    env.close()
    if not torch.cuda.is_available():
        print("no GPU: torch.cuda.is_available() is False, so nothing is measured on one")
        if arguments.device == "cuda":
            raise SystemExit("give --device cpu, or run this where there is an NVIDIA GPU and its driver")
    for kind in KINDS:
        model = made(kind, spec, "cpu")
        parts = {"dynamics": model.dynamics, "tokenizer": model.tokenizer}
        numbers = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        print(f"{kind}: {', '.join(f'{name} {count:,} weights' for name, count in numbers.items())}")
    if arguments.only != "training":
        if arguments.device == "cuda":
            on_gpu(spec, arguments.most or 4096, arguments.least_s, arguments.peak_tflops)
        else:
            imagination(spec, arguments.most or 256, arguments.least_s)
    if arguments.only != "imagination":
        training(spec, arguments.device, arguments.batch, arguments.least_s)


if __name__ == "__main__":
    main()
