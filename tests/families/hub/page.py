"""Writes docs/checkpoints.md from the table: `python -m tests.families.hub.page`."""

from __future__ import annotations

import json

from components.families.hub.published import sources, table
from tests.checkout import ROOT

PAGE = ROOT / "docs/checkpoints.md"
HEAD = """# The checkpoints of the profiles

What each profile's checkpoint publishes, field by field, with the source of the value. Nobody here has fetched these checkpoints: the values come
from packages and public code. `guess` marks those that no source states. The page is written from `components/families/hub/published.yaml` by
`python -m tests.families.hub.page`.

Compare your checkpoint with it before the first run:

```
mmalign model verify data/models/Qwen2.5-VL-7B-Instruct
```

The command lists each field that differs, with its value and the published one, and ends with 2 if there is one, or if validation would refuse the
checkpoint. `--json` prints the same for scripts. For a checkpoint of no profile it checks what it can: files, tokenizer, chat template.

## The bed

`tests/shapes` builds a checkpoint for every profile with all of these values except the depth and the width of the layers: `build(NAME, FOLDER)` in
`tests/shapes/bed.py`. Its vocabulary is Qwen's own, from the package dashscope; its photographs (640x480 to 12 megapixels) come from
scikit-image. Heads have 16 channels (128 in Qwen3-VL, as published), and the M-RoPE sections shrink with them: [2, 3, 3] for [16, 24, 24].

`make test` opens a profile of each family as a stage does, and takes a step of both trainings with the profile's attention. `make test-all` runs every
profile through all stages with two ranks.

A CPU can't show:

- the flex attention kernel: it has no backward on a CPU, so the model reads the same mask densely. `benchmarks.gpu` runs the kernel.
- memory and speed at the true depth and width.
- what the true weights make of a prompt.

## Sources
"""


def page() -> str:
    """The page's text."""
    lines = [HEAD, "| source | what it is |", "|---|---|", *(f"| {key} | {text} |" for key, text in sources().items())]
    for name, published in table().items():
        guesses = len(published.guessed)
        lines += ["", f"## {name}", "", f"Profile `{published.profile}`; {len(published.fields)} fields, {guesses} of them guessed.", ""]
        lines += ["| file | field | value | source |", "|---|---|---|---|"]
        for field in published.fields:
            value = json.dumps(field.value, ensure_ascii=False)
            shown = value if len(value) <= 60 else f"{len(field.value)} values"
            lines.append(f"| {field.file} | `{field.name}` | `{shown}` | {field.source} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
