"""A Panda-like arm at a table: suites of language-named tasks, scripted experts, the MuJoCo environment."""

import os

# Read when mujoco is first imported, so they must be set here, before any module of the package does that.
# EGL needs no display; llvmpipe's own threads only get in the way of worker processes (two of them drew 2,436
# frames/s with these off, 1,149 with two each).
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "0")
