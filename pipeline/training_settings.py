"""The settings of a training run: the recipe (which network, and how it is trained), and what is learned from.

Parsing flags is the command line's work; what the settings mean is in `pipeline.training`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.gate_condition import GateTexts
from pipeline.settings import Scales, Settings
from storage.layouts import Layout
from storage.schema import Ids
from teacher.networks.prediction import Fusion
from teacher.networks.registry import ENCODER_NETWORKS, NetworkName, NetworkSpec, check_trunk, default_spec
from teacher.precision import Precision

DEFAULT_ENCODER = "tf_efficientnet_lite0"
"""Encoder where none is named: small enough to be trained without a GPU."""

DEFAULT_STRIDE = 16
"""Of the encoder's coarsest features where none is named."""

MIN_CROP = 32
"""Shortest side of a crop: at half scale and a stride of 16 one value is left."""

MIN_CROP_ALONE = 128
"""Shortest side of a crop that may be the only one of its batch: batch norm needs more than one value a channel."""

_NOT_DECISIVE = {
    *("fine_images", "fine_labels", "auto_images", "auto_labels", "coarse_images", "coarse_labels", "reviewed_labels"),
    *(
        "classes",
        "layout",
        "ids",
        "encoder_weights",
        "start_weights",
    ),  # these and the above: their content decides, not their place
    *("batch", "devices", "nodes"),  # their product decides: `crops_together`
    *("val_images", "val_labels", "scales", "validate_every", "allow_training_images"),  # judge the result
    "gate",  # decides whether there is a training at all
    *("out", "device", "workers", "checkpoint_every", "keep", "index"),
}

YOUNGER = {"output_stride": None, "attention": "hierarchical", "attention_scales": None, "precise_bn": 0}
"""Settings that came later than the first runs, and what they were before: decisive where they are something else."""

Side = Annotated[int, Field(ge=MIN_CROP, le=8192)]
Share = Annotated[float, Field(ge=0, le=1)]
Loss = Literal["ce", "rmi"]
OptimizerName = Literal["adamw", "sgd"]

DEFAULT_STEPS = 1000


