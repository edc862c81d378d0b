import io
import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest
import torch

import rheobase
from rheobase import cli

TINY = [
    "--model.name=plain_convnet",
    "--model.depth=2",
    "--model.width=4",
    "--model.steps=2",
    "--data.train_limit=64",
    "--trainer.epochs=1",
    "--trainer.threads=1",
    "--trainer.accelerator=cpu",
]


def test_train_resume_evaluate(tmp_path, capsys, fails):
    folder = tmp_path / "run"
    cli.main(["train", *TINY, f"--run={folder}"])
    output = capsys.readouterr().out
    summary = json.loads((folder / "summary.json").read_text())
    assert f"test accuracy {summary['test_accuracy']:.2%}" in output
    assert f"run folder    {folder}" in output
    for layer in summary["layers"]:
        [line] = [line for line in output.splitlines() if line.split()[:1] == [layer["layer"]]]
        assert " x ".join(map(str, layer["shape"])) in line
        assert f"{layer['rate']:.1%}" in line
        assert line.rstrip().endswith(f"{layer['dead']:.1%}")
    cli.main(["resume", str(folder)])
    assert "is finished" in capsys.readouterr().out
    cli.main(["evaluate", str(folder), "--steps", "1", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "steps  validation accuracy"
    assert lines[2].split() == ["2", f"{summary['validation_accuracy']:.2%}"]
    cli.main(["evaluate", str(folder), "--steps", "1", "2", "--plot", str(tmp_path / "steps.png")])
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")
    assert "a figure must end in one of" in fails("evaluate", str(folder), "--plot", str(tmp_path / "steps.doc"))
    look = ["--split", "test", "--plot", str(tmp_path / "missing" / "steps.png")]
    assert "there is no folder" in fails("evaluate", str(folder), *look)
    cli.main(["evaluate", str(folder), "--split", "test", "--steps", "2"])
    assert "look number 1 at the test set" in capsys.readouterr().out


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    cli.main(["train", *TINY, f"--run={folder}"])
    return folder


@pytest.mark.parametrize(
    ("command", "name", "match"),
    [
        ("resume", "checkpoints/last.ckpt", "put back a copy, or remove it"),
        ("resume", "summary.json", "remove it, and `rheobase resume` writes it again"),
        ("resume", "recipe.json", "put back the recipe that the run began with"),
        ("evaluate", "recipe.json", "put back the recipe that the run began with"),
        ("evaluate", "summary.json", "remove it, and `rheobase resume` writes it again"),
        ("evaluate", "evaluations.json", "mend it or move it away"),
    ],
)
@pytest.mark.parametrize("damage", ["nothing", "half", "noise", "another"])
def test_a_damaged_file_is_named_with_what_to_do(finished, tmp_path, fails, command, name, match, damage):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    path = folder / name
    if name.endswith("ckpt"):
        (folder / "summary.json").unlink()  # as if the run had stopped just before
    content = path.read_bytes() if path.exists() else b"[1, 2]"
    other = io.BytesIO()
    torch.save({"a": 1}, other)
    another = other.getvalue() if name.endswith("ckpt") else b'"a text"'
    half = content[: len(content) // 2]
    path.write_bytes({"nothing": b"", "half": half, "noise": b"\x80\x01" * 99, "another": another}[damage])
    error = fails(command, str(folder), *(["--split=test"] if command == "evaluate" else []))
    assert error.startswith(f"rheobase: {path}")
    assert match in error
    assert error.count("\n") == 1


def test_the_advice_on_a_damaged_file_holds(finished, tmp_path, capsys):
    wanted = json.loads((finished / "summary.json").read_text())
    for number, lost in enumerate((["summary.json"], ["summary.json", "checkpoints/last.ckpt"])):
        folder = tmp_path / str(number)
        shutil.copytree(finished, folder)
        for name in lost:
            (folder / name).unlink()
        cli.main(["resume", str(folder)])
        assert json.loads((folder / "summary.json").read_text())["weights_sha256"] == wanted["weights_sha256"]


def test_a_summary_without_its_numbers_is_damaged(finished, tmp_path, fails):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text("{}")
    assert "there is no 'test_accuracy' in it" in fails("resume", str(tmp_path / "run"))


@pytest.mark.parametrize("spiking", ["true", "false"])
def test_the_commands_it_names_exist(tmp_path, capsys, monkeypatch, spiking):
    monkeypatch.chdir(tmp_path)
    cli.main(["train", *TINY, "--run=a run", f"--model.spiking={spiking}"])
    named = [
        shlex.split(line.split(" rheobase ")[1])
        for line in capsys.readouterr().out.splitlines()
        if " rheobase " in line
    ]
    assert [words[0] for words in named] == ["evaluate", "resume", "train"]
    for words in named:
        cli.main(words)


def test_recipes_lists_name_and_heading(capsys):
    cli.main(["recipes"])
    output = capsys.readouterr().out
    assert "digits\n" in output
    assert "rheobase train digits" in output
    assert "mnist-convnet\n" in output


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["train", "--model.stps", "3"], "unknown key 'model.stps': did you mean 'model.steps'"),
        (["train", "--model.steps", "two"], "model.steps must be an integer >= 1, got 'two'"),
        (["train", "digit"], "no recipe 'digit': did you mean 'digits'"),
        (["train", "--model.name", "sew_resnet19"], "no model 'sew_resnet19'"),
        (["train", "--data.name", "mnist", "--data.root", "/nowhere"], "wanted /nowhere/mnist/train-images"),
        (["resume", "/nowhere"], "no run in /nowhere"),
        (["evaluate", "/nowhere"], "no run in /nowhere"),
    ],
)
def test_a_mistake_is_one_line(fails, words, match):
    error = fails(*words)
    assert match in error
    assert error.startswith("rheobase: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["trian"], ["resume"], ["evaluate", "x", "--steps", "a"], ["recipes", "x"]])
def test_bad_usage(fails, words):
    assert "usage: rheobase" in fails(*words)


def test_a_run_folder_in_use_is_refused(tmp_path, fails):
    (tmp_path / "mine").write_text("x")
    assert "must be empty or absent" in fails("train", *TINY, f"--run={tmp_path}")


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    def broken(arguments):
        int("x")  # raised by a line of this test, not of rheobase

    monkeypatch.setitem(cli.COMMANDS, "recipes", broken)
    with pytest.raises(ValueError, match="invalid literal"):
        cli.main(["recipes"])


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["resume", "--help"], ["evaluate", "--help"]])
def test_help(capsys, words):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 0
    assert "rheobase" in capsys.readouterr().out


def test_help_of_train_lists_every_key(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    output = capsys.readouterr().out
    assert "--model.neuron.decay" in output
    assert "share of the potential kept" in output


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"rheobase {rheobase.__version__}\n"


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys, rheobase\nfrom rheobase import cli\ncli.main(['recipes'])\n"
        "print([name for name in ('lightning', 'torch', 'rich', 'tensorboard') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("arguments", "left"), [("", "0"), ("['probe', 'x']", str(1 << 20))])
def test_the_command_makes_subnormal_numbers_zero_in_all_threads_and_a_call_of_it_does_not(arguments, left):
    code = (
        "import sys\nfrom rheobase import cli\n"
        "def look(options):\n"
        "    import torch\n"
        "    torch.set_num_threads(2)\n"
        "    print((torch.full((1 << 20,), 1e-40) * 1.0).count_nonzero().item())\n"
        f"cli.COMMANDS['probe'] = look\nsys.argv = ['rheobase', 'probe', 'x']\ncli.main({arguments})\n"
    )
    environment = {**cli.SETTINGS, **os.environ}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.split() == [left]


def test_the_module_is_the_command():
    run = subprocess.run([sys.executable, "-m", "rheobase", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"rheobase {rheobase.__version__}\n"
