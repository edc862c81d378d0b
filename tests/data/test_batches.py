import pytest
import torch

from rheobase.data import Augmentation, Batches, Split, load, seed_of


def split(count=20, channels=2, height=5, width=7):
    images = torch.arange(count * channels * height * width).remainder(255).add(1).to(torch.uint8)
    return Split(images.view(count, channels, height, width), torch.arange(count))


def batches(count=20, **options):
    return Batches(
        split(count), **{"batch_size": 6, "mean": torch.zeros(2), "std": torch.ones(2), "seed": 3, **options}
    )


def equal(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b)
        for pair in zip(first, second, strict=True)
        for a, b in zip(*pair, strict=True)
        if a is not None
    )


def test_an_epoch_has_each_sample_once_and_keeps_the_last_part():
    found = [batch.labels for batch in batches()]
    assert [len(labels) for labels in found] == [6, 6, 6, 2]
    assert sorted(torch.cat(found).tolist()) == list(range(20))


def test_order_is_a_function_of_seed_and_epoch():
    assert torch.equal(batches().order(4), batches().order(4))
    assert not torch.equal(batches().order(4), batches().order(5))
    assert not torch.equal(batches().order(4), batches(seed=4).order(4))


def test_batches_do_not_touch_or_follow_the_global_random_state():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = list(batches(augmentation=Augmentation(shift=1, flip=True)))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert equal(first, list(batches(augmentation=Augmentation(shift=1, flip=True))))


def test_a_batch_does_not_depend_on_what_came_before():
    loader = batches(augmentation=Augmentation(shift=2, flip=True))
    list(loader)
    second = list(loader)
    fresh = batches(augmentation=Augmentation(shift=2, flip=True))
    assert equal([second[2]], [fresh.batch(1, 2)])


def test_augmentation_depends_on_step_and_rank():
    """Of images that are all alike, the draws alone make the difference."""
    alike = Split(split(1).inputs.expand(32, -1, -1, -1), torch.arange(32))
    options = {"batch_size": 16, "mean": torch.zeros(2), "std": torch.ones(2), "augmentation": Augmentation(shift=2)}
    first, other = (Batches(alike, seed=1, **options), Batches(alike, seed=2, **options))
    ranks = [Batches(alike, seed=1, rank=rank, world_size=2, **options).batch(0, 0) for rank in range(2)]
    pairs = [
        (first.batch(0, 0), first.batch(0, 1)),
        (first.batch(0, 0), first.batch(1, 0)),
        (first.batch(0, 0), other.batch(0, 0)),
        ranks,
    ]
    assert all(not torch.equal(a.inputs, b.inputs) for a, b in pairs)


def test_images_are_normalised_and_channels_last():
    mean, std = torch.tensor([3.0, 100.0]), torch.tensor([2.0, 50.0])
    images, labels, lengths = batches(mean=mean, std=std, seed=None).batch(0, 1)
    assert lengths is None
    raw = split().inputs[6:12].float()
    torch.testing.assert_close(images, (raw - mean.view(-1, 1, 1)) / std.view(-1, 1, 1))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.tolist() == [6, 7, 8, 9, 10, 11]


def test_background_is_raw_zero_after_normalisation():
    moved = Augmentation(shift=4)
    assert (
        batches(mean=torch.full((2,), 10.0), augmentation=moved).batch(0, 0).inputs.min() == -10
    )  # a pixel of 0, and no pixel of the split is 0


@pytest.mark.parametrize("stop", range(9))
def test_state_resumes_in_the_middle_of_an_epoch(stop):
    def stream(loader, count):
        while count > 0:
            for batch in loader:
                yield batch
                count -= 1
                if not count:
                    break

    reference = list(stream(batches(augmentation=Augmentation(shift=1)), 9))
    loader = batches(augmentation=Augmentation(shift=1))
    list(stream(loader, stop))
    resumed = batches(augmentation=Augmentation(shift=1))
    resumed.load_state_dict(loader.state_dict())
    assert equal(list(stream(resumed, 9 - stop)), reference[stop:])


