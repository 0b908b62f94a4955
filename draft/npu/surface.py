"""The part of pyxrt that the runtime uses, as types; it computes nothing.

The real module and the emulated array both have it. Everything not listed here is not used.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias, overload

Scalar: TypeAlias = int


class Member(Protocol):
    """A member of one of pyxrt's enumerations."""

    @property
    def name(self) -> str:
        """Its name, e.g. `ERT_CMD_STATE_COMPLETED`."""


class SyncDirections(Protocol):
    """`xclBOSyncDirection`."""

    @property
    def XCL_BO_SYNC_BO_TO_DEVICE(self) -> Member:  # noqa: N802
        """What the host wrote becomes visible to the device."""

    @property
    def XCL_BO_SYNC_BO_FROM_DEVICE(self) -> Member:  # noqa: N802
        """What the device wrote becomes visible to the host."""


class InfoKeys(Protocol):
    """`xrt_info_device`."""

    @property
    def name(self) -> object:
        """The device's name."""


class Uuid(Protocol):
    """Names a registered xclbin."""


class Xclbin(Protocol):
    """An array configuration read from a file."""

    def get_kernels(self) -> list[XclbinKernel]:
        """What it offers to call."""


class XclbinKernel(Protocol):
    """A kernel's entry in an xclbin."""

    def get_name(self) -> str:
        """Its name."""

    def get_num_args(self) -> int:
        """Arguments it declares."""


class XrtDevice(Protocol):
    """An opened device."""

    def get_info(self, key: object) -> str:
        """A property as text."""

    def register_xclbin(self, xclbin: Xclbin) -> Uuid:
        """Make a configuration known to the driver."""


class HwContext(Protocol):
    """Columns of the array with a configuration loaded."""


class Kernel(Protocol):
    """An entry point of the loaded configuration."""

    def group_id(self, argument: int) -> int:
        """Memory group that a buffer for this argument must be made in."""


class Bo(Protocol):
    """A buffer; the host's view and the device's agree only after a sync."""

    def map(self) -> memoryview:
        """The host's view."""

    def sync(self, direction: Member, size: int, offset: int) -> None:
        """Make `size` bytes from `offset` agree."""

    def size(self) -> int:
        """Bytes."""

    def address(self) -> int:
        """The device's address of it."""


class BoFactory(Protocol):
    """The class `bo`."""

    @property
    def cacheable(self) -> Member:
        """For instructions."""

    @property
    def host_only(self) -> Member:
        """For data."""

    @overload
    def __call__(self, device: XrtDevice, size: int, flags: Member, group: int, /) -> Bo: ...
    @overload
    def __call__(self, parent: Bo, size: int, offset: int, /) -> Bo: ...


class Run(Protocol):
    """One call that can be made again and again."""

    def set_arg(self, index: int, value: Bo | Scalar, /) -> None:
        """Set an argument; it stays set."""

    def start(self) -> None:
        """Submit."""

    def wait(self, timeout_ms: int, /) -> Member:
        """Wait; 0 waits for ever. The state, also when the time is over."""


class Xrt(Protocol):
    """The module."""

    @property
    def xclBOSyncDirection(self) -> SyncDirections:  # noqa: N802
        """Directions of a sync."""

    @property
    def xrt_info_device(self) -> InfoKeys:
        """Keys of a device's properties."""

    @property
    def bo(self) -> BoFactory:
        """Makes buffers."""

    def device(self, index: int, /) -> XrtDevice:
        """Open a device."""

    def xclbin(self, path: str, /) -> Xclbin:
        """Read a configuration."""

    def hw_context(self, device: XrtDevice, uuid: Uuid, /) -> HwContext:
        """Load a configuration."""

    def kernel(self, context: HwContext, name: str, /) -> Kernel:
        """An entry point of it."""

    def run(self, kernel: Kernel, /) -> Run:
        """A call of it, to be made many times."""
