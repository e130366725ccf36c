import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from components.errors import UserError
from components.preferences.importing.archives import Bounds, samples, unpack


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 4, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size if kind == tarfile.REGTYPE else 0, link
    return info


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (member("../outside.txt"), "leads out"),
        (member("a/../../outside.txt"), "leads out"),
        (member("/etc/outside.txt"), "leads out"),
        (member("..\\outside.txt"), "leads out"),
        (member("C:/outside.txt"), "leads out"),
        (member("link", tarfile.SYMTYPE, link="/etc/passwd"), "a link or a device"),
        (member("link", tarfile.LNKTYPE, link="good.txt"), "a link or a device"),
        (member("device", tarfile.CHRTYPE), "a link or a device"),
        (member("pipe", tarfile.FIFOTYPE), "a link or a device"),
    ],
)
def test_hostile_member_of_tar_is_refused_whole(tmp_path: Path, hostile: tarfile.TarInfo, reason: str) -> None:
    path = tar_of(tmp_path / "a.tar", member("good.txt"), hostile)
    with pytest.raises(UserError, match=reason):
        unpack(path, tmp_path / "inside" / "target")
    assert not (tmp_path / "inside/target").exists()
    assert not (tmp_path / "inside/target.partial").exists()
    assert not list(tmp_path.rglob("outside.txt"))


def test_hostile_members_of_zip_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    for number, hostile in enumerate(("../outside.txt", "/outside.txt", link)):
        path = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("good.txt", "x")
            archive.writestr(hostile, "/etc/passwd")
        with pytest.raises(UserError, match="don't trust this archive"):
            unpack(path, tmp_path / "target")
        assert not (tmp_path / "target").exists()
    assert not list(tmp_path.rglob("outside.txt"))


def test_bombs_are_refused_by_bytes_and_by_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(5 * 2**20))
    with pytest.raises(UserError, match=r"unpacks to more than [\d,]+ bytes"):
        unpack(tmp_path / "bomb.zip", tmp_path / "target", Bounds(least=2**20))
    path = tar_of(tmp_path / "many.tar", *(member(f"{n}") for n in range(20)))
    with pytest.raises(UserError, match="more than 10 members"):
        unpack(path, tmp_path / "target", Bounds(members=10))
    with pytest.raises(UserError, match="more than 50 bytes"):
        unpack(path, tmp_path / "target", Bounds(bytes=50))
    assert not (tmp_path / "target").exists()


def test_damaged_archive_is_one_sentence(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", member("good.txt", size=5000))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"a.tar can't be unpacked"):
        unpack(path, tmp_path / "target")
    assert [item.name for item in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_cut_samples_are_one_sentence(tmp_path: Path, mode: str, share: float) -> None:
    path = tmp_path / "cut.tar"
    with tarfile.open(path, mode) as archive:
        for number in range(30):
            for ending, content in (("json", b'{"question": "What?"}'), ("png", hashlib.shake_128(bytes([number])).digest(3000))):
                member = tarfile.TarInfo(f"{number:03}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"cut\.tar can't be unpacked .*damaged"):
        list(samples(path))
    with pytest.raises(UserError, match=r"cut\.tar can't be unpacked .*damaged"):
        unpack(path, tmp_path / "target")


def test_plain_members_are_unpacked(tmp_path: Path) -> None:
    unpack(tar_of(tmp_path / "a.tar", member("folder", tarfile.DIRTYPE), member("folder/good.txt")), tmp_path / "target")
    assert (tmp_path / "target/folder/good.txt").read_bytes() == b"xxxx"


def test_zip_member_before_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "x")
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x05\x06")
    content[at + 16 : at + 20] = (10**6).to_bytes(4, "little")  # where the list of members begins
    path.write_bytes(content)
    with pytest.raises(UserError, match="can't be unpacked"):
        unpack(path, tmp_path / "target")


@pytest.mark.parametrize("name", ["", ".", "./", "x" * 300])
def test_zip_member_without_a_usable_name_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), "x")
    with pytest.raises(UserError, match=r"unsafe name|can't be unpacked"):
        unpack(path, tmp_path / "target")


def test_member_that_is_file_and_folder_is_refused(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", member("a"), member("a/b"))
    with pytest.raises(UserError, match="can't be unpacked"):
        unpack(path, tmp_path / "target")
