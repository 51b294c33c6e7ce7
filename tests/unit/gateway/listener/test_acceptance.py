"""The acceptance tables and the allow-list."""

import doctest
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from gateway import errors
from gateway.errors import InstanceError, PeerSyntaxError
from gateway.listener import acceptance
from gateway.listener.acceptance import (
    ACCEPTED_SOP_CLASSES,
    DEFLATED_SYNTAXES,
    IMAGE_SYNTAXES,
    JPEG_XL_SYNTAXES,
    NATIVE_SYNTAXES,
    Peer,
    StoreStatus,
    is_ae_title,
    is_allowed,
    parse_peers,
)


def nobody(_host_name: str) -> tuple[str, ...]:
    raise AssertionError("no name was to be resolved")


def test_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(acceptance).failed == 0


def test_sop_class_names_are_those_of_the_standard() -> None:
    known = {uid: accepted for uid, accepted in ACCEPTED_SOP_CLASSES.items() if UID(uid).type}
    assert set(ACCEPTED_SOP_CLASSES) - set(known) == {"1.2.840.10008.5.1.4.1.1.66.7"}  # too new
    assert {uid: each.name for uid, each in known.items()} == {uid: UID(uid).name for uid in known}


@pytest.mark.parametrize(
    "uid",
    [
        "1.2.840.10008.5.1.4.1.1.77.1.7",
        "1.2.840.10008.5.1.4.1.1.77.1.4",
        "1.2.840.10008.5.1.4.1.1.77.1.6",
        "1.2.840.10008.5.1.4.1.1.7",
        "1.2.840.10008.5.1.4.1.1.7.4",
        "1.2.840.10008.5.1.4.1.1.88.34",
        "1.2.840.10008.5.1.4.1.1.66.4",
        "1.2.840.10008.5.1.4.1.1.104.1",
        "1.2.840.10008.5.1.4.1.1.30",
    ],
)
def test_inputs_and_the_kinds_of_our_own_results_are_accepted(uid: str) -> None:
    assert uid in ACCEPTED_SOP_CLASSES


def test_every_class_takes_the_default_transfer_syntax() -> None:
    for accepted in ACCEPTED_SOP_CLASSES.values():
        assert "1.2.840.10008.1.2" in accepted.transfer_syntaxes  # PS3.5 10.1


def test_transfer_syntaxes_are_known_and_compression_comes_before_native() -> None:
    first_native = min(IMAGE_SYNTAXES.index(uid) for uid in NATIVE_SYNTAXES)
    assert all(UID(uid).is_encapsulated for uid in IMAGE_SYNTAXES[:first_native])
    assert IMAGE_SYNTAXES[first_native:] == (
        *NATIVE_SYNTAXES,
        *DEFLATED_SYNTAXES,
        *JPEG_XL_SYNTAXES,
    )
    assert len(set(IMAGE_SYNTAXES)) == len(IMAGE_SYNTAXES)


def test_what_is_lossless_is_preferred_to_what_is_lossy() -> None:
    reversible = [IMAGE_SYNTAXES.index(uid) for uid in acceptance.REVERSIBLE_SYNTAXES]
    lossy = [IMAGE_SYNTAXES.index(uid) for uid in acceptance.IRREVERSIBLE_SYNTAXES]
    assert max(reversible) < min(lossy)


def test_statuses_lie_in_the_ranges_of_the_standard() -> None:
    for status in StoreStatus:
        is_general = status in (0x0000, 0x0122)
        is_storage = status >> 8 in (0xA7, 0xA9) or status >> 12 == 0xC  # PS3.4 Table B.2-1
        assert is_general or is_storage


def test_every_instance_error_answers_with_a_status_of_the_table() -> None:
    kinds = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, InstanceError)
    ]
    assert len(kinds) == 8
    assert {StoreStatus(kind.status) for kind in kinds} == {
        StoreStatus.CANNOT_UNDERSTAND,
        StoreStatus.TRUNCATED,
        StoreStatus.MISSING_IDENTITY,
        StoreStatus.SOP_CLASS_MISMATCH,
        StoreStatus.SOP_INSTANCE_MISMATCH,
        StoreStatus.SOP_CLASS_NOT_SUPPORTED,
        StoreStatus.TOO_LARGE,
    }


@pytest.mark.parametrize("address", ["127.0.0.1", "127.255.3.4", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_admitted_under_any_ae_title(address: str) -> None:
    assert is_allowed("WHOEVER", address)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "", "junk"])
