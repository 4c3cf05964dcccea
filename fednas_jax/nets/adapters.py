"""Flax modules as the pure functions that the search works with: `from_nnx` and `from_linen`."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx, traverse_util
from flax.nnx.nn.dtypes import promote_dtype

from fednas_jax.errors import NetworkError
from fednas_jax.nets.conv import conv_general_dilated
from fednas_jax.nets.dense import dot_general
from fednas_jax.seeds import KEYS
from fednas_jax.space.network import RUN_ONCE, Network, Variables, Widths, inputs_of


def from_nnx(
    name: str,
    make: Callable[[Mapping[str, int], nnx.Rngs], nnx.Module],
    widths: Mapping[str, int],
    input_shape: tuple[int, ...],
    blocks: Mapping[str, int] | None = None,
    removable: Iterable[str] = (),
    counted: Iterable[str] = (),
    tokens: int = 0,
) -> Network:
    """A network family from `make(widths, rngs) -> nnx.Module`.

    Every `nnx.Conv` and `nnx.Linear` that uses lax's convolution or product gets the one that is fast in lanes
    (`nets.conv`, `nets.dense`).

    Args:
      name: how messages call the network.
      make: builds the module; widths are given by group name.
      widths: the parent's widths, in the order in which the search will list them.
      input_shape: one example's shape, without the batch.
      blocks: for groups that GroupNorm normalises, its group's size: those channels leave together, in aligned
        blocks. Other groups lose single channels.
      removable: groups whose width may be 0. `make` then leaves the group's block out and keeps its skip, and other
        variables keep their paths; where the block stands it adds `x + nets.unless_removed(branch, kernel)`.
      counted: groups of few and large members, such as attention heads: one number of `net.multiple` does not hold for
        them, they lose one at a time.
      tokens: of how many different token ids an example consists, int32 from 0; 0: of numbers, float32.
    """
    facts = (dict(widths), tuple(input_shape), dict(blocks or {}), frozenset(removable), frozenset(counted), tokens)
    return NnxNetwork(name, make, *facts)


def from_linen(
    name: str,
    make: Callable[[Mapping[str, int]], linen.Module],
    widths: Mapping[str, int],
    input_shape: tuple[int, ...],
    blocks: Mapping[str, int] | None = None,
    removable: Iterable[str] = (),
    counted: Iterable[str] = (),
    tokens: int = 0,
) -> Network:
    """A network family from `make(widths) -> linen.Module`, called as `module(inputs, train=...)`.

    Arguments as for `from_nnx`. Variable collections are 'params' and 'batch_stats'; dropout draws from the stream
    'dropout'.
    """
    facts = (dict(widths), tuple(input_shape), dict(blocks or {}), frozenset(removable), frozenset(counted), tokens)
    return LinenNetwork(name, make, *facts)


class _Family(abc.ABC):
    """What networks of both libraries are known by; see `space.Network`."""

    def __init__(
        self,
        name: str,
        make: Any,
        widths: dict[str, int],
        input_shape: tuple[int, ...],
        blocks: dict[str, int],
        removable: frozenset[str],
        counted: frozenset[str],
        tokens: int,
    ):
        self.name, self.make, self.widths, self.input_shape = name, make, widths, input_shape
        self.blocks, self.removable, self.counted, self.tokens = blocks, removable, counted, tokens
        self._abstract = functools.lru_cache(maxsize=None)(self._shapes)
        self._creator = functools.lru_cache(maxsize=4)(self._initialiser)

    def init(self, widths: Widths, key: jax.Array) -> Variables:
        """Freshly initialised variables."""
        return self._creator(widths)(key)

    def _initialiser(self, widths: Widths) -> Callable[[jax.Array], Variables]:
        """What makes the variables from a key, compiled once for all runs of a process."""
        return jax.jit(functools.partial(self._fresh, widths), compiler_options=RUN_ONCE)

    @abc.abstractmethod
    def _fresh(self, widths: Widths, key: jax.Array) -> Variables:
        """Freshly initialised variables; runs inside a compiled program."""

    @abc.abstractmethod
    def _shapes(self, widths: Widths) -> Any:
        """What `abstract` needs at these widths, made once."""


class NnxNetwork(_Family):
    """See `from_nnx`."""

    def __init__(self, *facts: Any):
        super().__init__(*facts)
        self._graph = functools.lru_cache(maxsize=None)(self._build)

    def abstract(self, widths: Widths) -> Variables:
        """Shapes and dtypes of the variables at these widths; nothing is allocated."""
        return self._abstract(widths)[0]

    def _fresh(self, widths: Widths, key: jax.Array) -> Variables:
        _, params, stats, _ = self._split(self._module(widths, key))
        return Variables(_flat(params), _flat(stats))

    def apply(
        self,
        widths: Widths,
        variables: Variables,
        inputs: jax.Array,
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """See `Network.apply`."""
        graph, rest = self._graph(widths, train, key is not None)
        paths = self._abstract(widths)[2]
        module = nnx.merge(
            graph,
            _nested(variables.params, nnx.Param, paths),
            _nested(variables.stats, nnx.BatchStat, paths),
            _reseeded(rest, key),
            copy=True,
        )
        logits = module(inputs)
        return logits, _flat(self._split(module)[2])

    def _module(self, widths: Widths, key: jax.Array) -> nnx.Module:
        rngs = nnx.Rngs(key)
        rngs.default = _Stream(key, tag="default")  # type: ignore[attr-defined]
        module = self.make(dict(zip(self.widths, widths, strict=True)), rngs)
        for _, part in nnx.iter_modules(module):
            if isinstance(part, nnx.Conv) and part.conv_general_dilated is jax.lax.conv_general_dilated:
                part.conv_general_dilated = conv_general_dilated
            if isinstance(part, nnx.Linear) and part.dot_general is jax.lax.dot_general:
                part.dot_general = dot_general
            if isinstance(part, nnx.BatchNorm) and part.dtype is None and part.promote_dtype is promote_dtype:
                part.promote_dtype = _as_they_are
            if isinstance(part, nnx.Embed) and part.dtype == part.param_dtype and part.promote_dtype is promote_dtype:
                part.promote_dtype = _as_they_are
        return module

    def _shapes(self, widths: Widths) -> Any:
        """The abstract variables, the abstract module that has them, and its own keys behind each path of theirs."""
        module = nnx.eval_shape(lambda: self._module(widths, jax.random.key(0, impl=KEYS)))
        _, params, stats, rest = self._split(module)
        kept = [path for path, leaf in nnx.to_flat_state(rest) if not isinstance(leaf, nnx.RngState)]
        # An array of jax that is no variable lies in the graph, which is to be the same for all.
        kept += [path for path, leaf in nnx.iter_graph(module) if isinstance(leaf, jax.core.Tracer)]
        for path in kept:
            raise _foreign(self.name, _path(path))
        paths = {_path(path): path for state in (params, stats) for path, _ in nnx.to_flat_state(state)}
        return Variables(_flat(params), _flat(stats)), module, paths

    def _build(self, widths: Widths, train: bool, dropout: bool) -> Any:
        """The module's graph and random streams as it trains or evaluates."""
        module = nnx.clone(self._abstract(widths)[1])
        if train:
            module.train()
        else:
            module.eval()
        if not dropout:
            module.set_attributes(deterministic=True, raise_if_not_found=False)
        graph, _, _, rest = self._split(module)
        return graph, rest

    @staticmethod
    def _split(module: nnx.Module) -> Any:
        return nnx.split(module, nnx.Param, nnx.BatchStat, ...)


