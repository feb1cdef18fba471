"""The keeper of the pages: what it finds in a source tree, a page and a README, each played small."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_PATH = Path(__file__).parents[3] / "scripts" / "docs.py"
_SPEC = importlib.util.spec_from_file_location("docs_script", _PATH)
docs = importlib.util.module_from_spec(_SPEC)
sys.modules["docs_script"] = docs
_SPEC.loader.exec_module(docs)


@pytest.fixture
def project(tmp_path):
    """Write files into a small project; return its root."""

    def make(**files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_md", ".md").replace("_py", ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


# -- error codes ---------------------------------------------------------------------------------------------

SOURCE = '''
"""Mentions attest.in-a-docstring and "attest.in-prose"."""
_CODE = "attest.in-a-constant"
TABLE = {"a": ("attest.in-a-table", 1)}

def plain(size):
    raise AttestError("attest.plain", f"{size} bytes | too many", step="x")

def by_name():
    raise ParseError(_CODE, "first")

def by_helper():
    refuse("attest.by-helper", "why")

def refuse(code, why):
    raise AttestError(code, why)

def over_http():
    return problem(400, "attest.over-http", "told " "to a browser")

def keyword(body):
    return error_from(ClientError, 400, body, code="client.keyword", who="it")

def either(flag):
    raise AttestError("attest.this" if flag else "attest.that", "one of two")

def family(name):
    raise AttestError(f"attest.{name}-expired", "over")

def logged(error):
    log.error("attest.only-logged")
    if error.code == "attest.only-compared" or error.code in {"attest.only-in-a-set"}:
        STATUS = {"attest.only-a-key": 400}
        open("identity.pem")
'''


@pytest.fixture
def uses(project):
    root = project(src__mitai__part_py=SOURCE)
    return {use.code: use for use in docs.error_uses(docs.parse_sources(root / "src"), root)}


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("attest.plain", "AttestError", "… bytes | too many"),
        ("attest.in-a-constant", "ParseError", "first"),
        ("attest.in-a-table", "AttestError", ""),
        ("attest.by-helper", "AttestError", "why"),
        ("attest.over-http", "over HTTP", "told to a browser"),
        ("client.keyword", "ClientError", ""),
        ("attest.this", "AttestError", "one of two"),
        ("attest.that", "AttestError", "one of two"),
        ("attest.*-expired", "AttestError", "over"),
    ],
)
def test_codes_are_found_wherever_they_are_given(uses, code, kind, message):
    assert (uses[code].kind, uses[code].message, uses[code].where) == (kind, message, "src/mitai/part.py")


def test_what_only_looks_like_a_code_is_left_out(uses):
    assert not {"attest.in-prose", "attest.only-logged", "attest.only-compared", "identity.pem"} & set(uses)
    assert not {"attest.only-in-a-set", "attest.only-a-key"} & set(uses)


def test_the_page_lists_each_code_once_with_all_its_messages():
    made = [
        docs.Use("attest.a", "x.py", "AttestError", "one | two"),
        docs.Use("attest.a", "y.py", "ParseError", "three"),
        docs.Use("serve.b", "x.py", "over HTTP", "<b>"),
    ]
    page = docs.errors_page(made)
    assert "| `attest.a` | `AttestError`, `ParseError` | one \\| two<br>three | `x.py`<br>`y.py` |" in page
    assert "| `serve.b` | over HTTP | &lt;b> | `x.py` |" in page
    assert page.index("## attest") < page.index("## serve")


def test_the_real_tree_has_the_codes_that_everybody_relies_on():
    root = Path(__file__).parents[3]
    found = {use.code for use in docs.error_uses(docs.parse_sources(root / "src"), root)}
    assert {"identity.signature-invalid", "fleet.replica-failed", "workload.nonce", "client.unreachable"} <= found


def test_codes_that_only_the_browser_has(tmp_path):
    source = tmp_path / "web" / "packages" / "a" / "src" / "x.ts"
    source.parent.mkdir(parents=True)
    source.write_text(
        'throw new MitaiError("attest.shared", "both");\n'
        'throw new MitaiError(\n  "attest.not-here",\n  `no ${tee} here`,\n);\n'
        'const code = { code: "client.odd-one", message: "…" };\nconst words = { "serve.no-code": 1 };\n'
    )
    (tmp_path / "web" / "node_modules" / "b" / "src").mkdir(parents=True)
    (tmp_path / "web" / "node_modules" / "b" / "src" / "x.ts").write_text('new MitaiError("attest.theirs")')
    shared = [docs.Use("attest.shared", "src/a.py", "AttestError", "both")]
    where = "web/packages/a/src/x.ts"
    assert docs.browser_uses(tmp_path, shared) == [
        docs.Use("attest.not-here", where, "MitaiError", "no … here"),
        docs.Use("client.odd-one", where, "MitaiError", ""),
    ]


def test_codes_that_a_page_invents_are_found(project):
    root = project(
        docs__a_md="`attest.real` `attest.tcb-info-expired` `attest.dreamt` `broker.toml` `identity.py` attest.prose"
    )
    made = [docs.Use("attest.real", "", "", ""), docs.Use("attest.*-expired", "", "", "")]
    assert docs.unknown_codes(root, made) == ["docs/a.md: no error has the code attest.dreamt"]


# -- configuration -------------------------------------------------------------------------------------------

CONFIG = '''
"""Example:

