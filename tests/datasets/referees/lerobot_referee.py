"""What the package lerobot makes of a set.

Run by the referees' interpreter; knows nothing of regrip.

Usage: lerobot_referee.py read|write|convert FOLDER ARGUMENTS-AS-JSON; the answer is one line of JSON, arrays
go to an .npz file.
"""

import json
import sys
from pathlib import Path

import numpy as np


def load(root, deltas=None):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("someone/set", root=root, delta_timestamps=deltas, video_backend="torchcodec")


def as_image(tensor):
    return (np.asarray(tensor).transpose(1, 2, 0) * 255).round().astype(np.uint8)


def read(root, out, rows=(), deltas=None, keys=(), images=()):
    """Some rows of a set, by their index over all episodes."""
    data = load(root, deltas)
    arrays, tasks = {}, []
    for row in rows:
        item = data[row]
        tasks.append(item["task"])
        for key in keys:
            arrays[f"{row}:{key}"] = np.asarray(item[key])
        for key in images:
            value = item[key]
            if value.ndim == 3 and value.shape[0] == 3:
                arrays[f"{row}:{key}"] = as_image(value)
            else:
                arrays[f"{row}:{key}"] = np.asarray(value)
    np.savez(out, **arrays)
    stats = {
        key: {name: np.asarray(value).tolist() for name, value in found.items()}
        for key, found in data.meta.stats.items()
    }
    return {
        "frames": len(data),
        "episodes": data.num_episodes,
        "fps": data.fps,
        "robot": data.meta.robot_type,
        "tasks": tasks,
        "all_tasks": list(data.meta.tasks.index),
        "stats": stats,
    }


def write(root, out, episodes=(), videos=True, vcodec="libsvtav1"):
    """A set written by LeRobot's own recorder; what went in goes to `out`."""
    import datasets
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    # numpy 2.4 no longer makes a number of an array of one, which datasets 4.4 asks of it for shapes of [1].
    encode = datasets.Value.encode_example
    datasets.Value.encode_example = lambda self, value: encode(
        self, value.item() if isinstance(value, np.ndarray) else value
    )
    kind = "video" if videos else "image"
    features = {
        "observation.images.front": {
            "dtype": kind,
            "shape": (48, 64, 3),
            "names": ["height", "width", "channels"],
        },
        "observation.state": {"dtype": "float32", "shape": (4,), "names": ["a", "b", "c", "d"]},
        "action": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.done": {"dtype": "bool", "shape": (1,), "names": None},
        "table": {"dtype": "float64", "shape": (2, 3), "names": None},
        "note": {"dtype": "string", "shape": (1,), "names": None},
    }
    data = LeRobotDataset.create(
        "someone/set", 20, features, robot_type="panda", root=root, use_videos=videos, vcodec=vcodec
    )
    rng = np.random.default_rng(0)
    arrays = {}
    y, x = np.mgrid[:48, :64]
    for episode, (length, tasks) in enumerate(episodes):
        for frame in range(length):
            image = np.stack([x * 3 + frame, y * 4 + 10 * episode, x + y], -1).astype(np.uint8)
            given = {
                "observation.images.front": image,
                "observation.state": rng.standard_normal(4).astype(np.float32),
                "action": rng.standard_normal(3).astype(np.float32),
                "next.reward": np.array([frame], np.float32),
                "next.done": np.array([frame == length - 1]),
                "table": rng.standard_normal((2, 3)),
                "note": f"row {frame}",
            }
            for key, value in given.items():
                if key != "note":
                    arrays[f"{episode}:{frame}:{key}"] = value
            data.add_frame({**given, "task": tasks[frame * len(tasks) // length]})
        data.save_episode(parallel_encoding=False)
    data.finalize()
    np.savez(out, **arrays)
    return {}


def convert(root, out, **how):
    """LeRobot's own converter from v2.1 to v3.0, in place; then as `read`."""
    from lerobot.datasets.v30.convert_dataset_v21_to_v30 import convert_dataset

    convert_dataset("someone/set", root=Path(root), push_to_hub=False)
    return read(Path(root) / "someone/set", out, **how)


if __name__ == "__main__":
    command, root, arguments = sys.argv[1:]
    arguments = json.loads(arguments)
    answer = {"read": read, "write": write, "convert": convert}[command](Path(root), **arguments)
    print(json.dumps(answer))
