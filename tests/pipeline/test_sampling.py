"""Pairing samples, reading them once, and drawing crops from them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.samples import Kind, Sample, collect_samples, read_sample
from pipeline.sampling import CropDataset, CropSampler, SampleIndex, build_index, stack_crops
from storage.errors import AutocoarseError, ImageError, LabelError, LayoutError, MissingFileError
from storage.layouts import LabelFile
from storage.schema import ClassSchema


def write(path: Path, values: object) -> None:
    """Write an image, or a label, from its values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)


def make_samples(root: Path, labels: Sequence[object], kind: Kind = "fine") -> list[Sample]:
    """Samples with these label values, each with an image of the label's size."""
    for number, values in enumerate(labels):
        shape = np.array(values).shape
        pixels = np.random.default_rng(number).integers(0, 256, (*shape, 3), np.uint8)
        write(root / f"images/{kind}{number}.png", pixels)
        write(root / f"labels/{kind}{number}.png", values)
    return list(collect_samples(root / "images", root / "labels", kind, partial=False).samples)


def index_of(samples: Sequence[Sample], schema: ClassSchema) -> SampleIndex:
    """The index of samples."""
    *_, last = build_index(samples, schema)
    assert last.index is not None
    return last.index


def fake_index(counts: list[list[int]], kinds: Sequence[Kind]) -> SampleIndex:
    """An index of samples that are not on disk: drawing looks at counts and kinds alone."""
    label = LabelFile(Path("none.png"), "class")
    samples = tuple(Sample(str(i), Path("none.png"), label, kind) for i, kind in enumerate(kinds))
    return SampleIndex(samples, np.array(counts, np.int64), "")


def test_pairs_by_mirrored_path_whatever_the_suffix(tmp_path: Path) -> None:
    """A jpg image and its png label in mirrored trees are one sample."""
    write(tmp_path / "images/town/a.jpg", np.zeros((8, 6, 3)))
    write(tmp_path / "labels/town/a.png", np.zeros((8, 6)))
    (sample,) = collect_samples(tmp_path / "images", tmp_path / "labels", "auto", partial=False).samples
    assert (sample.key, sample.kind, sample.image.name) == ("town/a", "auto", "a.jpg")


def test_cityscapes_names_are_paired(tmp_path: Path) -> None:
    """In the Cityscapes layout an image finds its labelIds, which are source ids."""
    write(tmp_path / "leftImg8bit/train/x/x_1_leftImg8bit.png", np.zeros((8, 6, 3)))
    write(tmp_path / "gtFine/train/x/x_1_gtFine_labelIds.png", np.zeros((8, 6)))
    (sample,) = collect_samples(tmp_path, tmp_path, "fine", "cityscapes", partial=False).samples
    assert sample.label.ids == "source"


def test_missing_fine_label_is_refused_with_names_and_count(tmp_path: Path) -> None:
    """Images without a fine label stop the run; the first few are named and all are counted."""
    make_samples(tmp_path, [np.zeros((8, 6))])
    for name in "abcd":
        write(tmp_path / f"images/{name}.png", np.zeros((8, 6, 3)))
    with pytest.raises(LayoutError, match=r"4 of 5 images of .* no fine label in .*: a, b, c, \.\.\.; add the labels"):
        collect_samples(tmp_path / "images", tmp_path / "labels", "fine", partial=False)


def test_missing_auto_labels_are_left_out_and_counted(tmp_path: Path) -> None:
    """Images without a label are left out where that is allowed, and so are labels without an image."""
    make_samples(tmp_path, [np.zeros((8, 6))], "auto")
    write(tmp_path / "images/failed.png", np.zeros((8, 6, 3)))
    write(tmp_path / "labels/other.png", np.zeros((8, 6)))
    collection = collect_samples(tmp_path / "images", tmp_path / "labels", "auto", partial=True)
    assert [s.key for s in collection.samples] == ["auto0"]
    assert collection.images_without_label == ("failed",)
    assert collection.labels_without_image == ("other",)