class TrainingRecipe(Settings):
    """Which network is trained, and how; not on what."""

    network: NetworkName = "deeplabv3plus"
    encoder: str | None = None
    """timm's name of the encoder, or wide_resnet38; of hrnet-ocr the trunk: hrnet_w18, hrnet_w32 or hrnet_w48."""
    output_stride: Literal[8, 16, 32] | None = None
    """Of the encoder's coarsest features; None: 16. hrnet-ocr has none to choose."""
    attention: Fusion = "hierarchical"
    """How predictions at several scales are fused, for which it is trained: hierarchical at scales 0.5 and 1 with an
    attention between them; explicit at the scales of its attention; average and single at scale 1 alone, without
    one."""
    attention_scales: Scales | None = None
    """Of an explicit attention; None: 0.5, 1 and 2."""
    encoder_weights: Path | None = None
    """Pretrained weights of the encoder; without them it starts from random values."""
    start_weights: Path | None = None
    """Weights that the whole network starts from: an own checkpoint, or public weights of the same network.

    Entries whose shape depends on the number of classes, or that are missing, keep their start values and are named in
    a warning."""
    steps: int | None = Field(None, ge=1)
    """Updates of the weights; the learning rate falls to zero over them. None: `epochs`, or 1000."""
    epochs: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Length in epochs instead: an epoch has as many crops as there are fine images."""
    crop: tuple[Side, Side] = (256, 256)
    """(height, width) of the pieces of image that are learned from, pixels."""
    batch: int = Field(8, ge=1)
    """Crops that a device holds at once."""
    accumulate: int = Field(1, ge=1, le=1024)
    """Batches a step: their gradients are added up."""
    loss: Loss = "ce"
    """Of the joint prediction: cross entropy, or region mutual information."""
    auxiliary_loss: float = Field(0.4, ge=0, allow_inf_nan=False)
    """Weight of the auxiliary classifier's loss, where the network has one."""
    scale_loss: float = Field(0.05, ge=0, allow_inf_nan=False)
    """Weight of the loss of each scale's own prediction."""
    auto_weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Weight of a pixel of an auto label, where one of a fine label weighs 1."""
    coarse_weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Weight of a pixel of a coarse label."""
    optimizer: OptimizerName = "adamw"
    learning_rate: float = Field(3e-3, gt=0, lt=1)
    """Of everything but an encoder with given weights, at its highest."""
    encoder_rate: float = Field(0.3, gt=0, le=1)
    """Share of the learning rate that an encoder with given weights is trained with."""
    weight_decay: float | None = Field(None, ge=0, lt=1)
    """None: 0.01 for adamw, 0.0001 for sgd."""
    power: float = Field(0.9, gt=0, allow_inf_nan=False)
    """Of the polynomial by which the learning rate falls."""
    warm_up: float = Field(0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from near zero."""
    max_gradient_norm: float = Field(5.0, ge=0, allow_inf_nan=False)
    """Longer gradients are shortened to this norm; 0: never."""
    precise_bn: int = Field(200, ge=0)
    """Whole training images from which batch norms take their statistics anew at the end, and before each evaluation;
    0: none, they keep the running ones of the crops."""
    ema: float = Field(0.99, ge=0, lt=1)
    """Decay a step of the moving average of the weights, which becomes the result; 0: none."""
    class_uniform: Share = 0.5
    """Share of an epoch's crops that are drawn by class, each class as often as any other."""
    fine_share: Share = 0.5
    """Share of the crops that are drawn from fine samples, where there are others as well."""
    boost_classes: tuple[str, ...] | None = None
    """Classes whose crops are drawn from auto and coarse samples too, in proportion to how many crops hold them; other
    classes' are drawn from fine ones. None: every class, by `fine_share`."""
    scale_range: tuple[float, float] = (0.5, 2.0)
    """How much smaller or larger a piece may become."""
    long_edge: int | None = Field(None, ge=MIN_CROP, le=16384)
    """Images are first scaled so that their longer side has this many pixels."""
    jitter: float = Field(0.25, ge=0, lt=1)
    """Brightness, contrast and saturation are multiplied by 1 - jitter to 1 + jitter."""
    blur: Share = 0.0
    """Share of the crops that are blurred."""
    strong: bool = False
    """Change auto samples' colours more, and blur them, so that the student learns more than the teacher knew."""
    cutmix: Share = 0.0
    """Share of the auto crops that get a rectangle of another auto crop."""
    gradient_checkpointing: bool = False
    """Keep fewer activations and compute them again: less memory, about a third more time."""
    precision: Precision = "fp32"
    seed: int = Field(0, ge=0, lt=2**31)
    devices: int = Field(1, ge=1, le=64)
    """Processes on each machine, one a device; batch norm is synchronised between them."""
    nodes: int = Field(1, ge=1, le=1024)
    """Machines."""

    @model_validator(mode="before")
    @classmethod
    def _name_the_encoder(cls, values: Any) -> Any:  # noqa: ANN401 - not validated yet
        if isinstance(values, dict) and values.get("network", "deeplabv3plus") in ENCODER_NETWORKS:
            return values if values.get("encoder") else {**values, "encoder": DEFAULT_ENCODER}
        return values

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"both {self.steps} steps and {self.epochs:g} epochs are asked for; give one of them")
        if self.start_weights is not None and self.encoder_weights is not None:
            raise ValueError(
                "both start_weights and encoder_weights are given; start_weights have an encoder: give one"
            )
        low, high = self.scale_range
        if not 0 < low <= high <= 16:
            raise ValueError(f"scale_range is {low:g} to {high:g}, expected two numbers, 0 < first <= second <= 16")
        check_trunk(self.network, self.encoder)
        if self.network not in ENCODER_NETWORKS and self.output_stride is not None:
            raise ValueError(f"output_stride is that of an encoder, and {self.network} has none: leave it out")
        if self.attention == "explicit" or self.attention_scales is not None:
            self.spec(1)  # refuses what the network has not
        if self.precise_bn == 1:
            raise ValueError("precise_bn is 1, but batch norm needs 2 images or more; expected these, or 0 for none")
        together = self.crops_together
        if together == 1 and self.network in ENCODER_NETWORKS:
            raise ValueError(
                f"batch is 1, but {self.network} pools an image into one value a channel, which batch norm "
                f"cannot normalise; expected 2 or more"
            )
        if together == 1 and min(self.crop) < MIN_CROP_ALONE:
            raise ValueError(
                f"batch is 1 and the crop {self.crop[1]}x{self.crop[0]}, which leaves batch norm one value "
                f"a channel; expected a batch of 2 or more, or sides of at least {MIN_CROP_ALONE}"
            )
        return self

    def spec(self, num_classes: int) -> NetworkSpec:
        """The network that is trained, for so many classes.

        Raises:
            SettingsError: a value is unknown or out of range.
        """
        return default_spec(
            self.network,
            num_classes,
            self.encoder,
            output_stride=self.output_stride or DEFAULT_STRIDE,
            attention=self.attention,
            attention_scales=self.attention_scales,
        )

    @property
    def is_pretrained(self) -> bool:
        """Whether the encoder starts from given weights."""
        return self.encoder_weights is not None or self.start_weights is not None

    @property
    def world(self) -> int:
        """Processes that train together."""
        return self.devices * self.nodes

    @property
    def crops_together(self) -> int:
        """Crops that are normalised together, over all devices."""
        return self.batch * self.world

    @property
    def crops_a_step(self) -> int:
        """Crops of one update of the weights, over all devices and accumulated batches."""
        return self.crops_together * self.accumulate

    def total_steps(self, epoch_crops: int) -> int:
        """Updates of the weights in the whole run, at least 1, with so many crops an epoch."""
        if self.epochs is not None:
            return max(1, round(self.epochs * epoch_crops / self.crops_a_step))
        return DEFAULT_STEPS if self.steps is None else self.steps


