"""The draft worker: nothing that happens to it changes the output or stays behind."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from fakes import ByteTokenizer, RuleDrafter, RuleVerifier, rule
from faulty_drafters import FAULTS, Fault, Faulty, dying, perfect, unbuildable, unspeaking

from draft.worker import WorkerDrafter, WorkerSettings
from specdec.controller import FixedLength
from specdec.engine import Engine
from specdec.errors import DeviceError
from specdec.generation import Generation
from specdec.requests import GenerationDefaults
from specdec.types import DraftRun, SamplingParams, Segment

GREEDY = SamplingParams()
HASTY = WorkerSettings(hang_timeout_s=0.5, pause_s=0.01)
TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    before = set(os.listdir("/dev/shm")), child_pids()
    files = len(os.listdir("/proc/self/fd"))
    yield
    assert (set(os.listdir("/dev/shm")), child_pids()) == before
    assert len(os.listdir("/proc/self/fd")) == files


def child_pids() -> set[int]:
    """Children of this process, zombies too."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has just ended
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


class SlowVerifier(RuleVerifier):
    """Leaves a worker the time to come back; `before_pass` may do it harm."""

    def __init__(self, pass_s: float, before_pass: Callable[[int], None] = lambda n: None) -> None:
        super().__init__()
        self.pass_s = pass_s
        self.before_pass = before_pass

    def verify(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        self.before_pass(self.num_passes)
        time.sleep(self.pass_s)
        return super().verify(segments)


def generate(drafter: WorkerDrafter, verifier: RuleVerifier, num_tokens: int = 60) -> Generation:
    defaults = GenerationDefaults(max_new_tokens=num_tokens)
    engine = Engine(verifier, drafter, FixedLength(4), ByteTokenizer(), defaults)
    (result,) = [event.result for event in engine.generate(["some prompt"]) if event.result]
    return result


def plain_ids(count: int) -> tuple[int, ...]:
    tokens = list(ByteTokenizer().encode("some prompt", add_bos=True))
    for _ in range(count):
        tokens.append(rule(tokens))
    return tuple(tokens[-count:])


def test_runs_of_a_worker_are_those_of_its_drafter() -> None:
    drafter = WorkerDrafter(perfect)
    assert drafter.device == "fake-draft"
    for _ in range(3):
        result = generate(drafter, RuleVerifier())
        assert result.token_ids == plain_ids(60)
        assert result.stats.num_accepted_tokens == result.stats.num_draft_tokens == 48
    drafter.release()


def some_slow(values: Sequence[str], quick: Sequence[str]) -> list[object]:
    """All values; those that are not `quick` are left to `make test`."""
    return [v if v in quick else pytest.param(v, marks=pytest.mark.slow) for v in values]


@pytest.mark.parametrize("fault", some_slow(FAULTS, ("raise", "stop", "huge")))
def test_a_fault_costs_drafts_and_one_warning_and_never_the_output(
    fault: Fault, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specdec.rounds._DRAFT_TIMEOUT_S", 0.2)
    caplog.set_level(logging.INFO, "specdec")
    drafter = WorkerDrafter(Faulty(fault, position=30), HASTY)
    result = generate(drafter, SlowVerifier(0.02))
    drafter.release()
    assert result.token_ids == plain_ids(60)
    assert result.stats.num_accepted_tokens >= 12  # until the fault
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    is_answer = fault in ("negative", "huge", "long", "elsewhere")  # dropped, the worker lives
    assert len(warnings) == (0 if is_answer else 1)
    assert all("\n" not in record.getMessage() for record in caplog.records)


@pytest.mark.slow
def test_a_killed_worker_comes_back_and_drafts_on(caplog: pytest.LogCaptureFixture) -> None:
    drafter = WorkerDrafter(perfect, HASTY)

    def harm(num_passes: int) -> None:
        if num_passes == 2:
            os.kill(worker_pid(), signal.SIGKILL)

    result = generate(drafter, SlowVerifier(0.05, harm), num_tokens=150)
    assert result.token_ids == plain_ids(150)
    assert result.stats.num_accepted_tokens > 30
    again = generate(drafter, RuleVerifier())
    assert again.stats.num_passes == 12  # as if nothing had been
    assert len(caplog.records) == 1
    drafter.release()


def test_a_worker_that_failed_unasked_is_quoted(caplog: pytest.LogCaptureFixture) -> None:
    drafter = WorkerDrafter(Faulty("raise", position=0))
    pid = worker_pid()
    drafter.open(0, [5, 6, 7], GREEDY)
    while is_alive(pid):
        time.sleep(0.01)
    drafter.confirm(0, [8])
    assert "failed: " in caplog.text and "exit code" not in caplog.text
    drafter.release()


def test_a_stopped_worker_is_waited_for_once_then_killed_and_replaced() -> None:
    drafter = WorkerDrafter(perfect, HASTY)
    drafter.open(0, [5, 6, 7], GREEDY)
    first_pid = worker_pid()
    os.kill(first_pid, signal.SIGSTOP)
    assert drafter.take(0, 3, 4, 0.05).token_ids == ()
    start = time.monotonic()
    while worker_pid_or_none() == first_pid:
        asked = time.monotonic()
        assert drafter.take(0, 3, 4, 5.0).token_ids == ()
        assert time.monotonic() - asked < 2.0  # not 5: it is late already, or being killed
        assert time.monotonic() - start < 20.0
        time.sleep(0.02)
    while not drafter.take(0, 3, 4, 5.0).token_ids:
        assert time.monotonic() - start < 40.0
        time.sleep(0.02)
    assert worker_pid() != first_pid
    drafter.release()


def test_a_late_run_is_dropped_and_the_next_one_is_right() -> None:
    drafter = WorkerDrafter(perfect)
    tokens = [5, 6, 7]
    drafter.open(0, tokens, GREEDY)
    os.kill(worker_pid(), signal.SIGSTOP)
    assert drafter.take(0, 3, 4, 0.05) == DraftRun(3)
    tokens.append(9)
    drafter.confirm(0, [9])
    os.kill(worker_pid(), signal.SIGCONT)
    start = time.monotonic()
    while not (run := drafter.take(0, 4, 4, 5.0)).token_ids:
        assert time.monotonic() - start < 20.0
        time.sleep(0.01)
    for _ in range(4):
        tokens.append(rule(tokens))
    assert run.token_ids == tuple(tokens[4:])
    drafter.release()


def test_after_its_last_restart_a_worker_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "specdec")
    settings = WorkerSettings(max_restarts=1, pause_s=0.01)
    drafter = WorkerDrafter(Faulty("exit", position=0), settings)
    drafter.open(0, [5, 6, 7], GREEDY)
    start = time.monotonic()
    while len(caplog.records) < 2 and time.monotonic() - start < 20.0:
        assert drafter.take(0, 3, 4, 5.0).token_ids == ()
        time.sleep(0.01)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "exit code 7" in caplog.text and "no drafting from now on" in caplog.text
    time.sleep(0.1)
    assert drafter.take(0, 3, 4, 5.0).token_ids == () and worker_pid_or_none() is None
    drafter.release()


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (unbuildable, "draft: no such directory"),
        (dying, "died of signal 9"),
        (unspeaking, "is silent"),
    ],
)
def test_a_worker_that_cannot_start_is_an_error(
    factory: Callable[[], RuleDrafter], reason: str
) -> None:
    timeout_s = 1.0 if factory is unspeaking else 30.0
    with pytest.raises(DeviceError, match=reason):
        WorkerDrafter(factory, WorkerSettings(start_timeout_s=timeout_s))


