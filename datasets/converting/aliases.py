"""Names that LeRobot-like sets use for what is called otherwise here.

Readers keep the source's names; the mapping proposes these, where the user sees and can change them.
"""

from __future__ import annotations

from collections.abc import Iterable

# What openpi's conversions, LeRobot before v2 and some hub sets call it: what it is called here.
ALIASES = {
    "image": "observation.images.image",
    "wrist_image": "observation.images.wrist_image",
    "observation.image": "observation.images.image",
    "observation.wrist_image": "observation.images.wrist_image",
    "base_0_rgb": "observation.images.base_0_rgb",
    "left_wrist_0_rgb": "observation.images.left_wrist_0_rgb",
    "right_wrist_0_rgb": "observation.images.right_wrist_0_rgb",
    "exterior_image_1_left": "observation.images.exterior_image_1_left",
    "exterior_image_2_left": "observation.images.exterior_image_2_left",
    "wrist_image_left": "observation.images.wrist_image_left",
    "state": "observation.state",
    "actions": "action",
    "img": "observation.images.image",  # diffusion_policy's PushT
    "next.reward": "reward",
    "next.success": "success",
}


def renames(keys: Iterable[str]) -> dict[str, str]:
    """For those keys that have an alias whose name is still free: key to name."""
    keys = list(keys)
    taken = set(keys)
    found = {}
    for key in keys:
        name = ALIASES.get(key)
        if name is not None and name not in taken:
            found[key] = name
            taken.add(name)
    return found
