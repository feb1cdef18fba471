"""Keep the pages true: `python scripts/docs.py` writes what is generated, `--check` only compares.

- `docs/errors.md`: every error code in the source, with its class, its message and where it is raised; of `web/`
  those that only the browser has.
- `docs/cli.md`: `--help` of every command.
- `docs/configuration.md`: the tables between `<!-- generated: MODULE.CLASS -->` and `<!-- end -->`, from the structs
  that read those files; a struct or a `MITAI_…` variable that the page does not mention fails the check.
- Lists between `<!-- index: FOLDER -->` and `<!-- end -->`: the pages of that folder, by their titles.
- Every error code that a page mentions exists in the source.
- Every relative link in every page, with its anchor.
- `--run-readme`: the blocks after a `<!-- run -->` line of README.md are run in order, in a fresh home folder:
  in ```console blocks what follows `$ `, with lines that start with `› ` as its input; ```python blocks whole.
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclopts import App

ROOT = Path(__file__).resolve().parent.parent
_PART = "attest|broker|capsule|channel|cli|client|demo|fleet|identity|ledger|mpc|proof|serve|train|web|witness|workload"
_CODE = re.compile(rf"(?:{_PART})\.[a-z0-9*]+(?:-[a-z0-9*]+)*")
_NO_CODES = {"md", "pem", "toml", "json", "local", "py"}  # file and host names look alike
_IN_BROWSER = re.compile(
    rf"""(?:MitaiError\(|code:)\s*"((?:{_PART})\.[a-z0-9]+(?:-[a-z0-9]+)*)"(?:,\s*(?:"([^"]*)"|`([^`]*)`))?"""
)
_LOGGING = {"debug", "info", "warning", "error", "exception", "critical"}
_GENERATED = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_INDEX = re.compile(r"(<!-- index: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_FENCE = re.compile(r"^(```+|~~~+).*?^\1 *$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_RUN = re.compile(r"^<!-- run -->\n+```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_NOTE = "<!-- Written by scripts/docs.py: change the source, then run it. -->"
_SKIPPED = {".venv", ".git", "node_modules", "build", "dist"}

Trees = dict[Path, ast.Module]


def parse_sources(folder: Path) -> Trees:
    """Parse every module below `folder`."""
    return {path: ast.parse(path.read_text()) for path in sorted(folder.rglob("*.py"))}


# -- docs/errors.md ------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Use:
    """One place where a code is given to an error."""

    code: str
    where: str
    kind: str
    message: str


def error_uses(trees: Trees, root: Path) -> list[Use]:
    """Return every use of every code, sorted."""
    helpers = _helpers(trees)
    found: set[Use] = set()
    for path, tree in trees.items():
        where = path.relative_to(root).as_posix()
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        carried = _kinds_of_carried_codes(tree)
        for node in ast.walk(tree):
            code = _code(node)
            if code is None:
                continue
            calls = list(_calls(node, parents, tree))
            if path.name == "demo.py" and not code.startswith("demo."):
                continue  # the demo names the codes that it expects
            for call, given in calls:
                if _name(call.func) not in _LOGGING:
                    found.add(Use(code, where, _kind(call, helpers) or carried, _message(call, given)))
            if not calls and not _is_looked_up(node, parents[node]):
                found.add(Use(code, where, carried, ""))
    return sorted(found)


def _code(node: ast.AST) -> str | None:
    """Return the code that a literal is; what an f-string fills in shows as `*`."""
    if isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    else:
        return None
    return text if _CODE.fullmatch(text) and text.split(".")[1] not in _NO_CODES else None


def _is_looked_up(node: ast.AST, parent: ast.AST) -> bool:
    """Tell whether a code is compared with, or the key of a table: it is given to an error elsewhere."""
    return isinstance(parent, ast.Compare | ast.Set) or (isinstance(parent, ast.Dict) and node in parent.keys)


def _kinds_of_carried_codes(tree: ast.Module) -> str:
    """Return the one error class that a module makes of codes in variables: tables of checks, refusals in records."""
    made = {
        _name(call.func)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and call.args and _name(call.args[0]) and not _name(call.args[0]).isupper()
    }
    kinds = sorted(filter(_is_error, made))
    return kinds[0] if len(kinds) == 1 else ""


def _calls(node: ast.expr, parents: dict[ast.AST, ast.AST], tree: ast.Module) -> Iterator[tuple[ast.Call, ast.expr]]:
    """Yield the calls that get `node`, directly or through a constant of the module."""
    parent = parents[node]
    if isinstance(parent, ast.IfExp | ast.keyword):
        node, parent = parent if isinstance(parent, ast.IfExp) else node, parents[parent]
    if isinstance(parent, ast.Call):
        yield parent, node
    elif isinstance(parent, ast.Assign | ast.AnnAssign):
        targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target]
        names = {target.id for target in targets if isinstance(target, ast.Name)}
        for call in ast.walk(tree):
            for given in call.args if isinstance(call, ast.Call) else ():
                if isinstance(given, ast.Name) and given.id in names:
                    yield call, given


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_error(name: str) -> bool:
    return name.endswith("Error") and not name.startswith("_")


def _helpers(trees: Trees) -> dict[str, set[str]]:
    """Return, for each function, the error classes that it makes."""
    helpers: dict[str, set[str]] = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                made = {_name(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
                helpers.setdefault(node.name, set()).update(filter(_is_error, made))
    return helpers


def _kind(call: ast.Call, helpers: dict[str, set[str]]) -> str:
    name = _name(call.func)
    given = [_name(argument) for argument in call.args if _is_error(_name(argument))]
    kinds = [name] if _is_error(name) else given or sorted(helpers.get(name, ()))
    return kinds[0] if len(kinds) == 1 else "over HTTP" if "problem" in name else ""


def _message(call: ast.Call, given: ast.expr) -> str:
    """Return the literal message after the code; what is filled in shows as `…`."""
    later = call.args[call.args.index(given) + 1 :] if given in call.args else []
    later += [keyword.value for keyword in call.keywords if keyword.arg in {"message", "detail", "why"}]
    for argument in later:
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            return " ".join(argument.value.split())
        if isinstance(argument, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in argument.values]
            return " ".join("".join(parts).split())
    return ""


def errors_page(uses: list[Use]) -> str:
    """Return `docs/errors.md`."""
    lines = [
        "# Error codes",
        "",
        _NOTE,
        "",
        "Every error has a stable code. On the command line it follows the message (and is in `--json`); over HTTP it",
        "is the member `code` of a problem document (RFC 9457); in Python and TypeScript it is `MitaiError.code`.",
        "`…` stands for a name, a size, a digest or a number, `*` for what a check is about. No message ever holds a",
        "key, a prompt or an answer.",
    ]
    for part in sorted({use.code.split(".")[0] for use in uses}):
        lines += ["", f"## {part}", "", "| code | error | what it says | from |", "| --- | --- | --- | --- |"]
        for code in sorted({use.code for use in uses if use.code.split(".")[0] == part}):
            same = [use for use in uses if use.code == code]
            kinds = ", ".join(
                sorted({f"`{use.kind}`" if use.kind != "over HTTP" else use.kind for use in same if use.kind})
            )
            said = "<br>".join(_cell(text) for text in sorted({use.message for use in same if use.message}))
            places = "<br>".join(f"`{place}`" for place in sorted({use.where for use in same}))
            lines.append(f"| `{code}` | {kinds} | {said} | {places} |")
    return "\n".join(lines) + "\n"


def browser_uses(root: Path, uses: list[Use]) -> list[Use]:
    """Return the uses of codes that only the TypeScript below `web/` has; the others are the same in both."""
    shared = {use.code for use in uses}
    found = set()
    for path in sorted(root.glob("web/**/src/**/*.ts")):
        if not _SKIPPED.intersection(path.parts):
            where = path.relative_to(root).as_posix()
            for code, *words in _IN_BROWSER.findall(path.read_text()):
                if code not in shared:
                    found.add(Use(code, where, "MitaiError", re.sub(r"\$\{[^}]*\}", "…", "".join(words))))
    return sorted(found)


def unknown_codes(root: Path, uses: list[Use]) -> list[str]:
    """Return a line for each code that a page mentions and the source does not have."""
    known = [re.compile(re.escape(code).replace(r"\*", r"[a-z0-9-]+")) for code in {use.code for use in uses}]
    unknown = []
    for page in pages(root):
        for code in sorted({found[1:-1] for found in re.findall(r"`[a-z]+\.[a-z0-9-]+`", page.read_text())}):
            is_code = _CODE.fullmatch(code) and code.split(".")[1] not in _NO_CODES
            if is_code and not any(pattern.fullmatch(code) for pattern in known):
                unknown.append(f"{page.relative_to(root)}: no error has the code {code}")
    return unknown


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


# -- docs/configuration.md -----------------------------------------------------------------------------------


def struct_table(source: str, name: str) -> str:
    """Return the table of a struct's fields: name, type, default, meaning.

    The meaning is the comment beside or above the field, or what the docstring of the class (`Attributes:`) or an
    example in that of the module (`name = value  # meaning`) says.
    """
    lines, tree = source.splitlines(), ast.parse(source)
    constants: dict[str, ast.expr] = {"ANY": ast.Constant("any")}  # shared by all sections of a policy
    assigned = [(one.targets[0], one.value) for one in tree.body if isinstance(one, ast.Assign)]
    constants |= {target.id: value for target, value in assigned if isinstance(target, ast.Name)}
    rows = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for node in tree.body:
        if not (isinstance(node, ast.ClassDef) and node.name == name):
            continue
        example = re.findall(r"^(\w+) = .*?# (.*)$", ast.get_docstring(tree) or "", re.MULTILINE)
        told = dict(example) | _attributes(ast.get_docstring(node) or "")
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                kind = _type(field.annotation)
                given = constants.get(_name(field.value), field.value) if field.value else None
                default = _code_span(_value(given)) if given else "required"
                beside = lines[(field.end_lineno or 1) - 1][field.end_col_offset or 0 :].strip()
                above = lines[field.lineno - 2].strip()
                comment = beside or (above if above.startswith("#") else "") or told.get(field.target.id, "")
                rows.append(f"| `{field.target.id}` | {kind} | {default} | {_cell(comment.lstrip('# '))} |")
        return "\n".join(rows) + "\n"
    raise LookupError(name)


def _attributes(docstring: str) -> dict[str, str]:
    """Return what the section `Attributes:` of a docstring says of each name."""
    _, _, section = docstring.partition("Attributes:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section.split("\n\n")[0], re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "min_length": "at least {} long"}
_UNITS = ("", " KiB", " MiB", " GiB", " TiB")


class _Bare(ast.NodeTransformer):
    """Takes `Annotated[T, …]` for `T`, and remembers the bounds."""

    def __init__(self) -> None:
        self.bounds: list[str] = []

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if _name(node.value) != "Annotated" or not isinstance(node.slice, ast.Tuple):
            return self.generic_visit(node)
        kind, *rest = node.slice.elts
        given = [keyword for meta in rest if isinstance(meta, ast.Call) for keyword in meta.keywords]
        self.bounds += [_BOUNDS[one.arg].format(_value(one.value)) for one in given if one.arg in _BOUNDS]
        return self.visit(kind)


def _type(annotation: ast.expr) -> str:
    """Return a type as people read it: `Annotated[int, Meta(ge=0)]` is an `int`, ≥ 0."""
    bare = _Bare()
    return ", ".join([_code_span(ast.unparse(bare.visit(annotation))), *bare.bounds])


def _value(node: ast.expr) -> str:
    """Return a value as people read it: `64 << 20` is 64 MiB."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift):
        size, shift = (part.value for part in (node.left, node.right) if isinstance(part, ast.Constant))
        return f"{size << shift % 10}{_UNITS[shift // 10]}"
    return ast.unparse(node)


def _code_span(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def configuration_page(page: str, root: Path) -> str:
    """Return the page with its generated tables filled in."""

    def fill(found: re.Match[str]) -> str:
        module, _, name = found[2].rpartition(".")
        path = root / "src" / Path(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        return found[1] + struct_table(path.read_text(), name) + found[3]

    return _GENERATED.sub(fill, page)


def missing_settings(page: str, trees: Trees) -> list[str]:
    """Return the structs read from TOML and the environment variables that the page does not mention."""
    missing = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            is_struct = isinstance(node, ast.ClassDef) and any(_name(base) == "Struct" for base in node.bases)
            if is_struct and node.name.endswith("Config") and f".{node.name} -->" not in page:
                missing.append(f"docs/configuration.md: {node.name} of {path.name} has no table")
            is_variable = isinstance(node, ast.Constant) and re.fullmatch(r"MITAI_[A-Z_]+", str(node.value))
            if is_variable and f"`{node.value}`" not in page:
                missing.append(f"docs/configuration.md: {node.value} ({path.name}) is not mentioned")
    return sorted(set(missing))


# -- docs/cli.md ---------------------------------------------------------------------------------------------


def cli_page() -> str:
    """Return `docs/cli.md`: the help of every command, at a fixed width and without colours."""
    os.environ.update(MITAI_HOME="~/.mitai", NO_COLOR="1", COLUMNS="100", TERM="dumb")
    from mitai.cli.commands import app

    lines = ["# The `mitai` command", "", _NOTE, ""]
    for words in ([], *_commands(app, [])):
        lines += [f"## `{' '.join(['mitai', *words])}`", "", "```text", _help(app, words), "```", ""]
    return "\n".join(lines)


def _commands(app: App, words: list[str]) -> Iterator[list[str]]:
    for name in sorted(app.resolved_commands()):
        if not name.startswith("-"):
            yield [*words, name]
            yield from _commands(app[name], [*words, name])


def _help(app: App, words: list[str]) -> str:
    from rich.console import Console

    sink = io.StringIO()
    app.help_print(
        words, console=Console(file=sink, width=100, no_color=True, force_terminal=False, legacy_windows=False)
    )
    return "\n".join(line.rstrip() for line in sink.getvalue().strip("\n").splitlines())


# -- indexes -------------------------------------------------------------------------------------------------


def index_page(path: Path) -> str:
    """Return the page with its lists of pages filled in."""

    def fill(found: re.Match[str]) -> str:
        listed = sorted(page for page in (path.parent / found[2]).glob("*.md") if page.name != "README.md")
        rows = [f"- [{_title(page)}]({page.relative_to(path.parent).as_posix()})" for page in listed]
        return found[1] + "\n".join(rows) + "\n" + found[3]

    return _INDEX.sub(fill, path.read_text())


def _title(page: Path) -> str:
    return page.read_text().splitlines()[0].lstrip("# ").strip()


# -- links ---------------------------------------------------------------------------------------------------


def pages(root: Path) -> list[Path]:
    """Return every Markdown page of the project."""
    found = (path for path in root.rglob("*.md") if not _SKIPPED & set(path.relative_to(root).parts))
    return sorted(path for path in found if not any(part.endswith("_cache") for part in path.parts))


def broken_links(root: Path) -> list[str]:
    """Return a line for each relative link that leads nowhere."""
    broken = []
    for page in pages(root):
        for target in _LINK.findall(_FENCE.sub("", page.read_text())):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            where = page.relative_to(root)
            if not path.exists() or not path.is_relative_to(root.resolve()):
                broken.append(f"{where}: {target} leads nowhere")
            elif anchor and path.suffix == ".md" and anchor not in anchors(path.read_text()):
                broken.append(f"{where}: {target} has no such heading")
    return broken


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", _FENCE.sub("", text), re.MULTILINE):
        shown = _LINK.sub(lambda link: link[0][1 : link[0].index("]")], heading).lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        number = sum(one == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", one) is not None for one in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


# -- the README's commands -----------------------------------------------------------------------------------


def run_blocks(page: str, root: Path, timeout_s: float = 900.0) -> int:
    """Run the marked blocks in order; return the first status that is not 0."""
    with tempfile.TemporaryDirectory(prefix="mitai-readme-") as home:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"HOME": home, "MITAI_HOME": f"{home}/.mitai", "PATH": path}
        try:
            for language, block in _RUN.findall(page):
                command = [sys.executable, "-c", block] if language == "python" else ["bash", "-c", shell_script(block)]
                done = subprocess.run(
                    command, cwd=root, env=environment, stdin=subprocess.DEVNULL, timeout=timeout_s, check=False
                )
                if done.returncode:
                    print(f"this block of README.md ended with status {done.returncode}:\n{block}", file=sys.stderr)
                    return done.returncode
        finally:
            if Path(home, ".mitai/platform/platform.json").exists():
                subprocess.run(["mitai", "down"], env=environment, capture_output=True, timeout=60, check=False)
    return 0


def shell_script(block: str) -> str:
    """Return a console block as a script: lines with `$ ` are run, lines with `› ` typed into the one before."""
    script = ["set -euo pipefail"]
    for found in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n?)*)", block, re.MULTILINE):
        typed = [line[2:] for line in found[2].splitlines() if line.startswith("› ")]
        command = "\n".join([f"<<'TYPED' {found[1]}", *typed, "TYPED"]) if typed else found[1]
        script.append(f"cat <<'SHOWN'\n$ {found[1]}\nSHOWN\n{command}")
    return "\n".join(script)


# -- all of it -----------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the generated pages, and check every page.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page is out of date")
    parser.add_argument("--run-readme", action="store_true", help="run the README's marked commands instead")
    arguments = parser.parse_args()
    if arguments.run_readme:
        return run_blocks((ROOT / "README.md").read_text(), ROOT)
    trees = parse_sources(ROOT / "src")
    configuration = (ROOT / "docs/configuration.md").read_text()
    uses = error_uses(trees, ROOT)
    uses = sorted([*uses, *browser_uses(ROOT, uses)])
    generated = {
        "docs/errors.md": errors_page(uses),
        "docs/configuration.md": configuration_page(configuration, ROOT),
        "docs/cli.md": cli_page(),
    }
    generated |= {name: index_page(ROOT / name) for name in ("docs/README.md", "docs/adr/README.md")}
    problems = missing_settings(configuration, trees)
    for name, text in generated.items():
        path = ROOT / name
        if path.exists() and path.read_text() == text:
            continue
        if arguments.check:
            problems.append(f"{name} is out of date: run python scripts/docs.py")
        else:
            path.write_text(text)
            print(f"wrote {name}")
    problems += broken_links(ROOT) + unknown_codes(ROOT, uses)
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
