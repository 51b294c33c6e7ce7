"""``change_detection``: each followed lesion of a study against its earlier images. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from gateway.store.values import EarlierImage, InstanceRow
from models.change.pair import ChangeManifest
from models.change.result import (
    MIN_SEQUENCE,
    ChangeResult,
    Comparison,
    LesionChange,
    NotAssessed,
    Reason,
    TimePoint,
)
from models.diagnosis import DiagnosisManifest
from workers.analysis import Conclusion, Limits, Match, Tools
from workers.change.comparing import Pair, Side, judge, kept, prepare
from workers.change.images import MODEL as JUDGE
from workers.change.images import LesionImage, read_images
from workers.change.lesions import (
    MAX_LESIONS,
    Followed,
    current_images,
    days_since,
    followed,
    is_followed,
)
from workers.errors import ModelChanged, NothingDecodable
from workers.photographs import DERMOSCOPIC_PHOTOGRAPHY, photographs
from workers.study import Study
from workers.tbp.detect import tile_instances

_NO_PRIOR = NotAssessed(reason=Reason.NO_PRIOR, text="no earlier image of this lesion was found")


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """One lesion with its pairs, before the network has spoken."""

    points: tuple[TimePoint, ...]
    primary: int | None
    """Number of the pair that the result is about; None without an earlier image."""
    sequence: tuple[int, ...]
    """Numbers of the pairs of the sequence."""
    not_assessed: NotAssessed | None


class ChangeDetection:
    """Change, growth and first suspicious time point; see ``models.change``."""

    name = "change_detection"
    manifest_type = ChangeManifest
    limits = Limits(time_s=1800, memory_bytes=4 * 2**30, concurrency=16, priority=5)

    def match(self, study: Study) -> Match:
        """Return the photographs of lesions that are tracked or have earlier images at the site.

        The PACS is not asked here: whether there is anything earlier shows while it runs.
        """
        tiles = set(tile_instances(study))  # the screening's; a tile is no follow-up image
        images = [
            each for each in photographs(study.instances) if is_followed(each) and each not in tiles
        ]
        dermoscopic = [e for e in images if e.sop_class_uid == DERMOSCOPIC_PHOTOGRAPHY]
        if not images:
            return Match(
                instances=(),
                reason="no photograph of a tracked lesion (Tracking UID or Tracking ID), and no "
                "earlier image of the same body site in the record",
            )
        if len(current_images(images)) > MAX_LESIONS:
            images = dermoscopic
            if not images or len(current_images(images)) > MAX_LESIONS:
                return Match(
                    instances=(),
                    reason=f"more than {MAX_LESIONS} tracked photographs: a study of lesion tiles",
                )
        lesions = len(current_images(images))
        return Match(
            instances=tuple(images),
            reason=f"{len(images)} photographs of {lesions} lesions that can be followed",
        )

    def run(self, study: Study, tools: Tools) -> Conclusion:
        """Compare every followed lesion with its earlier images."""
        manifest: ChangeManifest = tools.served.manifest
        tools.encoder.require(manifest.encoder_digest)
        judging = tools.models.identify(JUDGE, DiagnosisManifest)
        current = current_images(self.match(study).instances)
        known = tools.priors.earlier(study.id, current, tools.checkpoint)
        lesions = followed(current, known.of)
        own = {each.sop_instance_uid for each in current}
        images = read_images(_all(lesions), judging, tools, own=own)
        if all(images[each.sop_instance_uid].source is None for each in current):
            raise NothingDecodable("no photograph of a followed lesion could be read")
        lesions = tuple(
            each for each in lesions if images[each.current.sop_instance_uid].source is not None
        )
        pairs: list[Pair] = []
        chains = []
        for lesion in lesions:
            tools.checkpoint()
            first = len(pairs)
            chains.append(_chain(lesion, images, pairs, manifest, known.unknown))
            pairs[first:] = [kept(pair, tools) for pair in pairs[first:]]
        compared = judge(pairs, manifest, tools)
        if tools.models.identify(JUDGE, DiagnosisManifest).digest != judging.digest:
            raise ModelChanged(f"the model {JUDGE} was replaced while a study was analysed")
        result = ChangeResult(
            model=manifest.identity(),
            segmentation=judging.manifest.identity(),
            encoder=tools.encoder.identity,
            threshold=manifest.threshold,
            threshold_meaning=manifest.threshold_meaning,
            operating_point=judging.manifest.operating_point,
            lesions=tuple(_lesion(chain, compared) for chain in chains),
        )
        return _conclude(result, images, unread=len(current) - len(lesions))


def _all(lesions: Sequence[Followed]) -> tuple[InstanceRow, ...]:
    """Every image once, the study's own first."""
    rows = [each.current for each in lesions]
    rows += [image.instance for each in lesions for image in each.earlier]
    return tuple({row.sop_instance_uid: row for row in rows}.values())


def _chain(
    lesion: Followed,
    images: dict[str, LesionImage],
    pairs: list[Pair],
    manifest: ChangeManifest,
    unknown: str,
) -> _Chain:
    """Prepare the pairs of one lesion; what is earlier than nothing says why."""
    oldest_first = [each for each in reversed(lesion.earlier) if _is_readable(each, images)]
    first = (oldest_first[0].instance if oldest_first else lesion.current).acquired_at
    sides = [_side(each.instance, images, first, each) for each in oldest_first]
    now = _side(lesion.current, images, first, None)
    if not sides:
        missing = _NO_PRIOR
        if unknown:
            text = f"earlier images could not be asked for: {unknown}"
            missing = NotAssessed(reason=Reason.PRIORS_UNKNOWN, text=text)
        elif lesion.earlier:
            missing = NotAssessed(
                reason=Reason.UNDECODABLE, text="no earlier image of this lesion can be read"
            )
        return _Chain(points=(now.point,), primary=None, sequence=(), not_assessed=missing)
    if lesion.is_candidate:
        return _candidates(sides, now, pairs, manifest)
    return _followed(sides, now, pairs, manifest)


