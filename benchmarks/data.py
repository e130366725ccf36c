"""A team's own data: how fast rows are imported and validated, what is caught, and what is lost.

- 120,000 pairs over 30,000 queries, rows of about 1 kB without media, go through the stage `validate` in a process of its own that may use two
  cores: `validate_seconds` is the time of that process, `validate_peak_gb` the memory of it and its children (proportional set size, read five
  times a second).
- `second_validation_share` is the time for the rows when one was added, over the time for them before. What a process needs whatever the rows
  are, start and Great Expectations' suites, is in `second_validate_seconds`.
- `poison_caught` counts bad rows (benchmarks/poisons, and `--poisons DIR`) that are refused for the field and the reason that their file names;
  `good_rows_lost` counts the good rows between them that are refused.
- `media_per_second_share` is the rate at which validation examines JPEGs of 0.3 megapixels over that of PIL's bare decoding, which follows it.
- `near_duplicates_recall` and `_precision` are the least over resized, compressed and cropped copies, against other photos of the same
  scenes, at the threshold of `components.validation.perceptual`. The scenes are the second half; on the first half
  `near_duplicates_first_half_bits` is the range of thresholds at which both are at least .95.

    python -m benchmarks.data --base data/base --json

Bounds here: validate_seconds 60, validate_peak_gb 2, import_rows_per_second 20,000, second_validation_share .05, media_per_second_share .8,
poison_caught = poison_total, good_rows_lost 0, near_duplicates_recall .95, near_duplicates_precision .95. A machine whose
cores others use says nothing about the first three.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks import _photos, _poisons
from benchmarks._harness import ROOT, Report, machine, parser, show

QUERIES, SMALL_QUERIES = 30_000, 600
SCENES, SMALL_SCENES = 500, 40
MEDIA, SMALL_MEDIA, MEDIA_ROUNDS = 6000, 200, 3
MEDIA_SIZE, MEDIA_QUALITY = (640, 480), 90  # of a JPEG of 0.3 megapixels
CORES = 2
POLL_SECONDS = 0.2
WORDS = 40  # of an answer, so that a row has about 1 kB
BOUND = 0.95  # of recall and precision
IMPORT_FORMAT = "trl"


def main() -> None:
    """Measure and print."""
    options = parser(str(__doc__))
    options.add_argument("--base", type=Path, default=Path("data/base"), help="the checkpoint whose tokenizer counts lengths")
    options.add_argument("--poisons", type=Path, action="append", default=[], help="a folder of further poisons")
    options.add_argument("--side", type=Path, help="validate the checkout in this folder, print its times and end")
    arguments = options.parse_args()
    if arguments.side is not None:
        print(json.dumps(validate(arguments.side)))
        return
    show(lambda: measure(arguments.base.resolve(), [_poisons.FOLDER, *arguments.poisons], small=arguments.small), arguments.json)


def measure(base: Path, poisons: list[Path], *, small: bool) -> Report:
    """All that this benchmark measures."""
    with tempfile.TemporaryDirectory() as folder:
        report = decoding(Path(folder) / "media", SMALL_MEDIA if small else MEDIA)
        report |= validation(Path(folder), base, SMALL_QUERIES if small else QUERIES)
        report |= importing(Path(folder) / "import", SMALL_QUERIES if small else QUERIES)
        report |= poisoning(Path(folder) / "poisoned", base, poisons)
    return {**report, **near_duplicates(SMALL_SCENES if small else SCENES), "machine": machine(CORES)}


def validation(folder: Path, base: Path, queries: int) -> Report:
    """Times and memory of the stage, the first time and with one row more."""
    checkout = make_checkout(folder / "checkout", base)
    file = checkout / "data/preferences/data.jsonl"
    lines = list(rows(queries, 0))
    file.write_bytes(b"".join(lines))
    first = run_side(checkout)
    lines.insert(queries // 2, next(rows(1, 1)))
    file.write_bytes(b"".join(lines))
    second = run_side(checkout)
    return {
        "rows": first["rows"],
        "pairs": first["pairs"],
        "bytes_a_row": round(sum(map(len, lines)) / len(lines)),
        "validate_seconds": first["wall"],
        "validate_rows_seconds": first["rows_seconds"],
        "validate_peak_gb": first["peak_gb"],
        "second_validate_seconds": second["wall"],
        "second_validation_share": second["rows_seconds"] / first["rows_seconds"],
    }


def rows(count: int, seed: int) -> Iterator[bytes]:
    """Lines of distinct rows without media: two of three have three answers, the third has four, so that four pairs come from a query."""
    random = np.random.default_rng(seed)
    vocabulary = np.array(["".join(chr(97 + letter) for letter in random.integers(0, 26, random.integers(2, 9))) for _ in range(2000)])
    for number in range(count):
        answers = 4 if number % 3 == 0 else 3
        texts = [" ".join(random.choice(vocabulary, WORDS)) for _ in range(answers)]
        ranks = [int(rank) + 1 for rank in random.permutation(answers)]
        scores = [6 - rank for rank in ranks]
        row: dict[str, Any] = {"id": f"{seed}-{number}", "question": " ".join(random.choice(vocabulary, 12)), "models_output": texts}
        yield (
            json.dumps(row | {"final_ranking": ranks, "faithfulness": scores, "helpfulness": scores, "category": "short"}).encode() + b"\n"
        )


def make_checkout(root: Path, base: Path) -> Path:
    """A checkout with the settings of this one, a base and no data."""
    (root / "data/preferences").mkdir(parents=True)
    from components.config.overrides import write_settings
    from components.config.settings import load_settings

    values = load_settings(ROOT / "params.yaml").model_dump(mode="json", by_alias=True)
    values["model"]["base"] = str(base)
    write_settings(root / "params.yaml", values)
    return root


def run_side(checkout: Path) -> dict[str, float]:
    """The times that `validate` prints in a process of two cores, with its wall-clock time and peak memory."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.data", "--side", str(checkout)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),  # noqa: PLW1509 -- one system call, before any thread
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        time.sleep(POLL_SECONDS)
    assert process.stdout is not None
    if process.returncode != 0:
        raise RuntimeError(f"the validation ended with {process.returncode}")
    return {**json.loads(process.stdout.read().splitlines()[-1]), "wall": time.monotonic() - started, "peak_gb": peak / 1e9}


