"""Things that can stand on the table, as MJCF bodies with what layouts, goals and experts must know of them.

Geoms are few and are primitives: software rendering is bound by vertices, and physics by resting contacts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

RED, GREEN, BLUE = "0.86 0.10 0.12 1", "0.13 0.65 0.20 1", "0.12 0.30 0.90 1"
YELLOW, PURPLE, WHITE = "0.98 0.80 0.10 1", "0.65 0.20 0.75 1", "0.97 0.97 0.99 1"
ORANGE, BLACK, GREY, WOOD = "0.97 0.52 0.10 1", "0.13 0.13 0.16 1", "0.48 0.52 0.58 1", "0.62 0.42 0.24 1"

# Collision bits as in panda.xml: 1 world and fixtures, 2 loose objects, 4 robot. Fixtures collide neither
# with the table nor with each other, so they cost no resting contacts.
_CONTACT = 'condim="3" friction="0.5 0.01 0.0001" solref="0.01 1" solimp="0.9 0.95 0.001"'
_LOOSE = f'contype="2" conaffinity="7" {_CONTACT}'
_FIXTURE = f'contype="1" conaffinity="0" {_CONTACT}'
# MuJoCo finds one contact, and a wandering one, between a cylinder and a box, so a round object squirts out
# of the fingers; a capsule and a box get an exact line. So the fingers meet an invisible capsule in it.
_ROUND = f'contype="2" conaffinity="3" {_CONTACT}'
_ROUND_GRIP = f'contype="0" conaffinity="4" {_CONTACT} rgba="0 0 0 0"'
_PAINT = 'contype="0" conaffinity="0"'


@dataclass(frozen=True)
class Grasp:
    """How a downward gripper takes hold of an object.

    Attributes:
        height: of the tool centre point above the body's origin, metres.
        period: the yaw after which the object can be taken the same way again; 0 if any yaw will do.
        rim: distance of the grasp from the body's axis; 0 takes it across the middle.
    """

    height: float
    period: float
    rim: float = 0.0


@dataclass(frozen=True)
class Prop:
    """A thing on the table.

    Attributes:
        name: of its body.
        xml: the body element.
        rest_height: z of the body's origin when it stands on the table, metres.
        height: of its top over the table, metres.
        radius: of the circle around its footprint, metres.
        loose: true with a free joint; a fixture stands on two stiff rails ``<name>/x`` and ``<name>/y``,
            which lets a reset place it without changing the model.
        joints: its articulated joints.
        grasp: how to pick it up, if it can be.
        surface: z of the upper side that other things can stand on, over the body's origin, metres.
        inner: half lengths in x and y of that surface.
    """

    name: str
    xml: str
    rest_height: float
    height: float
    radius: float
    loose: bool
    joints: tuple[str, ...] = ()
    grasp: Grasp | None = None
    surface: float = 0.0
    inner: tuple[float, float] = (0.0, 0.0)


def _shade(rgba: str, factor: float) -> str:
    """A darker or lighter version of a colour."""
    return " ".join(f"{min(1.0, factor * float(value)):.3g}" for value in rgba.split()[:3]) + " 1"


def _free(name: str, z: float, mass: float, inertia: tuple[float, float, float], geoms: str) -> str:
    diagonal = " ".join(f"{value:.4g}" for value in inertia)
    return f"""
    <body name="{name}" pos="0 0 {z}">
      <freejoint name="{name}"/>
      <inertial pos="0 0 0" mass="{mass:.4g}" diaginertia="{diagonal}"/>
      {geoms}
    </body>"""


def _fixed(name: str, inside: str) -> str:
    """A body on two rails so heavy and so damped that touching it does not move it."""
    rail = 'type="slide" armature="1" damping="4000"'
    return f"""
    <body name="{name}" pos="0 0 0">
      <inertial pos="0 0 0.01" mass="2" diaginertia="0.01 0.01 0.01"/>
      <joint name="{name}/x" axis="1 0 0" {rail}/>
      <joint name="{name}/y" axis="0 1 0" {rail}/>
      {inside}
    </body>"""


def _box(half: tuple[float, float, float], pos: tuple[float, float, float], rgba: str, kind: str) -> str:
    size = " ".join(f"{value:.5g}" for value in half)
    at = " ".join(f"{value:.5g}" for value in pos)
    return f'<geom type="box" size="{size}" pos="{at}" rgba="{rgba}" {kind}/>'


def brick(name: str, rgba: str, half: tuple[float, float, float], density: float = 400.0) -> Prop:
    """A box; the gripper takes it across its shorter horizontal side."""
    a, b, c = (2 * value for value in half)
    mass = density * a * b * c
    inertia = (mass * (b * b + c * c) / 12, mass * (a * a + c * c) / 12, mass * (a * a + b * b) / 12)
    xml = _free(name, half[2], mass, inertia, _box(half, (0, 0, 0), rgba, _LOOSE))
    period = math.pi / 2 if half[0] == half[1] else math.pi
    grasp = Grasp(height=max(0.0, half[2] - 0.03), period=period)
    return Prop(name, xml, half[2], c, math.hypot(half[0], half[1]), loose=True, grasp=grasp)


def _round(radius: float, half_height: float, rgba: str) -> str:
    return (
        f'<geom type="cylinder" size="{radius} {half_height}" rgba="{rgba}" {_ROUND}/>'
        f'<geom type="capsule" size="{radius} {0.6 * half_height:.5g}" {_ROUND_GRIP}/>'
    )


def can(name: str, rgba: str, radius: float = 0.026, half_height: float = 0.038, mass: float = 0.08) -> Prop:
    """An upright cylinder."""
    across = mass * (3 * radius**2 + (2 * half_height) ** 2) / 12
    body = _round(radius, half_height, rgba)
    xml = _free(name, half_height, mass, (across, across, mass * radius**2 / 2), body)
    grasp = Grasp(height=max(0.0, half_height - 0.03), period=0.0)
    return Prop(name, xml, half_height, 2 * half_height, radius, loose=True, grasp=grasp)


def mug(name: str, rgba: str) -> Prop:
    """A short cylinder with a dark inside and a handle along its x axis."""
    radius, half_height, mass = 0.028, 0.03, 0.08
    geoms = "".join(
        (
            _round(radius, half_height, rgba),
            f'<geom type="cylinder" size="{radius - 0.006} 0.001" pos="0 0 {half_height}" '
            f'rgba="{BLACK}" {_PAINT}/>',
            _box((0.01, 0.005, 0.018), (radius + 0.008, 0, 0), rgba, _LOOSE),
        )
    )
    across = mass * (3 * radius**2 + (2 * half_height) ** 2) / 12
    xml = _free(name, half_height, mass, (across, across, mass * radius**2 / 2), geoms)
    # Fingers close along y, beside the handle.
    grasp = Grasp(height=0.002, period=math.pi)
    return Prop(name, xml, half_height, 2 * half_height, 0.04, loose=True, grasp=grasp)


def bowl(name: str, rgba: str) -> Prop:
    """An octagonal bowl, origin at the middle of its underside; taken by the rim."""
    radius, depth, thick = 0.048, 0.036, 0.004
    side = (radius + thick) * math.tan(math.pi / 8)
    walls = []
    for k in range(8):
        angle = k * math.pi / 4
        x, y = radius * math.cos(angle), radius * math.sin(angle)
        walls.append(
            f'<geom type="box" size="{thick} {side:.5g} {depth / 2}" '
            f'pos="{x:.5g} {y:.5g} {depth / 2 + 0.004}" euler="0 0 {angle:.6g}" rgba="{rgba}" {_LOOSE}/>'
        )
    base = _box((0.033, 0.033, 0.004), (0, 0, 0.004), rgba, _LOOSE)
    base += (
        f'<geom type="cylinder" size="{radius - 0.002} 0.004" pos="0 0 0.0048" '
        f'rgba="{_shade(rgba, 0.7)}" {_PAINT}/>'
    )
    mass = 0.06
    xml = _free(name, 0.0, mass, (7e-5, 7e-5, 1e-4), base + "".join(walls))
    return Prop(
        name,
        xml,
        0.0,
        depth + 0.008,
        radius + thick,
        loose=True,
        grasp=Grasp(height=depth - 0.004, period=math.pi / 4, rim=radius),
        surface=0.008,
        inner=(0.034, 0.034),
    )


def plate(name: str, rgba: str, *, loose: bool) -> Prop:
    """A flat square dish, origin at the middle of its underside."""
    half, half_height = 0.055, 0.006
    kind = _LOOSE if loose else _FIXTURE
    geoms = _box((half, half, half_height), (0, 0, half_height), rgba, kind)
    geoms += _box((half - 0.014, half - 0.014, 0.0005), (0, 0, 2 * half_height), "0.70 0.80 0.92 1", _PAINT)
    xml = _free(name, 0.0, 0.15, (2e-4, 2e-4, 4e-4), geoms) if loose else _fixed(name, geoms)
    height = 2 * half_height
    radius = half * math.sqrt(2)
    return Prop(name, xml, 0.0, height, radius, loose=loose, surface=height, inner=(0.045, 0.045))


def button(name: str, rgba: str) -> Prop:
    """A push button in a dark box; joint ``<name>/press`` goes from 0 to -0.015 m against a spring."""
    xml = _fixed(
        name,
        f"""
      {_box((0.04, 0.04, 0.012), (0, 0, 0.012), "0.30 0.31 0.36 1", _FIXTURE)}
      <body name="{name}/cap" pos="0 0 0.024">
        <inertial pos="0 0 0.01" mass="0.02" diaginertia="5e-6 5e-6 5e-6"/>
        <joint name="{name}/press" type="slide" axis="0 0 1" range="-0.015 0" stiffness="400" damping="4"
          armature="0.05"/>
        <geom type="cylinder" size="0.027 0.011" pos="0 0 0.011" rgba="{rgba}" {_FIXTURE}/>
      </body>""",
    )
    return Prop(name, xml, 0.0, 0.046, 0.057, loose=False, joints=(f"{name}/press",))


def pedestal(name: str, rgba: str) -> Prop:
    """A low box to stand things on."""
    half, height = 0.06, 0.05
    xml = _fixed(name, _box((half, half, height / 2), (0, 0, height / 2), rgba, _FIXTURE))
    return Prop(name, xml, 0.0, height, 0.085, loose=False, surface=height, inner=(0.05, 0.05))


def mat(name: str, rgba: str) -> Prop:
    """A thin square on the table."""
    half, height = 0.07, 0.004
    xml = _fixed(name, _box((half, half, height / 2), (0, 0, height / 2), rgba, _FIXTURE))
    return Prop(name, xml, 0.0, height, 0.095, loose=False, surface=height, inner=(0.06, 0.06))


def bin_(name: str, rgba: str, half: tuple[float, float], depth: float) -> Prop:
    """An open container; `half` is outside, walls are 8 mm."""
    wall, floor = 0.004, 0.004
    x, y = half
    z = depth / 2 + floor
    light = _shade(rgba, 1.25)
    geoms = "".join(
        (
            _box((x, y, floor / 2), (0, 0, floor / 2), light, _FIXTURE),
            _box((wall, y, depth / 2), (x - wall, 0, z), rgba, _FIXTURE),
            _box((wall, y, depth / 2), (wall - x, 0, z), rgba, _FIXTURE),
            _box((x, wall, depth / 2), (0, y - wall, z), rgba, _FIXTURE),
            _box((x, wall, depth / 2), (0, wall - y, z), rgba, _FIXTURE),
        )
    )
    return Prop(
        name,
        _fixed(name, geoms),
        0.0,
        depth + floor,
        math.hypot(x, y),
        loose=False,
        surface=floor,
        inner=(x - 2 * wall, y - 2 * wall),
    )


# The drawer's body frame is in the middle of its floor; the cabinet's is under the middle of the cabinet.
CABINET_HALF = (0.085, 0.08)
CABINET_HEIGHT = 0.085
DRAWER_OPEN_M = 0.12
DRAWER_INNER = (0.068, 0.058)
DRAWER_FLOOR_Z = 0.014
HANDLE_X, HANDLE_Z = 0.085 + 0.024, 0.045
"""Of the handle's middle, in the drawer's and in the cabinet's frame (the drawer shut)."""


