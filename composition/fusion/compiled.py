"""A decorator that compiles a function with numba at its first call.

Import this module late: numba alone takes half a second.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Annotated, ParamSpec, TypeVar, cast, get_args, get_type_hints

import numpy as np
from numba import njit
from numpy.typing import NDArray

# C-contiguous, writable arrays, and what numba calls them
Ints = Annotated[NDArray[np.int64], "int64[::1]"]
Ints2 = Annotated[NDArray[np.int64], "int64[:, ::1]"]
ShortInts = Annotated[NDArray[np.int32], "int32[::1]"]
Floats = Annotated[NDArray[np.float64], "float64[::1]"]
Floats2 = Annotated[NDArray[np.float64], "float64[:, ::1]"]
ShortFloats = Annotated[NDArray[np.float32], "float32[::1]"]
ShortFloats2 = Annotated[NDArray[np.float32], "float32[:, ::1]"]
SCALARS = {int: "int64", float: "float64", bool: "boolean", type(None): "void"}

P = ParamSpec("P")
R = TypeVar("R")
_compiling = threading.Lock()

# helpers, compiled into the kernels that call them
helper = njit(nogil=True, error_model="numpy")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compiles a function for its annotated types when it is first called.

    It runs without the interpreter's lock. The machine code is kept where numba
    keeps it: in ``NUMBA_CACHE_DIR`` if set, else beside the source, else in the
    user's cache folder. Where none of them can be written (a read-only
    container, a full disk), it is compiled anew in every process.
    """
    done: list[Callable[P, R]] = []

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        if not done:
            with _compiling:  # two threads must not compile the same
                if not done:
                    done.append(_compile(function))
        return done[0](*arguments, **named)

    return call


def _compile(function: Callable[P, R]) -> Callable[P, R]:
    types = signature(function)
    try:
        machine_code = njit(types, nogil=True, error_model="numpy", cache=True)(function)
    except (OSError, RuntimeError):  # nowhere to keep it
        machine_code = njit(types, nogil=True, error_model="numpy")(function)
    return cast(Callable[P, R], machine_code)


def signature(function: Callable[..., object]) -> str:
    """What numba calls the types that a function is annotated with."""
    hints = get_type_hints(function, include_extras=True)
    names = {name: SCALARS.get(hint) or get_args(hint)[1] for name, hint in hints.items()}
    return f"{names.pop('return')}({', '.join(names.values())})"
