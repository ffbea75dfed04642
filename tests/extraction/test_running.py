"""What a run does to the process it runs in, and how it ends: memory, modes, threads, errors, interrupts."""

import copy
import logging
import os
import signal
import threading

import numpy as np
import pytest
import torch
from some_images import expected, leveled, picture, pooled, write_pictures

from autobackbone import (
    ConfigError,
    InputSizeError,
    WeightsError,
    create_backbone,
    extract_features,
    get_input_spec,
    open_features,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(folder, 13)
    return folder


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr("autobackbone.extraction.run._MAX_ROWS", 4)


def extract(images, output, backbone, **kwargs):
    kwargs = {"workers": 1, "batch_size": 4, "show_progress": False, "scaled_decoding": False} | kwargs
    return extract_features(backbone, images, output, **kwargs)


def before_forward(backbone, function):
    """A copy of a backbone that calls a function with each batch."""
    hooked = copy.deepcopy(backbone)
    hooked.register_forward_pre_hook(lambda _, args: function(args[0]))
    return hooked


def assert_complete(output, photos):
    table = open_features(output)
    paths = sorted(photos.iterdir())
    assert table.ids == [path.name for path in paths]
    np.testing.assert_allclose(table.numpy(), expected(pooled(), paths), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_halved_where_memory_is_short(workers, photos, tmp_path, caplog):
    sizes = []

    def little_memory(x):
        if len(x) > 2:
            message = "out of memory"
            raise torch.OutOfMemoryError(message)
        sizes.append(len(x))

    with caplog.at_level(logging.WARNING, "autobackbone"):
        report = extract(photos, tmp_path / "out", before_forward(pooled(), little_memory), workers=workers)
    assert report.extracted == 13
    assert max(sizes) == 2
    told = [record.getMessage() for record in caplog.records]
    assert told == ["cpu has too little memory for 4 images at once: going on with 2"]
    assert_complete(tmp_path / "out", photos)


def test_memory_for_no_image_at_all(photos, tmp_path):
    calls = []

    def only_the_trial(_):
        calls.append(1)
        if len(calls) > 1:
            message = "out of memory"
            raise torch.OutOfMemoryError(message)

    hooked = before_forward(pooled(), only_the_trial)
    with pytest.raises(torch.OutOfMemoryError):
        extract(photos, tmp_path / "out", hooked)
    assert extract(photos, tmp_path / "out", pooled()).listed == 13
    assert_complete(tmp_path / "out", photos)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [1, 2, 5, 8])
def test_errors_of_a_backbone_surface_as_they_are(number, workers, photos, tmp_path):
    calls = []

    def fail(_):
        calls.append(1)
        if len(calls) >= number:
            message = "cuDNN says no"
            raise RuntimeError(message)

    backbone = before_forward(pooled(), fail)
    with pytest.raises(RuntimeError, match=r"^cuDNN says no$"):
        extract(photos, tmp_path / "out", backbone, workers=workers, batch_size=2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("lane", "read", "write"))]
    assert extract(photos, tmp_path / "out", pooled()).listed == 13
    assert_complete(tmp_path / "out", photos)


