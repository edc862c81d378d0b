"""The page of a run."""

import base64
import io
import json
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

import rheobase as rb
from rheobase import cli
from rheobase.report import write
from rheobase.training import evaluate, resume


class Page(HTMLParser):
    """What a browser would make of it: text by heading, pictures, and what it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.open, self.heading, self.text, self.pictures, self.fetched = [], "", {}, [], []
        self.feed(text)
        assert not self.open, "every tag is closed"

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href"):
                kind, found, content = value.partition(";base64,")
                (self.pictures if found else self.fetched).append((kind, content))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.heading = data
        self.text[self.heading] = self.text.get(self.heading, "") + data + "\n"


@pytest.fixture
def page():
    def read(path):
        found = Page(path.read_text())
        assert found.fetched == []
        for kind, content in found.pictures:
            content = base64.b64decode(content)
            if kind == "data:image/png":
                Image.open(io.BytesIO(content)).load()
            else:
                assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
        return found

    return read


def files(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "report.html"}


def test_it_tells_what_there_is(tiny, page, capsys):
    run = rb.train("digits", **tiny)
    before, drawn = files(run.folder), torch.get_rng_state()
    cli.main(["report", str(run.folder), "--samples", "40"])
    assert capsys.readouterr().out.splitlines()[-1] == str(run.folder / "report.html")
    assert files(run.folder) == before, "and no look at the test set is noted"
    assert torch.equal(torch.get_rng_state(), drawn)
    found = page(run.folder / "report.html")
    sections = [
        "Training",
        "Accuracy against time steps",
        "Signal health",
        "Spikes",
        "Energy, estimated",
        "What it ran as",
    ]
    assert list(found.text) == ["", "plain_convnet on digits", *sections]
    assert len(found.pictures) == 4
    told = found.text["plain_convnet on digits"]
    for split in ("test", "validation"):
        assert f"{split} accuracy {run.summary[f'{split}_accuracy']:.2%}" in told
    assert f"(epoch {run.summary['best_epoch']}); seed 0" in told
    accuracy = found.text["Accuracy against time steps"].split()
    for steps, share in evaluate(run.folder).items():
        assert accuracy[accuracy.index(str(steps)) + 1] == f"{share:.2%}"
    health = found.text["Signal health"]
    assert "of 40 validation samples" in health
    assert all(layer["layer"] in health for layer in run.summary["layers"])
    assert "The spiking net costs" in found.text["Energy, estimated"]
    assert run.summary["machine"]["cpu"] in found.text["What it ran as"]
    assert "optimizer.lr\n0.01\n" in found.text["What it ran as"]


def test_of_a_run_that_is_not_finished_and_elsewhere(tiny, page, tmp_path, stopping):
    with stopping(13):
        rb.train("digits", **tiny)
    where = write(tiny["run"], tmp_path / "a page.html")
    assert where == tmp_path / "a page.html"
    told = page(where).text["plain_convnet on digits"]
    assert "test accuracy" not in told
    assert "not finished: 2 of 3 epochs" in told
    assert resume(tiny["run"]).summary["best_epoch"] >= 1
    assert "test accuracy" in page(write(tiny["run"])).text["plain_convnet on digits"]


def test_of_an_ann(tiny, page):
    run = rb.train("digits", **{**tiny, "model.spiking": False})
    found = page(write(run.folder))
    assert "It has no neurons" in found.text["Training"]
    assert len(found.pictures) == 1


class Own(torch.nn.Module):
    """A net of the user's, for sequences."""

    def __init__(self):
        super().__init__()
        self.a = rb.PerStep(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 12)))
        self.fire = rb.Fire(rb.CurrentNorm(12), rb.LIF(0.8))
        self.b = rb.PerStep(torch.nn.Linear(12, 2))

    def forward(self, x):
        return self.b(self.fire(self.a(x)))


def test_of_data_and_a_model_of_ones_own(tiny, page):
    generator = torch.Generator().manual_seed(0)
    labels, inputs = torch.arange(96) % 2, torch.rand(96, 6, 8, 1, 1, generator=generator)
    inputs[:, :, :4] += labels.view(-1, 1, 1, 1, 1)
    split = rb.data.Split(inputs, labels, torch.randint(3, 7, (96,), generator=generator))
    data = rb.data.Dataset.of("made & <b>", 2, *(split.at(torch.arange(i, 96, 3)) for i in range(3)))
    given = {key: value for key, value in tiny.items() if key.split(".")[0] not in ("model", "data")}
    run = rb.train("digits", **given, **{"data.batch_size": 8, "data.shift": 0}, data=data, model=Own())
    found = page(write(run.folder, data=data, model=Own()))
    [heading] = [each for each in found.text if each.endswith("made & <b>")]
    assert f"{run.summary['test_accuracy']:.2%}" in found.text[heading]
    assert len(found.pictures) == 4
    assert found.text["Accuracy against time steps"].split().count("6") == 1


def test_what_it_cannot_tell_is_refused(tiny, tmp_path, fails):
    assert "no run in" in fails("report", str(tmp_path))
    rb.train("digits", **tiny)
    assert f"there is no folder {tmp_path}/none for a.html" in fails(
        "report", tiny["run"], "--out", f"{tmp_path}/none/a.html"
    )
    assert "samples must be at least 2, got 1" in fails("report", tiny["run"], "--samples", "1")
    summary = tmp_path / "run" / "summary.json"
    summary.write_text(json.dumps({"test_accuracy": 1}))
    assert "summary.json is damaged" in fails("report", tiny["run"])
    assert not (tmp_path / "run" / "report.html").exists()
    (tmp_path / "run" / "checkpoints" / "best.safetensors").unlink()
    summary.unlink()
    assert "has no best model yet" in fails("report", tiny["run"])
