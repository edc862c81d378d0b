"""The schema of a recipe: every key with its type, default, range and meaning. The keys are a public interface."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import ValidationError, create_model, model_validator

from rheobase.data import Augmentation, Option, names, options
from rheobase.data.options import told
from rheobase.rule_names import RuleName
from rheobase.training.keys import Group, Open, build, flatten, in_words, key, nest


def _of_data() -> dict[str, Any]:
    """The keys for what data sets and augmentation take, as the functions and the class that take it tell it.

    A key for data sets is null by default, as each set has a default of its own.
    """
    taken: dict[str, Option] = {}
    meanings: dict[str, dict[str, list[str]]] = {}
    for name in names():
        for option, what in options(name).items():
            default = "" if what.default is None else f" (null: {what.default})"
            meaning = what.help.rstrip(".").replace("None", "null") + default
            meanings.setdefault(option, {}).setdefault(meaning, []).append(name)
            taken[option] = what
    keys: dict[str, Any] = {}
    for option, what in taken.items():
        help = "; ".join(f"{', '.join(sets)}: {meaning}" for meaning, sets in meanings[option].items())
        keys[option] = what.type | None, key(None, help, **what.range)
    for option, what in told(Augmentation).items():
        help = "augmentation: " + what.help.rstrip(".").replace("None", "null")
        keys[option] = what.type, key(what.default, help, **what.range)
    return keys


class _Data(Group):
    """What goes with every data set."""

    name: str = key("digits", "of rheobase.data.names(), or your own package.module:function that gives one")
    root: str | None = key(None, "folder of the data sets that are not embedded (null: RHEOBASE_DATA)")
    batch_size: int = key(64, "samples in a training step, over all processes", ge=1)
    train_limit: int | None = key(None, "train on a stratified sample of this many images (for quick trials)", ge=1)
    workers: int = key(0, "processes that decode a set that streams", ge=0)
    scale: Literal["normal", "unit", "none"] = key(
        "normal", "inputs: with mean 0 and deviation 1 in training, pixels from 0 to 1, or as they are"
    )


class DataOptions(create_model("_Keys", __base__=_Data, **_of_data())):  # type: ignore[misc]
    """What to train on."""


class NeuronOptions(Group):
    """The neuron of every layer. A number left at null is the kind's default."""

    kind: Literal["lif", "if", "cuba_lif", "adaptive_lif", "lateral", "soft_lif"] = key(
        "lif", "leaky or not leaky integrate-and-fire; CubaLIF, AdaptiveLIF, LateralLIF; SoftLIF, in an ANN twin"
    )
    decay: float | None = key(None, "share of the potential kept from step to step (null: 0.5, if 1)", ge=0, le=1)
    threshold: float = key(1.0, "potential at which it fires", gt=0)
    input_scale: float | None = key(None, "factor on the current (null: 1)", gt=0)
    current_decay: float | None = key(None, "of cuba_lif: share of the synaptic current kept (null: 0.5)", ge=0, le=1)
    adaptation_decay: float | None = key(None, "of adaptive_lif: share of adaptation kept (null: 0.9)", ge=0, le=1)
    adaptation: float | None = key(None, "of adaptive_lif: how much it raises the threshold (null: 0.1)", ge=0)
    inhibition: float = key(0.0, "of lateral: thresholds that a spike adds to the others of its group", ge=-1, le=0)
    refractory: float = key(0.0, "of lateral: steps until inputs count in full again", ge=0)
    tau_rc: float | None = key(None, "of soft_lif: seconds of the membrane (null: 0.022)", gt=0)
    tau_ref: float | None = key(None, "of soft_lif: seconds of the refractory period (null: 0.002)", gt=0)
    amplitude: float | None = key(None, "of soft_lif: of a spike (null: 0.063)", gt=0)
    gain: float | None = key(None, "of soft_lif: factor on the current (null: 1)", gt=0)
    smoothing: float | None = key(None, "of soft_lif: width of the threshold (null: 0.02)", gt=0)
    noise: float | None = key(None, "of soft_lif: deviation of rates in training, spikes a second (null: 10)", ge=0)
    learn: str | None = key(None, "numbers that each layer learns, as in decay,threshold (null: none)")
    learn_threshold: bool = key(False, "whether thresholds are learned, with model.alpha one a channel")
    reset: Literal["soft", "hard", "none", "delayed"] = key(
        "soft", "subtract the threshold, set to zero, neither, or subtract it a step later"
    )
    detach_reset: bool = key(True, "whether the reset counts as a constant in the backward pass")
    surrogate: Literal["atan", "superspike", "sigmoid", "triangle", "rectangle", "gaussian"] = key(
        "atan", "shape of the surrogate derivative"
    )
    surrogate_parameter: float | None = key(None, "its alpha, slope, width or sigma (null: the shape's)", gt=0)


