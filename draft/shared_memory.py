"""Messages between two processes through shared memory; it knows no drafting and no message.

Each direction is a ring of bytes with one writer and one reader. The memory is an anonymous file
(memfd): it has no name that could be left behind. A socket pair rings the bell: a byte on it says
"look into your ring", and its end says that the other process is gone. Nobody ever spins, and a
full ring or a broken counter is reported, never waited for: the other side is not trusted.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
from dataclasses import dataclass

RING_BYTES = 4 << 20  # of data; pages never written take no memory

_HEADER_BYTES = 128  # counters of writer and reader, a cache line each
_WRITTEN, _READ = 0, 8  # their indices as 64-bit words
_LENGTH = struct.Struct("=I")
_NUM_BELLS = 4096  # bytes taken from the socket at a time


class ChannelError(Exception):
    """The other side wrote what no correct writer writes."""


class Ring:
    """A ring of messages in `memory`, which both sides map; counters run on for ever."""

    def __init__(self, memory: memoryview) -> None:
        self._counters = memory[:_HEADER_BYTES].cast("Q")
        self._data = memory[_HEADER_BYTES:]

    def write(self, message: bytes) -> bool:
        """Append a message; False if the reader has left no room for it."""
        written = self._counters[_WRITTEN]
        size = _LENGTH.size + len(message)
        if size > len(self._data) - (written - self._counters[_READ]):
            return False
        self._copy_in(written, _LENGTH.pack(len(message)) + message)
        self._counters[_WRITTEN] = written + size  # published last: half a message is never seen
        return True

    def read(self) -> bytes | None:
        """Take the oldest message; None if there is none."""
        read, written = self._counters[_READ], self._counters[_WRITTEN]
        if read == written:
            return None
        held = written - read
        if not _LENGTH.size <= held <= len(self._data):
            raise ChannelError(f"a ring claims to hold {held} bytes")
        (length,) = _LENGTH.unpack(self._copy_out(read, _LENGTH.size))
        if length > held - _LENGTH.size:
            raise ChannelError(f"a message claims {length} bytes of {held}")
        message = self._copy_out(read + _LENGTH.size, length)
        self._counters[_READ] = read + _LENGTH.size + length
        return message

    def release(self) -> None:
        """Let go of the memory, so that it can be unmapped."""
        self._counters.release()
        self._data.release()

    def _copy_in(self, counter: int, data: bytes) -> None:
        start = counter % len(self._data)
        first = min(len(data), len(self._data) - start)
        self._data[start : start + first] = data[:first]
        self._data[: len(data) - first] = data[first:]

    def _copy_out(self, counter: int, size: int) -> bytes:
        start = counter % len(self._data)
        first = min(size, len(self._data) - start)
        return bytes(self._data[start : start + first]) + bytes(self._data[: size - first])


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The two files that make a channel's other end, to be inherited by a child process."""

    memory: int
    bell: int


class Channel:
    """One end: sends into one ring, receives from the other."""

    def __init__(self, memory_file: int, bell: socket.socket, is_first: bool) -> None:
        size = _HEADER_BYTES + RING_BYTES
        self._map = mmap.mmap(memory_file, 2 * size)
        self._view = memoryview(self._map)
        rings = Ring(self._view[:size]), Ring(self._view[size:])
        self._outgoing, self._incoming = rings if is_first else rings[::-1]
        self._bell = bell
        self._bell.setblocking(False)
        self._poll = select.poll()
        self._poll.register(bell, select.POLLIN)
        self._is_cut = False

    @property
    def is_cut(self) -> bool:
        """Whether the other side has gone, as far as noticed while waiting."""
        return self._is_cut

    def send(self, message: bytes) -> bool:
        """Append a message and ring; False if the ring is full or the other side has gone."""
        if not self._outgoing.write(message):
            return False
        try:
            self._bell.send(b"\0")
        except BlockingIOError:
            pass  # it has not listened to earlier rings yet: one more changes nothing
        except OSError:
            self._is_cut = True
            return False
        return True

    def receive(self) -> bytes | None:
        """The oldest message, None if there is none; does not wait."""
        return self._incoming.read()

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for the bell; False if it did not ring in time or the other side has gone."""
        timeout_ms = None if timeout_s is None else max(0.0, timeout_s) * 1e3
        if not self._poll.poll(timeout_ms):
            return False
        try:
            rings = self._bell.recv(_NUM_BELLS)
        except BlockingIOError:
            return False
        except OSError:
            rings = b""
        self._is_cut = self._is_cut or not rings
        return bool(rings)

    def close(self) -> None:
        """Hang up."""
        self._bell.close()
        for ring in (self._outgoing, self._incoming):
            ring.release()
        self._view.release()
        self._map.close()


def open_channel() -> tuple[Channel, Descriptors]:
    """A channel's first end, and the descriptors of its second, which the caller closes."""
    memory_file = os.memfd_create("specdec-draft")
    try:
        os.ftruncate(memory_file, 2 * (_HEADER_BYTES + RING_BYTES))
        ours, theirs = socket.socketpair()
        return Channel(memory_file, ours, is_first=True), Descriptors(memory_file, theirs.detach())
    except OSError:
        os.close(memory_file)
        raise


def join_channel(descriptors: Descriptors) -> Channel:
    """The second end, in the process that inherited the descriptors."""
    bell = socket.socket(fileno=descriptors.bell)
    channel = Channel(descriptors.memory, bell, is_first=False)
    os.close(descriptors.memory)
    return channel
