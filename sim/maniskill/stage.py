"""One of ManiSkill's tasks in this process. The only module that imports the package.

The scene is built anew for each episode. After the package's plain reset something of
earlier episodes is left: of 9 repeated episodes of PlugCharger 8 differed, of PushT 6, of PickCube one.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
from typing import Any, Literal

import gymnasium
import mani_skill.envs  # pyright: ignore[reportMissingImports] # noqa: F401 - registers the tasks
import numpy as np
import sapien  # pyright: ignore[reportMissingImports]
import torch
from mani_skill.utils.structs import Pose  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray

from ..explosion import exploded
from ..look import Look
from .dress import FURNITURE, dress, places
from .meshes import lighten

Render = Literal["fast", "stock"]

torch.set_num_threads(1)
_NO_DEVICE = ("vk::", "vulkan", "failed to find", "rendering device", "physical device")


class RenderError(RuntimeError):
    """No Vulkan device on this machine that SAPIEN takes."""


@functools.cache
def _renderer() -> Any:
    """Keeps SAPIEN's look-up tables (7 s of a core) and meshes when the last scene goes."""
    system = sapien.render.RenderSystem(sapien.Device("cpu"))
    # The package collects garbage each time it clears a scene, and would look at all that was loaded: without
    # that a reset takes 0.07 s of CPU, with it half a second.
    gc.collect()
    gc.freeze()
    return system


class Stage:
    """A task's simulator.

    Attributes:
        env: the package's environment without its wrappers.
        steps: the package's control steps since the reset.
    """

    def __init__(self, task: str, control_mode: str, image_size: int, render: Render) -> None:
        """Build the task; the package's observation stays empty, pictures are taken when asked for.

        Raises:
            RenderError: if there is no Vulkan device for SAPIEN; it wants one even without pictures.
        """
        self._fast = render == "fast"
        try:
            _renderer()
            env: Any = gymnasium.make(
                f"{task}-v1",
                obs_mode="none",
                reward_mode="none",
                control_mode=control_mode,
                sim_backend="cpu",
                render_backend="cpu",
                sensor_configs={"width": image_size, "height": image_size},
            )
        except RuntimeError as error:
            if not any(sign in str(error).lower() for sign in _NO_DEVICE):
                raise
            raise RenderError(
                f"SAPIEN finds no Vulkan device that it takes: {error}\n"
                "It needs Mesa's lavapipe 24.3 or later, and Debian 12 has 22.3.6: `make maniskill` puts "
                "25.0.7 from Debian's backports beside the interpreter, where the workers find it. Elsewhere "
                "install mesa-vulkan-drivers 24.3 or later, or set VK_ICD_FILENAMES to its lvp_icd.json"
            ) from error
        self.env: Any = env.unwrapped

    def reset(
        self,
        seed: int,
        look: Look,
        aside: NDArray[np.float64] | None = None,
        shift: NDArray[np.float64] | None = None,
        way: tuple[str, ...] = (),
    ) -> None:
        """Begin the package's episode of this seed; it depends on nothing that was played before.

        Args:
            seed: of the package.
            look: how its pictures shall differ from the package's.
            aside: (7,) rad from where the arm's joints would start.
            shift: (2,) metres by which everything that the package has placed is moved over the table.
            way: actors between which, and the hand, no distractor stands.
        """
        self.env.reset(seed=seed, options={"reconfigure": True})
        if aside is not None:
            joints = self.env.agent.robot.get_qpos().clone()
            joints[0, :7] += torch.as_tensor(aside, dtype=joints.dtype)
            self.env.agent.robot.set_qpos(joints)
            self.env.agent.controller.reset()  # its targets are where the arm is
        if shift is not None:
            self._shift(shift)
        if look.kind == "distractors":
            points = np.concatenate([self.tcp()[None, :3], self.poses(way)[:, :3]]).astype(np.float64)
            look = dataclasses.replace(look, places=places(self.env, look.start, points))
        dress(self.env, look)
        if self._fast:
            for scene in self.env.scene.sub_scenes:
                lighten(scene)

    def _shift(self, shift: NDArray[np.float64]) -> None:
        for name, actor in self.env.scene.state_dict_registry.actors.items():
            if name not in FURNITURE:
                pose = actor.pose.raw_pose.clone()
                pose[:, :2] += torch.as_tensor(shift, dtype=pose.dtype)
                actor.set_pose(Pose.create(pose))

    def step(self, action: NDArray[np.float32]) -> bool:
        """One control step with an action in the package's units; True when the package says success."""
        info = self.env.step(action)[-1]
        return bool(info["success"].item())

    @property
    def exploded(self) -> bool:
        """Whether the physics has broken down: of the arm, or of any actor."""
        robot = self.env.agent.robot
        actors = [actor.pose.raw_pose for actor in self.env.scene.state_dict_registry.actors.values()]
        places = torch.cat([robot.get_qpos().flatten(), *(pose.flatten() for pose in actors)])
        return bool(exploded(places.cpu().numpy(), robot.get_qvel().flatten().cpu().numpy()))

    def joints(self) -> NDArray[np.float32]:
        """Positions of all joints: seven of the arm (rad), then those of the fingers (m)."""
        return self._array(self.env.agent.robot.get_qpos())

    def base(self) -> NDArray[np.float32]:
        """(7,) pose of the robot's base in the package's world: x, y, z (m), quaternion w, x, y, z."""
        return self._array(self.env.agent.robot.pose.raw_pose)

    def tcp(self) -> NDArray[np.float32]:
        """(7,) pose of the tool centre point in the package's world."""
        return self._array(self.env.agent.tcp.pose.raw_pose)

    def poses(self, actors: tuple[str, ...]) -> NDArray[np.float32]:
        """(len(actors),7) their poses in the package's world."""
        states = self.env.scene.state_dict_registry.actors
        return np.stack([self._array(states[name].pose.raw_pose) for name in actors])

    def render(self, camera: str) -> NDArray[np.uint8]:
        """One frame (H,W,3), oriented as in the package's observations."""
        self.env.scene.update_render(update_sensors=True, update_human_render_cameras=False)
        sensor = self.env.scene.sensors[camera]
        sensor.capture()
        data = sensor.get_obs(
            rgb=True, depth=False, position=False, segmentation=False, normal=False, albedo=False
        )
        frame: NDArray[np.uint8] = data["rgb"][0].cpu().numpy()
        return frame

    def close(self) -> None:
        self.env.close()

    @staticmethod
    def _array(batch: torch.Tensor) -> NDArray[np.float32]:
        row: NDArray[np.float32] = batch[0].cpu().numpy().astype(np.float32)
        return row
