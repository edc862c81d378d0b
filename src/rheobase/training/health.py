"""Signal health of what a recipe or a run trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rheobase.signal.probe import Preset
from rheobase.signal.report import Report
from rheobase.signal.start import Start
from rheobase.signal.tune import Tuned
from rheobase.training import build, sources, watch, weights
from rheobase.training.folder import RunFolder
from rheobase.training.keeper import reopened
from rheobase.training.passes import hosted


@hosted()
def health(
    what: str,
    keys: Sequence[str] = (),
    preset: Preset = "standard",
    samples: int = 64,
    tuned: bool = False,
    start: Start | None = None,
) -> Report | Tuned:
    """Probe a recipe's net before training, or the best of a run, on training samples as they are, of all classes.

    The loss is the recipe's, without penalties.

    Args:
        what: a recipe, as `rheobase train` takes it, or a run folder.
        keys: changes to the recipe, as `--key value`.
        preset: see `rheobase.probe`.
        samples: how many.
        tuned: whether to tune it too (in memory), with as many samples held out.
        start: see `rheobase.tune`.

    Raises:
        FileNotFoundError: no such recipe or run, or no model in it yet.
        ValueError: bad arguments or damaged files; sequences of different lengths, which are not tuned here.
    """
    if samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples}")
    if start is not None and not tuned:
        raise ValueError("--start is of --tune")
    place = RunFolder.open(what) if (Path(what) / "recipe.json").is_file() else None
    if place is not None and keys:
        raise ValueError(f"{what} is a run, whose recipe is fixed: it takes no {keys[0]}")
    recipe = sources.from_arguments([what, *keys])[1] if place is None else place.read_recipe()
    data, net = build.prepare(recipe, None, None) if place is None else reopened(place, recipe)
    if place is None and recipe.model.weights is not None:
        weights.begin(net, weights.read(recipe.model.weights), data.classes)
    net = net.cpu()
    wanted = samples * (1 + tuned)
    if wanted > len(data.train):
        raise ValueError(f"{wanted} samples are wanted, and {data.name} has {len(data.train)} to train on")
    few = build.sample(data, data.train, wanted)
    return watch.tuned(net, few, recipe.loss, start) if tuned else watch.probed(net, few, recipe.loss, preset)
