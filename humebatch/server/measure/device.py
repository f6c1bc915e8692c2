"""How many threads and which device the models of a measuring process may use.

The server sets both in the environment of its measuring processes: there is one process per file that is measured at
a time, and processes times threads never exceed the cores.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Literal

__all__ = ["DEVICE_VARIABLE", "THREADS_VARIABLE", "Device", "device", "onnx_session", "threads"]

THREADS_VARIABLE: Final = "HUMEBATCH_THREADS"
DEVICE_VARIABLE: Final = "HUMEBATCH_DEVICE"

Device = Literal["cpu", "cuda"]


def threads() -> int:
    """How many threads one model may use in this process; 1 where nobody said."""
    return max(1, int(os.environ.get(THREADS_VARIABLE) or "1"))


def device() -> Device:
    """`cuda` when the server was started with `--device cuda`, or with `auto` and CTranslate2 sees a GPU."""
    chosen = os.environ.get(DEVICE_VARIABLE) or "auto"
    if chosen == "auto":
        try:
            import ctranslate2  # type: ignore[import-untyped]  # carries no types
        except ImportError:
            return "cpu"
        return "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
    return "cuda" if chosen == "cuda" else "cpu"


def onnx_session(model: str | Path | bytes) -> Any:
    """An ONNX Runtime session on this process's device, with its number of threads."""
    import onnxruntime  # type: ignore[import-untyped]  # carries no types

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.inter_op_num_threads = 1
    # Spinning threads take the cores from the processes beside us.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if device() == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    return onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=providers)
