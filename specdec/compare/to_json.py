"""A comparison as JSON, for machines and for the report's page."""

from __future__ import annotations

from datetime import UTC, datetime

from specdec.compare.estimates import Estimate
from specdec.compare.result import Comparison, Row, Sample
from specdec.compare.times import ms_per_token
from specdec.cost_cache import processor_name


def to_json(comparison: Comparison, plan: dict[str, object]) -> dict[str, object]:
    """The object of `specdec compare --json`; `plan` says what was asked for."""
    return {
        "benchmark": "compare",
        "label": "measured",
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor_name(),
        "target_device": comparison.target_device,
        "plan": plan,
        "num_pairs": comparison.num_pairs,
        "is_equal": not comparison.differences,
        "differences": [
            {"prompt_id": d.prompt_id, "contender": d.contender, "index": d.index}
            for d in comparison.differences
        ],
        "contenders": [
            {
                "name": entered.name,
                "settings": entered.settings,
                "draft_device": entered.draft_device,
                "numerics_id": entered.numerics_id,
            }
            for entered in comparison.entered
        ],
        "kinds": {
            kind: [_row_json(row) for row in rows] for kind, rows in comparison.kinds.items()
        },
        "samples": [_sample_json(sample) for sample in comparison.samples],
    }


def _row_json(row: Row) -> dict[str, object]:
    return {
        "contender": row.contender,
        "tokens_per_s": _estimate_json(row.tokens_per_s),
        "ratio": _estimate_json(row.ratio) if row.ratio else None,
        "passes_by_tokens": list(row.passes_by_tokens),
        "ms_per_token": {name: round(ms, 4) for name, ms in ms_per_token(row.stats).items()},
        "stats": row.stats.to_json() | {"num_tokens": row.stats.num_tokens},
    }


def _estimate_json(estimate: Estimate) -> dict[str, object]:
    return {
        "value": round(estimate.value, 4),
        "low": None if estimate.low is None else round(estimate.low, 4),
        "high": None if estimate.high is None else round(estimate.high, 4),
        "interval_over": estimate.over,
        "num_prompts": estimate.num_prompts,
        "num_values": estimate.num_values,
        "num_outliers": estimate.num_outliers,
    }


def _sample_json(sample: Sample) -> dict[str, object]:
    return {
        "kind": sample.kind,
        "contender": sample.contender,
        "prompt_id": sample.prompt_id,
        "prompt": sample.prompt,
        "tokens": [[token.origin, token.text] for token in sample.tokens],
        "lengths": [list(lengths) for lengths in sample.lengths],
    }