@pytest.fixture
def _heeds_interrupts():
    """What shells start in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_interrupts")
def test_an_interrupt_ends_a_run_which_can_go_on(photos, tmp_path):
    calls = []

    def interrupt(_):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        extract(photos, tmp_path / "out", before_forward(pooled(), interrupt), batch_size=1)
        for _ in range(1000):  # the signal comes when the interpreter is ready for it
            threading.Event().wait(0.01)
    report = extract(photos, tmp_path / "out", pooled())
    assert (report.listed, report.skipped + report.extracted) == (13, 13)
    assert_complete(tmp_path / "out", photos)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_of_the_caller_changes(workers, threads, photos, tmp_path):
    backbone = copy.deepcopy(leveled())
    modules = list(backbone.modules())
    for i, module in enumerate(modules):
        module.training = i % 3 == 0
    parameters = list(backbone.parameters())
    parameters[0].requires_grad_(requires_grad=False)
    calls = []
    backbone.register_forward_hook(lambda *_: calls.append(torch.is_inference_mode_enabled()))
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    torch.set_num_threads(threads)
    try:
        extract(photos, tmp_path / "out", backbone, workers=workers)
        assert torch.get_num_threads() == threads
        found = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert found == [threads]
    finally:
        torch.set_num_threads(1)
    assert [module.training for module in modules] == [i % 3 == 0 for i in range(len(modules))]
    assert [p.requires_grad for p in parameters] == [False, *[True] * (len(parameters) - 1)]
    assert list(backbone.parameters()) == parameters
    assert all(p.grad is None and not p.is_inference() for p in parameters)
    assert calls
    assert all(calls)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    backbone.train()
    sum(y.sum() for y in backbone(torch.rand(2, 3, 64, 64))).backward()


def test_modes_come_back_after_errors(photos, tmp_path):
    def fail(_):
        raise ZeroDivisionError

    backbone = before_forward(pooled(), fail).train()
    with pytest.raises(ZeroDivisionError):
        extract(photos, tmp_path / "out", backbone)
    assert all(module.training for module in backbone.modules())


def test_modes_of_a_backbone_in_two_threads(photos, tmp_path):
    backbone = copy.deepcopy(pooled()).train()
    usual = get_input_spec(backbone).transform()
    runs = []
    for name in ("one", "two"):  # the first to begin is the first to end
        at_work, go_on = threading.Event(), threading.Event()

        def waiting(image, at_work=at_work, go_on=go_on):
            at_work.set()
            assert go_on.wait(60)
            return usual(image)

        arguments = {"args": (photos, tmp_path / name, backbone), "kwargs": {"transform": waiting}}
        runs.append((go_on, threading.Thread(target=extract, **arguments)))
        runs[-1][1].start()
        assert at_work.wait(60)
    for go_on, thread in runs:
        assert not any(module.training for module in backbone.modules())
        go_on.set()
        thread.join()
    assert all(module.training for module in backbone.modules())
    for name in ("one", "two"):
        assert_complete(tmp_path / name, photos)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
@pytest.mark.parametrize("workers", [1, 2])
def test_features_do_not_depend_on_batches_and_workers(batch_size, workers, photos, tmp_path):
    extract(photos, tmp_path / "out", pooled(), batch_size=batch_size, workers=workers)
    assert_complete(tmp_path / "out", photos)


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, lambda module: torch.compile(module, backend="eager")])
def test_wrapped_backbones(wrap, photos, tmp_path):
    extract(photos, tmp_path / "out", wrap(copy.deepcopy(pooled())), workers=2)
    assert_complete(tmp_path / "out", photos)
    assert extract(photos, tmp_path / "out", pooled()).skipped == 13


def test_lines_and_a_bar(photos, tmp_path, caplog, monkeypatch, capsys):
    monkeypatch.setattr("autobackbone.extraction.progress._EVERY", 0.0)
    with caplog.at_level(logging.INFO, "autobackbone"):
        extract(photos, tmp_path / "out", pooled(), show_progress=None)
    assert caplog.messages[-1].startswith("13 of 13 images, ")
    assert caplog.messages[-1].endswith(" 0 s left")
    extract(photos, tmp_path / "bar", pooled(), show_progress=True)
    assert "13/13" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"dtype": "float64"}, ConfigError, "dtype='float64': "),
        ({"dtype": torch.int8}, ConfigError, "dtype='int8': it is one of 'float32'"),
        ({"batch_size": 0}, ConfigError, "batch_size must be a positive integer or None, got 0"),
        ({"workers": 1.5}, ConfigError, "workers must be a positive integer or None, got 1.5"),
        ({"resize": "squash"}, ConfigError, "resize='squash': it is one of"),
        ({"resize": ["crop"]}, ConfigError, "resize="),
        ({"resize": np.zeros(3)}, ConfigError, "resize="),
        ({"image_size": 0}, ConfigError, "image_size must be"),
        ({"image_size": (1, 2, 3)}, ConfigError, "image_size must be"),
        ({"resize": "none", "image_size": 64}, ConfigError, "leave image_size= out"),
        ({"transform": "crop"}, ConfigError, "transform must be a function"),
        ({"transform": len, "image_size": 64}, ConfigError, "transform= replaces"),
        ({"strict": "no"}, ConfigError, "strict must be True or False, got 'no'"),
        ({"retry_errors": None}, ConfigError, "retry_errors must be True or False"),
        ({"scaled_decoding": 1}, ConfigError, "scaled_decoding must be True or False"),
        ({"engine": "rat"}, ConfigError, "engine='rat': did you mean 'ray'"),
        ({"keep": "c5"}, ConfigError, "a pooled backbone has 'pooled' only"),
        ({"keep": np.zeros(2)}, ConfigError, "a pooled backbone has 'pooled' only"),
    ],
)
def test_wrong_arguments(kwargs, error, message, photos, tmp_path):
    with pytest.raises(error, match=message):
        extract(photos, tmp_path / "out", pooled(), **kwargs)
    assert not (tmp_path / "out").exists()


def test_what_is_no_backbone(photos, tmp_path):
    for other in (torch.nn.Linear(2, 2), None, "test_resnet"):
        with pytest.raises(ConfigError, match="create_backbone"):
            extract(photos, tmp_path / "out", other)
    with torch.device("meta"):
        meta = create_backbone("test_resnet", pretrained=False)
    with pytest.raises(WeightsError, match="on the meta device has no weights"):
        extract(photos, tmp_path / "out", meta)
    assert not (tmp_path / "out").exists()


def test_sizes_that_a_backbone_does_not_accept(photos, tmp_path):
    with pytest.raises(InputSizeError):
        extract(photos, tmp_path / "out", pooled("test_vit"), image_size=8)
    fixed = pooled("test_vit_relpos")
    with pytest.raises(InputSizeError, match="takes 160x160 images only; leave resize= out"):
        extract(photos, tmp_path / "out", fixed, resize="none")
    assert not (tmp_path / "out").exists()
    vit = pooled("test_vit")  # takes multiples of 16
    images = [picture(0, 32, 48), picture(1, 33, 48), picture(2, 64, 16), picture(3, 8, 8)]
    report = extract(images, tmp_path / "vit", vit, resize="none")
    assert (report.extracted, report.failed) == (2, 2)
    assert open_features(tmp_path / "vit").ids == ["0", "2"]
    assert [failure.id for failure in open_features(tmp_path / "vit").errors] == ["1", "3"]
