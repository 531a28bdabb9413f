"""Gymnasium environments: the mapping is read anywhere, the environment made in its worker interpreter."""

import os

# Read when mujoco is first imported. EGL needs no display; llvmpipe's threads only get in the workers' way.
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "0")
