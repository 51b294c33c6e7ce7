"""Errors of the model layer: ``ModelError`` and its kinds.

    ModelError
    ├── ManifestError      a manifest that is missing, incomplete or contradicts its weights
    ├── WeightsError       a weight file that cannot be loaded strictly
    ├── ImageError         an array that no model can read (wrong shape or type)
    ├── MeasurementError   a table of lesion measurements that contradicts itself
    ├── SlideError         a slide whose spacing or geometry allows no tiles
    └── OutputError        outputs of a model that its manifest does not promise

Messages carry names, shapes and digests, never a pixel or a patient's attribute.
"""


class ModelError(Exception):
    """A model, its manifest or its input is not usable."""


class ManifestError(ModelError):
    """The manifest is missing, incomplete or contradicts the weights beside it."""


class WeightsError(ModelError):
    """The weight file cannot be loaded strictly: it names the key, shape or digest at fault."""


class ImageError(ModelError):
    """The array is not an image that a model can read."""


class MeasurementError(ModelError):
    """A table of lesion measurements contradicts itself: it names the column, never a value."""


class SlideError(ModelError):
    """The slide's spacing is missing or implausible, or it is too coarse for the model."""


class OutputError(ModelError):
    """The model's outputs have the wrong shape or type, or are not finite."""
