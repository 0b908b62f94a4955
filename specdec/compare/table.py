"""A comparison as a table for people; it prints nothing itself."""

from __future__ import annotations

from specdec.compare.contenders import BASELINE
from specdec.compare.estimates import Estimate
from specdec.compare.result import Comparison, Row

_HEADER = ("kind", "configuration", "tokens/s", f"x {BASELINE}", "tokens/pass", "accepted", "n")


def table(comparison: Comparison) -> str:
    """Rows by kind and contender, then what the figures mean and whether all outputs agree."""
    cells: list[tuple[str, ...]] = [_HEADER]
    for kind, rows in comparison.kinds.items():
        cells += [_cells(kind if i == 0 else "", row) for i, row in enumerate(rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADER))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    return "\n".join([*lines, "", *_notes(comparison)])


def _cells(kind: str, row: Row) -> tuple[str, ...]:
    stats = row.stats
    return (
        kind,
        row.contender,
        _shown(row.tokens_per_s, 1),
        _shown(row.ratio, 2) if row.ratio else "",
        f"{stats.tokens_per_pass:.2f}",
        f"{stats.acceptance_rate:.0%}" if stats.num_draft_tokens else "",
        str(row.tokens_per_s.num_values + row.tokens_per_s.num_outliers),
    )


def _shown(estimate: Estimate, digits: int) -> str:
    """`1.93 (1.71-2.20)`, without an interval where there are too few values for one."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f}-{estimate.high:.{digits}f})"


def _notes(comparison: Comparison) -> list[str]:
    estimates = [
        estimate
        for rows in comparison.kinds.values()
        for row in rows
        for estimate in (row.tokens_per_s, row.ratio)
        if estimate
    ]
    drafts = {entered.draft_device for entered in comparison.entered} - {"off"}
    removed = sum(estimate.num_outliers for estimate in estimates)
    judged = removed + sum(estimate.num_values for estimate in estimates)
    over = " and ".join(sorted({e.over for e in estimates if e.over}))
    intervals = f"95 % bootstrap intervals over {over}" if over else "too few values for intervals"
    return [
        f"measured on {comparison.target_device}, draft {', '.join(sorted(drafts)) or 'off'}; "
        f"{comparison.num_pairs} prompts run by every configuration in turn",
        f"medians; {intervals}; {removed} of {judged} values removed as outliers",
        *_idle(comparison),
        *_slower(comparison),
        _verdict(comparison),
    ]


def _idle(comparison: Comparison) -> list[str]:
    """A line for each contender that was to draft and never did: its ratio shows noise alone."""
    drafted = {
        row.contender
        for rows in comparison.kinds.values()
        for row in rows
        if row.stats.num_draft_tokens + row.stats.num_unchecked_tokens
    }
    return [
        f"{entered.name} drafted nothing (draft {entered.draft_device}): it is plain decoding too"
        for entered in comparison.entered
        if entered.name not in {BASELINE} | drafted
    ]


def _slower(comparison: Comparison) -> list[str]:
    """A line that names what is slower than plain decoding beyond noise, if anything is."""
    named = [
        f"{row.contender} on {kind}"
        for kind, rows in comparison.kinds.items()
        for row in rows
        if row.ratio and row.ratio.high is not None and row.ratio.high < 1.0
    ]
    return [f"slower than {BASELINE} beyond noise: {', '.join(named)}"] if named else []


def _verdict(comparison: Comparison) -> str:
    if not comparison.differences:
        return "all outputs are equal, token for token"
    first = comparison.differences[0]
    return (
        f"OUTPUTS DIFFER in {len(comparison.differences)} runs, first: prompt "
        f"{first.prompt_id!r} by {first.contender!r} from token {first.index} on"
    )
