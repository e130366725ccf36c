from __future__ import annotations

import ast
from textwrap import dedent

import pytest

from components.meaning import read_meaning

PATH = "components/engine/example.py"


def digest(source: str, path: str = PATH) -> str:
    return read_meaning(dedent(source), path).digest


SAME = {
    "comment": ("x = 1\n", "x = 1  # the first\n# and no more\n"),
    "docstring": ('def f():\n    """Old."""\n    return 1\n', 'def f():\n    """New\n    and longer."""\n    return 1\n'),
    "added docstring": ("class A:\n    x = 1\n", 'class A:\n    """Of the field."""\n\n    x = 1\n    """What x is."""\n'),
    "annotations": ("def f(a, *, b=1): return a\n", "def f(a: int, *, b: float = 1) -> int: return a\n"),
    "annotated variable": ("x = 1\n", "x: int = 1\n"),
    "declared variable": ("def f():\n    x = 1\n", "def f():\n    x: int\n    x = 1\n"),
    "field's annotation": ("class A:\n    x: int = 1\n", "class A:\n    x: float = 1\n"),
    "type parameter": ("def f(a): return a\n", "def f(a): return (\n    a\n)\n"),
    "error text": ('raise ValueError("old")\n', 'raise ValueError(f"new {len(name)}: " "see there")\n'.replace('" "', "")),
    "error text of a condition": ('raise ValueError("a" if x else "b")\n', 'raise ValueError("c" if x else "d")\n'),
    "assert text": ("assert x\n", 'assert x, f"x is {x}"\n'),
    "text written to a stream": ('sys.stdout.write(f"old {x}")\n', 'sys.stdout.write(f"new {x}")\n'),
    "printed text": ('print("old", x)\n', 'print("new", x)\n'),
    "added log line": ("y = f(x)\n", 'log.info("%d of %d", len(x), n)\ny = f(x)\n'),
    "added print under a condition": ("y = f(x)\n", 'if rank == 0:\n    print(f"{x}", file=sys.stderr, flush=True)\ny = f(x)\n'),
    "warning": ('warnings.warn("old", stacklevel=2)\ny = 1\n', "y = 1\n"),
    "text of a log line that acts": ('print("old", f(x))\n', 'print("new", f(x))\n'),
    "label of a progress bar": ('bar = tqdm(rows, desc="old")\n', 'bar = tqdm(rows, desc=f"new {name}")\n'),
    "order of imports": ("import b\nfrom a import d, c\n", "from a import c, d\nimport b\n"),
    "imports for types": ("x = 1\n", "from typing import TYPE_CHECKING\n"),
    "pass": ("def f():\n    pass\n", "def f():\n    ...\n"),
    "quotes and layout": ("f('a', 1)\n", 'f(\n    "a",\n    1,\n)\n'),
}
SAME["imports for types"] = (
    "from typing import TYPE_CHECKING\nx = 1\n",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import B\nx = 1\n",
)


@pytest.mark.parametrize("name", SAME)
def test_digest_ignores_what_changes_no_result(name: str) -> None:
    old, new = SAME[name]
    assert digest(old) == digest(new)


