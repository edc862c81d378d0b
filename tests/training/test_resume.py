import signal
from pathlib import Path

import pytest
import torch

import rheobase as rb
from rheobase.training import evaluate, keeper, loop, resume, runs


class Stop(Exception):
    """Stands for whatever ends a process."""


def stop_at(monkeypatch, owner, name, when):
    """Let `owner.name` raise Stop in the calls where when(self, ...) holds."""
    original = getattr(owner, name)

    def stopping(*arguments, **options):
        if when(*arguments):
            raise Stop
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, stopping)


def interrupted(tiny, monkeypatch, *trap):
    """A run that is stopped by the trap; the trap is gone afterwards."""
    with monkeypatch.context() as patch:
        stop_at(patch, *trap)
        try:
            rb.train("digits", **tiny)
        except Stop:
            return
    raise AssertionError("the trap was never reached")


def same(run, reference, rows):
    for key in ("weights_sha256", "test_accuracy", "validation_accuracy", "best_epoch", "layers"):
        assert run.summary[key] == reference.summary[key], key
    assert rows(run.folder) == rows(reference.folder)
    best, wanted = (rb.load(r.folder / "checkpoints" / "best.safetensors").state_dict() for r in (run, reference))
    assert all(torch.equal(best[name], wanted[name]) for name in wanted)


def reference(tiny, tmp_path):
    return rb.train("digits", **{**tiny, "run": str(tmp_path / "reference")})


def test_from_every_step(tiny, tmp_path, rows, monkeypatch, capsys):
    whole = reference(tiny, tmp_path)
    for step in (0, 1, 2, 5, 6, 7, 11, 17):
        options = {**tiny, "run": str(tmp_path / f"stopped-{step}")}
        interrupted(options, monkeypatch, loop.Training, "train_on", lambda self, *_, step=step: self.step == step)
        capsys.readouterr()
        run = resume(options["run"])
        same(run, whole, rows)
        said = capsys.readouterr().out
        # checkpoints: after step 1, every second step from there, and after each epoch
        saved = {0: 0, 1: 1, 2: 1, 5: 5, 6: 6, 7: 6, 11: 10, 17: 16}[step]
        assert (f"continuing after step {saved} " in said) if saved else ("starting from the beginning" in said)


def test_again_and_again(tiny, tmp_path, rows, monkeypatch):
    whole = reference(tiny, tmp_path)
    interrupted(tiny, monkeypatch, loop.Training, "train_on", lambda self, *_: self.step == 4)
    for step in (8, 9, 15):
        with monkeypatch.context() as patch:
            stop_at(patch, loop.Training, "train_on", lambda self, *_, step=step: self.step == step)
            try:
                resume(tiny["run"])
            except Stop:
                continue
            raise AssertionError("the trap was never reached")
    same(resume(tiny["run"]), whole, rows)


def test_validation_is_neither_skipped_nor_run_twice(tiny, tmp_path, rows, monkeypatch):
    whole = reference(tiny, tmp_path)
    interrupted(tiny, monkeypatch, loop.Training, "validate", lambda self, *_: self.journal.epoch == 1)
    validated = []
    validate = loop.Training.validate
    monkeypatch.setattr(
        loop.Training, "validate", lambda self: (validated.append(self.journal.epoch), validate(self))[1]
    )
    same(resume(tiny["run"]), whole, rows)
    assert validated == [1, 2]


def test_between_the_checkpoint_of_an_epoch_and_its_files(tiny, tmp_path, rows, monkeypatch):
    whole = reference(tiny, tmp_path)
    # the last epoch's checkpoint is there, its row and best model are not
    interrupted(tiny, monkeypatch, keeper, "write_atomic", lambda path, _: path.name == "metrics.csv" and len(_) > 300)
    same(resume(tiny["run"]), whole, rows)


def test_rows_after_the_checkpoint_are_dropped(tiny, tmp_path, rows, monkeypatch):
    whole = reference(tiny, tmp_path)
    interrupted(tiny, monkeypatch, loop.Training, "train_on", lambda self, *_: self.step == 8)
    metrics = tmp_path / "run" / "metrics.csv"
    metrics.write_text(metrics.read_text() + "2,12,0,0,0,0,0,0,0\n")
    (tmp_path / "run" / "checkpoints" / "best.safetensors").write_bytes(b"of an epoch that never was")
    same(resume(tiny["run"]), whole, rows)


def test_during_the_final_test(tiny, tmp_path, rows, monkeypatch):
    whole = reference(tiny, tmp_path)
    interrupted(tiny, monkeypatch, runs, "accuracies", lambda *_: True)
    assert not (tmp_path / "run" / "summary.json").exists()
    calls = []
    measure = runs.accuracies
    monkeypatch.setattr(runs, "accuracies", lambda *a, **k: (calls.append(a), measure(*a, **k))[1])
    same(resume(tiny["run"]), whole, rows)
    assert len(calls) == 1


def test_time_is_summed_over_resumes(tiny, monkeypatch):
    interrupted(tiny, monkeypatch, loop.Training, "train_on", lambda self, *_: self.step == 12)
    state = torch.load(tiny["run"] + "/checkpoints/last.ckpt", weights_only=True)
    before = state["journal"]["seconds"]
    assert before > 0
    assert resume(tiny["run"]).summary["train_seconds"] > before


def signalled(monkeypatch, owner, name, number, when, count=1):
    """Let the process get a signal, `count` times, in the first call of `owner.name` where when(self) holds."""
    original, left = getattr(owner, name), [number] * count

    def signalling(*arguments, **options):
        if when(*arguments):
            while left:
                signal.raise_signal(left.pop())
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, signalling)


