"""How fast a device copies its own memory; it knows no model."""

from __future__ import annotations

import statistics
import time

from target.vulkan import Device, MemoryKind, Recorder

_LARGEST_BYTES = 256 << 20
_COPIES = 4  # per replay
_WARM_UP_S = 0.2  # an idle GPU needs some 0.1 s of work to raise its clock
_SAMPLES = 7


def copy_gb_s(device: Device) -> float:
    """Bytes read plus written per second by copies between two buffers (median), in 10^9."""
    memory = device.memory
    size_bytes = min(_LARGEST_BYTES, memory.block_limit_bytes, memory.available_bytes() // 4)
    size_bytes = size_bytes // memory.alignment * memory.alignment
    buffers = [memory.allocate(size_bytes, MemoryKind.DEVICE, "bandwidth") for _ in range(2)]
    recorder = Recorder(device, "bandwidth")
    for _ in range(_COPIES):
        recorder.copy(buffers[0].whole, buffers[1].whole)
    job = recorder.finish()
    try:
        end = time.perf_counter() + _WARM_UP_S
        while time.perf_counter() < end:
            job.run()
        samples = []
        for _ in range(_SAMPLES):
            start = time.perf_counter()
            job.run()
            samples.append(time.perf_counter() - start)
    finally:
        job.release()
        for buffer in buffers:
            memory.free(buffer)
    return 2 * _COPIES * size_bytes / statistics.median(samples) / 1e9