DIFFERENT = {
    "operator": ("y = a + b\n", "y = a - b\n"),
    "comparison": ("y = a < b\n", "y = a <= b\n"),
    "constant": ("y = 1\n", "y = 2\n"),
    "kind of number": ("y = 1\n", "y = 1.0\n"),
    "truth": ("y = 1\n", "y = True\n"),
    "text": ('y = "a"\n', 'y = "b"\n'),
    "bytes for text": ('y = "a"\n', 'y = b"a"\n'),
    "default": ("def f(a=1): return a\n", "def f(a=2): return a\n"),
    "name": ("y = f(x)\n", "y = g(x)\n"),
    "keyword": ("f(a=x)\n", "f(b=x)\n"),
    "order of statements": ("f()\ng()\n", "g()\nf()\n"),
    "branches": ("if a:\n    f()\nelse:\n    g()\n", "if a:\n    g()\nelse:\n    f()\n"),
    "block that a statement is in": ("if a:\n    f()\n    g()\n", "if a:\n    f()\ng()\n"),
    "decorator": ("def f(): return 1\n", "@cache\ndef f(): return 1\n"),
    "kind of error": ('raise ValueError("a")\n', 'raise KeyError("a")\n'),
    "number in an error": ("raise SystemExit(1)\n", "raise SystemExit(2)\n"),
    "condition of an assert": ("assert x > 0\n", "assert x >= 0\n"),
    "text written to a file": ('file.write("old")\n', 'file.write("new")\n'),
    "call within a log line": ('print("a", next(rows))\n', 'print("a")\n'),
    "removed call within a log line": ('print("a", next(rows))\n', ""),
    "assignment within a log line": ("print(x := 2)\n", ""),
    "condition that acts around a log line": ('if next(rows):\n    print("a")\n', ""),
    "text of an f-string": ('y = f"{a} b"\n', 'y = f"{a} c"\n'),
    "expression of an f-string": ('y = f"{a}"\n', 'y = f"{b}"\n'),
    "format of an f-string": ('y = f"{a:.2f}"\n', 'y = f"{a:.3f}"\n'),
    "conversion of an f-string": ('y = f"{a}"\n', 'y = f"{a!r}"\n'),
    "text before and after": ('y = f"b{a}"\n', 'y = f"{a}b"\n'),
    "name of a field": ("class A:\n    x: int = 1\n", "class A:\n    y: int = 1\n"),
    "field instead of an attribute": ("class A:\n    x = 1\n", "class A:\n    x: int = 1\n"),
    "order of fields": ("class A:\n    x: int\n    y: int\n", "class A:\n    y: int\n    x: int\n"),
    "class variable": ("class A:\n    x: int = 1\n", "class A:\n    x: ClassVar[int] = 1\n"),
    "import": ("from a import b\n", "from a import c as b\n"),
    "import before a statement": ("import a\nx = 1\n", "x = 1\nimport a\n"),
    "text that math.log reads": ('y = math.log(x, "a")\n', 'y = math.log(x, "b")\n'),
    "size of a progress bar": ("bar = tqdm(rows, total=1)\n", "bar = tqdm(rows, total=2)\n"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_digest_follows_everything_else(name: str) -> None:
    old, new = DIFFERENT[name]
    assert digest(old) != digest(new)


def test_annotation_counts_in_sections_of_settings() -> None:
    old, new = "class A(Section):\n    x: int\n", "class A(Section):\n    x: float\n"
    assert digest(old) == digest(new)
    assert digest(old, "components/config/example.py") != digest(new, "components/config/example.py")


def test_digest_does_not_depend_on_fields_of_newer_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12 gave functions and classes the field `type_params`, always there and mostly empty."""
    source = "def f(a): return a\nclass A: x = 1\n"
    before = digest(source)
    for kind in (ast.FunctionDef, ast.ClassDef):
        monkeypatch.setattr(kind, "_fields", (*kind._fields, "type_params"))
        monkeypatch.setattr(kind, "type_params", [], raising=False)
    assert digest(source) == before


def test_digest_is_the_same_on_every_python() -> None:
    source = '''
        """Doc."""
        from __future__ import annotations
        import os
        @cache
        async def f(a, /, b=1, *c, d=b"x", **e) -> int:
            x: list[int] = [i async for i in b if i]
            match a:
                case {"k": [1, *_], **rest} if x: return f"a{a!r:>{b}}é" "b"
            with g() as y, h(): del y[1:2, ...]
            try: x = lambda z: -z ** 2j
            except* ValueError as error: raise SystemExit(3) from error
    '''
    assert digest(source) == "38f0ccd57b19dc8c0a3ef40ab1bb10fa48aea3d68089607b09ed19665195787a"


def test_imports_are_found_wherever_they_run() -> None:
    source = """
        import components.files
        import os, components.errors as e
        from components.engine import loop, ops
        from . import ranks
        from .curves import points_of
        from ..config import settings
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from components.evaluation import judge
        else:
            from components.trees import trees
        def f():
            try:
                from components.features.cache import attach_features
            except ImportError:
                import components.reward.model
            async def g():
                with h():
                    for i in j:
                        match i:
                            case 1:
                                import components.statistics
    """
    assert set(read_meaning(dedent(source), PATH).imports) == {
        ("components.files", ()),
        ("components.errors", ()),
        ("components.engine", ("loop", "ops")),
        ("components.engine", ("ranks",)),
        ("components.engine.curves", ("points_of",)),
        ("components.config", ("settings",)),
        ("components.trees", ("trees",)),
        ("components.features.cache", ("attach_features",)),
        ("components.reward.model", ()),
        ("components.statistics", ()),
    }


def test_relative_imports_of_a_package_start_at_itself() -> None:
    assert read_meaning("from . import loop\n", "components/engine/__init__.py").imports == (("components.engine", ("loop",)),)


def test_names_are_those_that_a_module_binds_itself() -> None:
    source = "import a.b\nfrom c import d as e\nf, g = 1, 2\nh: int = 3\ndef i(): j = 1\nclass k: l = 1\n"
    assert read_meaning(source, PATH).names == {"a", "e", "f", "g", "h", "i", "k"}
