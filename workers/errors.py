"""Errors of the worker layer: ``WorkerError`` and its kinds.

    WorkerError
    ├── RegistryError       an analysis module that cannot be used; stops the start of the process
    ├── Undecodable         an image whose pixels cannot be read; its siblings go on
    ├── NothingDecodable    no image of the study could be read: the work item is rejected
    ├── InstanceMissing     a received file is not in the spool any more
    ├── StorageUnavailable  a disk that does not answer or is full: passing
    ├── PriorsUnavailable   the PACS that may hold earlier images does not answer: passing
    ├── ModelUnavailable    the model server does not answer or the model is not ready: passing
    ├── ModelChanged        another model version took over while a study was analysed: passing
    ├── BadModelOutput      the model answered with something that is no result
    ├── DemonstrationModel  the model has no real evidence, and the site has not allowed such models
    ├── EncoderMismatch     the encoder in service is not the one that a model was trained with
    ├── DestinationGone     a rule sends results to what is not configured any more: passing
    └── LimitExceeded       an attempt took longer, or more memory, than its analysis may

Messages name analyses, models, shapes and states, never a patient's attribute or a UID. They are
shown to people as the reason of a work item: they must be readable.
"""


class WorkerError(Exception):
    """A step of a work item cannot be done."""


class RegistryError(WorkerError):
    """An analysis module cannot be used; the message names the module and what is wrong."""


class Undecodable(WorkerError):
    """The pixels of one instance cannot be read; the message is the readable reason."""


class NothingDecodable(WorkerError):
    """No image of the study could be read; the message joins the reasons."""


class InstanceMissing(WorkerError):
    """A received file is not in the spool any more."""


class StorageUnavailable(WorkerError):
    """The spool or the results folder does not answer, or the disk is full."""


class PriorsUnavailable(WorkerError):
    """The PACS that may hold earlier images of a lesion does not answer."""


class ModelUnavailable(WorkerError):
    """The model server does not answer, or the model is not ready.

    Parameters
    ----------
    reason
        The readable reason.
    model
        Which model of the server; empty where that is not known.
    """

    def __init__(self, reason: str = "", *, model: str = "") -> None:
        super().__init__(*([reason] if reason else []))
        self.model = model


class ModelChanged(WorkerError):
    """Another model version took over while a study was analysed; nothing was kept."""


class BadModelOutput(WorkerError):
    """The model's answer or its manifest contradicts its contract."""


class DemonstrationModel(WorkerError):
    """The model's evidence is simulated or absent, and demonstration models are not switched on."""


class EncoderMismatch(WorkerError):
    """The encoder in service is not the one whose embeddings a model was trained on."""


class DestinationGone(WorkerError):
    """A rule sends results to a destination that is not configured any more."""


class LimitExceeded(WorkerError):
    """An attempt took longer, or more memory, than its analysis may."""
