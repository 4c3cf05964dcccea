"""What is registered under each open field of the config: names, and where the project's own choices live.

`docs/extend.md` says what each kind of choice is. Only names stand here, so that options are checked without jax.
"""

from __future__ import annotations

from typing import Any

from fednas_jax.registry import Registry

POLICIES: Registry[Any] = Registry(
    "search.policy",
    "elimination policy",
    {
        "rungs": "fednas_jax.search.brackets:rungs",
        "halving": "fednas_jax.search.brackets:halving",
        "hyperband": "fednas_jax.search.brackets:hyperband",
        "median": "fednas_jax.search.stopping:median",
        "none": "fednas_jax.search.brackets:none",
    },
)
PROPOSALS: Registry[Any] = Registry(
    "search.proposals",
    "kind of proposals",
    {
        "groups": "fednas_jax.search.proposals:groups",
        "random": "fednas_jax.search.proposals:random",
        "uniform": "fednas_jax.search.proposals:uniform",
        "proportional": "fednas_jax.search.proposals:proportional",
    },
)
RESOURCES: Registry[Any] = Registry(
    "search.resource",
    "resource",
    {
        "macs": "fednas_jax.search.resources:macs",
        "params": "fednas_jax.search.resources:params",
        "bytes": "fednas_jax.search.resources:size",
        "memory": "fednas_jax.search.resources:activations",
        "latency": "fednas_jax.search.resources:milliseconds",
        "energy": "fednas_jax.search.resources:millijoules",
    },
)
METHODS: Registry[Any] = Registry(
    "method",
    "method",
    {name: f"fednas_jax.config.methods:{name}" for name in ("fednas", "naive", "netadapt", "random", "uniform")},
)
CLIENT_OPTIMIZERS: Registry[Any] = Registry(
    "train.client_optimizer",
    "client optimiser",
    {"sgd": "fednas_jax.engine.optimizers:client_sgd"},
    prefixes={"optax": "fednas_jax.engine.optimizers:client_optax"},
)
SERVER_OPTIMIZERS: Registry[Any] = Registry(
    "train.server_optimizer",
    "server optimiser",
    {
        "avg": "fednas_jax.engine.optimizers:server_avg",
        "momentum": "fednas_jax.engine.optimizers:server_momentum",
        "adam": "fednas_jax.engine.optimizers:server_adam",
        "yogi": "fednas_jax.engine.optimizers:server_yogi",
        "adagrad": "fednas_jax.engine.optimizers:server_adagrad",
    },
    prefixes={"optax": "fednas_jax.engine.optimizers:server_optax"},
)
SCHEDULES: Registry[Any] = Registry(
    "train.schedule",
    "learning-rate schedule",
    {
        "constant": "fednas_jax.engine.schedules:constant",
        "cosine": "fednas_jax.engine.schedules:cosine",
        "step": "fednas_jax.engine.schedules:step",
        "warmup": "fednas_jax.engine.schedules:warmup",
    },
)
LOSSES: Registry[Any] = Registry(
    "train.loss",
    "loss",
    {"cross_entropy": "fednas_jax.engine.losses:cross_entropy", "focal": "fednas_jax.engine.losses:focal"},
)
METRICS: Registry[Any] = Registry(
    "search.metric",
    "metric",
    {
        "accuracy": "fednas_jax.engine.metrics:accuracy",
        "balanced_accuracy": "fednas_jax.engine.metrics:balanced_accuracy",
        "macro_f1": "fednas_jax.engine.metrics:macro_f1",
        "auc": "fednas_jax.engine.metrics:auc",
    },
)
AGGREGATIONS: Registry[Any] = Registry(
    "train.aggregation",
    "aggregation",
    {
        "mean": "fednas_jax.engine.aggregation:mean",
        "median": "fednas_jax.engine.aggregation:median",
        "trimmed_mean": "fednas_jax.engine.aggregation:trimmed_mean",
        "clipped_mean": "fednas_jax.engine.aggregation:clipped_mean",
        "krum": "fednas_jax.engine.aggregation:krum",
    },
)
PARTITIONS: Registry[Any] = Registry(
    "data.partition",
    "partition",
    {
        name: f"fednas_jax.data.partitions:{name}"
        for name in ("iid", "dirichlet", "label_dirichlet", "shards", "classes", "natural")
    },
)
