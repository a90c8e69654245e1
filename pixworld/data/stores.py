"""Where files of training sets lie: a folder, or a plain tar file (a shard) that is read like one.

Names are POSIX paths relative to the store, "" for its top folder. A shard is indexed once, by its headers, and then
read at random: a batch is a function of (seed, step), which a stream could not give.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

Walk = Iterator[tuple[str, list[str], list[str]]]  # as os.walk, names relative to the store


class Folder:
    damage = None  # what is wrong with a store of which a part can still be read

    def __init__(self, path: Path):
        self.path = path

    def walk(self) -> Walk:
        """(folder, folders in it, files in it), sorted; folders removed from the list are not entered."""
        for folder, folders, files in os.walk(self.path, followlinks=True):
            folders[:] = sorted(x for x in folders if not x.startswith("."))
            relative = Path(folder).relative_to(self.path).as_posix()
            yield "" if relative == "." else relative, folders, sorted(files)

    def files(self, folder: str) -> list[str]:
        """Names of the files in a folder, without it; none where there is no such folder."""
        try:
            return sorted(x.name for x in os.scandir(self.path / folder) if x.is_file())
        except OSError:
            return []

    def read(self, name: str) -> bytes:
        """The content of a file. Raises OSError."""
        return (self.path / name).read_bytes()


class Tar:
    """An uncompressed tar file, used like a Folder. What stands before a damaged place is kept; `damage` says which."""

    def __init__(self, path: Path):
        self.path = path
        self.members: dict[str, tuple[int, int]] = {}  # name -> offset and size of its content
        self.damage = self._index()
        self.folders: dict[str, tuple[set[str], list[str]]] = {"": (set(), [])}
        for name in sorted(self.members):
            parts = PurePosixPath(name)
            folder = _name(parts.parent)
            self.folders.setdefault(folder, (set(), []))[1].append(parts.name)
            while folder:
                above = PurePosixPath(folder)
                folder = _name(above.parent)
                self.folders.setdefault(folder, (set(), []))[0].add(above.name)

    def _index(self) -> str | None:
        size = 0
        try:
            size = self.path.stat().st_size
            with tarfile.open(self.path, "r:") as tar:
                for member in tar:
                    end = member.offset_data + member.size
                    if member.isfile() and not member.issparse() and end <= size:
                        self.members[_name(PurePosixPath(member.name))] = member.offset_data, member.size
                    tar.members = []  # tarfile keeps all of them otherwise
                end = tar.offset
            with self.path.open("rb") as file:
                file.seek(end)
                # tarfile takes a header that it cannot read for the end, which is a block of zeros
                return None if file.read(512) == bytes(512) else f"it is damaged at byte {end} of {size}"
        except (OSError, tarfile.TarError, EOFError, ValueError) as error:
            return f"it is no whole, uncompressed tar file ({error})"

    def walk(self) -> Walk:
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            inside, files = self.folders[folder]
            folders = sorted(inside)
            yield folder, folders, files
            waiting += [_name(PurePosixPath(folder, x)) for x in reversed(folders)]

    def files(self, folder: str) -> list[str]:
        return self.folders.get(folder, (set(), []))[1]

    def read(self, name: str) -> bytes:
        if name not in self.members:
            raise FileNotFoundError(f"{self.path} holds no {name}")
        offset, size = self.members[name]
        with self.path.open("rb") as file:  # opened every time: safe in threads and forked workers
            file.seek(offset)
            return file.read(size)


Store = Folder | Tar


def _name(path: PurePosixPath) -> str:
    name = path.as_posix()
    return "" if name == "." else name
