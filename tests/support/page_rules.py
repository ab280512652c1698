"""axe-core's rules on the page that a browser shows."""

from __future__ import annotations

import gzip
from pathlib import Path

from page_browser import Page

AXE = Path(__file__).parents[1] / "data" / "axe.min.js.gz"


def faults(page: Page) -> list[str]:
    """Serious and critical faults that axe-core finds now."""
    if not page.tab.evaluate("'axe' in window"):
        page.tab.evaluate(gzip.decompress(AXE.read_bytes()).decode())
    found = page.tab.evaluate("axe.run({ resultTypes: ['violations'] })")
    return [
        f"{fault['id']} ({fault['impact']}): {node['html'][:120]}: {node.get('failureSummary', '')[:200]}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
