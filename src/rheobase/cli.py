"""The command `rheobase`: each subcommand is a function of its options that imports what it needs."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import rheobase

if TYPE_CHECKING:
    from rheobase.training import Run

SETTINGS = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads slow training many times when a neighbour is busy
    "GOMP_SPINCOUNT": "3000",  # but a wait of some microseconds, between two operators, is not worth a sleep
    "MALLOC_MMAP_MAX_": "0",  # glibc keeps freed memory for the next batch:
    "MALLOC_TRIM_THRESHOLD_": "1000000000000",  # fresh pages cost more than the arithmetic of a neuron
}
"""What the command sets in its own environment on Linux, where it is not set. A library leaves its host alone."""
Options = argparse.Namespace


def recipes(options: Options) -> None:
    """list recipes: what each trains, on what, how long, the result to expect"""
    from rheobase.training import sources

    for name, heading in sources.listing():
        print(name, *(f"    {line}" for line in heading), "", sep="\n")


def train(options: Options) -> None:
    """train a recipe (default: digits) in a new run folder"""
    from rheobase.training import sources

    name, recipe = sources.from_arguments(options.words)
    from rheobase.training.runs import start

    _report(start(recipe, name))


def resume(options: Options) -> None:
    """continue a run exactly where it stopped"""
    from rheobase.training import resume as continue_run

    _report(continue_run(options.run))


def evaluate(options: Options) -> None:
    """accuracy of a run's best model against time steps, without retraining"""
    from rheobase.training import evaluate as measure

    found = measure(options.run, options.steps, options.split, plot=options.plot)
    print(f"steps  {options.split} accuracy")
    for steps, accuracy in found.items():
        print(f"{steps:>5}  {accuracy:.2%}")


def convert(options: Options) -> None:
    """convert a run's ANN (trained with --model.spiking false) to a spiking net: accuracy against time steps"""
    from rheobase.training.conversion import convert as converted

    found = converted(
        options.run,
        options.method,
        options.steps,
        options.split,
        at=options.at,
        samples=options.samples,
        confidence=options.exit,
        skip=options.skip,
        limit=options.limit,
    )
    print(found.net.report)
    print(f"\n{options.split} accuracy ({found.curve.samples} samples; the ANN: {found.ann_accuracy:.2%})")
    print(found.curve)
    print(f"\nwritten to {found.file}")


def probe(options: Options) -> None:
    """signal health of a recipe's net before training, or of a run's best: exit code 1 where it is not healthy"""
    from rheobase.signal.tune import Tuned
    from rheobase.training.health import health
    from rheobase.training.watch import told

    if options.plot:
        from rheobase.figures import check

        check(options.plot)  # before all else, which takes its time
    if options.json and not Path(options.json).absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {Path(options.json).parent} for {Path(options.json).name}")
    found = health(options.what, options.words, options.preset, options.samples, options.tune, options.start)
    report = found.held_out if isinstance(found, Tuned) else found
    if isinstance(found, Tuned):
        print(f"{found.before.table()}\n\nafter tuning, on a batch that it was not tuned on:\n")
    print(report.table())
    if isinstance(found, Tuned):
        print(f"\n{found.account}")
    if options.plot:
        report.plot(options.plot)
    if options.json:
        content = json.loads(report.to_json()) | ({"tuned": told(found)} if isinstance(found, Tuned) else {})
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")
    if not report.healthy:
        sys.exit(1)


def report(options: Options) -> None:
    """a run as one HTML page: training, accuracy against time steps, signal health, spikes, energy"""
    from rheobase.report import write

    print(write(options.run, options.out, options.samples))


