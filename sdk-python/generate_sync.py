"""Writes python/thalweg/sync.py from the asyncio half: its signatures and docstrings, and bodies that pass each call on.

    python sdk-python/generate_sync.py            writes it
    python sdk-python/generate_sync.py --check    ends with 1 where it is not as it would be written

What `thalweg.sync` does in a way of its own stands in _sync.py: a method `next` calls `_next` of the base class there, where there is one, and has its
docstring, where that has one.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent / "python/thalweg"
COMMAND = "python sdk-python/generate_sync.py"
HEAD = f'''# Generated from _client.py, _producer.py and _consumer.py by `{COMMAND}`. Change those, or _sync.py.
"""The same client without asyncio: `with` and `for` instead of `async with` and `async for`."""

from __future__ import annotations
'''
# Module, class, and the class with what is done in another way.
HALVES = [("_client", "Client", "ClientBase"), ("_producer", "Producer", "ProducerBase"), ("_consumer", "Consumer", "ConsumerBase")]
TWINS = {name for _, name, _ in HALVES}
WIDTH = 120
DOC_WIDTH = 160

# What a docstring says in other words here: a pattern, and what stands for it. A pattern that is found nowhere is an error. Paragraphs that speak of asyncio
# are left out.
WORDS = [
    (r"\bawait ", ""),
    (r"\basync (with|for)\b", r"\1"),
    (r"; awaited, it waits\b", " and waits"),
    (r"; awaited, it gives\b", ", waits, and gives"),
    (r", whether it is awaited or not", ""),
    (r"A call that is cancelled is sent all the same", "A call that a signal has ended may be sent all the same"),
    (r"a time-out, a cancelled task", "a time-out, Ctrl-C"),
    (r"is called by the event loop with", "is called, in order, on a thread of its own, from where it may call anything, with"),
    (r"is called, and awaited where it is async, before", "is a plain function; the thread that reads calls it before"),
    (r"when the consumer is closed for all", "when the consumer is closed, by the thread that closes it, for all"),
    (r"is told then that (.*?), and awaited for at most `close_timeout` seconds;", r"is told then, by this thread, that \1;"),
    (r"\b(another|same) task\b", r"\1 thread"),
]
LEFTOVERS = re.compile(r"\b(\w*await\w*|async\w*|coroutines?|tasks?|event loop)\b")


class Unclear(Exception):
    """Something of the asyncio half that has no form here yet."""


class Module:
    """A file of the package, and where its names come from."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.source = (PACKAGE / f"{name}.py").read_text(encoding="utf-8")
        tree = ast.parse(self.source)
        self.classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self._origins: dict[str, str] = {}
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                self._origins.update({alias.name: "." * node.level + (node.module or "") for alias in node.names})
            elif isinstance(node, ast.ClassDef):
                self._origins[node.name] = f".{name}"
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._origins[node.targets[0].id] = f".{name}"

    def text(self, node: ast.AST) -> str:
        """What stands in the file."""
        found = ast.get_source_segment(self.source, node)
        assert found is not None
        return found

    def origin(self, name: str) -> str | None:
        """The module that a name is imported from; None: it is a builtin, or one of the classes here."""
        return None if name in TWINS else self._origins.get(name)


