"""A file is the old one or the new one, whole."""

import subprocess
import sys
from pathlib import Path

import pytest

from rheobase.files import write_atomic


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_else_of_rheobase_is_below_it() -> None:
    code = "import sys; import rheobase.files; print([name for name in sys.modules if name.startswith('rheobase.')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "['rheobase.files']\n"
