"""Every snippet of README and docs runs as printed, backward pass included; every recipe and figure has its run."""

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

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
    return [
        Block(page.name, number, words, text)
        for page in PAGES
        for number, (words, text) in enumerate(
            (words, text) for words, text in FENCE.findall(page.read_text()) if words.partition(" ")[0] == kind
        )
    ]


def commands() -> Iterator[str]:
    """The lines of docs that train."""
    for block in blocks(""):
        for line in block.text.splitlines():
            if line.startswith("rheobase train"):
                yield re.split(r"\s+#|\s{3,}", line)[0]


@pytest.mark.parametrize("block", blocks("python"), ids=str)
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # Lightning's, with torch 2.13
def test_snippets_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = block.kind.partition(" needs ")[2]
    if needs:
        assert needs in NOT_OURS
        pytest.importorskip(needs)
    monkeypatch.chdir(tmp_path)
    names, passes = run(block.text, f"{block.page}[{block.number}]", monkeypatch)
    outputs = [value for value in names.values() if isinstance(value, Tensor) and value.grad_fn is not None]
    if outputs and not passes:  # a snippet about the forward pass has a backward pass all the same
        torch.autograd.backward([output.sum() for output in outputs])


def run(code: str, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], list[None]]:
    """The names that code leaves, and an entry for each backward pass that it made."""
    names: dict[str, Any] = {"__name__": "__main__"}
    passes: list[None] = []
    for function in ("backward", "grad"):

        def noted(*args: Any, _of: Any = getattr(torch.autograd, function), **options: Any) -> Any:
            passes.append(None)
            return _of(*args, **options)

        monkeypatch.setattr(torch.autograd, function, noted)
    exec(compile(code, name, "exec"), names)
    return names, passes


def test_there_are_snippets() -> None:
    assert any(block.page == "README.md" for block in blocks("python"))


def test_a_backward_pass_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import torch\nx = torch.ones(2, requires_grad=True)\ny = x.exp()\n"
    assert run(code, "", monkeypatch)[1] == []
    assert run(code + "y.sum().backward()", "", monkeypatch)[1]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_name_keys_that_there_are(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").touch()
    words = shlex.split(command)[2:]
    if "--help" in words:
        with pytest.raises(SystemExit):
            from_arguments(words)
    else:
        from_arguments(words)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_recipes_in_docs_are_recipes(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(block.text)
    load(path)


def test_readme_leads_to_every_page() -> None:
    readme = PAGES[0].read_text()
    assert not [page.name for page in PAGES[1:] if f"docs/{page.name}" not in readme]


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_recipes_result_is_that_of_its_committed_runs(recipe: Path) -> None:
    """A head line `# Result: 98.7 % ...` must be the mean of the test accuracies in results/<recipe>-*/summary.json."""
    result = re.search(r"^# Result: +(.*)$", recipe.read_text(), flags=re.M)
    assert result, f"{recipe.name} has no line '# Result:'"
    if result[1].startswith("not measured"):
        return
    runs = sorted((ROOT / "results").glob(f"{recipe.stem}-*/summary.json"))
    assert runs, f"{recipe.name} tells a result, and results/ holds no run of it"
    summaries = [json.loads(run.read_text()) for run in runs]
    for summary in summaries:
        assert load(recipe, {"seed": summary["seed"]}).sha256 == summary["recipe_sha256"], (
            "the run is of another recipe"
        )
    accuracies = [summary["test_accuracy"] for summary in summaries]
    told = float(re.match(r"([\d.]+) %", result[1])[1])
    assert told == pytest.approx(100 * sum(accuracies) / len(accuracies), abs=0.005)


def test_speed_tells_what_was_measured() -> None:
    """Its tables are those that benchmarks/tables.py makes of the samples."""
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    page = (ROOT / "docs" / "speed.md").read_text()
    assert set(re.findall(r"<!-- (\w+) -->", page)) == set(tables.MAKERS)
    assert tables.filled(page) == page
