"""WCAG 2.1, levels A and AA, on every tab, checked by axe-core in a browser."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.ui.steps import OpenPage, open_tab

pytestmark = pytest.mark.browser

RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}

UPSTREAM = {"aria-required-children", "aria-required-parent", "nested-interactive", "aria-prohibited-attr"}
"""Roles inside Gradio 6.31's own components that a page cannot mend."""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_tab_breaks_a_rule(open_page: OpenPage, theme: str) -> None:
    page = open_page(theme=theme)
    for name in ("Chat", "Document Q&A", "Similarity", "Caching"):
        open_tab(page, name)
        page.wait_for_timeout(1500)
        found = Axe().run(page, options=RULES).response["violations"]
        told = [
            f"{name}: {one['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
            for one in found
            if one["id"] not in UPSTREAM
            for node in one["nodes"]
        ]
        assert not told, "\n".join(told)
