"""Before torch is imported: one thread. Two that wait for each other are many times slower on busy cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
