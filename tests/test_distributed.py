"""Training in several processes is training in one on the joint batch: norms share their statistics.

The processes are this file, run as a script: `python test_distributed.py RANK FOLDER`.
"""

import copy
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import rheobase as rb

SPLIT = (5, 3)
SEEDS = (0, 1, 2)
"""Of these draws one must agree: a potential within rounding of its threshold fires in one case only."""
LENGTHS = torch.tensor([4, 1, 3, 2, 4, 4, 2, 1])
Case = tuple[str, dict[str, Any], str, bool, torch.dtype]
CASES: dict[str, Case] = {
    f"{name}, {engine}, {'fused' if fused else 'unfused'}, {dtype}".replace("torch.", ""): (
        name, options, engine, fused, dtype
    )
    for name, options in (("ms_resnet18", {"start": "plain"}), ("plain_convnet", {"depth": 3}))
    for engine, fused in (("numba", True), ("numba", False), ("reference", False))
    for dtype in (torch.float32, torch.bfloat16)
    if name == "plain_convnet" or dtype is torch.float32
}  # fmt: skip
CASES["tdbn"] = ("spiking_resnet18", {"norm": "tdbn"}, "numba", True, torch.float32)
CASES["tebn"] = ("plain_convnet", {"norm": "tebn"}, "numba", True, torch.float32)
CASES["twin"] = ("plain_convnet", {"spiking": False}, "numba", True, torch.float32)
CASES["padded"] = ("plain_convnet", {}, "numba", True, torch.float32)
CASES["compiled"] = ("plain_convnet", {"depth": 2}, "numba", True, torch.float32)
CASES["converted"] = ("plain_convnet", {}, "numba", True, torch.float32)
CASES["not synchronised"] = ("plain_convnet", {}, "numba", True, torch.float32)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    """Sequences whose statistics differ from sample to sample, and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, sum(SPLIT), 2, 12, 12, generator=generator)
    return x * torch.linspace(0.5, 2, sum(SPLIT)).reshape(-1, 1, 1, 1), torch.randint(
        3, (sum(SPLIT),), generator=generator
    )


def trained(
    case: str, seed: int = 0, own: slice = slice(None), wrap: Callable[[nn.Module], nn.Module] = lambda net: net
) -> dict[str, Any]:
    """Losses, first gradients, and all of the state after some steps, on the `own` part of the batch."""
    name, options, engine, fused, dtype = CASES[case]
    torch.manual_seed(seed)
    net = rb.models.create(name, classes=3, in_channels=2, width=4, **options)
    if case == "not synchronised":
        for module in net.modules():
            if isinstance(module, rb.CurrentNorm):
                module.sync = False
    if case == "converted":
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    model = torch.compile(net, backend="aot_eager") if case == "compiled" and dist.is_initialized() else net
    model = wrap(model)
    optimizer = torch.optim.SGD(net.parameters(), 0.2, momentum=0.9)
    found: dict[str, Any] = {"losses": [], "gradients": {}, "rate": 1.0}
    if net.spiking and not dist.is_initialized():
        once = copy.deepcopy(net)
        with rb.record(once) as tape, torch.no_grad():
            once(batch(10 * seed)[0])
        found["rate"] = min(float(trace.spikes.mean()) for trace in tape.values())
    half = dtype is torch.bfloat16
    for step in range(1 if half else 3):
        x, y = batch(10 * seed + step)
        padding: AbstractContextManager[Any] = rb.padding(LENGTHS[own]) if case == "padded" else nullcontext()
        with rb.engine(engine, fused=fused), padding, torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = rb.readout(model(x[:, own]), LENGTHS[own] if case == "padded" else None)
            share = len(logits) / sum(SPLIT)
            loss = nn.functional.cross_entropy(logits, y[own]) * share
            optimizer.zero_grad()
            (loss * (dist.get_world_size() if dist.is_initialized() else 1)).backward()  # DDP takes the mean
        found["losses"].append(loss.item())
        if step == 0:
            found["gradients"] = {key: p.grad.clone() for key, p in net.named_parameters()}
        optimizer.step()
    with torch.no_grad():
        net.eval()(x[:, own])  # in evaluation nothing is exchanged
    found["state"] = {key: value.clone() for key, value in net.state_dict().items() if value.is_floating_point()}
    return found


def process(rank: int, folder: Path) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    early = rb.CurrentNorm(2)
    compiled = torch.compile(early, backend="eager")
    compiled(batch(0)[0])  # before there is a group, which has to be noticed then
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(SPLIT), timeout=timedelta(seconds=60)
    )
    first = sum(SPLIT[:rank])
    own = slice(first, first + SPLIT[rank])
    found: dict[str, Any] = {
        case: [trained(case, seed, own, DistributedDataParallel) for seed in SEEDS] for case in CASES
    }
    x = batch(0)[0][:, own]
    if rank == 0:  # alone: these would wait for the others
        norm = rb.CurrentNorm(2, sync=False)
        found["local"] = norm(x), rb.CurrentNorm(2).eval()(x)
    norm = rb.CurrentNorm(2)
    found["one value"] = norm(x[:1, :1, :, :1, :1] if rank else x)
    compiled(x)
    found["compiled early"] = early.running_mean
    torch._dynamo.reset()
    try:
        torch.compile(rb.CurrentNorm(2), backend="eager", fullgraph=True)(x)
    except Exception as error:
        found["whole graph"] = str(error)
    try:
        norm(x[:, :0])
    except ValueError as error:
        found["no value"] = str(error)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found."""
    folder = tmp_path_factory.mktemp("processes")
    started = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(len(SPLIT))
    ]
    errors = [one.communicate(timeout=240)[1] for one in started]
    assert not any(one.returncode for one in started), "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(SPLIT))]


