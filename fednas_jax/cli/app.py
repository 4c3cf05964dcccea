"""The command line, thin: parses, calls the library, turns errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import signal
import statistics
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from fednas_jax.config.presets import PRESETS, fitted, preset, tiny
from fednas_jax.config.schema import Config, CostConfig, DataConfig, NetConfig, resolve
from fednas_jax.data.imports import ImportOptions
from fednas_jax.errors import ConfigError, FednasError, Interrupted
from fednas_jax.runtime import cores, hosts
from fednas_jax.runtime.hosts import Hosts

USAGE = """usage: fednas COMMAND [OPTIONS]

Federated neural architecture search, simulated, with every client's cost in a ledger.

commands:
  search PRESET --out RUN   run a search, or go on with an unfinished one (presets: {presets})
  pretrain PRESET --out RUN train a parent once, for many searches: fednas search PRESET --parent RUN
  compare RUN RUN ...       runs side by side: accuracy at equal MACs, client cost, by phase
  report RUN ...            write report.html and figures of finished runs again
  reprice RUN               what a finished run would have cost on other phones and links
  tiers RUN FILE            the best member of a finished run's family for each class of phones
  latency PRESET|NETWORK    measure a lookup table of latency by layer on this machine
  bench [WORKLOAD ...]      measure this machine: examples/s, FLOP/s, memory (workloads: {workloads})
  data list                 the data sets there are
  data show NAME            what a data set holds, or a preset's; with --clients how it is divided, --out FILE.svg
  data prepare NAME         prepare a data set once, downloaded or from its original files (--from DIR)
  data import KIND PATH     import files of yours into columns (--to DIR; kinds: leaf, folder, npz)

