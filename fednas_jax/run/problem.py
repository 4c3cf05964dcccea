"""What a run stands on: config, data, network, engine, prices and folder, checked before anything is written."""

from __future__ import annotations

import dataclasses
import functools
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fednas_jax import data, nets
from fednas_jax.config.checks import validate_clients
from fednas_jax.config.files import differences
from fednas_jax.config.schema import Config, NetConfig, SearchConfig
from fednas_jax.engine.fleet import Fleet
from fednas_jax.errors import ConfigError, DataError
from fednas_jax.phones import availability, ledger
from fednas_jax.phones.round_prices import Prices, prices_of
from fednas_jax.run import checkpoint, inputs, parents
from fednas_jax.run.folder import RunDir
from fednas_jax.runtime import hosts
from fednas_jax.search import assignment, policies
from fednas_jax.search.proposals import Proposer, proposer_of
from fednas_jax.search.resources import Goal, goal_of
from fednas_jax.space import probing
from fednas_jax.space.masks import Space


@dataclasses.dataclass(frozen=True)
class Setup:
    """What does not change during a run."""

    config: Config
    dataset: data.Dataset
    space: Space
    fleet: Fleet
    groups: int  # M
    group_of: np.ndarray  # [C] group of each client
    goal: Goal
    prices: Prices
    run: RunDir
    checkpoints: checkpoint.Checkpoints
    parent: parents.Parent | None  # given, in a run that begins
    proposer: Proposer
    policy: policies.Policy
    observe: Callable[[dict[str, Any]], None]
    should_stop: Callable[[], bool]
    began: float  # time.perf_counter() at the process's start of this run
    heterogeneity: data.Heterogeneity  # of the clients

    @property
    def slots(self) -> int:
        """K: slots in a stack."""
        return self.proposer.most

    @property
    def clients(self) -> int:
        """Number of clients C, one where the method is centralised."""
        return len(self.fleet.train_count)

    @property
    def cohort(self) -> int:
        """Clients sampled in a group for each round of the search; 0 takes all, as without partial clients."""
        return self.config.search.clients_per_group if self.config.search.partial else 0

    @functools.cached_property
    def draw(self) -> Callable[..., assignment.Draw]:
        """The draw of a round, compiled for this run's groups."""
        s = self.config.search
        # Where clients may be away or too many are invited, the round's own draw picks them from the whole groups.
        most, help_out = self.cohort * self.config.participation.everybody, s.idle_groups == "help"
        return jax.jit(functools.partial(assignment.draw, groups=self.groups, most=most, help_out=help_out))

    def there(self, moment: ledger.Moment, clock: float) -> tuple[np.ndarray, np.ndarray, float]:
        """Who is there [C], seconds [C] until each goes away, and seconds that the server waited for anybody."""
        present, waited = availability.there(self.prices.presence, moment.numbers, clock)
        return present, availability.stays(self.prices.presence, clock + waited), waited

    def clock(self) -> float:
        """Simulated seconds since the beginning, by the run's events, which a resumed run has taken back in part."""
        if not self.config.participation.spells:
            return 0.0  # nobody asks

        def summed() -> float:
            seconds = 0.0
            for event in self.run.events():
                seconds += event.get("simulated_seconds", 0.0)  # one by one, as the rounds do: exactly the same sum
            return seconds

        return hosts.from_first_host(summed)

    def tell(self, **event: Any) -> None:
        """Writes an event, and shows it to who observes the run; on the first host."""
        if hosts.first():
            self.run.append(event)
            self.observe(event)

    def effort(self) -> dict[str, float]:
        """The simulator's effort so far, this process and those before."""
        meter = self.fleet.meter
        return dataclasses.asdict(meter) | {"wall_seconds": meter.wall_seconds + time.perf_counter() - self.began}


