"""The same training with 1, 2 and 4 simulator workers, and with workers that are lost all the time.

    python benchmarks/workers.py            # 50 incidents, some minutes
    python benchmarks/workers.py --quick    # 6 incidents

The first runs differ in the number of worker processes alone. In the last one workers are killed, hang
(asleep or stopped) and run into their memory limit, a new incident as soon as the one before is mended. All
must end in the same bits: weights, optimiser, start sampler, metrics, evaluations; and every incident must be
in the run's ``incidents.jsonl``.

What is trained is described in `small_run.py`, here with GRPO and binary reward, so that groups die and are
replaced. Exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import torch
from small_run import differences, small_config, small_policy, summary

from regrip.datasets.starts import counter_generator
from regrip.launch import environments
from regrip.launch.config import save_config
from regrip.launch.experiment import TrainConfig
from regrip.launch.run_directory import RunDirectory
from regrip.launch.train import post_train
from regrip.sim.pool import WorkerPool

SHARES = {"died": 0.5, "memory": 0.3, "asleep": 0.1, "stopped": 0.1}
COUNTED_AS = {"died": "died", "memory": "memory", "asleep": "hung", "stopped": "hung"}


def train(config: TrainConfig, folder: RunDirectory) -> float:
    """Train from start to report; returns the seconds."""
    began, silence = time.monotonic(), io.StringIO()
    with folder.claim(), contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        save_config(folder.config, config)
        post_train(config, folder)
    return time.monotonic() - began


class Trouble(threading.Thread):
    """Hands out tokens of misfortune, one at a time, each when all incidents before it are mended.

    Args:
        tokens: folder the workers look into.
        kinds: what is to happen, in order.
        folder: of the run, where incidents are written down.
    """

    def __init__(self, tokens: Path, kinds: list[str], folder: RunDirectory) -> None:
        super().__init__(daemon=True)
        self.tokens, self.kinds, self.folder = tokens, kinds, folder
        self.given = 0
        self.pool: WorkerPool | None = None
        self.is_over = threading.Event()

    def run(self) -> None:
        while self.given < len(self.kinds) and not self.is_over.wait(0.1):
            if self.pool is None or any(self.tokens.iterdir()):
                continue
            seen = len(self.folder.read_incidents()) + len(self.pool.incidents)
            if seen >= self.given:
                (self.tokens / f"{self.given:03d}.{self.kinds[self.given]}").touch()
                self.given += 1


def train_in_trouble(
    config: TrainConfig, folder: RunDirectory, kinds: list[str], tokens: Path
) -> tuple[float, Counter[str], int]:
    """Train with workers that fail; returns seconds, the incidents counted by kind, and those never given."""
    tokens.mkdir(parents=True)
    os.environ["REGRIP_UNRULY"] = str(tokens)
    trouble = Trouble(tokens, kinds, folder)
    ordinary, open_pool = environments.FACTORIES["tabletop"], environments.open_pool

    def watched(*args: object, **kwargs: object) -> WorkerPool:
        trouble.pool = open_pool(*args, **kwargs)  # type: ignore[arg-type]
        return trouble.pool

    environments.FACTORIES["tabletop"] = "unruly:make"
    environments.open_pool = watched
    trouble.start()
    try:
        seconds = train(config, folder)
    finally:
        trouble.is_over.set()
        trouble.join()
        environments.FACTORIES["tabletop"] = ordinary
        environments.open_pool = open_pool
    counted = Counter(str(incident["kind"]) for incident in folder.read_incidents())
    return seconds, counted, len(kinds) - trouble.given + len(list(tokens.iterdir()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="6 incidents, 2 iterations")
    parser.add_argument("--incidents", type=int, help="how many, instead of 50 or 6")
    parser.add_argument("--out", type=Path, help="where to leave the runs (default: nowhere)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        return compare(options, options.out or Path(scratch))


def compare(options: argparse.Namespace, out: Path) -> int:
    config = small_config(
        small_policy(out / "base"), algorithm="grpo", reward="binary", iterations=2 if options.quick else 6
    )
    first: RunDirectory | None = None
    faults: list[str] = []

    def judge(name: str, folder: RunDirectory, seconds: float) -> None:
        nonlocal first
        found = [] if first is None else differences(first, folder)
        faults.extend(f"{name}: {fault}" for fault in found)
        verdict = f"{len(found)} differences, first {found[0]}" if found else "the same bits"
        verdict, first = (verdict, first) if first else ("what the others are compared with", folder)
        print(f"{name:<28} {seconds:6.1f} s   {verdict}\n{'':<28} {summary(folder)}", flush=True)

    for workers in (1, 2, 4):
        folder = RunDirectory(out / f"workers-{workers}")
        env = dataclasses.replace(config.env, workers=workers)
        judge(f"{workers} workers", folder, train(dataclasses.replace(config, env=env), folder))

    count = options.incidents or (6 if options.quick else 50)
    kinds = [kind for kind, share in SHARES.items() for _ in range(max(1, round(share * count)))][:count]
    kinds = [kinds[int(index)] for index in counter_generator("trouble").permutation(len(kinds))]
    folder = RunDirectory(out / "trouble")
    env = dataclasses.replace(config.env, deadline_s=4.0, memory_limit_mb=4096)
    seconds, counted, never = train_in_trouble(
        dataclasses.replace(config, env=env), folder, kinds, out / "tokens"
    )
    judge(f"2 workers, {count - never} incidents", folder, seconds)
    wanted = Counter(COUNTED_AS[kind] for kind in kinds)
    print(f"\nincidents caused: {dict(wanted)}; written down: {dict(counted)}")
    if never:
        faults.append(f"the run ended before {count} incidents: {never} never happened")
    for kind, number in wanted.items():
        # A busy machine may add a worker that was only slow.
        if counted[kind] < number or (kind != "hung" and counted[kind] > number):
            faults.append(f"{number} workers were made to fail ({kind}), {counted[kind]} are written down")
    print("\n".join(faults) if faults else "all runs ended in the same bits, and no incident was lost")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
