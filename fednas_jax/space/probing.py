"""Width groups by probing: which dimensions shrink together, how to mask or slice them, and what the widths cost.

Letters: G width groups, a width vector w is [G], `keep` is a tuple of G masks or index arrays, one for each group.
"""

from __future__ import annotations

import functools
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fednas_jax.errors import ConfigError, NetworkError

Widths = tuple[int, ...]  # [G], in the order of Network.widths


# A program that runs once is not worth the compiler's best efforts.
RUN_ONCE = {"xla_backend_optimization_level": 0}


class Variables(NamedTuple):
    """A network's variables, flat: path -> array, such as 'conv1/kernel' -> [5, 5, 1, 32]."""

    params: dict[str, Any]
    stats: dict[str, Any]  # BatchNorm's running mean and variance


class Network(Protocol):
    """A family of networks, one for each choice of widths; `nets.adapters` makes one from flax modules."""

    name: str
    widths: dict[str, int]  # the parent's width of each group, by name
    input_shape: tuple[int, ...]  # one example, without the batch
    blocks: dict[str, int]  # groups whose channels leave in aligned blocks of so many, all at once; the others: 1
    removable: frozenset[str]  # groups whose width may be 0: their block is then left out

    def abstract(self, widths: Widths) -> Variables:
        """Shapes and dtypes of the variables at these widths; nothing is allocated."""

    def init(self, widths: Widths, key: jax.Array) -> Variables:
        """Freshly initialised variables."""

    def apply(
        self,
        widths: Widths,
        variables: Variables,
        images: jax.Array,
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Logits [B, classes] of images [B, ...] and the new statistics; `key` drives dropout (None: no dropout)."""


class Dim(NamedTuple):
    """A dimension that carries a width group: its size is repeat x width, channel = index modulo width."""

    group: int
    repeat: int


Label = tuple[Dim | None, ...]  # one entry for each dimension of a variable; None: the dimension is fixed


@dataclass(frozen=True)
class CostTable:
    """A resource as a sum of products of widths: R(w) = sum over rows of coef x prod over g of w_g^exponent.

    A row that goes with a removed block without scaling with its width, such as the block's last normalisation, counts
    only while the width that it needs is not 0.
    """

    coef: tuple[int, ...]  # [rows]
    exponents: tuple[tuple[int, ...], ...]  # [rows][G]
    needs: tuple[int | None, ...]  # [rows] the group that must not be 0, where the exponents do not see to that
    largest: int  # R of the parent, the largest value the search will ask for

    def __call__(self, widths: Any) -> Any:
        """R of widths [..., G].

        Tuples and numpy arrays are counted in 64-bit integers, exactly. A jax array (jit, vmap) is counted in int64
        where x64 is on; else in uint32, exact, if the parent fits; else in float32, to 1 part in 10^6.
        """
        if not isinstance(widths, jax.Array):
            w = np.asarray(widths, np.int64)
            terms = np.prod(w[..., None, :] ** np.asarray(self.exponents), axis=-1)
            for row, g in enumerate(self.needs):
                if g is not None:
                    terms[..., row] *= w[..., g] > 0
            total = terms @ np.asarray(self.coef, np.int64)
            return int(total) if total.ndim == 0 else total
        wide = jax.dtypes.canonicalize_dtype(np.int64) == np.int64
        dtype = np.int64 if wide else np.uint32 if self.largest < 2**32 else np.float32
        factors = widths.astype(dtype)

        def term(coef: int, row: tuple[int, ...], need: int | None) -> jax.Array:
            powers = [factors[..., g] for g, e in enumerate(row) for _ in range(e)]
            there = [] if need is None else [(widths[..., need] > 0).astype(dtype)]
            return functools.reduce(operator.mul, powers + there, jnp.asarray(coef, dtype))

        rows = zip(self.coef, self.exponents, self.needs, strict=True)
        return functools.reduce(operator.add, [term(*row) for row in rows])


@dataclass(frozen=True)
class Space:
    """What the probe found out about a network: its groups, the labels of its variables, and its costs."""

    network: Network
    groups: tuple[str, ...]  # [G] names
    widths: Widths  # [G] the parent's
    multiple: tuple[int, ...]  # [G] widths are multiples of this
    blocks: tuple[int, ...]  # [G] channels are kept or removed in aligned blocks of so many; divides `multiple`
    labels: dict[str, Label]  # path of a variable -> label of each of its dimensions
    macs: CostTable  # multiply-accumulates of one forward pass of one example
    params: CostTable  # trainable numbers
    size: CostTable  # bytes of parameters and statistics: what a client downloads or uploads
    gone: Mapping[str, int] = field(default_factory=dict)  # path of a variable -> the group at whose width 0 it goes

    @property
    def smallest(self) -> Widths:
        """The smallest widths the search may reach: 0 where that removes a block, else the multiple."""
        removable = set(self.gone.values())
        return tuple(0 if g in removable else least for g, least in enumerate(self.multiple))

    def resource(self, name: str) -> CostTable:
        """The table of a resource by name: 'macs', 'params' or 'bytes'."""
        return {"macs": self.macs, "params": self.params, "bytes": self.size}[name]

    def mask(self, tree: Any, keep: Sequence[Any]) -> Any:
        """`tree` with the removed channels set to zero on every dimension that carries their group.

        Where a group keeps none, so is every variable that goes with its block.

        Args:
          tree: parameters, statistics, or any tree that holds them by path, such as an optimiser's state.
          keep: for each group a boolean mask [width of the group in `tree`].
        """

        def masked(leaf: Any, path: str) -> Any:
            if path in self.gone:
                leaf = leaf * _np(leaf).any(keep[self.gone[path]]).astype(leaf.dtype)
            for axis, dim in enumerate(self.labels[path]):
                if dim is not None:
                    whole = _np(leaf).tile(keep[dim.group], dim.repeat)
                    leaf = leaf * whole.reshape([-1 if a == axis else 1 for a in range(leaf.ndim)]).astype(leaf.dtype)
            return leaf

        return self._map(masked, tree)

    def slice(self, tree: Any, keep: Sequence[Any]) -> Any:
        """`tree` with only the kept channels, and without the variables of removed blocks.

        Args:
          tree: as for `mask`.
          keep: for each group a boolean mask [width] or the kept channels' indices.
        """
        kept = [np.asarray(k) for k in keep]
        kept = [np.flatnonzero(k) if k.dtype == bool else k for k in kept]

        def sliced(leaf: Any, path: str) -> Any:
            for axis, dim in enumerate(self.labels[path]):
                if dim is not None:
                    width = leaf.shape[axis] // dim.repeat
                    index = (np.arange(dim.repeat)[:, None] * width + kept[dim.group]).ravel()
                    leaf = _np(leaf).take(leaf, index, axis=axis)
            return leaf

        return self._map(sliced, _without(tree, {path for path, g in self.gone.items() if not len(kept[g])}))

    def embed(self, variables: Variables, widths: Widths) -> Variables:
        """`variables` put into the larger network of these widths, their channels first and zeros after them.

        Variables of blocks that only the larger network has are zeros.
        """

        def embedded(leaf: Any, path: str) -> Any:
            for axis, dim in enumerate(self.labels[path]):
                if dim is not None:
                    old = leaf.shape[axis] // dim.repeat
                    shape = (*leaf.shape[:axis], dim.repeat, old, *leaf.shape[axis + 1 :])
                    pad = [(0, widths[dim.group] - old if a == axis + 1 else 0) for a in range(len(shape))]
                    final = (*leaf.shape[:axis], dim.repeat * widths[dim.group], *leaf.shape[axis + 1 :])
                    leaf = _np(leaf).pad(leaf.reshape(shape), pad).reshape(final)
            return leaf

        host = all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(variables))
        zeros = jax.tree.map(lambda a: (np if host else jnp).zeros(a.shape, a.dtype), self.network.abstract(widths))
        grown = self._map(embedded, variables)
        return Variables(*({**new, **old} for new, old in zip(zeros, grown, strict=True)))

    def norms(self, params: Mapping[str, Any]) -> tuple[jax.Array, ...]:
        """L2 norm of each channel's filters, for each group [width]: what NetAdapt keeps channels by.

        The filters of a channel are the slices of the kernels that produce it: those whose last dimension, the
        output in flax, carries the group. Where removed blocks left a group none, it is one 0 for all channels.
        """
        squares: list[Any] = [0.0] * len(self.groups)
        for path, value in params.items():
            dim = self.labels[path][-1] if value.ndim > 1 else None
            if dim is not None:
                summed = jnp.sum(jnp.square(value), axis=tuple(range(value.ndim - 1)))
                squares[dim.group] = squares[dim.group] + summed.reshape(dim.repeat, -1).sum(0)
        return tuple(jnp.sqrt(s) for s in squares)

    def _map(self, change: Callable[[Any, str], Any], tree: Any) -> Any:
        """Applies `change(leaf, path)` to every leaf that stands in the tree under a variable's path; others stay."""

        def visit(path: tuple[Any, ...], leaf: Any) -> Any:
            keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey) and k.key in self.labels]
            return change(leaf, keys[-1]) if keys and leaf.ndim == len(self.labels[keys[-1]]) else leaf

        return jax.tree_util.tree_map_with_path(visit, tree)


