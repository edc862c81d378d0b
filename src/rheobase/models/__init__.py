"""Networks by name: `create("sew_resnet18", classes=10)`; `names()` lists them."""

from rheobase.models import plain, resnet  # noqa: F401  (they register their models)
from rheobase.models.net import Net
from rheobase.models.registry import create, names, register

__all__ = ["Net", "create", "names", "register"]
