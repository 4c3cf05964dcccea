"""What a run works on: config, data, network, engine and prices, checked before anything is written.

Nothing here changes during a run, and nothing here knows of folders, watchers or clocks.
Letters: C clients, K slots of a stack, M client groups.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fednas_jax import data, nets
from fednas_jax.config import needs, registries
from fednas_jax.config.checks import limits, validate_clients
from fednas_jax.config.files import differences
from fednas_jax.config.schema import Config, LoweringName, NetConfig
from fednas_jax.engine import schedules
from fednas_jax.engine.fleet import Fleet, FleetSpec
from fednas_jax.engine.local import stream_capacity
from fednas_jax.engine.shared import AnyFleet
from fednas_jax.errors import ConfigError, DataError
from fednas_jax.phones import availability, ledger
from fednas_jax.phones.round_prices import Prices, prices_of
from fednas_jax.registry import Registry
from fednas_jax.run import inputs
from fednas_jax.runtime import hosts
from fednas_jax.search import assignment, policies, proposals
from fednas_jax.search.policies import Policy
from fednas_jax.search.proposals import Proposer
from fednas_jax.search.resources import Goal, goal_of
from fednas_jax.space import probing, stacks
from fednas_jax.space.masks import Space
from fednas_jax.space.network import Variables

Fleets = Callable[[FleetSpec], AnyFleet]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What does not change during a run."""

    config: Config
    dataset: data.Dataset
    space: Space
    fleet: AnyFleet
    fleets: Fleets  # makes others
    slots: int  # K
    groups: int  # M
    group_of: np.ndarray  # [C] group of each client
    goal: Goal
    prices: Prices
    policy: Policy
    proposer: Proposer
    heterogeneity: data.Heterogeneity  # of the clients
    label_mix: dict[str, list[Any]]  # of some of them, see `data.sampled_mix`
    sliced: bool  # whether each candidate trains at its own physical widths, instead of masked at its parent's

    @property
    def candidates(self) -> str:
        """How candidates are trained: 'masked' or 'sliced'."""
        return "sliced" if self.sliced else "masked"

    def filled(self, networks: Variables) -> Variables:
        """Networks [n, ...] as a stack to train: one of K slots, so that all masked ones run the same program."""
        return networks if self.sliced else stacks.filled(networks, self.slots)

    @property
    def clients(self) -> int:
        """Number of clients C, one where the method is centralised."""
        return len(self.fleet.train_count)

    @property
    def cohort(self) -> int:
        """Clients sampled in a group for each round of the search; 0 takes all, as without partial clients."""
        return self.config.search.clients_per_group if self.config.search.partial else 0

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the data set."""
        return data.fingerprint(self.dataset)

    @functools.cached_property
    def draw(self) -> Callable[..., assignment.Draw]:
        """Deals groups to candidates for a round, (alive [K], key, group_of [C]), compiled for this run's groups."""
        s = self.config.search
        # Where clients may be away or too many are invited, the round's own draw picks them from the whole groups.
        most, help_out = self.cohort * self.config.participation.everybody, s.idle_groups == "help"
        return jax.jit(functools.partial(assignment.draw, groups=self.groups, most=most, help_out=help_out))

    def rates(self, rounds: int) -> Sequence[float]:
        """The clients' learning rate in each round of a stage."""
        return schedules.rates(self.config.train, rounds)

    def there(self, moment: ledger.Moment, clock: float) -> tuple[np.ndarray, np.ndarray, float]:
        """Who is there [C], seconds [C] until each goes away, and seconds that the server waited for anybody.

        Args:
          moment: the round.
          clock: simulated seconds since the run's beginning.
        """
        present, waited = availability.there(self.prices.presence, moment.numbers, clock)
        return present, availability.stays(self.prices.presence, clock + waited), waited


