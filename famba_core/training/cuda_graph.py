"""Functions of device tensors, captured in a CUDA graph and replayed.

A training step of a small model consists of thousands of kernels, and launching each takes longer than running it. A
graph launches all of them at once. A capture fixes what a replay does: the kernels, their addresses, and every number
that came from Python. So inputs are copied into static buffers, and whatever changes between calls must be a tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Generator, Tensor

WARMUP_CALLS = 3  # before a capture, because libraries load and tune themselves and kernels are compiled in them
# Graphs whose capture failed. The allocator uses them in later captures too, so they must stay alive.
_FAILED: list[torch.cuda.CUDAGraph] = []


class GraphedFunction:
    """A function of tensors with static shapes that becomes a graph after its first calls.

    Every call does the work once, captured or not, and draws the same random numbers, so that a capture changes no
    result. Calls whose shapes differ from those of the first call, such as an incomplete last batch, are not captured.
    """

    def __init__(self, function: Callable[..., Tensor], recorder: CudaRecorder | None, name: str):
        """recorder: None never captures; name: the subject of the warning that the function cannot be captured."""
        self._function = function
        self._recorder = recorder
        self._name = name
        self._buffers: tuple[Tensor, ...] = ()
        self._calls = 0
        self._graph: tuple[Callable[[], None], Tensor] | None = None

    @property
    def is_graph(self) -> bool:
        """True if the next call with the first call's shapes is a replay."""
        return self._graph is not None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the function's result for the inputs, in a tensor of its own."""
        if self._recorder is None:
            return self._function(*inputs)
        if not self._buffers:
            self._buffers = tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in inputs)
        if any(x.shape != buffer.shape for x, buffer in zip(inputs, self._buffers, strict=True)):
            return self._function(*inputs)
        for x, buffer in zip(inputs, self._buffers, strict=True):
            buffer.copy_(x)
        if self._calls < WARMUP_CALLS:
            self._calls += 1
            return self._recorder.warm_up(self._on_buffers)
        if self._graph is None:
            try:
                self._graph = self._recorder.record(self._on_buffers)
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                print(f"{self._name} runs without a CUDA graph, which is slower: {reason}", file=sys.stderr)
                self._recorder = None
                return self._function(*inputs)
        replay, output = self._graph
        replay()
        return output.clone()  # the next replay overwrites it

    def _on_buffers(self) -> Tensor:
        return self._function(*self._buffers)


def wrap_in_graph(
    function: Callable[..., Tensor], device: torch.device, *, name: str, generator: Generator | None = None
) -> GraphedFunction:
    """Return `function` as a CUDA graph on CUDA devices; elsewhere it runs as it is.

    Args:
        name: subject of the warning that the function cannot be captured, such as "the training step".
        generator: source of the function's random numbers; seeding it between calls works as without a graph.
    """
    recorder = CudaRecorder(device, generator) if device.type == "cuda" else None
    return GraphedFunction(function, recorder, name)


class CudaRecorder:
    """Captures with torch's CUDA graphs. Warm-up and capture run on a side stream, as torch's documentation demands."""

    def __init__(self, device: torch.device, generator: Generator | None):
        self.device = device
        self.generator = generator
        self.stream = torch.cuda.Stream(device)

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """Run the work under the conditions of a capture, and return its result."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            output = work()
        current.wait_stream(self.stream)
        return output

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Capture the work without running it. Returns the replay, and the tensor that each replay writes."""
        graph = torch.cuda.CUDAGraph()
        if self.generator is not None:
            # a replay then starts at the generator's offset and advances it as the work itself would
            graph.register_generator_state(self.generator)
        current = torch.cuda.current_stream(self.device)
        try:
            with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=self.stream):
                output = work()
        except RuntimeError:
            torch.cuda.set_stream(current)  # a failed capture leaves its own stream current
            _FAILED.append(graph)
            if self.generator is not None:
                # its state would stay marked as capturing; a copy is not
                self.generator.graphsafe_set_state(self.generator.clone_state())
            raise
        return graph.replay, output
