"""What other sets call the streams that we name as LeRobot does; applied in a mapping alone, in sight."""

from __future__ import annotations

ALIASES: dict[str, str] = {
    # openpi's own conversions of LIBERO and DROID
    "image": "observation.images.image",
    "wrist_image": "observation.images.wrist",
    "state": "observation.state",
    "actions": "action",
    "exterior_image_1_left": "observation.images.exterior_1",
    "exterior_image_2_left": "observation.images.exterior_2",
    "wrist_image_left": "observation.images.wrist",
    # LeRobot's singular form, and its names of what follows a step
    "observation.image": "observation.images.image",
    "next.reward": "reward",
    "next.success": "success",
    # diffusion_policy's PushT
    "img": "observation.images.image",
}