limit = 3   # from the example
"""
import msgspec, os
_KIND = 'any'

class ThingConfig(msgspec.Struct, frozen=True):
    """What thing.toml says.

    Attributes:
        port: Where it listens,
            on loopback.
        kind: Not this, since a comment is nearer.
    """

    name: str  # how it is called
    # beside no line, but above
    sizes: dict[str, int] = {}
    kind: str = _KIND  # which
    port: Annotated[int, Meta(ge=0, le=65535)] = 8700
    bytes: Annotated[int, Meta(ge=1 << 20)] | None = 3 << 31  # so many
    limit: Annotated[Literal[1, 2], Meta(pattern="x")]

    def method(self): ...

HOME = os.environ.get("MITAI_THING")
'''
PAGE = "before\n<!-- generated: mitai.thing.ThingConfig -->\nold\n<!-- end -->\nafter `MITAI_THING`\n"


def test_tables_come_from_the_struct(project):
    root = project(src__mitai__thing_py=CONFIG)
    page = docs.configuration_page(PAGE, root)
    assert page.splitlines()[2:10] == [
        "| setting | type | default | meaning |",
        "| --- | --- | --- | --- |",
        "| `name` | `str` | required | how it is called |",
        "| `sizes` | `dict[str, int]` | `{}` | beside no line, but above |",
        "| `kind` | `str` | `'any'` | which |",
        "| `port` | `int`, ≥ 0, ≤ 65535 | `8700` | Where it listens, on loopback. |",
        "| `bytes` | `int \\| None`, ≥ 1 MiB | `6 GiB` | so many |",
        "| `limit` | `Literal[1, 2]` | required | from the example |",
    ]
    assert (page.startswith("before\n"), page.endswith("after `MITAI_THING`\n"), "old" in page) == (True, True, False)
    assert docs.configuration_page(page, root) == page


def test_a_table_of_nothing_is_an_error(project):
    root = project(src__mitai__thing_py=CONFIG.replace("ThingConfig", "Other"))
    with pytest.raises(LookupError):
        docs.configuration_page(PAGE, root)


def test_settings_that_the_page_forgets(project):
    trees = docs.parse_sources(project(src__mitai__thing_py=CONFIG) / "src")
    assert docs.missing_settings(PAGE, trees) == []
    missing = docs.missing_settings("nothing", trees)
    assert [("ThingConfig" in line, "MITAI_THING" in line) for line in missing] == [(False, True), (True, False)]


# -- links and indexes ---------------------------------------------------------------------------------------


def test_broken_links_are_found_and_good_ones_are_not(project):
    root = project(
        README_md="[a](docs/a.md) [h](docs/a.md#two-words) [own](#top) [web](https://x.y/z) [folder](docs)\n# Top\n"
        "```text\n[in code](nowhere.md)\n```\n[gone](docs/b.md) [anchor](docs/a.md#three) [out](../../etc/passwd)\n",
        docs__a_md="# A\n## Two `words`\n[back](../README.md)\n",
    )
    assert docs.broken_links(root) == [
        "README.md: docs/b.md leads nowhere",
        "README.md: docs/a.md#three has no such heading",
        "README.md: ../../etc/passwd leads nowhere",
    ]


def test_pages_of_other_projects_are_left_out(project):
    root = project(README_md="# x")
    for folder in (".venv/lib", "node_modules/x", ".pytest_cache"):
        (root / folder).mkdir(parents=True)
        (root / folder / "README.md").write_text("[x](nowhere)")
    assert docs.pages(root) == [root / "README.md"]


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("# One", "one"),
        ("### What *it* does, and why", "what-it-does-and-why"),
        ("## `mitai up`", "mitai-up"),
        ("## 密态 in Chinese", "密态-in-chinese"),
        ("## See [this](x.md)", "see-this"),
    ],
)
def test_anchors(heading, anchor):
    assert docs.anchors(heading) == {anchor}


def test_headings_of_one_name_are_numbered():
    assert docs.anchors("# A\n# A\n# A\n") == {"a", "a-1", "a-2"}


def test_indexes_list_the_pages_by_title(project):
    root = project(
        docs__README_md="# Index\n<!-- index: spec -->\n<!-- end -->\n",
        docs__spec__b_md="# The B\n",
        docs__spec__a_md="# The A\n",
        docs__spec__README_md="# no\n",
    )
    page = docs.index_page(root / "docs/README.md")
    assert page == "# Index\n<!-- index: spec -->\n- [The A](spec/a.md)\n- [The B](spec/b.md)\n<!-- end -->\n"


# -- the README's commands -----------------------------------------------------------------------------------


def block(text: str, language: str = "console", marked: bool = True) -> str:
    return ("<!-- run -->\n" if marked else "") + f"```{language}\n{text}\n```\n"


def test_marked_blocks_run_in_order_in_one_fresh_home(tmp_path, capfd):
    page = (
        block("$ mkdir -p $MITAI_HOME; echo one > $MITAI_HOME/file\noutput is no command: $ exit 3")
        + block("$ exit 4", marked=False)
        + block("import os, pathlib; print(pathlib.Path('~/.mitai/file').expanduser().read_text())", "python")
        + block("$ A=two\n$ echo $A; pwd")
    )
    assert docs.run_blocks(page, tmp_path) == 0
    told = capfd.readouterr().out
    assert "one" in told
    assert "$ echo $A; pwd\ntwo\n" + str(tmp_path) in told


def test_what_a_person_types_reaches_the_command_before_it(tmp_path, capfd):
    page = block("$ cat > typed   # a comment\n› $HOME 'two'\nan answer\n› 三\n$ cat typed; cat\nend")
    assert docs.run_blocks(page, tmp_path) == 0
    assert capfd.readouterr().out == "$ cat > typed   # a comment\n$ cat typed; cat\n$HOME 'two'\n三\n"


def test_the_first_failure_ends_it(tmp_path, capfd):
    page = block("$ false\n$ echo never") + block("$ echo never")
    assert docs.run_blocks(page, tmp_path) == 1
    captured = capfd.readouterr()
    assert "never" not in captured.out.replace("$ echo never", "")
    assert "status 1" in captured.err
