"""Worlds learnt from recorded episodes, behind the same `VectorEnv` as every simulator."""
