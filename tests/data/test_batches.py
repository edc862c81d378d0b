import pytest
import torch

from rheobase.data import Batches, Split, augment, seed_of


def split(count=20, channels=2, height=5, width=7):
    images = torch.arange(count * channels * height * width).remainder(255).add(1).to(torch.uint8)
    return Split(images.view(count, channels, height, width), torch.arange(count))


def batches(count=20, **options):
    return Batches(
        split(count), **{"batch_size": 6, "mean": torch.zeros(2), "std": torch.ones(2), "seed": 3, **options}
    )


def equal(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b) for pair in zip(first, second, strict=True) for a, b in zip(*pair, strict=True)
    )


def test_an_epoch_has_each_sample_once_and_keeps_the_last_part():
    found = [labels for _, labels in batches()]
    assert [len(labels) for labels in found] == [6, 6, 6, 2]
    assert sorted(torch.cat(found).tolist()) == list(range(20))


def test_order_is_a_function_of_seed_and_epoch():
    assert torch.equal(batches().order(4), batches().order(4))
    assert not torch.equal(batches().order(4), batches().order(5))
    assert not torch.equal(batches().order(4), batches(seed=4).order(4))


def test_batches_do_not_touch_or_follow_the_global_random_state():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = list(batches(shift=1, flip=True))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert equal(first, list(batches(shift=1, flip=True)))


def test_a_batch_does_not_depend_on_what_came_before():
    loader = batches(shift=2, flip=True)
    list(loader)
    second = list(loader)
    fresh = batches(shift=2, flip=True)
    assert equal([second[2]], [fresh.batch(1, 2)])


def test_augmentation_depends_on_step_and_rank():
    images = split(64).images
    assert not torch.equal(augment(images, 2, True, 1), augment(images, 2, True, 2))
    assert torch.equal(augment(images, 2, True, 1), augment(images, 2, True, 1))
    same = [Batches(split(8), batch_size=8, mean=torch.zeros(2), std=torch.ones(2), seed=1, shift=2) for _ in range(2)]
    by_label = [{int(y): x for x, y in zip(*b.batch(e, 0), strict=True)} for b, e in zip(same, (0, 1), strict=True)]
    assert any(not torch.equal(by_label[0][y], by_label[1][y]) for y in range(8))


def test_shift_moves_each_image_whole_with_zeros_coming_in():
    images = split(200, 2, 5, 7).images
    moved = augment(images, 2, False, 5)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    seen = set()
    for image, frame in zip(moved, padded, strict=True):
        places = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, frame[:, y : y + 5, x : x + 7])]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 25  # every translation of up to two pixels occurs


def test_flip_mirrors_about_half_of_the_images():
    images = split(400).images
    flipped = augment(images, 0, True, 5)
    kept = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 150 < kept.sum() < 250


def test_images_are_normalised_and_channels_last():
    mean, std = torch.tensor([3.0, 100.0]), torch.tensor([2.0, 50.0])
    images, labels = batches(mean=mean, std=std, seed=None).batch(0, 1)
    raw = split().images[6:12].float()
    torch.testing.assert_close(images, (raw - mean.view(-1, 1, 1)) / std.view(-1, 1, 1))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.tolist() == [6, 7, 8, 9, 10, 11]


def test_background_is_raw_zero_after_normalisation():
    images, _ = batches(mean=torch.full((2,), 10.0), shift=4).batch(0, 0)
    assert images.min() == -10  # a pixel of 0, and no pixel of the split is 0


@pytest.mark.parametrize("stop", range(9))
def test_state_resumes_in_the_middle_of_an_epoch(stop):
    def stream(loader, count):
        while count > 0:
            for batch in loader:
                yield batch
                count -= 1
                if not count:
                    break

    reference = list(stream(batches(shift=1), 9))
    loader = batches(shift=1)
    list(stream(loader, stop))
    resumed = batches(shift=1)
    resumed.load_state_dict(loader.state_dict())
    assert equal(list(stream(resumed, 9 - stop)), reference[stop:])


def test_ranks_share_each_batch():
    whole = [set(labels.tolist()) for _, labels in batches()]
    parts = [[labels.tolist() for _, labels in batches(rank=rank, world_size=2)] for rank in range(2)]
    assert [set(a) | set(b) for a, b in zip(*parts, strict=True)] == whole
    assert [len(a) + len(b) for a, b in zip(*parts, strict=True)] == [6, 6, 6, 2]


def test_a_last_batch_too_small_for_all_ranks_is_left_out():
    parts = [list(batches(19, rank=rank, world_size=2)) for rank in range(2)]
    assert [len(part) for part in parts] == [3, 3]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rank": 2, "world_size": 2}, "rank must be in 0 ... 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"seed": None, "shift": 1}, "needs a seed"),
        ({"shift": -1}, "shift >= 0"),
    ],
)
def test_bad_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        batches(**options)


def test_seek_refuses_what_is_outside():
    with pytest.raises(ValueError, match=r"batch in 0 \.\.\. 3, got epoch 0, batch 4"):
        batches().seek(0, 4)


def test_seeds_are_fixed_for_ever():
    assert seed_of("order", 7, 0) == 1710199282718433700
    assert seed_of("order", 7, 0) != seed_of("order", 70)
    assert all(0 <= seed_of("x", i) < 2**63 for i in range(100))