ENDS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]


@pytest.fixture
def ctrl_c():
    """Python's own handling of Ctrl-C, which a job in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "a run leaves handlers as they were"
    signal.signal(signal.SIGINT, before)


def position(tiny):
    journal = torch.load(tiny["run"] + "/checkpoints/last.ckpt", weights_only=True)["journal"]
    return journal["epoch"], journal["batch"]


@pytest.mark.parametrize(("number", "error"), ENDS)
@pytest.mark.parametrize(
    ("name", "step", "saved"),
    [
        ("train_on", 8, (1, 3)),
        ("train_on", 11, (2, 0)),  # the last batch of an epoch: its validation comes first
        ("validate", 12, (2, 0)),
        ("train_on", 17, (3, 0)),
    ],
)
def test_a_polite_end_loses_nothing(tiny, tmp_path, rows, monkeypatch, capfd, ctrl_c, number, error, name, step, saved):
    whole = reference(tiny, tmp_path)
    tiny["trainer.checkpoint_every_steps"] = None
    with monkeypatch.context() as patch:
        signalled(patch, loop.Training, name, number, lambda self, *_: self.step == step)
        with pytest.raises(error) as caught:
            rb.train("digits", **tiny)
    if error is SystemExit:
        assert caught.value.code == 143
    said = capfd.readouterr()
    assert f"stopped; saved after step {6 * saved[0] + saved[1]}; go on with: rheobase resume {tiny['run']}" in said.out
    assert "stopping as soon as the run is saved" in said.err
    assert position(tiny) == saved
    assert len(rows(tmp_path / "run")) == saved[0]
    same(resume(tiny["run"]), whole, rows)


def test_a_second_ctrl_c_stops_at_once(tiny, tmp_path, rows, monkeypatch, capsys, ctrl_c):
    whole = reference(tiny, tmp_path)
    tiny["trainer.checkpoint_every_steps"] = None
    with monkeypatch.context() as patch:
        signalled(patch, loop.Training, "train_on", signal.SIGINT, lambda self, *_: self.step == 8, 2)
        with pytest.raises(KeyboardInterrupt):
            rb.train("digits", **tiny)
    assert "stopped; saved after step 6; go on with" in capsys.readouterr().out
    assert position(tiny) == (1, 0)
    same(resume(tiny["run"]), whole, rows)


def test_a_signal_between_two_lines_of_torch_does_not_leave_gradients_off(tiny, monkeypatch, ctrl_c):
    """As torch.no_grad() begins gradients are off, and nobody is there yet to turn them on again."""

    def caught(*_):
        torch.set_grad_enabled(False)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "accuracies", caught)
        with pytest.raises(KeyboardInterrupt):
            rb.train("digits", **tiny)
    assert torch.is_grad_enabled()


def test_a_second_sigterm_changes_nothing(tiny, monkeypatch):
    with monkeypatch.context() as patch:
        signalled(patch, loop.Training, "train_on", signal.SIGTERM, lambda self, *_: self.step == 8, 2)
        with pytest.raises(SystemExit):
            rb.train("digits", **tiny)
    assert position(tiny) == (1, 3)


@pytest.mark.parametrize(("number", "error"), ENDS)
def test_a_signal_before_and_after_the_training(tiny, tmp_path, rows, monkeypatch, capsys, ctrl_c, number, error):
    whole = reference(tiny, tmp_path)
    for owner, name, step in ((runs, "Training", 0), (runs, "accuracies", 18)):
        with monkeypatch.context() as patch:
            signalled(patch, owner, name, number, lambda *_: True)
            with pytest.raises(error):
                resume(tiny["run"]) if step else rb.train("digits", **tiny)
        assert f"stopped; saved after step {step}; go on with" in capsys.readouterr().out
    same(resume(tiny["run"]), whole, rows)


def test_a_changed_recipe_is_refused(tiny, tmp_path, monkeypatch):
    interrupted(tiny, monkeypatch, loop.Training, "train_on", lambda self, *_: self.step == 4)
    path = Path(tiny["run"]) / "recipe.json"
    path.write_text(path.read_text().replace('"lr": 0.01', '"lr": 0.5'))
    with pytest.raises(ValueError, match="recipe.json is not the recipe that this run began with"):
        resume(tiny["run"])


def test_another_number_of_threads_is_told(tiny, tmp_path, monkeypatch, capsys):
    options = {**tiny, "trainer.threads": None}
    interrupted(options, monkeypatch, loop.Training, "train_on", lambda self, *_: self.step == 4)
    torch.set_num_threads(2)
    try:
        resume(options["run"])
    finally:
        torch.set_num_threads(1)
    assert "began with 1 threads and goes on with 2" in capsys.readouterr().out


def test_the_test_set_is_not_looked_at_before_the_end(tiny, tmp_path, monkeypatch):
    interrupted(tiny, monkeypatch, loop.Training, "train_on", lambda self, *_: self.step == 10)
    with pytest.raises(ValueError, match="is not finished: the test set is for the end of a run"):
        evaluate(tiny["run"], split="test")


def test_a_remainder_of_one_sample_is_left_out(tiny, tmp_path):
    options = {**tiny, "model.name": "plain_mlp", "model.image_size": 8, "data.train_limit": 33, "trainer.epochs": 1}
    assert rb.train("digits", **options).summary["best_epoch"] == 1
