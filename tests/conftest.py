"""Before torch is imported: one thread. On a busy machine two that wait for each other are many times slower."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
