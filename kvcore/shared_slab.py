"""SharedSlab: a slab that the processes of an engine map by name."""

from __future__ import annotations

import errno
import json
import operator
import os
import re
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kvcore._core import HostMemory
from kvcore.ownership import alone, directory, disown, is_owned, own, when_alone
from kvcore.slabs import HostSlab

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Manifest:
    """What a slab is. Owners hold a shared flock on its file, which ends with them however they
    die, so a manifest without a lock has no owner."""

    num_blocks: int
    block_bytes: int
    persist: bool
    version: int = _VERSION

    @staticmethod
    def read(path: Path) -> _Manifest | None:
        """None where it is not whole, or another version's."""
        try:
            manifest = _Manifest(**json.loads(path.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        numbers = (manifest.num_blocks, manifest.block_bytes)
        is_whole = all(type(n) is int and n > 0 for n in numbers) and manifest.version == _VERSION
        return manifest if is_whole and type(manifest.persist) is bool else None


class SharedSlab(HostSlab):
    """Host memory for blocks that processes of one user share by a name.

    The first process makes it, others that give the same name and sizes map the same memory. With
    its last owner it is gone, also when that is killed: what nobody owns any more is removed by the
    next process that makes or maps any slab. With `persist` it stays instead, until a process
    adopts or removes it.

    Parameters
    ----------
    name : str
        1 to 100 letters, digits, ``.``, ``_`` and ``-``; does not begin with a dot.
    num_blocks, block_bytes : int
        As for `HostSlab`; the same in all processes.
    persist : bool
        Stays when its last owner ends; the same in all processes.
    adopt : bool
        Takes over what persisted, with its bytes, if there is any.
    exclusive : bool
        Must be made, or adopted, by this process: somebody else's is an error.
    huge_pages : str
        "try" or "off"; the kernel also asks ``/sys/kernel/mm/transparent_hugepage/shmem_enabled``.
    numa_node
        As for `HostSlab`, where this process makes it.
    threads
        As for `HostSlab`. Who maps it while it is being made helps to fault it in.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or is not allowed; the message names it. Also when the slab
        of that name has other sizes or another `persist`.
    FileExistsError
        `exclusive`, and another process owns it; or it persisted, and is not to be adopted.
    OSError
        There is no room in ``/dev/shm``.

    Notes
    -----
    A forked child has the memory but owns nothing: the name goes with the parent.
    """

    def __init__(
        self,
        name: str,
        num_blocks: int,
        block_bytes: int,
        *,
        persist: bool = False,
        adopt: bool = False,
        exclusive: bool = False,
        huge_pages: str = "try",
        numa_node: int | None = None,
        threads: int = 1,
    ) -> None:
        path = _path_of(name)
        for flag, value in (("persist", persist), ("adopt", adopt), ("exclusive", exclusive)):
            if not isinstance(value, bool):
                raise TypeError(f"{flag} must be a bool, got {type(value).__name__}")
        if huge_pages == "require":
            raise ValueError("huge_pages must be 'off' or 'try' for shared memory, got 'require'")
        num_bytes = HostMemory.bytes_of(num_blocks, block_bytes)
        wanted = _Manifest(operator.index(num_blocks), operator.index(block_bytes), persist)
        self._name, self._origin = name, ""
        try:
            with alone():
                _remove_leftovers()
                lock, self._origin = _own(path, wanted, num_bytes, adopt, exclusive)
                # From here on the end of this process, or of this object, gives it up.
                self.close = weakref.finalize(self, _end, path, lock, os.getpid())
                with _data_of(path).open("r+b", buffering=0) as data:
                    self._memory = HostMemory(
                        num_blocks,
                        block_bytes,
                        huge_pages=huge_pages,
                        # The file keeps the node, so it is told before another process maps it.
                        numa_node=numa_node if self._origin == "made" else None,
                        threads=threads,
                        fd=data.fileno(),
                    )
            # Takes a while, so nobody has to wait for it.
            self._memory.populate(threads)
        except BaseException:
            if self._origin:
                self.close()
            if self._origin == "made":
                with suppress(FileExistsError):
                    SharedSlab.remove(name)
            raise

    @property
    def name(self) -> str:
        return self._name

    @property
    def origin(self) -> str:
        """How this process came by it: "made", "mapped" or "adopted"."""
        return self._origin

    @staticmethod
    def remove(name: str) -> bool:
        """Remove what persisted under a name.

        Returns
        -------
        bool
            Whether there was anything.

        Raises
        ------
        FileExistsError
            A process owns it.
        """
        path = _path_of(name)
        with alone():
            if not path.exists():
                return False
            if is_owned(path):
                raise FileExistsError(f"name {name!r} is a shared slab that a process owns")
            _unlink(path)
            return True


def _own(
    path: Path, wanted: _Manifest, num_bytes: int, adopt: bool, exclusive: bool
) -> tuple[int, str]:
    """Makes, maps or adopts a slab; the lock of its manifest and how it was come by."""
    if not path.exists():
        return _make(path, wanted, num_bytes), "made"
    found = _Manifest.read(path)
    if found is None:
        raise OSError(errno.EINVAL, f"the manifest of a shared slab in use is damaged: {path}")
    if found != wanted:
        raise ValueError(
            f"num_blocks, block_bytes and persist must be those of the shared slab {path.stem!r}, "
            f"{found.num_blocks}, {found.block_bytes} and {found.persist}, "
            f"got {wanted.num_blocks}, {wanted.block_bytes} and {wanted.persist}"
        )
    if _data_of(path).stat().st_size < num_bytes:
        raise OSError(errno.EINVAL, f"the memory of a shared slab was cut short: {_data_of(path)}")
    has_owner = is_owned(path)
    if has_owner and exclusive:
        raise FileExistsError(f"exclusive: another process owns the shared slab {path.stem!r}")
    if not has_owner and not adopt:
        raise FileExistsError(
            f"the shared slab {path.stem!r} persisted; pass adopt=True to take it over, or call "
            f"SharedSlab.remove({path.stem!r})"
        )
    return own(path), "mapped" if has_owner else "adopted"


def _make(path: Path, manifest: _Manifest, num_bytes: int) -> int:
    """The manifest is there before the data and goes after them, so nothing is ever nameless."""
    lock = own(path, os.O_CREAT | os.O_TRUNC)
    try:
        fd = os.open(_data_of(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            room = os.fstatvfs(fd)
            # To find out by filling it up would starve everybody else first.
            if room.f_blocks and num_bytes > room.f_bavail * room.f_frsize:
                raise OSError(errno.ENOSPC, f"No space left for {num_bytes} bytes in {path.parent}")
            os.ftruncate(fd, num_bytes)
        finally:
            os.close(fd)
        os.write(lock, json.dumps(asdict(manifest)).encode())
    except BaseException:
        _unlink(path)
        disown(lock)
        raise
    return lock


def _end(path: Path, lock: int, pid: int) -> None:
    if os.getpid() != pid:
        return

    def end() -> None:
        disown(lock)
        if path.exists() and not is_owned(path):
            manifest = _Manifest.read(path)
            if manifest is None or not manifest.persist:
                _unlink(path)

    when_alone(end)


def _remove_leftovers() -> None:
    """What those left behind that were killed, and what is not whole."""
    for path in {file.with_suffix(".json") for file in directory().iterdir()}:
        manifest = _Manifest.read(path) if _data_of(path).exists() else None
        if (manifest is None or not manifest.persist) and not is_owned(path):
            _unlink(path)


def _unlink(path: Path) -> None:
    _data_of(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _path_of(name: str) -> Path:
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ValueError(
            "name must be 1 to 100 letters, digits, '.', '_' and '-', the first no dot, "
            f"got {name!r}"
        )
    return directory() / f"{name}.json"


def _data_of(path: Path) -> Path:
    return path.with_suffix(".data")
