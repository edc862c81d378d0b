"""Every Python snippet of README and docs runs as printed; every recipe and figure has its run behind it."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from rheobase.training.sources import load

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = [
    (page.name, number, code)
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S))
]


@pytest.mark.parametrize(("page", "number", "code"), SNIPPETS, ids=[f"{page}-{number}" for page, number, _ in SNIPPETS])
def test_snippets_run(page: str, number: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"{page}[{number}]", "exec"), {"__name__": "__main__"})


def test_there_are_snippets() -> None:
    assert any(page == "README.md" for page, *_ in SNIPPETS)


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