def cabinet(name: str, rgba: str) -> Prop:
    """A low cabinet whose drawer ``<name>/drawer`` slides out along +x; joint ``<name>/slide``, 0 is shut."""
    x, y = CABINET_HALF
    z = CABINET_HEIGHT
    panel = 0.004
    light = "0.80 0.62 0.42 1"
    shell = "".join(
        (
            _box((x, y, panel), (0, 0, z - panel), rgba, _FIXTURE),
            _box((x, panel, z / 2 - panel), (0, y - panel, z / 2 - panel), rgba, _FIXTURE),
            _box((x, panel, z / 2 - panel), (0, panel - y, z / 2 - panel), rgba, _FIXTURE),
            _box((panel, y, z / 2 - panel), (panel - x, 0, z / 2 - panel), rgba, _FIXTURE),
        )
    )
    dx, dy = DRAWER_INNER
    high = 0.03
    drawer = "".join(
        (
            _box((dx, dy, 0.003), (0, 0, DRAWER_FLOOR_Z - 0.003), light, _FIXTURE),
            _box((dx, 0.003, high), (0, dy, 0.012 + high), light, _FIXTURE),
            _box((dx, 0.003, high), (0, -dy, 0.012 + high), light, _FIXTURE),
            _box((0.003, dy, high), (-dx, 0, 0.012 + high), light, _FIXTURE),
            _box((0.005, y - 0.001, 0.036), (x - 0.003, 0, 0.038), light, _FIXTURE),
            _box((0.022, 0.01, 0.014), (HANDLE_X, 0, HANDLE_Z), BLACK, _FIXTURE),
        )
    )
    xml = _fixed(
        name,
        f"""{shell}
      <body name="{name}/drawer" pos="0 0 0">
        <inertial pos="0 0 0.03" mass="0.4" diaginertia="0.001 0.001 0.001"/>
        <joint name="{name}/slide" type="slide" axis="1 0 0" range="0 {DRAWER_OPEN_M + 0.01}" damping="15"
          armature="0.3" frictionloss="0.5"/>
        {drawer}
      </body>""",
    )
    return Prop(
        name,
        xml,
        0.0,
        CABINET_HEIGHT,
        0.117,
        loose=False,
        joints=(f"{name}/slide",),
        surface=CABINET_HEIGHT,
        inner=(0.055, 0.05),
    )


