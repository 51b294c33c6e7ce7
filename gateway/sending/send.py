"""``lentigo send``: files and folders to a Storage SCP, as they are stored, nothing transcoded.

Every file gets one line that says what became of it. A file that the peer refuses does not keep its
neighbours from being sent.
"""

from __future__ import annotations

import argparse
import enum
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import UID
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gateway.delivery.routes import Destination, ObjectState
from gateway.delivery.statuses import classify_status
from gateway.delivery.store_scu import MAX_CONTEXTS, Context, DataSetFile, StoreAssociation
from gateway.dicom.file_meta import DataSetIdentity, identify
from gateway.errors import AssociationLost, AssociationRefused, InstanceError, SendError
from gateway.listener.acceptance import (
    is_ae_title,
)

_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"  # PS3.4 I.4: a DICOMDIR is never sent
_SUCCESS = 0x0000
_MAX_LOSSES = 3
"""Associations lost in a row, without an answer between, after which the peer is given up."""


class FileState(enum.Enum):
    """What became of one file."""

    STORED = "stored"
    """The peer has it, perhaps with a warning."""
    REFUSED = "refused"
    """The peer, or the file itself, says that it cannot be stored there."""
    FAILED = "failed"
    """Not sent or not answered; another attempt may help."""
    SKIPPED = "skipped"
    """Found in a folder and not a DICOM instance."""


@dataclass(frozen=True, kw_only=True)
class FileStatus:
    """The line on one file."""

    path: Path
    state: FileState
    reason: str = ""
    """Why it is not stored, or the warning it was stored with."""


@dataclass(frozen=True, kw_only=True)
class SendSummary:
    """What became of all files."""

    statuses: tuple[FileStatus, ...]

    def count(self, state: FileState) -> int:
        """Return how many files ended in ``state``."""
        return sum(each.state is state for each in self.statuses)

    @property
    def is_complete(self) -> bool:
        """Whether something was sent and nothing refused or failed."""
        return (
            self.count(FileState.STORED) > 0
            and self.count(FileState.REFUSED) == self.count(FileState.FAILED) == 0
        )


OnStatus = Callable[[FileStatus], None]


def _ignore(_: FileStatus) -> None:
    return


def send(
    paths: Iterable[Path],
    peer: Destination,
    on_status: OnStatus = _ignore,
    *,
    calling_ae_title: str = "LENTIGO",
    timeout_s: float = 30.0,
) -> SendSummary:
    """Send files, and what folders hold, to a Storage SCP.

    Parameters
    ----------
    paths
        Files and folders; folders are searched all the way down, in the order of names.
    peer
        Where to.
    on_status
        Called once for each file, as soon as it is decided.
    calling_ae_title
        What we call ourselves.
    timeout_s
        Longest silence of the peer.

    Notes
    -----
    One presentation context is proposed for each pair of SOP class and transfer syntax found; more
    than 128 of them take several associations (PS3.8 9.3.2.2).
    """
    return _Run(peer, on_status, calling_ae_title, timeout_s).run(discover(paths))


def discover(paths: Iterable[Path]) -> Iterator[DataSetFile | FileStatus]:
    """Yield what can be sent, and a status for what cannot.

    A file named by the caller must be an instance; one found in a folder may be anything.
    """
    for path in paths:
        if path.is_dir():
            for found in sorted(each for each in path.rglob("*") if each.is_file()):
                yield _examine(found, FileState.SKIPPED)
        elif path.exists():
            yield _examine(path, FileState.REFUSED)
        else:
            yield FileStatus(path=path, state=FileState.FAILED, reason="no such file or folder")


def _examine(path: Path, otherwise: FileState) -> DataSetFile | FileStatus:
    try:
        found = identify(path)
    except InstanceError as exc:
        return FileStatus(path=path, state=otherwise, reason=str(exc))
    except OSError as exc:
        return FileStatus(path=path, state=FileState.FAILED, reason=exc.strerror or "unreadable")
    if found.sop_class_uid == _MEDIA_STORAGE_DIRECTORY:
        return FileStatus(path=path, state=FileState.SKIPPED, reason="a DICOMDIR is not sent")
    return _sendable(path, found)


def _sendable(path: Path, found: DataSetIdentity) -> DataSetFile | FileStatus:
    for name, uid in (
        ("SOP Class UID", found.sop_class_uid),
        ("SOP Instance UID", found.sop_instance_uid),
    ):
        if not uid:
            return FileStatus(path=path, state=FileState.REFUSED, reason=f"it has no valid {name}")
    return DataSetFile(
        path=path,
        offset=found.data_set_offset,
        sop_class_uid=found.sop_class_uid,
        sop_instance_uid=found.sop_instance_uid,
        transfer_syntax_uid=found.transfer_syntax_uid,
    )


