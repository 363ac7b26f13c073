"""Secrets are hidden in everything that is written, sent or printed: command lines, configurations, records, messages.

A secret is recognised by its key (`api_key=...`, `hub.token=...`), by its place in an address
(`https://user:password@host`), by the prefix that its issuer gives to keys, or because it is the value of an
environment variable whose name says so (`HF_TOKEN`). Counts such as `max_tokens` are not secrets.
"""

import os
import re
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
_SECRET_WORD = (
    r"(?i:token|secrets?|pass(?:word|wd|phrase)|_pwd|credentials?|api_?key|(?<![a-z])(?:key|auth|authorization)|env_set)"
    r"(?![a-zA-Z])"
)
_SECRET_NAME = re.compile(_SECRET_WORD)
_SHORTEST = 8
"""Characters of the shortest value of an environment variable that is hidden: shorter ones occur by chance."""
_USER_INFO = re.compile(r"(?<=://)(?:[^/\s:@]*:\S+|[^/\s@]+)(?=@)")
_VALUE = r"\"[^\"]*\"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|[^\s,;&\"')}\]]+"
_ASSIGNED = re.compile(rf"(?<![\w.])([\w.+-]*{_SECRET_WORD}[\w.+-]*=)(?:{_VALUE})")
_ENTRY = re.compile(rf"(?<=[{{,])(\s*[\"']?[\w.-]*{_SECRET_WORD}[\w.-]*[\"']?\s*:\s*)[^,}}]+")
_ISSUED_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:hf_|sk-|gh[oprsu]_|github_pat_|glpat-|xox[abeprs]-|wandb_v1_|AKIA|ASIA|AIza|ya29\.)"
    r"[A-Za-z0-9_-]{12,}|eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+)"
)


def redacted(content: Any) -> Any:
    """Return plain data (dicts, lists, scalars, KEY=VALUE arguments) with every secret in it replaced by ***.

    Called where a record is written or sent, on the whole of it.
    """
    return _redacted(content, _secrets_of_environment())


def without_secrets(message: str) -> str:
    """Return text for a person with every secret in it replaced by ***."""
    return _without_secrets(message, _secrets_of_environment())


def same_but_for_secrets(recorded: Any, value: Any) -> bool:
    """Return whether a value may be the recorded one; any text may stand where the record hides a secret."""
    if isinstance(recorded, str) and isinstance(value, str) and HIDDEN in recorded:
        return re.fullmatch(".*".join(map(re.escape, recorded.split(HIDDEN))), value, re.DOTALL) is not None
    return bool(recorded == value)


def _redacted(content: Any, known: re.Pattern[str] | None) -> Any:
    if isinstance(content, dict):
        return {
            key: HIDDEN if isinstance(value, str) and _names_a_secret(str(key)) else _redacted(value, known)
            for key, value in content.items()
        }
    if isinstance(content, (list, tuple)):
        return [_redacted(value, known) for value in content]
    return _of_argument(content, known) if isinstance(content, str) else content


def _of_argument(text: str, known: re.Pattern[str] | None) -> str:
    key, equals, _ = text.partition("=")
    return f"{key}={HIDDEN}" if equals and _names_a_secret(key) else _without_secrets(text, known)


def _without_secrets(text: str, known: re.Pattern[str] | None) -> str:
    if known is not None:
        text = known.sub(HIDDEN, text)
    for named in (_ASSIGNED, _ENTRY):
        text = named.sub(rf"\g<1>{HIDDEN}", text)
    return _ISSUED_KEY.sub(HIDDEN, _USER_INFO.sub(HIDDEN, text))


def _names_a_secret(key: str) -> bool:
    return _SECRET_NAME.search(key) is not None


def _secrets_of_environment() -> re.Pattern[str] | None:
    """Return what finds the values of environment variables with a secret's name, as they are and as in an address.

    The path of a file that exists, such as SSH_AUTH_SOCK's, is no secret.
    """
    values = {
        value
        for name, value in os.environ.items()
        if _names_a_secret(name) and len(value) >= _SHORTEST and not os.access(value, os.F_OK)
    }
    spelled = sorted(values | {quote(value, safe="") for value in values}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spelled))) if spelled else None
