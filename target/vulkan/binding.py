"""The Vulkan API as raw cffi calls: structs, results, extensions; it knows no device and no model.

The only importer of the pip package `vulkan`. That package's own wrappers are slow and drop the
memory behind nested structs too early, so structs are made here by `make`, which keeps alive
whatever they point to, and functions are called raw (`lib.vkX`) and checked by `check`.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from specdec.errors import DeviceError

try:
    import vulkan
except OSError as error:  # the package loads the loader library while it is imported
    raise DeviceError(
        "no Vulkan loader on this machine (libvulkan.so.1 not found): install it "
        '(Debian: libvulkan1 mesa-vulkan-drivers) or set target.device="reference"'
    ) from error

Handle: TypeAlias = Any  # a cffi pointer, struct or integer: cffi has no static types

vk: Handle = vulkan  # constants by name
ffi, lib = vk.ffi, vk.lib

API_VERSION = 1 << 22 | 3 << 12  # 1.3.0
NULL = ffi.NULL

_RESULT_NAMES: dict[int, str] = {
    value: name
    for name, value in vars(vk).items()
    if re.match(r"VK_(ERROR_|SUCCESS$|NOT_READY$|TIMEOUT$|INCOMPLETE$)", name)
    and isinstance(value, int)
}
_pointed_to: WeakKeyDictionary[object, list[object]] = WeakKeyDictionary()


def make(name: str, **fields: Handle) -> Handle:
    """A pointer to a new struct `name`; sType is set, all that the fields point to is kept alive.

    Field values: numbers, handles, pointers made by `make` (also for a struct held by value), str
    (a C string), bytes, and lists of these.
    """
    struct = ffi.new(f"{name}*")
    types = {field: described.type for field, described in ffi.typeof(name).fields}
    if "sType" in types:
        struct.sType = getattr(vk, name)().sType
    kept: list[object] = []
    for field, value in fields.items():
        setattr(struct, field, _converted(types[field], value, kept))
    _pointed_to[struct] = kept
    return struct


def _converted(ctype: Handle, value: Handle, kept: list[Handle]) -> Handle:
    """`value` as cffi accepts it for a field of type `ctype`; new memory is added to `kept`."""
    kept.append(value)
    kind = ctype.kind
    if kind == "struct":
        return value[0]
    if isinstance(value, str):
        value = ffi.new("char[]", value.encode())
    elif isinstance(value, bytes):
        value = ffi.cast(ctype, ffi.from_buffer(value))
    elif isinstance(value, list | tuple):
        item = ctype.item
        value = ffi.new(f"{item.cname}[]", [_converted(item, entry, kept) for entry in value])
    kept.append(value)
    return value


def check(result: int, action: str) -> None:
    """Turn a failed VkResult into a DeviceError that names the action."""
    if result >= 0:
        return
    if result == vk.VK_ERROR_DEVICE_LOST:
        raise DeviceError(
            f"the Vulkan device was lost while {action}: the driver stopped it; "
            "start the run again, and look at the kernel's log if it happens twice"
        )
    if result in (vk.VK_ERROR_OUT_OF_DEVICE_MEMORY, vk.VK_ERROR_OUT_OF_HOST_MEMORY):
        where = "device" if result == vk.VK_ERROR_OUT_OF_DEVICE_MEMORY else "host"
        raise DeviceError(
            f"out of {where} memory while {action}: close other programs, or use a smaller "
            "run.context_length, run.batch_size or model"
        )
    raise DeviceError(f"Vulkan failed while {action}: {_RESULT_NAMES.get(result, result)}")


def create(function: str, parent: Handle, info: Handle, action: str) -> Handle:
    """Call vkCreateX / vkAllocateMemory (parent, info, allocator, out) and return the handle."""
    raw = getattr(lib, function)
    out = ffi.new(f"{ffi.typeof(raw).args[-1].item.cname}[1]")
    check(raw(parent, info, NULL, out), action)
    return out[0]


def enumerate_all(function: str, struct: str, *arguments: Handle) -> list[Handle]:
    """Call an enumerating function twice (count, then fill); the entries found."""
    raw = getattr(lib, function)
    count = ffi.new("uint32_t*")
    result = raw(*arguments, count, NULL)
    check(result or 0, function)
    entries = ffi.new(f"{struct}[]", count[0])
    result = raw(*arguments, count, entries)
    check(result or 0, function)
    return [entries[i] for i in range(count[0])]


def extension_function(instance: Handle, name: str) -> Handle:
    """An extension's function, cast to its type; NULL result is the caller's to check."""
    address = lib.vkGetInstanceProcAddr(instance, ffi.new("char[]", name.encode()))
    assert address != NULL, f"{name}: its extension is not enabled"
    return ffi.cast(f"PFN_{name}", address)


def text(characters: Handle) -> str:
    """A C string as str."""
    return str(ffi.string(characters).decode(errors="replace"))
