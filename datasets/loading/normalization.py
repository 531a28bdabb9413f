"""Scaling of states and actions as other stacks do it, by name, because checkpoints were trained with it.

=======================  ==========================================================  =====  ===============
scheme                   forward                                                     clip   constant entry
=======================  ==========================================================  =====  ===============
lerobot_mean_std         (x - mean) / (std + 1e-8)                                   no     0
lerobot_min_max          2 (x - min) / range - 1, range 1e-8 where it is 0           no     -1
lerobot_quantiles        the same with q01 and q99                                   no     -1
lerobot_quantile10       the same with q10 and q90                                   no     -1
openpi_z_score           (x - mean) / (std + 1e-6)                                   no     0
openpi_quantile          (x - q01) / (q99 - q01 + 1e-6) 2 - 1                        no     -1
openvla_bounds_q99       2 (x - q01) / (q99 - q01 + 1e-8) - 1 where masked           yes    0
oft_min_max              2 (x - min) / (max - min + 1e-8) - 1 where masked           yes    0
diffusion_policy_limits  scale x + offset, onto [-1, 1]; only shifted below 1e-7     no     0
diffusion_policy_fit     the same, only shifted below 1e-4                           no     0
=======================  ==========================================================  =====  ===============

The inverses are theirs too, with their flaws: `lerobot_mean_std` and `openvla_bounds_q99` leave the epsilon
out on the way back, what was clipped stays clipped, and a constant entry that the mask excludes comes back 0.
`diffusion_policy_limits` is its `get_range_normalizer_from_stat`, `diffusion_policy_fit` its
`LinearNormalizer.fit`.
Arithmetic is in the type of what is scaled (float32 as in those stacks), so numpy and torch agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError
from ..recording import Contents

SchemeName = Literal[
    "lerobot_mean_std", "lerobot_min_max", "lerobot_quantiles", "lerobot_quantile10", "openpi_z_score",
    "openpi_quantile", "openvla_bounds_q99", "oft_min_max", "diffusion_policy_limits", "diffusion_policy_fit",
]  # fmt: skip
SCHEMES: tuple[SchemeName, ...] = get_args(SchemeName)

ArrayT = TypeVar("ArrayT")  # a numpy array or a torch tensor


class Statistics(Protocol):
    """What a scheme is made from: `exact_statistics.StreamStatistics`, or another set's own, as they come."""

    def of(self, name: str) -> NDArray[np.float64]:
        """``mean``, ``std``, ``min``, ``max``, ``q01``, ... of every entry."""
        ...


@dataclass(frozen=True)
class _Scheme:
    """The statistics `low` and `high` become -1 and 1; mean and deviation are called so too.

    Attributes:
        eps: added to the range (``add``), instead of it where it is 0 (``zero``), or the range below which an
            entry is only shifted (``shift``).
        eps_back: whether the inverse adds it too.
        bounded: clip to [-1, 1], honour the mask, and give 0 for constant entries.
    """

    low: str
    high: str
    eps: float
    how: Literal["add", "zero", "shift"] = "add"
    eps_back: bool = True
    bounded: bool = False


_SCHEMES: dict[SchemeName, _Scheme] = {
    "lerobot_mean_std": _Scheme("mean", "std", 1e-8, eps_back=False),
    "lerobot_min_max": _Scheme("min", "max", 1e-8, "zero"),
    "lerobot_quantiles": _Scheme("q01", "q99", 1e-8, "zero"),
    "lerobot_quantile10": _Scheme("q10", "q90", 1e-8, "zero"),
    "openpi_z_score": _Scheme("mean", "std", 1e-6),
    "openpi_quantile": _Scheme("q01", "q99", 1e-6),
    "openvla_bounds_q99": _Scheme("q01", "q99", 1e-8, eps_back=False, bounded=True),
    "oft_min_max": _Scheme("min", "max", 1e-8, bounded=True),
    "diffusion_policy_limits": _Scheme("min", "max", 1e-7, "shift"),
    "diffusion_policy_fit": _Scheme("min", "max", 1e-4, "shift"),
}


