"""Feature skew: every client's camera is a little brighter or darker, or held at an angle of its own.

Letters: C clients, H x W pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fednas_jax.config.schema import DataConfig
from fednas_jax.data.examples import Dataset, described
from fednas_jax.errors import ConfigError
from fednas_jax.seeds import Purpose, generator

# Most that the logarithm of a brightness can be: no image tells it from more, and no number overflows.
_MOST_LOG = 50.0


class FeatureSkew(NamedTuple):
    """What each client's images go through before anyone sees them, in training and in scoring alike."""

    brightness: np.ndarray
    """[C] float64, above 0: factor on pixel values, which end at 255."""
    degrees: np.ndarray
    """[C] float64: counter-clockwise rotation around the image's middle; black moves in at the corners."""

    def apply(self, images: np.ndarray, client: np.ndarray) -> np.ndarray:
        """Images as their clients have them: rotated (interpolated linearly), then brightened, then rounded.

        Args:
          images: [..., H, W, channels] uint8.
          client: [...] client of each image.

        Returns:
          [..., H, W, channels] uint8, a new array.
        """
        # Imported here, since most runs skew nothing.
        from scipy import ndimage

        flat, clients = images.reshape(-1, *images.shape[-3:]), np.ravel(client)
        out = np.empty_like(flat)
        order = np.argsort(clients, kind="stable")
        numbers, first = np.unique(clients[order], return_index=True)
        for number, at in zip(numbers, np.split(order, first[1:]), strict=True):
            shown = flat[at].astype(np.float32)
            if self.degrees[number]:
                shown = ndimage.rotate(shown, self.degrees[number], axes=(2, 1), reshape=False, order=1)
            out[at] = np.rint(np.clip(shown * self.brightness[number], 0, 255))
        return out.reshape(images.shape)


def check_pixels(config: DataConfig, data: Dataset) -> None:
    """Raises a ConfigError where a skew of images is asked for, and the data holds none."""
    for name in ("brightness_sigma", "rotation_degrees"):
        if (value := getattr(config, name)) and data.train.inputs.dtype != np.uint8:
            raise ConfigError(f"data.{name}: got {value}, want 0: the data holds {described(data)}")


def feature_skew(config: DataConfig, clients: int, seed: int) -> FeatureSkew | None:
    """Every client's brightness, lognormal around 1, and angle, uniform between -rotation_degrees and that.

    Rotations as in rotated MNIST (Ghifary et al. 2015, arXiv 1508.07680), drawn for each client.

    Args:
      config: brightness_sigma and rotation_degrees; validated.
      clients: C of the partition; a client's draw belongs to its number there.
      seed: of the run. What is drawn of the one does not depend on the other.

    Returns:
      None where nothing is skewed.
    """
    if not (config.brightness_sigma or config.rotation_degrees):
        return None
    rng = generator(seed, Purpose.FEATURE_SKEW)
    logs = min(config.brightness_sigma, 1e300) * rng.standard_normal(clients)
    turns = rng.uniform(-1, 1, clients)
    return FeatureSkew(np.exp(np.clip(logs, -_MOST_LOG, _MOST_LOG)), config.rotation_degrees * turns)