def probe(network: Network, multiple: Sequence[int] = (8,), check: bool = True, depth: bool = True) -> Space:
    """Finds the width groups of a network by building it abstractly with one group changed at a time.

    Args:
      network: the family of networks.
      multiple: widths are multiples of this, one number or one for each group.
      check: also train one step masked and sliced, and refuse the network if they differ (this allocates it).
      depth: let the groups that the network calls removable reach width 0.

    Raises:
      NetworkError: the network has no width group, a dimension mixes groups or does not scale, a removable group's
        block stays at width 0, or masked and sliced training differ; names the variable.
      ConfigError: `multiple` does not fit the groups, or it or a width is no multiple of the group's block.
    """
    groups, widths = tuple(network.widths), tuple(network.widths.values())
    if not groups:
        raise NetworkError(f"{network.name}: has no width groups, want at least one width to search")
    multiples = tuple(multiple) * len(groups) if len(multiple) == 1 else tuple(multiple)
    if len(multiples) != len(groups):
        want = f"want one number or {len(groups)}, one for each of {', '.join(groups)}"
        raise ConfigError(f"net.multiple: got {len(multiples)} numbers, {want}")
    for group, width, least in zip(groups, widths, multiples, strict=True):
        if width < least:
            raise ConfigError(f"net.widths: {group} got {width}, want at least its multiple, which is {least}")
    blocks = _blocks(network, multiples)
    can_leave: frozenset[str] = getattr(network, "removable", frozenset())  # a network of the user's own may have none
    if unknown := sorted(can_leave - set(groups)):
        raise NetworkError(f"{network.name}: got '{unknown[0]}' as removable, want some of {', '.join(groups)}")
    removable = [g for g, group in enumerate(groups) if depth and group in can_leave]
    labels = _labels(network, groups, widths)
    gone = _gone(network, groups, _grown(widths, primes(len(groups))), labels, removable)
    shapes = network.abstract(widths)
    everything = {**shapes.params, **shapes.stats}
    space = Space(
        network=network,
        groups=groups,
        widths=widths,
        multiple=multiples,
        blocks=blocks,
        labels=labels,
        macs=macs_table(network, widths, removable=removable),
        params=_size_table(shapes.params, labels, gone, widths, lambda leaf: 1),
        size=_size_table(everything, labels, gone, widths, lambda leaf: leaf.dtype.itemsize),
        gone=gone,
    )
    if check:
        check_masking(space)
    return space