def compare(case: str, one: dict[str, Any], a: dict[str, Any], b: dict[str, Any]) -> None:
    """Refuse anything in which two processes differ from one with the joint batch."""
    close = {"rtol": 0.05, "atol": 0.003} if "bfloat16" in case else {"rtol": 1e-3, "atol": 1e-5}
    for key, value in one["state"].items():
        assert torch.equal(a["state"][key], b["state"][key]), key
        torch.testing.assert_close(a["state"][key], value, **close)
    losses = [sum(both) for both in zip(a["losses"], b["losses"], strict=True)]
    torch.testing.assert_close(losses, one["losses"], **close)
    torch.testing.assert_close(a["gradients"], one["gradients"], **close)


@pytest.mark.parametrize("case", [case for case in CASES if case != "not synchronised"])
def test_processes_train_as_one(case: str, found: list[dict[str, Any]]) -> None:
    wrong = []
    for seed in SEEDS:
        one, (a, b) = trained(case, seed), (rank[case][seed] for rank in found)
        assert one["rate"] > 0.02, "silent nets agree about everything"
        try:
            return compare(case, one, a, b)
        except AssertionError as error:
            wrong.append(str(error))
    pytest.fail("\n".join(wrong))


@pytest.mark.parametrize("part", ["state", "losses", "gradients"])
def test_the_comparison_sees_norms_that_do_not_synchronise(part: str, found: list[dict[str, Any]]) -> None:
    for seed in SEEDS:
        one, theirs = trained("not synchronised", seed), [rank["not synchronised"][seed] for rank in found]
        mine = [{**one, "losses": [v / 2 for v in one["losses"]]} for _ in SPLIT]
        compare("not synchronised", one, *mine)  # the net itself compares
        with pytest.raises(AssertionError):
            compare("not synchronised", one, *({**a, part: b[part]} for a, b in zip(mine, theirs, strict=True)))


def test_what_is_not_together_waits_for_nobody(found: list[dict[str, Any]]) -> None:
    x = batch(0)[0][:, : SPLIT[0]]
    training, evaluation = found[0]["local"]
    torch.testing.assert_close(training, rb.CurrentNorm(2)(x))
    torch.testing.assert_close(evaluation, rb.CurrentNorm(2).eval()(x))


def test_small_batches(found: list[dict[str, Any]]) -> None:
    """One value a channel does where other processes have more; none is refused."""
    assert all(rank["one value"].isfinite().all() for rank in found)
    assert all("more than one value a channel" in rank["no value"] for rank in found)


def test_a_group_that_comes_after_compiling_is_noticed(found: list[dict[str, Any]]) -> None:
    assert torch.equal(found[0]["compiled early"], found[1]["compiled early"])


def test_compiled_as_a_whole_it_says_that_it_cannot(found: list[dict[str, Any]]) -> None:
    assert all("_written_out" in rank["whole graph"] for rank in found)


def test_torchs_conversion_leaves_norms_alone() -> None:
    net = rb.models.create("sew_resnet18", classes=2, width=2)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    norms = [m for m in converted.modules() if isinstance(m, rb.CurrentNorm)]
    assert len(norms) == 20
    assert all(norm.sync for norm in norms)


if __name__ == "__main__":
    process(int(sys.argv[1]), Path(sys.argv[2]))