def prepare(
    config: Config,
    run: RunDir,
    observe: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
    devices: Sequence[jax.Device] | None,
    began: float,
    given: data.Dataset | None,
) -> Setup:
    """Loads data, probes the network, checks what only the two can tell; makes the run's folder last."""
    s = config.search
    dataset, packed, found, goal, proposer = hosts.run_on_all(lambda: _loaded(config, given))
    policy = hosts.run_on_all(lambda: _policy(s, proposer))
    _same_data(dataset, packed)
    _same_tables(config)
    prices = prices_of(config, found, packed)
    groups = s.groups if s.partial else 1
    checkpoints = checkpoint.Checkpoints(run.checkpoints)
    parent = hosts.from_first_host(lambda: _parent(config, found, checkpoints))
    # A resumed run goes on with the lanes it was begun with, so that sums are added in the same order.
    kind = (devices or jax.devices())[0].device_kind
    lanes = config.engine.lanes or hosts.from_first_host(lambda: run.lanes(kind))
    fleet = Fleet(
        found.network,
        packed,
        dataset.mean,
        dataset.std,
        config.train,
        dataclasses.replace(config.engine, lanes=lanes),
        config.seed,
        proposer.most,
        devices,
        tasks=packed.clients * (1 if s.partial else proposer.most),
    )
    hosts.from_first_host(lambda: run.create(config, fleet.lanes, kind))
    return Setup(
        config,
        dataset,
        found,
        fleet,
        groups,
        assignment.client_groups(packed.train_count, groups),
        goal,
        prices,
        run,
        checkpoints,
        parent,
        proposer,
        policy,
        observe,
        should_stop,
        began,
        data.heterogeneity(np.asarray(packed.labels), packed.offsets),
    )


def same_config(config: Config) -> None:
    """Refuses hosts that were started with different commands."""
    gathered = hosts.allgather(config)
    for host, other in enumerate(gathered):
        if differ := differences(gathered[0], other):
            fields = "; ".join(f"{d} there" for d in differ)
            raise ConfigError(f"host {host}: has another config than host 0, want the same command: {fields}")


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


@functools.lru_cache(maxsize=4)
def _probed(net: NetConfig, shape: tuple[int, ...], classes: int, depth: bool, build: Callable[..., Any]) -> Space:
    """What probing finds out about a network, once for all searches of a process; `build` is what is registered."""
    return probing.probe(nets.build(net, shape, classes), net.multiple, depth=depth)


def _loaded(
    config: Config, given: data.Dataset | None
) -> tuple[data.Dataset, data.PackedClients, Space, Goal, Proposer]:
    """What a host has of its own: data set, clients, and what the network's space says of goal and proposals."""
    s = config.search
    dataset = given or data.load(config.data, config.seed)
    divided = data.partition(dataset.train.labels, config.data, config.seed, dataset.natural)
    skew = data.feature_skew(config.data, len(divided.offsets) - 1, config.seed)
    packed = data.pack(dataset.train, divided, config.data.validation, config.seed, skew)
    validate_clients(config, packed.clients)
    if s.centralised:
        packed = data.merge(packed)
    registered = nets.NETWORKS.get(config.net.name)
    probed = _probed if registered else _probed.__wrapped__  # a network of the user's own may have been edited
    shape, build = dataset.train.images.shape[1:], registered and registered.build
    found = probed(config.net, shape, dataset.classes, s.depth, build)
    goal = goal_of(found, s, config.cost)
    return dataset, packed, found, goal, proposer_of(found, s, goal)


def _policy(search: SearchConfig, proposer: Proposer) -> policies.Policy:
    """The search's policy, which may refuse so many candidates: better now than in the first iteration."""
    policy = policies.policy_of(search)
    policy.table(1, proposer.most)
    return policies.compiled(policy)


def _parent(config: Config, found: Space, checkpoints: checkpoint.Checkpoints) -> parents.Parent | None:
    """The parent that the config names; none where the run goes on and has its weights in a checkpoint."""
    return None if config.parent is None or checkpoints.begun() else parents.load(config.parent, found)