COMMANDS = {
    "recipes": recipes,
    "train": train,
    "resume": resume,
    "evaluate": evaluate,
    "convert": convert,
    "probe": probe,
    "report": report,
}
METHODS = ("percentile", "threshold_balancing", "calibrated", "qcfs", "soft_lif")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a mistake of the user ends with one line on stderr and status 2."""
    options = _parsed(sys.argv[1:] if arguments is None else arguments)
    if options.command != "recipes":
        if arguments is None:  # a process of our own
            settle()
        if str(Path.cwd()) not in sys.path:  # for data and models of the user's own
            sys.path.insert(0, str(Path.cwd()))
    try:
        COMMANDS[options.command](options)
    except BrokenPipeError:  # who read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, TypeError, ImportError, OSError) as error:
        if not isinstance(error, OSError) and not _ours(error):
            raise
        print("rheobase: " + "; ".join([str(error), *getattr(error, "__notes__", ())]), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _parsed(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="rheobase",
        description="Train deep spiking neural networks.",
        epilog="rheobase COMMAND --help tells more.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rheobase {rheobase.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parsers = {}
    for name, run in COMMANDS.items():  # (the options of train are all keys of a recipe: `sources` knows them)
        parsers[name] = commands.add_parser(
            name, help=run.__doc__, description=run.__doc__, allow_abbrev=False, add_help=name != "train"
        )
    for name in ("resume", "evaluate", "convert", "report"):
        parsers[name].add_argument("run", metavar="RUN", help="run folder")
    for name, default in (("evaluate", "1 to the trained"), ("convert", "1 2 4 ... 1024")):
        help = f"numbers of time steps (default: {default})"
        parsers[name].add_argument("--steps", type=int, nargs="+", metavar="T", help=help)
        help = "(default: %(default)s; a look at the test set is noted in the run folder)"
        splits = ("validation", "test", "train")
        parsers[name].add_argument("--split", choices=splits, default="validation", help=help)
    help = "a figure of it, with early exits beside, PNG or SVG by its ending"
    parsers["evaluate"].add_argument("--plot", metavar="FILE", help=help)
    add = parsers["convert"].add_argument
    add("--method", choices=METHODS, default=METHODS[0], help="(default: %(default)s)")
    help = "time steps that calibrated is for, and errors are told at (default: %(default)s)"
    add("--at", type=int, default=32, metavar="T", help=help)
    help = "samples of the training split to calibrate with (default: %(default)s)"
    add("--samples", type=int, default=512, metavar="N", help=help)
    help = "also decide early, at this softmax of the mean logits"
    add("--exit", type=float, metavar="P", help=help)
    help = "steps at the beginning whose logits do not count (default: %(default)s)"
    add("--skip", type=int, default=0, metavar="N", help=help)
    help = "decide only so many samples of the split, of all classes (default: all)"
    add("--limit", type=int, metavar="N", help=help)
    add = parsers["probe"].add_argument
    add("what", metavar="RECIPE|RUN", help="a recipe, changed by --key value as for train, or a run folder")
    add("--preset", choices=("quick", "standard", "full"), default="standard", help="(default: %(default)s)")
    add("--samples", type=int, default=64, metavar="N", help="of the training split (default: %(default)s)")
    add("--tune", action="store_true", help="also tune it, in memory, and tell how it is then")
    add("--start", choices=("identity", "orthogonal", "fluctuation"), help="with --tune: other weights too")
    add("--plot", metavar="FILE", help="a figure, PNG or SVG by its ending")
    add("--json", metavar="FILE", help="all readings")
    add = parsers["report"].add_argument
    add("--out", metavar="FILE", help="(default: report.html in the run folder)")
    help = "of the validation split, for signal health, spikes and energy (default: %(default)s)"
    add("--samples", type=int, default=64, metavar="N", help=help)
    options, words = parser.parse_known_args(arguments)
    if words and options.command not in ("train", "probe"):
        parsers[options.command].error(f"unrecognized arguments: {' '.join(words)}")
    options.words = words
    return options


def _report(run: Run) -> None:
    """What the end of a run says: the result, what the layers do, and where to go on."""
    from rich.table import Table

    from rheobase.training.console import console

    if run.summary["layers"]:
        table = Table("layer", "shape", "firing rate", "dead", box=None, header_style="bold")
        for column in table.columns[1:]:
            column.justify = "right"
        for layer in run.summary["layers"]:
            shape = " x ".join(map(str, layer["shape"]))
            table.add_row(layer["layer"], shape, f"{layer['rate']:.1%}", f"{layer['dead']:.1%}")
        console.print("\nneurons (a sample of validation; dead: never fired)")
        console.print(table)
    folder, recipe = (shlex.quote(str(path)) for path in (run.folder, run.folder / "recipe.json"))
    console.print(
        f"\ntest accuracy {run.summary['test_accuracy']:.2%}  (validation {run.summary['validation_accuracy']:.2%}, "
        f"epoch {run.summary['best_epoch']}; {run.summary['train_seconds']:.0f} s of training)\n"
        f"run folder    {run.folder}\n"
        f"look further  rheobase evaluate {folder}\n"
        f"resume        rheobase resume {folder}\n"
        f"again         rheobase train {recipe} --seed {run.summary['seed'] + 1}\n",
        markup=False,
    )


def settle() -> None:
    """Make this process one that trains: threads, memory, and subnormal numbers.

    SETTINGS are read when torch is loaded, so the process starts anew with them. Subnormal numbers become zero: a
    gradient that vanishes ends in them, and a convolution of them takes many times as long. Threads inherit that from
    the one that makes them, so it comes before the first operator.
    """
    if sys.platform == "linux" and not SETTINGS.keys() <= os.environ.keys():
        os.execve(sys.executable, sys.orig_argv, {**SETTINGS, **os.environ})
    import torch

    torch.set_flush_denormal(True)


def _ours(error: BaseException) -> bool:
    """Whether the error was raised by a line of rheobase, so that its text is meant for the user."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name: str = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return name.split(".")[0] == "rheobase"