def prepare(
    config: Config,
    lanes: int,
    lowering: LoweringName,
    devices: Sequence[jax.Device] | None,
    given: data.Dataset | None,
    fleets: Fleets = Fleet,
) -> Problem:
    """Loads data, probes the network, and checks what only the two can tell; nothing is written.

    Args:
      config: resolved.
      lanes: of a device; 0 measures them.
      lowering: of their convolutions; 'auto' chooses it.
      devices: to train on; None: all.
      given: data of the caller's own, instead of the config's source.
      fleets: makes the fleet of a spec.
    """
    s = config.search
    loaded = hosts.run_on_all(lambda: _loaded(config, given))
    dataset, packed, space = loaded.dataset, loaded.packed, loaded.space
    _same_data(dataset, packed)
    _same_tables(config)
    prices = prices_of(config, space, packed)
    _check_memory(config, loaded, lanes, devices or jax.devices())
    for stage in (config.pretrain, config.finetune):
        schedules.rates(config.train, stage.rounds)  # refuses a schedule that cannot be followed to the end
    groups = s.groups if s.partial else 1
    fleet = fleets(
        FleetSpec(
            network=space.network,
            data=packed,
            mean=dataset.mean,
            std=dataset.std,
            classes=dataset.classes,
            train=config.train,
            engine=dataclasses.replace(config.engine, lanes=lanes, lowering=lowering),
            seed=config.seed,
            slots=loaded.proposer.most,
            devices=devices,
            tasks=packed.clients * (1 if s.partial else loaded.proposer.most),
            metric=s.metric,
            participation=config.participation,
        )
    )
    return Problem(
        config=config,
        dataset=dataset,
        space=space,
        fleet=fleet,
        fleets=fleets,
        slots=loaded.proposer.most,
        groups=groups,
        group_of=assignment.client_groups(packed.train_count, groups),
        goal=loaded.goal,
        prices=prices,
        policy=loaded.policy,
        proposer=loaded.proposer,
        heterogeneity=data.heterogeneity(np.asarray(packed.labels), packed.offsets),
        label_mix=data.sampled_mix(np.asarray(packed.labels), packed.offsets, dataset.classes),
        sliced=s.candidates == "sliced" or bool(space.inexact),
    )


def same_config(config: Config) -> None:
    """Refuses hosts that were started with different commands."""
    gathered = hosts.allgather(config)
    for host, other in enumerate(gathered):
        if differ := differences(gathered[0], other):
            fields = "; ".join(f"{d} there" for d in differ)
            raise ConfigError(f"host {host}: has another config than host 0, want the same command: {fields}")


def code_of(config: Config) -> dict[str, str]:
    """Field -> SHA-256 of the source of each choice that is not the project's own."""
    named: list[tuple[Registry[Any], str | None]] = [
        (registries.METHODS, config.method),
        (registries.PARTITIONS, config.data.partition),
        (registries.POLICIES, config.search.policy),
        (registries.PROPOSALS, config.search.proposals),
        (registries.METRICS, config.search.metric),
        (registries.CLIENT_OPTIMIZERS, config.train.client_optimizer),
        (registries.SERVER_OPTIMIZERS, config.train.server_optimizer),
        (registries.SCHEDULES, config.train.schedule),
        (registries.LOSSES, config.train.loss),
        (registries.AGGREGATIONS, config.train.aggregation),
        *((registries.RESOURCES, limit.resource) for limit in limits(config.search)),
    ]
    found: dict[str, str] = {}
    for registry, text in named:
        checksum = None if text is None else registry.checksum(text)
        if checksum is not None:
            found[registry.field] = found.get(registry.field, "") + checksum
    for field, checksum in (
        ("net.name", nets.checksum(config.net.name)),
        ("data.source", data.source_checksum(config.data.source)),
    ):
        if checksum is not None:
            found[field] = checksum
    return found


