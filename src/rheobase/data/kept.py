"""What takes long to make of many files, kept for the next time."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from rheobase.data.dataset import Split
from rheobase.files import write_atomic

_log = logging.getLogger("rheobase")


def kept(cache: Path, stem: str, how: object, paths: Sequence[Path], make: Callable[[], Split]) -> Split:
    """What `make` makes of just these files in this way (its `repr` tells it): from the cache, or put there.

    Where the cache cannot be written, or is damaged, the logger "rheobase" says so.
    """
    made_from = [(path.parent.name, path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    key = hashlib.blake2b(repr((how, made_from)).encode(), digest_size=8).hexdigest()
    file = cache / f"{stem}-{key}.safetensors"
    if file.is_file():
        try:
            return Split(**load_file(file))
        except SafetensorError as error:
            _log.warning("%s is damaged (%s): it is made anew", file, error)
    split = make()
    tensors = {"inputs": split.inputs, "labels": split.labels, "lengths": split.lengths}
    try:
        write_atomic(file, save({name: tensor for name, tensor in tensors.items() if tensor is not None}))
    except OSError as error:
        _log.warning("it is kept in memory only: %s cannot be written (%s)", file, error)
    return split
