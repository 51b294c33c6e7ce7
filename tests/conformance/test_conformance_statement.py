"""What ``CONFORMANCE.md`` says is what the code does, and what the running listener answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
from pydicom.uid import UID, UID_dictionary
from pynetdicom import AE
from pynetdicom.presentation import PresentationContext, build_context

from gateway.listener import acceptance
from tests.conformance import markdown, services
from tests.conformance.parameters import SETTINGS
from tests.conformance.statement import STATEMENT, TABLES
from tests.fuzz.door import Door, open_door

# What pydicom names that no association carries: data sets on media, and retired encodings.
_PROPOSABLE = [
    uid
    for uid, (name, kind, _, _, _) in UID_dictionary.items()
    if kind in ("SOP Class", "Meta SOP Class") and "Media Storage Directory" not in name
]
# Label Map Segmentation Storage is newer than the dictionary of pydicom 3.0.
_PROPOSABLE += [uid for uid in ("1.2.840.10008.5.1.4.1.1.66.7",) if uid not in UID_dictionary]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pydicom's, about odd sample values
        yield


@pytest.fixture(scope="module")
def text() -> str:
    return STATEMENT.read_text("utf-8")


@pytest.fixture(scope="module")
def generate() -> Callable[[str], str]:
    """Fills in every table; each is made once, the objects of all analyses are behind them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        made = {name: make() for name, make in TABLES.items()}
    makers = {name: lambda found=found: found for name, found in made.items()}
    return lambda text: markdown.fill(text, makers)


Generate = Callable[[str], str]


@pytest.mark.parametrize("name", TABLES)
def test_table_is_what_the_code_says(name: str, text: str, generate: Generate) -> None:
    start = f"<!-- begin: {name} -->"
    block = start + text.partition(start)[2].partition("<!-- end -->")[0] + "<!-- end -->"
    assert generate(block) == block, "run: python -m tests.conformance"


def test_every_table_stands_in_the_statement_once(text: str) -> None:
    assert sorted(markdown.names_in(text)) == sorted(TABLES)


def test_every_uid_that_the_code_names_stands_in_the_statement(text: str) -> None:
    kinds = ("SOP Class", "Meta SOP Class", "Transfer Syntax")
    named = {
        uid: modules
        for uid, modules in services.named_uids().items()
        if UID(uid).type in kinds and uid not in _READ_ONLY
    }
    assert {uid: each for uid, each in named.items() if uid not in text} == {}


_READ_ONLY = {
    "1.2.840.10008.1.3.10": "Media Storage Directory: a DICOMDIR is told from instances and left",
}


def test_every_setting_stands_in_the_statement(text: str) -> None:
    for settings in SETTINGS:
        prefix = str(settings.model_config.get("env_prefix", ""))
        for name, field in settings.model_fields.items():
            assert f"`{prefix}{name}`".upper() in text
            assert field.description, f"{settings.__name__}.{name} says nothing of itself"


def test_a_changed_table_is_seen(text: str, generate: Generate) -> None:
    changed = text.replace("| C001 |", "| C009 |")
    assert changed != text
    assert generate(changed) == generate(text) != changed


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with open_door(tmp_path_factory.mktemp("conformance")) as opened:
        yield opened


def negotiated(door: Door, contexts: list[PresentationContext]) -> list[tuple[str, str]]:
    """Return what the listener accepts of a proposal: abstract syntax and transfer syntax."""
    ae = AE(ae_title="CONFORMANCE")
    association = ae.associate("127.0.0.1", door.port, contexts=contexts)
    if not association.is_established:
        return []  # nothing of it: pynetdicom aborts
    found = [
        (str(each.abstract_syntax), str(each.transfer_syntax[0]))
        for each in association.accepted_contexts
    ]
    association.release()
    return found


def test_the_running_listener_accepts_these_sop_classes_and_no_other(door: Door, text: str) -> None:
    accepted: set[str] = set()
    for start in range(0, len(_PROPOSABLE), 128):
        contexts = [
            build_context(uid, acceptance.IMPLICIT_VR_LITTLE_ENDIAN)
            for uid in _PROPOSABLE[start : start + 128]
        ]
        accepted |= {uid for uid, _ in negotiated(door, contexts)}
    block = text.partition("<!-- begin: accepted contexts -->")[2].partition("<!-- end -->")[0]
    stated = {row.split("|")[2].strip() for row in block.splitlines()[3:] if row}
    assert accepted == stated


@pytest.mark.parametrize(
    ("sop_class_uid", "stated"),
    [
        (acceptance.DERMOSCOPIC_PHOTOGRAPHY, acceptance.IMAGE_SYNTAXES),
        ("1.2.840.10008.5.1.4.1.1.66.4", acceptance.RESULT_SYNTAXES),
        ("1.2.840.10008.5.1.4.1.1.88.34", acceptance.DOCUMENT_SYNTAXES),
    ],
)
def test_the_running_listener_takes_the_transfer_syntaxes_in_their_order(
    door: Door, sop_class_uid: str, stated: tuple[str, ...]
) -> None:
    every = [uid for uid in UID_dictionary if UID(uid).is_transfer_syntax]
    alone = negotiated(door, [build_context(sop_class_uid, each) for each in every[:128]])
    assert {syntax for _, syntax in alone} == set(stated)
    left = list(stated)
    while left:
        # Proposed the other way round: the order is the acceptor's, not the requestor's.
        ((_, chosen),) = negotiated(door, [build_context(sop_class_uid, left[::-1])])
        assert chosen == left.pop(0)


def test_empty_tables_are_filled_in_and_the_prose_stays(text: str, generate: Generate) -> None:
    emptied = markdown.fill(text, dict.fromkeys(TABLES, lambda: ""))
    assert len(emptied) < len(text) / 2
    assert generate(emptied) == generate(text)
