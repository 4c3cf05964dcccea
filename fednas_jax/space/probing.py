"""Finds out which dimensions shrink together by building a network abstractly, and refuses what masks would break."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fednas_jax.errors import ConfigError, NetworkError
from fednas_jax.seeds import KEYS
from fednas_jax.space import causes, segments
from fednas_jax.space.costs import grown, macs_table, primes, reductions, size_table
from fednas_jax.space.jaxprs import count_macs, flatten
from fednas_jax.space.masks import Space
from fednas_jax.space.network import RUN_ONCE, Dim, Label, Network, Row, Variables, Widths, random_inputs
from fednas_jax.space.provenance import follow
from fednas_jax.space.segments import Products

CHANNELS = 8  # of a group in the one-step check, where there are so many: of few, many orders are alike
UNCLEAR = Row((), 0)  # a dimension that grows as no single group does; channels must be followed to know more


class _OrderError(NetworkError):
    """The channels of a variable lie in another order than its label says."""


def probe(network: Network, multiple: Sequence[int] = (8,), check: bool = True, depth: bool = True) -> Space:
    """Finds the width groups of a network by building it abstractly with one group changed at a time.

    Args:
      network: the family of networks.
      multiple: widths are multiples of this, one number (for all groups but counted ones) or one for each group.
      check: also train one step masked and sliced, to find out whether masking is exact (`Space.inexact`; this
        allocates the network).
      depth: let the groups that the network calls removable reach width 0.

    Raises:
      NetworkError: the network has no width group, a dimension mixes groups or does not scale, a removable group's
        block stays at width 0, it matters which of a group's channels comes first, or a variable is no float32; names
        the variable.
      ConfigError: `multiple` does not fit the groups, or it or a width is no multiple of the group's block.
    """
    groups, widths = tuple(network.widths), tuple(network.widths.values())
    if not groups:
        raise NetworkError(f"{network.name}: has no width groups, want at least one width to search")
    counted: frozenset[str] = getattr(network, "counted", frozenset())  # a network of the user's own may have none
    one = len(multiple) == 1
    multiples = tuple(1 if g in counted else multiple[0] for g in groups) if one else tuple(multiple)
    if len(multiples) != len(groups):
        want = f"want one number or {len(groups)}, one for each of {', '.join(groups)}"
        raise ConfigError(f"net.multiple: got {len(multiples)} numbers, {want}")
    for group, width, least in zip(groups, widths, multiples, strict=True):
        if width < least:
            raise ConfigError(f"net.widths: {group} got {width}, want at least its multiple, which is {least}")
    blocks = _blocks(network, multiples)
    can_leave: frozenset[str] = getattr(network, "removable", frozenset())  # a network of the user's own may have none
    for what, named in (("removable", can_leave), ("counted", counted)):
        if unknown := sorted(named - set(groups)):
            raise NetworkError(f"{network.name}: got '{unknown[0]}' as {what}, want some of {', '.join(groups)}")
    removable = [g for g, group in enumerate(groups) if depth and group in can_leave]
    shapes = network.abstract(widths)
    everything = {**shapes.params, **shapes.stats}
    for path, leaf in everything.items():
        if leaf.dtype != np.float32:
            want = "want every variable float32, in which they are averaged (train.precision says what computes)"
            raise NetworkError(f"{network.name}: '{path}' is {leaf.dtype}, {want}")
    labels = _labels(network, groups, widths)
    products: Products | None = None
    if any(dim is UNCLEAR for label in labels.values() for dim in label):
        labels, products = _followed(network, groups, widths, multiples, labels)
    gone = _gone(network, groups, grown(widths, primes(len(groups))), labels, removable)
    space = Space(
        network=network,
        groups=groups,
        widths=widths,
        multiple=multiples,
        blocks=blocks,
        labels=labels,
        macs=macs_table(network, widths, removable=removable, products=products),
        params=size_table(shapes.params, labels, gone, widths, lambda leaf: 1),
        size=size_table(everything, labels, gone, widths, lambda leaf: leaf.dtype.itemsize),
        gone=gone,
        products=products,
    )
    if not check:
        return space
    _confirm(space)
    return _checked(space)


def _confirm(space: Space) -> None:
    """Builds the network at its least widths, and with every second group at its own instead.

    How sizes depend on the widths was found by growing them. A size that is rounded, or the larger of two, may do so
    otherwise where they shrink.
    """
    network, named = space.network, tuple(zip(space.groups, space.widths, space.smallest, strict=True))
    mixed = [tuple(w if g % 2 == turn else least for g, (_, w, least) in enumerate(named)) for turn in (0, 1)]
    whole = _shapes(network, space.widths)
    for widths in dict.fromkeys([space.smallest, *mixed]):
        try:
            shapes, macs = _shapes(network, widths), count_macs(network, widths)
        except Exception as error:  # whatever a layer thinks of these widths
            raise _unbuildable(network, widths, error) from error
        at = f"at {', '.join(f'{group}={w}' for group, w in zip(space.groups, widths, strict=True))}"
        want = (
            "as larger widths tell; want sizes that follow the widths down to the least, neither rounded nor compared"
        )
        there = {path for path in whole if path not in space.gone or widths[space.gone[path]]}
        if shapes.keys() != there:
            raise NetworkError(f"{network.name}: '{min(shapes.keys() ^ there)}' comes or goes {at}")
        for path, shape in shapes.items():
            sizes = zip(space.labels[path], whole[path], strict=True)
            told = tuple(n if dim is None else segments.size(dim, dict(enumerate(widths))) for dim, n in sizes)
            if shape != told:
                raise NetworkError(f"{network.name}: '{path}' is {list(shape)} {at}, not {list(told)} {want}")
        if macs != space.macs(widths):
            raise NetworkError(f"{network.name}: takes {macs:,} MACs {at}, not {space.macs(widths):,} {want}")


def _checked(space: Space) -> Space:
    """The space with what `check_masking` says of it, and with labels that were followed where sizes do not suffice."""
    by_sizes = None
    try:
        by_sizes = dataclasses.replace(space, inexact=check_masking(space))
        if not by_sizes.inexact or space.products:
            return by_sizes
    except _OrderError:
        pass
    # Sizes do not show in which order channels lie: heads that share a dimension with their width are reordered, and
    # training with them, as if each were a single channel. Following channels shows it.
    order: Mapping[str, Label] = space.labels
    if not space.products:
        try:
            order = _followed(space.network, space.groups, space.widths, space.multiple, space.labels)[0]
        except NetworkError:
            if by_sizes is None:
                raise
    if by_sizes and order == space.labels:
        return by_sizes
    space = dataclasses.replace(space, labels=dict(order))
    try:
        return dataclasses.replace(space, inexact=check_masking(space, followed=True))
    except _OrderError:
        if by_sizes is None:
            raise
        return by_sizes


def check_masking(space: Space, tolerance: float = 1e-4, followed: bool = False) -> str:
    """Trains one step masked and sliced, at small widths, and says why the two differ, in words; '' if they do not.

    A layer that mixes channels (LayerNorm) or an activation that does not map 0 to 0 (sigmoid) shows up here. Where the
    two differ, slicing itself is checked: a step from channels in another order must lead to the same in that order.

    Args:
      space: of the network.
      tolerance: of a difference, relative to the largest number where that is above 1.
      followed: the order of channels was found by following them. Then channels that are normalised in groups may be
        what the order matters for.

    Raises:
      NetworkError: it does not: the channels of a variable lie in another order than the rest of the network takes
        them in; or the network cannot be built at smaller widths.
    """
    whole = tuple(map(_small, space.widths, space.multiple))
    try:
        space.network.abstract(whole)
    except Exception:  # a network may need its own widths, for instance to divide them into groups
        whole = space.widths
    keeps = _keeps(space, whole)
    want = "activations that map 0 to 0 and normalisation by channel, or by blocks of channels that `blocks` names"
    differences = ((_difference(space, whole, keep, tolerance), keep) for keep in keeps)
    found, half = next((pair for pair in differences if pair[0]), ("", keeps[0]))
    cause = None
    if found or (not space.wired and causes.constants_differ(space.network, whole, half)):
        cause = _cause(space, whole, half)
        found = found or (cause is not None and "too little to see after one step") or ""
    if not found and space.gone:
        bare = tuple(k & (least > 0) for k, least in zip(half, space.smallest, strict=True))
        want = "x + nets.unless_removed(branch, kernel) where a block can be removed"
        found = _difference(space, whole, bare, tolerance)
    if not found:
        return _wired(space)
    in_groups = followed and cause is not None and cause.what == causes.IN_GROUPS
    if order := _order_matters(space, whole, tolerance, in_groups):
        raise _OrderError(f"{space.network.name}: {order}")
    if space.wired:
        return _wired(space)
    if cause:
        found, want = f"{cause.what} ({found})", cause.instead
    return f"{space.network.name}: {found}; want {want}"


def _small(width: int, multiple: int) -> int:
    """A width to check at: an even number of multiples, and enough channels for their order to matter."""
    pair = 2 * multiple
    return min(width, pair * min(-(-CHANNELS // pair), max(1, width // pair)))


def _keeps(space: Space, whole: Widths) -> list[tuple[np.ndarray, ...]]:
    """Masks [width] of the groups to check, all of the same widths, which `net.multiple` allows: about half of whole.

    Every second channel or block, the first ones, and some at random: what takes channels in a wrong order, or ties one
    half of them to the other, is right about some of these, but not about all.
    """
    rng = np.random.default_rng(4)
    keeps: list[list[np.ndarray]] = [[], [], []]
    for width, block, multiple in zip(whole, space.blocks, space.multiple, strict=True):
        blocks, kept = width // block, max(multiple, width // 2 // multiple * multiple) // block
        even = np.argsort(np.arange(blocks) % 2, kind="stable")
        for keep, order in zip(keeps, (even, np.arange(blocks), rng.permutation(blocks)), strict=True):
            keep.append(np.repeat(np.isin(np.arange(blocks), order[:kept]), block))
    return [tuple(keep) for keep in keeps]


def _wired(space: Space) -> str:
    """Why channels that come in an order of their own widths are not masked, in words; '' where there are none."""
    if not space.wired:
        return ""
    names = " and ".join(space.groups[g] for g in sorted(space.wired))
    why = f"which layers read a channel of {names} depends on the width, as where halves are split off and shuffled"
    return f"{space.network.name}: {why}; want splits of whole groups"


def _cause(space: Space, whole: Widths, keep: tuple[np.ndarray, ...]) -> causes.Cause | None:
    """Where in the forward pass masked and sliced part, if they do."""
    start = space.mask(_random_variables(space.network.abstract(whole)), keep)
    return causes.first_cause(space.network, space.labels, whole, keep, start, space.slice(start, keep))


def _difference(space: Space, whole: Widths, keep: tuple[np.ndarray, ...], tolerance: float) -> str:
    """How one step masked differs from one sliced, in words."""
    kept = tuple(int(k.sum()) for k in keep)
    try:
        space.network.abstract(kept)
    except Exception as error:
        raise _unbuildable(space.network, kept, error) from error
    start = space.mask(_random_variables(space.network.abstract(whole)), keep)
    masked, sliced = _stepped(space, whole, start), _stepped(space, kept, space.slice(start, keep))
    inside = space.slice(masked, keep)
    leak = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), masked, space.mask(masked, keep))
    gap = _gap(inside, sliced)
    for found, bound, what in (
        (leak, 0.0, "leaks out of the mask"),
        (gap, tolerance, "differs from the sliced one"),
    ):
        path, value = _worst(found)
        if not value <= bound:
            return f"masked training of '{path}' {what} by {value:.1e} after one step"
    return ""


def _unbuildable(network: Network, widths: Widths, error: Exception) -> NetworkError:
    """Says that a layer does not take these widths."""
    why = (str(error).splitlines() or [type(error).__name__])[0].removesuffix(".")
    want = "want every width that net.multiple allows, or `blocks`, if channels can only leave in blocks"
    return NetworkError(f"{network.name}: cannot be built at widths {widths}: {why}; {want}")


def _order_matters(space: Space, whole: Widths, tolerance: float, in_groups: bool) -> str:
    """Where one step from channels in another order leads to something else, in words.

    The order is a random one, since a reversal commutes with a shuffle; but for channels that are normalised in groups,
    which a reversal alone leaves together.
    """
    start = _random_variables(space.network.abstract(whole))
    rng = np.random.default_rng(3)
    blocks = [w // block for w, block in zip(whole, space.blocks, strict=True)]
    orders = [np.arange(n)[::-1] if in_groups else rng.permutation(n) for n in blocks]
    turned = [
        order[:, None] * block + np.arange(block)[::-1] for order, block in zip(orders, space.blocks, strict=True)
    ]
    turned = [order.ravel() for order in turned]
    straight, back = _stepped(space, whole, start), _stepped(space, whole, space.slice(start, turned))
    path, value = _worst(jax.tree.map(np.sum, straight))
    if not np.isfinite(value):
        return f"training makes '{path}' {value} after one step, want finite numbers"
    path, value = _worst(_gap(back, space.slice(straight, turned)))
    if value <= tolerance:
        return ""
    return (
        f"training of '{path}' depends on the order of a group's channels, by {value:.1e} after one step; want every "
        "layer to take them in one order, as NHWC images are flattened, and no table, window or fixed number of groups "
        "that tells them apart"
    )


def _gap(got: Variables, want: Variables) -> Variables:
    """The largest difference of each variable, relative to its largest number where that is above 1."""
    return jax.tree.map(lambda a, b: np.max(np.abs(a - b)) / (1 + np.max(np.abs(b))), got, want)


def _worst(found: Variables) -> tuple[str, float]:
    """The variable with the largest number, a NaN before all others."""
    return max(
        ((p, float(v)) for part in found for p, v in part.items()), key=lambda pair: (pair[1] != pair[1], pair[1])
    )


def _stepped(space: Space, widths: Widths, variables: Variables) -> Variables:
    """The variables after one step on a batch that is always the same."""
    return jax.device_get(_one_step(space.network, widths, variables, random_inputs(space.network, 4, seed=1)))


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
        weights = jax.random.normal(jax.random.key(2, impl=KEYS), logits.shape)
        return -jnp.mean(weights * jax.nn.log_softmax(logits)), stats

    grads, stats = jax.grad(loss, has_aux=True)(variables.params)
    return Variables(jax.tree.map(lambda p, g: p - 0.1 * (g + 1e-4 * p), variables.params, grads), stats)


def _blocks(network: Network, multiples: Sequence[int]) -> tuple[int, ...]:
    """The block of each group, which its width and its multiple must consist of."""
    given = getattr(network, "blocks", {})  # a network of the user's own may have none
    if unknown := sorted(set(given) - set(network.widths)):
        raise NetworkError(f"{network.name}: blocks name {unknown[0]!r}, want one of {', '.join(network.widths)}")
    blocks = tuple(given.get(group, 1) for group in network.widths)
    for block, multiple, (group, width) in zip(blocks, multiples, network.widths.items(), strict=True):
        if not isinstance(block, int) or block < 1:
            raise NetworkError(
                f"{network.name}: blocks of {group} got {block} channels, want a whole number, at least 1"
            )
        for setting, got in (("net.multiple", multiple), ("net.widths", width)):
            if got % block:
                want = f"want a multiple of {block}: its channels are normalised in groups of {block} (net.group_size)"
                raise ConfigError(f"{setting}: {group} got {got}, {want}")
    return blocks


def _labels(network: Network, groups: tuple[str, ...], widths: Widths) -> dict[str, Label]:
    """Labels every dimension of every variable with the group whose factor it grows by.

    One build answers for all groups, since each grows by a prime of its own. A dimension made of several segments grows
    by no single prime, and is UNCLEAR; two more builds with the primes dealt otherwise rule out that it looks as if it
    did.
    """
    base = _shapes(network, widths)
    turns = primes(len(groups))
    labels: dict[str, list[Dim | Row | None]] = {path: [None] * len(shape) for path, shape in base.items()}
    used: set[int] = set()
    for turn in range(min(3, len(groups) + 1)):
        factors = (*turns[turn:], *turns[:turn]) if len(groups) > 1 else (2 + turn,)
        larger = _shapes(network, grown(widths, factors))
        if larger.keys() != base.keys():
            raise NetworkError(f"{network.name}: '{min(base.keys() ^ larger.keys())}' comes or goes with the widths")
        for path, shape in base.items():
            for axis, (before, after) in enumerate(zip(shape, larger[path], strict=True)):
                g = factors.index(after // before) if after in [f * before for f in factors] else None
                found: Dim | Row | None = None if g is None or before % widths[g] else Dim(g, before // widths[g])
                if (after != before and found is None) or (turn and labels[path][axis] != found):
                    found = UNCLEAR
                labels[path][axis] = found
                used.update({found.group} if isinstance(found, Dim) else ())
    for g in range(len(groups)):
        if g not in used:
            raise _unused(network, groups, widths, g)
    return {path: tuple(label) for path, label in labels.items()}


def _unused(network: Network, groups: tuple[str, ...], widths: Widths, g: int) -> NetworkError:
    """Says that no dimension is a multiple of a group's width, or which one depends on it otherwise."""
    before = _shapes(network, widths)
    after = _shapes(network, grown(widths, tuple(2 if h == g else 1 for h in range(len(groups)))))
    for path, shape in before.items():
        for axis, size in enumerate(shape):
            if after[path][axis] != size:
                return _unlabelled(network, groups, widths, path, axis)
    return NetworkError(f"{network.name}: no variable's shape depends on the width of {groups[g]}")