@dataclass(frozen=True)
class Scaling:
    """One stream's scaling: ``inverse(forward(x))`` is x, as far as the scheme allows.

    Attributes:
        scheme: one of `SCHEMES`.
        values: the statistics that the scheme needs, each of the stream's row shape.
        mask: which entries are scaled; None for all. OpenVLA leaves grippers out, diffusion_policy rotations.
    """

    scheme: SchemeName
    values: Mapping[str, Sequence[Any]]
    mask: Sequence[bool] | None = None
    _constants: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.scheme not in _SCHEMES:
            near = get_close_matches(self.scheme, SCHEMES, 1)
            raise ValueError(
                f"no normalisation is called {self.scheme!r}; "
                + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SCHEMES)}")
            )
        shapes = set()
        for name in needed(self.scheme):
            if name not in self.values:
                raise DataError(
                    f"the statistics lack {name}, which {self.scheme} needs",
                    "compute them with exact_statistics, or choose another scheme",
                )
            value = np.asarray(self.values[name], dtype=np.float64)
            shapes.add(value.shape)
            if not np.isfinite(value).all():
                raise DataError(f"the statistic {name} is not finite: {value}", "compute the statistics anew")
        if len(shapes) > 1 or (self.mask is not None and np.shape(self.mask) not in shapes):
            raise DataError(
                f"statistics of shapes {sorted(shapes)} and a mask of shape {np.shape(self.mask or ())}",
                "all must have the shape of the stream's row",
            )

    def __reduce__(self) -> Any:  # to worker processes, without tensors of a device
        return Scaling, (self.scheme, self.values, self.mask)

    @classmethod
    def of(cls, scheme: SchemeName, statistics: Statistics, mask: Sequence[bool] | None = None) -> Scaling:
        """From a stream's statistics.

        Raises:
            ValueError: there is no such scheme.
            DataError: the statistics do not fit it.
        """
        names = needed(scheme) if scheme in _SCHEMES else ()
        return cls(scheme, {name: statistics.of(name).tolist() for name in names}, mask)

    def forward(self, x: ArrayT) -> ArrayT:
        """Physical units to the policy's; float32 or float64 (..., *row shape), numpy or torch.

        Raises:
            DataError: the last dimensions are not those of the statistics.
        """
        c = self._for(x)
        how = _SCHEMES[self.scheme]
        a: Any = x
        if how.how == "shift":
            y = a * c["scale"] + c["offset"]
        elif how.high == "std":
            y = (a - c["low"]) / c["range"]
        elif self.scheme == "openpi_quantile":
            y = (a - c["low"]) / c["range"] * 2.0 - 1.0
        else:
            y = 2.0 * (a - c["low"]) / c["range"] - 1.0
        if how.bounded:
            y = y.clip(-1.0, 1.0)
        y = c["where"](c["mask"], y, a)
        return c["where"](c["constant"], c["zero"], y) if how.bounded else y  # type: ignore[no-any-return]

    def inverse(self, y: ArrayT) -> ArrayT:
        """The policy's units to physical ones, the way the scheme's own stack does it.

        Raises:
            DataError: the last dimensions are not those of the statistics.
        """
        c = self._for(y)
        how = _SCHEMES[self.scheme]
        a: Any = y
        if how.how == "shift":
            x = (a - c["offset"]) / c["scale"]
        elif how.high == "std":
            x = a * c["back"] + c["low"]
        else:
            x = (a + 1.0) / 2.0 * c["back"] + c["low"]
        return c["where"](c["mask"], x, a)  # type: ignore[no-any-return]

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint or a report; `from_json` reads it."""
        values = {
            name: np.asarray(self.values[name], dtype=np.float64).tolist() for name in needed(self.scheme)
        }
        mask = None if self.mask is None else [bool(one) for one in self.mask]
        return {"scheme": self.scheme, "values": values, "mask": mask}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scaling:
        """What `to_json` wrote.

        Raises:
            ValueError: it names a scheme that is not known.
            DataError: it lacks something.
        """
        unknown = set(data) - {"scheme", "values", "mask"}
        if unknown or not {"scheme", "values"} <= set(data):
            raise DataError(
                f"a scaling has scheme, values and mask, not {sorted(data)}", "write it with to_json"
            )
        return cls(data["scheme"], data["values"], data.get("mask"))

    def _for(self, x: Any) -> dict[str, Any]:
        """The constants, in the type and on the device of x."""
        shape = np.shape(self.values[_SCHEMES[self.scheme].low])
        if tuple(x.shape[len(x.shape) - len(shape) :]) != shape:
            raise DataError(
                f"rows of shape {tuple(x.shape)} cannot be scaled by statistics of shape {shape}",
                "use the statistics of this stream",
            )
        torch_like = not isinstance(x, np.ndarray | np.generic)
        name = f"{x.dtype}@{x.device}" if torch_like else str(x.dtype)
        if name not in self._constants:
            if (not x.dtype.is_floating_point) if torch_like else (x.dtype.kind != "f"):
                raise DataError(f"numbers of type {x.dtype} cannot be scaled", "convert them to float32")
            made: dict[str, Any] = {}
            for key, value in self._derive().items():
                if torch_like:
                    made[key] = x.new_tensor(
                        value.tolist(), dtype=None if value.dtype.kind == "f" else _torch_bool(x)
                    )
                else:
                    made[key] = value.astype(x.dtype) if value.dtype.kind == "f" else value
            made["where"] = _torch_where if torch_like else np.where
            self._constants[name] = made
        return self._constants[name]  # type: ignore[no-any-return]

    def _derive(self) -> dict[str, NDArray[Any]]:
        how = _SCHEMES[self.scheme]
        low = np.asarray(self.values[how.low], dtype=np.float64)
        high = np.asarray(self.values[how.high], dtype=np.float64)
        mask = np.ones(low.shape, bool) if self.mask is None else np.asarray(self.mask, bool)
        made = {"mask": mask, "low": low, "zero": np.zeros(low.shape)}
        span = high if how.high == "std" else high - low
        if how.how == "shift":
            still = span < how.eps
            scale = 2.0 / np.where(still, 2.0, span)
            return made | {"scale": scale, "offset": np.where(still, -low, -1.0 - scale * low)}
        if how.how == "zero":
            span = np.where(span == 0, how.eps, span)
            return made | {"range": span, "back": span}
        if how.bounded:
            made["constant"] = np.asarray(self.values["min"]) == np.asarray(self.values["max"])
        return made | {"range": span + how.eps, "back": span + how.eps if how.eps_back else span}


def needed(scheme: SchemeName) -> tuple[str, ...]:
    """Which statistics a scheme is made from."""
    how = _SCHEMES[scheme]
    names = (how.low, how.high) + (("min", "max") if how.bounded else ())
    return tuple(dict.fromkeys(names))


def gripper_mask(contents: Contents, key: str) -> tuple[bool, ...]:
    """True for every entry of a vector stream that no gripper is declared for: OpenVLA's mask.

    Raises:
        DataError: there is no such stream, or it is no plain vector.
    """
    spec = contents.streams.get(key)
    if spec is None or spec.kind != "vector" or len(spec.shape) != 1:
        raise DataError(
            "no vector stream of one dimension", f"the streams are {', '.join(contents.streams)}", key=key
        )
    grippers = {one.index for one in contents.conventions.grippers if one.stream == key}
    return tuple(index not in grippers for index in range(spec.shape[0]))


def _torch_where(condition: Any, a: Any, b: Any) -> Any:
    import torch

    return torch.where(condition, a, b)


def _torch_bool(x: Any) -> Any:
    import torch

    del x
    return torch.bool
