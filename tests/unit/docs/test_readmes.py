"""The two READMEs say the same: the same commands, the same parts in the same order, the same pages linked."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
ENGLISH, CHINESE = (ROOT / "README.md").read_text(), (ROOT / "README.zh-CN.md").read_text()


def commands(page):
    """Return the commands of console blocks, without comments and names that a reader fills in."""
    blocks = re.findall(r"^```console\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [re.sub(r"(?<=deploy )\S+", "ID", line) for line in lines]


def transcript(page):
    return re.search(r"^```console\n\$ source (.*?)^```", page, re.DOTALL | re.MULTILINE)[1]


def test_commands():
    assert len(commands(ENGLISH)) > 10
    assert commands(CHINESE) == commands(ENGLISH)
    assert transcript(CHINESE) == transcript(ENGLISH)


def test_the_table_of_threats_has_the_same_rows():
    threats = [re.findall(r"^\| .*\|$", page.split("\n## ")[5], re.MULTILINE) for page in (ENGLISH, CHINESE)]
    assert len(threats[0]) == len(threats[1]) > 8


def test_links():
    links = [set(re.findall(r"\]\(([^)]+)\)", page)) - {"README.md", "README.zh-CN.md"} for page in (ENGLISH, CHINESE)]
    extra = {"benchmarks/README.md", "docs/spec", "docs/adr"}  # of parts that are in English alone
    assert links[1] <= links[0] <= links[1] | extra


def test_every_target_of_make_is_explained():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    assert targets == set(re.findall(r"^([a-z0-9-]+):.*## \S", makefile, re.MULTILINE))