def _is_readable(earlier: EarlierImage, images: dict[str, LesionImage]) -> bool:
    return images[earlier.instance.sop_instance_uid].source is not None


def _side(
    row: InstanceRow, images: dict[str, LesionImage], first: str, earlier: EarlierImage | None
) -> Side:
    image = images[row.sop_instance_uid]
    point = TimePoint(
        sop_instance_uid=row.sop_instance_uid,
        days=days_since(first, row.acquired_at),
        linkage=None if earlier is None else earlier.linkage,  # type: ignore[arg-type]
        region=image.region,
        malignancy_prob=image.malignancy_prob,
        is_suspicious=image.is_suspicious,
        problem=image.problem,
    )
    return Side(image=image, point=point)


def _candidates(
    sides: list[Side], now: Side, pairs: list[Pair], manifest: ChangeManifest
) -> _Chain:
    """Take the newest candidate that the registration confirms."""
    tried = []
    for side in reversed(sides):
        pair = prepare(side, now, manifest, needs_good=True, with_frames=True)
        tried.append(pair)
        if pair.is_prepared:
            break
    chosen = tried[-1] if tried[-1].is_prepared else tried[0]
    pairs.append(chosen)
    return _Chain(
        points=(chosen.comparison.before, now.point),
        primary=len(pairs) - 1,
        sequence=(),
        not_assessed=chosen.comparison.not_assessed,
    )


def _followed(sides: list[Side], now: Side, pairs: list[Pair], manifest: ChangeManifest) -> _Chain:
    """Compare with the newest earlier image, else with an older one; and the whole sequence."""
    every = [*sides, now]
    steps: list[int] = []
    for before, after in pairwise(every):
        steps.append(len(pairs))
        is_last = after is now
        pairs.append(prepare(before, after, manifest, needs_good=False, with_frames=is_last))
    primary = steps[-1]
    baseline: int | None = None
    for side in reversed(sides[:-1]):
        is_baseline = side is sides[0]
        if pairs[primary].is_prepared and not is_baseline:
            continue
        pair = prepare(
            side, now, manifest, needs_good=False, with_frames=not pairs[primary].is_prepared
        )
        pairs.append(pair)
        if is_baseline:
            baseline = len(pairs) - 1
        if pair.is_prepared and not pairs[primary].is_prepared:
            primary = len(pairs) - 1
    is_sequence = len(every) >= MIN_SEQUENCE
    sequence = (*steps, *(() if baseline is None else (baseline,))) if is_sequence else ()
    return _Chain(
        points=tuple(side.point for side in every),
        primary=primary,
        sequence=sequence,
        not_assessed=pairs[primary].comparison.not_assessed,
    )


def _lesion(chain: _Chain, compared: list[Comparison]) -> LesionChange:
    comparison = None if chain.primary is None else compared[chain.primary]
    return LesionChange(
        time_points=chain.points,
        comparison=comparison,
        # The frames are for the comparison alone: each is a picture's worth of memory.
        sequence=tuple(replace(compared[number], frames=None) for number in chain.sequence),
        not_assessed=chain.not_assessed,
    )


def _conclude(result: ChangeResult, images: dict[str, LesionImage], *, unread: int) -> Conclusion:
    assessed = [each for each in result.lesions if each.not_assessed is None]
    changed = sum(bool(each.comparison and each.comparison.is_changed) for each in assessed)
    total = len(result.lesions) + unread
    skipped = total - len(assessed)
    reasons = [each.not_assessed.text for each in result.lesions if each.not_assessed is not None]
    if unread:
        reasons.append(f"{unread} images could not be read at all")
    reason = ""
    if skipped:
        share = "not assessed" if not assessed else f"{skipped} of {total} lesions not assessed"
        reason = f"{share}: {'; '.join(dict.fromkeys(reasons))}"
    summary: dict[str, Any] = {"lesions": total, "changed": changed, "not_assessed": skipped}
    probabilities = [
        each.comparison.change_prob
        for each in assessed
        if each.comparison is not None and each.comparison.change_prob is not None
    ]
    if probabilities:
        summary["change_probability"] = round(max(probabilities), 4)
    if assessed:
        one = "changed" if changed else "stable"
        share = f"{changed} of {len(assessed)} lesions changed"
        summary["headline"] = one if len(assessed) == 1 else share
    return Conclusion(
        result=result,
        sources=_sources(result, images),
        is_assessed=bool(assessed),
        reason=reason,
        summary=summary,
    )


def _sources(result: ChangeResult, images: dict[str, LesionImage]) -> tuple[Any, ...]:
    """The images that the result speaks of, the study's own first."""
    uids = [each.current.sop_instance_uid for each in result.lesions]
    uids += [p.sop_instance_uid for each in result.lesions for p in each.time_points]
    found = (images[uid].source for uid in dict.fromkeys(uids))
    return tuple(source for source in found if source is not None)


ANALYSIS = ChangeDetection()
