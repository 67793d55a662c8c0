"""The settings of a training run: what is learned from, which network, and how.

Parsing flags is the command line's work; what the settings mean is in `pipeline.training`.
"""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from pipeline.settings import Scales, Settings
from storage.layouts import Layout
from storage.schema import Ids
from teacher.inference import Precision
from teacher.networks.registry import NetworkName

DEFAULT_ENCODER = "tf_efficientnet_lite0"
"""Encoder of deeplabv3plus where none is named: small enough to be trained without a GPU."""

MIN_CROP = 32
"""Shortest side of a crop: at half scale and a stride of 16 one value is left."""

MIN_CROP_ALONE = 128
"""Shortest side of a crop that may be the only one of its batch: batch norm needs more than one value a channel."""

_NOT_DECISIVE = {
    *("fine_images", "fine_labels", "auto_images", "auto_labels", "coarse_images", "coarse_labels"),
    *("classes", "layout", "ids", "encoder_weights"),  # these and the above: their content decides, not their place
    *("val_images", "val_labels", "scales"),  # judge the result
    *("out", "device", "workers", "checkpoint_every"),
}

Side = Annotated[int, Field(ge=MIN_CROP, le=8192)]


class TrainSettings(Settings):
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
    val_images: Path | None = None
    val_labels: Path | None = None
    """What the result is evaluated on; nothing is chosen on it."""
    classes: str
    """A class schema's name or file."""
    layout: Layout = "folder"
    ids: Ids | None = None
    """What the values of the label folders are; None: class indices, or what a Cityscapes file's name says."""
    network: NetworkName = "deeplabv3plus"
    encoder: str | None = None
    """timm's name of the encoder of deeplabv3plus."""
    encoder_weights: Path | None = None
    """Pretrained weights of the encoder; without them it starts from random values."""
    steps: int = Field(1000, ge=1)
    """Updates of the weights; the learning rate falls to zero over them."""
    crop: tuple[Side, Side] = (256, 256)
    """(height, width) of the pieces of image that are learned from, pixels."""
    batch: int = Field(8, ge=1)
    """Crops a step."""
    learning_rate: float = Field(1e-3, gt=0, lt=1)
    """Of everything but a pretrained encoder, at its highest."""
    encoder_rate: float = Field(0.3, gt=0, le=1)
    """Share of the learning rate that a pretrained encoder is trained with."""
    class_uniform: float = Field(0.5, ge=0, le=1)
    """Share of the crops that are drawn by class, each class as often as any other."""
    fine_share: float = Field(0.5, ge=0, le=1)
    """Share of the crops that are drawn from fine samples, where there are others as well."""
    seed: int = Field(0, ge=0, lt=2**31)
    scales: Scales = (0.5, 1.0, 2.0)
    """Scales at which the result is evaluated."""
    precision: Precision = "fp32"
    device: str = "auto"
    workers: int | None = Field(None, ge=0, le=256)
    """Processes that read and augment; 0: none but this one; None: one less than the processors, 1 to 8."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps between two saved states, from which an interrupted run goes on."""
    out: Path
    """The run's folder."""

    @model_validator(mode="before")
    @classmethod
    def _name_the_encoder(cls, values: Any) -> Any:  # noqa: ANN401 - not validated yet
        if isinstance(values, dict) and values.get("network", "deeplabv3plus") == "deeplabv3plus":
            return values if values.get("encoder") else {**values, "encoder": DEFAULT_ENCODER}
        return values

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for kind in ("auto", "coarse", "val"):
            images, labels = getattr(self, f"{kind}_images"), getattr(self, f"{kind}_labels")
            if (images is None) != (labels is None):
                given, missing = ("images", "labels") if labels is None else ("labels", "images")
                raise ValueError(f"--{kind}-{given} is given without --{kind}-{missing}; give both or neither")
        if self.network != "deeplabv3plus" and self.encoder is not None:
            raise ValueError(f"{self.network} has a trunk of its own, got the encoder {self.encoder!r}: leave it out")
        if self.batch == 1 and self.network == "deeplabv3plus":
            raise ValueError(
                "batch is 1, but deeplabv3plus pools an image into one value a channel, which batch norm "
                "cannot normalise; expected 2 or more"
            )
        if self.batch == 1 and min(self.crop) < MIN_CROP_ALONE:
            raise ValueError(
                f"batch is 1 and the crop {self.crop[1]}x{self.crop[0]}, which leaves batch norm one value "
                f"a channel; expected a batch of 2 or more, or sides of at least {MIN_CROP_ALONE}"
            )
        return self

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the weights, as plain values; what lies behind the paths is not looked at."""
        return self.model_dump(mode="json", exclude=_NOT_DECISIVE)