def _followed(
    network: Network,
    groups: tuple[str, ...],
    widths: Widths,
    multiples: tuple[int, ...],
    labels: Mapping[str, Label],
) -> tuple[dict[str, Label], Products]:
    """The labels and each layer's MACs from following channels through the network, at two choices of widths."""
    keys = [(path, axis, dim) for path, label in labels.items() for axis, dim in enumerate(label) if dim is not None]
    growing = frozenset((path, axis) for path, axis, _ in keys)
    pure = {(path, axis): dim.group for path, axis, dim in keys if isinstance(dim, Dim)}
    chosen = [tuple(max(2, m * (2 + (g + turn) % 2)) for g, m in enumerate(multiples)) for turn in (0, 1)]
    found = []
    for at in chosen:
        try:
            found.append(follow(network, at, growing, frozenset(pure.items())))
        except Exception as error:  # whatever a layer thinks of these widths
            raise _unbuildable(network, at, error) from error
    whole: dict[str, list[Dim | Row | None]] = {path: [None] * len(label) for path, label in labels.items()}
    for path, axis in sorted(growing, key=lambda key: (key in pure, key)):  # what sizes do not show is told first
        here = [(*f.channels[path, axis], at) for f, at in zip(found, chosen, strict=True)]
        first, second = (segments.fit(*entries) for entries in here)
        if first is None or first != second:
            first, second = (segments.unordered(entries, at) for entries, _, at in here)
        if first is None or first != second:
            raise _unlabelled(network, groups, widths, path, axis)
        whole[path][axis] = first
    told = {path: tuple(label) for path, label in whole.items()}
    for g in sorted(segments.wired_groups(told)):
        if _falls_apart(network, chosen[0], (*chosen[0][:g], multiples[g], *chosen[0][g + 1 :])):
            want = f"want at least {2 * multiples[g]}: which half a channel is in is followed"
            raise ConfigError(f"net.multiple: {groups[g]} got {multiples[g]}, {want}")
    at = grown(widths, primes(len(groups)))
    for (path, shape), axis in ((item, n) for item in _shapes(network, at).items() for n in range(len(item[1]))):
        dim = whole[path][axis]
        if dim is not None and segments.size(dim, dict(enumerate(at))) != shape[axis]:
            raise _unlabelled(network, groups, widths, path, axis)

    def affine(size: int | np.ndarray) -> segments.Affine:
        return {None: size} if isinstance(size, int) else segments.counted(size, chosen[0])

    return told, tuple(
        None if sizes is None else segments.product([affine(size) for size in sizes], len(groups))
        for sizes in found[0].layers
    )


