"""What is static about a convolution: the shapes, strides and padding that a lowering is chosen and traced by."""

from __future__ import annotations

from typing import Any, NamedTuple

from fednas_jax.nets.windows import Windows


class Geometry(NamedTuple):
    """All that is static about a convolution; images are [B, H, W, C], kernels [kh, kw, C / groups, F]."""

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    groups: int
    precision: Any

    @property
    def windows(self) -> Windows:
        """The windows that the kernel is applied to."""
        return Windows(self.image, self.kernel[:2], self.strides, self.padding)  # type: ignore[arg-type]

    @property
    def depthwise(self) -> bool:
        """Whether every channel has kernels of its own."""
        return self.groups == self.image[3] and self.kernel[2] == 1

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of the output."""
        return self.windows.out
