"""The file of profiles: addresses and keys of dispatchers that a person works with, by name.

    current = "production"

    [profiles.production]
    api_url = "https://webhooks.example.com"
    api_key = "whd_live_…"

It holds keys: written with mode 0600, and refused when others can read it.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dispatcher.model.errors import DispatcherError

NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
_FOR_OTHERS: Final = 0o077


class ProfileFault(DispatcherError):
    """The file of profiles cannot be used, or lacks what was asked of it."""


@dataclass(frozen=True, slots=True)
class KeptProfile:
    """One profile."""

    api_url: str
    api_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Profiles:
    """All profiles by name, and which one is in use where nothing else is said."""

    by_name: Mapping[str, KeptProfile] = field(default_factory=dict)
    current: str | None = None

    def find(self, name: str) -> KeptProfile:
        """Return the profile of that name; ProfileFault when there is none."""
        if name not in self.by_name:
            known = ", ".join(sorted(self.by_name)) or "none"
            message = f"there is no profile {name} in {path()}, which has: {known}; `dispatcher login` makes one"
            raise ProfileFault(message)
        return self.by_name[name]

    def kept(self, name: str, one: KeptProfile) -> "Profiles":
        """Return them with `one` added or replaced, and in use."""
        return Profiles({**self.by_name, name: one}, name)

    def used(self, name: str) -> "Profiles":
        """Return them with `name` in use; ProfileFault when there is none."""
        self.find(name)
        return Profiles(self.by_name, name)

    def removed(self, name: str) -> "Profiles":
        """Return them without `name`; ProfileFault when there is none."""
        self.find(name)
        left = {other: one for other, one in self.by_name.items() if other != name}
        return Profiles(left, None if self.current == name else self.current)


def path() -> Path:
    """Return where the file is: below `XDG_CONFIG_HOME`, else `~/.config`."""
    home = os.environ.get("XDG_CONFIG_HOME")
    base = Path(home) if home else Path.home() / ".config"
    return base / "dispatcher" / "profiles.toml"


def read() -> Profiles:
    """Return what the file holds; nothing when there is no file.

    Raises:
        ProfileFault: others can read it, or it is not such a file.
    """
    file = path()
    try:
        if file.stat().st_mode & _FOR_OTHERS:
            message = f"{file} holds keys and can be read by others: `chmod 600 {file}`"
            raise ProfileFault(message)
        return _parse(tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Profiles()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        message = f"{file} is not a file of profiles ({type(fault).__name__}: {fault}); mend it or remove it"
        raise ProfileFault(message) from fault


def write(profiles: Profiles) -> None:
    """Write the file whole or not at all, readable by its owner alone."""
    lines = [] if profiles.current is None else [f"current = {json.dumps(profiles.current)}", ""]
    for name, one in sorted(profiles.by_name.items()):
        # A JSON text of ASCII is a TOML text, too.
        url, key = json.dumps(one.api_url), json.dumps(one.api_key)
        lines += [f"[profiles.{name}]", f"api_url = {url}", f"api_key = {key}", ""]
    file = path()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            opened.write("\n".join(lines))
        partial.replace(file)
    except OSError as fault:
        message = f"{file} cannot be written: {fault.strerror}"
        raise ProfileFault(message) from fault


def _parse(document: Mapping[str, Any]) -> Profiles:
    found = {
        name: KeptProfile(str(one["api_url"]), str(one["api_key"]))
        for name, one in document.get("profiles", {}).items()
    }
    current = document.get("current")
    return Profiles(found, current if current in found else None)
