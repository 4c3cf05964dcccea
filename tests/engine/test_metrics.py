"""Every metric's counts add up over batches and clients, whatever is padding; its value is what sklearn would say."""

import jax
import numpy as np
import pytest
from rounds import TASKS, WIDTHS, fleet, stacked
from sklearn import metrics as sklearn_metrics

from fednas_jax.config.registries import METRICS
from fednas_jax.engine import metrics
from fednas_jax.errors import ConfigError

OWN = """
import jax.numpy as jnp
from fednas_jax.engine.metrics import Metric

def second(factor=1.0):
    def statistics(logits, labels, real):
        return jnp.stack([(labels == 1) & real, real]).sum(1)
    return Metric(statistics, lambda counts: factor * counts[:, 0] / counts[:, 1])

def shares():
    return Metric(lambda logits, labels, real: logits.mean(), lambda counts: counts)

def number():
    return 3

def counting(statistics=None, value=None):
    def usual(logits, labels, real):
        return jnp.stack([((jnp.argmax(logits, -1) == labels) & real).sum(), real.sum()])
    return Metric(statistics or usual, value or (lambda counts: counts[:, 0] / counts[:, 1]))

def padded():
    return counting(lambda logits, labels, real: jnp.stack([(jnp.argmax(logits, -1) == labels).sum(), real.sum()]))

def first():
    return counting(value=lambda counts: counts[0, 0] / counts[0, 1])

def rows():
    return counting(value=lambda counts: counts[:, :1] / counts[:, 1:])

def nothing():
    return counting(value=lambda counts: None)

def ranks():
    return counting(value=lambda counts: counts[:, 0] / counts[:, 0].max())

def late():
    return counting(value=lambda counts: counts["right"])
"""


def drawn(seed, classes, number=400):
    """Logits that know something of the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, number).astype(np.int32)
    logits = rng.normal(size=(number, classes)).astype(np.float32)
    logits[np.arange(number), labels] += 1
    return logits, labels


def value_of(metric, *batches):
    """[2]: the value of all batches together, for two slots of which the second saw one batch less."""
    found = [np.asarray(jax.jit(metric.statistics)(*batch), np.int64) for batch in batches]
    return np.asarray(metric.value(np.stack([sum(found), sum(found[:-1])])))


def test_every_metric_adds_up_over_batches_and_leaves_padding_out(own_module, monkeypatch):
    own = own_module(OWN)
    monkeypatch.setitem(METRICS._homes, "registered", metrics.macro_f1)
    for text in (*METRICS, f"{own}:second", f"{own}:second(factor=0.5)"):
        classes = 2 if text == "auc" else 5
        metric = metrics.metric_of(text, classes)
        logits, labels = drawn(0, classes)
        real = np.ones(len(labels), bool)
        some = np.random.default_rng(1).random(len(labels)) < 0.7
        batches = [(logits[i : i + 50], labels[i : i + 50], some[i : i + 50]) for i in range(0, 400, 50)]
        apart = value_of(metric, *batches)
        at_once = value_of(metric, (logits[some], labels[some], real[some]), (logits, labels, ~real))
        assert apart.shape == (2,), text
        np.testing.assert_array_equal(apart[0], at_once[0], text)
        assert 0 < apart[0] <= 1, text


@pytest.mark.parametrize("classes", [2, 7])
def test_scores_are_what_sklearn_says(classes):
    logits, labels = drawn(2, classes)
    labels[labels == classes - 1] = 0  # a class that no label names, though some are predicted
    predicted, real = logits.argmax(-1), np.ones(len(labels), bool)
    wanted = {
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        "macro_f1": sklearn_metrics.f1_score(labels, predicted, average="macro"),
        "balanced_accuracy": sklearn_metrics.recall_score(
            labels, predicted, average="macro", labels=np.unique(labels), zero_division=0
        ),
    }
    for text, score in wanted.items():
        found = value_of(metrics.metric_of(text, classes), (logits, labels, real), (logits, labels, ~real))
        assert found[0] == pytest.approx(score), text


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_auc_is_exact_up_to_the_ties_that_its_bins_make(scale):
    logits, labels = drawn(3, 2)
    logits = logits * np.float32(scale)
    counts = np.asarray(metrics.auc().statistics(logits, labels, np.ones(len(labels), bool)), np.int64)
    tied = (counts[0] * counts[1]).sum() / (counts[0].sum() * counts[1].sum())
    (found,) = metrics.auc().value(counts[None])
    exact = sklearn_metrics.roc_auc_score(labels, logits[:, 1].astype(float) - logits[:, 0])
    assert abs(found - exact) <= tied / 2 + 1e-12
    assert scale != 1 or abs(found - exact) < 1e-3


@pytest.mark.parametrize(
    ("text", "classes", "said"),
    [
        ("recall", 3, "got 'recall', want one of accuracy, balanced_accuracy, macro_f1, auc, or MODULE:FUNCTION"),
        ("auc", 3, "got auc with 3 classes, want 2"),
        ("accuracy(top=5)", 3, "with the argument 'top', want none"),
        ("{own}:shares", 3, "want one array of integers"),
        ("{own}:number", 3, "gives a int, want a Metric"),
        ("{own}:padded", 3, "whose statistics count what is not real, want it left out"),
        ("{own}:first", 3, r"gives float64 \[\] for the counts of 3 networks, want 3 numbers"),
        ("{own}:rows", 3, r"gives float64 \[3, 1\] for the counts of 3 networks, want 3 numbers"),
        ("{own}:nothing", 3, r"gives object \[\] for the counts of 3 networks, want 3 numbers"),
        ("{own}:ranks", 3, r"gives \[.*\] for three networks at once, want \[.*\] as alone"),
        ("{own}:late", 3, "IndexError"),
    ],
)
def test_what_is_no_metric_is_refused(text, classes, said, own_module):
    with pytest.raises(ConfigError, match=rf"^search\.metric: .*{said}"):
        metrics.metric_of(text.format(own=own_module(OWN)), classes)


def test_the_fleet_scores_by_the_metric_and_tells_the_accuracy_too(network, dataset, packed, candidates):
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), candidates[0])
    stack = stacked([broken, *candidates[1:]])
    tallies = {
        (metric, devices): fleet(network, dataset, packed, 3, devices, metric=metric).evaluate(WIDTHS, stack, TASKS)
        for metric, devices in (("accuracy", 1), ("macro_f1", 1), ("macro_f1", 8))
    }
    plain, f1, on_eight = tallies.values()
    np.testing.assert_array_equal(plain.score, plain.accuracy)
    np.testing.assert_array_equal(f1.accuracy, plain.accuracy)
    np.testing.assert_array_equal(f1.score, on_eight.score)
    assert np.isnan(f1.score).tolist() == [True, True, False]  # no finite numbers; nobody scored it
    logits, labels = [], []
    for client in TASKS.client[TASKS.candidate == 2]:
        rows = np.arange(packed.offsets[client] + packed.train_count[client], packed.offsets[client + 1])
        images = (packed.inputs[rows] / 255 - np.asarray(dataset.mean)) / np.asarray(dataset.std)
        logits.append(network.apply(WIDTHS, candidates[2], images.astype(np.float32), train=False)[0])
        labels.append(packed.labels[rows])
    predicted = np.concatenate(logits).argmax(-1)
    wanted = sklearn_metrics.f1_score(np.concatenate(labels), predicted, average="macro")
    assert f1.score[2] == pytest.approx(wanted)
