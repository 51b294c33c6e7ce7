"""The lesions of a study and their images, oldest first. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.store.values import EarlierImage, InstanceRow
from workers.photographs import DERMOSCOPIC_PHOTOGRAPHY

MAX_LESIONS = 100
"""Tracked photographs beyond which a study is one of lesion tiles, not of follow-up images:
comparing takes about a second a lesion."""
MAX_TIME_POINTS = 12
"""Images of one lesion that are compared: the oldest and the newest ones."""
MAX_CANDIDATES = 5
"""Images that share nothing but the body site, tried one after the other."""

_DATE = 8
_BODY_SITE = "body_site"


@dataclass(frozen=True, kw_only=True)
class Followed:
    """One lesion of a study with the images it may be compared with."""

    current: InstanceRow
    """Its image in the study: the newest, of several a dermoscopic one."""
    earlier: tuple[EarlierImage, ...]
    """Newest first, one a day; of candidates all that are to be tried."""

    @property
    def is_candidate(self) -> bool:
        """Whether nothing but the body site links the images."""
        return any(each.linkage == _BODY_SITE for each in self.earlier)


def is_followed(image: InstanceRow) -> bool:
    """Whether a photograph is of a lesion that is tracked, or whose site has earlier images."""
    return bool(image.tracking_uid or image.tracking_id_sha256 or image.has_earlier)


def current_images(images: Iterable[InstanceRow]) -> tuple[InstanceRow, ...]:
    """Return one image for each lesion of the study, in their order.

    Of the newest day's images of a lesion a dermoscopic one is taken, then the last one.
    """
    lesions: dict[str, list[InstanceRow]] = {}
    for image in images:
        key = image.tracking_uid or image.tracking_id_sha256 or image.sop_instance_uid
        lesions.setdefault(key, []).append(image)
    return tuple(max(taken, key=_rank) for taken in lesions.values())


def _rank(image: InstanceRow) -> tuple[str, bool, str]:
    is_dermoscopic = image.sop_class_uid == DERMOSCOPIC_PHOTOGRAPHY
    return (image.acquired_at[:_DATE], is_dermoscopic, image.acquired_at)


def followed(
    images: Iterable[InstanceRow], earlier: Mapping[str, tuple[EarlierImage, ...]]
) -> tuple[Followed, ...]:
    """Return the lesions with those earlier images that are worth comparing."""
    return tuple(
        Followed(current=image, earlier=_selected(image, earlier.get(image.sop_instance_uid, ())))
        for image in images
    )


def _selected(current: InstanceRow, earlier: tuple[EarlierImage, ...]) -> tuple[EarlierImage, ...]:
    """Images of the current one's kind where there are any; one a day; not too many."""
    alike = [each for each in earlier if each.instance.sop_class_uid == current.sop_class_uid]
    images = alike or list(earlier)
    if any(each.linkage == _BODY_SITE for each in images):
        return tuple(images[:MAX_CANDIDATES])
    daily: dict[str, EarlierImage] = {}
    for each in images:
        day = each.instance.acquired_at[:_DATE] or each.instance.sop_instance_uid
        daily.setdefault(day, each)
    kept = list(daily.values())
    if len(kept) > MAX_TIME_POINTS - 1:
        kept = [*kept[: MAX_TIME_POINTS - 2], kept[-1]]
    return tuple(kept)


def days_since(first: str, moment: str) -> int | None:
    """Days from one ``YYYYMMDD...`` to another; None where one is no date.

    Examples
    --------
    >>> days_since("20250101090000", "20250201"), days_since("", "20250201")
    (31, None)
    """
    try:
        start, end = (dt.datetime.strptime(each[:_DATE], "%Y%m%d") for each in (first, moment))
    except ValueError:
        return None
    return (end - start).days
