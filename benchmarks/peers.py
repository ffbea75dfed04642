"""Other libraries doing the same work: the feature maps of the same levels, with the same weights, of the same images.

All in one process, in turn; times are relative to raw timm's ``features_only`` (transformers' backbone for DINOv3) in
the same round. Before anything is timed, the maps are compared: off is the worst level's root mean square of the
difference, relative. A library that cannot do the work is a row that says why.

    python benchmarks/peers.py [--device cuda]

Peers that are not installed are rows, too: ``pip install --group peers`` installs them.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
import torch
from results import Table, options, reporting
from timing import Spread, in_turn, ratio, stopwatch
from torch import Tensor, nn

from autobackbone import export_onnx, optimize_for_inference

Model = Callable[[Tensor], object]
REFERENCE = "raw timm, or transformers for DINOv3"
SAME = 0.1  # off by more, they are other maps
RANDOM = "random weights of its own"


@dataclass(frozen=True)
class Work:
    """What is to be done: maps of an architecture, in the models of the library and of ours."""

    name: str
    raw: nn.Module
    ours: nn.Module
    images: Tensor
    folder: Path

    @property
    def indices(self) -> tuple[int, ...]:
        """The levels, as timm counts them."""
        return tuple(level.index for level in self.ours.levels)


@dataclass
class Side:
    """A library that is set to work."""

    label: str
    call: Callable[[], object]
    off: float | None
    note: str | None = None


def _optimized(work: Work) -> Model:
    return optimize_for_inference(work.ours)


def _optimized_bfloat16(work: Work) -> Model:
    fast = optimize_for_inference(work.ours, dtype="bfloat16")
    return lambda x: fast(x.bfloat16())


def _timm_backbone(work: Work) -> Model:
    from transformers import AutoBackbone, TimmBackboneConfig

    _only_timm(work)
    config = TimmBackboneConfig(backbone=work.name, use_pretrained_backbone=False, out_indices=list(work.indices))
    backbone = AutoBackbone.from_config(config).eval()
    [inner] = backbone.children()
    inner.load_state_dict(work.raw.state_dict())
    return backbone


def _native_backbone(work: Work) -> Model:
    import transformers

    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "resnet50": ("ResNetConfig", {}),
        "convnext_tiny": ("ConvNextConfig", {"hidden_sizes": [96, 192, 384, 768]}),  # its default is no list
        "swin_tiny_patch4_window7_224": ("SwinConfig", {}),
    }
    if work.name not in kinds:
        msg = "transformers has no backbone of its own for it"
        raise LookupError(msg)
    kind, arguments = kinds[work.name]
    config = getattr(transformers, kind)(out_indices=[1, 2, 3, 4], **arguments)
    return transformers.AutoBackbone.from_config(config).eval()


def _torchvision(work: Work) -> Model:
    import torchvision
    from torchvision.models.feature_extraction import create_feature_extractor

    nodes = {
        "resnet50": ("resnet50", ["relu", "layer1", "layer2", "layer3", "layer4"]),
        "efficientnet_b0": ("efficientnet_b0", [f"features.{i}" for i in (1, 2, 3, 5, 7)]),
        "convnext_tiny": ("convnext_tiny", [f"features.{i}" for i in (1, 3, 5, 7)]),
        "swin_tiny_patch4_window7_224": ("swin_t", [f"features.{i}" for i in (1, 3, 5, 7)]),
    }
    if work.name not in nodes:
        msg = "torchvision does not have it with these levels"
        raise LookupError(msg)
    name, layers = nodes[work.name]
    extractor = create_feature_extractor(torchvision.models.get_model(name, weights=None).eval(), layers)
    copy_in_order(work.ours, extractor)
    return extractor


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Copy tensors to a network that names them otherwise: the first of a number of elements to the first of it, etc.

    Whether that was right, the maps tell.
    """
    for kind in ("named_parameters", "named_buffers"):
        left: dict[int, list[Tensor]] = {}
        for _, tensor in getattr(source, kind)():
            left.setdefault(tensor.numel(), []).append(tensor.detach())
        for _, tensor in getattr(target, kind)():
            if tensor.is_floating_point() and left.get(tensor.numel()):
                tensor.data.copy_(left[tensor.numel()].pop(0).reshape(tensor.shape))


def _smp(work: Work) -> Model:
    import segmentation_models_pytorch as smp

    _only_timm(work)
    encoder = smp.encoders.get_encoder(f"tu-{work.name}", depth=5, weights=None).eval()
    encoder.model.load_state_dict(work.raw.state_dict())
    return lambda x: encoder(x)[-len(work.ours.levels) :]  # before them: the images, and a map without channels


def _autotimm(work: Work) -> Model:
    import autotimm

    _only_timm(work)
    config = autotimm.FeatureBackboneConfig(work.name, pretrained=False, out_indices=work.indices)
    backbone = autotimm.create_feature_backbone(config).eval()
    backbone.load_state_dict(work.raw.state_dict())
    return backbone


