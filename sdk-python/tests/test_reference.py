"""The API reference is made from docstrings (`python -m pdoc thalweg thalweg.sync`): everything public has one."""

import ast
import importlib
import inspect
import pathlib
import pydoc
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import thalweg
import thalweg.sync
from conftest import ROOT

PACKAGE = pathlib.Path(thalweg.__file__).parent
SYNC = ["Client", "Consumer", "Producer", "connect"]


def undocumented(definition: ast.ClassDef) -> Iterator[str]:
    """Members without a docstring; a field's stands below it."""
    if ast.get_docstring(definition) is None:
        yield definition.name
    for number, node in enumerate(definition.body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            is_public = not node.name.startswith("_")
            if is_public and ast.get_docstring(node) is None:
                yield f"{definition.name}.{node.name}"
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            below = definition.body[number + 1] if number + 1 < len(definition.body) else None
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
            if not node.target.id.startswith("_") and not is_text:
                yield f"{definition.name}.{node.target.id}"


def alias_docs() -> set[str]:
    """Names of types that have a docstring below them."""
    documented = set()
    for module in ("_consumer.py", "_producer.py"):
        body = ast.parse((PACKAGE / module).read_text(encoding="utf-8")).body
        for node, below in zip(body, body[1:]):
            if isinstance(node, ast.Assign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                documented |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return documented


# The errors' fields are told of in the base class; `code` and `retriable` of the others are their values.
ERRORS = [name for name in thalweg.__all__ if name.endswith("Error") and name != "ThalwegError"]


@pytest.mark.parametrize("name", [name for name in thalweg.__all__ if not name.startswith("__")])
def test_everything_public_has_a_docstring(name: str) -> None:
    public = getattr(thalweg, name)
    if inspect.isfunction(public):
        assert public.__doc__
        return
    if not inspect.isclass(public):
        assert name in alias_docs(), name
        return
    # The native half is hidden, but for what its classes' users see.
    module = "_native.pyi" if public in (thalweg.Batch, thalweg.Record) else pathlib.Path(inspect.getfile(public)).name
    [definition] = [
        node
        for node in ast.parse((PACKAGE / module).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == name
    ]
    missing = [what for what in undocumented(definition) if name not in ERRORS or "." not in what]
    assert not missing


def test_every_class_says_that_it_is_of_this_package() -> None:
    public = [getattr(thalweg, name) for name in thalweg.__all__] + [getattr(thalweg.sync, name) for name in SYNC]
    assert {each.__module__.partition(".")[0] for each in public if inspect.isclass(each)} == {"thalweg"}


@pytest.mark.parametrize("public", [thalweg.Batch, thalweg.Record])
def test_the_native_classes_say_what_their_stub_says(public: type) -> None:
    stub = ast.parse((PACKAGE / "_native.pyi").read_text(encoding="utf-8"))
    [definition] = [node for node in stub.body if isinstance(node, ast.ClassDef) and node.name == public.__name__]
    # Their lines break where each language's do.
    assert (inspect.getdoc(public) or "").split() == (ast.get_docstring(definition) or "").split()
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            assert inspect.getdoc(getattr(public, node.name)) == ast.get_docstring(node), node.name


@pytest.mark.parametrize("name", SYNC)
def test_everything_public_of_the_sync_half_has_a_docstring(name: str) -> None:
    public = getattr(thalweg.sync, name)
    assert public.__doc__
    if inspect.isclass(public):
        members = {member for member in dir(public) if not member.startswith("_")}
        missing = [member for member in sorted(members) if not inspect.getdoc(inspect.getattr_static(public, member))]
        assert not missing


@pytest.mark.parametrize("name", ["Client", "Consumer", "Producer"])
def test_the_two_halves_have_the_same_members(name: str) -> None:
    def members(of: type) -> set[str]:
        return {member for member in dir(of) if not member.startswith("_")}

    # Attributes of the one are properties of the other.
    assert members(getattr(thalweg, name)) <= members(getattr(thalweg.sync, name))


def ours(section: str) -> Iterator[str]:
    """The code in the middle column of a client's table."""
    text = (ROOT / "docs/migrating.md").read_text(encoding="utf-8")
    [part] = [part for part in text.split("\n## ")[1:] if part.startswith(section)]
    rows = [line.split(" | ") for line in part.splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    for row in rows:
        assert len(row) == 3, row
        yield from re.findall(r"`([^`]+)`", row[1])


def words(code: str) -> set[str]:
    """Names that code calls, names, or sets; not what stands in quotes."""
    plain = re.sub(r"""(["']).*?\1""", "", code)
    return set(re.findall(r"(\w+)\s*\(", plain)) | set(re.findall(r"(\w+)=", plain)) | set(re.findall(r"\.(\w+)", plain))


@pytest.mark.parametrize("section", ["confluent-kafka", "aiokafka"])
def test_every_name_of_ours_in_the_migration_table_exists(section: str) -> None:
    known = set(thalweg.__all__) | set(SYNC)
    for name in thalweg.__all__:
        public = getattr(thalweg, name)
        if inspect.isclass(public):
            known |= {member for member in dir(public) if not member.startswith("_")}
            members = [getattr(public, "__init__", None), *(getattr(public, member) for member in dir(public))]
            for function in filter(inspect.isfunction, members):
                known |= set(inspect.signature(function).parameters)
    for code in ours(section):
        assert words(code) <= known, code


def test_every_name_of_ours_in_the_migration_table_of_kafkajs_exists() -> None:
    declared = (ROOT / "sdk-node/lib/index.d.ts").read_text(encoding="utf-8")
    known = set(re.findall(r"\w+", re.sub(r"/\*.*?\*/", "", declared, flags=re.DOTALL)))
    for code in ours("KafkaJS"):
        plain = re.sub(r"'.*?'", "", code)
        options = {name for braces in re.findall(r"\{([^}]*)\}", plain) for name in re.findall(r"\w+", braces)}
        wanted = (words(code) | options) - {"for", "await"}
        assert {word for word in wanted if not word.isdigit()} <= known, code


def test_the_sync_half_is_what_its_generator_makes_of_the_other() -> None:
    command = [sys.executable, str(ROOT / "sdk-python/generate_sync.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_docstring_that_has_no_words_for_the_sync_half_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "sdk-python")
    generator = importlib.import_module("generate_sync")
    half = generator.Half()
    assert half.words("`await go()` within `async with`.", "C.go", "") == '"""`go()` within `with`."""'
    assert half.words("Goes.\n\nAs a task of asyncio.", "C.go", "") == '"""Goes."""'
    for text in ("Ends with the task.", "Is a coroutine.", "Goes, and awaits what comes."):
        with pytest.raises(generator.Unclear, match="the docstring of C.go speaks of"):
            half.words(text, "C.go", "")


def test_help_of_the_sync_half_says_all() -> None:
    said = pydoc.render_doc(thalweg.sync.Consumer.next, renderer=pydoc.plaintext)
    assert "next(self, timeout: 'float | None' = None) -> 'Record | None'" in said
    assert "PluginFailedError" in said and "thalweg.Consumer" not in said
    for name in ("Client", "Consumer", "Producer"):
        for member, theirs in inspect.getmembers(getattr(thalweg, name), inspect.isfunction):
            if not member.startswith("_"):
                own = inspect.signature(getattr(getattr(thalweg.sync, name), member)).parameters.values()
                assert [(p.name, p.kind, p.default) for p in own] == [
                    (p.name, p.kind, p.default) for p in inspect.signature(theirs).parameters.values()
                ], (name, member)
