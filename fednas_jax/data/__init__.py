"""Data: sources of labelled examples, their division among clients, and the packed form that the engine takes.

numpy only, but for `normalise`, which runs inside jitted code. TFDS and scikit-learn are imported when first used, the
imports of files (`leaf`, `folders`, `arrays`) when they are asked for.
"""

from fednas_jax.data.columns import ColumnsWriter, read_columns, write_columns
from fednas_jax.data.examples import Dataset, Examples, described, fingerprint
from fednas_jax.data.imports import import_data
from fednas_jax.data.kept import clients_of, load_kept
from fednas_jax.data.label_mixes import Heterogeneity, heterogeneity, label_counts, sampled_mix
from fednas_jax.data.options import ImportOptions
from fednas_jax.data.packed import DiskRows, PackedClients, chunks, merge, normalise, pack
from fednas_jax.data.partitions import Partition, partition
from fednas_jax.data.skew import FeatureSkew, check_pixels, feature_skew
from fednas_jax.data.sources import (
    ANY_TFDS,
    GIVEN,
    list_sources,
    load,
    prepare,
    register_source,
    seeded,
    source_checksum,
)
from fednas_jax.data.synthetic import write_synthetic_columns

__all__ = [
    "ANY_TFDS",
    "GIVEN",
    "ColumnsWriter",
    "Dataset",
    "DiskRows",
    "Examples",
    "FeatureSkew",
    "Heterogeneity",
    "ImportOptions",
    "PackedClients",
    "Partition",
    "check_pixels",
    "chunks",
    "clients_of",
    "described",
    "feature_skew",
    "fingerprint",
    "heterogeneity",
    "import_data",
    "label_counts",
    "list_sources",
    "load",
    "load_kept",
    "merge",
    "normalise",
    "pack",
    "partition",
    "prepare",
    "read_columns",
    "register_source",
    "sampled_mix",
    "seeded",
    "source_checksum",
    "write_columns",
    "write_synthetic_columns",
]
