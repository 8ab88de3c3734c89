"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from stealguard.files import appending, check_regular, opened, read_text, replacing, set_aside, sha256, sync, write_text


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "one")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "two \ud800")
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"], "no temporary file stays"
    assert len(sha256(path)) == 64


def test_errors_name_the_file_and_not_its_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    with pytest.raises(OSError, match="No space left") as told, replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as `write` has it, which knows no name
    assert told.value.filename == str(path)
    with pytest.raises(RuntimeError) as wrapped, replacing(path):
        raise RuntimeError("unexpected pos") from OSError(errno.ENOSPC, "")
    assert getattr(wrapped.value.__cause__, "filename", None) == str(path)
    with pytest.raises(FileNotFoundError) as other, replacing(path):
        (tmp_path / "other").read_text()
    assert other.value.filename == str(tmp_path / "other")

    def refused(**given: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", f"{given['dir']}/{given['prefix']}0a1b")

    monkeypatch.setattr(tempfile, "mkstemp", refused)
    with pytest.raises(PermissionError) as told, replacing(path):
        pass
    assert told.value.filename == str(path)


def test_content_is_on_the_disk_before_the_name_is_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    replace, fsync = Path.replace, os.fsync

    def recorded(handle: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def renamed(path: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(Path, "replace", renamed)
    write_text(tmp_path / "file.txt", "one")
    assert steps == ["file", "rename", "folder"]


def test_a_folder_that_cannot_be_synced_is_left_alone_and_a_full_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(number: int):
        def fsync(handle: int) -> None:
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    sync(tmp_path)
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        sync(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "file.txt", "one")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_makes_way(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    for content in ("one", "two"):
        path.write_text(content)
        assert set_aside(path) == tmp_path / "c.pt.damaged"
    assert not path.exists()
    assert (tmp_path / "c.pt.damaged").read_text() == "two"


@pytest.mark.parametrize("read", [opened, appending, read_text, sha256, check_regular])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(read, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    said = "(Not a regular|Is a directory|Too many levels|No such device)"
    for name in ("pipe", "device", "loop", "folder"):
        with pytest.raises(OSError, match=f"{said}.*{name}"):
            read(tmp_path / name)


DYING = """
import os, sys
from pathlib import Path
from stealguard.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os._exit(0)
"""


def test_the_draft_of_a_killed_process_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    subprocess.run([sys.executable, "-c", DYING, str(path)], check=True)
    (draft,) = tmp_path.iterdir()
    (tmp_path / ".file.txt.of-another").touch()
    with replacing(path) as mine:
        assert not draft.exists()
        with replacing(path) as other:  # a process that runs keeps its own
            other.write_text("other")
        assert mine.exists()
        mine.write_text("whole")
    assert path.read_text() == "whole"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".file.txt.of-another", "file.txt"]
