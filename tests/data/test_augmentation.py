import pytest
import torch
from torch.nn import functional as F

from rheobase.data import Augmentation

SEEDS = range(5)


def images(count=8, channels=3, height=12, width=12):
    return torch.randint(1, 256, (count, channels, height, width), generator=torch.Generator().manual_seed(1)).to(
        torch.uint8
    )


def classes(count):
    return F.one_hot(torch.arange(count)).float()


ALL = {
    "crop": {"crop": 0.3},
    "shift": {"shift": 2},
    "flip": {"flip": True},
    "rand_augment": {"rand_augment": 9},
    "cutout": {"cutout": 4},
    "mixup": {"mixup": 1.0},
    "cutmix": {"cutmix": 1.0},
    "everything": {
        "crop": 0.5,
        "shift": 1,
        "flip": True,
        "rand_augment": 9,
        "cutout": 3,
        "mixup": 0.5,
        "cutmix": 0.5,
    },
}


@pytest.mark.parametrize("options", ALL.values(), ids=ALL)
def test_it_is_a_function_of_the_seed_and_leaves_everything_else_alone(options):
    augmentation, x, y = Augmentation(**options), images(), classes(8)
    kept = x.clone()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = augmentation(x, y, 5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = augmentation(x, y, 5), augmentation(x, y, 6)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(x, kept)
    assert first[0].shape == x.shape
    assert first[0].dtype == (torch.float32 if augmentation.mixup and first[0].is_floating_point() else torch.uint8)


@pytest.mark.parametrize("options", [ALL[name] for name in ("crop", "shift", "flip", "cutout", "mixup", "cutmix")])
def test_the_steps_of_a_sequence_are_changed_alike(options):
    x = images().unsqueeze(1).expand(-1, 4, -1, -1, -1)
    moved, _ = Augmentation(**options)(x, classes(8), 3)
    assert not torch.equal(moved, x)
    assert all(torch.equal(moved[:, 0], moved[:, step]) for step in range(4))


def test_shift_moves_each_image_whole_with_zeros_coming_in():
    x = images(200, 2, 5, 7)
    moved, _ = Augmentation(shift=2)(x, torch.arange(200), 5)
    seen = set()
    for image, frame in zip(moved, F.pad(x, (2, 2, 2, 2)), strict=True):
        places = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, frame[:, y : y + 5, x : x + 7])]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 25  # every translation of up to two pixels occurs


def test_flip_mirrors_about_half_of_the_images():
    x = images(400)
    flipped, _ = Augmentation(flip=True)(x, torch.arange(400), 5)
    kept = (flipped == x).flatten(1).all(1)
    mirrored = (flipped == x.flip(-1)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 150 < kept.sum() < 250


def test_crop_cuts_a_part_of_the_area_and_stretches_it():
    rows = torch.arange(64).mul(3).to(torch.uint8).expand(300, 1, 64, 64)
    for ramp in (rows, rows.transpose(2, 3)):
        cut, _ = Augmentation(crop=0.25)(ramp, torch.arange(300), 2)
        spans = (cut.flatten(1).amax(1).int() - cut.flatten(1).amin(1).int()) / (63 * 3)
        assert 0.4 < spans.min() < 0.5  # sqrt(0.25 * 3/4) = 0.43 of a side at least
        assert spans.max() > 0.95
        lowest = cut.flatten(1).amin(1)
        assert lowest.min() < 10
        assert lowest.max() > 80  # at the near edge, and at the far one


def test_crop_keeps_a_plain_image_plain():
    x = torch.full((5, 3, 8, 8), 77, dtype=torch.uint8)
    assert torch.equal(Augmentation(crop=0.1)(x, torch.arange(5), 1)[0], x)


def test_rand_augment_draws_for_each_image_and_gray_is_left_without_colour():
    x = images(1, 3, 16, 16).expand(64, -1, -1, -1)
    changed, _ = Augmentation(rand_augment=15)(x, torch.arange(64), 1)
    assert len(changed.flatten(1).unique(dim=0)) > 40
    gray, _ = Augmentation(rand_augment=15)(x[:, :1], torch.arange(64), 1)
    assert gray.shape == (64, 1, 16, 16)


def test_cutout_zeroes_one_square_that_may_leave_the_image():
    cut, _ = Augmentation(cutout=4)(images(300), torch.arange(300), 1)
    holes = (cut == 0).all(1)
    assert torch.equal(holes, (cut == 0).any(1))
    areas = set()
    for hole in holes:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns[None])
        assert 2 <= rows.sum() <= 4
        areas.add(int(hole.sum()))
    assert {4, 16} <= areas


@pytest.mark.parametrize("seed", SEEDS)
def test_mixup_mixes_images_and_labels_by_the_same_share(seed):
    x, y = images(), classes(8)
    mixed, labels = Augmentation(mixup=1.0)(x, y, seed)
    torch.testing.assert_close(labels.sum(1), torch.ones(8))
    expected = torch.einsum("ij,jchw->ichw", labels, x.float())
    torch.testing.assert_close(mixed, expected)
    assert (labels > 0).sum() == 16


@pytest.mark.parametrize("seed", SEEDS)
def test_cutmix_labels_are_shares_of_pixels(seed):
    x = torch.arange(1, 9).to(torch.uint8).view(8, 1, 1, 1).expand(8, 1, 12, 12)
    mixed, labels = Augmentation(cutmix=1.0)(x, classes(8), seed)
    shares = torch.stack([(mixed == value).float().mean((1, 2, 3)) for value in range(1, 9)], 1)
    torch.testing.assert_close(labels, shares)
    assert mixed.dtype == torch.uint8


def test_with_both_each_batch_takes_one():
    kinds = {Augmentation(mixup=1.0, cutmix=1.0)(images(), classes(8), seed)[0].dtype for seed in range(20)}
    assert kinds == {torch.uint8, torch.float32}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"shift": -1}, "shift must be at least 0, got -1"),
        ({"cutout": -2}, "cutout must be at least 0, got -2"),
        ({"crop": 0.0}, "crop must be above 0 and at most 1, got 0.0"),
        ({"rand_augment": 30}, "rand_augment must be above 0 and below 30, got 30"),
        ({"mixup": -0.1}, "mixup must be at least 0"),
        ({"cutmix": float("inf")}, "cutmix must be at least 0 and finite, got inf"),
        ({"mixup": float("nan")}, "mixup must be at least 0 and finite, got nan"),
    ],
)
def test_numbers_out_of_range(options, match):
    with pytest.raises(ValueError, match=match):
        Augmentation(**options)


def test_what_cannot_be_augmented_is_refused():
    with pytest.raises(ValueError, match=r"float32 \[B, classes\], got torch.int64 \[8\]"):
        Augmentation(mixup=1.0)(images(), torch.arange(8), 1)
    with pytest.raises(ValueError, match="cutout must be below the image's side, 12, got 12"):
        Augmentation(cutout=12)(images(), torch.arange(8), 1)
    with pytest.raises(ValueError, match=r"1 or 3 channels, got samples of shape \(2, 3, 12, 12\)"):
        Augmentation(rand_augment=9)(images().view(4, 2, 3, 12, 12), torch.arange(4), 1)
