"""What a run is: frozen records, their fields' units and defaults. No jax here.

Each field's bounds stand beside it: `bounds` has their words and checks them. The upper ones are where results would
mean nothing, or arithmetic would overflow; what a machine's memory takes is in `needs`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import tyro.constructors

from fednas_jax.config import registries
from fednas_jax.config.bounds import Above, AtLeast, AtMost, Below, KeptShare, NotEmpty, OneOf, Range


def _numbers(texts: list[str]) -> Any:
    """'0.25' as a number, '0.25,0.5' as several; 'none' leaves one out."""
    values = tuple(None if text.strip().lower() == "none" else float(text) for text in texts[0].split(","))
    return values[0] if len(values) == 1 else values


# One number, or several with commas between.
Numbers = tyro.constructors.PrimitiveConstructorSpec[Any](
    nargs=1,
    metavar="FLOAT[,FLOAT...]",
    instance_from_str=_numbers,
    is_instance=lambda value: True,
    str_from_instance=lambda value: [",".join(map(str, value)) if isinstance(value, tuple) else str(value)],
)


# Parts of fields: a budget as a share of the parent's, or in the resource's unit; a rung's rounds, and whom it keeps.
Ratio = Annotated[float, Above(0), AtMost(1, "a fraction of the parent's; search.budget_absolute takes a number")]
Amount = Annotated[float, Above(0), AtMost(1e30)]
RungRounds = Annotated[int, AtLeast(1, "rounds in a rung"), AtMost(10**6)]
LoweringName = Literal["auto", "rows", "patches", "shifts", "grouped", "fused"]
Kept = Annotated[float, KeptShare(10**6)]


# Sources that are made up from the seed: of images, of texts, and of texts with a label for every position.
SYNTHETIC = ("synthetic", "synthetic_texts", "synthetic_tags")


@dataclass(frozen=True)
class DataConfig:
    """Which examples there are, and which client holds them."""

    source: str = "digits"
    """Data set: digits, fashion_mnist, synthetic, synthetic_texts, synthetic_tags, columns, a set of TFDS such as
    cifar10 (`fednas data list`), or tfds:NAME for any other of TFDS that has images and labels."""
    root: Path | None = None
    """Folder of prepared data sets (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    folder: Path | None = None
    """Folder of the columns. Only for `source=columns`, which needs it."""
    image_size: Annotated[int, AtLeast(0), AtMost(10_000)] = 0
    """Side in pixels that images are resized to, once; 0 keeps their size. Only for sets of TFDS."""
    image_feature: str = "image"
    """Feature with the image. Only for sets of TFDS."""
    label_feature: str = ""
    """Feature with the label, such as attributes/Male (default: label; of celeb_a attributes/Smiling). Only for sets of
    TFDS."""
    client_feature: str = ""
    """Feature that names clients, for `partition=natural` (default: none; of celeb_a its identities). Only for sets of
    TFDS."""
    test_split: str = ""
    """Split for testing (default: test, else validation, else a tenth of train). Only for sets of TFDS."""
    clients: Annotated[int, AtLeast(0), AtMost(10**7)] = 40
    """Number of clients C; 0 takes all there are, only for `partition=natural`."""
    partition: Annotated[str, OneOf(registries.PARTITIONS)] = "iid"
    """How examples go to clients: iid; dirichlet (each client's label mix by `alpha`); label_dirichlet (each label's
    division among clients by `alpha`); shards (a few pieces of the examples sorted by label each); classes (a number of
    labels each); natural (the clients that the data came from); or MODULE:FUNCTION, your own (docs/extend.md)."""
    alpha: Annotated[float, AtLeast(1e-6), AtMost(1e6)] = 0.5
    """Dirichlet concentration: smaller is more heterogeneous. Only for `partition=dirichlet` and `label_dirichlet`."""
    shards_per_client: Annotated[int, AtLeast(1), AtMost(10**4)] = 2
    """Label shards a client holds. Only for `partition=shards`."""
    classes_per_client: Annotated[int, AtLeast(1), AtMost(10**5)] = 2
    """Labels a client holds. Only for `partition=classes`."""
    size_sigma: Annotated[float, AtLeast(0), AtMost(10)] = 0.0
    """Standard deviation of the log of client sizes; 0 gives equal sizes. Only for `partition=iid`, `dirichlet` and
    `shards`."""
    size_power: Annotated[float, AtLeast(0), AtMost(10)] = 0.0
    """Exponent of client sizes: the r-th largest is in proportion to 1 / r^size_power; 0 gives equal sizes. Instead of
    `size_sigma`, for the same partitions."""
    min_examples: Annotated[int, AtLeast(2, "one to train on and one to validate with"), AtMost(10**6)] = 4
    """Least number of examples a client holds; natural clients with fewer are left out."""
    brightness_sigma: Annotated[float, AtLeast(0), AtMost(10)] = 0.0
    """Feature skew: standard deviation of the log of a client's brightness, a factor on its images' pixels, in training
    and in scoring; the test split stays as it is. 0: none."""
    rotation_degrees: Annotated[float, Range(180)] = 0.0
    """Feature skew: a client's images are all turned by one angle between minus this and this, in degrees, in training
    and in scoring; the test split stays as it is. 0: none."""
    validation: Annotated[float, AtLeast(1e-3), AtMost(0.9)] = 0.2
    """Fraction of each client's examples held out from training, to score candidates."""
    synthetic_shape: Annotated[tuple[int, int, int], AtLeast(1), AtMost(10_000)] = (8, 8, 1)
    """Height, width and channels of the images. Only for `source=synthetic`."""
    synthetic_length: Annotated[int, AtLeast(2), AtMost(10**5)] = 16
    """Tokens of a text. Only for `source=synthetic_texts` and `synthetic_tags`."""
    synthetic_tokens: Annotated[int, AtLeast(3), AtMost(10**6)] = 50
    """Number of token ids, padding's among them. Only for `source=synthetic_texts` and `synthetic_tags`."""
    synthetic_classes: Annotated[int, AtLeast(2), AtMost(10**5)] = 10
    """Number of classes. Only for what is `synthetic`."""
    synthetic_examples: Annotated[int, AtLeast(1), AtMost(10**9)] = 4000
    """Number of training examples (a quarter as many make the test split). Only for what is `synthetic`."""


@dataclass(frozen=True)
class NetConfig:
    """The network whose widths are searched."""

    name: Annotated[str, tyro.conf.arg(aliases=("--net",))] = "cnn"
    """Registered network: cnn, lenet5, celeba_cnn, alexnet, vgg11, vgg16, mobilenet_v1, mobilenet_v2; resnet20,
    resnet32 or resnet56, for small images; resnet18, resnet34; densenet100, for small images, densenet121, googlenet,
    shufflenet_v2, vit, deit_tiny; mlp, for rows too; lstm, for texts and series, and lstm_sent140, lstm_shakespeare and
    lstm_stackoverflow, for texts; or MODULE:FUNCTION, your own (docs/your_network.md)."""
    widths: Annotated[tuple[int, ...], AtLeast(1), AtMost(10**6)] = ()
    """Width of every width group of the parent network (default: the network's own)."""
    multiple: Annotated[tuple[int, ...], NotEmpty("number"), AtLeast(1), AtMost(10**6)] = (8,)
    """Widths are multiples of this: one number (attention's heads leave one by one), or one for each width group."""
    width_multiplier: Annotated[float, AtLeast(1e-3), AtMost(1e3)] = 1.0
    """Scales the network's own widths. Only where `widths` is not given."""
    shallow: bool = False
    """Take the network's shallowest form instead, which has each kind of its layers once: for quick tries."""
    stem_stride: Annotated[int, AtLeast(1), AtMost(16)] = 2
    """Stride of the first convolution of mobilenet_v1, mobilenet_v2, resnet18, resnet34, densenet121, googlenet and
    shufflenet_v2: 2 for 224x224 images, 1 for small ones; with 1 the ResNets take a 3x3 convolution without pooling."""
    norm: Literal["batch", "group", "none"] | None = None
    """Normalisation after each convolution (default: as the network was published)."""
    group_size: Annotated[int, AtLeast(1), AtMost(10**6)] = 8
    """Channels that GroupNorm normalises together; they leave together too. Only for `norm=group`."""
    dropout: Annotated[float | None, AtLeast(0), Below(1)] = None
    """Share of activations that dropout zeroes before the last dense layers (default: as the network was published)."""


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images, drawn anew for each example of each step; never of images that score."""

    crop: Annotated[int, AtLeast(0), AtMost(10_000)] = 0
    """Pixels by which an image may be moved each way, black where nothing moves in (random crop with this padding)."""
    flip: bool = False
    """Mirror every other image, left to right."""
    cutout: Annotated[int, AtLeast(0), AtMost(10_000)] = 0
    """Side in pixels of a square that is blanked out with the mean, around a random pixel."""


@dataclass(frozen=True)
class TrainConfig:
    """One client's local training and the server's step."""

    local_epochs: Annotated[float, AtLeast(1e-6), AtMost(10_000)] = 1.0
    """Passes over its own training examples that a client makes in a round."""
    batch_size: Annotated[int, AtLeast(1), AtMost(10**5)] = 20
    """Examples in a training batch."""
    learning_rate: Annotated[float, AtLeast(1e-12), AtMost(1e3)] = 0.05
    """Learning rate of the clients' SGD."""
    learning_rate_decay: Annotated[float, AtLeast(1e-3), AtMost(2)] = 1.0
    """Factor on the learning rate from one pretraining or fine-tuning round to the next."""
    momentum: Annotated[float, AtLeast(0), Below(1)] = 0.9
    """Momentum of the clients' SGD."""
    weight_decay: Annotated[float, AtLeast(0), AtMost(1e3)] = 1e-4
    """L2 penalty: this times the weights is added to the gradient."""
    proximal: Annotated[float, AtLeast(0), AtMost(1e6)] = 0.0
    """FedProx's mu: this times (weights - the round's start weights) is added to the gradient."""
    client_optimizer: Annotated[str, OneOf(registries.CLIENT_OPTIMIZERS)] = "sgd"
    """Clients' optimiser: sgd (with `momentum`); any of optax by name with its arguments, as in optax:adam(b1=0.8); or
    MODULE:FUNCTION, your own (docs/extend.md). `weight_decay` and `proximal` are added to the gradient of each."""
    schedule: Annotated[str, OneOf(registries.SCHEDULES)] = "constant"
    """Learning rate over the rounds of pretraining and of fine-tuning: constant; cosine(final=0); step(every=10,
    factor=0.5); warmup(rounds=5, then='cosine'); or MODULE:FUNCTION, your own. The search keeps `learning_rate`."""
    loss: Annotated[str, OneOf(registries.LOSSES)] = "cross_entropy"
    """What clients minimise: cross_entropy(smoothing=0); focal(gamma=2); or MODULE:FUNCTION, your own."""
    server_optimizer: Annotated[str, OneOf(registries.SERVER_OPTIMIZERS)] = "avg"
    """What the server does with the averaged update: avg is FedAvg; momentum, adam, yogi and adagrad are FedOpt's; any
    of optax by name with its arguments, as in optax:lion(b1=0.9); or MODULE:FUNCTION, your own."""
    server_learning_rate: Annotated[float, AtLeast(1e-12), AtMost(1e3)] = 1.0
    """Learning rate of the server's optimiser."""
    aggregation: Annotated[str, OneOf(registries.AGGREGATIONS)] = "mean"
    """How the server brings updates together: mean (by examples); median, trimmed_mean(share=0.1), krum(malicious=0.2)
    and clipped_mean(norm=10) withstand some malicious clients; or MODULE:FUNCTION, your own."""
    update_bound: Annotated[float | None, AtLeast(1e-9), AtMost(1e9)] = None
    """Norm above which a client's update is left out of the average, as one that is no finite number always is."""
    compression: Literal["none", "int8", "topk"] = "none"
    """What clients do to the update of the parameters before they send it: round to 8 bits, or send the largest."""
    compression_keep: Annotated[float, Above(0), AtMost(1)] = 0.1
    """Fraction of the update's entries that are sent. Only for `compression=topk`."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What networks compute in. Weights, statistics, gradients' sums and averages are float32 in any case."""
    matmul_precision: Literal["default", "high", "highest"] = "default"
    """jax's default_matmul_precision: how exactly accelerators multiply float32; a CPU is always exact."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class StageConfig:
    """A stage of ordinary federated training: pretraining the parent or fine-tuning the family."""

    rounds: Annotated[int, AtLeast(0), AtMost(10**6)] = 10
    """Number of rounds."""
    clients_per_round: Annotated[int, AtLeast(0, "0 takes all"), AtMost(10**7)] = 0
    """Clients sampled for each round; 0 takes all."""


@dataclass(frozen=True)
class FinetuneConfig(StageConfig):
    """Long-term fine-tuning of the family, all members side by side."""

    members: Annotated[tuple[int, ...], AtLeast(0), AtMost(10_000)] = ()
    """Iterations whose networks are fine-tuned and tested, 0 is the parent; none given, and no shares: all."""
    shares: tuple[Annotated[float, Above(0), AtMost(1)], ...] = ()
    """Fine-tune and test only the largest network within each of these shares of the parent's MACs, say 0.5 0.25."""


@dataclass(frozen=True)
class SearchConfig:
    """The search: targets, candidates, rungs and rounds."""

    resource: str = "macs"
    """What the budget limits, one or several with commas between: macs (multiply-accumulates of a forward pass),
    params, bytes (of weights and statistics), memory (bytes of activations at their peak), latency:DEVICE (ms) or
    energy:DEVICE (mJ), where DEVICE is a measured phone, FILE:NAME of a table of your own, or the .json of `fednas
    latency`; or MODULE:FUNCTION, your own. Of several, the one that exceeds its budget most is brought down; all must
    hold at the end."""
    budget: Annotated[Ratio | tuple[Ratio, ...], Numbers] = 0.25
    """Stop when the network uses this fraction of the parent's resource; of several, one for all or one for each."""
    budget_absolute: Annotated[Amount | tuple[Amount | None, ...] | None, Numbers] = None
    """Stop at this number, in the resource's unit, instead of at a fraction; of several, one for each, where `none`
    leaves it to the fraction."""
    reduction: Annotated[float, AtLeast(1e-6), Below(1)] = 0.05
    """Initial reduction rho: the first iteration removes this fraction of the parent's resource."""
    decay: Annotated[float, AtLeast(0.01), AtMost(1)] = 0.98
    """Factor d on the reduction from one iteration to the next."""
    max_iterations: Annotated[int, AtLeast(1), AtMost(10_000)] = 100
    """Stop after this many iterations, whatever the budget."""
    policy: Annotated[str | None, OneOf(registries.POLICIES)] = None
    """Who is dropped when: rungs (`rungs`, `growth`); halving(eta=2, rounds=1); hyperband(eta=2, rounds=8);
    median(warmup=1, rounds=8); none(score_every=0), which with score_every=1 records learning curves for `fednas
    replay`; or MODULE:FUNCTION, your own (default: as the method says; docs/extend.md). Only `none` without
    early_dropping."""
    proposals: Annotated[str | None, OneOf(registries.PROPOSALS)] = None
    """Candidates: groups (one for each width group), random (random widths), uniform (a width multiplier),
    proportional (all groups by the same factor), or MODULE:FUNCTION, your own (default: as the method says)."""
    candidates: Literal["auto", "masked", "sliced"] = "auto"
    """How candidates are trained: masked in their parent's shape, one program for all; sliced to their own widths, a
    program for each; auto: masked where that is exact."""
    metric: Annotated[str, OneOf(registries.METRICS)] = "accuracy"
    """What a network's score is: accuracy, balanced_accuracy, macro_f1, auc (of two classes), or MODULE:FUNCTION."""
    depth: bool = True
    """Let a candidate remove a block with a skip, where its inner width would fall below its multiple (mobilenet_v2,
    resnet*, vit, deit_tiny)."""
    random_candidates: Annotated[int, AtLeast(1), AtMost(10_000)] = 8
    """Candidates in an iteration. Only for `proposals=random`."""
    centralised: bool | None = None
    """Merge all clients into one that holds all data (default: as the method says)."""
    partial_clients: bool | None = None
    """Train each candidate on one group of clients only (default: as the method says)."""
    early_dropping: bool | None = None
    """Drop inferior candidates at the rungs (default: as the method says)."""
    dynamic_rounds: bool | None = None
    """Let the rounds grow with the iteration (default: as the method says)."""
    groups: Annotated[int, AtLeast(1), AtMost(10**6)] = 8
    """Client groups M of nearly equal data. Only with partial_clients."""
    clients_per_group: Annotated[int, AtLeast(0, "0 takes all"), AtMost(10**7)] = 0
    """Clients sampled in a group for each round; 0 takes all. Only with partial_clients."""
    rungs: Annotated[tuple[tuple[RungRounds, Kept], ...], NotEmpty("pair (rounds, keep)")] = ((1, 0.5), (1, 1))
    """Pairs (rounds, keep): after that many rounds keep the best `keep` (a number, or below 1 a fraction)."""
    growth: Annotated[float, AtLeast(0), AtMost(10_000)] = 0.0
    """Rounds that each iteration adds to every rung. Only with dynamic_rounds."""
    round_cap: Annotated[int, AtLeast(1), AtMost(10**6)] = 20
    """Most rounds a rung can grow to. Only with dynamic_rounds."""
    settle_rounds: Annotated[int, AtLeast(1), AtMost(10**6)] = 5
    """Rounds that every surviving candidate gets without dynamic_rounds: enough for it to settle."""
    idle_groups: Literal["rest", "help"] = "rest"
    """Groups without a candidate of their own rest, or help to train the surviving candidates."""
    score_clients: Annotated[int, AtLeast(0), AtMost(10**7)] = 0
    """Clients that all score every candidate, redrawn for every scoring; 0: each candidate's own cohort scores it."""
    score_most: Annotated[int, AtLeast(0), AtMost(10**7)] = 0
    """Let the scoring clients double, from `score_clients` up to this many, until the decision is clear; 0, or without
    `score_clients`: they do not grow. Only for `metric=accuracy` and `select=accuracy`."""
    score_error: Annotated[float, AtLeast(1e-6), AtMost(0.5)] = 0.2
    """Rate at which a growing panel may stop early with a candidate kept that is worse than one that goes, by more than
    `score_tolerance`. Only with `score_most`."""
    score_tolerance: Annotated[float, AtLeast(0), Below(1)] = 0.02
    """Difference in accuracy between candidates that does not matter to a growing panel. Only with `score_most`."""
    score_alone: bool = True
    """Score a candidate that is the only one left, too: it decides nothing, but tells how good the network is that is
    passed on. False: its latest score stands for it."""
    select: Literal["accuracy", "ratio"] = "accuracy"
    """Winner: best score, or least accuracy lost for the resource saved."""
    compact_at: Annotated[float, AtLeast(1e-3), Below(1)] = 0.2
    """Slice the network physically when the MACs that it needs fell by this fraction since the last compilation. Widths
    are rounded up to quarters of the parent's, so that searches share what they compile."""

    @property
    def partial(self) -> bool:
        """Whether a candidate trains on a part of the clients; a centralised search has one client only."""
        return bool(self.partial_clients and not self.centralised)

    @property
    def growing_panel(self) -> bool:
        """Whether the clients that score become more until the decision is clear."""
        return 0 < self.score_clients < self.score_most


@dataclass(frozen=True)
class CostConfig:
    """The simulated phones and their links. The paper's figures; the energy figures are assumptions to be set."""

    population: str = "paper"
    """Phones: paper, uniform (all are `phone`), phones (six measured ones), flash, flash_kilobytes (its three classes
    and links), lognormal (around `phone`); or the file of a table of your own, .csv or .json."""
    phone: str = "pixel1"
    """Measured phone: lg_g8, note10, pixel1, note8, pixel2 or s7_edge; or FILE:NAME of a table of your own. Only for
    uniform and lognormal."""
    sigma: Annotated[float, AtLeast(0), AtMost(10)] = 0.78
    """Standard deviation of the log of the phones' times. Only for lognormal; 957 measured phones have 0.78."""
    seconds_per_example: Annotated[float, AtLeast(1e-9), AtMost(1e6)] = 0.1
    """Seconds in which a phone trains the parent network on one example; others in proportion to MACs. Only for
    `population=paper`."""
    down_mbit_per_second: Annotated[float, AtLeast(1e-6), AtMost(1e9)] = 2.0
    """Download speed of a client's link, in megabits (10^6 bits) a second; flash and own tables have their own."""
    up_mbit_per_second: Annotated[float, AtLeast(1e-6), AtMost(1e9)] = 2.0
    """Upload speed of a client's link, in megabits (10^6 bits) a second; flash and own tables have their own."""
    watts: Annotated[float, AtLeast(0), AtMost(1e6)] = 3.0
    """Power of a phone while it computes, in watts (an assumption: no measured source)."""
    joules_per_megabyte: Annotated[float, AtLeast(0), AtMost(1e9)] = 5.0
    """Energy of moving 10^6 bytes over the link, in joules (an assumption: no measured source)."""
    server_seconds: Annotated[float, AtLeast(0), AtMost(1e9)] = 0.0
    """Seconds that the server takes to average the updates of a round: simulated time, nobody's cost."""


@dataclass(frozen=True)
class ParticipationConfig:
    """The round as it really goes: who is there, who is late, who leaves. By default all are there and finish."""

    availability: Literal["always", "bernoulli", "intervals", "trace"] = "always"
    """Clients are there always; with probability `available` in each round; on and off in intervals like measured
    ones (a phone is ready 2 minutes in the median, then away 8 minutes); or as a trace file says. Who goes away in the
    midst of a round stops there; its work is wasted."""
    available: Annotated[float, Above(0), AtMost(1)] = 1.0
    """Probability that a client is there in a round. Only for `availability=bernoulli`."""
    ready_seconds: Annotated[tuple[float, float], AtLeast(1e-3), AtMost(1e9)] = (138.0, 4178.0)
    """Median and 90th percentile of the intervals in which a phone is ready, in seconds. Only for
    `availability=intervals`."""
    away_seconds: Annotated[tuple[float, float], AtLeast(1e-3), AtMost(1e9)] = (476.0, 39914.0)
    """Median and 90th percentile of the gaps between them, in seconds. Only for `availability=intervals`."""
    trace: Path | None = None
    """CSV file with the columns `client`, `from [s]` and `to [s]`, after which it repeats. Only for
    `availability=trace`, which needs it."""
    wait_seconds: Annotated[float, AtLeast(1e-3), AtMost(1e9)] = 60.0
    """Seconds of simulated time after which the server looks again where nobody was there."""
    overcommit: Annotated[float, AtLeast(1), AtMost(1e3)] = 1.0
    """The server invites this many times the clients that it wants, and takes the first of each candidate to finish.
    Where it wants all, it invites all, and takes the first 1 / overcommit of them."""
    deadline_seconds: Annotated[float | None, Above(0), AtMost(1e9)] = None
    """Seconds after which the server closes a round of training; who is late works in vain. None: it waits for all."""
    dropout: Annotated[float, AtLeast(0), Below(1)] = 0.0
    """Probability that a client leaves in the midst of a round's training, after a random share of its steps."""
    malicious: Annotated[float, AtLeast(0), AtMost(1)] = 0.0
    """Share of the clients, drawn once, that attack the training; for research on `train.aggregation`."""
    attack: Literal["label_flip", "sign_flip", "scaled"] = "label_flip"
    """What they do: train on flipped labels; send the update's opposite; send it `attack_scale` times. Only with
    `malicious`."""
    attack_scale: Annotated[float, AtLeast(0), AtMost(1e6)] = 10.0
    """Factor on a malicious update. Only for `attack=scaled`."""

    @property
    def spells(self) -> bool:
        """Whether clients come and go by the clock."""
        return self.availability in ("intervals", "trace")

    @property
    def timed(self) -> tuple[str, ...]:
        """Fields by which it depends on the clock, and so on phones and links, whose work is used."""
        reasons = {
            "overcommit": self.overcommit > 1,
            "deadline_seconds": self.deadline_seconds is not None,
            "availability": self.spells,
        }
        return tuple(name for name, holds in reasons.items() if holds)

    @property
    def everybody(self) -> bool:
        """Whether every round has all that were invited, from beginning to end."""
        return self.availability == "always" and not self.timed and not self.dropout


@dataclass(frozen=True)
class EngineConfig:
    """The simulator itself: none of these fields changes a result beyond float summation order."""

    lanes: Annotated[int, AtLeast(0), AtMost(10**6)] = 0
    """Clients trained side by side on one device; 0 measures what is fastest."""
    lowering: LoweringName = "auto"
    """How lanes' convolutions are computed: unfolded along their rows; unfolded in full; as shifted products; by the
    library's grouped convolution; unfolded on the chip by a kernel of our own (CUDA alone). auto: rows on a CPU, on an
    accelerator what is measured to be fastest."""
    data_share: Annotated[float, Range(1)] = 0.25
    """Share of a device's memory that clients' data may take; data that is larger, or on disk, is sent bit by bit."""
    eval_batch: Annotated[int, AtLeast(1), AtMost(10**5)] = 128
    """Examples in an evaluation batch."""
    checkpoint_rounds: Annotated[int, AtLeast(1), AtMost(10**6)] = 1
    """Rounds between checkpoints, which a thread writes meanwhile; ends of iterations and stages are saved anyway."""


@dataclass(frozen=True)
class Config:
    """A whole run."""

    preset: Annotated[str, tyro.conf.Suppress] = ""
    """Name of the preset that the other fields started from; none: a config built by hand."""
    command: Annotated[Literal["search", "pretrain"], tyro.conf.Suppress] = "search"
    """What the run does: the whole search, or only pretraining the parent."""
    method: Annotated[str, OneOf(registries.METHODS)] = "fednas"
    """fednas; naive (all candidates on all clients, no dropping); netadapt (centralised); random; uniform; or
    MODULE:FUNCTION, your own set of settings (docs/extend.md)."""
    seed: Annotated[int, Range(2**32 - 1, "jax keys take 32 bits")] = 0
    """The one seed that every random number of the run comes from."""
    parent: Path | None = None
    """A trained parent: a run's folder, a model's, an orbax checkpoint or a .safetensors file. `pretrain.rounds` of a
    search are then 0, unless they are given too; in Python they are to be given."""
    data: DataConfig = field(default_factory=DataConfig)
    net: NetConfig = field(default_factory=NetConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    pretrain: StageConfig = field(default_factory=StageConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    participation: ParticipationConfig = field(default_factory=ParticipationConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