class FamilyOptions(Open):
    """What a family that you registered, or your own package.module:function, takes besides the keys of `model`."""


class ModelOptions(Group):
    """What to train. An option left at null is the model family's default."""

    name: str = key("sew_resnet18", "of rheobase.models.names(), or your own package.module:function that gives one")
    steps: int = key(4, "time steps T", ge=1)
    spiking: bool = key(True, "false: the ANN twin")
    rule: RuleName = key("surrogate", "gradient rule")
    weights: str | None = key(
        None,
        "begin with those of a run folder or safetensors file: of this net, its twin, or for another number of classes",
    )
    width: int | None = key(None, "channels of the first stage, or units of a layer", ge=1)
    depth: int | None = key(None, "layers", ge=1)
    stem: Literal["cifar", "imagenet"] | None = key(None, "first layers: 3x3, or 7x7 with stride and pooling")
    connect: Literal["add", "and", "iand"] | None = key(None, "residual junction")
    start: Literal["identity", "plain"] | None = key(None, "whether residual blocks begin as the identity")
    shortcut: Literal["conv", "pool"] | None = key(
        None, "of residual blocks with a stride: 1x1 convolution, or mean and that"
    )
    layers: str | None = key(None, "of mlp and convnet, as papers write them: 15C5-P2-40C5-P2-300, 400-R400")
    padding: Literal["same", "valid"] | None = key(None, "of convnet's convolutions")
    dropout: float | None = key(None, "of mlp and convnet: share of units left out in training", ge=0, lt=1)
    coding: Literal["direct", "poisson"] | None = key(
        None, "of mlp and convnet: frames, or random spikes of their rate"
    )
    coding_rate: float | None = key(None, "of poisson: spikes a step where a frame is 1", gt=0, le=1)
    output: Literal["currents", "spikes"] | None = key(None, "of mlp and convnet: what logits are")
    alpha: float | None = key(None, "of mlp and convnet: thresholds over the bound of uniform weights", gt=0)
    alpha_out: float | None = key(None, "alpha of the output's neurons", gt=0)
    norm: str | None = key(None, "norm of the input currents: current, tdbn, tebn, none")
    qcfs_levels: int | None = key(None, "of an ANN twin: its activations are QCFS of so many levels (null: ReLU)", ge=1)
    qcfs_threshold: float | None = key(None, "what their thresholds, which are learned, begin at (null: 8)", gt=0)
    image_size: int | None = key(None, "height and width of the images, for models that need it", ge=1)
    neuron: NeuronOptions = NeuronOptions()
    options: FamilyOptions = FamilyOptions()


class TuneOptions(Group):
    """Surrogates, and where asked for weights, that level the signal: `rheobase.tune`, before the first step."""

    samples: int | None = key(None, "training samples, half of them held out to check it (null: not tuned)", ge=8)
    start: Literal["identity", "orthogonal", "fluctuation"] | None = key(None, "weights too (null: as they are)")


class ProbeOptions(Group):
    """Readings of every layer while it trains: `rheobase.probe`, into RUN/probe.csv, and a warning where one is bad."""

    every_steps: int | None = key(None, "steps from one to the next, the first before training (null: none)", ge=1)
    samples: int = key(64, "training samples that are read", ge=8)


