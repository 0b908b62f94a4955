import pytest

from specdec.accept import accept
from specdec.types import DraftRun


@pytest.mark.parametrize(
    ("drafted", "target_ids", "accepted", "next_token", "is_bonus"),
    [
        ((), (5,), (), 5, True),
        ((4,), (4, 5), (4,), 5, True),
        ((4,), (3, 5), (), 3, False),
        ((4, 6, 8), (4, 6, 9, 1), (4, 6), 9, False),
        ((4, 6, 8), (4, 7, 8, 1), (4,), 7, False),  # agreeing again later does not count
        ((4, 6, 8), (4, 6, 8, 1), (4, 6, 8), 1, True),
    ],
)
def test_longest_agreeing_prefix_and_the_targets_next_token(
    drafted: tuple[int, ...],
    target_ids: tuple[int, ...],
    accepted: tuple[int, ...],
    next_token: int,
    is_bonus: bool,
) -> None:
    acceptance = accept(DraftRun(10, drafted), target_ids)
    assert acceptance.accepted == accepted
    assert acceptance.next_token == next_token
    assert acceptance.is_bonus == is_bonus
    assert acceptance.emitted == (*accepted, next_token)
