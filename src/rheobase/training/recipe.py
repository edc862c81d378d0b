"""The schema of a recipe: every key with its type, default, range and meaning. The keys are a public interface."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from rheobase.training.schema import build, key, validate


@dataclass(frozen=True)
class DataOptions:
    """What to train on."""

    name: str = key("digits", "data set: digits, mnist, fashion-mnist")
    root: str | None = key(None, "folder of the data sets that are not embedded (null: RHEOBASE_DATA)")
    batch_size: int = key(64, "images in a training step", low=1)
    shift: int = key(0, "augmentation: move each image by up to this many pixels", low=0)
    flip: bool = key(False, "augmentation: mirror half of the images")
    train_limit: int | None = key(None, "train on a stratified sample of this many images (for quick trials)", low=1)


@dataclass(frozen=True)
class NeuronOptions:
    """The neuron of every layer."""

    kind: Literal["lif", "if"] = key("lif", "leaky or not leaky integrate-and-fire")
    decay: float | None = key(
        None, "share of the potential kept from step to step (null: lif 0.5, if 1)", low=0, high=1
    )
    threshold: float = key(1.0, "potential at which it fires", above=0)
    reset: Literal["soft", "hard", "none", "delayed"] = key(
        "soft", "subtract the threshold, set to zero, neither, or subtract it a step later"
    )
    detach_reset: bool = key(True, "whether the reset counts as a constant in the backward pass")
    surrogate: Literal["atan", "superspike", "sigmoid", "triangle", "rectangle", "gaussian"] = key(
        "atan", "shape of the surrogate derivative"
    )
    surrogate_parameter: float | None = key(None, "its alpha, slope, width or sigma (null: the shape's)", above=0)


@dataclass(frozen=True)
class ModelOptions:
    """What to train. An option left at null is the model family's default."""

    name: str = key("sew_resnet18", "one of rheobase.models.names()")
    steps: int = key(4, "time steps T", low=1)
    spiking: bool = key(True, "false: the ANN twin")
    rule: Literal["surrogate"] = key("surrogate", "gradient rule")
    width: int | None = key(None, "channels of the first stage, or units of a layer", low=1)
    depth: int | None = key(None, "layers", low=1)
    stem: Literal["cifar", "imagenet"] | None = key(None, "first layers: 3x3, or 7x7 with stride and pooling")
    connect: Literal["add", "and", "iand"] | None = key(None, "residual junction")
    norm: str | None = key(None, "norm of the input currents")
    image_size: int | None = key(None, "height and width of the images, for models that need it", low=1)
    neuron: NeuronOptions = field(default_factory=NeuronOptions)


@dataclass(frozen=True)
class LossOptions:
    """What to minimise. TET (Deng et al. 2022): (1 - lambda) mean_t CE(logits[t]) + lambda mean (logits - target)^2."""

    name: Literal["cross_entropy", "tet"] = key("cross_entropy", "of the mean of the logits over time, or at each step")
    label_smoothing: float = key(0.0, "share of the label spread over all classes", low=0, high=1)
    tet_lambda: float = key(0.05, "weight of TET's second term", low=0, high=1)
    tet_target: float = key(1.0, "what TET's second term pulls the logits to")


@dataclass(frozen=True)
class OptimizerOptions:
    """How to follow the gradient."""

    name: Literal["sgd", "adamw"] = key("adamw", "sgd has Nesterov momentum")
    lr: float = key(1e-3, "peak learning rate", above=0)
    weight_decay: float = key(0.01, "on weights of layers; not on norms, biases, neurons", low=0)
    momentum: float = key(0.9, "of sgd; beta1 of adamw", low=0, high=0.9999)


@dataclass(frozen=True)
class ScheduleOptions:
    """How the learning rate moves, step by step."""

    name: Literal["cosine", "one_cycle", "constant"] = key(
        "cosine", "cosine falls to 0; one_cycle is the rate of torch's OneCycleLR"
    )
    warmup_epochs: float | None = key(None, "epochs of rise (null: one_cycle 30 % of all epochs, else 0)", low=0)


@dataclass(frozen=True)
class TrainerOptions:
    """How long, and on what."""

    epochs: int = key(10, "passes over the training split", low=1)
    precision: Literal["32", "bf16"] = key("32", "float32, or bfloat16 autocast")
    accelerator: Literal["auto", "cpu", "gpu"] = key("auto", "auto: a GPU if there is one")
    clip_gradient: float | None = key(None, "largest L2 norm of the whole gradient", above=0)
    checkpoint_every_steps: int | None = key(None, "besides the end of each epoch", low=1)
    checkpoint_every_seconds: float | None = key(60.0, "besides the end of each epoch", above=0)
    threads: int | None = key(None, "CPU threads (null: torch's choice)", low=1)
    tensorboard: bool = key(False, "also write TensorBoard events into RUN/tensorboard")


@dataclass(frozen=True)
class Recipe:
    """One training run, whole.

    Raises:
        ValueError: a value of another type or out of range; the error names the key, what it got and what it wants.
    """

    seed: int = key(0, "of initial weights, order of samples and augmentation", low=0)
    run: str | None = key(None, "run folder, empty or absent (null: runs/<recipe>-<date>-<seed>)")
    data: DataOptions = field(default_factory=DataOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    trainer: TrainerOptions = field(default_factory=TrainerOptions)

    def __post_init__(self) -> None:
        validate(self)
        neuron, schedule = self.model.neuron, self.schedule
        if neuron.kind == "if" and neuron.decay not in (None, 1):
            raise ValueError(f"model.neuron.decay must be 1 or null where kind is 'if', got {neuron.decay}")
        if schedule.warmup_epochs is not None and schedule.warmup_epochs > self.trainer.epochs:
            raise ValueError(
                f"schedule.warmup_epochs must be at most trainer.epochs ({self.trainer.epochs}), "
                f"got {schedule.warmup_epochs}"
            )

    def to_json(self) -> str:
        """All keys, sorted, indented."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

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
        """Of all keys but where things lie (`run`, `data.root`): equal for equal recipes on different machines."""
        content: dict[str, Any] = dataclasses.asdict(self)
        del content["run"], content["data"]["root"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