class TrainSettings(TrainingRecipe):
    """What `train` does."""

    fine_images: Path
    """Folder of images with fine labels."""
    fine_labels: Path
    """Their labels; every image must have one."""
    auto_images: Path | None = None
    auto_labels: Path | None = None
    """Labels made by a teacher: what `label --out` made, or a folder. Images without one are left out."""
    coarse_images: Path | None = None
    coarse_labels: Path | None = None
    """Labels drawn roughly. Images without one are left out."""
    gate: GateTexts = ()
    """Conditions that the auto labels must meet by their RUN's own calibration or audit (see `pipeline.gate`)."""
    reviewed_labels: Path | None = None
    """Labels that people have corrected, of auto images, or of coarse ones where there are no auto images. Each stands
    instead of the auto and the coarse label of its image, and is as complete as a fine one."""
    val_images: Path | None = None
    val_labels: Path | None = None
    """What the result is evaluated on; nothing is chosen on it but the best of a run's checkpoints."""
    allow_training_images: bool = False
    """Evaluate also on images that are trained on."""
    classes: str
    """A class schema's name or file."""
    layout: Layout = "folder"
    ids: Ids | None = None
    """What the values of the label folders are; None: class indices, or what a Cityscapes file's name says."""
    scales: Scales = (0.5, 1.0, 2.0)
    """Scales at which the result is evaluated."""
    validate_every: int | None = Field(None, ge=1)
    """Steps between two evaluations during the run, the best of which is kept; None: at the end only."""
    device: str = "auto"
    workers: int | None = Field(None, ge=0, le=256)
    """Processes that read and augment; 0: none but this one; None: 1 to 8, one less than the processors there are."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps between two saved states, from which an interrupted run goes on."""
    keep: int = Field(2, ge=1, le=1000)
    """Saved states that are kept; the last one that can be read is gone on from."""
    index: Path | None = None
    """File that keeps the index of the labels; runs on the same labels may share one. None: index.npz in `out`."""
    out: Path
    """The run's folder."""

    @model_validator(mode="after")
    def _come_in_pairs(self) -> Self:
        for kind in ("auto", "coarse", "val"):
            images, labels = getattr(self, f"{kind}_images"), getattr(self, f"{kind}_labels")
            if (images is None) != (labels is None):
                given, missing = ("images", "labels") if labels is None else ("labels", "images")
                raise ValueError(f"--{kind}-{given} is given without --{kind}-{missing}; give both or neither")
        if self.gate and self.auto_labels is None:
            raise ValueError(f"--gate {', '.join(self.gate)} is given without --auto-labels that it could be on")
        if self.reviewed_labels is not None and self.reviewed_images is None:
            raise ValueError(
                "--reviewed-labels is given without the images that were reviewed; give these as --auto-images or "
                "--coarse-images, with labels"
            )
        if self.validate_every is not None and self.val_images is None:
            raise ValueError("--validate-every is given without --val-images and --val-labels to evaluate on")
        return self

    @property
    def reviewed_images(self) -> Path | None:
        """Folder of the images that reviewed labels are of."""
        return self.auto_images or self.coarse_images

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the weights, as plain values; what lies behind the paths is not looked at."""
        decisive = self.model_dump(mode="json", exclude=_NOT_DECISIVE)
        for name, before in YOUNGER.items():
            if decisive[name] == before:
                del decisive[name]  # so that a run that is older than the setting goes on
        return decisive | {"crops_together": self.crops_together}
