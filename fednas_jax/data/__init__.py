"""Data: sources of labelled images, their division among clients, and the packed form that the engine takes.

numpy only, but for `normalise`, which runs inside jitted code. TFDS and scikit-learn are imported when first
used.
"""

from fednas_jax.data.columns import read_columns, write_columns
from fednas_jax.data.examples import Dataset, Examples
from fednas_jax.data.heterogeneity import Heterogeneity, heterogeneity, label_counts
from fednas_jax.data.packed import DiskRows, PackedClients, chunks, merge, normalise, pack
from fednas_jax.data.partition import Partition, partition
from fednas_jax.data.skew import FeatureSkew, feature_skew
from fednas_jax.data.sources import list_sources, load, prepare
from fednas_jax.data.synthetic import write_synthetic_columns

__all__ = [
    "Dataset",
    "DiskRows",
    "Examples",
    "FeatureSkew",
    "Heterogeneity",
    "PackedClients",
    "Partition",
    "chunks",
    "feature_skew",
    "heterogeneity",
    "label_counts",
    "list_sources",
    "load",
    "merge",
    "normalise",
    "pack",
    "partition",
    "prepare",
    "read_columns",
    "write_columns",
    "write_synthetic_columns",
]