def _lightly_train(work: Work) -> Model:
    import lightly_train  # noqa: F401 - sets up what its modules need
    from lightly_train._models.package_helpers import get_wrapped_model

    _only_timm(work)
    wrapped = get_wrapped_model(f"timm/{work.name}", num_input_channels=3, load_weights=False).eval()
    state = {key.removeprefix("body.model."): value for key, value in work.ours.state_dict().items()}
    wrapped.get_model().load_state_dict(state, strict=False)
    return lambda x: [wrapped.forward_features(x)["features"]]


def _onnxruntime(work: Work) -> Model:
    import onnxruntime

    if work.images.is_cuda:
        msg = "on the CPU here"
        raise LookupError(msg)
    path = work.folder / f"{work.name}.onnx"
    export_onnx(work.ours, path)
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, session_options, providers=["CPUExecutionProvider"])
    return lambda x: [torch.from_numpy(y) for y in session.run(None, {"images": x.numpy()})]


def _only_timm(work: Work) -> None:
    if work.name not in models.TIMM:
        msg = "timm has no model with these weights"
        raise LookupError(msg)


PEERS: dict[str, tuple[Callable[[Work], Model], str]] = {
    "autobackbone": (lambda work: work.ours, ""),
    "autobackbone, optimized": (_optimized, ""),
    "autobackbone, optimized, bfloat16": (_optimized_bfloat16, ""),
    "transformers, TimmBackbone": (_timm_backbone, ""),
    "transformers, its own backbone": (_native_backbone, RANDOM),
    "torchvision, create_feature_extractor": (_torchvision, ""),
    "segmentation_models_pytorch, tu- encoder": (_smp, ""),
    "AutoTimm": (_autotimm, ""),
    "lightly-train, wrapper": (_lightly_train, "after the final norm, if there is one"),
    "onnxruntime, file of export_onnx": (_onnxruntime, ""),
}
"""What makes the model of each library, and what is to be known of its maps."""


def main() -> None:
    """Measure, print, and write."""
    parser = options(__doc__, "cpu", "cuda")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each library")
    parser.add_argument("--batch", type=int, default=4, help="images")
    parser.add_argument("--only", nargs="+", choices=models.ALL, default=models.ALL, help="architectures")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.batch = 2, 1
    with reporting("peers", args) as report, tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        columns = {
            "architecture": "",
            "library": "",
            "time, of raw": ".3f",
            "images/s": ".1f",
            "off": ".0e",
            "note": "",
        }
        table = report.table(f"Batches of {args.batch}", columns)
        for name in args.only:
            raw, ours = (model.to(args.device) for model in models.theirs_and_ours(name))
            compare(table, Work(name, raw, ours, models.images(args.batch, device=args.device), Path(folder)), args)


def compare(table: Table, work: Work, args: Any) -> None:
    """Measure every library that can do the work, in turn."""
    expected = work.ours(work.images)
    sides, failures = [side(REFERENCE, work.raw, work.images, expected)], []
    for label, (make, note) in PEERS.items():
        try:
            with torch.inference_mode(mode=False), torch.no_grad():
                model = make(work)
            if isinstance(model, nn.Module):
                model.to(args.device)
            sides.append(side(label, model, work.images, expected, note))
        except Exception as err:  # noqa: BLE001 - a row, whatever another library raises
            failures.append((label, reason(err)))
    times = in_turn({each.label: stopwatch(each.call, args.device) for each in sides}, args.rounds)
    for each in sides:
        rate = Spread.of([len(work.images) / seconds for seconds in times[each.label]])
        table.add(work.name, each.label, ratio(times[each.label], times[REFERENCE]), rate, each.off, each.note)
    for label, why in failures:
        table.add(work.name, label, None, None, None, why)


def side(label: str, model: Model, x: Tensor, expected: list[Tensor], note: str = "") -> Side:
    """Set a library to work, and compare its maps with the last of ours; there may be fewer."""
    outputs = models.maps(model(x))
    last = expected[-len(outputs) :]
    shapes = [tuple(y.shape[1:]) for y in outputs]
    outputs = [models.nchw(y, e) for y, e in zip(outputs, last, strict=True)]
    if [y.shape for y in outputs] != [e.shape for e in last]:
        msg = f"gives maps {shapes}"
        raise LookupError(msg)
    off = models.error(outputs, last)
    notes = [f"the last {len(outputs)} of {len(expected)} levels"] * (len(outputs) < len(expected))
    notes += [note or "other maps"] * (bool(note) or off > SAME)
    return Side(label, lambda: model(x), None if note == RANDOM else off, ", ".join(notes) or None)


def reason(err: Exception) -> str:
    """Return why a library cannot do it."""
    if isinstance(err, ModuleNotFoundError):
        return f"not installed: {err.name}"
    if isinstance(err, LookupError) and not isinstance(err, KeyError):
        return f"left out: {err}"
    return f"fails: {type(err).__name__}: {str(err).splitlines()[0] if str(err) else ''}"[:200]


if __name__ == "__main__":
    main()
