"""Result files are whole, durable and safely named; scratch stays within its budget."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from tests.unit.workers.instance_builder import instance
from workers.adapters.files import ResultsFolder
from workers.adapters.scratch import ScratchFolder
from workers.errors import StorageUnavailable

STUDY = "1.2.826.0.1.3680043.10.511.9.2"


class TestResultsFolder:
    def test_what_is_reported_is_what_is_on_disk(self, tmp_path: Path) -> None:
        written = ResultsFolder(tmp_path / "results").write(STUDY, "g01-a-01-sr.dcm", instance())
        content = (tmp_path / "results" / written.path).read_bytes()
        assert written.sha256 == hashlib.sha256(content).hexdigest()
        assert written.size_bytes == len(content)
        assert dcmread(tmp_path / "results" / written.path).PatientID == "CANARY-ID"

    def test_second_write_replaces_the_first_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        folder = ResultsFolder(tmp_path)
        folder.write(STUDY, "a.dcm", instance(PatientID="one"))
        folder.write(STUDY, "a.dcm", instance(PatientID="two"))
        assert [path.name for path in (tmp_path / STUDY).iterdir()] == ["a.dcm"]
        assert dcmread(tmp_path / STUDY / "a.dcm").PatientID == "two"

    def test_content_and_names_are_synced_before_it_returns(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events: list[str] = []
        fsync, replace = os.fsync, Path.replace

        def note_sync(descriptor: int) -> None:
            events.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
            fsync(descriptor)

        def note_rename(self: Path, target: Path) -> Path:
            events.append("rename")
            return replace(self, target)

        monkeypatch.setattr(os, "fsync", note_sync)
        monkeypatch.setattr(Path, "replace", note_rename)
        ResultsFolder(tmp_path).write(STUDY, "a.dcm", instance())
        assert events == ["folder", "file", "rename", "folder"]

    def test_full_disk_is_passing_and_leaves_no_part(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        (tmp_path / STUDY).mkdir()
        with pytest.raises(StorageUnavailable, match="No space left"):
            ResultsFolder(tmp_path).write(STUDY, "a.dcm", instance())
        assert list((tmp_path / STUDY).iterdir()) == []

    @pytest.mark.parametrize(
        ("study", "name"),
        [
            ("../1.2", "a.dcm"),
            ("..", "a.dcm"),
            ("", "a.dcm"),
            ("1.2/3", "a.dcm"),
            (STUDY, "../a.dcm"),
            (STUDY, ".dcm"),
            (STUDY, "a.txt"),
        ],
    )
    def test_names_that_leave_the_folder_are_refused(
        self, tmp_path: Path, study: str, name: str
    ) -> None:
        with pytest.raises(ValueError, match=r"folder|file"):
            ResultsFolder(tmp_path).write(study, name, instance())


class TestScratchFolder:
    def test_small_arrays_stay_in_memory(self, tmp_path: Path) -> None:
        with ScratchFolder(tmp_path, budget_bytes=100) as scratch:
            array = np.arange(50, dtype=np.uint8)
            assert scratch.keep(array) is array
            assert list(tmp_path.iterdir()) == []

    def test_beyond_the_budget_the_content_is_mapped_and_removed_at_the_end(
        self, tmp_path: Path
    ) -> None:
        with ScratchFolder(tmp_path / "new", budget_bytes=100) as scratch:
            arrays = [np.full((4, 5, 3), value, np.uint8) for value in range(3)]
            mask = np.eye(20, dtype=np.bool_)
            kept = [scratch.keep(each) for each in arrays]
            kept_mask = scratch.keep(mask)
            assert kept[0] is arrays[0]
            assert isinstance(kept[1], np.memmap)
            assert all(np.array_equal(a, b) for a, b in zip(arrays, kept, strict=True))
            assert np.array_equal(mask, kept_mask)
            assert kept_mask.dtype == np.bool_
        assert list((tmp_path / "new").iterdir()) == []

    def test_disk_that_cannot_be_written_is_passing(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with (
            ScratchFolder(tmp_path / "file", budget_bytes=0) as scratch,
            pytest.raises(StorageUnavailable),
        ):
            scratch.keep(np.zeros(10, np.uint8))
