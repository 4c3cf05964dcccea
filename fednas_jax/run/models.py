"""A network of a finished run, ready to be called on examples."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np

from fednas_jax import nets
from fednas_jax.data import normalise
from fednas_jax.errors import DataError, RunError
from fednas_jax.run import model_files
from fednas_jax.run.finished import load_run, members
from fednas_jax.run.folder import RunDir
from fednas_jax.space.network import Network, Variables, Widths, inputs_of

FINETUNED = "finetuned"


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A member of a family: call it on examples for its logits."""

    network: Network
    widths: Widths  # [G]
    variables: Variables
    mean: tuple[float, ...]  # [channels] of the run's training images, scaled to [0, 1]; [F] of features; () of tokens
    std: tuple[float, ...]  # likewise
    images: bool = True  # whether examples are images

    def __call__(self, inputs: jax.Array | np.ndarray) -> jax.Array:
        """Logits of examples as the data set has them; they are normalised as the run's were. May be jitted.

        Args:
          inputs: images [B, H, W, channels], 0 to 255, uint8 or floating-point; rows, series or token ids otherwise.

        Returns:
          [B, classes] float32, or [B, T, classes] where every position has a label.

        Raises:
          DataError: examples of another shape, or token ids that are no integers.
        """
        name = "images" if self.images else "inputs"
        if tuple(inputs.shape[1:]) != tuple(self.network.input_shape):
            want = ", ".join(map(str, self.network.input_shape))
            raise DataError(f"{name}: got {list(inputs.shape)}, want [B, {want}]")
        if inputs_of(self.network, 1).dtype == np.int32:
            if not np.issubdtype(inputs.dtype, np.integer):
                raise DataError(f"inputs: got {inputs.dtype}, want token ids, which are integers")
            inputs = inputs.astype(np.int32)
        elif self.images:
            inputs = inputs / 255
        prepared = normalise(inputs, self.mean, self.std)
        return self.network.apply(self.widths, self.variables, prepared, train=False)[0]


def load_model(path: Path | str, iteration: int, part: str = FINETUNED, network: Network | None = None) -> Model:
    """Loads a network that a finished run found.

    Args:
      path: the run's folder.
      iteration: whose winner; 0 is the parent.
      part: 'finetuned', or '' for the network as the search found it.
      network: the run's, where it is the user's own (MODULE:FUNCTION): loading a run runs no code that it names.

    Raises:
      RunError: as `load_run`; there is no such network, its variables cannot be read, or the run is of an older
        version that recorded no normalisation.
      ConfigError: the run's network is not registered here.
    """
    run = load_run(path, pretrained=True)
    family = {member["iteration"]: member for member in members(run.result)}
    if iteration not in family:
        raise RunError(f"{path}: iteration: got {iteration}, want 0 to {len(family) - 1}")
    if part not in (FINETUNED, ""):
        raise RunError(f"{path}: part: got {part!r}, want {FINETUNED!r} or ''")
    if "data" not in run.result:
        raise RunError(f"{path}: is of an older version, which did not record how images are normalised; run it again")
    about, name = run.result["data"], run.config.net.name
    if network is None:
        if ":" in name:
            raise RunError(f"{path}: its network is {name}, want it given: loading a run runs no code that it names")
        labelled = about.get("tokens", 0), about.get("positions", False)
        network = nets.build(run.config.net, tuple(about["image"]), about["classes"], *labelled)
    named = family[iteration]["widths"]
    if tuple(named) != tuple(network.widths):
        raise RunError(f"{path}: got width groups {', '.join(named)}, want {', '.join(network.widths)}, as in {name}")
    folder = RunDir(run.path).model(iteration) / part
    if part and not folder.exists():
        raise RunError(f"{path}: iteration {iteration} was not fine-tuned, want part='': the network as it was found")
    widths = tuple(named.values())
    variables = _variables(folder / "variables", network.abstract(widths))
    return Model(network, widths, variables, tuple(about["mean"]), tuple(about["std"]), "tokens" not in about)


def _variables(folder: Path, shapes: Variables) -> Variables:
    """The arrays of a folder, which have these names, shapes and dtypes."""
    found = model_files.load_tree(folder)
    wanted = {f"{part}/{name}": leaf for part, leaves in shapes._asdict().items() for name, leaf in leaves.items()}
    forms, wanted_forms = ({n: (a.shape, a.dtype) for n, a in some.items()} for some in (found, wanted))
    wrong = sorted(n for n in forms.keys() | wanted_forms.keys() if forms.get(n) != wanted_forms.get(n))
    if wrong:
        raise RunError(f"{folder}: {wrong[0]!r} is not as this network has it, want the variables of its widths")
    parts = ({name: found[f"{part}/{name}"] for name in leaves} for part, leaves in shapes._asdict().items())
    return Variables(*parts)
