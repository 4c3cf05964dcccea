"""The federation in a readable loop: one client after another, optimisers by hand, lax's convolution. Slow on purpose.

The fast engine must equal it. Nothing of the engine or optax is used here, only the network and the packed data.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fednas_jax.config.registries import AGGREGATIONS, CLIENT_OPTIMIZERS, LOSSES


def train_round(network, widths, candidates, data, mean, std, config, tasks, key, names, malicious=(), attack=None):
    """Returns each candidate after one round of FedAvg; candidates without tasks stay.

    Args:
      candidates: list of Variables.
      tasks: pairs (candidate, client).
      key: the round's key, after purpose, iteration and round were folded in.
      names: number of each candidate, folded in after it.
      malicious: clients that attack.
      attack: config of the participation that says how.
    """
    result = []
    for k, start in enumerate(candidates):
        updates, weights = [], []
        for c in (c for candidate, c in tasks if candidate == k):
            client_key = jax.random.fold_in(jax.random.fold_in(key, names[k]), c)
            labels = data.labels
            if c in malicious and attack.attack == "label_flip":
                labels = 9 - labels
            trained = train_client(network, widths, start, data, labels, c, mean, std, config, client_key)
            update = jax.tree.map(np.subtract, trained, start)
            if c in malicious and attack.attack != "label_flip":
                factor = -1 if attack.attack == "sign_flip" else attack.attack_scale
                update = update._replace(params={path: factor * u for path, u in update.params.items()})
            if usable(update, config.update_bound):
                updates.append(update)
                weights.append(int(data.train_count[c]))
        if updates:
            start = jax.tree.map(np.add, start, aggregate(config.aggregation, updates, weights))
        result.append(start)
    return result


def usable(update, bound):
    """Whether the server believes an update."""
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(update)):
        return False
    return bound is None or norm(update) <= bound


def norm(update):
    return np.sqrt(sum(np.square(u).sum() for u in update.params.values()))


def aggregate(text, updates, weights):
    """One update out of those of a candidate's clients, as the config's text says."""
    name, _, arguments = AGGREGATIONS.parse(text)
    if name in ("mean", "clipped_mean"):
        share = np.asarray(weights) / sum(weights)
        if name == "clipped_mean":
            share = [s * min(1, arguments["norm"] / norm(u)) for s, u in zip(share, updates, strict=True)]
        return jax.tree.map(functools.partial(weighted, share), *updates)
    if name == "krum":
        return krum(updates, **arguments)

    def middle(*values):
        ordered = np.sort(np.stack(values), axis=0)
        if name == "median":
            return np.median(ordered, axis=0)
        cut = int(np.floor(arguments["share"] * len(values) + 1e-9))
        return ordered[cut : len(values) - cut].mean(0)

    return jax.tree.map(middle, *updates)


def krum(updates, malicious, multi=False):
    """The update nearest to its neighbours, or the mean of the n - f that are."""
    n = len(updates)
    f = int(np.ceil(malicious * n - 1e-9))
    flat = [np.concatenate([np.ravel(u.params[path]) for path in sorted(u.params)]) for u in updates]
    scores = []
    for one in range(n):
        distances = sorted(np.square(flat[one] - flat[other]).sum() for other in range(n) if other != one)
        scores.append(sum(distances[: max(1, n - f - 2)]))
    best = np.argsort(scores, kind="stable")[: max(1, n - f) if multi else 1]
    return jax.tree.map(lambda *values: sum(values) / len(values), *(updates[b] for b in best))


def weighted(share, *values):
    return sum(s * x for s, x in zip(share, values, strict=True))


def train_client(network, widths, start, data, labels, client, mean, std, config, key):
    """One client's variables after its local epochs."""
    n, batch = int(data.train_count[client]), config.batch_size
    first = int(data.offsets[client])
    steps = int(np.ceil(config.local_epochs * n / batch))
    order = batch_stream(key, n, steps * batch)
    params, stats = jax.device_get(start)
    move = {path: optimizer(config) for path in params}
    dropout = jax.random.fold_in(key, 2**32 - 1)
    for t in range(steps):
        rows = first + order[t * batch : (t + 1) * batch]
        draws = jax.random.fold_in(dropout, t)
        images = batch_images(data.inputs[rows], mean, std, config.augment, draws)
        grads, stats = gradient(network, widths, params, stats, images, labels[rows], draws, config.loss)
        for path in params:
            g = np.asarray(grads[path]) + config.weight_decay * params[path]
            g = g + config.proximal * (params[path] - np.asarray(start.params[path]))
            params[path] = params[path] - config.learning_rate * move[path](g)
    return type(start)(params, jax.device_get(stats))


def optimizer(config):
    """A function that remembers the gradients of one variable, and gives its direction: SGD's or Adam's."""
    name, _, arguments = CLIENT_OPTIMIZERS.parse(config.client_optimizer)
    first = second = steps = 0

    def sgd(g):
        nonlocal first
        first = config.momentum * first + g
        return first

    def adam(g):
        nonlocal first, second, steps
        b1, b2, steps = arguments["b1"], 0.999, steps + 1
        first, second = b1 * first + (1 - b1) * g, b2 * second + (1 - b2) * np.square(g)
        return first / (1 - b1**steps) / (np.sqrt(second / (1 - b2**steps)) + arguments["eps"])

    return sgd if name == "sgd" else adam


def batch_images(raw, mean, std, config, step_key):
    """A batch's images normalised, each cropped, flipped and cut out by its own five random numbers.

    Other inputs are normalised alone, and tokens are not even that.
    """
    if raw.dtype != np.uint8:
        return prepared(raw, mean, std)
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


def prepared(raw, mean, std):
    """What the network sees of examples that are not changed at random."""
    if raw.dtype == np.int32:
        return raw
    scaled = raw.astype(np.float32) / (255 if raw.dtype == np.uint8 else 1)
    return ((scaled - np.asarray(mean)) / np.asarray(std)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=1)
def random_numbers(step_key, batch):
    key = jax.random.fold_in(step_key, 0x41554721)
    return jax.vmap(lambda n: jax.random.bits(jax.random.fold_in(key, n), (5,)))(jnp.arange(batch))


def batch_stream(key, n, length):
    """Fresh permutations of n examples, one after another: epoch e sorts its own n random numbers."""
    epochs = -(-length // n)
    draws = np.asarray(jax.random.bits(key, (epochs * n,), jnp.uint32)).reshape(epochs, n)
    return np.concatenate([np.argsort(row, kind="stable") for row in draws])


@functools.partial(jax.jit, static_argnums=(0, 1, 7))
def gradient(network, widths, params, stats, images, labels, key, text):
    def loss(params):
        logits, new = network.apply(widths, type_of(network, widths)(params, stats), images, train=True, key=key)
        told = labels.reshape(-1)  # positions without a label count for nothing
        each = loss_of(text, jax.nn.log_softmax(logits).reshape(len(told), -1), jnp.maximum(told, 0))
        return jnp.sum(jnp.where(told < 0, 0, each)) / jnp.maximum(1, jnp.sum(told >= 0)), new

    return jax.grad(loss, has_aux=True)(params)


def loss_of(text, log_p, labels):
    """[B] the loss of each example, of the logarithms of the probabilities [B, C]."""
    name, _, arguments = LOSSES.parse(text)
    right = log_p[jnp.arange(len(labels)), labels]
    if name == "focal":
        return -((1 - jnp.exp(right)) ** arguments["gamma"]) * right
    smoothing = arguments.get("smoothing", 0)
    return -(1 - smoothing) * right - smoothing * log_p.mean(-1)


def type_of(network, widths):
    return type(network.abstract(widths))


def accuracy(network, widths, variables, data, clients, mean, std):
    """Correct predictions and labels over the clients' validation examples."""
    correct = total = 0
    for c in clients:
        rows = np.arange(data.offsets[c] + data.train_count[c], data.offsets[c + 1])
        logits, _ = network.apply(widths, variables, prepared(data.inputs[rows], mean, std), train=False)
        correct += int(np.sum(np.argmax(logits, -1) == data.labels[rows]))  # no prediction is -1
        total += int(np.sum(data.labels[rows] >= 0))
    return correct, total
