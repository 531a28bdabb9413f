"""A policy behind a server, as the node asks it: `Request` in, actions out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.frames import encode_jpeg
from ...datasets.spec import RobotSpec
from ..messages import PolicyError, Request
from .client import Client, ServerError


class PolicyClient:
    """Fits `messages.Policy`.

    Args:
        client: connected.
        spec: of the robot that the node drives; the server's must be the same, if it says its own.
        jpeg_quality: send images as JPEG of this quality (1 to 100), for a slow network; 0 sends pixels.

    Raises:
        SpecMismatchError: the policy is of another robot.
        PolicyError: the server says of itself what nobody can read.
    """

    def __init__(self, client: Client, spec: RobotSpec, *, jpeg_quality: int = 0) -> None:
        if not 0 <= jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality is {jpeg_quality}, expected 0 (pixels) to 100")
        self.client, self.spec, self.jpeg_quality = client, spec, jpeg_quality
        self.version = ""
        self.warnings: tuple[str, ...] = ()
        self._told: dict[str, Any] = {}
        self._check()

    def answer(self, request: Request) -> NDArray[np.float32]:
        """(H,A) actions.

        Raises:
            PolicyError: no answer in time, or a refusal, in words.
        """
        observation = self._message(request)
        try:
            reply = self.client.infer(observation)
        except ServerError as error:
            raise PolicyError(str(error)) from error
        if self.client.metadata is not self._told:  # another server, perhaps, since it was lost
            self._check()
        actions = reply.get("actions")
        if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.dtype.kind != "f":
            raise PolicyError(f"{self.client.url} answered without actions: {', '.join(map(str, reply))}")
        self.version = str(reply.get("version", ""))
        self.warnings = tuple(str(warning) for warning in reply.get("warnings", ()))
        return actions.astype(np.float32)

    def _message(self, request: Request) -> dict[str, Any]:
        observation = request.observation
        message: dict[str, Any] = {"prompt": observation.instruction[0]}
        for camera, images in observation.images.items():
            image = images[0]
            message[f"observation/{camera}"] = (
                encode_jpeg(image, self.jpeg_quality) if self.jpeg_quality and self.client.extended else image
            )
        message["observation/state"] = observation.state[0]
        if not self.client.extended:
            return message
        message["__episode__"] = request.episode
        message["__t_obs__"] = int(request.stamp * 1e9)
        message["__step__"] = request.step
        if len(request.prefix) and self.client.metadata.get("supports", {}).get("rtc"):
            message["__prefix__"] = {"actions": request.prefix, "frozen": request.frozen}
        return message

    def _check(self) -> None:
        """The server must mean the same by an action as we do.

        Raises:
            SpecMismatchError: it does not.
        """
        self._told = self.client.metadata
        if not self.client.extended:
            return  # openpi's own server does not say
        try:
            theirs = RobotSpec.from_json(self._told["robot"])
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"{self.client.url} describes no robot that we know: {error}") from error
        self.spec.require_match(theirs, "the robot", f"the policy at {self.client.url}")