def _memory(pid: int) -> int:
    """Bytes of a process and its children, what they share counted once."""
    total = 0
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total


def validate(root: Path) -> dict[str, Any]:
    """Run the stage in a checkout; its times, and the counts that show that it did."""
    from components.checkout import Checkout
    from components.config.settings import load_settings
    from components.validation.stage import run

    result = run(load_settings(root / "params.yaml"), Checkout(root))
    pairs = (result.metrics["pairs"] or 0) + (result.metrics["heldout_pairs"] or 0)
    return {**result.times, "rows": result.metrics["rows"], "pairs": pairs}


def importing(folder: Path, queries: int) -> Report:
    """Pairs in TRL's format that an import reads in a second, with two processes."""
    from components.checkout import Checkout
    from components.preferences.importing.run import Request, import_preferences

    (folder / "data/preferences").mkdir(parents=True)
    source = folder / "pairs.jsonl"
    pairs = 0
    with source.open("wb") as stream:
        for line in rows(queries, 2):
            row = json.loads(line)
            ranked = sorted(zip(row["final_ranking"], row["models_output"], strict=True))
            for index, (_, chosen) in enumerate(ranked):
                for _, rejected in ranked[index + 1 :]:
                    stream.write(json.dumps({"prompt": row["question"], "chosen": chosen, "rejected": rejected}).encode() + b"\n")
                    pairs += 1
    started = time.monotonic()
    report = import_preferences(Request(str(source), IMPORT_FORMAT, None, None, processes=CORES), Checkout(folder), lambda words: None)  # noqa: ARG005
    seconds = time.monotonic() - started
    return {"import_rows_per_second": pairs / seconds, "imported_queries": report.queries}


