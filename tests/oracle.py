"""The federation in a readable loop: one client after another, plain SGD by hand, lax's convolution. Slow on purpose.

The fast engine must equal it. Nothing of fleet, local or optax is used here, only the network and the packed data.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def train_round(network, widths, candidates, data, mean, std, config, tasks, key, names):
    """Returns each candidate after one round of FedAvg; candidates without tasks stay.

    Args:
      candidates: list of Variables.
      tasks: pairs (candidate, client).
      key: the round's key, after purpose, iteration and round were folded in.
      names: number of each candidate, folded in after it.
    """
    result = []
    for k, start in enumerate(candidates):
        clients = [c for candidate, c in tasks if candidate == k]
        updates, weights = [], []
        for c in clients:
            client_key = jax.random.fold_in(jax.random.fold_in(key, names[k]), c)
            trained = train_client(network, widths, start, data, c, mean, std, config, client_key)
            updates.append(jax.tree.map(np.subtract, trained, start))
            weights.append(int(data.train_count[c]))
        if clients:
            share = np.asarray(weights) / sum(weights)
            mean_update = jax.tree.map(functools.partial(weighted, share), *updates)
            start = jax.tree.map(np.add, start, mean_update)
        result.append(start)
    return result


def weighted(share, *values):
    return sum(s * x for s, x in zip(share, values, strict=True))


def train_client(network, widths, start, data, client, mean, std, config, key):
    """One client's variables after its local epochs."""
    n, batch = int(data.train_count[client]), config.batch_size
    first = int(data.offsets[client])
    steps = int(np.ceil(config.local_epochs * n / batch))
    order = batch_stream(key, n, steps * batch)
    params, stats = jax.device_get(start)
    momentum = jax.tree.map(np.zeros_like, params)
    dropout = jax.random.fold_in(key, 2**32 - 1)
    for t in range(steps):
        rows = first + order[t * batch : (t + 1) * batch]
        draws = jax.random.fold_in(dropout, t)
        images = batch_images(data.images[rows], mean, std, config.augment, draws).astype(np.float32)
        grads, stats = gradient(network, widths, params, stats, images, data.labels[rows], draws)
        for path in params:
            g = np.asarray(grads[path]) + config.weight_decay * params[path]
            g = g + config.proximal * (params[path] - np.asarray(start.params[path]))
            momentum[path] = config.momentum * momentum[path] + g
            params[path] = params[path] - config.learning_rate * momentum[path]
    return type(start)(params, jax.device_get(stats))


def batch_images(raw, mean, std, config, step_key):
    """A batch's images normalised, each cropped, flipped and cut out by its own five random numbers."""
    draws = np.asarray(random_numbers(step_key, len(raw))).astype(int)
    crop, done = config.crop, []
    for image, (row, column, flip, y, x) in zip(raw, draws, strict=True):
        height, width, _ = image.shape
        top, left = row % (2 * crop + 1), column % (2 * crop + 1)
        image = np.pad(image, ((crop, crop), (crop, crop), (0, 0)))[top : top + height, left : left + width]
        if config.flip and flip % 2:
            image = image[:, ::-1]
        image = (image.astype(np.float32) / 255 - np.asarray(mean)) / np.asarray(std)
        if config.cutout:
            top, left = y % height - config.cutout // 2, x % width - config.cutout // 2
            image[max(0, top) : max(0, top + config.cutout), max(0, left) : max(0, left + config.cutout)] = 0
        done.append(image)
    return np.stack(done).astype(np.float32)


@functools.partial(jax.jit, static_argnums=1)
def random_numbers(step_key, batch):
    key = jax.random.fold_in(step_key, 0x41554721)
    return jax.vmap(lambda n: jax.random.bits(jax.random.fold_in(key, n), (5,)))(jnp.arange(batch))


def batch_stream(key, n, length):
    """Fresh permutations of n examples, one after another: epoch e sorts its own n random numbers."""
    epochs = -(-length // n)
    draws = np.asarray(jax.random.bits(key, (epochs * n,), jnp.uint32)).reshape(epochs, n)
    return np.concatenate([np.argsort(row, kind="stable") for row in draws])


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradient(network, widths, params, stats, images, labels, key):
    def loss(params):
        logits, new = network.apply(widths, type_of(network, widths)(params, stats), images, train=True, key=key)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]), new

    return jax.grad(loss, has_aux=True)(params)


def type_of(network, widths):
    return type(network.abstract(widths))


def accuracy(network, widths, variables, data, clients, mean, std):
    """Correct predictions and examples over the clients' validation examples."""
    correct = total = 0
    for c in clients:
        rows = np.arange(data.offsets[c] + data.train_count[c], data.offsets[c + 1])
        images = (data.images[rows].astype(np.float32) / 255 - np.asarray(mean)) / np.asarray(std)
        logits, _ = network.apply(widths, variables, images.astype(np.float32), train=False)
        correct += int(np.sum(np.argmax(logits, -1) == data.labels[rows]))
        total += len(rows)
    return correct, total
