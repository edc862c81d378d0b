"""Every snippet of README and docs runs as printed, backward pass included; every recipe and figure has its run."""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks import mission, tables
from rheobase.models import registry
from rheobase.surrogate import SHAPES
from rheobase.training import Recipe
from rheobase.training.sources import from_arguments, load

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", flags=re.M)
NOT_OURS = {"accelerate": "not among our dependencies: `python needs accelerate` runs where it is installed"}
"""Packages that a snippet may need beside ours, and why."""


class Block(NamedTuple):
    """What stands between two fences."""

    page: str
    number: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


def blocks(kind: str) -> list[Block]:
    """All blocks of this kind, counted in each page."""
    found = []
    for page in PAGES:
        here = [(words, text) for words, text in FENCE.findall(page.read_text()) if words.partition(" ")[0] == kind]
        found += [Block(page.name, number, *block) for number, block in enumerate(here)]
    return found


def sessions() -> list[list[Block]]:
    """The snippets; one that is `python continued` goes on where the one before ended."""
    found: list[list[Block]] = []
    for block in blocks("python"):
        if block.kind == "python continued":
            found[-1].append(block)
        else:
            found.append([block])
    return found


def commands() -> set[str]:
    """The lines of docs that train, without what is said about them."""
    lines = [line for block in blocks("") for line in block.text.splitlines() if line.startswith("rheobase train")]
    return {re.split(r"\s+#|\s{3,}", line)[0] for line in lines}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a snippet makes known is forgotten after it, and its process group is gone."""
    monkeypatch.setattr(registry, "_models", dict(registry._models))
    shapes = dict(SHAPES)
    yield
    SHAPES.clear()
    SHAPES.update(shapes)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("session", sessions(), ids=lambda session: str(session[0]))
@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # Lightning's, with torch 2.13
def test_snippets_run(session: list[Block], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, needs = session[0].kind.partition(" needs ")
    if needs:
        assert needs in NOT_OURS
        pytest.importorskip(needs)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in session:
        run(block.text, str(block), names)


def run(code: str, where: str, names: dict[str, Any]) -> None:
    """Execute code; if it makes no backward pass, make one from the tensors that it leaves."""
    before = dict(names)
    with pytest.MonkeyPatch.context() as patch:
        passes = [watch(patch, name) for name in ("backward", "grad")]
        exec(compile(code, where, "exec"), names)
    left = [value for name, value in names.items() if before.get(name) is not value and isinstance(value, Tensor)]
    outputs = [value.sum() for value in left if value.grad_fn is not None]
    if outputs and not any(passes):
        torch.autograd.backward(outputs)


def watch(patch: pytest.MonkeyPatch, name: str) -> list[None]:
    """An entry for each call of this function of autograd."""
    calls: list[None] = []
    function = getattr(torch.autograd, name)

    def watched(*args: Any, **options: Any) -> Any:
        calls.append(None)
        return function(*args, **options)

    patch.setattr(torch.autograd, name, watched)
    return calls


@pytest.mark.parametrize("end", ["", "y.sum().backward()", "torch.autograd.grad(y.sum(), x)"])
def test_a_snippet_without_backward_pass_gets_one(end: str) -> None:
    names: dict[str, Any] = {}
    run("import torch; x = torch.ones(2, requires_grad=True); y = x.exp()\n" + end, "", names)
    assert (names["x"].grad is None) == ("grad" in end)
    broken = "class No(torch.autograd.Function):\n forward = staticmethod(lambda ctx, x: x.exp())\ny = No.apply(x)"
    with pytest.raises(NotImplementedError):
        run(broken, "", names)


def test_there_are_snippets() -> None:
    bare = {page.name for page in PAGES} - {block.page for block in blocks("python")}
    assert bare == {"decisions.md", "results.md", "speed.md"}


@pytest.mark.parametrize("command", sorted(commands()))
def test_commands_name_keys_that_there_are(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").touch()
    for block in blocks("yaml"):  # ```yaml NAME
        Path(block.kind.split()[1]).write_text(block.text)
    words = shlex.split(command)[2:]
    with pytest.raises(SystemExit) if "--help" in words else nullcontext():
        from_arguments(words)


def test_readme_leads_to_every_page() -> None:
    readme = PAGES[0].read_text()
    assert not [page.name for page in PAGES[1:] if f"docs/{page.name}" not in readme]


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_recipes_result_is_that_of_its_committed_runs(recipe: Path) -> None:
    """A head line `# Result: 98.7 % ...` must be the mean test accuracy of results/<recipe>-<seed>/summary.json."""
    result = re.search(r"^# Result: +(.*)$", recipe.read_text(), flags=re.M)
    assert result, f"{recipe.name} has no line '# Result:'"
    if result[1].startswith("not measured"):
        return
    runs = sorted((ROOT / "results").glob(f"{recipe.stem}-[0-9]*/summary.json"))
    assert runs, f"{recipe.name} tells a result, and results/ holds no run of it"
    summaries = [json.loads(run.read_text()) for run in runs]
    for summary in summaries:
        assert load(recipe, {"seed": summary["seed"]}).sha256 == summary["recipe_sha256"], (
            "the run is of another recipe"
        )
    accuracies = [summary["test_accuracy"] for summary in summaries]
    told = float(re.match(r"([\d.]+) %", result[1])[1])
    assert told == pytest.approx(100 * sum(accuracies) / len(accuracies), abs=0.005)


@pytest.mark.parametrize("run", sorted((ROOT / "results").glob("*/recipe.json")), ids=lambda path: path.parent.name)
def test_a_run_can_be_made_again(run: Path) -> None:
    summary = json.loads((run.parent / "summary.json").read_text())
    assert Recipe.from_json(run.read_text()).sha256 == summary["recipe_sha256"]


def test_results_tell_what_the_runs_say() -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    assert page.count("| `results/") >= 6
    assert mission.filled(page) == page, "run python -m benchmarks.mission"


def test_speed_tells_what_was_measured() -> None:
    """Its tables are those that benchmarks/tables.py makes of the samples."""
    page = (ROOT / "docs" / "speed.md").read_text()
    assert set(re.findall(r"<!-- (\w+) -->", page)) == set(tables.MAKERS)
    assert tables.filled(page) == page
