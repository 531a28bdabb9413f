# pyright does not see what mujoco takes from its compiled part; mypy is told the same in pyproject.toml.
from typing import Any

def __getattr__(name: str) -> Any: ...
