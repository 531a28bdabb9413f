"""LIBERO's tasks: names and sentences here and now, the simulator only in its own worker interpreter."""

import os

# Read when mujoco is first imported. EGL needs no display; llvmpipe's threads only get in the workers' way.
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "0")