def test_ranks_share_each_batch():
    whole = [set(labels.tolist()) for _, labels, _ in batches()]
    parts = [[labels.tolist() for _, labels, _ in batches(rank=rank, world_size=2)] for rank in range(2)]
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
        ({"std": torch.tensor([1.0, 0.0])}, r"std must be \[2\], finite and above 0, got \[1.0, 0.0\]"),
        ({"mean": torch.zeros(3)}, r"mean must be \[2\], finite, got \[0.0, 0.0, 0.0\]"),
        ({"seed": None, "augmentation": Augmentation(flip=True)}, "needs a seed"),
        ({"augmentation": Augmentation(shift=5)}, "shift must be below the image's side, 5, got 5"),
        ({"augmentation": Augmentation(rand_augment=9)}, r"1 or 3 channels, got samples of shape \(2, 5, 7\)"),
        ({"augmentation": Augmentation(mixup=0.2)}, "need the number of classes"),
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


def sequences(count=20, lengths=True):
    inputs = torch.arange(count * 4 * 2 * 3 * 3).remainder(255).add(1).to(torch.uint8).view(count, 4, 2, 3, 3)
    return Split(inputs, torch.arange(count), torch.arange(count) % 3 + 1 if lengths else None)


def sequence_batches(lengths=True, **options):
    fixed = {"batch_size": 6, "mean": torch.full((2,), 7.0), "std": torch.full((2,), 2.0), "seed": 3}
    return Batches(sequences(lengths=lengths), **{**fixed, **options})


def test_sequences_come_time_first_cut_to_the_longest_with_zeros_after_the_end():
    whole = sequences()
    for inputs, labels, lengths in sequence_batches():
        assert inputs.shape == (lengths.max(), len(labels), 2, 3, 3)
        assert inputs.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
        for place, (label, length) in enumerate(zip(labels, lengths, strict=True)):
            assert torch.equal(inputs[:length, place], (whole.inputs[label, :length].float() - 7) / 2)
            assert not inputs[length:, place].any()


def test_float_sequences_are_not_changed_in_place():
    kept = torch.rand(4, 3, 5, 1, 1)
    split = Split(kept.clone(), torch.arange(4))
    list(Batches(split, batch_size=4, mean=torch.ones(5), std=torch.ones(5)))
    assert torch.equal(split.inputs, kept)


def test_sequences_resume_and_share_as_images_do():
    moved = {"augmentation": Augmentation(shift=1, flip=True, cutout=1)}
    reference = list(sequence_batches(**moved))
    later = sequence_batches(**moved)
    later.load_state_dict({"epoch": 0, "batch": 2})
    assert equal(list(later), reference[2:])
    parts = [[set(batch.labels.tolist()) for batch in sequence_batches(rank=rank, world_size=2)] for rank in range(2)]
    assert [a | b for a, b in zip(*parts, strict=True)] == [set(batch.labels.tolist()) for batch in reference]


def test_mixed_labels_are_shares_and_need_one_length():
    mixed = {"augmentation": Augmentation(mixup=1.0), "classes": 20}
    batch = sequence_batches(lengths=False, **mixed).batch(0, 0)
    assert batch.labels.shape == (6, 20)
    torch.testing.assert_close(batch.labels.sum(1), torch.ones(6))
    with pytest.raises(ValueError, match="sequences of one length"):
        sequence_batches(**mixed)


def test_another_default_device_changes_nothing():
    """Meta stands for a GPU: what were made there would have no values."""
    augmentation = Augmentation(crop=0.5, shift=1, flip=True, rand_augment=5.0, cutout=2, mixup=0.3, cutmix=0.3)
    options = {"mean": torch.zeros(1), "std": torch.ones(1), "batch_size": 32, "classes": 10}
    options |= {"seed": 0, "augmentation": augmentation}
    whole = load("digits")
    want = Batches(whole.train, **options).batch(1, 2)
    with torch.device("meta"):
        data = load("digits")
        again = Batches(data.train, **options)
        assert equal([want], [again.batch(1, 2)])
        assert not next(iter(again)).inputs.is_meta
        assert len(data.limited(40).train.divide(0.25)[0]) == 30
    assert torch.equal(data.mean, whole.mean)