def test_elsewhere_nobody_is_admitted_unasked(address: str) -> None:
    assert not is_allowed("WHOEVER", address)


@pytest.mark.parametrize(
    ("entry", "caller", "address", "expected"),
    [
        ("PACS@192.0.2.7", "PACS", "192.0.2.7", True),
        ("PACS@192.0.2.7", " PACS ", "192.0.2.7", True),
        ("PACS@192.0.2.7", "pacs", "192.0.2.7", False),
        ("PACS@192.0.2.7", "PACS2", "192.0.2.7", False),
        ("PACS@192.0.2.7", "PACS", "192.0.2.8", False),
        ("PACS@192.0.2.0/24", "PACS", "192.0.2.200", True),
        ("PACS@192.0.2.9/24", "PACS", "192.0.2.200", True),
        ("*@192.0.2.0/24", "ANY THING", "192.0.2.200", True),
        ("CT_*@192.0.2.0/24", "CT_ROOM1", "192.0.2.200", True),
        ("CT_*@192.0.2.0/24", "MR_CT_1", "192.0.2.200", False),
        ("A.C@192.0.2.0/24", "ABC", "192.0.2.200", False),
        ("A@B@192.0.2.7", "A@B", "192.0.2.7", True),
        ("PACS@2001:db8::/32", "PACS", "2001:db8::17", True),
        ("PACS@[2001:db8::17]", "PACS", "2001:db8::17", True),
        ("PACS@fe80::/10", "PACS", "fe80::1%eth0", True),
        ("PACS@192.0.2.0/24", "PACS", "2001:db8::17", False),
    ],
)
def test_an_entry_admits_by_title_and_place(
    entry: str, caller: str, address: str, expected: bool
) -> None:
    assert is_allowed(caller, address, [Peer.parse(entry)], nobody) is expected


def test_a_host_name_is_resolved_when_its_peer_calls() -> None:
    peers = parse_peers(["PACS@pacs.example.org"])
    asked = []

    def resolve(host_name: str) -> list[str]:
        asked.append(host_name)
        return ["192.0.2.7", "2001:db8::7"]

    assert is_allowed("PACS", "2001:db8::7", peers, resolve)
    assert not is_allowed("PACS", "192.0.2.8", peers, resolve)
    assert not is_allowed("OTHER", "192.0.2.7", peers, resolve)
    assert asked == ["pacs.example.org"] * 2


def test_a_name_that_does_not_resolve_admits_nobody() -> None:
    assert not is_allowed("PACS", "192.0.2.7", parse_peers(["PACS@nowhere.example"]))


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ("", "'@'"),
        ("PACS", "'@'"),
        ("@192.0.2.1", "AE title"),
        ("   @192.0.2.1", "AE title"),
        ("SEVENTEENLETTERSX@192.0.2.1", "AE title"),
        ("BACK\\SLASH@192.0.2.1", "AE title"),
        ("UML\u00c4UT@192.0.2.1", "AE title"),
        ("TAB\tTAB@192.0.2.1", "AE title"),
        ("PACS@", "host"),
        ("PACS@192.0.2.300", "host"),
        ("PACS@192.0.2", "host"),
        ("PACS@a b", "host"),
        ("PACS@-x.example", "host"),
        ("PACS@host:104", "host"),
        ("PACS@192.0.2.0/33", "network"),
        ("PACS@pacs.example/24", "network"),
    ],
)
def test_a_malformed_entry_names_its_field(entry: str, field: str) -> None:
    with pytest.raises(PeerSyntaxError, match=field):
        Peer.parse(entry)


def test_loopback_stays_admitted_beside_other_entries() -> None:
    assert is_allowed("ANY", "127.0.0.1", parse_peers(["PACS@192.0.2.7"]))


@given(st.text(max_size=40))
def test_parsing_an_entry_succeeds_or_raises_its_own_error(text: str) -> None:
    try:
        peer = Peer.parse(text)
    except PeerSyntaxError:
        return
    assert is_ae_title(peer.ae_title)
    assert (peer.network is None) == bool(peer.host_name)


@given(st.ip_addresses(), st.text(alphabet="ABC_*19 ", min_size=1, max_size=16))
def test_an_entry_for_one_address_admits_that_address_only(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, title: str
) -> None:
    if not is_ae_title(title):
        return
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id):
        return
    peer = Peer.parse(f"{title}@{address}")
    other = type(address)(int(address) ^ 1)
    assert peer.admits(title, str(address), nobody)
    assert not peer.admits(title, str(other), nobody)
