"""What a run would take against what the machine has, told before anything is allocated. No jax here."""

from __future__ import annotations

import math
import os
from pathlib import Path

from fednas_jax.config.schema import SYNTHETIC, Config
from fednas_jax.errors import ConfigError

COPIES = 8  # of a stack at a round's end: before and after it, on the host too, sums, and two of the server's state
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory() -> int | None:
    """Bytes of memory that this machine has for this process, a container's limit respected; None: nobody says."""
    try:
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):
        found = []
    for path in _CGROUPS:
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):  # there is none, or it says 'max'
            continue
    return min((n for n in found if n > 0), default=None)


def pack_bytes(network: int, slots: int, data: int) -> int:
    """Bytes of a device's memory that a run takes beside others in one program.

    Args:
      network: bytes of its largest.
      slots: that train side by side.
      data: bytes of its clients' examples.
    """
    return COPIES * slots * network + data


def check_memory(what: str, field: str, needed: int, available: int | None) -> None:
    """Refuses what cannot fit.

    Args:
      what: would take it, with its numbers, such as '4,000 images of 8x8x1'.
      field: of the config, by which it can be made smaller.
      needed: bytes.
      available: bytes; None where they are not known, which refuses nothing.

    Raises:
      ConfigError: one line with both numbers.
    """
    if available is not None and needed > available:
        raise ConfigError(
            f"{field}: got {what}, which take {_size(needed)}, want at most the {_size(available)} there are"
        )


def check(config: Config) -> None:
    """Refuses a config whose data is made up and would not fit into memory; other data is judged once it is there.

    Raises:
      ConfigError: one line with the number of bytes needed and those there are.
    """
    d, most = config.data, memory()
    if d.source in SYNTHETIC[1:]:
        many = d.synthetic_examples + max(1, d.synthetic_examples // 4)
        texts = f"{many:,} texts of {d.synthetic_length} tokens"
        # Token ids, labels, and what both are drawn from.
        check_memory(texts, "data.synthetic_examples", many * d.synthetic_length * 24, most)
        check_batches(config, (d.synthetic_length,), most)
    if d.source != "synthetic":
        return
    pixels = math.prod(d.synthetic_shape)
    form = "x".join(map(str, d.synthetic_shape))
    examples = d.synthetic_examples + max(1, d.synthetic_examples // 4)
    check_memory(f"{examples:,} images of {form}", "data.synthetic_examples", examples * (pixels + 4), most)
    # Templates are interpolated in 8 bytes a value and kept in 2.
    templates = d.synthetic_classes * pixels * 10
    check_memory(f"{d.synthetic_classes:,} templates of {form}", "data.synthetic_classes", templates, most)
    check_batches(config, d.synthetic_shape, most)


def check_batches(config: Config, image: tuple[int, ...], available: int | None) -> None:
    """Refuses batches whose inputs alone do not fit, in 4 bytes each, on all lanes.

    Args:
      config: the run.
      image: shape of an example: height, width and channels of images.
      available: bytes of memory.

    Raises:
      ConfigError: as `check_memory`.
    """
    form, value = "x".join(map(str, image)), 4 * math.prod(image)
    lanes = max(1, config.engine.lanes)
    for field, batch, side in (
        ("train.batch_size", config.train.batch_size, lanes),
        ("engine.eval_batch", config.engine.eval_batch, 1),
    ):
        examples = "images" if len(image) > 2 else "examples"
        many = f"{batch:,} {examples} of {form}" + (f" on {side:,} lanes" if side > 1 else "")
        check_memory(many, field, batch * side * value, available)


def check_network(parameters: int, copies: int, available: int | None) -> None:
    """Refuses a network of which not even the copies fit that the engine holds, in float32.

    Args:
      parameters: of the parent.
      copies: of them: a stack's slots, and what training adds for each lane.
      available: bytes of memory.

    Raises:
      ConfigError: as `check_memory`.
    """
    check_memory(f"{copies:,} copies of {parameters:,} parameters", "net.widths", 4 * parameters * copies, available)


def check_lanes(parameters: int, lanes: int, devices: int, available: int | None) -> None:
    """Refuses more lanes than there is memory for: each has weights, gradients and momentum, in float32.

    Args:
      parameters: of the parent.
      lanes: of a device.
      devices: that share the memory.
      available: bytes of it.

    Raises:
      ConfigError: as `check_memory`.
    """
    many = f"{lanes:,} lanes of {parameters:,} parameters on each of {devices} devices"
    check_memory(many, "engine.lanes", 12 * parameters * lanes * devices, available)


def _size(number: float) -> str:
    """Bytes as people say them."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{number:,.0f} {unit}" if unit == "bytes" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError
