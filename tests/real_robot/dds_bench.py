"""A network namespace with nothing in it but lo, processes that end, and the simulated robot over DDS."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO

import pytest
from scenario import Bench

from regrip.launch.sim_robot import ORDERS, TRUTH
from regrip.real_robot.dds import DdsConfig, Participant
from regrip.real_robot.topics import CONTROL

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


@contextlib.contextmanager
def loopback_namespace() -> Iterator[None]:
    """This thread, and all threads and processes that it starts, can reach nothing but this machine.

    Skips the test where the kernel refuses (it wants CAP_SYS_ADMIN).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(_NEW_NETWORK) != 0:
            why = os.strerror(ctypes.get_errno())
            pytest.skip(f"needs a network namespace of its own, and the kernel says: {why} (run it as root)")
        try:
            for change in (
                "ip link set lo up",
                "ip link set lo multicast on",
                "ip route add 224.0.0.0/4 dev lo",
            ):
                try:
                    subprocess.run(change.split(), check=True, timeout=10)
                except FileNotFoundError:
                    pytest.skip("needs ip: apt-get install iproute2")
            yield
        finally:
            assert libc.setns(home, _NEW_NETWORK) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(home)


@contextlib.contextmanager
def process(
    *command: str, stdin: IO[str] | None = None, stdout: IO[str] | None = None, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """A child that is ended when the block is left, however."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    child = subprocess.Popen(command, stdin=stdin, stdout=stdout, text=True, env=environment)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def sim_robot(*options: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return process(sys.executable, "-m", "regrip.launch.robot_dds", *options)


def until(true: Callable[[], object], seconds: float = 20.0) -> bool:
    """Whether it becomes true."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(true())


@contextlib.contextmanager
def bench(config: DdsConfig) -> Iterator[Bench]:
    """Orders to the robot's process, by a participant of its own."""
    participant = Participant("bench", config)
    try:
        orders = participant.advertise(ORDERS, "std_msgs/String", CONTROL)
        found = Bench(lambda text: orders.publish(participant.make("std_msgs/String", data=text)))
        participant.listen(TRUTH, "std_msgs/String", CONTROL, lambda message: found.hear(message.data))
        participant.start()
        assert until(lambda: found.truth.names and orders.matched), "the robot's process is not there"
        yield found
    finally:
        participant.close()
