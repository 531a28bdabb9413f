"""The pages' style sheets: a brace too few and a rule holds on other screens than it was meant for."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from regrip.launch.report import template

FOLDER = resources.files("regrip.launch") / "templates"
PAGES = sorted(file.name for file in FOLDER.iterdir() if file.name.endswith(".html"))


@pytest.mark.parametrize("name", PAGES)
def test_every_rule_is_closed_where_it_should_be(name: str) -> None:
    found = re.search(r"<style>(.*?)</style>", (FOLDER / name).read_text(), re.DOTALL)
    assert found is not None
    style = template(name).environment.from_string(found[1]).render()
    depth = 0
    for part in re.findall(r"@media|[{}]", style):
        assert part != "@media" or depth == 0, "a rule for some screens inside another"
        depth += {"{": 1, "}": -1}.get(part, 0)
        assert 0 <= depth <= 2
    assert depth == 0
    assert "--ink:" in style
