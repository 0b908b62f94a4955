"""The emulated pyxrt does what the real one is reported to do, mistakes included."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from npu_rig import (
    BUFFER_BYTES,
    COMPLETED,
    FROM_DEVICE,
    TIMEOUT,
    TO_DEVICE,
    Rig,
    echo_stream,
    load_element,
    make_machine,
    make_xrt,
)

from draft.npu.emulated import runs
from draft.npu.emulated.latency import LatencyModel
from draft.npu.emulated.machine import Fault, Faults
from draft.npu.emulated.shim_decoder import decode_stream
from draft.npu.layout import ELEMENT_BYTES

TESTS = Path(__file__).parent


def test_an_element_goes_through_the_array_and_back() -> None:
    rig = Rig()
    assert rig.start().wait(100) is COMPLETED
    assert rig.is_echoed()


def test_what_is_not_synced_to_the_device_is_stale_there() -> None:
    rig = Rig()
    rig.buffers[0].write(load_element(1000.0).tobytes(), 0)
    rig.start().wait(100)
    assert rig.is_echoed(1.0)
    rig.buffers[0].sync(TO_DEVICE)
    rig.start().wait(100)
    assert rig.is_echoed(1000.0)


def test_what_was_never_synced_is_not_even_zero() -> None:
    rig = Rig()
    rig.buffers[2].write(load_element().tobytes(), 0)
    rig.instructions = rig.store(echo_stream(source=2))
    assert rig.start().wait(100) is COMPLETED
    assert not rig.is_echoed() and (rig.buffers[2].memory.device[:ELEMENT_BYTES] == 0xFF).all()


def test_what_is_not_synced_from_the_device_is_stale_here() -> None:
    rig = Rig()
    rig.start().wait(100)
    assert (rig.heard(sync=False) == 0).all()
    assert rig.is_echoed()


def test_nothing_has_happened_before_the_wait() -> None:
    rig = Rig()
    run = rig.start()
    assert (rig.heard() == 0).all()
    assert run.state() is COMPLETED and rig.is_echoed()


def test_a_wrong_group_id_completes_and_touches_nothing() -> None:
    rig = Rig()
    right = rig.buffers[0]
    rig.buffers[0] = rig.buffer(rig.kernel.group_id(4))
    rig.write(rig.buffers[0], 0, load_element())
    assert rig.start().wait(100) is COMPLETED
    assert not rig.is_echoed() and "IO_PAGE_FAULT" in rig.machine.page_faults[0]
    rig.buffers[0] = right
    rig.start().wait(100)
    assert rig.is_echoed()


def test_instructions_in_a_data_buffer_are_not_found() -> None:
    rig = Rig()
    group = rig.kernel.group_id(1)
    rig.instructions = rig.xrt.bo(rig.device, len(rig.stream), rig.xrt.bo.host_only, group)
    rig.write(rig.instructions, 0, np.frombuffer(rig.stream, np.uint8))
    assert rig.start().wait(100) is COMPLETED
    assert not rig.is_echoed() and rig.machine.page_faults


@pytest.mark.parametrize("call", ["rig.kernel(*arguments)", "run.set_arg(6, rig.buffers[0])"])
def test_more_buffers_than_declared_end_the_process(call: str) -> None:
    make_machine()  # compiled here, not in the process that dies
    script = f"""
