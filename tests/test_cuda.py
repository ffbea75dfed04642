"""Backbones on a GPU: the same maps and rows as on the CPU, however they are made, run and saved. ``nox -s cuda``."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from differences import error
from families import DINOV3_FAMILIES, FAMILIES
from some_images import leveled, pooled, write_pictures

from autobackbone import (
    FeatureBackbone,
    UnsupportedError,
    create_feature_backbone,
    export_onnx,
    export_program,
    extract_features,
    load_weights,
    open_features,
    optimize_for_inference,
)

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

NAMES = ["resnet18", "mobilenetv4_conv_small", "test_vit", "swin_tiny_patch4_window7_224", "dinov3_vits16"]
DTYPES = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 0.1}


@pytest.fixture(autouse=True)
def _exact_products():
    """Multiply float32 in float32, as CPUs do."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(folder, 40)
    return folder


def assert_close(maps, expected, tolerance=1e-3):
    for y, e in zip(maps, expected, strict=True):
        assert error(y, e) < tolerance


def create(name, **kwargs):
    torch.manual_seed(0)
    return create_feature_backbone(name, pretrained=False, **kwargs).eval()


@pytest.mark.parametrize("family", FAMILIES + DINOV3_FAMILIES, ids=str)
@torch.inference_mode()
def test_the_maps_are_those_of_the_cpu(family):
    backbone = create(family.name, extra_kwargs=family.extra_kwargs)
    spec = backbone.input_spec
    batches = [
        torch.randn(1, spec.in_chans, *size) for size in {spec.size, spec.size if spec.fixed_size else family.size}
    ]
    expected = [backbone(x) for x in batches]
    backbone.cuda()
    for x, maps in zip(batches, expected, strict=True):
        assert_close(backbone(x.cuda()), maps)
    fast = optimize_for_inference(backbone)
    for x, maps in zip(batches, expected, strict=True):
        assert_close(fast(x.cuda()), maps)


@pytest.mark.parametrize(
    ("name", "dtype", "compiled"),
    [
        *((name, dtype, False) for name in NAMES for dtype in DTYPES),
        ("resnet18", "bfloat16", True),
        ("dinov3_vits16", "float32", True),
    ],
)
def test_optimized_for_inference(name, dtype, compiled):
    torch.compiler.reset()
    backbone = create(name).cuda()
    fast = optimize_for_inference(backbone, dtype=dtype, compile=compiled)
    for batch in (2, 1):
        x = torch.randn(batch, 3, *backbone.input_spec.size, device="cuda")
        with torch.inference_mode():
            assert_close(fast(x.to(getattr(torch, dtype))), backbone(x), DTYPES[dtype])


@pytest.mark.parametrize("name", NAMES)
def test_optimized_where_products_are_rounded(name):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    backbone = create(name).cuda()
    x = torch.randn(2, 3, *backbone.input_spec.size, device="cuda")
    with torch.inference_mode():
        assert_close(optimize_for_inference(backbone)(x), backbone(x), 1e-2)


def test_compiled_maps_stay_as_they_are():
    torch.compiler.reset()
    backbone = create("test_resnet").cuda()
    fast = optimize_for_inference(backbone, compile=True)
    images = [torch.randn(2, 3, 160, 160, device="cuda") for _ in range(3)]
    kept = [fast(x) for x in images]
    for x, maps in zip(images, kept, strict=True):
        assert_close(maps, backbone(x))


def test_compiled_in_threads():
    torch.compiler.reset()
    backbone = create("test_resnet").cuda()
    fast = optimize_for_inference(backbone, compile=True)
    images = [torch.randn(2, 3, 160, 160, device="cuda") for _ in range(3)]
    for x in images:  # one after another: while a graph is recorded, CUDA forbids most calls of other threads
        with ThreadPoolExecutor(1) as pool:
            assert_close(pool.submit(fast, x).result(), backbone(x))


