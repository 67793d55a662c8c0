"""Whether a network's encoder takes the sizes of images that a training run, and whoever labels by it, will give it.

Only shapes are computed; most encoders take any size, and are asked no further.
"""

from collections.abc import Iterator, Sequence

from pipeline.samples import Sample
from pipeline.training_settings import TrainSettings
from storage.errors import SettingsError
from storage.image_reader import read_image_size
from teacher.fusion import scales_of, size_at_scale
from teacher.networks.registry import NetworkSpec
from teacher.networks.shapes import refusal, takes_any_size

_WHOLE = (96, 64)
"""(height, width) of an image that any encoder of a teacher takes; there are such as take multiples of 32 only."""

_LOOKED_AT = 50
"""Images to learn from whose sizes are looked at, from all over the set: they are only warned of."""


def check_sizes(settings: TrainSettings, samples: Sequence[Sample], validation: Sequence[Sample]) -> Iterator[str]:
    """See that the encoder takes crops, images to validate on, and images such as are learned from.

    Args:
        settings: of the run.
        samples: to learn from.
        validation: to validate on.

    Yields:
        A warning where the network will not be able to label whole images such as it learns from.

    Raises:
        SettingsError: the encoder takes one size only, or no crops, or no images to validate on, of such a size; or
            the network cannot be built.
        ImageError: the header of an image cannot be read.
    """
    spec = settings.spec(1)
    if found := _refused(spec, _WHOLE, (1.0,)):
        raise SettingsError(
            f"{found}: it is made for another size or for larger images only, and a teacher must take any. Choose "
            f"another --encoder"
        )
    low = (1.0, 0.5) if spec.attention == "hierarchical" else (1.0,)
    if found := _refused(spec, settings.crop, spec.attention_scales or low):
        raise SettingsError(f"--crop: {found}. Choose another --crop, or another --encoder")
    if takes_any_size(spec):
        return
    scales = spec.attention_scales or scales_of(spec.attention, settings.scales)
    for size in _sizes(validation):
        if found := _refused(spec, size, scales):
            raise SettingsError(
                f"--val-images: {found}. Choose another --encoder, other --scales, or leave out the validation"
            )
    for size in _sizes(samples[:: max(1, len(samples) // _LOOKED_AT)]):
        if found := _refused(spec, size, scales):
            yield f"{found}: the network will not label whole images of that size. Choose another --encoder if it is to"
            return


def _refused(spec: NetworkSpec, size: tuple[int, int], scales: Sequence[float]) -> str:
    """What an encoder has against images of a size at some scales, and why; empty where it takes them."""
    for scale in scales:
        height, width = size_at_scale(size, scale)
        if reason := refusal(spec, (height, width)):
            at_scale = "" if scale == 1 else f", which is {width}x{height} at scale {scale:g}"
            return f"encoder {spec.encoder!r} cannot take {size[1]}x{size[0]}{at_scale} ({reason})"
    return ""


def _sizes(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """The different (height, width) of the images."""
    return sorted({read_image_size(sample.image) for sample in samples})
