"""Fashion-MNIST: imports the four idx files once into TFDS's ArrayRecord form, then loads from there."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np

from fednas_jax.data.examples import Dataset, Examples, check, dataset
from fednas_jax.data.idx import read_idx
from fednas_jax.data.root import data_root
from fednas_jax.data.tfds_temporary import tidied
from fednas_jax.errors import DataError
from fednas_jax.files import temporary_folder

NAME = "fashion_mnist"
CLASSES = 10
IMAGE_SHAPE = (28, 28)
DEBIAN_PACKAGE = "dataset-fashion-mnist"
"""Debian's package with the four files (MIT licence), which it puts in `DEBIAN_FOLDER`."""
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

# Split of ours -> the first part of its files' names.
_FILES = {"train": "train", "test": "t10k"}
# Folder below the root: TFDS's name and version of `FashionMnistIdx`.
_FOLDER = Path("fashion_mnist_idx", "1.0.0")


def prepared_folder(root: Path | None) -> Path:
    """Where the prepared data set is, or would be.

    Args:
      root: folder of prepared data sets, as in `data_root`.
    """
    return data_root(root) / _FOLDER


def is_prepared(root: Path | None) -> bool:
    """Whether `load_fashion_mnist` will find the data set under `root`."""
    # TFDS writes into a folder of another name and renames it when all is done: if it is here, it is whole.
    return prepared_folder(root).is_dir()


def prepare_fashion_mnist(source_dir: Path, root: Path | None) -> Path:
    """Imports the idx files; where this was done before, nothing is read or changed.

    Args:
      source_dir: folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`
        and `t10k-labels-idx1-ubyte`, each plain or with `.gz`.
      root: folder of prepared data sets, as in `prepared_folder`.

    Returns:
      The folder of the prepared data set.

    Raises:
      DataError: a file that is missing or broken, or a root that cannot be written. No folder is left that
        looks prepared.
    """
    folder = prepared_folder(root)
    if is_prepared(root):
        return folder
    # All files are read before anything is written.
    splits = {split: read_idx_split(source_dir, split) for split in _FILES}
    try:
        # TFDS makes a folder for downloads, which we don't have, and speaks on stdout, which belongs to our
        # caller.
        with tidied(), temporary_folder("fednas-tfds-") as unused, contextlib.redirect_stdout(io.StringIO()):
            _write(splits, folder, unused)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return folder


def load_fashion_mnist(root: Path | None) -> Dataset:
    """60,000 training and 10,000 test images of 28x28x1 of ten kinds of clothing.

    Args:
      root: folder of prepared data sets, as in `prepared_folder`.

    Raises:
      DataError: when it is not prepared (the message says how to), or its folder is damaged.

    Source: Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747.
    """
    folder = prepared_folder(root)
    if not is_prepared(root):
        raise DataError(
            f"data.source: {NAME} is not prepared in {folder.parent.parent}: install Debian's package "
            f"{DEBIAN_PACKAGE} (DIR is then {DEBIAN_FOLDER}) or download the four idx files, "
            f"and run `fednas data prepare {NAME} --from DIR`"
        )
    import tensorflow_datasets as tfds

    from fednas_jax.data.fashion_mnist_builder import read_split

    try:
        builder = tfds.builder_from_directory(str(folder))
        train, test = read_split(builder, "train"), read_split(builder, "test")
    except Exception as error:
        # TFDS, array_record and protobuf each have errors of their own for a damaged file, without a common
        # base.
        reason = str(error).partition("\n")[0]
        raise DataError(f"{folder}: got damaged data ({reason}), want it deleted and prepared again") from error
    return dataset(NAME, train, test, CLASSES)


def read_idx_split(source_dir: Path, split: str) -> Examples:
    """Reads the two idx files of a split.

    Args:
      source_dir: folder with the files.
      split: train or test.

    Returns:
      Images [N, 28, 28, 1] and labels [N], in the files' order.

    Raises:
      DataError: a missing or broken file, images of another size, labels that don't fit.
    """
    image_file = _find(source_dir, f"{_FILES[split]}-images-idx3-ubyte")
    images = read_idx(image_file, 3)
    if images.shape[1:] != IMAGE_SHAPE:
        raise DataError(f"{image_file}: got images of {'x'.join(map(str, images.shape[1:]))}, want 28x28")
    labels = read_idx(_find(source_dir, f"{_FILES[split]}-labels-idx1-ubyte"), 1)
    examples = Examples(images[..., None], labels.astype(np.int32))
    check(f"{source_dir}: {split}", examples, CLASSES)
    return examples


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise DataError(f"{folder}: got no {name}.gz and no {name}, want one of them")


def _write(splits: dict[str, Examples], folder: Path, downloads: Path) -> None:
    """Prepares with TFDS, which needs no TensorFlow for these features in this file format."""
    import tensorflow_datasets as tfds

    from fednas_jax.data.fashion_mnist_builder import FashionMnistIdx

    tfds.disable_progress_bar()
    builder = FashionMnistIdx(splits, data_dir=str(folder.parent.parent), file_format="array_record")
    builder.download_and_prepare(download_dir=str(downloads))
