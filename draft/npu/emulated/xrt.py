"""The emulated module pyxrt, and its batches of runs; it knows no model."""

from __future__ import annotations

from functools import partial

from draft.npu.emulated.buffers import EmulatedBo, EmulatedDevice, InfoKeys, SyncDirection
from draft.npu.emulated.machine import Machine
from draft.npu.emulated.runs import (
    CommandState,
    EmulatedContext,
    EmulatedKernel,
    EmulatedRun,
    EmulatedXclbin,
)


class EmulatedRunlist:
    """`pyxrt.runlist`: runs submitted together and waited for together."""

    def __init__(self, context: EmulatedContext) -> None:
        self._context = context
        self._runs: list[EmulatedRun] = []
        self._is_executing = False

    def add(self, run: EmulatedRun) -> None:
        """Append a run, while nothing executes; it is never started by itself again."""
        self._check_idle()
        run.is_listed = True
        self._runs.append(run)

    def execute(self) -> None:
        """Submit all."""
        self._check_idle()
        for run in self._runs:
            run.submit()
        self._is_executing = True

    def wait(self, timeout_ms: int = 0) -> CommandState:
        """Wait for all; the first state that is not COMPLETED."""
        self._is_executing = False
        states = (run.wait(timeout_ms) for run in self._runs)
        completed = CommandState.ERT_CMD_STATE_COMPLETED
        return next((state for state in states if state is not completed), completed)

    def _check_idle(self) -> None:
        if self._is_executing:
            raise RuntimeError("runlist is executing: Device or resource busy")


class EmulatedXrt:
    """The module."""

    bo = EmulatedBo
    kernel = EmulatedKernel
    run = EmulatedRun
    runlist = EmulatedRunlist
    xclbin = EmulatedXclbin
    hw_context = EmulatedContext
    xclBOSyncDirection = SyncDirection  # noqa: N815
    xrt_info_device = InfoKeys
    ert_cmd_state = CommandState

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.device = partial(EmulatedDevice, machine)
