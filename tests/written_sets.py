"""Small sets of TFDS with the real builders' features, written as TFDS itself writes them, without TensorFlow."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from fednas_jax.data.tfds_temporary import tidied

Example = dict[str, Any]


def encoded(pixels: np.ndarray, kind: str = "png") -> bytes:
    """Pixels [H, W, C] as the content of an image file."""
    written = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(written, kind)
    return written.getvalue()


def write_set(
    name: str,
    root: Path,
    splits: dict[str, Iterable[Example]],
    features: Any = None,
    file_format: str = "array_record",
) -> Path:
    """Prepares a set from examples given, with the features of TFDS's builder of that name, or with others.

    Images of examples are contents of files: TFDS needs TensorFlow to encode pixels, not to store what is encoded.
    """
    base, _, config = name.partition("/")
    real = None if features else tfds.builder_cls(base)
    with tfds.core.registered.skip_registration():

        class Written(real or tfds.core.GeneratorBasedBuilder):  # type: ignore[misc, valid-type]
            VERSION = real.VERSION if real else tfds.core.Version("1.0.0")
            url_infos = None
            if real:
                pkg_dir_path = getattr(real, "pkg_dir_path", None)

            def _info(self) -> Any:
                if features is None:
                    return super()._info()
                return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

            def _split_generators(self, dl_manager: Any) -> Any:
                return {split: self._generate_examples(examples) for split, examples in splits.items()}

            def _generate_examples(self, examples: Iterable[Example]) -> Any:
                yield from enumerate(examples)

        Written.name = base
    settings = {"config": config} if config else {}
    # Left to itself TFDS makes a folder for downloads in the root, and speaks.
    download = tfds.download.DownloadConfig(register_checksums=False)
    with tidied(), contextlib.redirect_stdout(io.StringIO()):
        tfds.disable_progress_bar()
        builder = Written(data_dir=str(root), file_format=file_format, **settings)
        builder.download_and_prepare(download_dir=str(root / "downloads"), download_config=download)
    return Path(str(builder.data_dir))


def drawn(name: str, number: int, seed: int = 0) -> list[Example]:
    """Random examples with the features that TFDS's builder of this name has; the labels count up from 0."""
    base, _, config = name.partition("/")
    with tidied():
        info = tfds.builder_cls(base)(data_dir="/nowhere", **({"config": config} if config else {})).info
    rng = np.random.default_rng(seed)

    def value(feature: Any, n: int) -> Any:
        if isinstance(feature, tfds.features.FeaturesDict):
            return {key: value(inner, n) for key, inner in feature.items()}
        if isinstance(feature, tfds.features.Image):
            height, width, channels = (size or 20 + n % 3 for size in feature.shape)
            return encoded(rng.integers(0, 256, (height, width, channels), dtype=np.uint8))
        if isinstance(feature, tfds.features.Text):
            return str(n)
        return n % (getattr(feature, "num_classes", None) or 2)

    return [{key: value(feature, n) for key, feature in info.features.items()} for n in range(number)]
