"""Random crops and colours of a whole batch, on the device where it lies.

What a sample gets depends on (seed, epoch or step, its place in the global batch) alone: not on the device,
the number of ranks or workers, nor on torch's generators. All images of one stream of one sample are treated
alike, so a window of frames does not flicker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ..starts import counter_generator

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as torchvision and PIL


@dataclass(frozen=True)
class Augmentation:
    """What may happen to an image; a factor is drawn from [1 - x, 1 + x], all independently.

    Attributes:
        crop: smallest part of each side that a crop keeps, in (0, 1]; 1 crops nothing. The crop is scaled
            to `size`, bilinear.
        size: (height, width) of the result; None for the images' own.
        brightness: the colours are multiplied.
        contrast: the distance to the image's mean grey is multiplied.
        saturation: the distance to the pixel's own grey is multiplied.
        hue: the colours are turned by up to this part of the colour circle, at most 0.5.
    """

    crop: float = 0.95
    size: tuple[int, int] | None = None
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop {self.crop} is not in (0, 1]: it is the smallest part that is kept")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} is not in [0, 1]")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue {self.hue} is not in [0, 0.5]")

    def draw(self, key: Sequence[str | int], place: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,7) uniform numbers in [0, 1) of samples at these places of the batch called `key`."""
        last = int(place.max(initial=-1)) + 1
        return counter_generator("augmentation", *key).random((last, 7))[place]

    def __call__(
        self, images: torch.Tensor, key: Sequence[str | int], place: NDArray[np.int64]
    ) -> torch.Tensor:
        """Augment a batch.

        Args:
            images: uint8 (n,3,H,W) or (n,T,3,H,W).
            key: names the batch: (seed, step, stream), for instance.
            place: (n,) of each sample in the global batch.

        Returns:
            float32 in [0, 1], of the same dimensions.

        Raises:
            ValueError: images that are not of this shape and type.
        """
        if images.dtype != torch.uint8 or images.ndim not in (4, 5) or images.shape[-3] != 3:
            raise ValueError(f"images of {images.dtype} {tuple(images.shape)}; expected uint8 (n,[T,]3,H,W)")
        if len(place) != len(images):
            raise ValueError(f"{len(images)} samples and {len(place)} places")
        drawn = torch.from_numpy(self.draw(key, place).astype(np.float32)).to(images.device)
        window = images.shape[1] if images.ndim == 5 else 1
        flat = images.reshape(-1, *images.shape[-3:]).to(torch.float32) / 255
        drawn = drawn.repeat_interleave(window, 0)
        flat = self._recolour(self._crop(flat, drawn), drawn)
        return flat.reshape(*images.shape[:-2], *flat.shape[-2:])

    def _crop(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        height, width = self.size or images.shape[-2:]
        if self.crop == 1 and (height, width) == images.shape[-2:]:
            return images
        part = self.crop + (1 - self.crop) * drawn[:, 0]
        shift = (2 * drawn[:, 1:3] - 1) * (1 - part)[:, None]  # of the centre; -1 and 1 are the image's edges
        theta = torch.zeros(len(images), 2, 3, device=images.device)
        theta[:, 0, 0] = theta[:, 1, 1] = part
        theta[:, :, 2] = shift
        grid = functional.affine_grid(theta, [len(images), 3, height, width], align_corners=False)
        return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def _recolour(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        bright, contrast, saturation = (
            1 + most * (2 * drawn[:, 3 + i] - 1)
            for i, most in enumerate((self.brightness, self.contrast, self.saturation))
        )
        grey = torch.tensor(_GREY, device=images.device)
        mean = torch.einsum("nchw,c->n", images, grey) / (images.shape[-1] * images.shape[-2])
        # All of it is linear in the colours: one matrix and one offset for each image.
        eye = torch.eye(3, device=images.device)
        to_grey = grey.expand(3, 3)
        mix = saturation[:, None, None] * eye + (1 - saturation)[:, None, None] * to_grey
        mix = _turn(2 * np.pi * self.hue * (2 * drawn[:, 6] - 1)) @ mix
        matrix = mix * (bright * contrast)[:, None, None]
        offset = bright * (1 - contrast) * mean
        out = torch.einsum("nij,njhw->nihw", matrix, images) + offset[:, None, None, None]
        return out.clamp_(0, 1)


def _turn(angle: torch.Tensor) -> torch.Tensor:
    """(n,3,3) turns of the colours about the grey axis, which keep the brightness (in YIQ; angles in rad)."""
    yiq = torch.tensor(
        [_GREY, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)],
        dtype=torch.float64,
        device="cpu",
    )
    yiq, back = yiq.to(angle), torch.linalg.inv(yiq).to(angle)
    turn = torch.zeros(len(angle), 3, 3, device=angle.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    turned: torch.Tensor = back @ turn @ yiq
    return turned
