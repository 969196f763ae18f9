# SPDX-License-Identifier: Apache-2.0
"""libnibble_gemm (or libnibble) through ctypes: the structs of nibble_gemm.h and one context a thread and device."""
import ctypes
import os
import pathlib
import threading

MODES = {"auto": 0, "w4a16": 1, "w4a8": 2, "w4a4": 3, "w4a8-exact": 4}
METHODS = {"rtn": 0, "4over6": 1, "sweep": 2, "fp8-exact": 3}
BF16, F16, F32, E4M3, NVFP4 = range(5)
FROM_NVFP4, FROM_NVFP4_GGUF, FROM_MXFP4, FROM_MXFP4_GGUF, FROM_BF16, FROM_F16, FROM_F32 = range(7)


class NibbleError(RuntimeError):
    """What the library says: one sentence."""


class _Error(ctypes.Structure):
    _fields_ = [("text", ctypes.c_char * 512)]


class Source(ctypes.Structure):
    _fields_ = [("format", ctypes.c_int), ("method", ctypes.c_int), ("n", ctypes.c_size_t), ("k", ctypes.c_size_t),
                ("values", ctypes.c_void_p), ("scales", ctypes.c_void_p), ("tensor_scale", ctypes.c_void_p),
                ("divides", ctypes.c_bool)]


class Product(ctypes.Structure):
    _fields_ = [("weight", ctypes.c_void_p), ("mode", ctypes.c_int), ("m", ctypes.c_size_t), ("a", ctypes.c_void_p),
                ("a_type", ctypes.c_int), ("lda", ctypes.c_size_t), ("a_scale", ctypes.c_void_p),
                ("a_block_scale", ctypes.c_void_p), ("d", ctypes.c_void_p), ("d_type", ctypes.c_int),
                ("ldd", ctypes.c_size_t), ("c", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("alpha", ctypes.c_float),
                ("beta", ctypes.c_float), ("flags", ctypes.c_void_p)]


class Group(ctypes.Structure):
    _fields_ = [("product", Product), ("n_experts", ctypes.c_size_t), ("offsets", ctypes.c_void_p), ("packed", ctypes.c_void_p),
                ("offsets_stand", ctypes.c_bool)]


def _load():
    names = [os.environ.get("NIBBLE_LIBRARY"), pathlib.Path(__file__).with_name("libnibble_gemm.so"), "libnibble.so.0"]
    tried = []
    for name in filter(None, names):
        try:
            return ctypes.CDLL(str(name))
        except OSError as error:
            tried.append(str(error))
    raise NibbleError("libnibble_gemm.so cannot be loaded: " + "; ".join(tried) +
                      "; a wheel by scripts/build-wheel holds it, and NIBBLE_LIBRARY may name one")


_state = threading.local()
_library = None
_library_lock = threading.Lock()


def library():
    global _library
    with _library_lock:
        if _library is None:
            lib = _load()
            for name in ("nib_gemm_packed_bytes", "nib_gemm_workspace_bytes", "nib_gemm_grouped_workspace_bytes"):
                getattr(lib, name).restype = ctypes.c_size_t
            lib.nib_gemm_packed_bytes.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
            lib.nib_gemm_weight_free.argtypes = [ctypes.c_void_p]
            lib.nib_gemm_weight_free.restype = None
            lib.nib_gemm_close.argtypes = [ctypes.c_void_p]
            lib.nib_gemm_close.restype = None
            _library = lib
    return _library


def call(name, *arguments):
    """Calls a function whose last argument is the error; raises its sentence."""
    error = _Error()
    status = getattr(library(), name)(*arguments, ctypes.byref(error))
    if status:
        raise NibbleError(error.text.decode(errors="replace"))


def context(device):
    """This thread's context on GPU `device`."""
    contexts = _state.__dict__.setdefault("contexts", {})
    if device not in contexts:
        pointer = ctypes.c_void_p()
        call("nib_gemm_open", ctypes.c_int(device), ctypes.byref(pointer))
        contexts[device] = pointer
    return contexts[device]


def close_contexts():
    """Closes this thread's contexts; the next call opens them again."""
    for pointer in _state.__dict__.pop("contexts", {}).values():
        library().nib_gemm_close(pointer)


class Weight:
    """A weight handle over memory that the caller keeps."""

    def __init__(self, device, n, k, data):
        self.pointer = ctypes.c_void_p()
        call("nib_gemm_weight_create", context(device), ctypes.c_size_t(n), ctypes.c_size_t(k), ctypes.c_void_p(data),
             ctypes.byref(self.pointer))

    def __enter__(self):
        return self.pointer

    def __exit__(self, *_):
        library().nib_gemm_weight_free(self.pointer)
