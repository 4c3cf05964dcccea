"""Every loss is one number for each example, smallest where the label is sure; by hand where it is the project's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest

from fednas_jax.config.registries import LOSSES
from fednas_jax.engine import losses
from fednas_jax.errors import ConfigError

OWN = """
import jax.numpy as jnp

def mine(power=2):
    return lambda logits, labels: (1 - jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]) ** power

def one_number():
    return lambda logits, labels: logits.mean()

def numpy_only():
    return lambda logits, labels: float(logits[0, 0])
"""
LOGITS = np.array([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3], [-30.0, 30.0, 0.0]], np.float32)
LABELS = np.array([0, 2, 0], np.int32)


def test_every_loss_can_be_trained_on(own_module, monkeypatch):
    own = own_module(OWN)
    monkeypatch.setitem(LOSSES._homes, "registered", losses.focal)
    for text in (*LOSSES, "cross_entropy(smoothing=0.1)", "focal(gamma=0.5)", f"{own}:mine", f"{own}:mine(power=4)"):
        losses.check(text, 3)
        loss = losses.loss_of(text)
        found = loss(LOGITS, LABELS)
        assert found.shape == (3,), text
        grads = jax.grad(lambda logits, loss=loss: loss(logits, LABELS).mean())(jnp.asarray(LOGITS))
        assert np.isfinite(grads).all(), text
        moved = LOGITS - 1e-2 * np.asarray(grads)
        assert (loss(moved, LABELS) < found)[:2].all(), text


@pytest.mark.parametrize("text", ["cross_entropy(smoothing=0.2)", "focal(gamma=2)", "focal(gamma=1.5)"])
def test_losses_equal_the_oracle_s(text):
    found = losses.loss_of(text)(LOGITS[:2], LABELS[:2])
    np.testing.assert_allclose(found, oracle.loss_of(text, jax.nn.log_softmax(LOGITS[:2]), LABELS[:2]), rtol=1e-5)


def test_without_smoothing_or_focus_it_is_cross_entropy():
    plain = optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS)
    np.testing.assert_array_equal(losses.loss_of("cross_entropy")(LOGITS, LABELS), plain)
    np.testing.assert_allclose(losses.loss_of("focal(gamma=0)")(LOGITS, LABELS), plain, rtol=1e-6)


def test_an_example_that_is_sure_has_a_slope_of_no_infinity():
    sure = np.array([[100.0, 0.0]], np.float32)
    for text in ("focal(gamma=0.5)", "focal(gamma=1)", "focal"):
        loss = losses.loss_of(text)
        assert np.isfinite(jax.grad(lambda x, loss=loss: loss(x, np.array([0])).sum())(sure)).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hinge", "got 'hinge', want one of cross_entropy, focal, or MODULE:FUNCTION"),
        ("cross_entropy(smoothing=1)", "want at least 0 and below 1"),
        ("focal(gamma=-1)", "want at least 0"),
        ("focal(beta=1)", "with the argument 'beta', want gamma"),
        ("{own}:one_number", r"want float32 \[3\]"),
        ("{own}:numpy_only", "ConcretizationTypeError|TracerArrayConversionError"),
    ],
)
def test_what_is_no_loss_is_refused(text, said, own_module):
    with pytest.raises(ConfigError, match=rf"^train\.loss: .*({said})"):
        losses.check(text.format(own=own_module(OWN)), 3)
