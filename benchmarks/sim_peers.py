"""What `sim.py` plays against: an environment as its package has it, under gymnasium's or LeRobot's wrapper.

    python sim_peers.py '{"env": "metaworld", "wrapper": "lerobot", ...}'

Runs in any interpreter and, the tabletop and the mappings apart, with nothing of ours (`sim_gym_peers.py`
has the environments). Says ``ready`` once it has made its first picture; then, for each number on its
standard input, it plays at least so many control steps and says how many they were. `sim.py` reads its CPU
time and memory from outside.

LeRobot's part is LeRobot itself, from the folders named in ``paths``: its `make_env` or
`create_metaworld_envs` around gymnasium's `SyncVectorEnv` (its default), and after every step what its
evaluation loop does with an observation. What these import and do not use (motors, policies) is left blank.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import sys
import types
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported
os.environ.setdefault("LP_NUM_THREADS", "0")

import numpy as np

BLANK = (
    "serial", "deepdiff", "transformers", "draccus", "lerobot.processor", "lerobot.robots",
    "lerobot.policies", "lerobot.envs.configs", "lerobot.configs.policies",
)  # fmt: skip


class Loop:
    """robosuite and LIBERO come without a vector environment: one environment, both cameras, a plain loop."""

    num_envs = 1

    def __init__(self, name: str, task: str, size: int, cameras: Sequence[str]) -> None:
        shape = {"camera_names": list(cameras), "camera_heights": size, "camera_widths": size}
        if name == "robosuite":
            import robosuite

            self.env = robosuite.make(
                task, robots="Panda", has_renderer=False, has_offscreen_renderer=True, use_camera_obs=True,
                renderer="mujoco", control_freq=20, **shape,
            )  # fmt: skip
        else:
            import tempfile

            with tempfile.TemporaryDirectory() as folder:
                os.environ["LIBERO_CONFIG_PATH"] = folder
                Path(folder, "config.yaml").write_text("{}")
                from libero import libero
            libero._assets_path_cache = os.environ["REGRIP_LIBERO_ASSETS"]
            from libero.libero.envs import OffScreenRenderEnv

            file = Path(libero.__file__).parent / "bddl_files" / f"{task}.bddl"
            self.env = OffScreenRenderEnv(bddl_file_name=str(file), **shape)
        low, high = -np.ones(7, np.float32), np.ones(7, np.float32)
        self.single_action_space = types.SimpleNamespace(low=low, high=high, shape=(7,), dtype=low.dtype)

    def reset(self, seed: Any = None) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(), {}

    def step(self, actions: Any) -> Any:
        observation, *_ = self.env.step(actions[0])
        return observation, 0.0, False, False, {}


class Blank(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__class_getitem__": classmethod(lambda cls, key: cls)})


class BlankFinder:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if any(name == blank or name.startswith(f"{blank}.") for blank in BLANK):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: Any) -> Blank:
        return Blank(spec.name)

    def exec_module(self, module: Any) -> None: ...


def lerobot(ask: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    """LeRobot's vector environment, and what its evaluation does with an observation."""
    sys.path += ask["paths"]
    sys.meta_path.insert(0, BlankFinder())
    import lerobot

    package = types.ModuleType("lerobot.envs")  # its own __init__ asks for every robot
    package.__path__ = [f"{lerobot.__path__[0]}/envs"]
    sys.modules["lerobot.envs"] = package
    import gymnasium
    import torch

    torch.set_num_threads(1)
    from lerobot.envs.factory import make_env
    from lerobot.envs.utils import add_envs_task, preprocess_observation

    args, vector = ask["args"], gymnasium.vector.SyncVectorEnv
    if ask["env"] == "metaworld":
        from lerobot.envs import metaworld as theirs

        if args["size"] != 480:  # which LeRobot cannot be asked for

            def make(self: Any, name: str) -> Any:
                import metaworld

                mt1, size = metaworld.MT1(name, seed=42), args["size"]
                env = mt1.train_classes[name](
                    render_mode="rgb_array", camera_name=self.camera_name, width=size, height=size
                )
                env.set_task(mt1.train_tasks[0])
                env.reset()
                env._freeze_rand_vec = False
                return env

            theirs.MetaworldEnv._make_envs_task = make
        kwargs = {
            "obs_type": "pixels_agent_pos", "camera_name": args["camera"],
            "observation_width": args["size"], "observation_height": args["size"],
        }  # fmt: skip
        out = sys.stdout
        sys.stdout = sys.stderr  # it chats
        envs = theirs.create_metaworld_envs(args["task"], ask["num"], kwargs, vector)[args["task"]][0]
        sys.stdout = out
    else:
        if ask["env"] == "tabletop":
            from sim_gym_peers import Tabletop

            gymnasium.register("regrip-peer/Tabletop-v0", partial(Tabletop, **args))
            config = {"gym_id": "regrip-peer/Tabletop-v0", "gym_kwargs": {}, "package_name": ""}
        else:
            __import__(ask["package"])
            config = {"gym_id": ask["id"], "gym_kwargs": ask["kwargs"], "package_name": ask["package"]}
        made = make_env(
            types.SimpleNamespace(type=ask["env"], disable_env_checker=True, **config), n_envs=ask["num"]
        )
        envs = made[ask["env"]][0]
    return envs, lambda observation: add_envs_task(envs, preprocess_observation(observation))


def main() -> None:
    ask = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a package prints must not end up among the replies
    process: Callable[[Any], Any] = lambda observation: observation  # noqa: E731
    if ask["wrapper"] == "lerobot":
        envs, process = lerobot(ask)
    elif ask["wrapper"] == "loop":
        envs = Loop(**ask["args"])
    else:
        import gymnasium
        from sim_gym_peers import MAKERS

        one = partial(MAKERS[ask["env"]], **ask["args"])
        envs = gymnasium.vector.AsyncVectorEnv([one] * ask["num"], context="spawn")

    space, shares = envs.single_action_space, np.array(ask["shares"])  # (T,A) of the way from low to high
    chunk = space.shape[0] if len(space.shape) == 2 else 1
    low, high = (bound[0] if chunk > 1 else bound for bound in (space.low, space.high))
    table = (low + shares * (high - low)).astype(space.dtype).reshape(-1, *space.shape)
    at = len(table)

    def play(least: int) -> int:
        nonlocal at
        played = 0
        while played < least:
            if at == len(table):
                observation, _ = envs.reset(seed=0)
                at = 0
            else:
                observation, *_, info = envs.step(np.repeat(table[at][None], envs.num_envs, 0))
                at += 1
                # The step that resets an environment plays none, and says nothing.
                executed = info.get("executed", np.full(envs.num_envs, chunk)) if chunk > 1 else None
                played += envs.num_envs if executed is None else int(executed.sum())
            process(observation)
        return played

    play(1)
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        print(play(int(line)), file=replies, flush=True)
    if ask["wrapper"] == "async":
        envs.close()
    os._exit(0)  # some packages' OpenGL does not survive its own end


if __name__ == "__main__":
    main()
