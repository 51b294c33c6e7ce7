"""What a clinician sees of our results in OHIF, by pixels and by the page's own elements."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread

from gateway.demo.samples import Kind, render
from gateway.wrap import wrap
from reports.encode import encode
from tests.browser.driver import Browser, Picture, browser
from tests.browser.ohif import ohif
from tests.servers import orthanc, wait_until
from tests.unit.reports.builders import (
    assessment,
    context,
    region,
    result,
    source,
)

pytestmark = [pytest.mark.viewers, pytest.mark.timeout(600)]