def count_macs(network: Network, widths: Widths) -> int:
    """Multiply-accumulates of one example's forward pass, counted directly from the traced network."""
    return sum(layer_macs(network, widths))


def layer_macs(network: Network, widths: Widths) -> list[int]:
    """Multiply-accumulates of each convolution and matrix product of one example's forward pass, in order."""
    return list(_equation_macs(traced(network, widths).jaxpr, 1))


def traced(network: Network, widths: Widths) -> Any:
    """The closed jaxpr of one example's forward pass: its inputs are the variables and, last, the image."""
    variables = network.abstract(widths)
    image = jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32)
    return jax.make_jaxpr(lambda v, x: network.apply(widths, v, x, train=False)[0])(variables, image)


def check_masking(space: Space, tolerance: float = 1e-4) -> None:
    """Trains one step masked and sliced, at small widths, and refuses the network if the two differ.

    A layer that mixes channels (LayerNorm) or an activation that does not map 0 to 0 (sigmoid) shows up here.

    Raises:
      NetworkError: names the variable that differs most, or that leaks out of the mask.
    """
    whole = tuple(min(w, 2 * m) for w, m in zip(space.widths, space.multiple, strict=True))
    try:
        space.network.abstract(whole)
    except Exception:  # a network may need its own widths, for instance to divide them into groups
        whole = space.widths
    # Every second channel or block goes, so that a wrong order of channels is seen too.
    half = tuple(np.arange(w) // block % 2 == 0 for w, block in zip(whole, space.blocks, strict=True))
    want = "activations that map 0 to 0 and normalisation by channel, or by blocks of channels that `blocks` names"
    _check_one_step(space, whole, half, tolerance, want)
    if space.gone:
        bare = tuple(k & (least > 0) for k, least in zip(half, space.smallest, strict=True))
        want = "x + nets.unless_removed(branch, kernel) where a block can be removed"
        _check_one_step(space, whole, bare, tolerance, want)


def _check_one_step(space: Space, whole: Widths, keep: tuple[np.ndarray, ...], tolerance: float, want: str) -> None:
    """Compares one step masked with one sliced; `want` is what the message asks for if they differ."""
    kept = tuple(int(k.sum()) for k in keep)
    try:
        space.network.abstract(kept)
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NetworkError(
            f"{space.network.name}: cannot be built at widths {kept}: {why}; want every width that net.multiple "
            "allows, or `blocks`, if channels can only leave in blocks"
        ) from error
    start = space.mask(_random_variables(space.network.abstract(whole)), keep)
    batch = np.random.default_rng(1).normal(size=(4, *space.network.input_shape)).astype(np.float32)
    masked, sliced = (
        jax.device_get(_one_step(space.network, widths, variables, batch))
        for widths, variables in ((whole, start), (kept, space.slice(start, keep)))
    )
    inside = space.slice(masked, keep)
    leak = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), masked, space.mask(masked, keep))
    gap = jax.tree.map(lambda a, b: np.max(np.abs(a - b)) / (1 + np.max(np.abs(b))), inside, sliced)
    for found, bound, what in (
        (leak, 0.0, "leaks out of the mask"),
        (gap, tolerance, "differs from the sliced one"),
    ):
        path, value = max(((p, float(v)) for part in found for p, v in part.items()), key=lambda pair: pair[1])
        if not value <= bound:
            raise NetworkError(
                f"{space.network.name}: masked training of '{path}' {what} by {value:.1e} after one step; want {want}"
            )


