"""Pluggable backbones: one call, whatever the file; other files are refused by name."""

import hashlib
import re
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

from models.architectures.backbones import load_backbone
from models.architectures.efficientnet_lite import EfficientNetLite
from models.architectures.panderm import PandermEncoder
from models.errors import ImageError, OutputError, WeightsError
from models.shapes import EfficientNetLiteShape, EncoderShape


class Net(nn.Module):
    def __init__(self, tail: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 32, 32)
        self.tail = tail or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.tail(self.conv(images).mean((2, 3)))
        return found


class Spatial(nn.Module):
    def forward(self, found: Tensor) -> Tensor:
        return found[:, :, None]


class Divide(nn.Module):
    def forward(self, found: Tensor) -> Tensor:
        return found / (found * 0)


def batch(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def export(path: Path, net: nn.Module, *, fixed: int | None = None, side: int = 224) -> Path:
    example = torch.zeros(fixed or 2, 3, side, side)
    shapes = None if fixed else ({0: torch.export.Dim("batch", min=1, max=64)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(net.eval(), (example,), dynamic_shapes=shapes), path)
    return path


def write_onnx(
    path: Path,
    net: Net,
    *,
    count: int | str = "batch",
    side: int | str = 224,
    inputs: int = 1,
    kind: int = TensorProto.FLOAT,
    tail: str = "Flatten",
) -> Path:
    """Convolution, global mean, then ``tail``: built by hand, so no exporter is needed."""
    weight = net.conv.weight.detach().numpy()
    bias = net.conv.bias.detach().numpy() if net.conv.bias is not None else np.zeros(5)
    element = helper.tensor_dtype_to_np_dtype(kind)
    nodes = [
        helper.make_node("Conv", ["images", "w", "b"], ["c"], strides=[32, 32]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node(tail, ["p"], ["embedding"]),
    ]
    names = ["images", *(f"more{i}" for i in range(inputs - 1))]
    shape = [count, 3, side, side]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, kind, shape) for name in names],
        [helper.make_tensor_value_info("embedding", kind, None)],
        [
            numpy_helper.from_array(weight.astype(element), "w"),
            numpy_helper.from_array(bias.astype(element), "b"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def net() -> Net:
    return Net().eval()


@pytest.mark.parametrize("fixed", [None, 2, 1])
def test_an_exported_program_answers_as_the_network(
    tmp_path: Path, net: Net, fixed: int | None
) -> None:
    path = export(tmp_path / "net.pt2", net, fixed=fixed)
    backbone, digest = load_backbone(f"export:{path}")
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert backbone.dim == 5
    with torch.no_grad():
        assert torch.allclose(backbone(batch()), net(batch()), atol=1e-6)
    assert backbone(batch(0)).shape == (0, 5)
    backbone.train()  # torch refuses this on the program itself; nobody should stumble over it
    assert backbone.eval()(batch(1)).shape == (1, 5)


@pytest.mark.parametrize("count", ["batch", 2, 1])
def test_an_onnx_network_answers_as_the_network(tmp_path: Path, net: Net, count: int | str) -> None:
    path = write_onnx(tmp_path / "net.onnx", net, count=count)
    backbone, digest = load_backbone(f"onnx:{path}")
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert backbone.dim == 5
    with torch.no_grad():
        assert torch.allclose(backbone(batch()), net(batch()), atol=1e-5)


def test_half_precision_onnx_is_fed_and_widened(tmp_path: Path, net: Net) -> None:
    path = write_onnx(tmp_path / "net.onnx", net, kind=TensorProto.FLOAT16)
    backbone, _ = load_backbone(f"onnx:{path}")
    found = backbone(batch())
    assert found.dtype == torch.float32
    with torch.no_grad():
        assert torch.allclose(found, net(batch()), atol=1e-2)


@pytest.mark.parametrize("variant", ["lite0", "lite1"])
def test_the_compact_network_is_read_whatever_its_size(tmp_path: Path, variant: str) -> None:
    network = EfficientNetLite(EfficientNetLiteShape(variant=variant)).eval()
    state = {k: v.half() if v.ndim >= 2 else v for k, v in network.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    backbone, digest = load_backbone(f"compact:{tmp_path / 'weights.safetensors'}")
    assert backbone.shape.variant == variant
    assert backbone.digest == digest
    assert not backbone.training
    network.load_state_dict({k: v.float() for k, v in state.items() if v.ndim >= 2}, strict=False)
    with torch.no_grad():
        assert torch.equal(backbone(batch(1)), network(batch(1)))


def test_a_panderm_file_is_a_backbone(tmp_path: Path) -> None:
    network = PandermEncoder(EncoderShape(dim=64, depth=1, heads=1)).eval()
    torch.save(network.published_state(), tmp_path / "bb.pth")
    backbone, digest = load_backbone(f"panderm:{tmp_path / 'bb.pth'}")
    assert (backbone.dim, backbone.digest) == (64, digest)
    with torch.inference_mode():
        assert torch.equal(backbone(batch(1)), network(batch(1)))


@pytest.mark.parametrize("spec", ["", "compact", "compact:", "resnet:x", "x.onnx", ":x"])
def test_an_unknown_kind_is_refused(spec: str) -> None:
    with pytest.raises(WeightsError, match="no backbone"):
        load_backbone(spec)


@pytest.mark.parametrize("kind", ["compact", "panderm", "onnx", "export"])
@pytest.mark.parametrize("content", [None, b"", b"rubbish" * 999, b"PK\x03\x04" + bytes(99)])
def test_a_file_that_is_no_network_is_refused(
    tmp_path: Path, kind: str, content: bytes | None
) -> None:
    path = tmp_path / "x.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape("x.bin")):
        load_backbone(f"{kind}:{path}")
    with pytest.raises(WeightsError, match="directory"):
        load_backbone(f"{kind}:{tmp_path}")


def test_truncated_networks_are_refused(tmp_path: Path, net: Net) -> None:
    for kind, path in (
        ("onnx", write_onnx(tmp_path / "net.onnx", net)),
        ("export", export(tmp_path / "net.pt2", net)),
    ):
        path.write_bytes(path.read_bytes()[:-4000])
        with pytest.raises(WeightsError, match=path.name):
            load_backbone(f"{kind}:{path}")


def test_another_input_is_refused_at_load(tmp_path: Path, net: Net) -> None:
    small = PandermEncoder(EncoderShape(dim=64, depth=1, heads=1, image_size=32))
    torch.save(small.published_state(), tmp_path / "small.pth")
    specs = {
        f"export:{export(tmp_path / 'a.pt2', net, side=64)}": "64, 64",
        f"onnx:{write_onnx(tmp_path / 'b.onnx', net, side=96)}": "96, 96",
        f"onnx:{write_onnx(tmp_path / 'c.onnx', net, inputs=2)}": "2 inputs",
        f"onnx:{write_onnx(tmp_path / 'd.onnx', net, kind=TensorProto.DOUBLE)}": "d.onnx",
        f"panderm:{tmp_path / 'small.pth'}": "32 px",
    }
    for spec, message in specs.items():
        with pytest.raises(WeightsError, match=message):
            load_backbone(spec)


def test_another_output_is_refused_at_load(tmp_path: Path, net: Net) -> None:
    specs = {
        f"export:{export(tmp_path / 'a.pt2', Net(Spatial()))}": r"\(2, 5, 1\)",
        f"export:{export(tmp_path / 'b.pt2', Net(Divide()))}": "not finite",
        f"onnx:{write_onnx(tmp_path / 'c.onnx', net, tail='Relu')}": r"\(2, 5, 1, 1\)",
    }
    for spec, message in specs.items():
        with pytest.raises(OutputError, match=message):
            load_backbone(spec)


def test_other_images_are_refused(tmp_path: Path, net: Net) -> None:
    backbone, _ = load_backbone(f"export:{export(tmp_path / 'net.pt2', net)}")
    for images in (torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 224, 224, dtype=torch.uint8)):
        with pytest.raises(ImageError, match="takes"):
            backbone(images)
