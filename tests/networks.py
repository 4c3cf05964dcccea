"""Small networks, and plain training of them, that several tests share. Nothing of local or fleet is used."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx

from fednas_jax.nets import from_linen, from_nnx, unless_removed
from fednas_jax.space.network import RUN_ONCE, Variables, random_inputs

SHAPE = (6, 6, 2)
CLASSES = 3
WIDTHS = {"conv": 8, "dense": 8}


class Norm(nnx.Module):
    """Convolution, BatchNorm, depthwise convolution, a flatten of 3x3, a dense layer, the classifier."""

    def __init__(self, widths, rngs):
        conv, dense = widths["conv"], widths["dense"]
        self.conv = nnx.Conv(2, conv, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(conv, momentum=0.9, rngs=rngs)
        self.depthwise = nnx.Conv(conv, conv, (3, 3), feature_group_count=conv, rngs=rngs)
        self.dense = nnx.Linear(9 * conv, dense, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.classifier = nnx.Linear(dense, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.swish(self.depthwise(nnx.relu(self.norm(self.conv(x)))))
        x = nnx.relu(self.dense(x.reshape(x.shape[0], -1)))
        return self.classifier(self.drop(x))


class LinenNorm(linen.Module):
    """The twin of `Norm`."""

    conv: int
    dense: int

    @linen.compact
    def __call__(self, x, train):
        x = linen.Conv(self.conv, (3, 3), strides=2, use_bias=False, name="conv")(x)
        x = linen.relu(linen.BatchNorm(momentum=0.9, use_running_average=not train, name="norm")(x))
        x = linen.swish(linen.Conv(self.conv, (3, 3), feature_group_count=self.conv, name="depthwise")(x))
        x = linen.relu(linen.Dense(self.dense, name="dense")(x.reshape(x.shape[0], -1)))
        x = linen.Dropout(0.5, deterministic=not train)(x)
        return linen.Dense(CLASSES, name="classifier")(x)


class Residual(nnx.Module):
    """A stem and a block with a skip around it: stem and second convolution share the width `stage`.

    Without an inner width there is no block.
    """

    def __init__(self, widths, rngs):
        stage, inner = widths["stage"], widths["inner"]
        self.stem = nnx.Conv(2, stage, (3, 3), strides=2, rngs=rngs)
        self.there = inner > 0
        if self.there:
            self.first = nnx.Conv(stage, inner, (3, 3), rngs=rngs)
            self.second = nnx.Conv(inner, stage, (1, 1), rngs=rngs)
            self.norm = nnx.BatchNorm(stage, momentum=0.9, rngs=rngs)
        self.classifier = nnx.Linear(stage, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        if self.there:
            branch = self.norm(self.second(nnx.gelu(self.first(x))))
            x = nnx.relu(x + unless_removed(branch, self.second.kernel[...]))
        return self.classifier(jnp.mean(x, axis=(1, 2)))


class Grouped(nnx.Module):
    """Convolution, GroupNorm in groups of four channels, a flatten of 3x3, a dense layer, the classifier."""

    def __init__(self, widths, rngs, group_size=4):
        conv, dense = widths["conv"], widths["dense"]
        self.conv = nnx.Conv(2, conv, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.norm = nnx.GroupNorm(conv, num_groups=None, group_size=group_size, rngs=rngs)
        self.dense = nnx.Linear(9 * conv, dense, rngs=rngs)
        self.classifier = nnx.Linear(dense, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.swish(self.norm(self.conv(x)))
        return self.classifier(nnx.relu(self.dense(x.reshape(x.shape[0], -1))))


@functools.cache
def grouped():
    """`Grouped` as a network that says so."""
    return from_nnx("grouped", Grouped, {"conv": 12, "dense": 4}, SHAPE, {"conv": 4})


class LinenResidual(linen.Module):
    """The twin of `Residual`."""

    stage: int
    inner: int

    @linen.compact
    def __call__(self, x, train):
        x = linen.relu(linen.Conv(self.stage, (3, 3), strides=2, name="stem")(x))
        if self.inner:
            branch = linen.gelu(linen.Conv(self.inner, (3, 3), name="first")(x))
            second = linen.Conv(self.stage, (1, 1), name="second")
            branch = linen.BatchNorm(momentum=0.9, use_running_average=not train, name="norm")(second(branch))
            x = linen.relu(x + unless_removed(branch, second.variables["params"]["kernel"]))
        return linen.Dense(CLASSES, name="classifier")(jnp.mean(x, axis=(1, 2)))


class Concatenated(nnx.Module):
    """A small DenseNet: layers read all before them; the image itself is put beside them, and all is flattened."""

    def __init__(self, widths, rngs):
        width, norms, layers = widths["stem"], [], []
        self.stem = nnx.Conv(2, width, (3, 3), strides=2, rngs=rngs)
        for _ in range(2):
            norms.append(nnx.BatchNorm(width, momentum=0.9, rngs=rngs))
            layers.append(nnx.Conv(width, widths["growth"], (3, 3), rngs=rngs))
            width += widths["growth"]
        self.norms, self.layers = nnx.List(norms), nnx.List(layers)
        self.dense = nnx.Linear(9 * (2 + width), widths["dense"], rngs=rngs)
        self.classifier = nnx.Linear(widths["dense"], CLASSES, rngs=rngs)

    def __call__(self, images):
        x = self.stem(images)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = jnp.concatenate([x, layer(nnx.relu(norm(x)))], axis=-1)
        x = jnp.concatenate([images[:, ::2, ::2], x], axis=-1)
        return self.classifier(nnx.relu(self.dense(x.reshape(len(x), -1))))


class Between(nnx.Module):
    """Two convolutions and a classifier, and `between` them what may change how many channels there are."""

    def __init__(self, widths, rngs, *, between=lambda x: x, made=1, read=1, layer=None):
        a, b = widths["a"], widths["b"]
        self.first = nnx.Conv(2, made * a, (3, 3), rngs=rngs)
        self.layer = layer(a, rngs) if layer else nnx.identity
        self.second = nnx.Conv(read * a, b, (3, 3), rngs=rngs)
        self.classifier = nnx.Linear(b, CLASSES, rngs=rngs)
        self.between = between

    def __call__(self, x):
        x = self.second(self.between(nnx.relu(self.layer(nnx.relu(self.first(x))))))
        return self.classifier(jnp.mean(nnx.relu(x), axis=(1, 2)))


def shuffled(x, parts):
    """The channels of several equal parts in turn."""
    return x.reshape(*x.shape[:-1], parts, -1).swapaxes(-1, -2).reshape(x.shape)


def maxout(x, pieces):
    """The largest of every few neighbouring channels."""
    return x.reshape(*x.shape[:-1], -1, pieces).max(-1)


def swapped(x):
    """The second half of the channels before the first, as between coupling layers."""
    return jnp.concatenate(jnp.split(x, 2, axis=-1)[::-1], axis=-1)


def coupled(x):
    """One half of the channels scales the other."""
    scale, scaled = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([scale, scale * scaled], axis=-1)


class CoupledBeside(nnx.Module):
    """Halves that scale each other, beside another layer, and what is made of both."""

    def __init__(self, widths, rngs, norm=None):
        a, b = widths["a"], widths["b"]
        self.first, self.second = (nnx.Conv(2, width, (3, 3), strides=2, rngs=rngs) for width in (a, b))
        self.norm = norm(a + b, rngs=rngs) if norm else nnx.relu
        self.classifier = nnx.Linear(a + b, CLASSES, rngs=rngs)

    def __call__(self, x):
        both = jnp.concatenate([coupled(nnx.relu(self.first(x))), self.second(x)], axis=-1)
        return self.classifier(self.norm(both).mean((1, 2)))


class UNet(nnx.Module):
    """Down and up again, where what was there before is put beside what comes back."""

    def __init__(self, widths, rngs):
        high, low, out = widths["high"], widths["low"], widths["out"]
        self.high = nnx.Conv(2, high, (3, 3), rngs=rngs)
        self.low = nnx.Conv(high, low, (3, 3), strides=2, rngs=rngs)
        self.up = nnx.ConvTranspose(low, low, (2, 2), strides=2, rngs=rngs)
        self.out = nnx.Conv(high + low, out, (3, 3), rngs=rngs)
        self.classifier = nnx.Linear(out, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.high(x))
        x = jnp.concatenate([x, nnx.relu(self.up(nnx.relu(self.low(x))))], axis=-1)
        return self.classifier(jnp.mean(nnx.relu(self.out(x)), axis=(1, 2)))


class ChannelMajor(nnx.Module):
    """A flatten that goes through the pixels of one channel after another, as PyTorch's does."""

    def __init__(self, widths, rngs):
        self.first = nnx.Conv(2, widths["a"], (3, 3), strides=2, rngs=rngs)
        self.dense = nnx.Linear(9 * widths["a"], widths["b"], rngs=rngs)
        self.classifier = nnx.Linear(widths["b"], CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.first(x)).transpose(0, 3, 1, 2)
        return self.classifier(nnx.relu(self.dense(x.reshape(x.shape[0], -1))))


