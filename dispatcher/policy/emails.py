"""E-mail addresses as names of people: one spelling each.

No mail is sent, so nothing here is cleverer than a name needs: what every mailbox in use looks like passes, quoted
local parts, comments and addresses in brackets do not. Letters are those of ASCII alone. Others look alike from one
alphabet to the next, so that a stranger could be invited under a colleague's name; and they change length with their
case. A domain in another script is written as registered, `xn--…`.
"""

import re
from typing import Final

LONGEST_EMAIL: Final = 254

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_EMAIL: Final = re.compile(rf"[a-z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@{_LABEL}(?:\.{_LABEL})+")


def normal_email(text: str) -> str | None:
    """Return an address in its one spelling, lower case; None when it is none.

    Two addresses that differ in case only are one person: no mail provider in use tells them apart.
    """
    if len(text) > LONGEST_EMAIL or not text.isascii():
        return None
    lowered = text.lower()
    return lowered if _EMAIL.fullmatch(lowered) else None
