"""The worker process: builds one drafter for its owner and serves it; it knows no model.

Started as `python -m draft.worker_process MEMORY BELL OWNER`: two inherited descriptors and the
owner's process id. The first message is the pickled factory of the drafter.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys

from draft.messages import DrafterFactory, Failed, Ready, encode_reply
from draft.server import DraftServer, OwnerGoneError, reply_to
from draft.shared_memory import Channel, Descriptors, join_channel
from specdec.errors import SpecdecError

_PR_SET_PDEATHSIG = 1


def _die_with_owner(owner_pid: int) -> None:
    """Be killed when the owner dies, however it dies, and outlive its Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != owner_pid:  # it died before the call
        sys.exit(0)


def _serve(channel: Channel) -> None:
    """Build the drafter and serve."""
    channel.wait(None)
    message = channel.receive()
    if message is None:
        return
    factory: DrafterFactory = pickle.loads(message)
    drafter = factory()
    try:
        reply_to(channel, Ready(drafter.device))
        DraftServer(drafter, channel).serve()
    except OwnerGoneError:
        drafter.release()


def main() -> int:
    """Run until the owner goes (0) or the drafter raises (1)."""
    memory, bell, owner_pid = map(int, sys.argv[1:])
    _die_with_owner(owner_pid)
    channel = join_channel(Descriptors(memory, bell))
    try:
        _serve(channel)
    except SpecdecError as error:
        channel.send(encode_reply(Failed(str(error))))
        return 1
    except Exception as error:  # whatever a drafter raises ends this process and is reported
        channel.send(encode_reply(Failed(f"{type(error).__name__}: {error}")))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
