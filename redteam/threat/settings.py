"""Attacks and defences by name, with settings given as text."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from cleanlabel.sanitize.errors import InputError

WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def named(kind: str, table: Mapping[str, type[Any]], name: str, settings: Mapping[str, str]) -> Any:
    """The entry of that name with its published settings, except those given. InputError names what is unknown."""
    if name not in table:
        raise InputError(f"{kind} {name!r} is unknown; choose one of {', '.join(table)}")
    entry = table[name]()
    known = {f.name: type(getattr(entry, f.name)) for f in fields(entry)}
    changed: dict[str, Any] = {}
    for key, text in settings.items():
        if key not in known:
            raise InputError(f"{kind} {name} has no setting {key!r}; it has {', '.join(known) or 'no settings'}")
        try:
            changed[key] = WORDS[text.lower()] if known[key] is bool else known[key](text)
        except (ValueError, KeyError) as error:
            words = "neither yes nor no" if known[key] is bool else f"no {known[key].__name__}"
            raise InputError(f"setting {key}={text!r} of {kind} {name} is {words}") from error
        if not math.isfinite(changed[key]):
            raise InputError(f"setting {key}={text!r} of {kind} {name} is not finite; give a number")
    return replace(entry, **changed)
