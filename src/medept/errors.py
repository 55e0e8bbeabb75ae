"""What goes wrong for a reason that the user can mend, and whose part it is to mend it.

:class:`InputError` is the one that users catch and the command line prints. Its subclasses say
where the fault lies, so that, for instance, a search over settings gives up a bad setting and never
a full disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Input that cannot be used.

    The message names the file, row, column or argument at fault and says what to do about it.
    The command line prints it without a traceback and exits with code 2.
    """


class DataError(InputError):
    """Images, tables, labels or other files are missing, damaged or contradict each other."""


class SettingsError(InputError):
    """A parameter is unknown, out of range, does not go with another, or lets training diverge."""


class EncoderError(InputError):
    """An encoder, its weights or an adapter's weights cannot be had, or do not fit."""


class ResourceError(InputError):
    """The machine lacks something: room on the disk, memory, a device, an optional package."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or on an accelerator.

    PyTorch has no one type for it: on the CPU it is a RuntimeError, as are its errors for tensors
    that do not fit together.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."))
    True
    >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"))
    False
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(each in str(error) for each in words)


def problems(error: ValidationError) -> str:
    """What pydantic found wrong, as one line: ``epochs: Input should be ...; size: not known``."""
    found = []
    for each in error.errors():
        what = "not known" if each["type"] == "extra_forbidden" else each["msg"]
        found.append(": ".join(filter(None, [".".join(map(str, each["loc"])), what])))
    return "; ".join(found)
