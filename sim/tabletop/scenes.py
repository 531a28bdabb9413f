"""One MJCF text for each suite: the arm, a table, lights, cameras, and the suite's objects.

Every task of a suite shares the text, so one compiled model and one renderer serve them all and a reset only
writes joint positions.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from . import props
from .props import Prop

PANDA = Path(__file__).parent.parent / "assets" / "panda.xml"

TIMESTEP_S = 0.005
"""5 ms: with stiff but heavily damped position loops and slow contacts (solref 10 ms = 2 steps) the experts
do as well as at 2 ms, and 10 physics steps in a control step instead of 25 halve the cost of an episode."""
CONTROL_RATE_HZ = 20.0
SUBSTEPS = round(1 / (CONTROL_RATE_HZ * TIMESTEP_S))

HOME_JOINTS = (0.0, -0.16712, 0.0, -2.50741, 0.0, 2.34029, 0.7854)
"""Radians; fingers straight down at (0.45, 0, 0.24) m."""
FINGER_MAX_M = 0.04

NARROW_FRONT = 'pos="1.13 0 0.62" xyaxes="0 1 0 -0.636 0 0.772" fovy="34"'
"""The third-person camera for a workspace 40 cm wide."""
WIDE_FRONT = 'pos="1.14 0 0.64" xyaxes="0 1 0 -0.65 0 0.76" fovy="43"'
"""The same for 60 cm."""


@dataclass(frozen=True)
class Scene:
    """The objects of a suite and the MJCF that holds them.

    Attributes:
        things: in the order of their bodies.
        front_camera: position, axes and field of view of the camera ``front``.
        assets: an ``<asset>`` element more, or nothing.
        table_material: of the table, from `assets`; nothing leaves it plain.
    """

    things: tuple[Prop, ...]
    front_camera: str
    assets: str = ""
    table_material: str = ""

    def prop(self, name: str) -> Prop:
        return next(prop for prop in self.things if prop.name == name)

    @property
    def joints(self) -> tuple[str, ...]:
        """All articulated joints, in order."""
        return tuple(joint for prop in self.things for joint in prop.joints)

    @property
    def travel_z_m(self) -> float:
        """Height at which the finger tips pass over everything that stands on the table."""
        return max(prop.height for prop in self.things) + 0.04

    @property
    def mjcf(self) -> str:
        panda = ElementTree.fromstring(PANDA.read_text())
        base = ElementTree.fromstring(_BASE.replace("FRONT_CAMERA", self.front_camera))
        for tag in ("default", "actuator"):
            base.append(_child(panda, tag))
        if self.assets:
            base.append(ElementTree.fromstring(self.assets))
        worldbody = _child(base, "worldbody")
        if self.table_material:
            table = next(geom for geom in worldbody.iter("geom") if geom.get("name") == "table")
            table.set("material", self.table_material)
            table.set("rgba", "1 1 1 1")
        worldbody.extend(_child(panda, "worldbody"))
        worldbody.extend(ElementTree.fromstring(prop.xml) for prop in self.things)
        return ElementTree.tostring(base, encoding="unicode")


def _child(element: ElementTree.Element, tag: str) -> ElementTree.Element:
    found = element.find(tag)
    assert found is not None, f"no <{tag}> in {element.tag}"
    return found


# MuJoCo 4.0.0's sparse Newton solver takes a wrong Hessian factor when nv >= 60 ("auto" then turns sparse),
# hence jacobian="dense" (google-deepmind/mujoco issue 3767, mended in 4.0.1).
# The table's priority: finger tips slide on it as everything else does; with their own grip they would stub.
# <quality>: without multisampling, with coarse round shapes and flat boxes, software rendering is 12-30 times
# faster than with the defaults.
_BASE = f"""
<mujoco model="tabletop">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP_S}" integrator="implicitfast" cone="elliptic" impratio="10"
    jacobian="dense"/>
  <visual>
    <headlight ambient="0.45 0.45 0.45" diffuse="0.25 0.25 0.25" specular="0 0 0"/>
    <quality offsamples="0" shadowsize="0" numslices="10" numstacks="6" numquads="1"/>
    <map znear="0.02" zfar="10"/>
  </visual>
  <asset>
    <texture type="skybox" builtin="flat" rgb1="0.80 0.86 0.92" width="16" height="96"/>
  </asset>
  <worldbody>
    <light name="sun" directional="true" pos="0.6 0.4 2" dir="-0.25 -0.3 -1" diffuse="0.45 0.45 0.45"
      specular="0 0 0" castshadow="false"/>
    <camera name="front" FRONT_CAMERA/>
    <geom name="table" type="plane" size="0.55 0.55 0.1" pos="0.4 0 0" rgba="0.87 0.83 0.76 1" contype="1"
      conaffinity="0" priority="1" friction="0.5 0.01 0.0001" solref="0.01 1" solimp="0.9 0.95 0.001"/>
  </worldbody>
</mujoco>
"""


def demo() -> Scene:
    """Three blocks and two buttons."""
    return Scene(
        (
            props.button("yellow_button", props.YELLOW),
            props.button("purple_button", props.PURPLE),
            props.brick("red_block", props.RED, (0.025, 0.025, 0.025)),
            props.brick("green_block", props.GREEN, (0.025, 0.025, 0.025)),
            props.brick("blue_block", props.BLUE, (0.025, 0.025, 0.025)),
        ),
        NARROW_FRONT,
    )


def spatial() -> Scene:
    """Two bowls that look the same, and landmarks to tell them apart by."""
    return Scene(
        (
            props.plate("plate", props.WHITE, loose=False),
            props.pedestal("wooden_box", props.WOOD),
            props.mat("blue_mat", props.BLUE),
            props.bowl("bowl", props.ORANGE),
            props.bowl("other_bowl", props.ORANGE),
            props.brick("red_block", props.RED, (0.022, 0.022, 0.022)),
            props.can("green_can", props.GREEN),
        ),
        WIDE_FRONT,
    )


def objects() -> Scene:
    """Five different objects and two containers."""
    return Scene(
        (
            props.bin_("basket", props.WOOD, half=(0.075, 0.075), depth=0.05),
            props.bin_("tray", props.GREY, half=(0.075, 0.075), depth=0.022),
            props.brick("red_block", props.RED, (0.024, 0.024, 0.024)),
            props.can("green_can", props.GREEN),
            props.brick("yellow_box", props.YELLOW, (0.035, 0.021, 0.017)),
            props.mug("blue_mug", props.BLUE),
            props.brick("white_carton", props.WHITE, (0.022, 0.022, 0.042)),
        ),
        WIDE_FRONT,
    )


def kitchen() -> Scene:
    """A cabinet with a drawer, a stove with a knob, a bowl, a plate and two blocks."""
    return Scene(
        (
            props.cabinet("cabinet", props.WOOD),
            props.stove("stove", props.GREY),
            props.bowl("bowl", props.ORANGE),
            props.plate("plate", props.WHITE, loose=True),
            props.brick("red_block", props.RED, (0.02, 0.02, 0.02)),
            props.brick("blue_block", props.BLUE, (0.02, 0.02, 0.02)),
        ),
        WIDE_FRONT,
    )
