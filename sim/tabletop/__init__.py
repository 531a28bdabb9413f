"""A Panda-like arm at a table: suites of language-named tasks, scripted experts, the MuJoCo environment."""

import os

# Read when mujoco is first imported, so they must be set here, before any module of the package does that. EGL
# needs no display; llvmpipe's own threads only get in the way of worker processes (2,436 against 1,149 frames/s).
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "0")