def decoding(folder: Path, count: int) -> Report:
    """JPEGs that validation examines in a second, and the share of that in what PIL decodes, each by two processes that have started: medians."""
    photos = [photo.resize(MEDIA_SIZE) for photo in _photos.photographs()]
    folder.mkdir(parents=True)
    paths = [folder / f"{number}.jpg" for number in range(count + CORES)]
    for number, path in enumerate(paths):
        # A comment makes the bytes of each file different, so that none is remembered from another.
        photos[number % len(photos)].save(path, quality=MEDIA_QUALITY, comment=str(number))
        os.utime(path, (0, 0))
    rounds = [(_examine(folder.with_name(f"examined-{turn}"), paths), _decode_all(paths)) for turn in range(MEDIA_ROUNDS)]
    seconds = statistics.median(ours for ours, _ in rounds)
    return {"media_per_second": count / seconds, "media_per_second_share": statistics.median(bare / ours for ours, bare in rounds)}


def _examine(checkout: Path, paths: list[Path]) -> float:
    """Seconds for all but the last paths, whose media start the processes."""
    from components.checkout import Checkout
    from components.preferences.bounds import MediaBounds
    from components.validation.media import MediaFolder

    media = MediaFolder(paths[0].parent, MediaBounds(), Checkout(checkout), CORES)
    media.request([{"image": path.name} for path in paths[-CORES:]])
    for path in paths[-CORES:]:
        media.examine(path.name, "image")
    started = time.monotonic()
    media.request({"image": path.name} for path in paths[:-CORES])
    for path in paths[:-CORES]:
        media.examine(path.name, "image")
    seconds = time.monotonic() - started
    media.close()
    return seconds


def _decode_all(paths: list[Path]) -> float:
    """As `_examine`, by PIL alone."""
    with ProcessPoolExecutor(CORES) as pool:
        list(pool.map(_decode, paths[-CORES:]))
        started = time.monotonic()
        list(pool.map(_decode, paths[:-CORES], chunksize=32))
        return time.monotonic() - started


def _decode(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def poisoning(folder: Path, base: Path, poisons: list[Path]) -> Report:
    """How many poisons are refused for their reason, and how many good rows are lost; what is wrong goes to standard error."""
    from components.checkout import Checkout
    from components.config.settings import load_settings
    from components.validation.intake import HeldoutContent, read_file
    from components.validation.reader import Reader
    from components.validation.rows import RowChecks

    checkout = make_checkout(folder, base)
    preferences = checkout / "data/preferences"
    poisonous = _poisons.write_poisoned(preferences, [poison for source in poisons for poison in _poisons.read_poisons(source)])
    reader = Reader(RowChecks.of(load_settings(checkout / "params.yaml"), Checkout(checkout), preferences), None)
    intake = read_file(reader, preferences / "data.jsonl", "data.jsonl", "train", HeldoutContent())
    wrong = _poisons.compare(poisonous, intake)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    lost = sum(sentence.startswith("good row") for sentence in wrong)
    return {"poison_total": len(poisonous), "poison_caught": len(poisonous) - (len(wrong) - lost), "good_rows_lost": lost}


def near_duplicates(count: int) -> Report:
    """Recall and precision on `count` scenes that the threshold was not chosen on, and the thresholds that would do on as many others."""
    from components.validation.perceptual import MAX_BITS

    first, second = distances(count, 1), distances(count, 2)
    good = [bits for bits in range(128) if min(rates(first, bits)) >= BOUND]
    recall, precision = rates(second, MAX_BITS)
    return {
        "near_duplicates_recall": recall,
        "near_duplicates_precision": precision,
        "near_duplicates_bits": MAX_BITS,
        "near_duplicates_first_half_bits": [min(good), max(good)] if good else [],
    }


def distances(count: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Bits between scenes and their copies of each kind, and other photos of them."""
    from components.validation.perceptual import fingerprint, least_bits

    measured: dict[str, list[int]] = {kind: [] for kind in (*_photos.KINDS, "other")}
    for scene in _photos.scenes(count, seed):
        picture = fingerprint(scene.picture)
        for kind, copy in (*scene.copies.items(), ("other", scene.other)):
            measured[kind].append(least_bits(picture, fingerprint(copy)))
    return {kind: np.array(values) for kind, values in measured.items()}


def rates(bits: dict[str, np.ndarray[Any, Any]], threshold: int) -> tuple[float, float]:
    """The least recall and precision over the kinds of copies."""
    wrong = int((bits["other"] <= threshold).sum())
    right = [int((bits[kind] <= threshold).sum()) for kind in _photos.KINDS]
    return min(right) / len(bits["other"]), min(count / max(1, count + wrong) for count in right)


if __name__ == "__main__":
    main()
