import hashlib
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

import rheobase.data
from rheobase.data.dataset import Dataset, Split, systematic
from rheobase.data.options import told


@pytest.fixture(scope="module")
def digits():
    return rheobase.data.load("digits")


def test_digits_splits_are_a_partition_of_the_file(digits):
    path = Path(rheobase.data.__file__).with_name("digits.npz")
    with np.load(path) as file:
        everything = sorted(zip((image.tobytes() for image in file["images"]), file["labels"].tolist(), strict=True))
    parts = (digits.train, digits.validation, digits.test)
    assert [len(part) for part in parts] == [1197, 240, 360]
    found = [
        (image.numpy().tobytes(), int(label))
        for part in parts
        for image, label in zip(part.inputs, part.labels, strict=True)
    ]
    assert sorted(found) == everything


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_digits_splits_are_stratified(digits, part):
    split = getattr(digits, part)
    shares = sum(getattr(digits, name).labels.bincount() for name in ("train", "validation", "test")) / 1797
    assert (split.labels.bincount() - shares * len(split)).abs().max() < 2


def test_digits_splits_are_fixed(digits):
    content = b"".join(part.inputs.numpy().tobytes() for part in (digits.train, digits.validation, digits.test))
    assert hashlib.sha256(content).hexdigest() == "fb0a9b77875319b0f7f6c007f4a0d13685264c4b107bfd66b4b8f09879e8baf2"


def test_statistics_are_those_of_the_training_pixels(digits):
    pixels = digits.train.inputs.double()
    torch.testing.assert_close(digits.mean, pixels.mean((0, 2, 3)).float())
    torch.testing.assert_close(digits.std, pixels.std((0, 2, 3), correction=0).float())


@pytest.mark.parametrize("shape", [(2, 28, 28, 1), (2, 6, 6, 3), (2, 5, 34, 34, 2)])
def test_channels_last_are_refused(shape):
    inputs = torch.zeros(shape, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"have their channels last: give inputs.movedim\(-1, -3\)"):
        Split(inputs, torch.zeros(2, dtype=torch.int64))
    Split(inputs.movedim(-1, -3), torch.zeros(2, dtype=torch.int64))


def test_as_many_names_as_classes(digits):
    with pytest.raises(ValueError, match="class_names must be 10, one a class, got 2"):
        replace(digits, class_names=("a", "b"))


def test_statistics_are_per_channel():
    images = torch.stack([torch.full((4, 5, 5), 3), torch.arange(100).view(4, 5, 5)], 1).to(torch.uint8)
    split = Split(images, torch.zeros(4, dtype=torch.int64))
    data = Dataset.of("two", 1, split, split, split)
    torch.testing.assert_close(data.mean, torch.tensor([3.0, 49.5]))
    assert data.std[0] == 1
    assert data.channels == 2


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("kind", ["images", "sequences"])
def test_a_channel_that_is_constant_has_deviation_one(kind, value):
    torch.manual_seed(0)
    varied = torch.rand(50, 4, 1, 3, 3)
    inputs = torch.cat([torch.full_like(varied, value / 10), varied], 2)
    if kind == "images":
        inputs = torch.cat([torch.full_like(varied, value), 250 * varied], 2)[:, 0].to(torch.uint8)
    split = Split(inputs, torch.zeros(50, dtype=torch.int64))
    test = Split(inputs + 1, split.labels) if kind == "sequences" else Split(inputs.clip(1) - 1, split.labels)
    data = Dataset.of("flat", 1, split, split, test)
    assert data.std[0] == 1
    torch.testing.assert_close(data.std[1], inputs.movedim(-3, 0)[1].double().std(correction=0).float())
    entered = rheobase.data.Batches(test, batch_size=50, mean=data.mean, std=data.std).batch(0, 0).inputs
    assert entered.select(-3, 0).abs().max() <= 1.001, "as it differs, not a million times as much"


