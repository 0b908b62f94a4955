"""A comparison's JSON as one HTML file that needs nothing else; it computes nothing.

The page is `assets/report.html`, with `@name@` replaced by the file of that name. Charts are drawn
in the browser by Observable Plot on D3 (both ISC licence, `assets/vendor`).
"""

from __future__ import annotations

import json
import re

from specdec.assets import asset_dir


def page(result: dict[str, object]) -> str:
    """The HTML text for the object of `specdec compare --json`."""
    directory = asset_dir("compare/assets")
    # inside a script element `</` could end it; JSON allows the slash to be escaped
    data = (
        json.dumps(result, ensure_ascii=False).replace("</", "<\\/").replace("<!--", "<\\u0021--")
    )
    parts = re.split(
        r"@([\w./-]+\.(?:js|css)|data)@", (directory / "report.html").read_text("utf-8")
    )
    for i in range(1, len(parts), 2):
        name = parts[i]
        parts[i] = data if name == "data" else (directory / name).read_text("utf-8")
    return "".join(parts)