from npu_rig import Rig
rig = Rig()
arguments = [*rig.arguments(), rig.buffers[0]]
run = rig.xrt.run(rig.kernel)
{call}
"""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert ended.returncode == -11 and b"segmentation fault" in ended.stderr


def test_the_seventh_context_is_refused_until_one_is_free() -> None:
    xrt = make_xrt()
    rigs = [Rig(xrt) for _ in range(6)]
    with pytest.raises(RuntimeError, match=r"CREATE_HWCTX IOCTL failed \(err=-22\)"):
        Rig(xrt)
    rigs.pop()
    rigs.append(Rig(xrt))
    assert rigs[-1].start().wait(100) is COMPLETED


def test_little_lockable_memory_fails_where_the_heap_is_mapped() -> None:
    machine = make_machine(faults=Faults(is_memlock_low=True))
    with pytest.raises(RuntimeError, match=r"len=67108864.*err=-11"):
        Rig(make_xrt(machine))


def test_a_sub_buffer_is_part_of_its_parent_for_host_and_device() -> None:
    rig = Rig()
    whole = rig.buffers[0]
    part = rig.xrt.bo(whole, ELEMENT_BYTES, ELEMENT_BYTES)
    part.map()[:] = load_element(500.0).tobytes()
    part.sync(TO_DEVICE)
    rig.buffers[0] = part
    rig.start().wait(100)
    assert rig.is_echoed(500.0)
    with pytest.raises(RuntimeError, match="out of its parent's bounds"):
        rig.xrt.bo(whole, BUFFER_BYTES, 64)


def test_a_sub_buffer_of_a_sub_buffer_has_the_address_of_another() -> None:
    rig = Rig()
    part = rig.xrt.bo(rig.buffers[0], 3 * ELEMENT_BYTES, ELEMENT_BYTES)
    inner = rig.xrt.bo(part, ELEMENT_BYTES, ELEMENT_BYTES)
    inner.map()[:] = load_element(500.0).tobytes()  # the third element, right so far
    inner.sync(TO_DEVICE)
    rig.write(rig.buffers[0], ELEMENT_BYTES, load_element(900.0))
    rig.buffers[0] = inner
    rig.start().wait(100)
    assert rig.is_echoed(900.0)  # the second element


@pytest.mark.parametrize("wrong", [None, "3", 3.0, b"x"])
def test_a_wrong_typed_argument_is_left_unset_without_a_word(wrong: object) -> None:
    rig = Rig()
    for place in range(6):
        arguments = rig.arguments()
        arguments[place] = wrong
        assert rig.kernel(*arguments).wait(100) is COMPLETED
        assert not rig.is_echoed()
        with pytest.raises(TypeError):
            rig.xrt.run(rig.kernel).set_arg(place, wrong)


def test_any_integer_is_an_integer_argument() -> None:
    rig = Rig()
    arguments = rig.arguments()
    arguments[2] = np.int64(len(rig.stream))
    rig.kernel(*arguments).wait(100)
    assert rig.is_echoed()


def test_another_opcode_is_an_error() -> None:
    rig = Rig()
    assert rig.kernel(2, *rig.arguments()[1:]).wait(100).name == "ERT_CMD_STATE_ERROR"


def test_a_run_that_waits_for_more_than_comes_hangs_the_array_for_good() -> None:
    rig = Rig(stream=echo_stream(num_stored=2))
    assert rig.start().wait(100) is TIMEOUT
    rig.instructions = rig.store(echo_stream())
    run = rig.start()
    assert run.wait(100) is TIMEOUT and run.state().name == "ERT_CMD_STATE_SUBMITTED"


@pytest.mark.parametrize("arguments", [(), (0,)])
def test_a_wait_without_a_timeout_never_ends(arguments: tuple[int, ...]) -> None:
    rig = Rig(make_xrt(make_machine(faults=Faults(((0, Fault.TIMEOUT),)))))
    run = rig.start()
    waiter = threading.Thread(target=run.wait, args=arguments, daemon=True)
    waiter.start()
    waiter.join(0.1)
    assert waiter.is_alive()


def test_a_lost_context_stays_lost_and_a_new_one_works() -> None:
    rig = Rig(make_xrt(make_machine(faults=Faults(((1, Fault.CONTEXT_LOST),)))))
    assert rig.start().wait(100) is COMPLETED
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"EXEC_CMD IOCTL failed \(err=2\)"):
            rig.start()
    again = Rig(rig.xrt)
    assert again.start().wait(100) is COMPLETED


def test_a_transfer_beyond_its_buffer_is_a_page_fault_and_a_hang() -> None:
    rig = Rig(stream=echo_stream(offset=BUFFER_BYTES - ELEMENT_BYTES + 4))
    assert rig.start().wait(100) is TIMEOUT
    assert "IO_PAGE_FAULT" in rig.machine.page_faults[0]


def test_a_stream_is_decoded_once_until_its_buffer_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    num_decoded = 0

    def counting(stream: bytes, num_columns: int) -> object:
        nonlocal num_decoded
        num_decoded += 1
        return decode_stream(stream, num_columns)

    monkeypatch.setattr(runs, "decode_stream", counting)
    rig = Rig(stream=echo_stream() + b"")
    run = rig.xrt.run(rig.kernel)
    for index, argument in enumerate(rig.arguments()):
        run.set_arg(index, argument)
    for _ in range(5):
        run.start()
        assert run.wait(100) is COMPLETED
    assert num_decoded == 1 and rig.is_echoed()
    rig.write(rig.buffers[0], ELEMENT_BYTES, load_element(700.0))
    rig.instructions.write(echo_stream(offset=ELEMENT_BYTES), 0)
    run.start()
    assert run.wait(100) is COMPLETED
    assert num_decoded == 1 and rig.is_echoed(1.0)  # not synced yet
    rig.instructions.sync(TO_DEVICE)
    run.start()
    assert run.wait(100) is COMPLETED
    assert num_decoded == 2 and rig.is_echoed(700.0)


def test_a_runlist_runs_in_order_and_owns_its_runs() -> None:
    rig = Rig()
    rig.write(rig.buffers[0], ELEMENT_BYTES, load_element(700.0))
    runlist = rig.xrt.runlist(rig.context)
    for offset in (0, ELEMENT_BYTES):
        run = rig.xrt.run(rig.kernel)
        rig.instructions = rig.store(echo_stream(offset=offset))
        for index, argument in enumerate(rig.arguments()):
            run.set_arg(index, argument)
        runlist.add(run)
    runlist.execute()
    for forbidden in (runlist.execute, lambda: runlist.add(run), run.start):
        with pytest.raises(RuntimeError):
            forbidden()
    assert runlist.wait(100) is COMPLETED and rig.is_echoed(700.0)


def test_modelled_time_is_that_of_calls_waits_and_bytes_and_is_not_slept() -> None:
    latency = LatencyModel(call_s=5.0, wait_s=2.0, channel_bytes_per_s=ELEMENT_BYTES)
    rig = Rig(make_xrt(make_machine(latency)))
    run = rig.start()
    assert run.wait(10_000) is COMPLETED
    assert rig.machine.modelled_s == pytest.approx(5.0 + 2.0 + 2.0)  # two elements in
    assert rig.start().wait(8_999) is TIMEOUT


def test_a_corrupt_stream_says_so() -> None:
    rig = Rig(stream=b"\1" + echo_stream()[1:])
    with pytest.raises(RuntimeError, match="emulated NPU: instruction stream begins with"):
        rig.start().wait(100)


@pytest.mark.parametrize(
    "break_rule",
    [
        lambda rig: rig.xrt.device(1),
        lambda rig: rig.xrt.kernel(rig.context, "DPU"),
        lambda rig: rig.kernel.group_id(2),
        lambda rig: rig.buffers[0].sync(FROM_DEVICE, BUFFER_BYTES, 4),
    ],
)
def test_what_does_not_exist_is_a_runtime_error(break_rule: Callable[[Rig], object]) -> None:
    with pytest.raises(RuntimeError):
        break_rule(Rig())