@pytest.mark.parametrize("scale", [1e-9, 1, 1e9])
def test_a_channel_that_varies_little_is_not_taken_for_constant(scale):
    torch.manual_seed(0)
    inputs = scale * (1 + 1e-4 * torch.randn(200, 3, 2, 1, 1, dtype=torch.float64)).float()
    split = Split(inputs, torch.zeros(200, dtype=torch.int64))
    want = inputs.double().std((0, 1, 3, 4), correction=0).float()
    torch.testing.assert_close(Dataset.of("faint", 1, split, split, split).std, want, rtol=1e-3, atol=0)


@pytest.mark.parametrize("count", [1, 7, 50, 99, 100])
def test_systematic_sample_gives_each_class_its_share(count):
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[torch.randperm(100)]
    chosen = systematic(labels, count)
    assert len(chosen.unique()) == count
    shares = labels.bincount(minlength=3) * count / 100
    assert (labels[chosen].bincount(minlength=3) - shares).abs().max() <= 1


@pytest.mark.parametrize("count", [0, 11])
def test_systematic_sample_refuses_impossible_counts(count):
    with pytest.raises(ValueError, match=f"between 1 and 10 .* got {count}"):
        systematic(torch.zeros(10, dtype=torch.int64), count)


def test_limited_takes_a_stratified_part_and_keeps_the_rest(digits):
    small = digits.limited(100)
    assert len(small.train) == 100
    assert small.train.labels.bincount().min() >= 9
    assert small.validation is digits.validation
    assert small.test is digits.test
    assert torch.equal(small.mean, digits.mean)


def test_limited_leaves_classes_out_only_where_it_must(digits):
    assert digits.limited(11).train.labels.unique().tolist() == list(range(10))
    assert len(digits.limited(4).train.labels.unique()) == 4


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64), "images uint8"),
        (torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"\[N, C, H, W\]"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"labels must be int64 \[3\]"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3), "labels must be int64"),
        (
            torch.zeros(3, 4, 1, 2, 2, dtype=torch.int16),
            torch.zeros(3, dtype=torch.int64),
            "sequences uint8 or float32",
        ),
    ],
)
def test_split_checks_its_tensors(images, labels, match):
    with pytest.raises(ValueError, match=match):
        Split(images, labels)


@pytest.mark.parametrize(
    ("shape", "lengths", "match"),
    [
        ((3, 4, 1, 2, 2), [1, 2], r"lengths must be int64 \[3\]"),
        ((3, 4, 1, 2, 2), [1, 2, 5], r"lengths must be in 1 \.\.\. 4 .*got 1 \.\.\. 5"),
        ((3, 4, 1, 2, 2), [0, 2, 4], r"got 0 \.\.\. 4"),
        ((3, 1, 2, 2), [1, 1, 1], "sequences only"),
    ],
)
def test_split_checks_its_lengths(shape, lengths, match):
    with pytest.raises(ValueError, match=match):
        Split(torch.zeros(shape, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), torch.tensor(lengths))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_statistics_see_real_steps_only(dtype):
    torch.manual_seed(0)
    inputs, lengths = (200 * torch.rand(7, 5, 3, 2, 2)).to(dtype), torch.tensor([1, 2, 3, 4, 5, 5, 1])
    split = Split(inputs, torch.zeros(7, dtype=torch.int64), lengths)
    data = Dataset.of("steps", 1, split, split, split)
    real = torch.cat([steps[:length] for steps, length in zip(inputs, lengths, strict=True)]).double()
    torch.testing.assert_close(data.mean, real.mean((0, 2, 3)).float())
    torch.testing.assert_close(data.std, real.std((0, 2, 3), correction=0).float())
    assert data.channels == 3


def test_a_class_without_samples_and_a_label_without_class_are_named():
    def of(labels):
        return Split(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), torch.tensor(labels))

    whole = of([0, 1, 2])
    with pytest.raises(ValueError, match=r"'pets': wanted training samples of all 3 classes, got none of 1 \(dog\)"):
        Dataset.of("pets", 3, of([0, 2, 2]), whole, whole, ("cat", "dog", "emu"))
    with pytest.raises(ValueError, match=r"'pets': labels of test must be in 0 \.\.\. 2, got 0 \.\.\. 3"):
        Dataset.of("pets", 3, whole, whole, of([0, 3]))


