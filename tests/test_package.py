"""The package itself: every public name is there, and importing it brings nothing along."""

import subprocess
import sys

import pytest

import rheobase as rb


def test_every_public_name_is_there() -> None:
    assert all(getattr(rb, name) is not None for name in rb.__all__)
    assert set(rb.__all__) <= set(dir(rb))
    assert set(rb._WHERE) == set(rb.__all__)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="'rheobase' has no attribute 'LIFF'"):
        rb.LIFF  # noqa: B018


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, rheobase; print(*{m.split('.')[0] for m in sys.modules} & {'torch', 'numba', 'lightning', 'rich'})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
