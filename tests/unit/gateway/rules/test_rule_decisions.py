"""What conditions say of values, and what a set of rules decides of a study."""

import warnings
from collections.abc import Mapping

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from gateway.rules.plan import Plan
from gateway.rules.reading import Site, read_rules
from gateway.rules.ruleset import StudyFacts

SITE = Site(
    analyses=frozenset({"diagnosis", "prognosis", "tbp_screening"}),
    destinations=("PACS@pacs.local:104", "ARCHIVE@10.0.0.9:104"),
)


SCT = "CodingSchemeDesignator = 'SCT'"


class Facts:
    """An instance as a rule sees it."""

    def __init__(self, ds: Dataset | None = None, **fields: str) -> None:
        self._ds = ds if ds is not None else Dataset()
        self._fields = {
            **dict.fromkeys(("sop_class", "transfer_syntax", "called_ae_title"), ""),
            **{"modality": "XC", "calling_ae_title": "CAMERA", "source_address": "10.1.2.3"},
            **fields,
        }

    def field(self, name: str) -> str:
        return self._fields[name]

    def header(self) -> Dataset:
        return self._ds


def decide(text: str, *instances: Facts, numbers: Mapping[str, int] | None = None) -> Plan:
    found = {"instances": len(instances), "series": 1, "generation": 1, **(numbers or {})}
    return read_rules(text, SITE).decide(StudyFacts(instances=instances, numbers=found))


def holds(when: str, *instances: Facts, scope: str = "some", **numbers: int) -> bool:
    text = f"[[rule]]\nname = 'r'\nscope = '{scope}'\nwhen = {{ {when} }}\n"
    plan = decide(text + "then = { priority = 'low' }", *instances, numbers=numbers)
    return plan.traces[0].has_matched


def patient() -> Dataset:
    ds = Dataset()
    ds.PatientAge, ds.PatientName, ds.StudyDate = "006M", "Roe^Jo", "20260301"
    ds.BodyPartExamined, ds.ImageType = "ARM ", ["ORIGINAL", "PRIMARY"]
    ds.PixelSpacing, ds.Rows, ds.PatientComments = [0.02, 0.03], 512, ""
    ds.AnatomicRegionSequence = []
    for value, scheme in (("1", "SCT"), ("2", "LOCAL")):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = value, scheme
        ds.AnatomicRegionSequence.append(item)
    ds.private_block(0x0009, "ACME", create=True).add_new(0x01, "LO", "special")
    return ds


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("BodyPartExamined = 'ARM'", True),
        ("BodyPartExamined = 'arm'", False),
        ("BodyPartExamined = ['LEG', 'ARM']", True),
        ("BodyPartExamined = { not = 'LEG' }", True),
        ("BodyPartExamined = { not = { in = ['ARM'] } }", False),
        ("ImageType = 'PRIMARY'", True),
        ("ImageType = { not = 'PRIMARY' }", False),
        ("PatientAge = { less = 1 }", True),
        ("PatientAge = { greater = 0.4, less = 0.6 }", True),
        ("PixelSpacing = { greater = 0.025 }", True),
        ("PixelSpacing = { greater = 0.025, less = 0.028 }", False),
        ("Rows = 512", True),
        ("StudyDate = { greater = '20260101', less = '20270101' }", True),
        ("StudyDate = { greater = '20260301' }", False),
        ("PatientName = { matches = 'Roe.*' }", True),
        ("PatientName = { matches = 'Ro' }", False),
        ("PatientComments = { exists = false }", True),
        ("OperatorsName = { exists = false }", True),
        ("OperatorsName = { not = 'x' }", True),
        ("'0009,1001' = 'special'", True),
        ("'AnatomicRegionSequence.CodeValue' = '2'", True),
        (f"AnatomicRegionSequence = {{ any = {{ CodeValue = '1', {SCT} }} }}", True),
        (f"AnatomicRegionSequence = {{ any = {{ CodeValue = '2', {SCT} }} }}", False),
        ("AnatomicRegionSequence = { all = { CodeValue = { exists = true } } }", True),
        ("AnatomicRegionSequence = { all = { CodeValue = '1' } }", False),
        ("ReferencedStudySequence = { all = { ReferencedSOPClassUID = 'x' } }", False),
        ("ReferencedStudySequence = { exists = false }", True),
        ("any = [{ modality = 'SM' }, { Rows = 512 }]", True),
        ("not = { any = [{ modality = 'SM' }, { Rows = 512 }] }", False),
        ("source_address = '10.1.0.0/16'", True),
        ("source_address = ['10.2.0.0/16', '2001:db8::/32']", False),
        ("source_address = { not = '10.2.0.0/16' }", True),
        ("instances = { greater = 1 }", False),
    ],
)
def test_a_condition_says_what_it_reads_like(when, expected):
    assert holds(when, Facts(patient())) is expected


@pytest.mark.parametrize("address", ["::ffff:10.1.2.3", "10.1.2.3", "10.1.2.3%eth0"])
def test_an_address_counts_however_it_is_written(address):
    assert holds("source_address = '10.1.0.0/16'", Facts(source_address=address))


def test_one_instance_must_fulfil_the_whole_condition():
    images = (
        Facts(modality="SM", calling_ae_title="A"),
        Facts(modality="XC", calling_ae_title="B"),
    )
    assert not holds("modality = 'SM', calling_ae_title = 'B'", *images)
    assert holds("modality = 'SM', calling_ae_title = 'A'", *images)