@pytest.mark.parametrize("part", [3, 0.3, 3.0])
def test_a_part_is_a_count_or_a_share(part, digits):
    left, taken = digits.train.at(torch.arange(10)).divide(part)
    assert (len(left), len(taken)) == (7, 3)


@pytest.mark.parametrize("part", [0, 10, 0.0, 1.0, -1, 2.5, float("nan")])
def test_a_part_that_leaves_nothing_is_refused(part, digits):
    with pytest.raises(ValueError, match=f"a share between 0 and 1 or a count from 1 to 9, got {part}"):
        digits.train.at(torch.arange(10)).divide(part)


def test_unknown_data_set_is_named():
    with pytest.raises(ValueError, match=r"digits, .*ti46, got 'cifar'; did you mean 'cifar"):
        rheobase.data.load("cifar")


def test_unknown_option_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"'nmnist' has the options .*, got 'frame'; did you mean 'frames'\?"):
        rheobase.data.load("nmnist", frame=3)


def test_options_are_told_once_with_type_default_and_meaning():
    options = rheobase.data.options("nmnist")
    assert list(options) == ["frames", "by", "validation", "cache"]
    assert options["frames"] == (int, 10, "time steps.", {"ge": 1})
    assert options["by"].type == Literal["time", "count"]
    assert rheobase.data.options("digits") == {}
    assert rheobase.data.options("spoken-digits")["hop"].help == "length and distance of frames in seconds."
    kinds = {}
    for name in rheobase.data.names():
        for option, (kind, _, meaning, _) in rheobase.data.options(name).items():
            assert meaning, (name, option)
            kinds.setdefault(option, set()).add(kind if kind in (int, float, str, bool) else kind.__args__[0])
    assert not {"name", "root"} & kinds.keys()
    assert all(len(kind) == 1 for option, kind in kinds.items() if option != "by"), "one name, one type"
    augmentation = told(rheobase.data.Augmentation)
    assert list(augmentation) == [field.name for field in fields(rheobase.data.Augmentation)]
    assert augmentation["cutout"] == (
        int,
        0,
        "side of a square of zeros, whose centre is anywhere in the image (DeVries and Taylor 2017).",
        {"ge": 0},
    )
    assert augmentation["crop"].range == {"gt": 0, "le": 1}
    assert augmentation["rand_augment"].range == {"gt": 0, "lt": 30}, "also of what may be None"
    assert all(option.help for option in augmentation.values())


def test_the_guide_names_the_options_that_there_are():
    page = Path(__file__).parents[2] / "docs" / "data.md"
    rows = [line.strip("|").split("|") for line in page.read_text().splitlines() if line.startswith("| `")]
    found = {name: set(re.findall("`(.*?)`", row[3])) for row in rows for name in re.findall("`(.*?)`", row[0])}
    same = found["cifar10"]
    assert found.keys() == set(rheobase.data.names())
    for name, options in found.items():
        assert (options or same if name in ("images", "parquet") else options) == set(rheobase.data.options(name))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"inputs": np.zeros((4, 1, 2, 2), np.uint8)}, r"inputs must be a tensor of torch, got numpy\.ndarray"),
        ({"labels": [0, 1, 0, 1]}, r"labels must be a tensor of torch, got builtins\.list"),
        ({"labels": np.zeros(4, np.int64)}, r"labels must be a tensor of torch, got numpy\.ndarray"),
    ],
)
def test_what_is_no_tensor_is_called_what_it_is(given, said):
    whole = {"inputs": torch.zeros(4, 1, 2, 2, dtype=torch.uint8), "labels": torch.tensor([0, 1, 0, 1])}
    with pytest.raises(TypeError, match=said):
        Split(**{**whole, **given})


def test_more_classes_than_samples_are_refused_at_once():
    split = Split(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 10**12]))
    with pytest.raises(ValueError, match="wanted training samples of all 1000000000001 classes, got 4 samples"):
        Dataset.of("far", 10**12 + 1, split, split, split)
