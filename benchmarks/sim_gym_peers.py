"""The environments that `sim_peers.py` plays under a vector wrapper: each as its package documents it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np


class Counting(gymnasium.Env[Any, Any]):
    """An environment of which `observe` makes the observation after every `chunk` steps."""

    observe: Callable[[], Any]
    chunk = 1

    def counted(self, action: Any, step: Callable[[Any], tuple[float, bool, bool]]) -> Any:
        rows = action if self.chunk > 1 else action[None]
        for executed, one in enumerate(rows, start=1):  # noqa: B007 - counted for the caller
            reward, terminated, truncated = step(one)
            if terminated or truncated:
                break
        info = {"executed": executed, "is_success": terminated}
        return self.observe(), reward, terminated, truncated, info


class Tabletop(Counting):
    """Our tabletop environment, drawn by mujoco.Renderer as it comes or by us."""

    def __init__(self, size: int, stock: bool, chunk: int) -> None:
        import mujoco

        from regrip.sim.tabletop.env import TabletopEnv

        self.env, self.chunk, self.index = TabletopEnv("demo", image_size=size), chunk, 0
        self.stock: Any = None
        if stock:
            model = mujoco.MjModel.from_xml_string(self.env.world.scene.mjcf)  # type: ignore[attr-defined]
            default = mujoco.MjModel.from_xml_string("<mujoco/>").vis.quality  # type: ignore[attr-defined]
            for name in ("offsamples", "shadowsize", "numslices", "numstacks", "numquads"):
                setattr(model.vis.quality, name, getattr(default, name))
            model.light_castshadow[:] = True
            self.stock = mujoco.Renderer(model, size, size)
        spec = self.env.spec
        low, high = spec.action_low, spec.action_high
        if chunk > 1:
            low, high = np.repeat(low[None], chunk, 0), np.repeat(high[None], chunk, 0)
        self.action_space = gymnasium.spaces.Box(low, high)
        frame = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)
        state = gymnasium.spaces.Box(-np.inf, np.inf, (spec.state_dim,), np.float32)
        pixels = gymnasium.spaces.Dict({camera.name: frame for camera in spec.cameras})
        self.observation_space = gymnasium.spaces.Dict({"pixels": pixels, "agent_pos": state})

    def observe(self) -> Any:
        frames = {}
        for camera in self.env.spec.cameras:
            if self.stock is not None:
                self.stock.update_scene(self.env.world.data, camera.name)
                frames[camera.name] = self.stock.render()
            else:
                frames[camera.name] = self.env.render(camera.name)
        return {"pixels": frames, "agent_pos": self.env.state()}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        from regrip.datasets.starts import StartState
        from regrip.sim.tabletop.tasks import task_names

        names = task_names("demo")
        self.env.reset(StartState(names[self.index % len(names)], "train", self.index))
        self.index += 1
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        def one(action: Any) -> tuple[float, bool, bool]:
            step = self.env.step(action)
            return step.reward, step.success, step.truncated

        return self.counted(action, one)


class Drawn(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Observation of the package's picture alone; `repeat` package steps are a control step."""

    def __init__(self, env: Any, size: int, key: Sequence[str] = (), repeat: int = 1) -> None:
        super().__init__(env)
        self.size, self.key, self.repeat = size, key, repeat
        self.observation_space = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)

    def look(self, observation: Any) -> Any:
        for key in self.key:
            observation = observation[key]
        picture = np.ascontiguousarray(observation if self.key else self.env.render())
        if picture.shape[:2] == (self.size, self.size):
            return picture
        from regrip.sim.gym.frames import fit  # the size that all contenders have

        return fit(picture, self.size)

    def reset(self, **kwargs: Any) -> Any:
        observation, _ = self.env.reset(**kwargs)
        return self.look(observation), {}

    def step(self, action: Any) -> Any:
        for _ in range(self.repeat):
            observation, reward, terminated, truncated, _ = self.env.step(action)
        return self.look(observation), reward, terminated, truncated, {}


def metaworld(task: str, size: int, camera: str) -> Any:
    import metaworld  # noqa: F401 - registers

    env = gymnasium.make(
        "Meta-World/MT1", env_name=task, render_mode="rgb_array", camera_name=camera, width=size, height=size
    )
    return Drawn(env, size, repeat=2)


def maniskill(task: str, size: int) -> Any:
    import mani_skill.envs  # noqa: F401 - registers
    import torch
    from mani_skill.utils.wrappers.gymnasium import CPUGymWrapper

    torch.set_num_threads(1)
    return CPUGymWrapper(
        gymnasium.make(
            task, obs_mode="rgb", sim_backend="cpu", render_backend="cpu", control_mode="pd_ee_delta_pose",
            sensor_configs={"width": size, "height": size},
        )
    )  # fmt: skip


def mapped(suite: str, task: str, size: int, key: Sequence[str], kwargs: dict[str, Any]) -> Any:
    from regrip.sim.gym.tasks import load

    found = load(suite)
    for module in found.modules:
        __import__(module)
    return Drawn(gymnasium.make(found.tasks[task].id, **kwargs), size, key)


MAKERS: dict[str, Callable[..., Any]] = {
    "tabletop": Tabletop, "metaworld": metaworld, "maniskill": maniskill, "mapped": mapped
}  # fmt: skip
