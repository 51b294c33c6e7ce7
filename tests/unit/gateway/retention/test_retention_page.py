"""docs/retention.md names every setting and every verb as they are."""

import argparse
from pathlib import Path

from gateway.retention import command
from gateway.settings import RetentionSettings

TEXT = (Path(__file__).resolve().parents[4] / "docs" / "retention.md").read_text()


def test_the_page_has_every_setting_with_its_default():
    for name, field in RetentionSettings.model_fields.items():
        assert f"LENTIGO_RETENTION_{name.upper()}" in TEXT
        if name.endswith("_percent"):
            assert f"LENTIGO_RETENTION_{name.upper()}` ({field.default:g})" in TEXT
    days = [
        field.default for name, field in RetentionSettings.model_fields.items() if "_days" in name
    ]
    assert set(days) == {0}


def test_the_page_has_every_verb():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    (verbs,) = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    for verb in verbs.choices:
        assert f"`lentigo retention {verb}" in TEXT