class Halves(nnx.Module):
    """Splits its channels, changes one half and shuffles both, three times, as ShuffleNetV2 does."""

    def __init__(self, widths, rngs):
        half, inner = widths["half"], widths["inner"]
        self.stem = nnx.Conv(2, 2 * half, (3, 3), rngs=rngs)
        self.first = nnx.List(nnx.Conv(half, inner, (1, 1), rngs=rngs) for _ in range(3))
        self.last = nnx.List(nnx.Conv(inner, half, (1, 1), rngs=rngs) for _ in range(3))
        self.classifier = nnx.Linear(2 * half, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        for first, last in zip(self.first, self.last, strict=True):
            stays, changes = jnp.split(x, 2, axis=-1)
            changed = nnx.relu(last(nnx.relu(first(changes))))
            x = shuffled(jnp.concatenate([stays, changed], axis=-1), 2)
        return self.classifier(jnp.mean(x, axis=(1, 2)))


class ShuffledParts(nnx.Module):
    """A shuffle between grouped convolutions, so that a channel of each part goes with one of the other."""

    def __init__(self, widths, rngs):
        self.first = nnx.Conv(2, 2 * widths["a"], (3, 3), rngs=rngs)
        self.second = nnx.Conv(2 * widths["a"], 2 * widths["b"], (3, 3), feature_group_count=2, rngs=rngs)
        self.classifier = nnx.Linear(2 * widths["b"], CLASSES, rngs=rngs)

    def __call__(self, x):
        x = shuffled(nnx.relu(self.first(x)), 2)
        return self.classifier(jnp.mean(nnx.relu(self.second(x)), axis=(1, 2)))


def pixel_shuffled(x):
    """Four channels in a row become a square of pixels of one."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, channels // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, 2 * height, 2 * width, channels // 4)


class TwoWays(nnx.Module):
    """A recurrent layer from the first row to the last and one back, side by side; and a layer that nobody reads."""

    def __init__(self, widths, rngs):
        a, b = widths["a"], widths["b"]
        self.down, self.up = (nnx.Linear(12 + width, width, rngs=rngs) for width in (a, b))
        self.idle, self.classifier = (nnx.Linear(a + b, CLASSES, rngs=rngs) for _ in range(2))

    def __call__(self, x):
        rows = x.reshape(len(x), 6, 12).swapaxes(0, 1)

        def read(layer, rows):
            def step(state, row):
                state = jnp.tanh(layer(jnp.concatenate([row, state], axis=-1)))
                return state, state

            return jax.lax.scan(step, jnp.zeros((len(x), layer.out_features)), rows)[1].mean(0)

        both = jnp.concatenate([read(self.down, rows), read(self.up, rows[::-1])], axis=-1)
        self.idle(both)
        return self.classifier(both)


class MergedHeads(nnx.Module):
    """Attention whose kernels have heads and their width in one dimension, one head of eight after another."""

    def __init__(self, widths, rngs):
        self.first = nnx.Conv(2, widths["a"], (3, 3), strides=2, rngs=rngs)
        size = (widths["a"], 8 * widths["heads"])
        self.query, self.key, self.value = (nnx.Linear(*size, use_bias=False, rngs=rngs) for _ in range(3))
        self.out = nnx.Linear(*size[::-1], rngs=rngs)
        self.classifier = nnx.Linear(widths["a"], CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.first(x)).reshape(len(x), 9, -1)
        query, key, value = (layer(x).reshape(len(x), 9, -1, 8) for layer in (self.query, self.key, self.value))
        weights = nnx.softmax(jnp.einsum("bthd,bshd->bhts", query, key), -1)
        found = jnp.einsum("bhts,bshd->bthd", weights, value).reshape(len(x), 9, -1)
        return self.classifier((x + self.out(found)).mean(1))


def _grouped_conv(groups, width, per_channel=False):
    """A layer of `width x a` channels in so many groups, or in one for each channel."""

    def make(a, rngs):
        count = a if per_channel else groups
        return nnx.Conv(groups * a, width * a, (3, 3), feature_group_count=count, rngs=rngs)

    return make


# Networks whose dimensions are rows of segments, by what makes them so.
SEGMENTED = {
    "concatenated": (Concatenated, ("stem", "growth", "dense")),
    "unet": (UNet, ("high", "low", "out")),
    "shuffled": (functools.partial(Between, between=functools.partial(shuffled, parts=2)), ("a", "b")),
    "maxout": (functools.partial(Between, made=3, between=functools.partial(maxout, pieces=3)), ("a", "b")),
    "multiplied": (functools.partial(Between, read=2, layer=_grouped_conv(1, 2, per_channel=True)), ("a", "b")),
    "in parts": (functools.partial(Between, made=2, read=2, layer=_grouped_conv(2, 2)), ("a", "b")),
    "parts": (functools.partial(Between, made=2, read=2, layer=_grouped_conv(2, 2, per_channel=True)), ("a", "b")),
    "channel major": (ChannelMajor, ("a", "b")),
    "halves": (Halves, ("half", "inner")),
    "shuffled parts": (ShuffledParts, ("a", "b")),
    "pixel shuffled": (functools.partial(Between, made=4, between=pixel_shuffled), ("a", "b")),
    "merged heads": (MergedHeads, ("heads", "a")),
    "two ways": (TwoWays, ("a", "b")),
    "swapped": (functools.partial(Between, between=swapped), ("a", "b")),
    "coupled": (functools.partial(Between, between=coupled), ("a", "b")),
}


@functools.cache
def segmented(name):
    """A network of SEGMENTED."""
    make, groups = SEGMENTED[name]
    return from_nnx(name, make, dict.fromkeys(groups, 8), SHAPE)


@functools.cache
def norm():
    """`Norm` as a network; one object, so that what was compiled for it is found again."""
    return from_nnx("norm", Norm, WIDTHS, SHAPE)


@functools.cache
def linen_norm():
    """`LinenNorm` as a network."""
    return from_linen("linen_norm", lambda w: LinenNorm(w["conv"], w["dense"]), WIDTHS, SHAPE)


@functools.cache
def residual():
    """`Residual` as a network."""
    return from_nnx("residual", Residual, {"stage": 6, "inner": 4}, SHAPE, removable=["inner"])


@functools.cache
def linen_residual():
    """`LinenResidual` as a network."""
    widths = {"stage": 6, "inner": 4}
    return from_linen(
        "linen_residual", lambda w: LinenResidual(w["stage"], w["inner"]), widths, SHAPE, removable=["inner"]
    )


class Trained(NamedTuple):
    """What some steps of training leave."""

    variables: Variables
    optimizer: Any
    losses: jax.Array  # [steps], before each step


STEPS = 5


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=RUN_ONCE)
def train(network, widths, variables, images, labels, rate):
    """Steps of SGD with momentum and weight decay on one batch."""
    optimizer = optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(rate, momentum=0.9))

    def step(carry, _):
        (params, stats), memory = carry

        def loss(params):
            logits, new = network.apply(widths, Variables(params, stats), images, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, memory = optimizer.update(grads, memory, params)
        return (Variables(optax.apply_updates(params, updates), stats), memory), value

    start = (variables, optimizer.init(variables.params))
    (variables, memory), losses = jax.lax.scan(step, start, length=STEPS)
    return Trained(variables, memory, losses)


def batch(network, size=8, classes=CLASSES):
    """Inputs of noise, and labels."""
    return random_inputs(network, size, seed=5), np.arange(size, dtype=np.int32) % classes


@functools.cache
def start(network, widths, seed=0):
    """Initialised variables on the host; biases, scales and statistics, first 0 or 1, are moved upwards.

    Upwards, because a channel that hardly varies after its ReLU makes the next BatchNorm amplify rounding.
    """
    rng = np.random.default_rng(seed)

    def moved(x):
        return x + rng.uniform(0.1, 0.5, x.shape).astype(np.float32) if x.ndim == 1 else x

    return jax.tree.map(moved, jax.device_get(network.init(widths, jax.random.key(seed))))


def assert_masked_equals_sliced(space, keep, rate=0.05, dtype=np.float32):
    """Trains a candidate masked and sliced: variables and momentum agree, and nothing leaks out of the mask.

    Momentum is compared less strictly: its error enters the variables times the learning rate.
    """
    network = space.network
    images, labels = batch(network)
    cast = (images, start(network, space.widths))
    images, variables = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == np.float32 else x, cast)
    whole = space.mask(variables, keep)
    kept = tuple(int(np.sum(k)) for k in keep)
    masked = jax.device_get(train(network, space.widths, whole, images, labels, rate))
    sliced = jax.device_get(train(network, kept, space.slice(whole, keep), images, labels, rate))
    before, after = jax.tree.leaves(whole.params), jax.tree.leaves(masked.variables.params)
    assert any(np.any(a != b) for a, b in zip(before, after, strict=True)), "nothing was trained"
    for part, atol in (("variables", 1e-5), ("optimizer", 1e-4)):
        got, want = getattr(masked, part), getattr(sliced, part)
        jax.tree.map(np.testing.assert_array_equal, got, space.mask(got, keep))
        close = functools.partial(np.testing.assert_allclose, rtol=0, atol=atol)
        jax.tree.map(close, space.slice(got, keep), want)
    return masked
