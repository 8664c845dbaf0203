"""A stand-in for CUDA graphs on the CPU: it records operators and repeats them on the same tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "unique_dim", "equal")


class Tape(TorchDispatchMode):
    """Recorder of operators. As in a graph, a replay uses the addresses and the Python numbers of the recording.

    Raises RuntimeError for an operator that would wait for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "aten" and func.overloadpacket.__name__ in WAITS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}\nand more lines")
        result = func(*args, **(kwargs or {}))
        if func.namespace == "aten":
            self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if (
                    isinstance(old, Tensor) and old.data_ptr() != new.data_ptr()
                ):  # otherwise a view, or an in-place operator
                    old.copy_(new)


class TapeRecorder:
    """Captures on a tape. Undoes the effects of the recording on `state` and `generator`: a capture has no effects."""

    def __init__(self, state: Callable[[], Sequence[Tensor]] = tuple, generator: Generator | None = None):
        self.state = state
        self.generator = generator
        self.did: list[str] = []

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        self.did.append("warm up")
        return work()

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.did.append("record")
        before = [(tensor, tensor.clone()) for tensor in self.state()]
        drawn = None if self.generator is None else self.generator.get_state()
        tape = Tape()
        try:
            with tape:
                output = work()
        finally:
            with torch.no_grad():
                for tensor, value in before:
                    tensor.copy_(value)
            if self.generator is not None and drawn is not None:
                self.generator.set_state(drawn)

        def replay() -> None:
            self.did.append("replay")
            tape.replay()

        return replay, output