def _falls_apart(network: Network, widths: Widths, smaller: Widths) -> bool:
    """Whether parts of a group are single channels at smaller widths: those look like what is the same for all."""
    sizes = (zip(*(a.shape for a in avals), strict=True) for avals in _avals(network, widths, smaller))
    return any(before > 1 == after for pairs in sizes for before, after in pairs)


def _avals(network: Network, *widths: Widths) -> Iterator[tuple[Any, ...]]:
    """Every value of the forward pass, at several widths."""
    return zip(*(flatten(network, at).avals for at in widths), strict=True)


def _unlabelled(network: Network, groups: tuple[str, ...], widths: Widths, path: str, axis: int) -> NetworkError:
    """Says which groups a dimension depends on, from one build for each group."""
    size = _shapes(network, widths)[path][axis]
    where = f"{network.name}: dimension {axis} of '{path}', of size {size},"
    doubled = (grown(widths, tuple(2 if h == g else 1 for h in range(len(groups)))) for g in range(len(groups)))
    depends = [group for group, w in zip(groups, doubled, strict=True) if _shapes(network, w)[path][axis] != size]
    if len(depends) > 1:
        want = "want a layer's width to be one group's, and other sizes to come from concatenating or flattening"
        return NetworkError(f"{where} mixes the width groups {' and '.join(depends)}; {want}")
    group = (depends or ["a group"])[0]
    if depends and size < widths[groups.index(group)] and widths[groups.index(group)] % size == 0:
        parts = widths[groups.index(group)] // size
        want = f"want the width of one part as the group, and {parts} x its width where all parts are meant"
        return NetworkError(f"{where} is the width of {group} in {parts} parts; {want}")
    want = "want whole widths, kept in order, concatenated, repeated, or dealt in turn as a channel shuffle does"
    return NetworkError(f"{where} is no row of the channels of {group}; {want}")


def _gone(
    network: Network, groups: tuple[str, ...], widths: Widths, labels: Mapping[str, Label], removable: Sequence[int]
) -> dict[str, int]:
    """Which variables go with which removable group: those that the network has with this group, but not with none."""
    if not removable:
        return {}
    whole = _shapes(network, widths)
    found: dict[int | None, set[str]] = {}
    for alone, reduced in reductions(widths, removable).items():
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


def _shapes(network: Network, widths: Widths) -> dict[str, tuple[int, ...]]:
    variables = network.abstract(widths)
    return {path: tuple(leaf.shape) for part in variables for path, leaf in part.items()}