def _random_variables(shapes: Variables) -> Variables:
    """Parameters and statistics without zeros, small as freshly initialised ones, made on the host.

    Biases and scales are positive: a layer whose few ReLUs are all off would hide whatever is wrong before it.
    """
    rng = np.random.default_rng(0)

    def draw(leaf: Any) -> Any:
        fan_in = max(1, math.prod(leaf.shape[:-1]))
        sign = rng.choice([-1, 1], leaf.shape) if leaf.ndim > 1 else 1
        return (rng.uniform(0.5, 1.5, leaf.shape) * sign / fan_in**0.5).astype(leaf.dtype)

    return Variables(jax.tree.map(draw, shapes.params), jax.tree.map(lambda x: np.abs(draw(x)), shapes.stats))


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=RUN_ONCE)
def _one_step(network: Network, widths: Widths, variables: Variables, batch: jax.Array) -> Variables:
    """One step of SGD with weight decay on a random linear loss of the log-probabilities."""

    def loss(params: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
        logits, stats = network.apply(widths, Variables(params, variables.stats), batch, train=True)
        weights = jax.random.normal(jax.random.key(2), logits.shape)
        return -jnp.mean(weights * jax.nn.log_softmax(logits)), stats

    grads, stats = jax.grad(loss, has_aux=True)(variables.params)
    return Variables(jax.tree.map(lambda p, g: p - 0.1 * (g + 1e-4 * p), variables.params, grads), stats)


def _np(leaf: Any) -> Any:
    """numpy for arrays on the host, jax.numpy for the others."""
    return np if isinstance(leaf, np.ndarray) else jnp


def _blocks(network: Network, multiples: Sequence[int]) -> tuple[int, ...]:
    """The block of each group, which its width and its multiple must consist of."""
    given = getattr(network, "blocks", {})  # a network of the user's own may have none
    if unknown := sorted(set(given) - set(network.widths)):
        raise NetworkError(f"{network.name}: blocks name {unknown[0]!r}, want one of {', '.join(network.widths)}")
    blocks = tuple(given.get(group, 1) for group in network.widths)
    for block, multiple, (group, width) in zip(blocks, multiples, network.widths.items(), strict=True):
        if block < 1:
            raise NetworkError(f"{network.name}: blocks of {group} got {block} channels, want at least 1")
        for setting, got in (("net.multiple", multiple), ("net.widths", width)):
            if got % block:
                want = f"want a multiple of {block}: its channels are normalised in groups of {block} (net.group_size)"
                raise ConfigError(f"{setting}: {group} got {got}, {want}")
    return blocks


def _labels(network: Network, groups: tuple[str, ...], widths: Widths) -> dict[str, Label]:
    """Labels every dimension of every variable with the group whose factor it grows by.

    One build answers for all groups, since each grows by a prime of its own. A dimension made of two groups grows by
    no single prime; two more builds with the primes dealt otherwise rule out that it looks as if it did.
    """
    base = _shapes(network, widths)
    turns = primes(len(groups))
    labels: dict[str, list[Dim | None]] = {}
    used: set[int] = set()
    for turn in range(min(3, len(groups) + 1)):
        factors = (*turns[turn:], *turns[:turn]) if len(groups) > 1 else (2 + turn,)
        grown = _shapes(network, _grown(widths, factors))
        if grown.keys() != base.keys():
            raise NetworkError(f"{network.name}: '{min(base.keys() ^ grown.keys())}' comes or goes with the widths")
        for path, shape in base.items():
            found = []
            for axis, (before, after) in enumerate(zip(shape, grown[path], strict=True)):
                g = factors.index(after // before) if after in [f * before for f in factors] else None
                if after != before and (g is None or before % widths[g]):
                    raise _unlabelled(network, groups, widths, path, axis)
                found.append(None if g is None else Dim(g, before // widths[g]))
            if labels.setdefault(path, found) != found:
                axis = [a != b for a, b in zip(labels[path], found, strict=True)].index(True)
                raise _unlabelled(network, groups, widths, path, axis)
            used.update(dim.group for dim in found if dim is not None)
    for g, group in enumerate(groups):
        if g not in used:
            raise NetworkError(f"{network.name}: no variable's shape depends on the width of {group}")
    return {path: tuple(label) for path, label in labels.items()}


def _unlabelled(network: Network, groups: tuple[str, ...], widths: Widths, path: str, axis: int) -> NetworkError:
    """Says which groups a dimension depends on, from one build for each group."""
    size = _shapes(network, widths)[path][axis]
    where = f"{network.name}: dimension {axis} of '{path}', of size {size},"
    doubled = (_grown(widths, tuple(2 if h == g else 1 for h in range(len(groups)))) for g in range(len(groups)))
    depends = [group for group, w in zip(groups, doubled, strict=True) if _shapes(network, w)[path][axis] != size]
    if len(depends) > 1:
        return NetworkError(f"{where} mixes the width groups {' and '.join(depends)}; want one group a dimension")
    return NetworkError(f"{where} is no whole multiple of the width of {', '.join(depends) or 'a group'}")


def _without(tree: Any, paths: set[str]) -> Any:
    """`tree` without these keys, in whichever dictionaries of it they stand."""

    def visit(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {key: _without(value, paths) for key, value in node.items() if key not in paths}

    return jax.tree.map(visit, tree, is_leaf=lambda node: isinstance(node, dict)) if paths else tree


def _gone(
    network: Network, groups: tuple[str, ...], widths: Widths, labels: Mapping[str, Label], removable: Sequence[int]
) -> dict[str, int]:
    """Which variables go with which removable group: those that the network has with this group, but not with none."""
    if not removable:
        return {}
    whole = _shapes(network, widths)
    found: dict[int | None, set[str]] = {}
    for alone, reduced in _reductions(widths, removable).items():
        what = "its removable groups" if alone is None else f"any of its removable groups but {groups[alone]}"
        try:
            shapes = _shapes(network, reduced)
        except Exception as error:  # whatever a layer thinks of width 0
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise NetworkError(f"{network.name}: cannot be built without {what}: {reason}") from error
        for path, shape in shapes.items():
            if whole.get(path) != shape:
                got = f"got '{path}' of shape {list(shape)} without {what}"
                want = (
                    f"{list(whole[path])} as with them, or no such variable" if path in whole else "none of this path"
                )
                raise NetworkError(f"{network.name}: {got}, want {want}")
        found[alone] = set(shapes)
    gone: dict[str, int] = {}
    for path in sorted(whole.keys() - found[None]):
        holders = [g for g in removable if path in found[g]]
        if len(holders) != 1:
            raise NetworkError(f"{network.name}: '{path}' goes with several removable groups, want one a block")
        gone[path] = holders[0]
    for g in removable:
        if g not in gone.values():
            raise NetworkError(f"{network.name}: no variable goes where {groups[g]} is 0, want its block to go")
    return gone


def _reductions(widths: Widths, removable: Sequence[int]) -> dict[int | None, Widths]:
    """Widths with every removable group at 0 (under None), and with every one but g (under g).

    A network of one block is small: building it costs less than building the whole without that block.
    """
    bare = tuple(0 if g in removable else w for g, w in enumerate(widths))
    return {None: bare} | {g: (*bare[:g], widths[g], *bare[g + 1 :]) for g in removable}


def primes(count: int, apart_from: Iterable[int] = ()) -> tuple[int, ...]:
    """The first primes that divide none of some numbers."""
    numbers, before, n = set(apart_from), list[int](), 2
    found: list[int] = []
    while len(found) < count:
        if all(n % p for p in before):
            before.append(n)
            if all(number % n for number in numbers):
                found.append(n)
        n += 1
    return tuple(found)


def grown_by_primes(widths: Widths) -> Widths:
    """Every width times a prime of its own, so that `powers` can tell the groups apart."""
    return _grown(widths, primes(len(widths)))


def powers(before: int, after: int, factors: Sequence[int]) -> tuple[int, ...] | None:
    """The exponents [G] with which a size depends on the widths, from what it grew to when each grew by a prime.

    None where the size is no constant times a product of powers of widths.

    Args:
      before: the size at some widths.
      after: the size at those widths times the factors.
      factors: [G] the primes.
    """
    growth, rest = divmod(after, before)
    if rest or not growth:
        return None
    found = tuple(next(e for e in range(64) if growth % p ** (e + 1)) for p in factors)
    return found if growth == math.prod(p**e for p, e in zip(factors, found, strict=True)) else None


def _shapes(network: Network, widths: Widths) -> dict[str, tuple[int, ...]]:
    variables = network.abstract(widths)
    return {path: tuple(leaf.shape) for part in variables for path, leaf in part.items()}


def _grown(widths: Widths, factors: tuple[int, ...]) -> Widths:
    return tuple(w * f for w, f in zip(widths, factors, strict=True))


def macs_table(
    network: Network,
    widths: Widths,
    layers: Callable[[Network, Widths], list[int]] = layer_macs,
    removable: Sequence[int] = (),
) -> CostTable:
    """The MACs that `layers` counts, as a function of the widths.

    Each convolution or product of the trace scales with every width as w_g^e; factoring its growth gives the e.

    Args:
      network: the family.
      widths: the parent's.
      layers: counts each layer of the network at some widths.
      removable: numbers of the groups that may reach 0.

    Raises:
      NetworkError: a layer comes or goes with the widths (but for removable ones), or grows otherwise.
    """
    base = layers(network, widths)
    # No layer's MACs are divisible by these primes, so those of a grown layer say which powers of them they contain.
    factors = primes(len(widths), base)
    whole = _grown(widths, factors)
    grown = layers(network, whole)
    if len(grown) != len(base):
        raise NetworkError(f"{network.name}: the widths change which layers there are")
    needs = _needs(network, whole, grown, layers, removable)
    rows = []
    for row, (before, after) in enumerate(zip(base, grown, strict=True)):
        found = powers(before, after, factors)
        if found is None:
            raise NetworkError(f"{network.name}: the MACs of layer {row} are no product of powers of the widths")
        rows.append((before, list(found), needs[after].pop()))
    return _table(widths, rows)


def _needs(
    network: Network,
    whole: Widths,
    grown: list[int],
    layers: Callable[[Network, Widths], list[int]],
    removable: Sequence[int],
) -> dict[int, list[int | None]]:
    """For layers of each number of MACs, which removable groups they go with; a layer like another costs like it."""
    if not removable:
        return {macs: [None] * count for macs, count in Counter(grown).items()}
    left = {alone: Counter(layers(network, w)) for alone, w in _reductions(whole, removable).items()}
    found = {}
    for macs, count in Counter(grown).items():
        stay = left[None][macs]
        found[macs] = [None] * stay + [g for g in removable for _ in range(left[g][macs] - stay)]
        if len(found[macs]) != count:
            raise NetworkError(f"{network.name}: a layer goes with several removable groups, want one a block")
    if extra := set().union(*left.values()) - found.keys():
        raise NetworkError(f"{network.name}: got {len(extra)} more layers where blocks are removed, want none")
    return found


def _size_table(
    shapes: Mapping[str, Any],
    labels: Mapping[str, Label],
    gone: Mapping[str, int],
    widths: Widths,
    each: Callable[[Any], int],
) -> CostTable:
    def rows() -> Iterator[tuple[int, list[int], int | None]]:
        for path, leaf in shapes.items():
            exponents = [0] * len(widths)
            for dim in labels[path]:
                if dim is not None:
                    exponents[dim.group] += 1
            yield math.prod(leaf.shape) * each(leaf), exponents, gone.get(path)

    return _table(widths, rows())


def _table(widths: Widths, rows: Iterable[tuple[int, list[int], int | None]]) -> CostTable:
    """Divides each row's value at `widths` by its product of widths, and merges rows that are alike."""
    merged: dict[tuple[tuple[int, ...], int | None], int] = {}
    largest = 0
    for value, exponents, need in rows:
        coef = value // math.prod(w**e for w, e in zip(widths, exponents, strict=True))
        # A power of the width that is needed is 0 with it.
        kind = (tuple(exponents), None if need is None or exponents[need] else need)
        merged[kind] = merged.get(kind, 0) + coef
        largest += value
    return CostTable(tuple(merged.values()), tuple(e for e, _ in merged), tuple(n for _, n in merged), largest)


def product_macs(eqn: Any) -> int | None:
    """Multiply-accumulates of an equation of a jaxpr; None where it is neither a convolution nor a product."""
    if eqn.primitive.name == "conv_general_dilated":
        out, kernel = eqn.outvars[0].aval, eqn.invars[1].aval
        out_features = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
        return math.prod(out.shape) * (math.prod(kernel.shape) // out_features)
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        left = eqn.invars[0].aval
        return math.prod(eqn.outvars[0].aval.shape) * math.prod(left.shape[d] for d in contracted)
    return None


def inner_jaxprs(eqn: Any) -> Iterator[Any]:
    """The jaxprs that an equation calls, without their constants."""
    for value in eqn.params.values():
        for sub in value if isinstance(value, (tuple, list)) else (value,):
            closed = getattr(sub, "jaxpr", sub)
            if hasattr(closed, "eqns"):
                yield closed


def _equation_macs(jaxpr: Any, times: int) -> Iterator[int]:
    for eqn in jaxpr.eqns:
        macs = product_macs(eqn)
        if macs is not None:
            yield times * macs
            continue
        inner = times * eqn.params["length"] if eqn.primitive.name == "scan" else times
        for sub in inner_jaxprs(eqn):
            yield from _equation_macs(sub, inner)
