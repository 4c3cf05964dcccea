"""Federated neural architecture search, simulated, with every client's cost in a ledger.

from pathlib import Path
import fednas_jax as fn

result = fn.run_search(fn.preset("digits"), Path("runs/digits"))
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; a test holds that these are the names below
    from fednas_jax.bench.machine import describe as describe_machine
    from fednas_jax.bench.rounds import Federation as Federation
    from fednas_jax.bench.rounds import FleetRounds as FleetRounds
    from fednas_jax.bench.rounds import in_turns as in_turns
    from fednas_jax.bench.torch_peers import NoTorch as NoTorch
    from fednas_jax.bench.torch_peers import TorchWorker as TorchWorker
    from fednas_jax.bench.workloads import WORKLOADS as WORKLOADS
    from fednas_jax.bench.workloads import Sizes as Sizes
    from fednas_jax.bench.workloads import Workload as Workload
    from fednas_jax.config.files import override as override
    from fednas_jax.config.methods import reopened as reopened
    from fednas_jax.config.methods import resolve as resolve
    from fednas_jax.config.methods import with_method as with_method
    from fednas_jax.config.presets import PRESETS as PRESETS
    from fednas_jax.config.presets import preset as preset
    from fednas_jax.config.presets import tiny as tiny
    from fednas_jax.config.registries import AGGREGATIONS as AGGREGATIONS
    from fednas_jax.config.registries import CLIENT_OPTIMIZERS as CLIENT_OPTIMIZERS
    from fednas_jax.config.registries import LOSSES as LOSSES
    from fednas_jax.config.registries import METHODS as METHODS
    from fednas_jax.config.registries import METRICS as METRICS
    from fednas_jax.config.registries import PARTITIONS as PARTITIONS
    from fednas_jax.config.registries import POLICIES as POLICIES
    from fednas_jax.config.registries import PROPOSALS as PROPOSALS
    from fednas_jax.config.registries import RESOURCES as RESOURCES
    from fednas_jax.config.registries import SCHEDULES as SCHEDULES
    from fednas_jax.config.registries import SERVER_OPTIMIZERS as SERVER_OPTIMIZERS
    from fednas_jax.config.schema import AugmentConfig as AugmentConfig
    from fednas_jax.config.schema import Config as Config
    from fednas_jax.config.schema import CostConfig as CostConfig
    from fednas_jax.config.schema import DataConfig as DataConfig
    from fednas_jax.config.schema import EngineConfig as EngineConfig
    from fednas_jax.config.schema import FinetuneConfig as FinetuneConfig
    from fednas_jax.config.schema import NetConfig as NetConfig
    from fednas_jax.config.schema import ParticipationConfig as ParticipationConfig
    from fednas_jax.config.schema import SearchConfig as SearchConfig
    from fednas_jax.config.schema import StageConfig as StageConfig
    from fednas_jax.config.schema import TrainConfig as TrainConfig
    from fednas_jax.data.arrays import from_arrays as from_arrays
    from fednas_jax.data.columns import write_columns as write_columns
    from fednas_jax.data.sources import load as load_data
    from fednas_jax.data.sources import register_source as register_source
    from fednas_jax.engine.aggregation import Aggregation as Aggregation
    from fednas_jax.engine.fleet import Fleet as Fleet
    from fednas_jax.engine.fleet import FleetSpec as FleetSpec
    from fednas_jax.engine.metrics import Metric as Metric
    from fednas_jax.engine.tasks import Tasks as Tasks
    from fednas_jax.errors import FednasError as FednasError
    from fednas_jax.errors import Interrupted as Interrupted
    from fednas_jax.nets import NETWORKS as NETWORKS
    from fednas_jax.nets import from_linen as from_linen
    from fednas_jax.nets import from_nnx as from_nnx
    from fednas_jax.nets import register as register
    from fednas_jax.report.assigning import Tier as Tier
    from fednas_jax.report.assigning import read_tiers as read_tiers
    from fednas_jax.report.assigning import tiers as tiers
    from fednas_jax.report.comparing import Comparison as Comparison
    from fednas_jax.report.comparing import compare as compare
    from fednas_jax.report.frames import load_runs as load_runs
    from fednas_jax.report.page import write_report as write_report
    from fednas_jax.report.reprice import reprice_run as reprice_run
    from fednas_jax.report.statistics import Estimate as Estimate
    from fednas_jax.report.statistics import difference as estimate_difference
    from fednas_jax.report.statistics import mean as estimate_mean
    from fednas_jax.report.statistics import ratio as estimate_ratio
    from fednas_jax.run.finished import Run as Run
    from fednas_jax.run.finished import load_run as load_run
    from fednas_jax.run.finished import read_ledger as read_ledger
    from fednas_jax.run.loop import run_search as run_search
    from fednas_jax.run.models import Model as Model
    from fednas_jax.run.models import load_model as load_model
    from fednas_jax.run.verifying import verify_run as verify_run
    from fednas_jax.runtime.cores import use_all_cores as use_all_cores
    from fednas_jax.search.brackets import from_rungs as from_rungs
    from fednas_jax.search.policies import Policy as Policy
    from fednas_jax.search.proposals import Proposal as Proposal
    from fednas_jax.search.proposals import Proposer as Proposer
    from fednas_jax.search.proposals import target_of as target_of
    from fednas_jax.search.resources import Resource as Resource
    from fednas_jax.search.resources import register_resource as register_resource
    from fednas_jax.search.stopping import from_rule as from_rule
    from fednas_jax.space.masks import Space as Space
    from fednas_jax.space.network import Network as Network
    from fednas_jax.space.network import Variables as Variables
    from fednas_jax.space.probing import probe as probe
    from fednas_jax.sweep.designs import chained as chained
    from fednas_jax.sweep.designs import crossed as crossed
    from fednas_jax.sweep.designs import grid as grid
    from fednas_jax.sweep.designs import sampled as sampled
    from fednas_jax.sweep.designs import sobol as sobol
    from fednas_jax.sweep.designs import zipped as zipped
    from fednas_jax.sweep.replay import replay_run as replay
    from fednas_jax.sweep.running import run_sweep as run_sweep

# Name -> the module it lives in, MODULE:NAME where it has another name there; imported when first used, so that the
# command line's --help needs no jax.
_HOMES = {
    "AGGREGATIONS": "config.registries",
    "CLIENT_OPTIMIZERS": "config.registries",
    "LOSSES": "config.registries",
    "METHODS": "config.registries",
    "METRICS": "config.registries",
    "NETWORKS": "nets",
    "PARTITIONS": "config.registries",
    "POLICIES": "config.registries",
    "PRESETS": "config.presets",
    "PROPOSALS": "config.registries",
    "RESOURCES": "config.registries",
    "SCHEDULES": "config.registries",
    "SERVER_OPTIMIZERS": "config.registries",
    "WORKLOADS": "bench.workloads",
    "Aggregation": "engine.aggregation",
    "AugmentConfig": "config.schema",
    "Comparison": "report.comparing",
    "Config": "config.schema",
    "CostConfig": "config.schema",
    "DataConfig": "config.schema",
    "EngineConfig": "config.schema",
    "Estimate": "report.statistics",
    "Federation": "bench.rounds",
    "FednasError": "errors",
    "FinetuneConfig": "config.schema",
    "Fleet": "engine.fleet",
    "FleetRounds": "bench.rounds",
    "FleetSpec": "engine.fleet",
    "Interrupted": "errors",
    "Metric": "engine.metrics",
    "Model": "run.models",
    "NetConfig": "config.schema",
    "Network": "space.network",
    "NoTorch": "bench.torch_peers",
    "ParticipationConfig": "config.schema",
    "Policy": "search.policies",
    "Proposal": "search.proposals",
    "Proposer": "search.proposals",
    "Resource": "search.resources",
    "Run": "run.finished",
    "SearchConfig": "config.schema",
    "Sizes": "bench.workloads",
    "Space": "space.masks",
    "StageConfig": "config.schema",
    "Tasks": "engine.tasks",
    "Tier": "report.assigning",
    "TorchWorker": "bench.torch_peers",
    "TrainConfig": "config.schema",
    "Variables": "space.network",
    "Workload": "bench.workloads",
    "chained": "sweep.designs",
    "compare": "report.comparing",
    "crossed": "sweep.designs",
    "describe_machine": "bench.machine:describe",
    "estimate_difference": "report.statistics:difference",
    "estimate_mean": "report.statistics:mean",
    "estimate_ratio": "report.statistics:ratio",
    "from_arrays": "data.arrays",
    "from_linen": "nets",
    "from_nnx": "nets",
    "from_rule": "search.stopping",
    "from_rungs": "search.brackets",
    "grid": "sweep.designs",
    "in_turns": "bench.rounds",
    "load_data": "data.sources:load",
    "load_model": "run.models",
    "load_run": "run.finished",
    "load_runs": "report.frames",
    "override": "config.files",
    "preset": "config.presets",
    "probe": "space.probing",
    "read_ledger": "run.finished",
    "read_tiers": "report.assigning",
    "register": "nets",
    "register_resource": "search.resources",
    "register_source": "data.sources",
    "reopened": "config.methods",
    "replay": "sweep.replay:replay_run",
    "reprice_run": "report.reprice",
    "resolve": "config.methods",
    "run_search": "run.loop",
    "run_sweep": "sweep.running",
    "sampled": "sweep.designs",
    "sobol": "sweep.designs",
    "target_of": "search.proposals",
    "tiers": "report.assigning",
    "tiny": "config.presets",
    "use_all_cores": "runtime.cores",
    "verify_run": "run.verifying",
    "with_method": "config.methods",
    "write_columns": "data.columns",
    "write_report": "report.page",
    "zipped": "sweep.designs",
}

__all__ = [
    "AGGREGATIONS",
    "CLIENT_OPTIMIZERS",
    "LOSSES",
    "METHODS",
    "METRICS",
    "NETWORKS",
    "PARTITIONS",
    "POLICIES",
    "PRESETS",
    "PROPOSALS",
    "RESOURCES",
    "SCHEDULES",
    "SERVER_OPTIMIZERS",
    "WORKLOADS",
    "Aggregation",
    "AugmentConfig",
    "Comparison",
    "Config",
    "CostConfig",
    "DataConfig",
    "EngineConfig",
    "Estimate",
    "Federation",
    "FednasError",
    "FinetuneConfig",
    "Fleet",
    "FleetRounds",
    "FleetSpec",
    "Interrupted",
    "Metric",
    "Model",
    "NetConfig",
    "Network",
    "NoTorch",
    "ParticipationConfig",
    "Policy",
    "Proposal",
    "Proposer",
    "Resource",
    "Run",
    "SearchConfig",
    "Sizes",
    "Space",
    "StageConfig",
    "Tasks",
    "Tier",
    "TorchWorker",
    "TrainConfig",
    "Variables",
    "Workload",
    "chained",
    "compare",
    "crossed",
    "describe_machine",
    "estimate_difference",
    "estimate_mean",
    "estimate_ratio",
    "from_arrays",
    "from_linen",
    "from_nnx",
    "from_rule",
    "from_rungs",
    "grid",
    "in_turns",
    "load_data",
    "load_model",
    "load_run",
    "load_runs",
    "override",
    "preset",
    "probe",
    "read_ledger",
    "read_tiers",
    "register",
    "register_resource",
    "register_source",
    "reopened",
    "replay",
    "reprice_run",
    "resolve",
    "run_search",
    "run_sweep",
    "sampled",
    "sobol",
    "target_of",
    "tiers",
    "tiny",
    "use_all_cores",
    "verify_run",
    "with_method",
    "write_columns",
    "write_report",
    "zipped",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, own = _HOMES[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), own or name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