class LossOptions(Group):
    """What to minimise, with m the mean of the logits over time and y the label as a one-hot vector, smoothed.

    cross_entropy: CE(m, y). tet (Deng et al. 2022): (1 - lambda) mean_t CE(logits[t], y) + lambda mean (logits -
    target)^2. count: mean (m - c)^2, the distance of spike counts over T from c = count_low + (count_high -
    count_low) y, where the last layer spikes; a distance up to count_margin is none.
    membrane: CE(v, y) of the potential of an integrator without spikes whose currents are the logits, v[t] =
    membrane_decay v[t-1] + logits[t], after the last step, or of each class its maximum over time; v, not m, then
    decides for a class. (decay 0: the logits are potentials, of a model that integrates itself.)
    Added to each: rate_penalty * mean over layers of (mean firing rate - rate_target)^2, and weight_penalty / 2 * the
    sum over hidden neurons of exp(weight_penalty_beta (sum of its squared weights - 1)).
    boosting: the gradient of a training sample's logits is multiplied by its weight w, 1 at first; after each epoch in
    which it went wrong w becomes w exp(boosting * the share of such samples in the weights of its class).
    """

    name: Literal["cross_entropy", "tet", "count", "membrane"] = key(
        "cross_entropy", "of the mean over time, or (tet) of each step; count: squared error; membrane: of a potential"
    )
    label_smoothing: float = key(0.0, "share of the label spread over all classes", ge=0, le=1)
    tet_lambda: float = key(0.05, "weight of TET's second term", ge=0, le=1)
    tet_target: float = key(1.0, "what TET's second term pulls the logits to")
    membrane_decay: float = key(1.0, "share of the integrator's potential kept from step to step", ge=0, le=1)
    membrane_at: Literal["last", "max"] = key("last", "potential after the last step, or its maximum over time")
    count_high: float = key(1.0, "spikes a step that count wants of the class", ge=0, le=1)
    count_low: float = key(0.0, "spikes a step that count wants of the others", ge=0, le=1)
    count_margin: float = key(0.0, "distance from them, in spikes a step, that count lets pass", ge=0)
    rate_penalty: float = key(0.0, "weight of the squared distance of each layer's firing rate from rate_target", ge=0)
    rate_target: float = key(0.1, "spikes a step that rate_penalty pulls each layer to", ge=0, le=1)
    weight_penalty: float = key(0.0, "lambda: keeps the sum of a hidden neuron's squared weights near 1", ge=0)
    weight_penalty_beta: float = key(10.0, "how steeply weight_penalty rises", gt=0)
    boosting: float = key(0.0, "how fast training samples that went wrong come to weigh more", ge=0, le=1)


class OptimizerOptions(Group):
    """How to follow the gradient."""

    name: Literal["sgd", "adamw"] = key("adamw", "sgd has Nesterov momentum")
    lr: float = key(1e-3, "peak learning rate", gt=0)
    weight_decay: float = key(0.01, "on weights of layers; not on norms, biases, neurons", ge=0)
    momentum: float = key(0.9, "of sgd; beta1 of adamw", ge=0, le=0.9999)


class ScheduleOptions(Group):
    """How the learning rate moves, step by step."""

    name: Literal["cosine", "one_cycle", "constant"] = key("cosine", "cosine falls to 0; one_cycle: torch's OneCycleLR")
    warmup_epochs: float | None = key(None, "epochs of rise (null: one_cycle 30 % of all epochs, else 0)", ge=0)


class TrainerOptions(Group):
    """How long, and on what."""

    epochs: int = key(10, "passes over the training split", ge=1)
    precision: Literal["32", "bf16"] = key("32", "float32, or bfloat16 autocast")
    accelerator: Literal["auto", "cpu", "gpu"] = key("auto", "auto: a GPU if there is one")
    devices: int = key(1, "processes a machine, a GPU each; under torchrun its number counts", ge=1)
    nodes: int = key(1, "machines; each is started by hand or by torchrun", ge=1)
    accumulate: int = key(1, "parts that a batch is computed in, one after the other: less memory, the same step", ge=1)
    checkpoint_segments: int = key(1, "parts of the layers; all but the last are computed again: less memory", ge=1)
    clip_gradient: float | None = key(None, "largest L2 norm of the whole gradient", gt=0)
    ema: float | None = key(None, "decay of an average of the weights, which is validated, tested, kept", gt=0, lt=1)
    checkpoint_every_steps: int | None = key(None, "besides the end of each epoch", ge=1)
    checkpoint_every_seconds: float | None = key(60.0, "besides the end of each epoch", gt=0)
    threads: int | None = key(None, "CPU threads of a process (null: torch's choice)", ge=1)
    tensorboard: bool = key(False, "also write TensorBoard events into RUN/tensorboard")


ALWAYS = {
    "seed",
    *(f"data.{name}" for name in ("name", "batch_size", "shift", "flip", "train_limit")),
    *(f"model.{name}" for name in ("name", "steps", "spiking", "rule", "width", "depth", "stem", "connect", "norm")),
    *("model.image_size", "model.neuron.kind", "model.neuron.decay", "model.neuron.threshold", "model.neuron.reset"),
    *("model.neuron.detach_reset", "model.neuron.surrogate", "model.neuron.surrogate_parameter"),
    *(f"loss.{name}" for name in ("name", "label_smoothing", "tet_lambda", "tet_target")),
    *(f"optimizer.{name}" for name in ("name", "lr", "weight_decay", "momentum")),
    *("schedule.name", "schedule.warmup_epochs"),
    *(f"trainer.{name}" for name in ("epochs", "precision", "accelerator", "clip_gradient", "threads", "tensorboard")),
    *("trainer.checkpoint_every_steps", "trainer.checkpoint_every_seconds"),
}
"""Keys that recipes always had: the others enter `sha256` where they are not at their default."""
ELSEWHERE = {"run", "data.root", "data.cache"}
"""Keys that say where things lie, which `sha256` does not see."""


