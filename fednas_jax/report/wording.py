"""Numbers as they are written: with the digits they deserve, and their units."""

from __future__ import annotations

import math

from fednas_jax.report.statistics import Estimate

STAGES = {"pretrain": "pretraining", "search": "search", "finetune": "fine-tuning", "all": "all"}
PHASES = {"download": "download", "train": "training", "evaluate": "evaluation", "upload": "upload"}
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def amount(value: float) -> str:
    """Three significant digits with a prefix: 1.23 M; what needs no prefix has none."""
    if not math.isfinite(value):
        return "-"
    for size, prefix in _PREFIXES:
        if abs(value) >= 0.9995 * size:  # after rounding: 999,999 is 1.00 M
            return f"{digits(value / size)} {prefix}"
    return digits(value)


def digits(value: float, significant: int = 3) -> str:
    """So many significant digits, never an exponent for what a reader can read: 361, 9.27, 0.0123."""
    if not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e9:
        return f"{value:.{significant}g}"
    exponent = int(f"{value:.{significant - 1}e}".partition("e")[2])  # after rounding: 9.999 is 10.0
    places = max(0, significant - 1 - exponent)
    return f"{value:,.{places}f}"


def percent(share: float, places: int = 1) -> str:
    """A share in percent: 97.8 %."""
    return f"{100 * share:,.{places}f} %"


def share(value: float) -> str:
    """A share of a whole in percent, whole from 10 % on: 1.8 %, 68 %."""
    return percent(value, 0 if value >= 0.0995 or value == 0 else 1)


def scored(metric: str) -> tuple[str, float]:
    """What an axis of validation scores says, and what they are multiplied by there: another metric may be no share."""
    return ("validation accuracy (%)", 100.0) if metric == "accuracy" else (f"validation {metric}", 1.0)


def within(value: float | None, ends: tuple[float, float] | None) -> str:
    """An accuracy and its interval, in percent: 97.8 (95.7 to 98.9)."""
    if value is None:
        return ""
    if ends is None:
        return f"{100 * value:,.1f}"
    return f"{100 * value:,.1f} ({100 * ends[0]:,.1f} to {100 * ends[1]:,.1f})"


def estimate(found: Estimate | None, scale: float = 1.0, places: int | None = None, sign: bool = False) -> str:
    """A mean and its interval: 28.1 (20.2 to 39.0); '-' where there is none.

    Args:
      found: the estimate.
      scale: what numbers are multiplied by, such as 100 for percent.
      places: decimals; None gives three significant digits.
      sign: write a plus too.
    """
    if found is None:
        return "-"

    def said(value: float) -> str:
        text = digits(scale * value) if places is None else f"{scale * value:,.{places}f}"
        return f"+{text}" if sign and scale * value > 0 else text

    if found.low is None or found.high is None:
        return said(found.value)
    return f"{said(found.value)} ({said(found.low)} to {said(found.high)})"


def counted(count: int, what: str) -> str:
    """A number of things: 1 run, 3 runs."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def value(found: object) -> str:
    """A value of a config's field, or of a table."""
    return f"{found:.6g}" if isinstance(found, float) else "none" if found is None else str(found)
