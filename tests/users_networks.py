"""Networks as users write them in a file of their own: `fednas search digits --net users_networks:NAME`.

Each is a stem of width "a", what its name says, and a classifier behind a mean over the pixels.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

import fednas_jax as fn


def network(build, shape, classes, **widths):
    """What `build(widths, rngs)` makes of the stem's output: a function and its number of channels."""

    class Net(nnx.Module):
        def __init__(self, widths, rngs):
            self.stem = nnx.Conv(shape[-1], widths["a"], (3, 3), strides=2, rngs=rngs)
            self.layers = build(widths, rngs)
            self.classifier = nnx.Linear(self.layers.out, classes, rngs=rngs)

        def __call__(self, images):
            x = self.layers(nnx.relu(self.stem(images)), images[:, ::2, ::2])
            return self.classifier(jnp.mean(x, axis=(1, 2)))

    return fn.from_nnx("users", Net, {"a": 8, **widths}, shape)


class Layers(nnx.Module):
    """Named layers, and `forward(layers, x, image)`, which gives `out` channels."""

    def __init__(self, forward, out, **layers):
        self.forward, self.out = forward, out
        for name, layer in layers.items():
            setattr(self, name, layer)

    def __call__(self, x, image):
        return self.forward(self, x, image)


def conv(width_in, width, size, rngs, **more):
    return nnx.Conv(width_in, width, (size, size), rngs=rngs, **more)


def of_layers(**widths):
    """Makes `build(widths, rngs)` a function of shape and classes, with more widths than the stem's."""
    return lambda build: functools.partial(network, build, **widths)


@of_layers(b=8)
def concatenation(w, rngs):
    def forward(self, x, image):
        return jnp.concatenate([x, nnx.relu(self.grow(x))], axis=-1)

    return Layers(forward, w["a"] + w["b"], grow=conv(w["a"], w["b"], 3, rngs))


@of_layers(b=8)
def beside_the_input(w, rngs):
    def forward(self, x, image):
        return nnx.relu(self.mix(jnp.concatenate([image, x], axis=-1)))

    return Layers(forward, w["b"], mix=conv(1 + w["a"], w["b"], 1, rngs))


@of_layers(one=8, three=8, pool=4)
def inception(w, rngs):
    def forward(self, x, image):
        pooled = nnx.max_pool(x, (3, 3), padding="SAME")
        return nnx.relu(jnp.concatenate([self.one(x), self.three(x), self.pool(pooled)], axis=-1))

    a, sizes = w["a"], {"one": 1, "three": 3, "pool": 1}
    return Layers(forward, sum(w[n] for n in sizes), **{n: conv(a, w[n], size, rngs) for n, size in sizes.items()})


@of_layers(low=8, out=8)
def unet(w, rngs):
    def forward(self, x, image):
        low = nnx.relu(self.down(x))
        up = jax.image.resize(low, (*x.shape[:3], low.shape[3]), "nearest")
        return nnx.relu(self.both(jnp.concatenate([x, up], axis=-1)))

    layers = {"down": conv(w["a"], w["low"], 3, rngs, strides=2), "both": conv(w["a"] + w["low"], w["out"], 3, rngs)}
    return Layers(forward, w["out"], **layers)


@of_layers(b=8)
def channel_shuffle(w, rngs):
    def forward(self, x, image):
        x = x.reshape(*x.shape[:3], 2, -1).swapaxes(3, 4).reshape(x.shape)
        return nnx.relu(self.mix(x))

    return Layers(forward, w["b"], mix=conv(w["a"], w["b"], 3, rngs))


@of_layers(half=8)
def channel_split(w, rngs):
    def forward(self, x, image):
        x = nnx.relu(self.widen(x))
        for layer in (self.first, self.second):
            stays, changes = jnp.split(x, 2, axis=-1)
            x = jnp.stack([stays, nnx.relu(layer(changes))], axis=-1).reshape(x.shape)
        return x

    half = w["half"]
    layers = {name: conv(half, half, 3, rngs) for name in ("first", "second")}
    return Layers(forward, 2 * half, widen=conv(w["a"], 2 * half, 1, rngs), **layers)


@of_layers(part=8)
def grouped(w, rngs):
    def forward(self, x, image):
        return nnx.relu(self.parts(nnx.relu(self.widen(x))))

    part = w["part"]
    parts = conv(2 * part, 2 * part, 3, rngs, feature_group_count=2)
    return Layers(forward, 2 * part, widen=conv(w["a"], 2 * part, 1, rngs), parts=parts)


@of_layers()
def depthwise_multiplier(w, rngs):
    def forward(self, x, image):
        return nnx.relu(self.depthwise(x))

    return Layers(forward, 2 * w["a"], depthwise=conv(w["a"], 2 * w["a"], 3, rngs, feature_group_count=w["a"]))


@of_layers(b=8)
def maxout(w, rngs):
    def forward(self, x, image):
        return self.pieces(x).reshape(*x.shape[:3], -1, 2).max(axis=-1)

    return Layers(forward, w["b"], pieces=conv(w["a"], 2 * w["b"], 3, rngs))


@of_layers(heads=2, head_width=8)
def attention(w, rngs):
    def forward(self, x, image):
        tokens = x.reshape(len(x), -1, x.shape[-1])
        found = nnx.dot_product_attention(self.query(tokens), self.key(tokens), self.value(tokens))
        return x + self.project(found).reshape(x.shape)

    inner = (w["heads"], w["head_width"])
    layers = {name: nnx.LinearGeneral(w["a"], inner, rngs=rngs) for name in ("query", "key", "value")}
    return Layers(forward, w["a"], project=nnx.LinearGeneral(inner, w["a"], axis=(-2, -1), rngs=rngs), **layers)


@of_layers()
def layer_norm(w, rngs):
    return Layers(lambda self, x, image: self.norm(x), w["a"], norm=nnx.LayerNorm(w["a"], rngs=rngs))


@of_layers(b=8)
def layer_norm_of_a_concatenation(w, rngs):
    def forward(self, x, image):
        return self.norm(jnp.concatenate([x, nnx.relu(self.grow(x))], axis=-1))

    both = w["a"] + w["b"]
    return Layers(forward, both, grow=conv(w["a"], w["b"], 3, rngs), norm=nnx.LayerNorm(both, rngs=rngs))


@of_layers()
def rms_norm(w, rngs):
    return Layers(lambda self, x, image: self.norm(x), w["a"], norm=nnx.RMSNorm(w["a"], rngs=rngs))


@of_layers()
def softmax(w, rngs):
    return Layers(lambda self, x, image: nnx.softmax(x, axis=-1), w["a"])


@of_layers()
def scaled(w, rngs):
    return Layers(lambda self, x, image: x / x.shape[-1] ** 0.5, w["a"])


@of_layers(b=8)
def scaled_concatenation(w, rngs):
    def forward(self, x, image):
        x = jnp.concatenate([x, nnx.relu(self.grow(x))], axis=-1)
        return x * x.shape[-1] ** -0.5

    return Layers(forward, w["a"] + w["b"], grow=conv(w["a"], w["b"], 3, rngs))


@of_layers(b=8)
def grouped_whole(w, rngs):
    def forward(self, x, image):
        return nnx.relu(self.parts(x))

    return Layers(forward, w["b"], parts=conv(w["a"], w["b"], 3, rngs, feature_group_count=2))
