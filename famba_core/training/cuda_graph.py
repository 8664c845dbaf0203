"""A function of device tensors, captured in a CUDA graph and replayed.

A step of a small model is thousands of kernels, and starting each of them takes longer than running it; a graph starts
them all at once. What a graph replays is fixed when it is captured: the kernels, their addresses and every number that
came from Python. So inputs are copied into buffers that stay, and what changes between calls must be a tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Generator, Tensor

WARMUP_CALLS = 3  # before a capture, in which libraries may neither be loaded nor tuned, nor kernels be compiled
# The allocator asks a graph whose capture failed, in every later capture too, so it must not be freed.
_FAILED: list[torch.cuda.CUDAGraph] = []


class Recorder(Protocol):
    """What captures: CUDA's, or a test's."""

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """Do the work as a capture would find it, and return what it returns."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Capture the work without doing it. Returns what replays it, and the tensor that each replay writes."""


class Captured:
    """`function`, of tensors whose shapes are always the same, as a graph after the first calls.

    Every call does the work once, captured or not, and draws the same random numbers: a run may be captured anywhere.
    Calls with other shapes than the first one's, such as a last incomplete batch, are not captured.
    """

    def __init__(self, function: Callable[..., Tensor], recorder: Recorder | None, name: str):
        """recorder: None never captures; name: what the function is, for the notice that it cannot be captured."""
        self._function = function
        self._recorder = recorder
        self._name = name
        self._buffers: tuple[Tensor, ...] = ()
        self._calls = 0
        self._graph: tuple[Callable[[], None], Tensor] | None = None

    @property
    def is_graph(self) -> bool:
        """Whether the next call of the first one's shapes is a replay."""
        return self._graph is not None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What `function` returns for the inputs, in a tensor of its own."""
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


def captured(
    function: Callable[..., Tensor], device: torch.device, *, name: str, generator: Generator | None = None
) -> Captured:
    """`function` as a CUDA graph where `device` can have one, else as it is.

    Args:
        generator: what the function draws random numbers from; seeding it between calls works as without a graph.
    """
    recorder = CudaRecorder(device, generator) if device.type == "cuda" else None
    return Captured(function, recorder, name)


class CudaRecorder:
    """Captures with torch's CUDA graphs, on a side stream, as their documentation asks for, warm-up included."""

    def __init__(self, device: torch.device, generator: Generator | None):
        self.device = device
        self.generator = generator
        self.stream = torch.cuda.Stream(device)

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            output = work()
        current.wait_stream(self.stream)
        return output

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        if self.generator is not None:
            # a replay then begins at the generator's offset and moves it as far as the work itself would
            graph.register_generator_state(self.generator)
        current = torch.cuda.current_stream(self.device)
        try:
            with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=self.stream):
                output = work()
        except RuntimeError:
            torch.cuda.set_stream(current)  # a capture that cannot end leaves its own stream in place
            _FAILED.append(graph)
            if self.generator is not None:
                # its state counts as being captured for ever; a copy does not
                self.generator.graphsafe_set_state(self.generator.clone_state())
            raise
        return graph.replay, output
