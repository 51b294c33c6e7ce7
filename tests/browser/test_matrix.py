"""The table of ``docs/viewers.md`` is what the viewers show, and so are its pictures."""

import pytest

from tests.browser.matrix import KINDS, PICTURES, observe, table, table_of_page
from tests.servers import require

pytestmark = [pytest.mark.viewers, pytest.mark.timeout(900)]

LARGEST_PICTURE_BYTES = 200_000


@pytest.mark.parametrize("analysis", KINDS)
def test_viewers_show_what_the_page_says(analysis, tmp_path):
    require("Orthanc", "chromium", "chromedriver", "dsrdump", "dcmdump")
    rows = list(observe(tmp_path, tmp_path / "pictures", (analysis,)))
    of_page = [line for line in table_of_page().splitlines() if f"| `{analysis}` |" in line]
    assert table(rows).splitlines()[2:] == of_page


def test_each_line_of_the_page_has_a_small_picture():
    lines = table_of_page().splitlines()[2:]
    assert lines
    for line in lines:
        name = line.partition("](screenshots/")[2].partition(")")[0]
        assert 0 < (PICTURES / name).stat().st_size < LARGEST_PICTURE_BYTES