def _check_memory(config: Config, loaded: _Loaded, lanes: int, devices: Sequence[jax.Device]) -> None:
    """Refuses what would not fit into memory at the very least, before anything of it is allocated.

    Args:
      config: of the run.
      loaded: its data and network.
      lanes: of a device; 0: not known yet.
      devices: to train on.

    Raises:
      ConfigError: one line with the number of bytes needed and those there are.
    """
    space, packed, slots = loaded.space, loaded.packed, loaded.proposer.most
    most = needs.memory()
    # The stack and its sums; a lane's weights, gradients and momentum.
    needs.check_network(space.params(space.widths), 2 * slots + 3, most)
    here = [device for device in devices if device.process_index == jax.process_index()]
    sharing = sum(device.platform == "cpu" for device in here)  # other devices have a memory of their own
    needs.check_lanes(space.params(space.widths), lanes, sharing, most)
    needs.check_batches(config, packed.inputs.shape[1:], most)
    if packed.train_count.any():
        order = stream_capacity(packed.train_count[packed.train_count > 0], config.train)
        needs.check_memory(f"{order:,} numbers of examples for a client", "train.local_epochs", 12 * order, most)
        if order >= 2**31:  # they are counted in 32 bits on the devices
            raise ConfigError(f"train.local_epochs: got {order:,} examples for a client, want fewer than {2**31:,}")


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """What a host has of its own."""

    dataset: data.Dataset
    packed: data.PackedClients
    space: Space
    goal: Goal
    proposer: Proposer
    policy: Policy


def _loaded(config: Config, given: data.Dataset | None) -> _Loaded:
    s = config.search
    dataset = given or data.load_kept(config.data, config.seed)
    data.check_pixels(config.data, dataset)
    packed = data.clients_of(dataset, config.data, config.seed, given is not None)
    validate_clients(config, packed.clients)
    if s.centralised:
        packed = data.merge(packed)
    registered = nets.NETWORKS.get(config.net.name)
    probed = _probed if registered else _probed.__wrapped__  # a network of the user's own may have been edited
    form = (dataset.train.inputs.shape[1:], dataset.classes, dataset.tokens, dataset.train.labels.ndim > 1)
    space = probed(config.net, form, s.depth, registered and registered.build)
    if space.inexact and s.candidates == "masked":
        raise ConfigError(f"search.candidates: got masked, want auto or sliced: {space.inexact}")
    goal = goal_of(space, s, config.cost)
    proposer = proposals.proposer_of(space, s, goal)
    policy = policies.policy_of(s)
    policy.table(1, proposer.most)  # refuses rungs that the most candidates cannot have
    return _Loaded(dataset, packed, space, goal, proposer, policies.compiled(policy))


@functools.lru_cache(maxsize=4)
def _probed(net: NetConfig, form: tuple[Any, ...], depth: bool, build: Callable[..., Any]) -> Space:
    """What probing finds out about a network, once for all searches of a process.

    Args:
      net: the network.
      form: shape, classes, tokens, and whether every position has a label, as for `nets.build`.
      depth: whether blocks may leave.
      build: what is registered.
    """
    return probing.probe(nets.build(net, *form), net.multiple, depth=depth)


def _same_data(dataset: data.Dataset, packed: data.PackedClients) -> None:
    """Refuses hosts that see different data."""
    about = (packed.train_count, packed.val_count, dataset.train.labels[:100_000])
    sums = hosts.allgather([zlib.crc32(np.ascontiguousarray(a).tobytes()) for a in about])
    for host, other in enumerate(sums):
        if other != sums[0]:
            raise DataError(f"data: host {host} has other data than host 0, want the same files on every host")


def _same_tables(config: Config) -> None:
    """Refuses hosts that read different tables of latency, of which each makes its own candidates."""
    paths = [path for field, path in inputs.tables(config) if field == "search.resource"]
    sums = hosts.allgather([zlib.crc32(path.read_bytes()) for path in paths])
    for host, other in enumerate(sums):
        for path, mine, there in zip(paths, sums[0], other, strict=True):
            if mine != there:
                raise DataError(f"search.resource: host {host} has another {path}, want the same file on every host")