def test_a_worker_ignores_ctrl_c() -> None:
    drafter = WorkerDrafter(perfect)
    os.kill(worker_pid(), signal.SIGINT)
    drafter.open(0, [5, 6, 7], GREEDY)
    assert len(drafter.take(0, 3, 4, 5.0).token_ids) == 4
    assert os.getsid(worker_pid()) != os.getsid(0)  # nor does a terminal send it to it
    drafter.release()


ENDINGS = ("os.kill(os.getpid(), 9)", "os._exit(0)", "pass", "1 / 0")


@pytest.mark.parametrize("ending", some_slow(ENDINGS, ENDINGS[:1]))
def test_a_worker_does_not_outlive_its_owner(ending: str) -> None:
    script = f"""
import os, sys
from faulty_drafters import Faulty
from draft.worker import WorkerDrafter
drafter = WorkerDrafter(Faulty("hang", 0))
drafter.open(0, [5, 6, 7], __import__("specdec.types").types.SamplingParams())
drafter.take(0, 3, 4, 0.3)  # it hangs now
print(drafter._process.pid, flush=True)
{ending}
"""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    owner = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    pid = int(owner.stdout)
    deadline = time.monotonic() + 10.0
    while is_alive(pid):
        assert time.monotonic() < deadline, "the worker is still there"
        time.sleep(0.01)


@pytest.mark.slow
def test_fifty_kills_change_nothing() -> None:
    settings = WorkerSettings(max_restarts=1000, pause_s=0.0, num_good_runs=1)
    drafter = WorkerDrafter(perfect, settings)
    kills = []

    def harm(num_passes: int) -> None:
        pid = worker_pid_or_none()
        if pid is not None and pid not in kills:
            kills.append(pid)
            os.kill(pid, (signal.SIGKILL, signal.SIGSEGV)[num_passes % 2])

    while len(kills) < 50:
        result = generate(drafter, SlowVerifier(0.05, harm), num_tokens=120)
        assert result.token_ids == plain_ids(120)
    assert generate(drafter, SlowVerifier(0.1), num_tokens=200).stats.num_accepted_tokens > 100
    drafter.release()


def worker_pid_or_none() -> int | None:
    """The worker among this process's children."""
    for pid in child_pids():
        try:
            if b"draft.worker_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        except OSError:
            continue
    return None


def worker_pid() -> int:
    pid = worker_pid_or_none()
    assert pid is not None
    return pid


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # nobody in this container may be there to collect an orphan
