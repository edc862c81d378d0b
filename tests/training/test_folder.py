import contextlib
import json
import subprocess
import sys
import threading

import pytest

from rheobase.training import Recipe, resume
from rheobase.training.folder import RunFolder
from rheobase.training.recipe import DataOptions


def test_default_names_never_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [RunFolder.create(Recipe(seed=9), "digits").path for _ in range(3)]
    assert len({*folders}) == 3
    assert all(folder.parent.name == "runs" and folder.name.startswith("digits-") for folder in folders)


def test_run_must_be_empty_or_absent(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "deep/absent"):
        assert RunFolder.create(Recipe(run=str(tmp_path / name)), "x").recipe.is_file()
        with pytest.raises(FileExistsError, match="must be empty or absent; continue a run with `rheobase resume"):
            RunFolder.create(Recipe(run=str(tmp_path / name)), "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="must be empty or absent"):
        RunFolder.create(Recipe(run=str(tmp_path / "file")), "x")


def test_of_several_that_want_one_folder_at_once_one_gets_it(tmp_path):
    for number in range(20):
        barrier, got = threading.Barrier(8), []

        def want(number=number, barrier=barrier, got=got):
            barrier.wait()
            with contextlib.suppress(FileExistsError):
                got.append(RunFolder.create(Recipe(run=str(tmp_path / str(number))), "x"))

        threads = [threading.Thread(target=want) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1


def test_the_recipe_in_the_folder_does_not_say_where_it_ran(tmp_path):
    folder = RunFolder.create(Recipe(seed=2, run=str(tmp_path / "a")), "x")
    assert folder.read_recipe() == Recipe(seed=2)


def test_the_recipe_in_the_folder_finds_its_data_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(run="a", data=DataOptions(root="data"))
    folder = RunFolder.create(recipe, "x")
    assert folder.read_recipe().data.root == str(tmp_path / "data")
    assert folder.read_recipe().sha256 == recipe.sha256


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run in .*: there is no .*recipe\.json"):
        RunFolder.open(tmp_path)


def test_a_recipe_of_another_version_names_file_and_key(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({"model": {"wings": 2}}))
    with pytest.raises(ValueError, match=r"recipe\.json: unknown key 'model\.wings'"):
        RunFolder.open(tmp_path).read_recipe()


HOLDER = """
import sys, time
from rheobase.training.folder import RunFolder
with RunFolder.open(sys.argv[1]).locked():
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no lock there")
def test_two_do_not_train_in_one_folder_and_a_kill_leaves_no_lock(tmp_path):
    folder = RunFolder.create(Recipe(run=str(tmp_path / "a")), "x")
    (folder.path / ".metrics.csv.x1").write_text("the other one's")
    with subprocess.Popen([sys.executable, "-c", HOLDER, folder.path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError, match=r"/a is in use: another process trains there"):
            resume(folder.path)
        assert (folder.path / ".metrics.csv.x1").exists()
        folder.read_recipe()  # who only looks is not kept out
        holder.kill()
    with folder.locked():
        pass
    with folder.locked():
        pass


def test_half_written_files_are_removed(tmp_path):
    folder = RunFolder.create(Recipe(run=str(tmp_path / "a")), "x")
    half = [folder.last.with_name(".last.ckpt.abc"), folder.path / ".metrics.csv.x1"]
    for path in half:
        path.write_text("x")
    kept = folder.path / ".mine"
    kept.write_text("x")
    RunFolder.open(folder.path)
    assert all(path.exists() for path in half), "another process may be writing them"
    RunFolder.open(folder.path).clean()
    assert not any(path.exists() for path in half)
    assert kept.exists()
