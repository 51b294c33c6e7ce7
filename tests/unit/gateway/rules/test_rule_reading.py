"""Files of rules: what is taken, and what is refused with its line and its reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RuleFileRefused
from gateway.rules.reading import MAX_RULES, Site, read_rules
from gateway.rules.vocabulary import known_analyses
from workers import analyses
from workers.analysis import load_registry

SITE = Site(
    analyses=frozenset({"diagnosis", "prognosis"}),
    destinations=("PACS@pacs.local:104", "ARCHIVE@10.0.0.9:104", "ARCHIVE@10.0.0.10:104"),
)

GOOD = """\
# A comment with [[rule]] in it.

[[rule]]
name = "from theatre"
when = { calling_ae_title = "THEATRE", modality = ["XC", "DMS"] }
then = { priority = "urgent", deadline_s = 600, destinations = ["PACS"] }

[[rule]]
name = "children"
[rule.when]
PatientAge = { less = 18 }
[rule.then]
skip = ["prognosis"]
reason = '''
One line.
[[rule]] within a text is no rule'''
"""


def refusal(text: str) -> RuleFileRefused:
    with pytest.raises(RuleFileRefused) as caught:
        read_rules(text, SITE, name="rules.toml")
    return caught.value


def rule(when: str, then: str = "then = { priority = 'low' }") -> str:
    return f"[[rule]]\nname = 'r'\nwhen = {{ {when} }}\n{then}\n"


def test_the_good_one_is_refused_for_its_reason_of_two_lines_only():
    error = refusal(GOOD)
    assert error.line == 14
    assert "one line" in error.reason


def test_a_file_is_read_in_its_order():
    rules = read_rules(
        GOOD.replace("'''\nOne line.\n[[rule]] within a text is no rule'''", "'consent'"), SITE
    )
    assert [each.name for each in rules.rules] == ["from theatre", "children"]
    assert [each.line for each in rules.rules] == [3, 8]
    assert rules.rules[0].actions.destinations == ("PACS@pacs.local:104",)


@pytest.mark.parametrize(
    "when",
    [
        "BodyPartExamined = 'ARM'",
        "'0018,0015' = { in = ['ARM', 'LEG'] }",
        "'(0018,0015)' = { not = 'ARM' }",
        "'AnatomicRegionSequence.CodeValue' = '123'",
        "AnatomicRegionSequence = { any = { CodeValue = '1', CodingSchemeDesignator = 'SCT' } }",
        "AnatomicRegionSequence = { all = { CodeValue = { exists = true } } }",
        "AnatomicRegionSequence = { exists = false }",
        "StudyDate = { greater = '20260101', less = '20270101' }",
        "PatientAge = { greater = 17 }",
        "sop_class = 'VL Photographic Image Storage'",
        "sop_class = 'VLPhotographicImageStorage'",
        "sop_class = '1.2.840.10008.5.1.4.1.1.77.1.4'",
        "transfer_syntax = { not = { in = ['JPEG Baseline (Process 1)'] } }",
        "source_address = ['10.1.0.0/16', '2001:db8::/32', '192.168.0.7']",
        "instances = { greater = 3 }",
        "series = 2",
        "generation = { less = 2 }",
        "not = { modality = 'SM' }",
        "any = [{ modality = 'SM' }, { all = [{ series = 1 }, { not = { instances = 2 } }] }]",
        "SeriesDescription = { matches = '(?i).*derm.*' }",
        "'0009,1001' = 'private'",
        "Rows = 512",
    ],
)
def test_conditions_that_are_taken(when):
    assert len(read_rules(rule(when), SITE).rules) == 1


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("modalty = 'XC'", "unknown field 'modalty'; did you mean modality?"),
        ("BodyPartExmined = 'ARM'", "unknown attribute 'BodyPartExmined'; did you mean BodyPart"),
        ("'0018,FFF0' = 'x'", "unknown attribute"),
        ("modality = { sounds = 'XC' }", "unknown operator 'sounds'"),
        ("modality = 'xc'", "capital letters"),
        ("modality = []", "at least one value"),
        ("modality = {}", "no operator"),
        ("any = []", "at least one table"),
        ("not = {}", "an empty one would say nothing"),
        ("sop_class = 'Dermatology'", "unknown SOP Class 'Dermatology'"),
        ("transfer_syntax = 'JPEG'", "unknown Transfer Syntax 'JPEG'"),
        ("calling_ae_title = 'AN AE TITLE TOO LONG'", "1 to 16 characters"),
        ("source_address = 'camera.local'", "an address or a network"),
        ("instances = 'many'", "a whole number"),
        ("instances = true", "a whole number"),
        ("SeriesDescription = { matches = '(a' }", "cannot be used"),
        ("sop_class = { matches = '.*' }", "takes no pattern"),
        ("Rows = '512'", "leave out the quotes"),
        ("StudyDate = { greater = 2026 }", "cannot be compared with a number"),
        ("PatientName = ''", "compared with nothing"),
        ("AnatomicRegionSequence = 'ARM'", "is a sequence"),
        ("BodyPartExamined = { any = { CodeValue = '1' } }", "is no sequence"),
        ("'BodyPartExamined.CodeValue' = '1'", "is no sequence"),
        ("BodyPartExamined = { exists = 'yes' }", "true or false"),
        ("BodyPartExamined = 2026-01-01", "a text in quotes or a number"),
    ],
)
def test_conditions_that_are_refused(when, said):
    error = refusal("# first line\n" + rule(when))
    assert said in error.reason
    assert error.line == 4
    assert "rules.toml: line 4: rule 'r': " in str(error)


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("run = ['dignosis']", "unknown analysis 'dignosis'; installed are: diagnosis, prognosis"),
        ("only = []", "at least one name"),
        ("destinations = ['PAX']", "unknown destination 'PAX'; configured are: PACS@pacs"),
        ("destinations = ['ARCHIVE']", "could be ARCHIVE@10.0.0.9:104 or ARCHIVE@10.0.0.10:104"),
        ("priority = 'high'", "urgent, routine, low"),
        ("deadline_s = 0", "above 0"),
        ("quiet_window_s = nan", "above 0"),
        ("quiet_window_s = 1e9", "at most"),
        ("expect_instances = -1", "above 0"),
        ("expect_instances = 'PatientName'", "holds no number"),
        ("expect_series = 'NumberOfSerie'", "unknown attribute"),
        ("hold = 'yes', reason = 'x'", "true or false"),
        ("hold = true", "need a reason"),
        ("skip = ['prognosis']", "need a reason"),
        ("run = ['diagnosis'], skip = ['diagnosis'], reason = 'x'", "to run and to be skipped"),
        ("prioity = 'low'", "unknown key 'prioity'; did you mean priority?"),
    ],
)
def test_actions_that_are_refused(then, said):
    error = refusal(rule("modality = 'XC'", f"then = {{ {then} }}"))
    assert said in error.reason
    assert error.line == 4


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 0, "there is no rule"),
        ("rule = []", 1, "the list of rules is empty"),
        ("rule = 5", 1, "there is no rule"),
        ("[[rules]]\nname = 'a'", 1, "unknown key 'rules'; did you mean rule?"),
        ("[[rule]]\nname = 'a'\nthen", 3, "not TOML"),
        ("[[rule]]\nname = 'a'\n", 1, "a then"),
        ("[[rule]]\nthen = { priority = 'low' }\n", 1, "needs a name"),
        ("[[rule]]\nname = ''\nthen = { priority = 'low' }\n", 2, "needs a name"),
        ("[[rule]]\nname = 'a'\nwhen = {}\nthen = { priority = 'low' }\n", 3, "when is empty"),
        ("[[rule]]\nname = 'a'\nthen = { priority = 'low' }\n" * 2, 5, "two rules are named 'a'"),
        ("[[rule]]\nname = 'a'\nscope = 'x'\nthen = { priority = 'low' }\n", 3, "scope is"),
        ("[[rule]]\nname = 'a'\nlast = 1\nthen = { priority = 'low' }\n", 3, "last is"),
        ("a = " + "[" * 3000, 0, ""),
    ],
)
def test_files_that_are_refused(text, line, said):
    error = refusal(text)
    assert said in error.reason
    assert error.line == line or not said


def test_a_file_holds_a_bounded_number_of_rules():
    text = "".join(
        f"[[rule]]\nname = '{number}'\nthen = {{ priority = 'low' }}\n"
        for number in range(MAX_RULES + 1)
    )
    assert f"more than {MAX_RULES} rules" in refusal(text).reason


def test_a_syntax_error_has_its_column():
    error = refusal("[[rule]\nname = 'a'")
    assert (error.line, error.column) == (1, 7)


@given(st.text(max_size=60))
def test_whatever_a_file_holds_it_is_read_or_refused(text):
    for each in (text, f"[[rule]]\n{text}", f"[[rule]]\nname='a'\nwhen={{{text}}}\n"):
        with pytest.raises(RuleFileRefused):
            read_rules(each, SITE)


def test_a_new_analysis_may_be_named_without_any_other_change():
    assert known_analyses() == set(load_registry(analyses).names)
