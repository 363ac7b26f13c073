"""Secrets are hidden in everything that is written or sent: command lines, configurations, tables.

A secret is recognised by its key (`api_key=...`, `hub.token=...`), by its place in an address
(`https://user:password@host`) or by the prefix that its issuer gives to keys. Counts such as `max_tokens` are not
secrets.
"""

import re
from typing import Any

HIDDEN = "***"
_SECRET_WORDS = {"token", "secret", "secrets", "password", "passwd", "key", "apikey", "credential", "credentials"}
_USER_INFO = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_ISSUED_KEY = re.compile(r"\b(hf_|sk-|ghp_|github_pat_|glpat-|xox[abp]-|wandb_v1_|AKIA)[A-Za-z0-9_-]{12,}")


def redacted(argument: str) -> str:
    """Return a command line argument (KEY=VALUE or any other) with a secret in it replaced by ***."""
    key, equals, _ = argument.partition("=")
    return f"{key}={HIDDEN}" if equals and _names_a_secret(key) else _without_secrets(argument)


def redacted_config(content: Any) -> Any:
    """Return plain data (dicts, lists, scalars) with every secret in it replaced by ***."""
    if isinstance(content, dict):
        return {
            key: HIDDEN if isinstance(value, str) and _names_a_secret(str(key)) else redacted_config(value)
            for key, value in content.items()
        }
    if isinstance(content, (list, tuple)):
        return [redacted(value) if isinstance(value, str) else redacted_config(value) for value in content]
    return _without_secrets(content) if isinstance(content, str) else content


def _names_a_secret(key: str) -> bool:
    return not _SECRET_WORDS.isdisjoint(re.split(r"[^a-z0-9]+", key.lower()))


def _without_secrets(text: str) -> str:
    return _ISSUED_KEY.sub(HIDDEN, _USER_INFO.sub(HIDDEN, text))
