"""The worked example of docs/rules.md is taken as it stands, and answers what the page says."""

import argparse
import re
from pathlib import Path

import pytest

from gateway.rules import command
from gateway.rules.reading import _ACTION_KEYS, _RULE_KEYS, Site, read_rules
from gateway.rules.vocabulary import INSTANCE_FIELDS, STUDY_FIELDS
from gateway.rules.when import _OPERATORS
from tests.instances import SLIDE, instance, write

PAGE = Path(__file__).resolve().parents[4] / "docs" / "rules.md"
DESTINATIONS = "PACS@pacs.local:104,ARCHIVE@archive.local:104"
SENDER = ("--calling-ae-title", "THEATRE", "--source-address", "10.1.2.9")


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def lentigo_rules(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([*arguments, "--send-to", DESTINATIONS]))


@pytest.fixture
def example(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(block("toml"))
    return path


@pytest.fixture
def studies(tmp_path):
    """A child's photograph, a body of twelve images, an adult of the trial, a slide."""
    folder = tmp_path / "sent"
    elements = (
        {"PatientAge": "012Y"},
        {"SeriesDescription": "TBP tiles", "ImagesInAcquisition": 12},
        {"ClinicalTrialProtocolID": "MEL-7", "PatientAge": "051Y"},
        {"SOPClassUID": SLIDE, "Modality": "SM"},
    )
    for number, each in enumerate(elements, 1):
        ds = instance(StudyInstanceUID=f"2.25.{number}", **each)
        write(ds, folder / f"{number}.dcm")
    return folder


def test_the_example_answers_what_the_page_says(example, studies, capsys):
    assert lentigo_rules("test", str(studies), "--rules", str(example), *SENDER) == 0
    said = [line.rstrip() for line in capsys.readouterr().out.strip().splitlines()]
    assert said == block("text").strip().splitlines()


def test_the_example_is_taken(example, capsys):
    assert lentigo_rules("check", str(example)) == 0
    assert "7 rules can be used" in capsys.readouterr().out


def test_the_page_has_every_word():
    text = PAGE.read_text()
    words = {*_RULE_KEYS, *_ACTION_KEYS, *_OPERATORS, *INSTANCE_FIELDS, *STUDY_FIELDS, "any", "all"}
    assert {word for word in words if f"`{word}" not in text} <= {"any", "all"}


def test_every_condition_of_the_tables_is_taken():
    site = Site(analyses=frozenset(), destinations=())
    found = re.findall(r"^\| [^|]+ \| (`[^|]*`[^|]*) \|$", PAGE.read_text(), re.MULTILINE)
    conditions = [each for cell in found for each in re.findall(r"`([^`]*=[^`]*)`", cell)]
    taken = [each for each in conditions if "..." not in each and "true" not in each]
    assert len(taken) >= 5
    for each in taken:
        text = f"[[rule]]\nname = 'r'\nwhen = {{ {each} }}\nthen = {{ priority = 'low' }}\n"
        assert len(read_rules(text, site).rules) == 1