fednas COMMAND --help shows every option. --debug, anywhere, shows the traceback of an error."""


@dataclasses.dataclass(frozen=True)
class SearchArgs:
    """Run a federated search, or pretrain its parent, or go on with either where it was stopped."""

    out: Path
    """Folder of the run; the same command on an unfinished run goes on with it."""
    config: Annotated[Config, tyro.conf.arg(name="")]
    hosts: Hosts = dataclasses.field(default_factory=Hosts)
    tiny: bool = False
    """Try the preset in a minute without its data: made-up images of that form, a shallow network, one iteration."""
    tiers: Path | None = None
    """JSON list of classes of phones; at the end, which member of the family each runs (`fednas tiers`). Not for
    pretraining."""


@dataclasses.dataclass(frozen=True)
class RunsArgs:
    """Finished runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs."""


@dataclasses.dataclass(frozen=True)
class RepriceArgs:
    """Price a finished run's ledger again, without training; options not given are the run's own."""

    prices: Annotated[CostConfig, tyro.conf.arg(name="")]
    name: str = ""
    """Name of the file RUN/reprice/NAME.json (default: the population's)."""


@dataclasses.dataclass(frozen=True)
class TiersArgs:
    """For each class of phones the best member of a finished run's family that fits its budget: RUN/tiers.json."""

    run: tyro.conf.Positional[Path]
    """Folder of a finished run."""
    tiers: tyro.conf.Positional[Path]
    """JSON list of objects: name, device (a measured phone, FILE:NAME of a table of your own, or the .json of `fednas
    latency`), budget_ms or budget_ratio (of the parent's latency), clients (phones of this class; 1)."""


@dataclasses.dataclass(frozen=True)
class LatencyArgs:
    """Measure the latency of a network's layers on this machine, batch 1, as a lookup table for a search."""

    out: Path
    """The table's file, .json; `--search.resource latency:FILE` uses it."""
    config: Annotated[Config, tyro.conf.arg(name="")]
    image: tuple[int, int, int] | None = None
    """Height, width and channels of the images (default: those of the data set)."""
    classes: int | None = None
    """Number of classes (default: those of the data set)."""
    points: int = 5
    """Measured widths of a width group, from its multiple up to its width."""
    networks: int = 8
    """Whole networks at random widths that the table is fitted to, and as many that check it."""
    repeats: int = 21
    """Timed runs of each layer and network."""
    statistic: Literal["median", "min"] = "median"
    """What is taken of them: the median, or the fastest, for a machine with other work."""


@dataclasses.dataclass(frozen=True)
class ListArgs:
    """The data sets there are."""

    root: Path | None = None
    """Folder of prepared data sets (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""


@dataclasses.dataclass(frozen=True)
class ShowArgs:
    """What a data set holds, and how it is divided among clients."""

    clients: bool = False
    """Divide it among clients, as a search with these options would."""
    out: Path | None = None
    """File of a picture of the division, .svg or .png. Only with --clients."""
    seed: int = 0
    """The run's seed."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)


@dataclasses.dataclass(frozen=True)
class PrepareArgs:
    """Prepare a data set once from its original files."""

    name: tyro.conf.Positional[str]
    """Data set (`fednas data list`)."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Folder of the original files, where they are not downloaded."""
    root: Path | None = None
    """Folder of prepared data sets (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""


@dataclasses.dataclass(frozen=True)
class ImportArgs:
    """Import files of yours into a folder of columns, for `--data.source columns --data.folder DIR`."""

    kind: tyro.conf.Positional[str]
    """leaf (LEAF's JSON), folder (CLASS/IMAGE or CLIENT/CLASS/IMAGE) or npz (x, y, client_ids)."""
    path: tyro.conf.Positional[Path]
    """The files: a folder or a file."""
    to: Path
    """Folder of the columns; must not exist yet."""
    options: Annotated[ImportOptions, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ImportOptions)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, 2 for a user's error, 130 or 143 after a signal."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    try:
        return _dispatch(args)
    except FednasError as error:
        if debug:
            traceback.print_exc()
        print(f"fednas: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader went away, as `fednas compare ... | head` does: not an error, but nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        from fednas_jax.bench.workloads import WORKLOADS

        print(USAGE.format(presets=", ".join(PRESETS), workloads=", ".join(WORKLOADS)))
        return 0 if args else 2
    commands: dict[str, Callable[[list[str]], int]] = {
        "search": functools.partial(_search, "search"),
        "pretrain": functools.partial(_search, "pretrain"),
        "compare": _compare,
        "report": _report,
        "reprice": _reprice,
        "tiers": _tiers,
        "latency": _latency,
        "bench": _bench,
        "data": _data,
    }
    if args[0] not in commands:
        raise ConfigError(f"command: got {args[0]!r}, want one of {', '.join(commands)}")
    return commands[args[0]](args[1:])


def _search(command: Literal["search", "pretrain"], args: list[str]) -> int:
    name, rest = (args[0], args[1:]) if args and not args[0].startswith("-") else ("", args)
    if not name and "--help" not in rest and "-h" not in rest:
        raise ConfigError(f"{command}: got no preset, want one of {', '.join(PRESETS)}")
    start = dataclasses.replace(preset(name) if name else next(iter(PRESETS.values())), command=command)
    prog = f"fednas {command} {name or 'PRESET'}"
    parsed = _parse(SearchArgs, rest, prog, SearchArgs(tyro.MISSING, start))
    # Another network, a given parent or a tiny try changes the defaults of what was not typed.
    fit = fitted(start, parsed.config.net.name, parsed.config.parent)
    fit = tiny(fit) if parsed.tiny else fit
    if fit != start:
        parsed = _parse(SearchArgs, rest, prog, SearchArgs(tyro.MISSING, fit))
    resolve(parsed.config)  # a mistake is answered before jax is imported
    if parsed.tiers is not None:
        if command == "pretrain":
            raise ConfigError(f"--tiers: got {parsed.tiers}, want none: a pretraining has no family")
        from fednas_jax.report import tiers

        tiers.read(parsed.tiers)
    hosts.start(parsed.hosts)
    cores.use_all()  # before the console asks which host this is
    # Imported here: --help and mistyped options answer without waiting for jax.
    from fednas_jax.report import page as report
    from fednas_jax.report.progress import Display
    from fednas_jax.run.folder import RunDir
    from fednas_jax.run.loop import run_search
    from fednas_jax.runtime import cache

    cache.keep_compiled_programs()
    console = _console(quiet=not hosts.first())
    asked: list[int] = []
    with _signals(asked):
        done_before = hosts.said(lambda: RunDir(parsed.out).result() is not None)
        try:
            with Display(console) as display:
                result = run_search(parsed.config, parsed.out, display.observe, lambda: bool(asked))
        except Interrupted:
            console.print(f"stopped; the same command goes on from the last checkpoint in {parsed.out}")
            return 128 + (asked or [signal.SIGTERM])[0]  # another host may have been asked

    def show() -> None:
        if done_before:
            kept = "changed" if parsed.tiers is None else "trained again"
            console.print(f"{parsed.out}: this run is finished; nothing was {kept}", soft_wrap=True)
        if command == "pretrain":
            parent = result["parent"]
            score = f"validation accuracy {parent['score']:.4f} at {parent['macs']:,} MACs"
            console.print(f"for searches with --parent {parsed.out}: {score}", soft_wrap=True, highlight=False)
            report.print_cost(console, result)
            return
        page = parsed.out / "report.html"
        if not (done_before and page.exists()):  # killed after its result was written
            report.write_report(parsed.out)
        report.print_family(console, result)
        if parsed.tiers is not None:
            report.print_tiers(console, tiers.assign(parsed.out, tiers.read(parsed.tiers)))
            report.write_report(parsed.out)
        if not done_before:
            console.print(f"report: {page}", soft_wrap=True)

    hosts.said(show)  # the others wait: host 0 would have to end with them
    return 0


def _compare(args: list[str]) -> int:
    parsed = _parse(RunsArgs, args, "fednas compare")
    from fednas_jax.report import page as report

    if not parsed.runs:
        raise ConfigError("compare: got no run, want at least one finished run's folder")
    report.compare(_console(), parsed.runs)
    return 0


def _report(args: list[str]) -> int:
    parsed = _parse(RunsArgs, args, "fednas report")
    from fednas_jax.report import page as report

    if not parsed.runs:
        raise ConfigError("report: got no run, want at least one finished run's folder")
    for run in parsed.runs:
        print(report.write_report(run))
    return 0


def _reprice(args: list[str]) -> int:
    known = args and not args[0].startswith("-")
    if not known and not {"-h", "--help"} & set(args):
        raise ConfigError("reprice: got no run, want a finished run's folder")
    from fednas_jax.report import page as report
    from fednas_jax.report import reprice
    from fednas_jax.run.folder import RunDir

    run = Path(args[0]) if known else Path()
    start = RunDir(run).config().cost if known else CostConfig()
    parsed = _parse(RepriceArgs, args[1:] if known else args, "fednas reprice RUN", RepriceArgs(start))
    found = reprice.reprice_run(run, parsed.prices, parsed.name)
    report.print_repriced(_console(), run, found)
    return 0


def _tiers(args: list[str]) -> int:
    parsed = _parse(TiersArgs, args, "fednas tiers")
    from fednas_jax.report import page as report
    from fednas_jax.report import tiers

    report.print_tiers(_console(), tiers.assign(parsed.run, tiers.read(parsed.tiers)))
    print(parsed.run / "tiers.json")
    print(report.write_report(parsed.run))
    return 0


def _latency(args: list[str]) -> int:
    name, rest = (args[0], args[1:]) if args and not args[0].startswith("-") else ("", args)
    if not name and "--help" not in rest and "-h" not in rest:
        raise ConfigError(f"latency: got no preset or network, want one of {', '.join(PRESETS)}, or a network's name")
    named = name and name not in PRESETS  # a network
    start = dataclasses.replace(Config(), net=NetConfig(name)) if named else PRESETS[name or next(iter(PRESETS))]
    prog = f"fednas latency {name or 'PRESET'}"
    parsed = _parse(LatencyArgs, rest, prog, LatencyArgs(tyro.MISSING, start))
    fit = fitted(start, parsed.config.net.name, None)
    if fit != start:
        parsed = _parse(LatencyArgs, rest, prog, LatencyArgs(tyro.MISSING, fit))
    for option, value, least in (
        ("--points", parsed.points, 2),
        ("--networks", parsed.networks, 2),
        ("--repeats", parsed.repeats, 1),
        ("--classes", 2 if parsed.classes is None else parsed.classes, 2),
        ("--image", min(parsed.image or (1,)), 1),
    ):
        if value < least:
            raise ConfigError(f"{option}: got {value}, want at least {least}")
    if parsed.out.suffix != ".json":
        raise ConfigError(f"--out: got {parsed.out}, want a file that ends in .json")
    if not parsed.out.resolve().parent.is_dir():
        raise ConfigError(f"--out: got {parsed.out}, want a file in a folder that is there")
    config = resolve(parsed.config)
    from fednas_jax import data, nets
    from fednas_jax.report import page as report
    from fednas_jax.run import folder as rundir
    from fednas_jax.runtime import timing as stopwatch
    from fednas_jax.search import latency, lut
    from fednas_jax.space import probing as space

    if named and name not in nets.NETWORKS and ":" not in name:  # MODULE:FUNCTION is a network of one's own
        raise ConfigError(f"latency: got {name!r}, want one of {', '.join(PRESETS)}, {', '.join(nets.NETWORKS)}")
    image, classes = parsed.image, parsed.classes
    if image is None or classes is None:
        dataset = data.load(config.data, config.seed)
        image, classes = image or dataset.train.images.shape[1:], classes or dataset.classes
    found = space.probe(nets.build(config.net, image, classes), config.net.multiple, check=False)
    console = _console()
    with console.status("measuring") as status:
        pick = min if parsed.statistic == "min" else statistics.median
        timer = stopwatch.stopwatch(parsed.repeats, pick, status.update)
        table = latency.measure(found, timer, parsed.points, parsed.networks, config.seed)
    rundir.write_json(parsed.out, lut.to_json(table))
    report.print_table_check(console, table)
    print(parsed.out)
    return 0


def _bench(args: list[str]) -> int:
    from fednas_jax.bench import options

    parsed = _parse(options.BenchOptions, args, "fednas bench")
    options.check(parsed)  # a mistake is answered before jax is imported
    from fednas_jax.bench.run import run_bench

    run_bench(parsed, _console())
    return 0


def _data(args: list[str]) -> int:
    from fednas_jax import data

    if args[:1] in (["-h"], ["--help"]):
        print(
            "usage: fednas data list | show NAME | prepare NAME [--from DIR] | import KIND PATH --to DIR; "
            "each has a --help of its own"
        )
        return 0
    if args[:1] == ["list"]:
        parsed = _parse(ListArgs, args[1:], "fednas data list")
        for name, status in data.list_sources(parsed.root).items():
            print(f"{name}: {status.description}{'' if status.prepared else ' (not prepared yet)'}")
        print(f"{data.ANY_TFDS}: any other set of TensorFlow Datasets with images and labels, by its name there")
        return 0
    if args[:1] == ["show"]:
        return _data_show(args[1:])
    if args[:1] == ["prepare"]:
        prepared = _parse(PrepareArgs, args[1:], "fednas data prepare")
        print(data.prepare(prepared.name, prepared.source, prepared.root))
        return 0
    if args[:1] == ["import"]:
        asked = _parse(ImportArgs, args[1:], "fednas data import")
        print(data.import_data(asked.kind, asked.path, asked.to, asked.options))
        return 0
    raise ConfigError(f"data: got {args[0] if args else 'nothing'!r}, want list, show, prepare or import")


def _data_show(args: list[str]) -> int:
    from fednas_jax import data

    name, rest = (args[0], args[1:]) if args and not args[0].startswith("-") else ("", args)
    if name in PRESETS:
        default = ShowArgs(seed=preset(name).seed, data=preset(name).data)
    elif name in data.list_sources() or name.startswith(data.ANY_TFDS.removesuffix("NAME")):
        default = ShowArgs(data=DataConfig(source=name))
    elif "--help" in rest or "-h" in rest:
        default = ShowArgs()
    else:
        known = ", ".join(dict.fromkeys([*PRESETS, *data.list_sources()]))
        got = repr(name) if name else "no name"
        raise ConfigError(f"data show: got {got}, want a preset or a data set, one of {known}")
    parsed = _parse(ShowArgs, rest, f"fednas data show {name or 'NAME'}", default)
    from fednas_jax.report.data_view import show

    show(_console(), parsed.data, parsed.seed, parsed.clients, parsed.out)
    return 0


def _console(quiet: bool = False) -> Console:
    """The terminal; a file or a pipe is taken to be wide enough for every table."""
    console = Console(quiet=quiet)
    return console if console.is_terminal else Console(width=120, quiet=quiet)


def _parse(kind: type, args: list[str], prog: str, default: Any = None) -> Any:
    """Parses options with tyro; what it prints of a mistake becomes one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=args, prog=prog, **({} if default is None else {"default": default}))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(f"{prog}: {_one_line(said.getvalue())}") from None


def _one_line(said: str) -> str:
    """tyro's message: what stands between its first two rules, and the option it guesses was meant."""
    lines = [line.strip(" │") for line in said.splitlines()]
    # The box's top may have a title in it.
    rules = [n for n, line in enumerate(lines) if line and (line[0] == "╭" or set(line) <= set("─-╰╯"))]
    body = lines[rules[0] + 1 : rules[1]] if len(rules) > 1 else lines
    meant = [n for n, line in enumerate(lines) if line.startswith("Perhaps you meant")]
    guess = f"; perhaps you meant {lines[meant[0] + 1].split()[0]}" if meant and len(lines) > meant[0] + 1 else ""
    return " ".join(" ".join(body).split()) + guess


@contextlib.contextmanager
def _signals(asked: list[int]) -> Any:
    """Ctrl-C and SIGTERM ask the run to stop where nothing is lost; a second Ctrl-C stops it at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
