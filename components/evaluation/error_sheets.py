"""A judge's error, measured on labelled answers.

- A sheet has agreement, precision, sensitivity (recall) and specificity with Wilson intervals: over all, by kind and by language, and the share
  that the judge answers. It belongs to one judge with one code, prompt and model; a changed one has no sheet until it is measured.
- components/evaluation/correction.py corrects shares and differences for it. The stage `evaluate` records the errors beside its results, so the
  gate reads those that the evaluation had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from components.errors import UserError
from components.evaluation import judge_prompts
from components.evaluation.labels import TASKS, LabelledAnswer, Task
from components.evaluation.rules.languages import LANGUAGES
from components.evaluation.verdict import CHAIN, GROUND_TRUTH, MODEL, RULES, Verdict
from components.files import digest_bytes, digest_file, read_json
from components.meaning import read_meaning
from components.statistics import wilson

CONFIDENCE = 0.95  # of the sheets' intervals, two-sided
LEAST_INFORMATION = (
    1.2  # sensitivity + specificity; at 1 a verdict says nothing, and below this value a correction multiplies noise by five
)
_HERE = Path(__file__).parent
_SOURCES = {
    GROUND_TRUTH: ("judge.py", "wording.py"),
    RULES: ("rule_judge.py", "wording.py", "rules/*.py"),
    MODEL: ("model_judge.py", "judge_prompts.py"),
    CHAIN: ("*judge*.py", "chain.py", "wording.py", "rules/*.py"),
}


@dataclass
class Counts:
    """Labels against verdicts: both positive, a false positive, both negative, a false negative, and silence."""

    true_positive: int = 0
    false_positive: int = 0
    true_negative: int = 0
    false_negative: int = 0
    silent: int = 0

    def add(self, expected: bool, verdict: bool | None) -> None:
        """Count one labelled answer."""
        if verdict is None:
            self.silent += 1
        elif verdict:
            self.true_positive += expected
            self.false_positive += not expected
        else:
            self.true_negative += not expected
            self.false_negative += expected

    def as_json(self) -> dict[str, Any]:
        """Counts and shares; a share is None where it has no case."""
        tp, fp, tn, fn = self.true_positive, self.false_positive, self.true_negative, self.false_negative
        answered = tp + fp + tn + fn
        return {
            "answers": answered + self.silent,
            "answered": share(answered, answered + self.silent),
            "agreement": share(tp + tn, answered),
            "precision": share(tp, tp + fp),
            "sensitivity": share(tp, tp + fn),
            "specificity": share(tn, tn + fp),
        }


@dataclass
class _Groups:
    """Counts over all, by kind and by language."""

    overall: Counts = field(default_factory=Counts)
    by_kind: dict[str, Counts] = field(default_factory=dict)
    by_language: dict[str, Counts] = field(default_factory=dict)

    def add(self, one: LabelledAnswer, verdict: bool | None) -> None:
        for counts in (self.overall, self.by_kind.setdefault(one.kind, Counts()), self.by_language.setdefault(one.language, Counts())):
            counts.add(one.expected, verdict)

    def as_json(self) -> dict[str, Any]:
        by = {"by_kind": self.by_kind, "by_language": self.by_language}
        groups = {name: {key: counts.as_json() for key, counts in sorted(table.items())} for name, table in by.items()}
        return {"overall": self.overall.as_json(), **groups}


def share(events: int, n: int) -> dict[str, float | int] | None:
    """A proportion with Wilson's two-sided interval."""
    if n == 0:
        return None
    low, high = wilson(events, n, (1 + CONFIDENCE) / 2)
    return {"value": events / n, "low": low, "high": high, "events": events, "n": n}


def judge_key(name: str, model: str = "") -> str:
    """What a judge's error depends on: its code as it means, its prompts, its model."""
    files = sorted(file for pattern in _SOURCES[name] for file in _HERE.glob(pattern))
    code = [read_meaning(file.read_bytes(), file.relative_to(_HERE).as_posix()).digest for file in files]
    return digest_bytes(name, model, judge_prompts.DIGEST if name in (MODEL, CHAIN) else "", *code)


def measure(name: str, labelled: Sequence[LabelledAnswer], verdicts: Sequence[Verdict], *, model: str = "") -> dict[str, Any]:
    """The error sheet of a judge by its verdicts on labelled answers.

    Languages that the rules do not know are counted apart, as `outside`: there the rules have to be silent on what answers say. The form of an
    answer (a loop, a broken sentence) is read in every language and counts in neither part there.
    """
    inside, outside = _Groups(), Counts()
    tasks: dict[str, _Groups] = {}
    for one, verdict in zip(labelled, verdicts, strict=True):
        value = answer_to(one.task, verdict)
        if name == RULES and one.language not in LANGUAGES:
            if one.task != "degenerate":
                outside.add(one.expected, value)
            continue
        inside.add(one, value)
        tasks.setdefault(one.task, _Groups()).add(one, value)
    silent = outside.silent
    return {
        "judge": name,
        "key": judge_key(name, model),
        "model": model or None,
        "prompt": {"version": judge_prompts.VERSION, "digest": judge_prompts.DIGEST} if name in (MODEL, CHAIN) else None,
        **inside.as_json(),
        "tasks": {task: tasks[task].as_json() for task in TASKS if task in tasks},
        "outside": {"answers": silent + sum(_decided(outside)), "silent": share(silent, silent + sum(_decided(outside)))},
    }


