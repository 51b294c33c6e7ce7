import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training import runs
from training.__main__ import main
from training.errors import RunError
from training.runs import (
    CHECKPOINT,
    RunFolder,
    cosine_schedule,
    hold,
    no_decay_groups,
    write_atomically,
)


@dataclass(frozen=True)
class Settings:
    rate: float = 0.1


def folder(path: Path, **changes: Any) -> RunFolder:
    return RunFolder(path / "run", **({"recipe": "toy", "settings": Settings()} | changes))


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    assert folder(tmp_path).load() is None
    folder(tmp_path).save({"weights": torch.arange(3), "epoch": 2})
    state = folder(tmp_path).load()
    assert state is not None
    assert torch.equal(state["weights"], torch.arange(3))
    assert state["epoch"] == 2


@pytest.mark.parametrize("changes", [{"recipe": "other"}, {"settings": Settings(rate=0.2)}])
def test_a_folder_belongs_to_its_settings(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder(tmp_path)
    with pytest.raises(RunError, match="another configuration"):
        folder(tmp_path, **changes)


class Full:
    """A disk that fills up after so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(runs.os, "fsync", refuse)


def test_a_full_disk_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder(tmp_path)
    run.save({"epoch": 1})
    Full(monkeypatch)
    with pytest.raises(RunError, match="last one stays"):
        run.save({"epoch": 2})
    state = run.load()
    assert state == {"epoch": 1}
    assert [path.name for path in run.folder.glob("*.part")] == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    Full(monkeypatch)
    with pytest.raises(RunError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_without_space_is_an_error_of_ours(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.save({"epoch": 1})
    (run.folder / f"{CHECKPOINT}.part").symlink_to("/dev/full")
    with pytest.raises(RunError, match="cannot be written"):
        run.save({"weights": torch.zeros(100_000)})
    assert run.load() == {"epoch": 1}


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 torn"])
def test_a_torn_checkpoint_is_an_error(tmp_path: Path, content: bytes) -> None:
    run = folder(tmp_path)
    run.path(CHECKPOINT).write_bytes(content)
    with pytest.raises(RunError, match="cannot be read"):
        run.load()


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    run = folder(tmp_path)
    torch.save({"x": Settings()}, run.path(CHECKPOINT))
    with pytest.raises(RunError, match="cannot be read"):
        run.load()


def test_the_history_follows_the_checkpoint(tmp_path: Path) -> None:
    run = folder(tmp_path)
    for epoch in (1, 2, 3):
        run.log({"epoch": epoch, "loss": 1 / epoch})
    run.log({"epoch": 2, "loss": 7.0})  # resumed after epoch 1
    assert run.history == [{"epoch": 1.0, "loss": 1.0}, {"epoch": 2.0, "loss": 7.0}]


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(RunError, match="cannot be used"):
        folder(tmp_path)


def test_a_folder_takes_one_run_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prognosis", "--config", "absent.toml", "--out", str(tmp_path / "run")]
    with hold(tmp_path / "run"):
        assert main(words) == 1
        assert "in use by another run" in capsys.readouterr().err
    assert main(words) == 1
    assert "absent.toml" in capsys.readouterr().err


def test_the_rate_warms_up_and_falls_to_its_end() -> None:
    rates = [
        cosine_schedule(progress, epochs=10, warmup=2, peak=1e-3, low=1e-5)
        for progress in np.linspace(0, 10, 101)
    ]
    assert rates[0] < 1e-5
    assert rates[10] == pytest.approx(5e-4)
    assert rates[20] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-5)
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_vectors_are_not_decayed() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    module[0].weight.requires_grad_(False)
    decayed, free = no_decay_groups(module, 0.1)
    assert decayed == {"params": [], "weight_decay": 0.1}
    assert [p.ndim for p in free["params"]] == [1, 1, 1]
