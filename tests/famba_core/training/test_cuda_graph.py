"""GraphedFunction and CudaRecorder, with a stand-in for CUDA graphs that shows a graph's errors on the CPU."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tape import TapeRecorder
from torch import Tensor

from famba_core.training import cuda_graph
from famba_core.training.cuda_graph import WARMUP_CALLS, CudaRecorder, GraphedFunction, wrap_in_graph

CPU = torch.device("cpu")


def test_calls_are_warm_ups_then_replays_with_the_results_of_the_function():
    recorder = TapeRecorder()
    found = GraphedFunction(lambda x, y: (x * y).sum(0), recorder, "it")
    outputs = []
    for i in range(WARMUP_CALLS + 4):
        assert found.is_graph == (i > WARMUP_CALLS)
        outputs.append(found(torch.full((2, 3), float(i)), torch.arange(6.0).view(2, 3)))
    for i, output in enumerate(outputs):  # all at the end, so that each must be a tensor of its own
        assert torch.equal(output, i * torch.tensor([3.0, 5.0, 7.0]))
    assert recorder.did == ["warm up"] * WARMUP_CALLS + ["record"] + ["replay"] * 4


def test_every_call_updates_state_once():
    count = torch.zeros(1)
    found = GraphedFunction(lambda x: count.add_(x).clone(), TapeRecorder(lambda: [count]), "it")
    values = [found(torch.tensor([float(i)])).item() for i in range(9)]
    assert values == [i * (i + 1) / 2 for i in range(9)]


def test_inputs_are_not_written_and_may_be_views():
    def double(x: Tensor) -> Tensor:
        return x.mul_(2).sum()

    found = GraphedFunction(double, TapeRecorder(lambda: found._buffers), "it")
    rows = torch.arange(12.0).view(3, 4)
    for i in range(WARMUP_CALLS + 2):
        assert found(rows[:, i % 4]).item() == 2 * rows[:, i % 4].sum().item()
    assert torch.equal(rows, torch.arange(12.0).view(3, 4))


def test_other_shapes_are_not_captured_and_change_nothing():
    recorder = TapeRecorder()
    found = GraphedFunction(lambda x: x.sum(), recorder, "it")
    for i in range(WARMUP_CALLS + 3):
        assert found(torch.full((4,), float(i))).item() == 4 * i
        assert found(torch.full((3,), float(i))).item() == 3 * i
    assert recorder.did == ["warm up"] * WARMUP_CALLS + ["record"] + ["replay"] * 3


def test_random_numbers_equal_those_of_plain_calls_after_each_seeding():
    alone, graphed = torch.Generator(), torch.Generator()
    found = GraphedFunction(lambda x: x + torch.rand(3, generator=graphed), TapeRecorder(generator=graphed), "it")
    for i in range(WARMUP_CALLS + 5):
        if i % 3 == 0:
            alone.manual_seed(i)
            graphed.manual_seed(i)
        assert torch.equal(found(torch.zeros(3)), torch.rand(3, generator=alone))


def test_function_that_cannot_be_captured_warns_in_one_line_and_runs_plainly(capsys):
    recorder = TapeRecorder()
    calls = []

    def waits(x: Tensor) -> Tensor:
        calls.append(x.sum().item())
        return x + 1

    found = GraphedFunction(waits, recorder, "the step")
    outputs = [found(torch.full((2,), float(i))) for i in range(WARMUP_CALLS + 3)]
    assert [output[0].item() for output in outputs] == [i + 1 for i in range(WARMUP_CALLS + 3)]
    assert recorder.did == ["warm up"] * WARMUP_CALLS + ["record"]
    assert not found.is_graph
    assert calls == [2.0 * i for i in range(WARMUP_CALLS + 3)]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("the step runs without a CUDA graph, which is slower: operation not permitted")


def test_error_before_the_capture_is_raised():
    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        GraphedFunction(fails, TapeRecorder(), "it")(torch.zeros(1))


def test_function_on_the_cpu_gets_the_tensors_themselves():
    seen = []

    def keep(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    found = wrap_in_graph(keep, CPU, name="it")
    given = [torch.zeros(2) for _ in range(6)]
    for x in given:
        assert found(x) is x
    assert all(a is b for a, b in zip(seen, given, strict=True))


class Cuda:
    """Fake of the parts of torch.cuda that a capture uses. It logs the calls."""

    def __init__(self, log: list[str], fails: bool):
        self.log, self.fails = log, fails
        self.now: Any = self.Stream("default")
        self.CUDAGraph = lambda: SimpleNamespace(
            register_generator_state=lambda generator: log.append(f"register {generator}"),
            replay=lambda: log.append("replay"),
        )

    def Stream(self, name: object) -> Any:
        stream = SimpleNamespace(name=name)
        stream.wait_stream = lambda other: self.log.append(f"{stream.name} waits for {other.name}")
        return stream

    def current_stream(self, device: object) -> Any:
        return self.now

    def set_stream(self, stream: Any) -> None:
        self.now = stream

    def stream(self, stream: Any) -> "Within":
        return Within(self, stream, fails=False)

    def graph(self, graph: object, stream: Any) -> "Within":
        self.log.append("capture")
        return Within(self, stream, self.fails)

    def device(self, device: object) -> "Within":
        return Within(self, self.now, fails=False)


class Within:
    """Context with another stream. If it fails, then at its end, as in torch: the stream stays current."""

    def __init__(self, cuda: Cuda, stream: Any, fails: bool):
        self.cuda, self.stream, self.fails = cuda, stream, fails

    def __enter__(self) -> None:
        self.before, self.cuda.now = self.cuda.now, self.stream

    def __exit__(self, *error: object) -> None:
        if self.fails:
            raise RuntimeError("operation failed due to a previous error during capture")
        self.cuda.now = self.before


class FakeGenerator:
    """Fake of a CUDA generator, whose state is a name that can be replaced."""

    def __init__(self) -> None:
        self.state = "generator"

    def __str__(self) -> str:
        return self.state

    def clone_state(self) -> str:
        return f"copy of {self.state}"

    def graphsafe_set_state(self, state: str) -> None:
        self.state = state


def cuda_recorder(monkeypatch: pytest.MonkeyPatch, fails: bool) -> tuple[Any, Cuda, list[str], FakeGenerator]:
    log: list[str] = []
    cuda, generator = Cuda(log, fails), FakeGenerator()
    monkeypatch.setattr(cuda_graph.torch, "cuda", cuda)
    recorder = CudaRecorder("side", generator)  # type: ignore[arg-type]
    return recorder, cuda, log, generator


def work(cuda: Cuda) -> Callable[[], Tensor]:
    def run() -> Tensor:
        cuda.log.append(f"work on {cuda.now.name}")
        return torch.ones(1)

    return run


def test_cuda_warm_up_runs_on_the_capturing_stream_in_order(monkeypatch):
    recorder, cuda, log, _ = cuda_recorder(monkeypatch, fails=False)
    recorder.warm_up(work(cuda))
    assert log == ["side waits for default", "work on side", "default waits for side"]
    assert cuda.now.name == "default"


def test_cuda_capture_registers_the_generator(monkeypatch):
    recorder, cuda, log, _ = cuda_recorder(monkeypatch, fails=False)
    replay, output = recorder.record(work(cuda))
    replay()
    assert log == ["register generator", "capture", "work on side", "replay"]
    assert output.item() == 1


def test_failed_cuda_capture_leaves_stream_and_generator_usable(monkeypatch):
    recorder, cuda, _, generator = cuda_recorder(monkeypatch, fails=True)
    with pytest.raises(RuntimeError, match="previous error during capture"):
        recorder.record(work(cuda))
    assert cuda.now.name == "default"
    assert generator.state == "copy of generator"
