"""Makes the environments beside the tests importable, here and (with our sys.path) in the workers."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
os.environ.setdefault("MUJOCO_GL", "egl")  # before anything imports mujoco