class Recipe(Group):
    """One training run, whole.

    Raises:
        ValueError: a value of another type or out of range; the error names the key, what it got and what it wants.
    """

    seed: int = key(0, "of initial weights, order of samples and augmentation", ge=0)
    run: str | None = key(None, "run folder, empty or absent (null: runs/<recipe>-<date>-<seed>)")
    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    tune: TuneOptions = TuneOptions()
    probe: ProbeOptions = ProbeOptions()
    loss: LossOptions = LossOptions()
    optimizer: OptimizerOptions = OptimizerOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    trainer: TrainerOptions = TrainerOptions()

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError(in_words(error, type(self))) from None

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        neuron, warmup, trainer = self.model.neuron, self.schedule.warmup_epochs, self.trainer
        for name in ("inhibition", "refractory"):
            if getattr(neuron, name) and neuron.kind != "lateral":
                raise ValueError(
                    f"model.neuron.{name} must be 0 where kind is not 'lateral', got {getattr(neuron, name)}"
                )
        if neuron.kind == "if" and neuron.decay not in (None, 1):
            raise ValueError(f"model.neuron.decay must be 1 or null where kind is 'if', got {neuron.decay}")
        if neuron.kind == "adaptive_lif" and neuron.reset == "delayed":
            raise ValueError(
                "model.neuron.reset must be soft, hard or none where kind is 'adaptive_lif', whose state does not tell "
                "whether it fired a step before, got 'delayed'"
            )
        model = self.model
        if model.qcfs_levels is not None and model.spiking:
            raise ValueError(f"model.qcfs_levels must be null where model.spiking is true, got {model.qcfs_levels}")
        if model.qcfs_threshold is not None and model.qcfs_levels is None:
            raise ValueError(
                f"model.qcfs_threshold must be null where model.qcfs_levels is null, got {model.qcfs_threshold}"
            )
        high, low, margin = self.loss.count_high, self.loss.count_low, self.loss.count_margin
        if low >= high:
            raise ValueError(f"loss.count_low must be below loss.count_high ({high:g}), got {low:g}")
        if margin >= (high - low) / 2:
            raise ValueError(
                f"loss.count_margin must be below half of loss.count_high - loss.count_low ({(high - low) / 2:g}), got "
                f"{margin:g}"
            )
        if self.loss.boosting and (self.data.mixup or self.data.cutmix):
            raise ValueError(f"loss.boosting must be 0 where mixup or cutmix mixes samples, got {self.loss.boosting:g}")
        if warmup is not None and warmup > trainer.epochs:
            raise ValueError(f"schedule.warmup_epochs must be at most trainer.epochs ({trainer.epochs}), got {warmup}")
        if self.tune.start is not None and self.tune.samples is None:
            raise ValueError(f"tune.samples must be given with tune.start, got null and {self.tune.start!r}")
        if self.tune.start is not None and self.model.weights is not None:
            raise ValueError(
                f"tune.start must be null with model.weights, which it would set anew, got {self.tune.start!r}"
            )
        parts = trainer.devices * trainer.nodes * trainer.accumulate
        if self.data.batch_size < parts:
            raise ValueError(
                f"data.batch_size must be at least {parts} for trainer.devices * nodes * accumulate = "
                f"{trainer.devices} * {trainer.nodes} * {trainer.accumulate}, got {self.data.batch_size}"
            )
        return self

    def replace(self, changes: Mapping[str, Any]) -> Self:
        """The same recipe with other values: `recipe.replace({"model.steps": 8})`.

        Raises:
            ValueError: as for a new one.
        """
        return build(type(self), self.flat() | flatten(changes, type(self)))

    def flat(self) -> dict[str, Any]:
        """{dotted name: value} of all keys."""
        return flatten(self.model_dump(), type(self))

    def to_json(self) -> str:
        """All keys, sorted, indented."""
        return json.dumps(self.model_dump(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote; keys that are absent take their defaults.

        Raises:
            ValueError: not JSON, an unknown key, or a bad value.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from error
        return build(cls, content)

    @property
    def sha256(self) -> str:
        """Of all keys but those that say where things lie: equal for equal recipes everywhere."""
        flat, default = self.flat(), type(self)().flat()
        if flat["model.weights"] is not None:
            flat["model.weights"] = "given"  # which, the summary tells by their own sum
        seen = [name for name in flat.keys() - ELSEWHERE if name in ALWAYS or flat[name] != default.get(name)]
        content = json.dumps(nest({name: flat[name] for name in seen}), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()