def answer_to(task: Task, verdict: Verdict) -> bool | None:
    """What a verdict says on the task that a label is about."""
    values: dict[Task, bool | None] = {
        "right": verdict.right,
        "safe": verdict.safe,
        "refused": verdict.refused,
        "degenerate": verdict.degenerate,
        "hallucinated": verdict.hallucinated,
    }
    return values[task]


def _decided(counts: Counts) -> tuple[int, int, int, int]:
    return counts.true_positive, counts.false_positive, counts.true_negative, counts.false_negative


class Error(NamedTuple):
    """Sensitivity and specificity as (correct verdicts, labels)."""

    sensitivity: tuple[int, int]
    specificity: tuple[int, int]

    @property
    def of_negative(self) -> Error:
        """The error in finding what the task calls negative, such as unsafe answers by a judge of safe ones."""
        return Error(self.specificity, self.sensitivity)


Errors = Callable[[str, Task], Error | str]  # a judge's error on a task, or why there is none


class _Share(NamedTuple):
    value: float
    events: int
    n: int


class Sheets:
    """The error sheets in a folder. A sheet of another code, prompt or model counts as none."""

    def __init__(self, folder: Path, models: Mapping[str, str] | None = None) -> None:
        self._folder, self._models = folder, models or {}
        self._sheets: dict[str, dict[str, Any] | None] = {}

    def error(self, judge: str, task: Task) -> Error | str:
        """A judge's error on a task, or why there is none, with the command that measures it."""
        sheet = self._sheet(judge)
        cure = f"run `mmalign judge calibrate --judge {judge} --labels FILE --save`"
        if sheet is None:
            return f"judge '{judge}' has no error sheet of its present code, prompt and model: {cure}"
        try:
            overall = sheet["tasks"].get(task, {}).get("overall", {})
            shares = [overall.get(name) for name in ("sensitivity", "specificity")]
            sensitivity, specificity = (share and _Share(float(share["value"]), int(share["events"]), int(share["n"])) for share in shares)
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
            raise self._damaged(judge) from error
        if not sensitivity or not specificity:
            return f"the error sheet of judge '{judge}' lacks labels of both kinds for '{task}': add such answers to the labels, and {cure}"
        total = sensitivity.value + specificity.value
        if total < LEAST_INFORMATION:
            return (
                f"judge '{judge}' has sensitivity + specificity {total:.2f} on '{task}', below {LEAST_INFORMATION}: its verdicts say too little; "
                f"name another judge in evaluate.judges, or {cure}"
            )
        return Error((sensitivity.events, sensitivity.n), (specificity.events, specificity.n))

    def recorded(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The errors of `names` for JSON, by judge and task: `read_errors` reads them."""
        return {name: {task: self.error(name, task) for task in TASKS} for name in names}

    def digest(self, names: Iterable[str]) -> str:
        """A digest of the sheets of `names`."""
        files = [self._folder / f"{name}.json" for name in names]
        return digest_bytes(*(digest_file(file) if file.is_file() else "none" for file in files))

    def _damaged(self, judge: str) -> UserError:
        return UserError(f"{self._folder / judge}.json is no error sheet: restore it with git, or measure the judge again")

    def _sheet(self, judge: str) -> dict[str, Any] | None:
        if judge not in self._sheets:
            path = self._folder / f"{judge}.json"
            try:
                sheet = read_json(path) if path.is_file() else None
            except ValueError as error:
                raise self._damaged(judge) from error
            if not isinstance(sheet, dict | None):
                raise self._damaged(judge)
            matches = sheet is not None and judge in _SOURCES and sheet.get("key") == judge_key(judge, self._models.get(judge, ""))
            self._sheets[judge] = sheet if matches else None
        return self._sheets[judge]


def read_errors(recorded: Mapping[str, Mapping[str, Any]]) -> Errors:
    """The errors of `Sheets.recorded`, as the evaluation wrote them."""

    def error(judge: str, task: Task) -> Error | str:
        value = recorded.get(judge, {}).get(task, f"the evaluation recorded no error of judge '{judge}': run it again (mmalign run)")
        if isinstance(value, str):
            return value
        (sensitivity, specificity) = value
        return Error((sensitivity[0], sensitivity[1]), (specificity[0], specificity[1]))

    return error
