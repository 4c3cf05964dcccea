"""Numbers as a reader expects them."""

import pytest

from fednas_jax.report import wording
from fednas_jax.report.statistics import Estimate


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (361.47, "361"), (9.2749, "9.27"), (9.9999, "10.0"), (0.01234, "0.0123"), (20788.4, "20,788"),
     (1e-9, "1e-09"), (3e12, "3e+12"), (-0.5, "-0.500"), (float("nan"), "-"), (float("inf"), "-")],
)  # fmt: skip
def test_three_digits(value, said):
    assert wording.digits(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (239_232, "239 k"),
        (41_088, "41.1 k"),
        (1.5e9, "1.50 G"),
        (12, "12.0"),
        (-2e6, "-2.00 M"),
        (999_999, "1.00 M"),
        (999.4, "999"),
    ],
)
def test_amounts_have_prefixes(value, said):
    assert wording.amount(value) == said


def test_shares_and_intervals():
    assert [wording.share(s) for s in (0.018, 0.0996, 0.68, 0, 1)] == ["1.8 %", "10 %", "68 %", "0 %", "100 %"]
    assert wording.within(0.9777, (0.957, 0.9888)) == "97.8 (95.7 to 98.9)"
    assert wording.within(None, None) == ""
    assert wording.within(0.5, None) == "50.0"
    assert wording.estimate(Estimate(0.005, -0.01, 0.02, 3), 100, 2, sign=True) == "+0.50 (-1.00 to +2.00)"
    assert wording.estimate(Estimate(10.3, None, None, 1)) == "10.3"
    assert wording.estimate(None) == "-"
    assert [wording.value(v) for v in (0.05, 3, None, "iid", True)] == ["0.05", "3", "none", "iid", "True"]
