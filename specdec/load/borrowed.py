"""A target lent to several engines in turn; it adds nothing but whose it is."""

from __future__ import annotations

from typing import cast

from specdec.types import Verifier


class _Borrowed:
    """Everything of the lent verifier but its release."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    def __getattr__(self, name: str) -> object:
        return getattr(self._verifier, name)

    def release(self) -> None:
        """Its owner releases it."""


def borrowed(verifier: Verifier) -> Verifier:
    """`verifier` for an engine that must not release it. Only one may have sequences open."""
    return cast(Verifier, _Borrowed(verifier))
