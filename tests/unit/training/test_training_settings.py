import dataclasses
from pathlib import Path
from typing import Any

import pytest
from cohort_builder import plain_settings, tiny_settings

from training.errors import SettingsError
from training.settings import read_settings, settings_from_dict

SHIPPED = Path(__file__).resolve().parents[3] / "training" / "configs" / "diagnosis.toml"


def test_the_shipped_configuration_is_readable() -> None:
    settings = read_settings(SHIPPED)
    assert settings.labels == ("NV", "MEL", "BKL", "BCC", "AKIEC", "VASC", "DF")
    assert settings.stages[-1].size == 224


def test_settings_survive_the_checkpoint() -> None:
    settings = tiny_settings()
    again = settings_from_dict(dataclasses.asdict(settings))
    assert again == settings
    assert again.digest() == settings.digest()


def test_the_digest_sees_every_value() -> None:
    digests = {
        tiny_settings(**change).digest()
        for change in ({}, {"seed": 2}, {"augment__gamma": 1.3}, {"network__backbone__taps": [0]})
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"surprise": 1}, "surprise"),
        ({"seed": ...}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"seed": True}, "seed"),
        ({"network__backbone__encoder__dim": 16.0}, "dim"),
        ({"network__backbone__encoder__dim": 15}, "encoder"),
        ({"network__backbone__taps": [3]}, "backbone"),
        ({"network__backbone__taps": 3}, "taps"),
        ({"network__backbone__kind": "resnet"}, "kind"),
        ({"network__backbone": {"kind": "efficientnet_lite", "variant": "b7"}}, "b7"),
        ({"network__start": "imagenet"}, "ImageNet"),
        ({"network__start": "elsewhere"}, "start"),
        ({"network__frozen_stages": 1}, "frozen"),
        ({"data__train_fraction": 0.9}, "fractions"),
        ({"data__label_map": {}}, "label_map"),
        ({"data__label_map": []}, "label_map"),
        ({"stages": []}, "stages"),
        ({"stages": [{"epochs": 1, "size": 30}]}, "stages"),
        ({"optimiser__batch_size": 1}, "batch_size"),
        ({"optimiser__ema_decay": 1.0}, "ema_decay"),
        ({"augment__scale": 0.5}, "augment"),
        ({"augment": 3}, "augment"),
    ],
    ids=str,
)
def test_values_no_run_can_use_are_refused_by_name(changes: dict[str, Any], names: str) -> None:
    with pytest.raises(SettingsError, match=names):
        settings_from_dict(plain_settings(**changes))


@pytest.mark.parametrize("text", [None, "not toml [", "\x00"])
def test_an_unreadable_file_is_an_error(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "config.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match=r"config\.toml"):
        read_settings(path)