class _Run:
    """One call of ``send``."""

    def __init__(
        self, peer: Destination, on_status: OnStatus, calling_ae_title: str, timeout_s: float
    ) -> None:
        self._peer = peer
        self._on_status = on_status
        self._calling_ae_title = calling_ae_title
        self._timeout_s = timeout_s
        self._statuses: list[FileStatus] = []

    def run(self, found: Iterable[DataSetFile | FileStatus]) -> SendSummary:
        files: dict[Context, list[DataSetFile]] = {}
        for each in found:
            if isinstance(each, FileStatus):
                self._decide(each.path, each.state, each.reason)
            else:
                files.setdefault(each.context, []).append(each)
        contexts = list(files)
        for start in range(0, len(contexts), MAX_CONTEXTS):
            batch = contexts[start : start + MAX_CONTEXTS]
            self._send_batch([file for context in batch for file in files[context]], batch)
        return SendSummary(statuses=tuple(self._statuses))

    def _send_batch(self, files: Sequence[DataSetFile], contexts: Sequence[Context]) -> None:
        """Send files that fit into one association, opening another one where it is lost."""
        waiting = list(files)
        losses = 0
        while waiting:
            try:
                if losses >= _MAX_LOSSES:
                    raise AssociationRefused("the peer ends one association after the other")
                association = StoreAssociation.open(
                    self._peer,
                    contexts,
                    calling_ae_title=self._calling_ae_title,
                    timeout_s=self._timeout_s,
                )
            except AssociationRefused as exc:
                for file in waiting:
                    self._decide(file.path, FileState.FAILED, str(exc))
                return
            with association:
                answered = self._send_on(association, waiting)
            losses = 1 if answered else losses + 1

    def _send_on(self, association: StoreAssociation, waiting: list[DataSetFile]) -> bool:
        """Send until all is sent or the association is lost; return whether any was answered."""
        answered = False
        while waiting:
            file = waiting.pop(0)
            if not association.accepts(file):
                self._decide(file.path, FileState.REFUSED, _why_not(association, file))
                continue
            try:
                response = association.store(file)
            except AssociationLost as exc:
                self._decide(file.path, FileState.FAILED, str(exc))
                return answered
            except OSError as exc:
                self._decide(file.path, FileState.FAILED, exc.strerror or "unreadable")
                continue
            answered = True
            self._answered(file, response.status, response.comment)
        return answered

    def _answered(self, file: DataSetFile, status: int, comment: str) -> None:
        state, reason = classify_status(status)
        if comment and status != _SUCCESS:
            reason = f"{reason}: {comment}"
        outcome = {
            ObjectState.STORED: FileState.STORED,
            ObjectState.PENDING: FileState.FAILED,
        }.get(state, FileState.REFUSED)
        self._decide(file.path, outcome, reason)

    def _decide(self, path: Path, state: FileState, reason: str) -> None:
        status = FileStatus(path=path, state=state, reason=reason)
        self._statuses.append(status)
        self._on_status(status)


def _why_not(association: StoreAssociation, file: DataSetFile) -> str:
    reason = association.refused.get(file.context, "no answer for its presentation context")
    return (
        f"the peer does not accept {UID(file.sop_class_uid).name} in "
        f"{UID(file.transfer_syntax_uid).name} ({reason}); nothing was converted for it"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe ``lentigo send``."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="file or folder")
    parser.add_argument("peer", metavar="AET@HOST:PORT", help="where to, e.g. PACS@10.0.0.5:104")
    parser.add_argument(
        "--calling-ae-title", default="LENTIGO", metavar="AET", help="what we call ourselves"
    )
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="longest silence of the peer"
    )


_STYLES = {
    FileState.STORED: "green",
    FileState.REFUSED: "red",
    FileState.FAILED: "red",
    FileState.SKIPPED: "dim",
}


def run(args: argparse.Namespace) -> int:
    """Run ``lentigo send``; 0 when everything that is DICOM was stored, else 1.

    Raises
    ------
    DestinationError
        The peer is not written ``AET@HOST:PORT``.
    SendError
        The calling AE title is not one, or the time-out is not positive.
    """
    peer = Destination.parse(args.peer)
    if not is_ae_title(args.calling_ae_title):
        raise SendError("--calling-ae-title must be 1 to 16 printable ASCII characters")
    if args.timeout <= 0:
        raise SendError("--timeout must be positive")
    console = Console(soft_wrap=True, highlight=False)
    found = list(discover(args.paths))
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("sending", total=len(found))

        def show(status: FileStatus) -> None:
            reason = f"  {escape(status.reason)}" if status.reason else ""
            style = _STYLES[status.state]
            console.print(f"[{style}]{status.state.value:8}[/] {escape(str(status.path))}{reason}")
            progress.advance(task)

        summary = _Run(peer, show, args.calling_ae_title, args.timeout).run(found)
    counts = Counter(each.state.value for each in summary.statuses)
    said = ", ".join(f"{counts[state.value]} {state.value}" for state in FileState)
    console.print(f"{said}; to {escape(str(peer))}")
    if not summary.statuses:
        console.print("there was nothing to send")
    return 0 if summary.is_complete else 1