class _Stream(nnx.RngStream):
    """Draws what flax's does, and counts without asking where its count lies.

    Of a value that is being traced, jax searches the whole trace for the answer: most of the time of an abstract build.
    """

    def __call__(self) -> jax.Array:
        key = jax.random.fold_in(self.key[...], self.count[...])
        self.count.set_value(self.count[...] + 1)
        return key


COLLECTIONS = ("params", "batch_stats")


class LinenNetwork(_Family):
    """See `from_linen`."""

    def abstract(self, widths: Widths) -> Variables:
        """Shapes and dtypes of the variables at these widths; nothing is allocated."""
        return self._abstract(widths)[0]

    def _shapes(self, widths: Widths) -> Any:
        """The abstract variables and, for each collection, the keys behind each path: names may have a / in them."""
        tree = jax.eval_shape(functools.partial(self._tree, widths), jax.random.key(0, impl=KEYS))
        for path in traverse_util.flatten_dict(tree):
            if path[0] not in COLLECTIONS:
                raise _foreign(self.name, _path(path))
        keys = [{_path(path): path for path in traverse_util.flatten_dict(tree.get(c, {}))} for c in COLLECTIONS]
        return Variables(*(_joined(tree.get(c, {})) for c in COLLECTIONS)), keys

    def _fresh(self, widths: Widths, key: jax.Array) -> Variables:
        tree = self._tree(widths, key)
        return Variables(*(_joined(tree.get(c, {})) for c in COLLECTIONS))

    def _tree(self, widths: Widths, key: jax.Array) -> Any:
        """Freshly initialised collections."""
        form = inputs_of(self, 1)
        with linen.intercept_methods(_fast_lowering):
            return self._module(widths).init(key, jnp.zeros(form.shape, form.dtype), train=False)

    def apply(
        self,
        widths: Widths,
        variables: Variables,
        inputs: jax.Array,
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """See `Network.apply`."""
        parts = zip(COLLECTIONS, variables, self._abstract(widths)[1], strict=True)
        tree = {c: traverse_util.unflatten_dict({keys[p]: v for p, v in part.items()}) for c, part, keys in parts}

        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if key is None and isinstance(context.module, linen.Dropout):
                return args[0] if args else kwargs["inputs"]
            return _fast_lowering(call, args, kwargs, context)

        with linen.intercept_methods(intercept):
            logits, changed = self._module(widths).apply(
                tree,
                inputs,
                train=train,
                mutable=["batch_stats"],
                # A layer of the user's own draws without a key too.
                rngs={"dropout": jax.random.key(0, impl=KEYS) if key is None else key},
            )
        return logits, _joined(changed.get("batch_stats", {}))

    def _module(self, widths: Widths) -> linen.Module:
        return self.make(dict(zip(self.widths, widths, strict=True)))


def _joined(collection: Any) -> dict[str, Any]:
    """A collection as path -> array."""
    return {_path(keys): value for keys, value in traverse_util.flatten_dict(collection).items()}


def _fast_lowering(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Gives a linen convolution or dense layer the fast lowering for the time of one call."""
    module = context.module
    if isinstance(module, linen.Conv) and module.conv_general_dilated in (None, jax.lax.conv_general_dilated):
        object.__setattr__(module, "conv_general_dilated", conv_general_dilated)
    if isinstance(module, linen.Dense) and module.dot_general_cls is None and module.dot_general is None:
        object.__setattr__(module, "dot_general", dot_general)
    return call(*args, **kwargs)


def _as_they_are(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """Takes the place of flax's `promote_dtype` in BatchNorm and Embed.

    flax promotes images to the statistics' float32, or an embedding to the type that it was made with, and so is all
    that follows. The statistics and what is done with them is float32 without it, and the result has the type of
    images, scale and bias, or of the embedding.
    """
    del dtype, inexact
    return arrays


def _foreign(name: str, path: str) -> NetworkError:
    """A variable that no client trains and no server averages; it would be lost."""
    want = "want every variable a parameter or a statistic of BatchNorm (constants can be made in the call)"
    return NetworkError(f"{name}: '{path}' is neither, {want}")


def _path(keys: tuple[Any, ...]) -> str:
    """Names and numbers by which a module's parts are known, as one text; names may have a / in them."""
    return "/".join(map(str, keys))


def _flat(state: Any) -> dict[str, Any]:
    """An nnx state as path -> array."""
    return {_path(keys): leaf.get_value() for keys, leaf in nnx.to_flat_state(state)}


def _nested(flat: Mapping[str, Any], kind: type, paths: Mapping[str, tuple[Any, ...]]) -> Any:
    """The nnx state of `_flat`.

    As jax arrays: a module in training writes its new statistics into numpy's, which are the caller's.
    """
    variables: Any = {paths[path]: kind(jnp.asarray(value)) for path, value in flat.items()}
    return nnx.from_flat_state(variables)


def _reseeded(rest: Any, key: jax.Array | None) -> Any:
    """The state of the module's random streams, drawn from `key` (any key will do where nothing is random)."""
    leaves, tree = jax.tree.flatten(rest)
    root = jax.random.key(0, impl=KEYS) if key is None else key
    return jax.tree.unflatten(
        tree,
        [
            jax.random.fold_in(root, n)
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.zeros(leaf.shape, leaf.dtype)
            for n, leaf in enumerate(leaves)
        ],
    )
