"""Archives: the parser's target, good ones, and ones whose members a fuzzer names. A changed header of a tar fails at its checksum, a made one does not."""

from __future__ import annotations

import io
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any, Literal, get_args

from hypothesis import strategies as st

from components.errors import UserError
from components.preferences.importing.archives import Bounds, is_archive, is_webdataset, samples, unpack
from tests.fuzz import inputs
from tests.fuzz.rows import in_file

SMALL = Bounds(members=100, bytes=2**20, ratio=100, least=2**18)
HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.GNUTYPE_SPARSE)
KINDS = (
    tarfile.REGTYPE,
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
    b"Z",
    *HEADERS,
)
TarMode = Literal["w:", "w:gz", "w:bz2", "w:xz"]
TAR_MODES: tuple[TarMode, ...] = get_args(TarMode)
FORMATS: tuple[Literal[0, 1, 2], ...] = (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)
NAMES = st.one_of(
    st.sampled_from(["1.json", "1.png", "a/1.json", "data.jsonl", ".", "..", "/", "a/..", "a//b", "C:a", "\\\\s\\a", "a", "a/b", ".json"]),
    inputs.TEXTS,
)
CONTENTS = st.one_of(
    st.sampled_from([b"", b"{}", b'{"id": "a", "image": "1.png"}\n', b"12 size=9999\n13 path=../a\n", bytes(5000)]), st.binary(max_size=20)
)


def archive(content: bytes) -> None:
    """Unpack an archive, and read it as samples. Nothing may come to lie beside the target."""

    def parse(path: Path) -> None:
        if not is_archive(path):
            return
        try:
            unpack(path, path.parent / "unpacked", SMALL)
        except UserError:
            pass
        finally:
            assert {item.name for item in path.parent.iterdir()} <= {path.name, "unpacked"}
        if not zipfile.is_zipfile(path):
            is_webdataset(path)
            for _ in samples(path):
                pass

    in_file(content, "archive", parse)


def archives() -> list[bytes]:
    """Good tars and tars of samples, plain and compressed, with PAX and GNU headers; and zips of three methods."""
    made = []
    for names in (("data.jsonl", "a/b.png"), ("1.json", "1.png"), ("x" * 120 + ".json", "é.png")):
        for mode in TAR_MODES:
            for form in FORMATS:
                if form == tarfile.USTAR_FORMAT and len(names[0]) > 100:
                    continue
                made.append(_tar([(name, tarfile.REGTYPE, b"{}", "", 2) for name in names], mode, form)[: 512 * 14])
    made += [_zip([("data.jsonl", 0, b'{"id": "a"}\n' * 20, 0), ("a/b.png", 0, b"x", 0)], method) for method in METHODS]
    return made


def made_archives() -> st.SearchStrategy[bytes]:
    """Archives of members with any names, kinds, links and sizes."""
    member = st.tuples(
        NAMES, st.sampled_from(KINDS), CONTENTS, NAMES, st.one_of(st.just(None), st.sampled_from([0, 1, 700, 2**20, 2**33, 2**62, -512]))
    )
    modes = st.sampled_from(["0o100644", "0o120777", "0o010644", "0o040755", "0"]).map(lambda text: int(text, 8 if "o" in text else 10))
    entry = st.tuples(NAMES, modes, CONTENTS, st.sampled_from([0, 0, 1, 0x800]))
    return st.one_of(
        st.builds(_tar, st.lists(member, max_size=4), st.sampled_from(TAR_MODES[:2]), st.sampled_from(FORMATS)),
        st.builds(_zip, st.lists(entry, max_size=4), st.sampled_from(METHODS)),
    )


def _tar(members: list[tuple[str, bytes, bytes, str, int | None]], mode: TarMode, form: Literal[0, 1, 2]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=form, errors="surrogatepass") as packed:
        for name, kind, content, link, size in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, link
            entry.size = len(content) if size is None else size  # a header may promise what does not follow
            try:
                header = entry.tobuf(form, "utf-8", "surrogatepass")
            except ValueError:  # no header of this form can hold the name
                continue
            stream_of(packed).write(header + content + bytes(-len(content) % tarfile.BLOCKSIZE))
            packed.offset += len(header) + len(content)
    return stream.getvalue()


def stream_of(packed: tarfile.TarFile) -> Any:
    """What a tar is written to."""
    return packed.fileobj


def _zip(members: list[tuple[str, int, bytes, int]], method: int) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", method) as packed:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, mode, content, flags in members:
            entry = zipfile.ZipInfo(name.encode(errors="replace").decode())
            entry.external_attr, entry.compress_type = mode << 16, method
            packed.writestr(entry, content)
            entry.flag_bits |= flags
    return stream.getvalue()
