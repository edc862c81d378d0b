import importlib
import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from rheobase.data import Augmentation, Batches, load
from rheobase.data.dataset import Streamed
from rheobase.data.images import Pictures

NAMES = ["cat", "dog", "emu"]


def picture(label, index, size=(8, 6), mode="RGB"):
    """A plain image, whose first channel tells (label, index)."""
    colour = 50 * label + index
    return Image.new(mode, size, (colour, 9, 200) if mode == "RGB" else colour)


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def folder(root, test="test", count=10, **options):
    for part, number in (("train", count), (test, 2)):
        for label, name in enumerate(NAMES):
            (root / part / name).mkdir(parents=True)
            for index in range(number):
                picture(label, index, **options).save(root / part / name / f"{index:02}.png")
    return root


def parquet(root, parts=(("train", 15), ("train", 15), ("test", 6)), image="img", label="label", where="data", **more):
    place = root / where
    place.mkdir(parents=True, exist_ok=True)
    for part in dict(parts):
        counts = [count for name, count in parts if name == part]
        for shard, count in enumerate(counts):
            rows = [(row % 3, row // 3) for row in range(sum(counts[:shard]), sum(counts[:shard]) + count)]
            table = pa.table(
                {
                    image: [{"bytes": encoded(picture(*row)), "path": None} for row in rows],
                    label: [row[0] for row in rows],
                    **{name: [row[0] // 2 for row in rows] for name in more.get("extra", ())},
                }
            )
            hub = {"info": {"features": {image: {"_type": "Image"}, label: {"names": NAMES, "_type": "ClassLabel"}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(hub)})
            pq.write_table(table, place / f"{part}-{shard:05}-of-{len(counts):05}.parquet", row_group_size=4)
    return root


def check(split, shape=(3, 6, 8)):
    """Every image is the one of its label, whole, and no two are the same."""
    part = split.read(torch.arange(len(split)))
    assert part.inputs.dtype == torch.uint8
    assert part.inputs.shape[1:] == shape
    told = part.inputs[:, 0].flatten(1)
    assert (told == told[:, :1]).all()
    assert torch.equal(told[:, 0] // 50, part.labels)
    assert len(told[:, 0].unique()) == len(part)
    return part


MAKERS = {"images": folder, "parquet": parquet}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_images_labels_and_classes(name, stream, tmp_path):
    data = load(name, str(MAKERS[name](tmp_path)), stream=stream, validation=3)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [27, 3, 6]
    assert data.class_names == ("cat", "dog", "emu")
    assert data.channels == 3
    assert isinstance(data.train, Streamed) == stream
    seen = check(data.train).inputs
    check(data.validation)
    check(data.test)
    torch.testing.assert_close(data.mean, seen.double().mean((0, 2, 3)).float())


@pytest.mark.parametrize("name", MAKERS)
def test_a_set_with_a_validation_split_keeps_it(name, tmp_path):
    if name == "images":
        folder(tmp_path, "val")
        for label, kind in enumerate(NAMES):
            (tmp_path / "test" / kind).mkdir(parents=True)
            picture(label, 3).save(tmp_path / "test" / kind / "3.png")
    else:
        parquet(tmp_path, (("train", 30), ("validation", 6), ("test", 3)))
    data = load(name, str(tmp_path))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [30, 6, 3]
    with pytest.raises(ValueError, match="has a validation split of its own"):
        load(name, str(tmp_path), validation=0.2)


def test_without_a_test_split_the_validation_split_is_for_testing(tmp_path):
    data = load("images", str(folder(tmp_path, "val")), validation=0.2)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [24, 6, 6]


def test_size_scales_to_cover_and_cuts_around_the_centre(tmp_path):
    root = folder(tmp_path)
    wide = Image.new("RGB", (40, 20), (100, 0, 0))
    wide.paste((101, 9, 9), (10, 0, 30, 20))
    wide.save(root / "test" / "emu" / "00.png")
    image = load("images", str(root), size=10).test.inputs[4]
    assert image.shape == (3, 10, 10)
    assert (image[0, :, 1:-1] == 101).all()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_gray_and_colours(mode, channels, tmp_path):
    root = str(folder(tmp_path, mode=mode))
    if mode == "RGB" and channels == 1:
        with pytest.raises(ValueError, match=r"00\.png: wanted a gray image.*got RGB"):
            load("images", root, channels=channels)
    else:
        check(load("images", root, channels=channels).train, (channels or (1 if mode == "L" else 3), 6, 8))


def test_a_source_is_found_below_the_root_in_either_layout(tmp_path):
    names = [f"class{index}" for index in range(10)]
    for part in ("train", "val"):
        for label, name in enumerate(names):
            (tmp_path / "imagenette" / part / name).mkdir(parents=True)
            for index in range(2):
                picture(0, label + 100 * index).save(tmp_path / "imagenette" / part / name / f"{index}.png")
    assert load("imagenette", str(tmp_path), validation=10).classes == 10
    parquet(tmp_path / "cifar10")
    with pytest.raises(ValueError, match="wanted the 10 classes of 'cifar10', got 3"):
        load("cifar10", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"'cifar100': wanted \S*cifar100\S*; .*uoft-cs/cifar100"):
        load("cifar100", str(tmp_path))


# what is refused


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_a_damaged_image_is_named(name, stream, tmp_path):
    torch.manual_seed(0)
    noise = encoded(Image.fromarray(torch.randint(0, 255, (6, 8, 3), dtype=torch.uint8).numpy()))
    root = MAKERS[name](tmp_path)
    for content, match in ((noise[: len(noise) // 2], "damaged"), (b"no image", "not an image that Pillow can read")):
        if name == "images":
            (root / "train" / "dog" / "04.png").write_bytes(content)
            where = r"train/dog/04\.png"
        else:
            path = root / "data" / "train-00001-of-00002.parquet"
            table = pq.read_table(path)
            values = table["img"].to_pylist()
            values[7]["bytes"] = content
            pq.write_table(table.set_column(0, "img", pa.array(values)), path)
            where = r"train-00001-of-00002\S*, row 7"
        with pytest.raises(ValueError, match=rf"{where}: .*{match}"):
            check(load(name, str(root), stream=stream, validation=3).train)


def test_an_image_of_another_size_is_named(tmp_path):
    root = folder(tmp_path)
    picture(1, 4, size=(9, 6)).save(root / "train" / "dog" / "04.png")
    with pytest.raises(
        ValueError, match=r"dog/04\.png: wanted 8 x 6 pixels as the first image has, got 9 x 6; set size="
    ):
        load("images", str(root))


def test_a_missing_class_is_named(tmp_path):
    root = folder(tmp_path)
    for path in (root / "test" / "dog").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"test/dog: wanted images of class 'dog', got an empty folder"):
        load("images", str(root))
    (root / "test" / "dog").rmdir()
    with pytest.raises(ValueError, match="wanted a folder for each class as in train, but dog is in one of them only"):
        load("images", str(root))


def test_a_class_without_rows_is_named(tmp_path):
    root = parquet(tmp_path, (("train", 2), ("test", 6)))
    with pytest.raises(ValueError, match=r"training samples of all 3 classes, got none of .*2 \(emu\)"):
        load("parquet", str(root), validation=1)


def test_a_wrong_folder_says_what_is_there(tmp_path):
    (tmp_path / "holiday").mkdir()
    for name in MAKERS:
        with pytest.raises(FileNotFoundError, match="holds holiday"):
            load(name, str(tmp_path))
        with pytest.raises(ValueError, match="needs its own folder"):
            load(name)
    (tmp_path / "train" / "cat").mkdir(parents=True)
    picture(0, 0).save(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(FileNotFoundError, match="wanted a split 'test', got train"):
        load("images", str(tmp_path))


def test_options_that_do_not_fit_are_refused(tmp_path):
    root = str(folder(tmp_path))
    for options, match in (
        ({"size": 0}, "size must be at least 1"),
        ({"channels": 2}, "channels must be 1"),
        ({"label": "x"}, "options of Parquet files"),
        ({"validation": 40}, "a count from 1 to 29, got 40"),
    ):
        with pytest.raises(ValueError, match=match):
            load("images", root, **options)


def test_columns_are_found_by_type_or_chosen(tmp_path):
    root = parquet(tmp_path, label="kind", extra=("coarse",))
    with pytest.raises(
        ValueError, match=r"one column of integers \(label=\), got several; .*kind \(int64\), .*coarse \(int64\)"
    ):
        load("parquet", str(root))
    with pytest.raises(ValueError, match=r"got fine; there are img \(.*\), kind \(int64\), coarse \(int64\)"):
        load("parquet", str(root), label="fine")
    assert load("parquet", str(root), label="coarse").classes == 2
    data = load("parquet", str(root), label="kind", image="img")
    assert data.class_names == ("cat", "dog", "emu")


def test_a_column_called_label_is_not_passed_over_for_another(tmp_path):
    root = parquet(tmp_path, label="view")
    for path in (root / "data").iterdir():
        table = pq.read_table(path)
        texts = pa.array([NAMES[each] for each in table["view"].to_pylist()])
        pq.write_table(table.append_column("label", texts), path)
    with pytest.raises(
        ValueError, match=r"integers \(label=\), got label, which is string; there are .*view \(int64\)"
    ):
        load("parquet", str(root))
    assert load("parquet", str(root), label="view").classes == 3


def test_labels_that_count_something_else_are_refused_at_once(tmp_path):
    root = parquet(tmp_path)
    path = root / "data" / "train-00000-of-00002.parquet"
    table = pq.read_table(path)
    far = pa.array([0, 10**9] + [1] * (len(table) - 2))
    pq.write_table(table.set_column(1, "label", far), path)
    with pytest.raises(
        ValueError, match="wanted training samples of all 1000000001 classes of 'label', got 30 samples"
    ):
        load("parquet", str(root))


def test_missing_shards_several_configurations_and_damaged_files_are_named(tmp_path):
    root = parquet(tmp_path)
    shard = root / "data" / "train-00001-of-00002.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"train-00001-of-00002\.parquet: not a Parquet file, or not the whole of one"):
        load("parquet", str(root))
    shard.unlink()
    with pytest.raises(ValueError, match="wanted 2 files of 'train', got 1"):
        load("parquet", str(root))
    shard.write_bytes(whole)
    parquet(root, where="full")
    with pytest.raises(ValueError, match=r"'test' lie in 2 folders \(data, full\)|'train' lie in 2 folders"):
        load("parquet", str(root))


def test_rows_without_label_or_image_are_named(tmp_path):
    root = parquet(tmp_path)
    path = root / "data" / "test-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "label", pa.array([None, 1, 2, 0, 1, 2])), path)
    with pytest.raises(ValueError, match="test-00000.*wanted a label in every row, got 1 rows without"):
        load("parquet", str(root))
    pq.write_table(table.set_column(0, "img", pa.array([None] * 6, table.schema.field(0).type)), path)
    with pytest.raises(ValueError, match="test-00000.*, row 0: wanted an image, got none"):
        load("parquet", str(root))
    pq.write_table(table.drop_columns(["img"]), path)
    with pytest.raises(ValueError, match=r"test-00000.*wanted one column of encoded images \(image=\), got img"):
        load("parquet", str(root))


def written(path, names=NAMES, kind=None, **metadata):
    """The file anew, with other class names or a label column of another type."""
    table = pq.read_table(path)
    if kind is not None:
        table = table.set_column(1, "label", table["label"].cast(kind))
    hub = {"info": {"features": {"label": {"names": names}}}} if names else {}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(hub), **metadata}), path)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("file", ["test-00000-of-00001", "train-00001-of-00002", "train-00000-of-00002"])
def test_files_that_disagree_about_the_classes_are_refused(file, stream, tmp_path):
    root = parquet(tmp_path)
    path = root / "data" / f"{file}.parquet"
    for names, said in (
        (["dog", "cat", "emu"], "wanted class 0 to be '(cat|dog)' as in .*, got '(dog|cat)'"),
        ([*NAMES, "fox"], "wanted class 3 to be (None|'fox') as in .*, got ('fox'|None)"),
        (NAMES[:2], "wanted class 2 to be ('emu'|None) as in .*, got (None|'emu')"),
    ):
        written(path, names)
        with pytest.raises(ValueError, match=rf"-0000\d-of-0000\d\.parquet: {said}"):
            load("parquet", str(root), stream=stream)
    written(path, None)  # it tells nothing
    assert load("parquet", str(root), stream=stream).class_names == tuple(NAMES)
    written(path, class_names=json.dumps(NAMES))
    load("parquet", str(root), stream=stream)


@pytest.mark.parametrize("file", ["test-00000-of-00001", "train-00001-of-00002"])
def test_labels_of_another_type_in_one_file_are_refused(file, tmp_path):
    root = parquet(tmp_path)
    path = root / "data" / f"{file}.parquet"
    written(path, kind=pa.int8())
    check(load("parquet", str(root)).train)
    for kind in (pa.float64(), pa.string()):
        written(path, kind=kind)
        with pytest.raises(ValueError, match=rf"{file}\.parquet: wanted one column of integers \(label=\), got label"):
            load("parquet", str(root))


def test_images_may_be_written_in_several_ways(tmp_path):
    root = parquet(tmp_path)
    path = root / "data" / "train-00001-of-00002.parquet"
    table = pq.read_table(path)
    content = [value["bytes"] for value in table["img"].to_pylist()]
    pq.write_table(table.set_column(0, "img", pa.array(content, pa.large_binary())), path)
    check(load("parquet", str(root)).train)
    check(load("parquet", str(root), stream=True).train)


def test_damaged_metadata_are_named(tmp_path):
    root = parquet(tmp_path)
    path = root / "data" / "test-00000-of-00001.parquet"
    for metadata in ({"huggingface": "{"}, {"huggingface": '{"info": []}'}, {"class_names": '["cat", '}):
        pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
        with pytest.raises(
            ValueError, match=r"test-00000-of-00001\.parquet: its metadata of the class names are damaged"
        ):
            load("parquet", str(root))


def test_a_split_under_two_names_is_refused(tmp_path):
    root = folder(tmp_path / "images", "val")
    (root / "validation" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="wanted one folder a split, got train, validation, val"):
        load("images", str(root))
    root = parquet(tmp_path / "parquet", (("train", 9), ("val", 3), ("validation", 3)))
    with pytest.raises(ValueError, match="wanted files of 'validation' of one name, got val, validation"):
        load("parquet", str(root))


def test_hidden_folders_are_no_classes(tmp_path):
    root = folder(tmp_path)
    (root / "train" / ".thumbnails").mkdir()
    assert load("images", str(root)).classes == 3


def test_classes_of_image_folders_must_agree(tmp_path):
    root = folder(tmp_path)
    (root / "test" / "emu").rename(root / "test" / "ape")
    with pytest.raises(ValueError, match="test: wanted a folder for each class as in train, but ape, emu is in one of"):
        load("images", str(root))


def test_files_of_no_split_are_not_taken_for_one(tmp_path):
    root = parquet(tmp_path, (("training", 15), ("test", 6)))
    with pytest.raises(FileNotFoundError, match="wanted Parquet files of a split 'train', got test"):
        load("parquet", str(root))


def test_secret_test_labels_are_left_out(tmp_path):
    root = parquet(tmp_path, (("train", 15), ("validation", 6), ("test", 6)))
    path = root / "data" / "test-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "label", pa.array([-1] * 6)), path)
    data = load("parquet", str(root), validation=3)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [12, 3, 6]


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    root = str(parquet(tmp_path))
    found = importlib.import_module

    def absent(name):
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(name)
        return found(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"needs pyarrow, which is not installed: pip install rheobase\[data\]"):
        load("parquet", root)


# streaming


@pytest.fixture(params=MAKERS)
def streamed(request, tmp_path):
    return load(request.param, str(MAKERS[request.param](tmp_path)), stream=True, validation=3)


def batches(data, split="train", **options):
    moved = Augmentation(shift=2, flip=True)
    fixed = {"batch_size": 8, "mean": data.mean, "std": data.std, "seed": 1, "augmentation": moved}
    return Batches(getattr(data, split), **{**fixed, **options})


def test_a_streamed_set_gives_the_batches_of_the_same_set_in_memory(tmp_path):
    root = str(folder(tmp_path))
    first, second = (load("images", root, stream=stream, validation=3) for stream in (True, False))
    for a, b in zip(batches(first), batches(second), strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.labels, b.labels)


def test_workers_change_nothing(streamed):
    reference = batches(streamed)
    ahead = batches(streamed, workers=2)
    state = torch.get_rng_state()
    for _ in range(2):  # two epochs, with the same processes
        for a, b in zip(reference, ahead, strict=True):
            assert torch.equal(a.inputs, b.inputs)
            assert torch.equal(a.labels, b.labels)
    next(iter(ahead))  # an epoch that is left midway, then one from a place
    ahead.seek(5, 2)
    assert torch.equal(next(iter(ahead)).inputs, reference.batch(5, 2).inputs)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 1])
def test_iterators_are_independent(workers, tmp_path):
    data = load("parquet", str(parquet(tmp_path)), stream=True, validation=3)
    ahead, reference = batches(data, workers=workers), batches(data)
    first = iter(ahead)
    next(first)
    ahead.seek(3)
    second = iter(ahead)
    next(second)
    ahead.epoch = 0
    for index in (1, 2, 3):
        for epoch, iterator in ((0, first), (3, second)):
            want, got = reference.batch(epoch, index), next(iterator)
            assert torch.equal(got.inputs, want.inputs)
            assert torch.equal(got.labels, want.labels)
            assert ahead.state_dict() == (
                {"epoch": epoch, "batch": index + 1} if index < 3 else {"epoch": epoch + 1, "batch": 0}
            )
    assert [next(iterator, None) for iterator in (first, second)] == [None, None]


def test_a_worker_names_what_is_damaged(tmp_path):
    root = folder(tmp_path)
    data = load("images", str(root), stream=True, validation=3)
    (root / "train" / "emu" / "04.png").write_bytes(b"gone")
    with pytest.raises(ValueError, match=r"emu/04\.png: not an image"):
        list(batches(data, workers=1))


def test_a_streamed_table_is_rewritten_once_and_opened_a_row_at_a_time(tmp_path, monkeypatch):
    root, cache = parquet(tmp_path / "set"), tmp_path / "cache"
    load("parquet", str(root), stream=True, cache=str(cache))
    made = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(made) == 3
    load("parquet", str(root), stream=True, cache=str(cache))
    assert made == {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    os.utime(root / "data" / "test-00000-of-00001.parquet", ns=(1, 1))
    load("parquet", str(root), stream=True, cache=str(cache))
    assert len(list(cache.iterdir())) == 4
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="rewritten once, but .*file cannot be written: set cache="):
        load("parquet", str(root), stream=True, cache=str(tmp_path / "file"))


def test_a_part_of_a_streamed_set_reads_nothing(streamed, monkeypatch):
    monkeypatch.setattr(Pictures, "__getitems__", None)
    small = streamed.limited(6)
    assert small.train.labels.bincount().tolist() == [2, 2, 2]
