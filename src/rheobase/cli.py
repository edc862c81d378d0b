"""The command `rheobase`: each subcommand is a function of its arguments that imports what it needs."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

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


def recipes(arguments: Sequence[str]) -> None:
    """list recipes: what each trains, on what, how long, the result to expect"""
    _parser("recipes", recipes).parse_args(arguments)
    from rheobase.training import sources

    for recipe in sources.listing():
        print(recipe.name, *(f"    {line}" for line in recipe.heading), "", sep="\n")


def train(arguments: Sequence[str]) -> None:
    """train a recipe (default: digits) in a new run folder"""
    from rheobase.training import sources

    name, recipe = sources.from_arguments(arguments)
    _importable()
    from rheobase.training.runs import start

    _report(start(recipe, name))


def resume(arguments: Sequence[str]) -> None:
    """continue a run exactly where it stopped"""
    parser = _parser("resume", resume)
    parser.add_argument("run", metavar="RUN", help="run folder")
    options = parser.parse_args(arguments)
    _importable()
    from rheobase.training import resume as continue_run

    _report(continue_run(options.run))


def evaluate(arguments: Sequence[str]) -> None:
    """accuracy of a run's best model against time steps, without retraining"""
    parser = _parser("evaluate", evaluate)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument(
        "--steps", type=int, nargs="+", metavar="T", help="numbers of time steps (default: 1 to the trained)"
    )
    parser.add_argument(
        "--split",
        choices=("validation", "test", "train"),
        default="validation",
        help="(default: %(default)s; a look at the test set is noted in the run folder)",
    )
    options = parser.parse_args(arguments)
    _importable()
    from rheobase.training import evaluate as measure

    found = measure(options.run, options.steps, options.split)
    print(f"steps  {options.split} accuracy")
    for steps, accuracy in found.items():
        print(f"{steps:>5}  {accuracy:.2%}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "recipes": recipes,
    "train": train,
    "resume": resume,
    "evaluate": evaluate,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a mistake of the user ends with one line on stderr and status 2."""
    if arguments is None:
        arguments = sys.argv[1:]
        if arguments[:1] and arguments[0] in ("train", "resume", "evaluate"):
            settle()
    parser = argparse.ArgumentParser(
        prog="rheobase",
        description="Train deep spiking neural networks.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        + "".join(f"  {name:<10} {function.__doc__}\n" for name, function in COMMANDS.items())
        + "\nrheobase COMMAND --help tells more.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rheobase {rheobase.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    chosen = parser.parse_args(arguments[:1])
    try:
        COMMANDS[chosen.command](arguments[1:])
    except BrokenPipeError:  # who read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, TypeError, ImportError, OSError) as error:
        if not isinstance(error, OSError) and not _ours(error):
            raise
        _fail("; ".join([str(error), *getattr(error, "__notes__", ())]))
    except KeyboardInterrupt:
        sys.exit(130)


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
        console.print("\nneurons (one validation batch; dead: never fired)")
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
    """Start this process anew with SETTINGS: they are read when torch is loaded, which is before this line."""
    if sys.platform == "linux" and not SETTINGS.keys() <= os.environ.keys():
        os.execve(sys.executable, sys.orig_argv, {**SETTINGS, **os.environ})


def _importable() -> None:
    """Let data and models of the user's own be imported from the current directory."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _parser(name: str, function: Callable[..., Any]) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(f"rheobase {name}", description=function.__doc__, allow_abbrev=False)


def _ours(error: BaseException) -> bool:
    """Whether the error was raised by a line of rheobase, so that its text is meant for the user."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name: str = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return name.split(".")[0] == "rheobase"


def _fail(text: str) -> NoReturn:
    print(f"rheobase: {text}", file=sys.stderr)
    sys.exit(2)
