"""One MJCF text for each suite: the arm, a table, lights, cameras, and the suite's objects.

Every task of a suite shares the text, so one compiled model and one renderer serve them all and a reset only
writes joint positions. Geoms are few and are primitives: software rendering is bound by vertices and physics
by resting contacts.
"""

from __future__ import annotations

import importlib.resources
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass

TIMESTEP_S = 0.005
"""5 ms: with stiff but heavily damped position loops and slow contacts (solref 10 ms = 2 steps) the experts
do as well as at 2 ms, and ten physics steps in a control step instead of 25 make an episode twice as cheap."""
CONTROL_RATE_HZ = 20.0
SUBSTEPS = round(1 / (CONTROL_RATE_HZ * TIMESTEP_S))

HOME_JOINTS = (0.0, -0.16712, 0.0, -2.50741, 0.0, 2.34029, 0.7854)
"""Radians; fingers straight down at (0.45, 0, 0.24) m."""
FINGER_MAX_M = 0.04

RED, GREEN, BLUE = "0.86 0.10 0.12 1", "0.13 0.65 0.20 1", "0.12 0.30 0.90 1"
YELLOW, PURPLE = "0.98 0.80 0.10 1", "0.65 0.20 0.75 1"


@dataclass(frozen=True)
class Prop:
    """A thing on the table.

    Attributes:
        name: of its body.
        xml: the body element.
        rest_height: z of the body's origin when it stands on the table, metres.
        radius: of the circle around its footprint, metres.
        loose: true with a free joint; a fixture stands on two stiff rails ``<name>/x`` and ``<name>/y``,
            which lets a reset place it without changing the model.
        joints: its articulated joints.
    """

    name: str
    xml: str
    rest_height: float
    radius: float
    loose: bool
    joints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """The objects of a suite and the MJCF that holds them."""

    props: tuple[Prop, ...]

    def prop(self, name: str) -> Prop:
        return next(prop for prop in self.props if prop.name == name)

    @property
    def joints(self) -> tuple[str, ...]:
        """All articulated joints, in order."""
        return tuple(joint for prop in self.props for joint in prop.joints)

    @property
    def mjcf(self) -> str:
        panda = ElementTree.fromstring(
            importlib.resources.files(__package__).joinpath("../assets/panda.xml").read_text()
        )
        base = ElementTree.fromstring(_BASE)
        for tag in ("default", "actuator"):
            base.append(_child(panda, tag))
        worldbody = _child(base, "worldbody")
        worldbody.extend(_child(panda, "worldbody"))
        worldbody.extend(ElementTree.fromstring(prop.xml) for prop in self.props)
        return ElementTree.tostring(base, encoding="unicode")


def _child(element: ElementTree.Element, tag: str) -> ElementTree.Element:
    found = element.find(tag)
    assert found is not None, f"no <{tag}> in {element.tag}"
    return found


# MuJoCo 4.0.0's sparse Newton solver takes a wrong Hessian factor when nv >= 60 ("auto" then turns sparse),
# hence jacobian="dense" (google-deepmind/mujoco issue 3767, mended in 4.0.1).
_BASE = f"""
<mujoco model="tabletop">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP_S}" integrator="implicitfast" cone="elliptic" impratio="10" jacobian="dense"/>
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
    <camera name="front" pos="1.13 0 0.62" xyaxes="0 1 0 -0.636 0 0.772" fovy="34"/>
    <geom name="table" type="plane" size="0.55 0.55 0.1" pos="0.4 0 0" rgba="0.87 0.83 0.76 1" contype="1"
      conaffinity="0" friction="0.5 0.01 0.0001"/>
  </worldbody>
</mujoco>
"""


def block(name: str, rgba: str, half_m: float = 0.025, density: float = 400.0) -> Prop:
    """A cube."""
    mass = density * (2 * half_m) ** 3
    inertia = mass * (2 * half_m) ** 2 / 6
    xml = f"""
    <body name="{name}" pos="0 0 {half_m}">
      <freejoint name="{name}"/>
      <inertial pos="0 0 0" mass="{mass:.6g}" diaginertia="{inertia:.6g} {inertia:.6g} {inertia:.6g}"/>
      <geom type="box" size="{half_m} {half_m} {half_m}" rgba="{rgba}" {_LOOSE}/>
    </body>"""
    return Prop(name, xml, half_m, half_m * math.sqrt(2), loose=True)


def button(name: str, rgba: str) -> Prop:
    """A push button in a dark box; joint ``<name>/press`` goes from 0 to -0.015 m against a spring."""
    xml = f"""
    <body name="{name}" pos="0 0 0">
      {_rails(name)}
      <geom type="box" size="0.04 0.04 0.012" pos="0 0 0.012" rgba="0.30 0.31 0.36 1" {_FIXTURE}/>
      <body name="{name}/cap" pos="0 0 0.024">
        <inertial pos="0 0 0.01" mass="0.02" diaginertia="5e-6 5e-6 5e-6"/>
        <joint name="{name}/press" type="slide" axis="0 0 1" range="-0.015 0" stiffness="400" damping="4"
          armature="0.05"/>
        <geom type="cylinder" size="0.027 0.011" pos="0 0 0.011" rgba="{rgba}" {_FIXTURE}/>
      </body>
    </body>"""
    return Prop(name, xml, 0.0, 0.057, loose=False, joints=(f"{name}/press",))


_LOOSE = 'contype="2" conaffinity="7" condim="3" friction="0.5 0.01 0.0001" solref="0.01 1"'
_FIXTURE = 'contype="1" conaffinity="0" condim="3" friction="0.6 0.01 0.0001" solref="0.01 1"'


def _rails(name: str, mass: float = 2.0) -> str:
    """Two rails so heavy and stiffly damped that touching a fixture does not move it."""
    rail = 'type="slide" armature="200" damping="4000"'
    return f"""<inertial pos="0 0 0.01" mass="{mass}" diaginertia="0.01 0.01 0.01"/>
      <joint name="{name}/x" axis="1 0 0" {rail}/>
      <joint name="{name}/y" axis="0 1 0" {rail}/>"""


def demo() -> Scene:
    blocks: Sequence[Prop] = [block("red_block", RED), block("green_block", GREEN), block("blue_block", BLUE)]
    return Scene((button("yellow_button", YELLOW), button("purple_button", PURPLE), *blocks))
