"""What must not leave the machine: secrets, and paths that tell about it.

The patterns are few and exact. They find what was left by mistake; nothing here stops someone who hides a secret.
"""

import re
from collections.abc import Iterator

__all__ = ["MACHINE_PATHS", "SECRETS", "find_leaks", "find_secrets"]

SECRETS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b|\bapi_org_[A-Za-z0-9]{30,}\b",
    "an AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{40,}\b",
    "a Google API key": r"\bAIza[A-Za-z0-9_-]{35}",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "an OpenAI-style key": r"\bsk-[A-Za-z0-9_-]{32,}",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.",
    "a private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "a login inside an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"'<>]+:[^\s/@\"'<>]+@",
    "a password": (
        r"(?i)(?<![a-z])(?:password|passwd|passphrase|(?:api|access|secret|account)[_-]?(?:access[_-]?)?key|client[_-]?secret)"
        r"[\"']?\s*[:=]\s*[\"']?[^\s\"',;}]{8,}"
    ),
}
"""What it is -> the pattern of a secret."""

MACHINE_PATHS = {
    "an absolute path": r"(?<![\w.:/~\\<*-])/(?:[\w.+@-]+/)+[\w.+@-]+",
    "a path of a home or scratch folder": r"(?<![\w.:/~\\<*-])/(?:root|tmp|home|Users|scratch)\b",
    "a path on a Windows drive": r"(?<![A-Za-z0-9])[A-Za-z]:(?:\\{1,2}|/)(?:[\w.+@ -]+(?:\\{1,2}|/))+",
    "a file address": r"\bfile://",
}
"""What it is -> the pattern of a path of some machine."""

_SECRETS = {what: re.compile(pattern) for what, pattern in SECRETS.items()}
_PATHS = {what: re.compile(pattern) for what, pattern in MACHINE_PATHS.items()}


def find_secrets(text: str) -> Iterator[str]:
    """Yields what each secret in a text is and on which line; never the secret.

    Example:
        >>> list(find_secrets("password = correct-horse"))
        ['a password in line 1']
    """
    yield from _find(text, _SECRETS)


def find_leaks(text: str) -> Iterator[str]:
    """Yields secrets as :func:`find_secrets`, and absolute paths with their text.

    Example:
        >>> list(find_leaks("see https://arxiv.org/abs/2312.00752, written in /home/alice/runs"))
        ['an absolute path in line 1 (/home/alice/runs)']
    """
    yield from find_secrets(text)
    found: set[int] = set()
    for what, pattern in _PATHS.items():
        for match in pattern.finditer(text):
            if match.start() not in found:
                found.add(match.start())
                yield f"{what} in line {_line(text, match)} ({match[0]})"


def _find(text: str, patterns: dict[str, re.Pattern[str]]) -> Iterator[str]:
    for what, pattern in patterns.items():
        for match in pattern.finditer(text):
            yield f"{what} in line {_line(text, match)}"


def _line(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1
