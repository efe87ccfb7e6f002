"""What may never be written down: keys and passwords that come along in settings and messages.

A record is shown to others, so whatever looks like a secret is written as stars, wherever it
stands: by the name that it goes by, or by its form. It is the last barrier and not the first:
nothing asks an exchange's or a bot's section of the configuration in the first place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

STARS: Final = "***"
_NAMES: Final = (
    r"[\w-]*(?:secret|passw(?:or)?d|passphrase|token|api[_-]?key|private[_-]?key|listen[_-]?key|jwt"
    r"|signature)[\w-]*"
)
_NAMED = re.compile(rf"\A{_NAMES}\Z|\A(?:key|uid|db[_-]url)\Z", re.IGNORECASE)
_IN_TEXT = (
    # of an address: user:password@host, whose password may hold / and @ in a database's URL
    (re.compile(r"(://)(?:[^\s/:'\"]*:[^\s'\"]*|[^\s/@'\"]+)@"), rf"\1{STARS}@"),
    # a telegram bot's
    (re.compile(r"\b(?:bot)?\d{6,12}:[\w-]{30,}"), STARS),
    # a JSON web token
    (re.compile(r"\beyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*"), STARS),
    # 'key': 'value' of a section of the configuration
    (re.compile(r"(['\"](?:key|uid)['\"]\s*:\s*['\"])[^'\"]+"), rf"\1{STARS}"),
    # name=value, name: value, --name value
    (
        re.compile(
            rf"(?i)(\b{_NAMES}['\"]?\s*[=:]\s*['\"]?)[^\s'\",;&]+|(--{_NAMES}[= ]\s*)[^\s'\"]+"
        ),
        rf"\1\2{STARS}",
    ),
)


def without_secrets(value: Any) -> Any:
    """Return plain values with stars in place of what looks like a secret.

    >>> without_secrets({"exchange": {"secret": "abc"}, "url": "mysql://me:pw@host/db"})
    {'exchange': {'secret': '***'}, 'url': 'mysql://***@host/db'}
    """
    if isinstance(value, str):
        for pattern, instead in _IN_TEXT:
            value = pattern.sub(instead, value)
        return value
    if isinstance(value, Mapping):
        return {name: _of(name, each) for name, each in value.items()}
    if isinstance(value, Sequence):
        return [without_secrets(each) for each in value]
    return value


def command_without_secrets(command: Sequence[str]) -> list[str]:
    """Return a command line whose options hold no secret."""
    found: list[str] = []
    for part in command:
        is_value = bool(found) and found[-1].startswith("-") and not part.startswith("-")
        name = found[-1].lstrip("-") if is_value else ""
        found.append(STARS if _NAMED.match(name) else without_secrets(part))
    return found


def _of(name: Any, value: Any) -> Any:
    is_secret = isinstance(value, str) and value and _NAMED.match(str(name))
    return STARS if is_secret else without_secrets(value)
