"""Each operator on code that a reader can mutate in the head, and all that no operator may touch."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest

from tests.mutation.mutant import Mutant
from tests.mutation.operators import mutants
from tests.mutation.packages import PACKAGES, Package
from tests.mutation.sample import draw
from tests.mutation.source import Project, Source, read_project

ROOT = Path(__file__).resolve().parents[2]


def of(code: str, project: Project | None = None) -> list[Mutant]:
    return mutants(Source("module.py", textwrap.dedent(code)), project or Project({}, set()))


def changes(code: str, operator: str) -> list[str]:
    return [mutant.after for mutant in of(code) if mutant.operator == operator]


@pytest.mark.parametrize(
    ("code", "operator", "after"),
    [
        ("x = a < b", "comparison", ["x = a <= b"]),
        ("x = (a) not in (b)", "comparison", ["x = (a) in (b)"]),
        ("x = a is not None", "comparison", ["x = a is None"]),
        ("x = a <= b != c", "comparison", ["x = a < b != c", "x = a <= b == c"]),
        ("x = (a) // (b - c)", "arithmetic", ["x = (a) * (b - c)", "x = (a) // (b + c)"]),
        ("x = -a @ b", "arithmetic", ["x = a @ b", "x = -a * b"]),
        ("x += a ** b", "arithmetic", ["x -= a ** b", "x += a * b"]),
        ("x = a and b or not c", "boolean", ["x = a or b or not c", "x = a and b and not c", "x = a and b or c"]),
        ("x = [a for a in b if a.c]", "boolean", ["x = [a for a in b if True]"]),
        ("x = f(a, True)", "boolean", ["x = f(a, False)"]),
        ("x = f(0, 7, 0.0, 1.5)", "constant number", ["x = f(1, 7, 0.0, 1.5)", "x = f(0, 8, 0.0, 1.5)", "x = f(0, 7, 1.0, 1.5)", "x = f(0, 7, 0.0, 3.0)"]),
        ("def f(a: int = 3): pass", "constant number", ["def f(a: int = 4): pass"]),
        ("x = f(a, b=c, d=(e),)", "dropped argument", ["x = f(a, d=(e),)", "x = f(a, b=c, )"]),
        ("x = a.sum(0)", "dropped argument", ["x = a.sum()"]),
        ("x = a.get(b, c)", "dropped argument", ["x = a.get(b, )"]),
        ("x = a if b else c", "swapped branch", ["x = a if not (b) else c"]),
        ("if a > b: c()\nelse: d()", "swapped branch", ["if not (a > b): c()"]),
        ("self.a = b", "dropped statement", ["pass"]),
        ("a[b] = c", "dropped statement", ["pass"]),
        ("for a in b:\n    continue", "dropped statement", ["pass"]),
    ],
)  # fmt: skip
def test_operator_makes_the_expected_changes(code: str, operator: str, after: list[str]) -> None:
    assert sorted(changes(code, operator)) == sorted(after)


@pytest.mark.parametrize(
    "code",
    [
        '"""1 + 1"""',
        "x: Literal[1, 2]",
        "def f(a: Annotated[int, 3]) -> Literal[4]: ...",
        "Row = dict[str, Literal[1]]",
        "__all__ = ['a' + 'b']",
        "if TYPE_CHECKING:\n    a.b = 1 + 1",
        "print(1 + 1, flush=True)",
        "logger.info(1 + 1)",
        "assert a < 1",
        "x = f'{a + 1}'",
        "x = folder / 'a'",
        "@dataclass(frozen=True)\nclass A: ...",
        "x = zip(a, b, strict=True)",
    ],
)
def test_what_is_no_behavior_has_no_mutants(code: str) -> None:
    assert of(code) == []


def test_raised_error_is_dropped_whole_and_never_changed() -> None:
    code = "def f(a):\n    if a:\n        raise ValueError(1 + 1)"
    assert [(m.operator, m.after) for m in of(code)] == [("swapped branch", "if not (a):"), ("dropped statement", "pass")]


def test_only_names_that_have_a_value_before_lose_an_assignment() -> None:
    code = """
    def f(a):
        b = a
        if a:
            b = c
        return b
    """
    assert [m.line for m in of(code) if m.operator == "dropped statement"] == [5]


def test_return_is_dropped_where_the_function_goes_on() -> None:
    code = """
    def f(a):
        if a:
            return b
        return c
    """
    assert [m.line for m in of(code) if m.operator == "dropped statement"] == [4]


def test_argument_that_every_definition_requires_stays(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f(a, *, b, c=1): ...\nclass G:\n    d: int\n    e: int = 1\n")
    project = read_project([tmp_path / "a.py"])
    dropped = [m.after for m in of("x = f(b=a, c=a), G(d=a, e=a)", project)]
    assert dropped == ["x = f(b=a, ), G(d=a, e=a)", "x = f(b=a, c=a), G(d=a, )"]


def test_paths_are_put_together_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("NAME = 'x'\ndef f(folder: Path): ...\n")
    project = read_project([tmp_path / "a.py"])
    assert of("x = a / NAME\ny = self.folder / b", project) == []
    assert len(of("x = a / b", project)) == 1


def test_survivors_of_the_first_review_are_among_the_mutants() -> None:
    """Own critiques never used, own critiques learned too, critique mean over all, Newcombe without its correction."""
    code = """
    def begin(self, path, epoch, cross, n):
        self._own = read_json(path)
        learn = bool(indices) and own is None
        learned = sum(bool(r.critique) for index in indices if index not in own for r in self.queries[index].responses)
        if cross > 0:
            cross = max(cross - n / 2, 0.0)
    """
    after = {(m.line, m.after) for m in of(code)}
    assert (3, "pass") in after
    assert (4, "learn = bool(indices) or own is None") in after
    assert (5, "learned = sum(bool(r.critique) for index in indices if True for r in self.queries[index].responses)") in after
    assert (7, "pass") in after


def test_digest_survives_moved_lines_and_tells_equal_lines_apart() -> None:
    code = "x = a + b\nx = a + b\n"
    digests = [m.digest for m in of(code)]
    assert len(set(digests)) == 2
    assert [m.digest for m in of(f"y = 'new'\n\n{code}")] == digests


def test_lines_with_other_characters_are_edited_in_place() -> None:
    assert [m.after for m in of("x = f('–é', a - b)")] == ["x = f('–é', a + b)"]


@pytest.mark.parametrize(
    ("code", "span", "shared"),
    [
        ("LIMIT = (\n    1\n)", (1, 3), True),
        ("def f():\n    return g(\n        1\n    )", (2, 4), False),
        ("def f(a=1):\n    ...", (1, 1), True),
        ("@cache\ndef f():\n    return 1", (3, 3), True),
        ("class A:\n    b: int = 1", (2, 2), True),
        ("TABLE = {'b': lambda a: 1}", (1, 1), False),
        ("def f():\n    for a in b(\n        1\n    ):\n        ...", (2, 4), False),
    ],
)
def test_span_is_the_statement_and_import_time_is_marked(code: str, span: tuple[int, int], shared: bool) -> None:
    (mutant,) = [m for m in of(code) if m.operator == "constant number"]
    assert ((mutant.first, mutant.last), mutant.shared) == (span, shared)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_mutants_of_a_source_are_other_python(package: Package) -> None:
    path = package.source_files(ROOT)[-1]
    text = (ROOT / path).read_text()
    original = ast.dump(ast.parse(text))
    sample = draw({path: mutants(Source(path, text), read_project([ROOT / path]))}, 15, 0)
    assert sample
    assert all(ast.dump(ast.parse(mutant.apply(text))) != original for mutant in sample)