def test_every_means_every_one():
    slides, mixed = (Facts(modality="SM"),) * 3, (Facts(modality="SM"), Facts())
    assert holds("modality = 'SM'", *slides, scope="every")
    assert not holds("modality = 'SM'", *mixed, scope="every")
    assert holds("modality = 'SM'", *mixed)


def test_a_study_of_documents_alone_can_be_asked_about():
    assert holds("instances = 0")
    assert not holds("modality = 'XC'")


def test_the_first_rule_that_speaks_of_a_setting_decides_it():
    plan = decide(
        "[[rule]]\nname = 'a'\nthen = { priority = 'urgent', skip = ['prognosis'], reason = 'w' }\n"
        "[[rule]]\nname = 'b'\nthen = { priority = 'low', deadline_s = 60, only = ['prognosis'] }\n"
        "[[rule]]\nname = 'c'\nthen = { deadline_s = 90, destinations = ['PACS'] }\n",
        Facts(),
    )
    assert (plan.urgency, plan.deadline_s) == ("urgent", 60.0)
    assert plan.destinations == ("PACS@pacs.local:104",)
    assert plan.decided_by == {"priority": "a", "deadline_s": "b", "destinations": "c"}
    assert plan.verdict("prognosis") == (False, "rule 'a': w")
    assert plan.verdict("diagnosis") == (False, "rule 'b': is not to run")


def test_the_last_rule_ends_the_look_only_when_it_matches():
    text = (
        "[[rule]]\nname = 'a'\nwhen = { modality = 'SM' }\nthen = { ignore = true, reason = 'r' }\n"
        "last = true\n[[rule]]\nname = 'b'\nthen = { priority = 'low' }\n"
    )
    assert [each.rule for each in decide(text, Facts()).traces] == ["a", "b"]
    plan = decide(text, Facts(modality="SM"))
    assert [each.rule for each in plan.traces] == ["a"]
    assert plan.ignore == "rule 'a': r"
    assert plan.urgency == "routine"


def test_hold_can_be_lifted_by_an_earlier_rule():
    text = (
        "[[rule]]\nname = 'a'\nwhen = { calling_ae_title = 'OFFICE' }\nthen = { hold = false }\n"
        "[[rule]]\nname = 'b'\nthen = { hold = true, reason = 'trial' }\n"
    )
    assert decide(text, Facts(calling_ae_title="OFFICE")).hold is None
    assert decide(text, Facts()).hold == "rule 'b': trial"


@pytest.mark.parametrize(
    ("stated", "expected"), [(["3"], 3), (["3", "12"], 12), (["0"], None), ([], None)]
)
def test_the_largest_number_that_an_instance_states_is_expected(stated, expected):
    images = []
    for value in stated:
        ds = Dataset()
        ds.ImagesInAcquisition = value
        images.append(Facts(ds))
    text = "[[rule]]\nname = 'a'\nthen = { expect_instances = 'ImagesInAcquisition' }\n"
    assert decide(text, *(images or [Facts()])).expect_instances == expected


CANARY = "KANARI"


@pytest.mark.parametrize(
    "when",
    [
        "PatientName = 'x'",
        "PatientName = { not = 'x' }",
        "PatientName = { matches = '.*' }",
        "PatientID = { exists = true }",
        "'OtherPatientIDsSequence.PatientID' = 'x'",
        "OtherPatientIDsSequence = { any = { PatientID = { not = 'x' } } }",
        "not = { PatientName = 'x' }",
        "any = [{ PatientName = 'x' }, { PatientID = 'x' }]",
    ],
)
def test_a_reason_never_holds_a_value_that_was_found(when):
    ds = Dataset()
    ds.PatientName, ds.PatientID = f"{CANARY}^A", f"{CANARY}1"
    ds.OtherPatientIDsSequence = [Dataset()]
    ds.OtherPatientIDsSequence[0].PatientID = f"{CANARY}2"
    text = f"[[rule]]\nname = 'r'\nwhen = {{ {when} }}\nthen = {{ priority = 'low' }}"
    plan = decide(text, Facts(ds), Facts())
    assert plan.traces[0].reason
    assert CANARY not in str(plan.as_json())


@settings(max_examples=60)
@given(st.binary(max_size=40), st.sampled_from(["DS", "IS", "DA", "AS", "SQ", "US", "PN", "UN"]))
@example(value=b"\0", vr="SQ")
@example(value=b"\0", vr="US")
def test_a_damaged_value_fails_the_condition_and_nothing_else(value, vr):
    ds = Dataset()
    tag = Tag("PatientAge")
    ds[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert holds("PatientAge = { greater = 1000000 }", Facts(ds)) in (True, False)
        assert holds("modality = 'XC'", Facts(ds))


def test_a_plan_comes_back_from_the_record_as_it_was():
    plan = decide(
        "[[rule]]\nname = 'a'\nthen = { priority = 'urgent', only = ['diagnosis'], hold = true,"
        " reason = 'r', destinations = ['PACS', 'ARCHIVE'], quiet_window_s = 3 }\n",
        Facts(),
    )
    assert Plan.from_json(plan.as_json()) == plan
