"""The README says what the code does: links, targets, verbs, topics, parameters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ros_helpers import require_ros

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    for target in targets:
        assert target.startswith("http") or (page.parent / target).exists(), f"{page.name} links to {target}"
    assert page.name != "README.md" or len(targets) >= 5


def test_the_commands_exist() -> None:
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"make ([a-z]+)", text))
    rules = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= targets <= rules
    from a2p_ros.cli import make_parser

    known = make_parser().format_help()
    for verb in set(re.findall(r"\ba2p ([a-z-]+)\b", text)):
        assert verb in known, f"the README names `a2p {verb}`"


def test_parameters_are_those_of_the_nodes() -> None:
    require_ros()
    from a2p_ros.ros.parameter_file import parameter_tables

    tables = parameter_tables()
    assert tables.count("\n|") > 40
    assert tables in (ROOT / "docs" / "parameters.md").read_text(), (
        "run: python -m a2p_ros.ros.parameter_file --markdown"
    )


def test_every_topic_and_service_is_named() -> None:
    text = (ROOT / "README.md").read_text()
    for source in ("outputs.py", "hands_node.py"):
        code = (ROOT / "a2p_ros" / "ros" / source).read_text()
        names = re.findall(r"create_(?:publisher|service)\(\s*\w+,\s*\"([^\"]+)\"", code)
        assert names
        for name in names:
            assert f"`{name}`" in text, f"{name} of {source} is not in the README"
