"""dicom-microscopy-viewer, the library that draws in Slim, on a page of our own.

Slim itself is not published as a package. The page does what Slim does: it reads a series over
DICOMweb, lays a Parametric Map or a Segmentation over the slide, and takes the groups of a
Comprehensive 3D SR with a specimen as subject for regions with a list of their findings.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.browser.driver import Browser
from tests.browser.viewer_server import Package, viewer_server
from tests.servers import Orthanc, require

VIEWER = Package(
    name="dicom-microscopy-viewer",
    version="0.48.24",
    tarball_sha256="db1b675f5e3bc4aa4682b97d1a0e2020fff558b9efe6e16b9ec055604e17fa2b",
)
CLIENT = Package(
    name="dicomweb-client",
    version="0.11.3",
    tarball_sha256="cda90aae5843f974beaeaf9c191f238209e18b28a932b10af575df6d7320d891",
)
_PAGE = r"""<!doctype html><meta charset="utf-8"><title>Slide</title>
<link rel="icon" href="data:,">
<style>html, body { margin: 0; height: 100%; background: #202020; color: #eee;
  font: 13px sans-serif }
#slide { position: absolute; inset: 0 380px 0 0; background: #202020 }
#list { position: absolute; inset: 0 0 0 auto; width: 360px; overflow: auto; padding: 10px }
#list h2 { font-size: 14px; margin: 12px 0 4px; color: #ffd65a }
#list p { margin: 2px 0 }</style>
<div id="slide"></div><div id="list"></div>
<script src="/packages/dicom-microscopy-viewer-0.48.24/dist/dicomMicroscopyViewer.bundle.min.js">
</script><script src="/packages/dicomweb-client-0.11.3/build/dicomweb-client.js"></script><script>
const dmv = window.dicomMicroscopyViewer
const client = new window.DICOMwebClient.api.DICOMwebClient({ url: location.origin + '/dicom-web' })
const list = document.getElementById('list')
let viewer, frame
window.problems = []
const read = (study, series) => client.retrieveSeriesMetadata(
  { studyInstanceUID: study, seriesInstanceUID: series })
const wrap = (kind, sets) => sets.map(metadata => new dmv.metadata[kind]({ metadata }))
window.openSlide = async (study, series) => {
  const metadata = wrap('VLWholeSlideMicroscopyImage', await read(study, series))
  frame = metadata[0].FrameOfReferenceUID
  viewer = new dmv.viewer.VolumeImageViewer({ client, metadata, controls: [], preload: 1,
    errorInterceptor: error => { window.problems.push(String(error)); return error } })
  viewer.render({ container: document.getElementById('slide') })
}
window.showMap = async (study, series) => {
  viewer.addParameterMappings(wrap('ParametricMap', await read(study, series)))
  const found = viewer.getAllParameterMappings()
  found.forEach(each => viewer.showParameterMapping(each.uid))
  return found.map(each => [each.label, each.description])
}
window.showMask = async (study, series) => {
  viewer.addSegments(wrap('Segmentation', await read(study, series)))
  const found = viewer.getAllSegments()
  found.forEach(each => viewer.showSegment(each.uid))
  return found.map(each => [each.label, each.propertyType.CodeMeaning])
}
window.hideOverlays = () => {
  viewer.getAllParameterMappings().forEach(each => viewer.hideParameterMapping(each.uid))
  viewer.getAllSegments().forEach(each => viewer.hideSegment(each.uid))
}
const name = item => item.ConceptNameCodeSequence?.[0].CodeValue
const meaning = item => item.ConceptNameCodeSequence?.[0].CodeMeaning
const children = (item, code) => item.ContentSequence.filter(child => name(child) === code)
window.showReport = async (study, series) => {
  const [sr] = wrap('Comprehensive3DSR', await read(study, series))
  const subject = children(sr, '121024')[0]?.ConceptCodeSequence[0].CodeValue
  if (subject !== '121027') throw new Error('the subject is no specimen: Slim passes over it')
  const measurements = children(sr, '126010')[0]
  for (const group of children(measurements, '125007')) {
    const scoord = group.ContentSequence.find(child => child.ValueType === 'SCOORD3D')
    if (!scoord || scoord.ReferencedFrameOfReferenceUID !== frame) continue
    const flat = [...scoord.GraphicData], points = []
    for (let i = 0; i < flat.length; i += 3) points.push(flat.slice(i, i + 3))
    const region = new dmv.scoord3d.Polygon(
      { coordinates: points, frameOfReferenceUID: scoord.ReferencedFrameOfReferenceUID })
    const uid = children(group, '112040')[0].UID
    viewer.addROI(new dmv.roi.ROI({ uid, scoord3d: region, properties: {} }),
      { stroke: { color: [255, 0, 0, 1], width: 2 }, fill: { color: [255, 0, 0, 0] } })
    const value = item => item.ValueType === 'CODE' ? item.ConceptCodeSequence[0].CodeMeaning
      : [item.MeasuredValueSequence[0].NumericValue,
        item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue].join(' ')
    const lines = group.ContentSequence.filter(item => ['CODE', 'NUM'].includes(item.ValueType))
      .map(item => `${meaning(item)}: ${value(item)}`)
    const title = document.createElement('h2')
    title.textContent = children(group, '112039')[0].TextValue
    list.append(title, ...lines.map(line => {
      const p = document.createElement('p'); p.textContent = line; return p }))
  }
  return list.querySelectorAll('h2').length
}
window.ready = true
</script>"""


def ask(window: Browser, function: str, *arguments: str, timeout_s: float = 120.0) -> Any:
    """Call one of the page's functions, wait for it and return what it gives back.

    Raises
    ------
    AssertionError
        If it fails: the library then refused the object.
    """
    window.driver.set_script_timeout(timeout_s)
    answer = window.driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "Promise.resolve(window[arguments[0]](...arguments[1]))"
        ".then(value => done({value: value ?? null}), error => done({error: String(error)}))",
        function,
        list(arguments),
    )
    assert "error" not in answer, f"{function}: {answer['error']}"
    return answer["value"]


@contextlib.contextmanager
def slide_viewer(pacs: Orthanc) -> Iterator[str]:
    """Serve the page for the studies of `pacs`, and yield its URL."""
    require("Orthanc", "chromium", "chromedriver")
    roots = {f"/packages/{each.cached_as}/": each.folder().resolve() for each in (VIEWER, CLIENT)}
    # Where the library looks for its worker.
    roots["/static/js/"] = VIEWER.folder().resolve() / "dist" / "dynamic-import"

    def file(path: str) -> Path | bytes | None:
        if path == "/":
            return _PAGE.encode()
        for start, root in roots.items():
            found = (root / path.removeprefix(start)).resolve()
            if path.startswith(start) and found.is_file() and found.is_relative_to(root):
                return found
        return None

    with viewer_server(pacs, file) as url:
        yield f"{url}/"
