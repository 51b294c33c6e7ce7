"""The words of rules: fields of an instance and of a study, attributes, SOP classes, analyses."""

from __future__ import annotations

import difflib
import importlib.util
import pkgutil
import re
from collections.abc import Iterable

from pydicom._uid_dict import UID_dictionary  # PS3.6 Annex A; pydicom has no public way by name
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_dict

INSTANCE_FIELDS = (
    "modality",
    "sop_class",
    "transfer_syntax",
    "calling_ae_title",
    "called_ae_title",
    "source_address",
)
"""What the record knows of every instance, without a look at its file."""

STUDY_FIELDS = ("instances", "series", "generation")
"""Accepted instances and series of the study, and the number of its generation."""

NUMERIC_VRS = frozenset({"DS", "IS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "US or SS"})
TEMPORAL_VRS = frozenset({"DA", "TM", "DT"})

_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?")
_ANALYSES = "workers.analyses"


class UnknownWord(ValueError):
    """A word that no rule can use; the message names it and the nearest ones that exist."""

    def __init__(self, kind: str, word: str, known: Iterable[str]) -> None:
        near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        super().__init__(f"unknown {kind} {word!r}{hint}")


def tag_of(word: str) -> int:
    """Return the tag of an attribute, named by keyword or as ``gggg,eeee`` in hexadecimal.

    Raises
    ------
    UnknownWord
        PS3.6 knows no such attribute. A private tag is taken as it stands.

    Examples
    --------
    >>> hex(tag_of("BodyPartExamined")), hex(tag_of("(0018,0015)"))
    ('0x180015', '0x180015')
    """
    match = _TAG.fullmatch(word.strip())
    if match is not None:
        tag = int(match[1] + match[2], 16)
        is_private = bool((tag >> 16) & 1)
        if tag >> 16 > 0x0008 - 1 and (is_private or dictionary_has_tag(tag)):
            return tag
        raise UnknownWord("attribute", word, ())
    if word not in keyword_dict:
        raise UnknownWord("attribute", word, keyword_dict)
    return int(keyword_dict[word])


def value_representation(tag: int) -> str:
    """Return the VR of an attribute by PS3.6; empty for a private one."""
    return dictionary_VR(tag) if dictionary_has_tag(tag) else ""


def uid_of(word: str, kind: str) -> str:
    """Return the UID of a SOP class or transfer syntax that is named by UID, name or keyword.

    Parameters
    ----------
    kind
        ``SOP Class`` or ``Transfer Syntax``, as PS3.6 Annex A says.

    Raises
    ------
    UnknownWord
        PS3.6 Annex A knows no such name. A UID is taken as it stands: sites have private ones.

    Examples
    --------
    >>> uid_of("VL Photographic Image Storage", "SOP Class")
    '1.2.840.10008.5.1.4.1.1.77.1.4'
    """
    if re.fullmatch(r"[0-9.]{3,64}", word):
        return word
    names = {}
    for uid, (name, uid_kind, _, _, keyword) in UID_dictionary.items():
        if uid_kind == kind:
            names[name], names[keyword] = uid, uid
    if word not in names:
        raise UnknownWord(kind, word, names)
    return names[word]


def known_analyses() -> frozenset[str]:
    """Return the names of the analyses that are installed on this host.

    An analysis is a module whose name is its own; none is imported for this, so that whoever
    only routes needs no model code.
    """
    try:
        package = importlib.util.find_spec(_ANALYSES)
    except ModuleNotFoundError:
        return frozenset()
    folders = package.submodule_search_locations if package is not None else None
    return frozenset(info.name for info in pkgutil.iter_modules(list(folders or ())))
