"""The checks between a row's bytes and a query, the cheap ones first: all that needs no other row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.errors import UserError
from components.files import digest_bytes, digest_file
from components.preferences.faults import RowError
from components.preferences.json_rows import parse_row
from components.preferences.ranking import Listed, UnknownRankingError
from components.preferences.record import Medium, Query
from components.preferences.release import READ_FIELDS, query_from_row
from components.preferences.texts import is_blank
from components.validation.blocks import Block, Outcome, OutcomeBuilder
from components.validation.media import MediaFolder, bounds_of
from components.validation.media_state import WatchedMedia
from components.validation.summary import Summary, default_clusters, summarize

if TYPE_CHECKING:
    from components.checkout import Checkout
    from components.config.features import FeatureSettings
    from components.config.model import ModelSettings
    from components.config.settings import Settings
    from components.config.validate import ValidateSettings
    from components.validation.lengths import LengthCheck

Split = Literal["train", "heldout"]
PROCESSOR_FILES = (
    "config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class RowChecks:
    """What the checks of a row depend on, for processes that share them: the media's root, the base, and settings.

    `checkout` remembers what was examined of the media; without one, media are examined in the process that asks, and nothing is remembered.
    """

    folder: Path
    base: Path
    limits: ValidateSettings
    model: ModelSettings
    features: FeatureSettings
    instruction: str
    checkout: Checkout

    @staticmethod
    def of(settings: Settings, checkout: Checkout, folder: Path) -> RowChecks:
        """The checks by the settings of a checkout, with media in `folder`."""
        base, limits, model = checkout.root / settings.model.base, settings.validate_, settings.model
        return RowChecks(folder, base, limits, model, settings.features, settings.reward.instruction, checkout)

    def require_base(self) -> None:
        """Raises UserError where there is no checkpoint."""
        if not (self.base / "config.json").is_file():
            raise UserError(f"model.base {self.base} holds no config.json: set it in params.yaml to a checkpoint folder")

    def digest(self) -> str:
        """Names all that an outcome depends on beside its rows and media."""
        from components.closures import code_digest

        files = [digest_file(path) if path.is_file() else "" for path in (self.base / name for name in PROCESSOR_FILES)]
        settings = [section.model_dump_json() for section in (self.model, self.features)]
        limits = f"{self.limits.min_responses} {self.limits.max_responses} {self.limits.max_response_characters} {bounds_of(self.limits)}"
        return digest_bytes(code_digest("validate"), str(self.folder.resolve()), *files, *settings, limits, self.instruction)

    def lengths(self) -> LengthCheck:
        """The check of lengths by the base's tokenizer and processor, which takes seconds to load. Raises UserError for an unusable base."""
        self.require_base()
        from components.families.processing import Preprocessor
        from components.validation.lengths import LengthCheck

        return LengthCheck(Preprocessor(self.base, self.folder, self.model, self.features), self.instruction, self.model.max_length)


def _parsed(raw: bytes | None) -> dict[str, Any] | RowError:
    try:
        return parse_row(raw)
    except RowError as fault:
        return fault


class BlockValidator:
    """Validates blocks. A medium is examined once for all of them, by `decoders` processes: one a core where that is None."""

    def __init__(self, checks: RowChecks, decoders: int | None = None) -> None:
        self._limits, self._lengths = checks.limits, checks.lengths()
        self._media = WatchedMedia(MediaFolder(checks.folder, bounds_of(checks.limits), checks.checkout, decoders))

    def close(self) -> None:
        """End the processes that examine media, and remember what they found."""
        self._media.close()

    def validate(self, block: Block, split: Split, listed: Listed) -> Outcome:
        """The outcome of a block's rows, up to the first ranking of an unknown encoding."""
        outcome = OutcomeBuilder()
        rows = [(number - block.first, _parsed(raw)) for number, raw in block.rows]
        self._media.begin(row for _, row in rows if not isinstance(row, RowError))
        for line, row in rows:
            try:
                if isinstance(row, RowError):
                    raise row
                query, summary = self._accept(row, split, line, listed)
            except RowError as fault:
                outcome.refuse(line, fault)
                continue
            except UnknownRankingError as error:
                outcome.ranking = (line, str(error))
                break
            outcome.queries.append(query)
            outcome.summaries.append(summary)
            outcome.unread.update(name for name in row if name not in READ_FIELDS)
        self._media.remember()
        return outcome.build(self._media.states())

    def _accept(self, row: dict[str, Any], split: Split, line: int, listed: Listed) -> tuple[Query, Summary]:
        query = query_from_row(row, split, listed)
        self._check_responses(query)
        query = replace(query, media=tuple(map(self._examined, query.media)))
        fingerprints = [self._media.fingerprint(medium.path, medium.kind) for medium in query.media]
        tokens = self._lengths.check(query)
        query = replace(query, clusters=default_clusters(query))
        return query, summarize(query, row, line, tokens, fingerprints)

    def _examined(self, medium: Medium) -> Medium:
        seen = self._media.examine(medium.path, medium.kind)
        return replace(medium, digest=seen.digest, size=(seen.width, seen.height, seen.frames))

    def _check_responses(self, query: Query) -> None:
        count, least = len(query.responses), self._limits.min_responses
        if count < least:
            raise RowError("few_responses", "models_output", f"has {count} responses, fewer than validate.min_responses {least}")
        if count > self._limits.max_responses:
            raise RowError(
                "many_responses", "models_output", f"has {count} responses, more than validate.max_responses {self._limits.max_responses}"
            )
        for index, response in enumerate(query.responses):
            characters, most = len(response.text), self._limits.max_response_characters
            if is_blank(response.text):
                raise RowError("empty_response", f"models_output[{index}]", "is empty")
            if characters > most:
                raise RowError(
                    "long_response",
                    f"models_output[{index}]",
                    f"has {characters} characters, more than validate.max_response_characters {most}",
                )
