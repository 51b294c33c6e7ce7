"""Label sets, referral, coded reasons and lesions of several images in the diagnosis report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import report_builders as builders
from pydicom import Dataset

from models.diagnosis import state_lesions
from models.quality import UNREADABLE, Reason, Remark
from models.results import ImageAssessment, LabelSet
from reports.diagnosis import codes
from reports.diagnosis.overview import Overview, draw_overview
from reports.diagnosis.page import diagnosis_page
from reports.encode import encode
from reports.page import Text
from tests.unit.reports.report_content import children, coded, measurement_groups, numbers, texts


def codes_of(item: Dataset, meaning: str) -> list[str]:
    return [child.ConceptCodeSequence[0].CodeMeaning for child in children(item, meaning)]


def with_set(*labels: str, **changes: Any) -> ImageAssessment:
    found = LabelSet(labels=labels, coverage=0.9, largest=3)
    return replace(builders.assessment(**changes), label_set=found)


def report(*images: ImageAssessment, **header: Any) -> Dataset:
    headers = [builders.header(number=n, **header) for n in range(1, len(images) + 1)]
    result = builders.result(*images, lesions=state_lesions(images))
    context = builders.context(*[builders.source(each) for each in headers])
    return encode(result, context)[0].dataset


def words(image: ImageAssessment, *others: ImageAssessment) -> str:
    """Everything that the page of the first image says."""
    result = builders.result(image, *others, lesions=state_lesions((image, *others)))
    page = diagnosis_page(
        Overview(
            pixels=builders.photograph(image.shape),
            assessment=image,
            result=result,
            sizes=(),
            number=1,
        )
    )
    return " ".join(mark.text for mark in page.marks if isinstance(mark, Text))


def test_set_is_said_coded_and_shown() -> None:
    image = with_set("MEL", "NV")
    (group,) = measurement_groups(report(image))
    assert codes_of(group, "Possible diagnosis") == ["Malignant melanoma", "Melanocytic nevus"]
    assert coded(group, "Referral to a reader") == "No"
    assert ("Coverage of the diagnoses", 90.0, "%") in numbers(group)
    sentence = "Possible: one of Melanoma, Melanocytic nevus (90 % coverage)"
    assert sentence in texts(group, "Comment")
    assert sentence in texts(group, "Assessment details")[0]
    assert sentence in words(image)


@pytest.mark.parametrize(
    ("labels", "said", "reason"),
    [
        ((), "no diagnosis is probable enough", codes.NONE_PROBABLE),
        (("MEL", "NV", "BCC", "DF"), "4 diagnoses are possible", codes.TOO_MANY_POSSIBLE),
    ],
)
def test_empty_or_large_set_is_a_referral(
    labels: tuple[str, ...], said: str, reason: codes.Concept
) -> None:
    image = with_set(*labels)
    (group,) = measurement_groups(report(image))
    assert coded(group, "Referral to a reader") == "Yes"
    assert coded(group, "Reason for the referral") == reason.meaning
    assert any(
        text.startswith("Refer to a reader") and said in text for text in texts(group, "Comment")
    )
    assert said in words(image)


def test_model_without_sets_says_nothing_of_them() -> None:
    (group,) = measurement_groups(report(builders.assessment()))
    assert codes_of(group, "Possible diagnosis") == codes_of(group, "Referral to a reader") == []


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_code(reason: Reason) -> None:
    image = builders.not_assessed(reasons=(reason,))
    (group,) = measurement_groups(report(image))
    assert coded(group, "Reason not to assess") == codes.REASONS[reason].meaning
    assert str(reason)[1:] in words(image)


@pytest.mark.parametrize("remark", list(Remark))
def test_every_remark_has_a_code(remark: Remark) -> None:
    (group,) = measurement_groups(report(builders.assessment(warnings=(remark,))))
    assert coded(group, "Remark on the image") == codes.REMARKS[remark].meaning


def test_reasons_of_other_origin_have_codes_too() -> None:
    image = builders.not_assessed(reasons=(f"{UNREADABLE}: it ends early", "something new"))
    (group,) = measurement_groups(report(image))
    assert codes_of(group, "Reason not to assess") == [
        "Image cannot be read",
        "Other reason, see the comment",
    ]


def pair() -> tuple[ImageAssessment, ImageAssessment]:
    """A clinical and a dermoscopic image of one lesion."""
    clinical = replace(builders.assessment(), is_dermoscopic=False, lesion="1.2.3.4")
    return clinical, replace(builders.assessment(number=2, malignant=0.1), lesion="1.2.3.4")


def test_pair_of_one_lesion_is_joined_and_the_dermoscopic_image_stands() -> None:
    ds = report(*pair(), TrackingID="Back 3", TrackingUID="1.2.3.4")
    clinical, dermoscopic = measurement_groups(ds)
    assert texts(clinical, "Tracking Identifier") == ["Back 3 (image 1)"]
    assert texts(dermoscopic, "Tracking Identifier") == ["Back 3"]
    for group, role in ((clinical, codes.SEEN_BESIDE), (dermoscopic, codes.DECIDES)):
        assert children(group, "Lesion, over its images")[0].UID == "1.2.3.4"
        assert coded(group, "Role of the image for its lesion") == role.meaning
    said = "Image 2 stands for this lesion: not suspicious, malignancy 10.0 %"
    assert said in texts(clinical, "Comment")
    assert "Stands for the lesion of images 1, 2" in texts(dermoscopic, "Comment")
    # The clinical image beside it is above the operating point, and raises no alarm.
    assert coded(ds, "CAD Processing and Findings Summary") == (
        "All algorithms succeeded; without findings"
    )
    assert said in words(*pair())


def test_lesion_of_which_nothing_was_assessed_says_so() -> None:
    images = [replace(builders.not_assessed(number=number), lesion="1.2.3.4") for number in (1, 2)]
    (first, _) = measurement_groups(report(*images, TrackingUID="1.2.3.4"))
    assert "One lesion in images 1, 2, none of them assessed" in texts(first, "Comment")
    assert codes_of(first, "Role of the image for its lesion") == []


def test_overview_has_room_for_the_longest_statements() -> None:
    image, beside = pair()
    long = replace(
        image,
        label_set=LabelSet(labels=("MEL", "BCC", "AKIEC"), coverage=0.9, largest=3),
        quality=replace(image.quality, warnings=tuple(Remark)),
    )
    result = builders.result(long, beside, lesions=state_lesions((long, beside)))
    picture = draw_overview(
        Overview(
            pixels=builders.photograph((96, 128)),
            assessment=long,
            result=result,
            sizes=(),
            number=1,
        )
    )
    assert picture.shape == (1200, 1920, 3)
