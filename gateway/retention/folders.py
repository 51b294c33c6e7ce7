"""Removes files of one folder, and of nothing else: no step on the way may be a symbolic link.

A file is first moved into a folder beside the others (one rename, whatever its size), and removed
from there. Every folder is opened by name within the one before it (openat(2), O_NOFOLLOW), so a
link that is put in place meanwhile leads nowhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gateway.errors import RetentionError

TRASH = ".purged"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER_MODE = 0o700


class UnsafePath(RetentionError):
    """A path leads through a symbolic link, out of its folder, or to no regular file."""


class PurgeFolder:
    """The spool or the results folder.

    Parameters
    ----------
    root
        Its absolute path; must not be a symbolic link itself.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def move_away(self, relative_path: str) -> bool:
        """Take a file out of its place; return whether it lay there.

        Raises
        ------
        UnsafePath
            Nothing was touched.
        OSError
            The disk fails.
        """
        parts = _parts(relative_path)
        with self._opened(*parts[:-1]) as folder:
            if folder is None:
                return False
            try:
                found = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return False
            if not stat.S_ISREG(found.st_mode):
                raise UnsafePath("what should be purged is no regular file")
            with self._trash() as trash:
                os.rename(
                    parts[-1], f"{uuid.uuid4().hex}.gone", src_dir_fd=folder, dst_dir_fd=trash
                )
        return True

    def empty_trash(self) -> int:
        """Remove what was moved away; return how many bytes that freed."""
        freed = 0
        with self._opened(TRASH) as trash:
            if trash is None:
                return 0
            for name in os.listdir(trash):
                found = os.stat(name, dir_fd=trash, follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode):
                    continue  # none of ours
                os.unlink(name, dir_fd=trash)
                freed += found.st_size
        return freed

    def remove_folder_if_empty(self, name: str) -> None:
        """Remove the folder of a study whose last file is gone."""
        (part,) = _parts(name)
        with self._opened() as root, contextlib.suppress(OSError):
            if root is not None:
                os.rmdir(part, dir_fd=root)

    @contextlib.contextmanager
    def _trash(self) -> Iterator[int]:
        with self._opened() as root:
            assert root is not None
            with contextlib.suppress(FileExistsError):
                os.mkdir(TRASH, _FOLDER_MODE, dir_fd=root)
        with self._opened(TRASH) as trash:
            assert trash is not None
            yield trash

    @contextlib.contextmanager
    def _opened(self, *names: str) -> Iterator[int | None]:
        """Open a folder within the root step by step; None when there is none."""
        with contextlib.ExitStack() as stack:
            folder: int | None = None
            for name in (str(self._root), *names):
                try:
                    folder = os.open(name, _FOLDER, dir_fd=folder)
                except FileNotFoundError:
                    yield None
                    return
                except NotADirectoryError as exc:  # O_DIRECTORY meets a link or a file
                    raise UnsafePath("a folder on the way is a symbolic link") from exc
                except OSError as exc:
                    if exc.errno != errno.ELOOP:
                        raise
                    raise UnsafePath("a folder on the way is a symbolic link") from exc
                stack.callback(os.close, folder)
            yield folder


def _parts(relative_path: str) -> tuple[str, ...]:
    path = PurePosixPath(relative_path)
    if path.is_absolute() or not path.parts or any(part in ("..", ".") for part in path.parts):
        raise UnsafePath("a path of the record leads out of its folder")
    return path.parts