def test_no_pair_at_all_is_refused(tmp_path: Path) -> None:
    """Trees that do not mirror each other are an error that shows what was looked for and what is there."""
    write(tmp_path / "images/a.png", np.zeros((8, 6, 3)))
    write(tmp_path / "labels/town/a.png", np.zeros((8, 6)))
    with pytest.raises(LayoutError, match=r"looked for a\.png among labels such as town/a\.png"):
        collect_samples(tmp_path / "images", tmp_path / "labels", "auto", partial=True)
    with pytest.raises(MissingFileError, match="no image folder"):
        collect_samples(tmp_path / "nowhere", tmp_path / "labels", "fine", partial=False)


def test_images_that_share_a_key_are_refused(tmp_path: Path) -> None:
    """Two images for one label are an error: nobody knows which is meant."""
    make_samples(tmp_path, [np.zeros((8, 6))])
    write(tmp_path / "images/fine0.jpg", np.zeros((8, 6, 3)))
    with pytest.raises(LayoutError, match=r"fine0\.jpg and fine0\.png would share the label"):
        collect_samples(tmp_path / "images", tmp_path / "labels", "fine", partial=False)


def test_index_counts_classes_and_reports_progress(tmp_path: Path, schema: ClassSchema) -> None:
    """The index holds the pixels of each class, and says which classes nobody labelled."""
    samples = make_samples(tmp_path, [[[0, 0, 255]], [[2, 255, 255]]])
    steps = list(build_index(samples, schema))
    assert [(s.done, s.total) for s in steps] == [(1, 2), (2, 2), (2, 2)]
    index = steps[-1].index
    assert index is not None
    assert index.counts.tolist() == [[2, 0, 0], [0, 0, 1]]
    assert index.absent_classes(schema) == ("pole",)


def test_index_digest_follows_the_labels(tmp_path: Path, schema: ClassSchema) -> None:
    """The digest is the same for the same labels and another when one pixel or one kind is another."""
    labels = [np.zeros((4, 6)), np.ones((4, 6))]
    before = index_of(make_samples(tmp_path, labels), schema).digest
    assert index_of(make_samples(tmp_path, labels), schema).digest == before
    labels[1][0, 0] = 255
    assert index_of(make_samples(tmp_path, labels), schema).digest != before


def test_illegal_value_stops_before_training(tmp_path: Path, schema: ClassSchema) -> None:
    """A label with a value that is no class index is named before the first step."""
    samples = make_samples(tmp_path, [np.zeros((8, 6)), np.full((8, 6), 33)])
    with pytest.raises(LabelError, match=r"fine1\.png: value 33 is no class index of 'three'.*--ids source"):
        index_of(samples, schema)


def test_size_mismatch_names_both_files(tmp_path: Path, schema: ClassSchema) -> None:
    """A label of another size than its image is named with its image and both sizes, before training and when read."""
    (sample,) = make_samples(tmp_path, [np.zeros((8, 6))])
    write(sample.image, np.zeros((8, 7, 3)))
    message = r"labels/fine0\.png is 6x8 but its image .*images/fine0\.png is 7x8"
    with pytest.raises(LabelError, match=message):
        index_of([sample], schema)
    with pytest.raises(LabelError, match=message):
        read_sample(sample, schema)


def test_labels_without_a_single_class_are_refused(tmp_path: Path, schema: ClassSchema) -> None:
    """Where everything is ignored there is nothing to learn, and that is said."""
    with pytest.raises(LabelError, match="nothing to learn from"):
        index_of(make_samples(tmp_path, [np.full((8, 6), 255)]), schema)


