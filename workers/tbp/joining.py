"""Which measurements belong to which tile. Pure.

A row is joined by the first of these that it gives: SOP Instance UID of the tile, Tracking UID,
the site's lesion identifier (the tile's Tracking ID), Instance Number. The first two are unique
everywhere; the others only within a patient, so a row of a patient with another Patient ID is
refused. What cannot be told for certain is not joined: the tile is then judged by itself, and the
report says for how many.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.tbp.remarks import Remark
from workers.tbp.rows import LesionRow


@dataclass(frozen=True, kw_only=True)
class TileIdentity:
    """What a tile's header says of the lesion it shows."""

    sop_instance_uid: str
    tracking_uid: str
    """Empty where the header does not say."""
    tracking_id: str
    """Empty where the header does not say."""
    instance_number: int | None
    patient_id: str


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """One lesion with what is known of it."""

    lesion_id: str
    """Unique within the study."""
    tile: int | None
    """Number of its tile; None for a lesion of which only measurements came."""
    values: Mapping[str, object] | None
    """Measurements by the device's name; None where none came."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """All lesions of a study, those with a tile first and in the order of the tiles."""

    lesions: tuple[Lesion, ...]
    remarks: tuple[Remark, ...]


def join(tiles: Sequence[TileIdentity], sources: Sequence[Sequence[LesionRow]]) -> Joined:
    """Bring tiles and measurements together.

    Parameters
    ----------
    tiles
        In the order of the study.
    sources
        Rows of each kind of source, the preferred kind first: for each tile the first kind that
        knows it counts, and nothing is mixed.
    """
    index = _Index(tiles)
    counts: Counter[str] = Counter()
    by_tile: dict[int, Mapping[str, object]] = {}
    alone: list[LesionRow] = []
    for rows in sources:
        found, unjoined = _of_one_source(index, rows, counts)
        for tile, values in found.items():
            by_tile.setdefault(tile, values)
        # A lesion that an earlier kind of source has told of without a tile is not told twice.
        known = {_name(row) for row in alone}
        alone += [row for row in unjoined if not _name(row) or _name(row) not in known]
    names = _Names()
    lesions = [
        Lesion(
            lesion_id=names.unique(_tile_name(tile, number)),
            tile=number,
            values=by_tile.get(number),
        )
        for number, tile in enumerate(tiles)
    ]
    lesions += [
        Lesion(lesion_id=names.unique(_name(row)), tile=None, values=row.values) for row in alone
    ]
    return Joined(lesions=tuple(lesions), remarks=_remarks(index, counts))


class _Index:
    """Tiles by what rows may call them."""

    def __init__(self, tiles: Sequence[TileIdentity]) -> None:
        self.patient_ids = {tile.patient_id for tile in tiles}
        self.by_sop_instance_uid = {tile.sop_instance_uid: n for n, tile in enumerate(tiles)}
        self.by_tracking_uid: dict[str, list[int]] = defaultdict(list)
        self.by_tracking_id: dict[str, list[int]] = defaultdict(list)
        self.by_instance_number: dict[int, list[int]] = defaultdict(list)
        for number, tile in enumerate(tiles):
            if tile.tracking_uid:
                self.by_tracking_uid[tile.tracking_uid].append(number)
            if tile.tracking_id:
                self.by_tracking_id[tile.tracking_id.casefold()].append(number)
            if tile.instance_number is not None:
                self.by_instance_number[tile.instance_number].append(number)

    def shared(self) -> int:
        """Tiles that share their tracking identifier with another."""
        groups = (*self.by_tracking_uid.values(), *self.by_tracking_id.values())
        return len({number for group in groups if len(group) > 1 for number in group})

    def named(self, row: LesionRow) -> tuple[list[int], bool]:
        """Tiles that a row names, and whether by an identifier that is unique everywhere."""
        if row.sop_instance_uid:
            tile = self.by_sop_instance_uid.get(row.sop_instance_uid)
            # Not by anything weaker: the row may be that of an earlier visit.
            return [] if tile is None else [tile], True
        if row.tracking_uid:
            return self.by_tracking_uid.get(row.tracking_uid, []), True
        if row.lesion_id:
            return self.by_tracking_id.get(row.lesion_id.casefold(), []), False
        return self.by_instance_number.get(row.instance_number or 0, []), False


def _of_one_source(
    index: _Index, rows: Sequence[LesionRow], counts: Counter[str]
) -> tuple[dict[int, Mapping[str, object]], list[LesionRow]]:
    """Values by tile, and the rows of lesions without a tile."""
    by_tile: dict[int, list[LesionRow]] = defaultdict(list)
    alone: dict[str, list[LesionRow]] = defaultdict(list)
    for row in rows:
        if not row.has_identifier:
            counts["NO_IDENTIFIER"] += 1
            continue
        tiles, is_certain = index.named(row)
        is_foreign = row.patient_id != "" and row.patient_id not in index.patient_ids
        if is_foreign and not is_certain:
            counts["OTHER_PATIENT"] += 1
        elif len(tiles) == 1:
            by_tile[tiles[0]].append(row)
        elif tiles:
            counts["AMBIGUOUS"] += 1
        else:
            alone[_name(row)].append(row)
    joined = {
        tile: values
        for tile, same in by_tile.items()
        if (values := _agreed(same, counts)) is not None
    }
    return joined, [same[0] for same in alone.values() if _agreed(same, counts) is not None]


def _agreed(rows: Sequence[LesionRow], counts: Counter[str]) -> Mapping[str, object] | None:
    """The values of several rows of one lesion; None when they differ."""
    first, *others = rows
    if any(not _is_same(first.values, other.values) for other in others):
        counts["ROWS_DIFFER"] += 1
        return None
    counts["DUPLICATE_ROW"] += len(others)
    return first.values


def _is_same(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    # By their text: nan differs from itself.
    return {k: str(v) for k, v in one.items()} == {k: str(v) for k, v in other.items()}


def _name(row: LesionRow) -> str:
    number = "" if row.instance_number is None else f"Tile {row.instance_number}"
    return row.lesion_id or row.tracking_uid or number or row.sop_instance_uid


def _tile_name(tile: TileIdentity, number: int) -> str:
    if tile.tracking_id:
        return tile.tracking_id
    return f"Tile {number + 1 if tile.instance_number is None else tile.instance_number}"


class _Names:
    """Gives every lesion a name of its own."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._times: Counter[str] = Counter()

    def unique(self, name: str) -> str:
        """Return the name, numbered when it is taken."""
        candidate = name
        while candidate in self._taken:
            self._times[name] += 1
            candidate = f"{name} ({self._times[name] + 1})"
        self._taken.add(candidate)
        return candidate


def _remarks(index: _Index, counts: Counter[str]) -> tuple[Remark, ...]:
    shared, ambiguous = index.shared(), counts["AMBIGUOUS"]
    texts = {
        "NO_IDENTIFIER": "{} rows of measurements name no lesion and were not used",
        "OTHER_PATIENT": "{} rows of measurements belong to another patient and were not used",
        "DUPLICATE_ROW": "{} rows of measurements repeat another and count once",
        "ROWS_DIFFER": "{} lesions have several rows of measurements that differ; none was used",
    }
    remarks = []
    if shared:
        text = f"{shared} tiles share a tracking identifier; each was judged by itself"
        if ambiguous:
            text += f", and {ambiguous} rows of measurements that name only it were not used"
        remarks.append(Remark(code="DUPLICATE_ID", text=text))
    elif ambiguous:
        text = f"{ambiguous} rows of measurements name several tiles and were not used"
        remarks.append(Remark(code="DUPLICATE_ID", text=text))
    for code, text in texts.items():
        if counts[code]:
            remarks.append(Remark(code=code, text=text.format(counts[code])))
    return tuple(remarks)