KNOB_X, KNOB_Z = 0.115, 0.032
"""Of the knob's middle, in the stove's frame."""
KNOB_OFF_YAW = -math.pi / 4
"""Heading of the knob's bar at joint position 0 (off); at pi/2 it is on."""


def stove(name: str, rgba: str) -> Prop:
    """A hot plate with a bar-shaped knob on its +x side; joint ``<name>/knob`` from 0 (off) to pi/2 (on)."""
    half, height = 0.08, 0.024
    burner = (
        f'<geom type="cylinder" size="0.055 0.002" pos="0 0 {height}" rgba="0.85 0.35 0.15 1" {_PAINT}/>'
        f'<geom type="cylinder" size="0.030 0.0025" pos="0 0 {height}" rgba="{rgba}" {_PAINT}/>'
    )
    xml = _fixed(
        name,
        f"""{_box((half, half, height / 2), (0, 0, height / 2), rgba, _FIXTURE)}{burner}
      {_box((0.032, 0.032, 0.008), (KNOB_X, 0, 0.008), rgba, _FIXTURE)}
      <body name="{name}/dial" pos="{KNOB_X} 0 0" euler="0 0 {KNOB_OFF_YAW:.6g}">
        <inertial pos="0 0 {KNOB_Z}" mass="0.05" diaginertia="2e-5 2e-5 2e-5"/>
        <joint name="{name}/knob" axis="0 0 1" range="-0.05 {math.pi / 2 + 0.05:.4g}" damping="0.02"
          armature="0.002" frictionloss="0.01"/>
        {_box((0.028, 0.008, 0.016), (0, 0, KNOB_Z), WHITE, _FIXTURE)}
        {_box((0.006, 0.0085, 0.0165), (0.024, 0, KNOB_Z), RED, _PAINT)}
      </body>""",
    )
    return Prop(
        name,
        xml,
        0.0,
        0.048,
        0.115,
        loose=False,
        joints=(f"{name}/knob",),
        surface=height,
        inner=(0.045, 0.045),
    )
