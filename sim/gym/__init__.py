"""Gymnasium environments: what a mapping says here and now, the environment only in its worker interpreter."""

import os

# Read when mujoco is first imported. EGL needs no display; llvmpipe's threads only get in the workers' way.
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "0")