def test_half_of_the_draws_are_class_uniform(rng: np.random.Generator) -> None:
    """Half of the draws choose a class, each that occurs as often, from samples that contain it."""
    index = fake_index([[9, 1, 0], [9, 0, 0], [9, 0, 0], [0, 0, 0]], ["fine"] * 4)
    draws = [CropSampler(index, 0.5, 0.5).draw(rng) for _ in range(4000)]
    classes = Counter(d.class_index for d in draws)
    assert classes[None] == pytest.approx(2000, rel=0.1)
    assert classes[0] == pytest.approx(1000, rel=0.15)
    assert classes[1] == pytest.approx(1000, rel=0.15)
    assert {d.sample for d in draws if d.class_index == 1} == {0}
    assert {d.sample for d in draws} == {0, 1, 2}, "a sample without labels is never drawn"
    assert Counter(d.sample for d in draws if d.class_index is None)[1] == pytest.approx(667, rel=0.2)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_fine_share_is_kept(rng: np.random.Generator, share: float) -> None:
    """The share of the draws from fine samples is as asked, whatever their number."""
    index = fake_index([[1, 0]] + [[1, 1]] * 9, ["fine"] + ["auto"] * 5 + ["coarse"] * 4)
    draws = [CropSampler(index, 0.5, share).draw(rng) for _ in range(2000)]
    assert np.mean([d.sample == 0 for d in draws]) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("kinds", [["fine", "reviewed"], ["auto", "coarse"]])
def test_one_sort_of_samples_is_drawn_whatever_the_share(rng: np.random.Generator, kinds: list[Kind]) -> None:
    """Where there are only fine samples, or none, the share of the fine ones does not matter."""
    sampler = CropSampler(fake_index([[1], [1]], kinds), 0.5, 0.5)
    assert {sampler.draw(rng).sample for _ in range(50)} == {0, 1}


def dataset(samples: Sequence[Sample], schema: ClassSchema, seed: int = 0, class_uniform: float = 0.5) -> CropDataset:
    """Twenty crops of 16x12."""
    index = index_of(samples, schema)
    return CropDataset(index, schema, CropSampler(index, class_uniform, 0.5), (12, 16), seed, 20)


def test_crop_depends_on_seed_and_number_alone(tmp_path: Path, schema: ClassSchema) -> None:
    """The same number gives the same crop in any order and in any data set object; other seeds give others."""
    samples = make_samples(tmp_path, [np.zeros((20, 30)), np.ones((30, 20))])
    forwards = [dataset(samples, schema)[i] for i in range(6)]
    one = dataset(samples, schema)
    for number in reversed(range(6)):
        crop, expected = one[number], forwards[number]
        assert isinstance(crop, tuple)
        assert isinstance(expected, tuple)
        assert torch.equal(crop[0], expected[0])
        assert torch.equal(crop[1], expected[1])
    others = [dataset(samples, schema, seed=1)[i] for i in range(6)]
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(forwards, others, strict=True))  # type: ignore[index] # none is an error


def test_class_uniform_crops_contain_their_class(tmp_path: Path, schema: ClassSchema) -> None:
    """With class-uniform draws alone, a rare class is in the share of crops that is due to it."""
    label = np.zeros((60, 80))
    label[50:54, 70:74] = 1
    crops = dataset(make_samples(tmp_path, [label]), schema, class_uniform=1.0)
    having = [bool((crops[i][1] == 1).any()) for i in range(len(crops))]  # type: ignore[index] # none is an error
    assert np.mean(having) > 0.45  # half of the draws are for it, and one in twenty of the others has it as well


def test_damaged_image_is_handed_on_as_an_error(tmp_path: Path, schema: ClassSchema) -> None:
    """An image that cannot be decoded becomes an error in the batch, with the file's name, not a traceback."""
    samples = make_samples(tmp_path, [np.zeros((40, 60))])
    crops = dataset(samples, schema)
    samples[0].image.write_bytes(samples[0].image.read_bytes()[:2000])
    batch = stack_crops([crops[0], crops[1]])
    assert isinstance(batch, ImageError)
    assert isinstance(batch, AutocoarseError)
    assert "fine0.png" in str(batch)


def test_crops_are_stacked_in_order(tmp_path: Path, schema: ClassSchema) -> None:
    """A batch has the crops' images and labels in their order."""
    crops = dataset(make_samples(tmp_path, [np.zeros((20, 30))]), schema)
    batch = stack_crops([crops[i] for i in range(3)])
    assert isinstance(batch, tuple)
    assert batch[0].shape == (3, 3, 12, 16)
    assert batch[1].shape == (3, 12, 16)
    assert torch.equal(batch[1][2], crops[2][1])  # type: ignore[index] # no error
