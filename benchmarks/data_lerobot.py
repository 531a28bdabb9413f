"""What LeRobot takes to write and read the episodes of `data.py`. Run by it, in an interpreter with lerobot.

    data_lerobot.py EPISODES SCRATCH video|image SAMPLES

EPISODES holds, for each episode, <number>.npz with front, wrist, state and action. Prints one line of JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

FPS = 20


def cpu_s():
    now = os.times()
    return now.user + now.system + now.children_user + now.children_system


def main():
    episodes, scratch, kind, samples = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    import lerobot
    import torch
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    torch.set_num_threads(1)
    files = sorted(episodes.glob("*.npz"))
    height, width = np.load(files[0])["front"].shape[1:3]
    image = {"dtype": kind, "shape": (height, width, 3), "names": ["height", "width", "channels"]}
    features = {
        "observation.state": {"dtype": "float32", "shape": (8,), "names": [f"s{i}" for i in range(8)]},
        "action": {"dtype": "float32", "shape": (7,), "names": [f"a{i}" for i in range(7)]},
        "observation.images.front": image,
        "observation.images.wrist": image,
    }
    root = scratch / f"lerobot-{kind}"
    data = LeRobotDataset.create(
        "bench/mark", FPS, features, root=root, robot_type="panda", use_videos=kind == "video"
    )
    written, frames = 0.0, 0
    for number, path in enumerate(files):
        held = dict(np.load(path).items())
        began = cpu_s()
        for row in range(len(held["state"])):
            data.add_frame(
                {
                    "observation.state": held["state"][row],
                    "action": held["action"][row],
                    "observation.images.front": held["front"][row],
                    "observation.images.wrist": held["wrist"][row],
                    "task": f"move block {number % 4}",
                }
            )
        data.save_episode()
        written += cpu_s() - began
        frames += len(held["state"])
    began = cpu_s()
    data.finalize()
    written += cpu_s() - began
    del data

    backend = "torchcodec" if kind == "video" else None
    chunk = {"action": [step / FPS for step in range(16)]}
    data = LeRobotDataset("bench/mark", root=root, delta_timestamps=chunk, video_backend=backend)
    order = np.random.default_rng(0).permutation(len(data)).tolist()
    for index in order[:20]:
        data[index]
    cpu, wall = [], []
    for turn in range(3):
        mine = order[(turn * samples) % len(order) :][:samples]
        began_cpu, began = time.process_time(), time.perf_counter()
        for index in mine:
            data[index]
        cpu.append(1e3 * (time.process_time() - began_cpu) / len(mine))
        wall.append(len(mine) / (time.perf_counter() - began))
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    print(
        json.dumps(
            {
                "version": lerobot.__version__,
                "write_ms": 1e3 * written / frames,
                "read_ms": cpu,
                "per_wall_s": max(wall),
                "bytes": size,
            }
        )
    )


if __name__ == "__main__":
    main()