class Half:
    """What is generated, and what it needs."""

    def __init__(self) -> None:
        self.imports: dict[str, set[str]] = {".": {"_client", "_sync"}}
        self.unused = dict(WORDS)
        self.base = Module("_sync")

    def write(self) -> str:
        """The whole file."""
        classes = []
        for module_name, name, base in HALVES:
            module = Module(module_name)
            if "connect" in module.classes:
                classes.append(self.connect(module))
            classes.append(self.class_of(module, name, base))
        if self.unused:
            raise Unclear(f"nothing is in the words of {list(self.unused)}: generate_sync.py need not replace them")
        lines = [HEAD]
        # As formatters sort them: the standard library's, and the package's.
        for ours in (False, True):
            modules = sorted(m for m in self.imports if m.startswith(".") == ours)
            lines += [line for m in modules for line in layout(f"from {m} import ", sorted(self.imports[m]), "", "", brackets="()")]
            lines.append("")
        lines += ['__all__ = ["Client", "Consumer", "Producer", "connect"]', "", "", "\n\n\n".join(classes), ""]
        return "\n".join(lines)

    def class_of(self, module: Module, name: str, base_name: str) -> str:
        theirs, base = module.classes[name], self.base.classes[base_name]
        own = {node.name: node for node in base.body if isinstance(node, ast.FunctionDef)}
        lines = [f"class {name}(_sync.{base_name}):", self.docstring(theirs, name, "    "), ""]
        for node in theirs.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                for attribute, annotation, text in attributes(module, node):
                    lines += self.property(attribute, annotation, self.words(text, f"{name}.{attribute}", "        "))
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
                lines += self.method(module, node, own.get(f"_{node.name}"), f"{name}.{node.name}")
        return "\n".join(lines).rstrip()

    def connect(self, module: Module) -> str:
        """A function for the class that is awaited, or entered."""
        theirs = module.classes["connect"]
        [made] = [node for node in theirs.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
        parameters, arguments = self.parameters(module, made)
        lines = layout("def connect(", parameters, ") -> Client:", "")
        lines.append(self.docstring(theirs, "connect", "    "))
        lines += passed_on("return Client(_sync.run(lambda: _client.connect(", arguments, ")))", "    ")
        return "\n".join(lines)

    def property(self, name: str, annotation: str, docstring: str) -> list[str]:
        return ["    @property", f"    def {name}(self) -> {annotation}:", docstring, f"        return self._inner.{name}", ""]

    def method(self, module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef, own: ast.FunctionDef | None, name: str) -> list[str]:
        if node.returns is None:
            raise Unclear(f"{name} does not say what it returns")
        if own is not None and ast.get_docstring(own) is not None:
            docstring = "        " + self.base.text(own.body[0])
        else:
            docstring = self.docstring(node, name, "        ")
        waits, returns = self.returns(module, node)
        if any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list):
            return self.property(node.name, returns, docstring)
        parameters, arguments = self.parameters(module, node)
        lines = layout(f"def {node.name}(", ["self", *parameters], f") -> {returns}:", "    ")
        lines.append(docstring)
        given = "" if returns == "None" else "return "
        if own is not None:
            lines += passed_on(f"{given}self._{node.name}(", arguments, ")", "        ")
        elif returns in TWINS:
            lines += passed_on(f"return self._made({returns}(self._inner.{node.name}(", arguments, ")))", "        ")
        elif waits:
            lines += passed_on(f"{given}_sync.run(lambda: self._inner.{node.name}(", arguments, "))", "        ")
        else:
            raise Unclear(f"{name} is not awaited: _sync.py has no _{node.name} that says what to do here")
        return [*lines, ""]

    def returns(self, module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[bool, str]:
        """Whether it is awaited, and what comes of it."""
        given = node.returns
        assert given is not None
        if isinstance(given, ast.Subscript) and isinstance(given.value, ast.Name):
            if given.value.id in ("Awaitable", "Sending"):
                return True, self.annotation(module, given.slice)
            if given.value.id == "Coroutine":
                assert isinstance(given.slice, ast.Tuple)
                return True, self.annotation(module, given.slice.elts[2])
            if given.value.id == "AsyncIterator":
                self.imports.setdefault("collections.abc", set()).add("Iterator")
                return False, f"Iterator[{self.annotation(module, given.slice)}]"
        return isinstance(node, ast.AsyncFunctionDef), self.annotation(module, given)

    def parameters(self, module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[list[str], list[str]]:
        """Parameters behind `self`, and the arguments that pass them on."""
        a = node.args
        if a.posonlyargs or a.vararg or a.kwarg:
            raise Unclear(f"{node.name} takes arguments that are not written out")
        defaults = [None] * (len(a.args) - len(a.defaults)) + list(a.defaults)
        parameters = [self.parameter(module, arg, default) for arg, default in list(zip(a.args, defaults, strict=True))[1:]]
        if a.kwonlyargs:
            parameters.append("*")
        parameters += [self.parameter(module, arg, default) for arg, default in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
        return parameters, [arg.arg for arg in a.args[1:]] + [f"{arg.arg}={arg.arg}" for arg in a.kwonlyargs]

    def parameter(self, module: Module, arg: ast.arg, default: ast.expr | None) -> str:
        if arg.annotation is None:
            raise Unclear(f"{arg.arg} has no type")
        given = f"{arg.arg}: {self.annotation(module, arg.annotation)}"
        return given if default is None else f"{given} = {module.text(default)}"

    def annotation(self, module: Module, node: ast.expr) -> str:
        """A type as it is called here; its names are imported."""
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "_native":
                self.imports.setdefault("._native", set()).add(part.attr)
            elif isinstance(part, ast.Name) and part.id != "_native":
                origin = module.origin(part.id)
                if origin is not None:
                    self.imports.setdefault(origin, set()).add(part.id)
        return module.text(node).replace("_native.", "")

    def docstring(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str, indent: str) -> str:
        found = ast.get_docstring(node)
        if found is None:
            raise Unclear(f"{name} has no docstring")
        return self.words(found, name, indent)

    def words(self, text: str, name: str, indent: str) -> str:
        """A docstring of the asyncio half in the words of this one, with its quotes."""
        if re.search(r"^ |\\|\"{3}", text, re.MULTILINE):
            raise Unclear(f"the docstring of {name} is more than paragraphs of text")
        paragraphs = [" ".join(p.split()) for p in text.split("\n\n") if "asyncio" not in p]
        for pattern, instead in WORDS:
            for number, paragraph in enumerate(paragraphs):
                paragraphs[number], count = re.subn(pattern, instead, paragraph)
                if count > 0:
                    self.unused.pop(pattern, None)
        left = LEFTOVERS.search("\n".join(paragraphs))
        if not paragraphs:
            raise Unclear(f"the docstring of {name} is about asyncio alone: write another one in _sync.py")
        if left is not None:
            raise Unclear(
                f"the docstring of {name} speaks of {left[0]!r}: replace it in WORDS of generate_sync.py, or write another docstring in _sync.py"
            )
        one = f'{indent}"""{paragraphs[0]}"""'
        if len(paragraphs) == 1 and len(one) <= DOC_WIDTH and not paragraphs[0].endswith('"'):
            return one
        wrapped = [
            textwrap.fill(p, DOC_WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
            for p in ['"""' + paragraphs[0], *paragraphs[1:]]
        ]
        return "\n\n".join(wrapped) + f'\n{indent}"""'


def attributes(module: Module, node: ast.FunctionDef) -> Iterator[tuple[str, str, str]]:
    """Public attributes that a constructor takes over from its parameters: name, type and docstring, which stands below."""
    types = {arg.arg: module.text(arg.annotation) for arg in node.args.args if arg.annotation is not None}
    for statement, below in zip(node.body, node.body[1:], strict=False):
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Attribute):
            continue
        name = statement.targets[0].attr
        if name.startswith("_"):
            continue
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
        if not is_text or not isinstance(statement.value, ast.Name):
            raise Unclear(f"{name} has no docstring, or is no parameter")
        yield name, types[statement.value.id], inspect.cleandoc(ast.literal_eval(module.text(below)))


def layout(opening: str, items: list[str], closing: str, indent: str, *, brackets: str = "") -> list[str]:
    """A call or a definition on one line, with its items on one line, or with a line for each of them."""
    if len(whole := indent + opening + ", ".join(items) + closing) <= WIDTH:
        return [whole]
    if brackets:
        opening, closing = opening + brackets[0], brackets[1] + closing
    elif len(inner := f"{indent}    {', '.join(items)}") <= WIDTH:
        return [indent + opening, inner, indent + closing]
    return [indent + opening, *(f"{indent}    {item}," for item in items), indent + closing]


def passed_on(opening: str, arguments: list[str], closing: str, indent: str) -> list[str]:
    """A call within calls: each of these is opened on a line of its own where they do not fit on one together."""
    if len(whole := indent + opening + ", ".join(arguments) + closing) <= WIDTH:
        return [whole]
    outer, bracket, inner = opening.partition("(")
    if not inner:
        return layout(opening, arguments, closing, indent)
    return [indent + outer + bracket, *passed_on(inner, arguments, closing[:-1], indent + "    "), indent + ")"]


def main() -> int:
    """Writes the file, or compares it."""
    path = PACKAGE / "sync.py"
    if sys.argv[1:] not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        wanted = Half().write()
    except Unclear as error:
        print(error, file=sys.stderr)
        return 1
    if not sys.argv[1:]:
        path.write_text(wanted, encoding="utf-8", newline="\n")
    elif path.read_text(encoding="utf-8") != wanted:
        print(f"{path.name} is not what the asyncio half gives: run `{COMMAND}`, and keep what it writes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
