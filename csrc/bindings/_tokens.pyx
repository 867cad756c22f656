# cython: language_level=3, freethreading_compatible=True
"""Packs token sequences into uint32 buffers, and does nothing else."""

from collections.abc import Sequence
from operator import index

import numpy

cimport cython
from cpython.buffer cimport PyBuffer_IsContiguous, PyObject_CheckBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromObject, PyMemoryView_GET_BUFFER
from cpython.object cimport PyObject
from cpython.sequence cimport PySequence_Fast_GET_SIZE, PySequence_Fast_ITEMS
from libc.stdint cimport (
    int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t,
)

cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030B0000
    #include <longintrepr.h>
    #endif

    /* The value of an exact int in 0..2**32-1, else a negative number. Runs no Python code. */
    static inline int64_t token_of(PyObject *item) {
        int overflow;
        long long value;
        if (!PyLong_CheckExact(item)) return -1;
    #if PY_VERSION_HEX >= 0x030C0000
        if (PyUnstable_Long_IsCompact((PyLongObject *)item))
            return PyUnstable_Long_CompactValue((PyLongObject *)item);
    #else
        if ((size_t)Py_SIZE(item) <= 1)
            return (int64_t)Py_SIZE(item) * ((PyLongObject *)item)->ob_digit[0];
    #endif
        value = PyLong_AsLongLongAndOverflow(item, &overflow);
        return value <= UINT32_MAX ? value : -1;
    }
    """
    int64_t token_of(PyObject *item) noexcept

ctypedef fused integer:
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint64_t

cdef uint32_t MAX_TOKEN = 0xFFFFFFFF


def pack(tokens, str argument="tokens"):
    """Pack token ids into a C-contiguous buffer of uint32.

    A C-contiguous buffer of native uint32, or of int32 without negative values, is passed through
    without a copy; everything else is checked and copied.

    Parameters
    ----------
    tokens
        A sequence of ints, or a one-dimensional buffer of integers in native byte order; each value
        0 to 2**32 - 1. Bools, bytes and bytearrays are refused.
    argument
        What errors call `tokens`.

    Returns
    -------
    uint32[num_tokens]

    Raises
    ------
    TypeError
        `tokens` is no such sequence, or an item is no int; a message names the argument.
    ValueError
        A token is out of range; the message names its position, its value and what is allowed.

    Notes
    -----
    Thread safe: on a free-threaded interpreter a list is locked while it is read.
    """
    if isinstance(tokens, (list, tuple)):
        return pack_items(tokens, argument)
    if not isinstance(tokens, (str, bytes, bytearray)):
        if PyObject_CheckBuffer(tokens):
            return pack_buffer(tokens, argument)
        if isinstance(tokens, Sequence):
            return pack_slowly(tokens, argument)
    raise type_error(tokens, argument)


cdef pack_items(tokens, str argument):
    # The critical section keeps a list from changing on a free-threaded interpreter; with the GIL
    # it is nothing, and token_of lets no other thread in.
    cdef Py_ssize_t count, i
    cdef PyObject **items
    cdef uint32_t *target
    cdef int64_t token = 0
    with cython.critical_section(tokens):
        count = PySequence_Fast_GET_SIZE(tokens)
        items = PySequence_Fast_ITEMS(tokens)
        storage = new_storage(count)
        target = <uint32_t *>PyBytes_AS_STRING(storage)
        for i in range(count):
            token = token_of(items[i])
            if token < 0:
                break
            target[i] = <uint32_t>token
    return as_uint32(storage) if token >= 0 else pack_slowly(tokens, argument)


cdef pack_slowly(tokens, str argument):
    cdef Py_ssize_t i
    cdef tuple items = tuple(tokens)
    storage = new_storage(len(items))
    cdef uint32_t *target = <uint32_t *>PyBytes_AS_STRING(storage)
    for i, item in enumerate(items):
        try:
            token = None if isinstance(item, (bool, numpy.bool_)) else index(item)
        except TypeError:
            token = None
        if token is None:
            raise TypeError(f"{argument}[{i}] must be an int, got {describe(item)}")
        if not 0 <= token <= MAX_TOKEN:
            raise range_error(argument, i, token)
        target[i] = token
    return as_uint32(storage)


cdef pack_buffer(tokens, str argument):
    try:
        view = PyMemoryView_FromObject(tokens)
    except (BufferError, TypeError, ValueError):
        raise type_error(tokens, argument) from None
    cdef Py_buffer *buffer = PyMemoryView_GET_BUFFER(view)
    cdef const char *format = buffer.format
    cdef Py_ssize_t item_bytes = buffer.itemsize
    cdef bint is_native = format[0] not in b"=<"
    if format[0] in b"@=<":
        format += 1
    cdef char kind = format[0]
    if kind not in b"bhilqnBHILQN" or format[1] != 0 or buffer.ndim != 1:
        raise type_error(tokens, argument)

    cdef bint is_aligned = <uintptr_t>buffer.buf % <size_t>item_bytes == 0
    if not (is_native and is_aligned and PyBuffer_IsContiguous(buffer, b"C")):
        view = PyMemoryView_FromObject(numpy.require(view, requirements="CA"))
        buffer = PyMemoryView_GET_BUFFER(view)

    cdef Py_ssize_t count = buffer.len // item_bytes
    cdef const void *source = buffer.buf
    if kind in b"bhilqn":
        if item_bytes == 4:
            check(<const int32_t *>source, count, argument)
            return as_uint32(view)
        if item_bytes == 8:
            return narrow(<const int64_t *>source, count, argument)
        if item_bytes == 2:
            return narrow(<const int16_t *>source, count, argument)
        return narrow(<const int8_t *>source, count, argument)
    if item_bytes == 4:
        return as_uint32(view)
    if item_bytes == 8:
        return narrow(<const uint64_t *>source, count, argument)
    if item_bytes == 2:
        return narrow(<const uint16_t *>source, count, argument)
    return narrow(<const uint8_t *>source, count, argument)


cdef narrow(const integer *source, Py_ssize_t count, str argument):
    check(source, count, argument)
    storage = new_storage(count)
    cdef uint32_t *target = <uint32_t *>PyBytes_AS_STRING(storage)
    cdef Py_ssize_t i
    for i in range(count):
        target[i] = <uint32_t>source[i]
    return as_uint32(storage)


cdef int check(const integer *source, Py_ssize_t count, str argument) except -1:
    cdef integer seen = 0
    cdef Py_ssize_t i
    for i in range(count):
        seen |= source[i]
    if seen < 0 or <uint64_t>seen > MAX_TOKEN:
        for i in range(count):
            if source[i] < 0 or <uint64_t>source[i] > MAX_TOKEN:
                raise range_error(argument, i, source[i])
    return 0


cdef new_storage(Py_ssize_t count):
    return PyBytes_FromStringAndSize(NULL, count * <Py_ssize_t>sizeof(uint32_t))


cdef as_uint32(buffer):
    view = PyMemoryView_FromObject(buffer)
    return view if view.format == "I" else view.cast("B").cast("I")


cdef type_error(tokens, str argument):
    return TypeError(
        f"{argument} must be a sequence of ints or a one-dimensional integer array, "
        f"got {describe(tokens)}"
    )


cdef range_error(str argument, Py_ssize_t position, token):
    return ValueError(f"{argument}[{position}] must be in 0..{MAX_TOKEN}, got {token}")


cdef str describe(value):
    name = type(value).__name__
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{name} of dtype {value.dtype} and shape {value.shape}"
    text = repr(value)
    return f"{name} {text}" if len(text) <= 60 else name