def test_created_on_the_gpu():
    with torch.device("cuda"):
        backbone = create("test_resnet")
    assert {t.device.type for t in backbone.state_dict().values()} == {"cuda"}
    assert all(y.isfinite().all() for y in backbone(torch.randn(1, 3, 97, 130, device="cuda")))


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded(name, tmp_path):
    backbone = create(name).cuda()
    x = torch.randn(1, 3, 224, 224, device="cuda")
    for i, each in enumerate((backbone, optimize_for_inference(backbone, dtype="bfloat16"))):
        each.save_pretrained(tmp_path / str(i))
        loaded = FeatureBackbone.from_pretrained(tmp_path / str(i)).eval().cuda()
        images = x.to(next(each.parameters()).dtype)
        with torch.inference_mode():
            for y, e in zip(loaded(images), each(images), strict=True):
                assert error(y, e) < 1e-5
    other = create(name).cuda()
    report = load_weights(other, tmp_path / "0")
    assert report.coverage == 1
    assert {p.device.type for p in other.parameters()} == {"cuda"}


@pytest.mark.parametrize("name", NAMES)
def test_exported(name, tmp_path):
    backbone = create(name).cuda()
    x = torch.randn(2, 3, *backbone.input_spec.size, device="cuda")
    export_program(backbone, tmp_path / "x.pt2")
    with torch.inference_mode():
        expected = backbone(x)
        assert_close(torch.export.load(tmp_path / "x.pt2").module()(x).values(), expected)
    ort = pytest.importorskip("onnxruntime")
    export_onnx(backbone, tmp_path / "x.onnx")
    session = ort.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    assert_close(map(torch.from_numpy, session.run(None, {"images": x.cpu().numpy()})), expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_training(name):
    backbone = create(name).cuda().train()
    backbone.set_grad_checkpointing()
    optimizer = torch.optim.AdamW(backbone.parameters())
    with torch.autocast("cuda", torch.bfloat16):
        loss = sum(y.square().mean() for y in backbone(torch.randn(2, 3, 224, 224, device="cuda")))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
    optimizer.step()
    assert all(p.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize("make", [pooled, leveled])
def test_rows_are_those_of_the_cpu(make, photos, tmp_path):
    options = {"show_progress": False, "image_size": 64, "resize": "stretch"}
    extract_features(make(), photos, tmp_path / "cpu", **options)
    on_gpu = copy.deepcopy(make()).cuda()
    extract_features(on_gpu, photos, tmp_path / "gpu", batch_size=16, **options)
    extract_features(optimized(on_gpu, make), photos, tmp_path / "fast", batch_size=16, **options)
    tables = [open_features(tmp_path / name) for name in ("cpu", "gpu", "fast")]
    for table in tables[1:]:
        assert table.ids == tables[0].ids
        for column in tables[0].columns:
            np.testing.assert_allclose(table.numpy(column), tables[0].numpy(column), atol=1e-3, rtol=1e-2)


def optimized(backbone, make):
    """Compiled, if it can be: only feature backbones are optimized."""
    torch.compiler.reset()
    return optimize_for_inference(backbone, compile=True) if make is leveled else backbone


def test_batches_are_halved_where_memory_is_short(photos, tmp_path, caplog):
    backbone = copy.deepcopy(pooled("resnet18")).cuda()
    extract_features(backbone, photos, tmp_path / "all", batch_size=40, image_size=448, resize="stretch", workers=2)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(300e6 / total)
    try:
        report = extract_features(
            backbone, photos, tmp_path / "short", batch_size=40, image_size=448, resize="stretch", workers=2
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert report.extracted == 40
    assert any("too little memory" in record.getMessage() for record in caplog.records)
    tables = [open_features(tmp_path / name).numpy() for name in ("all", "short")]
    np.testing.assert_allclose(tables[1], tables[0], atol=1e-3, rtol=1e-2)


def test_a_dtype_that_overflows_is_refused():
    backbone = create("test_resnet").cuda()
    with torch.no_grad():
        next(p for p in backbone.parameters() if p.ndim == 4).mul_(1e9)
    with pytest.raises(UnsupportedError, match="float16"):
        optimize_for_inference(backbone, dtype="float16")
