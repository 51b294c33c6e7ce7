import pytest
import torch
from manifests import manifest
from safetensors.torch import save

from models.architectures.diagnosis import ServedDiagnosis
from models.errors import ManifestError, WeightsError
from models.weights import digest_of, load_served_diagnosis


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    spec = manifest()
    served = ServedDiagnosis(spec.shape(), mean=spec.input.mean, std=spec.input.std, flips=False)
    return {name: value.contiguous() for name, value in served.state_dict().items()}


def test_weights_of_the_right_digest_are_loaded() -> None:
    state = tensors()
    weights = save(state)
    served = load_served_diagnosis(weights, manifest(digest=digest_of(weights)))
    assert not served.training
    assert all(torch.equal(value, state[name]) for name, value in served.state_dict().items())


def test_half_precision_is_widened() -> None:
    state = {
        k: v.half() if v.ndim >= 2 and v.is_floating_point() else v for k, v in tensors().items()
    }
    weights = save(state)
    served = load_served_diagnosis(weights, manifest(digest=digest_of(weights)))
    assert {p.dtype for p in served.parameters()} == {torch.float32}


def test_one_changed_byte_is_refused() -> None:
    weights = bytearray(save(tensors()))
    spec = manifest(digest=digest_of(bytes(weights)))
    weights[-1] ^= 1
    with pytest.raises(ManifestError, match="digest"):
        load_served_diagnosis(bytes(weights), spec)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "nan", "garbage", "empty"])
def test_weights_that_do_not_fit_are_refused(fault: str) -> None:
    state = tensors()
    if fault == "missing":
        del state["network.backbone.encoder.cls_token"]
    elif fault == "extra":
        state["surprise"] = torch.zeros(1)
    elif fault == "shape":
        state["network.classifier.bias"] = torch.zeros(9)
    elif fault == "nan":
        state["network.classifier.bias"][0] = float("nan")
    weights = {"garbage": b"not weights", "empty": b""}.get(fault) or (
        b"" if fault == "empty" else save(state)
    )
    with pytest.raises(WeightsError):
        load_served_diagnosis(weights, manifest(digest=digest_of(weights)))
