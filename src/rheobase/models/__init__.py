"""Networks by name: `create("sew_resnet18", classes=10)`; `names()` lists them, `options(name)` what one takes."""

from rheobase.models import events, plain, resnet, vgg, written  # noqa: F401  (they register their models)
from rheobase.models.family import Family
from rheobase.models.net import Net, Parts
from rheobase.models.registry import create, names, options, register
from rheobase.models.segments import Segmented

__all__ = ["Family", "Net", "Parts", "Segmented", "create", "names", "options", "register"]
