"""The command extract: what it prints, what it writes, and a user's mistakes in one line."""

import json
import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from autobackbone import create_backbone, create_feature_backbone, open_features
from autobackbone.cli import main


@pytest.fixture(scope="module")
def images(tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        Image.open(photo).rotate(10 * i).resize((80 + i, 64)).save(folder / f"{i}.jpg")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process: a process of its own takes seconds to import torch."""

    def run(*args):
        monkeypatch.setattr("sys.argv", ["autobackbone", "extract", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=stop.value.code, stdout=printed.out, stderr=printed.err)

    level = logging.getLogger("autobackbone").level
    yield run
    logging.getLogger("autobackbone").setLevel(level)


def test_a_folder_becomes_a_table_that_says_its_weights_are_random(run, images, tmp_path):
    answer = run(images, "-m", "test_resnet", "--random-weights", "-o", tmp_path / "out")
    assert answer.returncode == 0, answer.stderr
    assert "3 images added" in answer.stdout
    assert "1 have no features" in answer.stdout
    assert "RANDOM WEIGHTS" in answer.stdout
    table = open_features(tmp_path / "out")
    assert table.ids == ["0.jpg", "1.jpg", "2.jpg"]
    assert table.metadata["weights"]["loaded"] is False
    assert table.metadata["config"]["pretrained"] is False
    torch.manual_seed(0)
    backbone = create_backbone("test_resnet", pretrained=False).eval()
    transform = backbone.autobackbone.input_spec.transform()
    with torch.inference_mode():
        expected = torch.cat([backbone(transform(Image.open(images / name))[None]) for name in table.ids])
    torch.testing.assert_close(table.torch("pooled"), expected, rtol=1e-4, atol=1e-5)


def test_again_does_nothing_and_says_so(run, images, tmp_path):
    arguments = (images, "-m", "test_resnet", "--random-weights", "-o", tmp_path / "out", "--json")
    first, second = (json.loads(run(*arguments).stdout) for _ in range(2))
    assert (first["extracted"], first["failed"], first["skipped"]) == (3, 1, 0)
    assert (second["extracted"], second["failed"], second["skipped"]) == (0, 1, 4)
    assert second["random_weights"] is True


def test_levels_and_reductions(run, images, tmp_path):
    keep = "c3:mean,c3:grid2,c2:max"
    arguments = ("--strides", "4,8", "--keep", keep, "--dtype", "float16", "--size", "64x80")
    answer = run(images, "-m", "test_resnet", "--random-weights", "-o", tmp_path / "out", *arguments)
    assert answer.returncode == 0, answer.stderr
    table = open_features(tmp_path / "out")
    backbone = create_feature_backbone("test_resnet", pretrained=False, out_strides=(4, 8))
    c2, c3 = backbone.channels
    assert {name: table.shape(name) for name in table.columns} == {
        "c3_mean": (c3,),
        "c3_grid2": (c3, 2, 2),
        "c2_max": (c2,),
    }
    assert table.torch("c2_max").dtype == torch.float16
    assert table.metadata["transform"]["size"] == [64, 80]


def test_weights_of_a_file_and_the_folder_that_moved(run, images, tmp_path):
    create_feature_backbone("test_resnet", pretrained=False).save_pretrained(tmp_path / "saved")
    weights = tmp_path / "saved" / "model.safetensors"
    moved = shutil.copytree(images, tmp_path / "elsewhere")
    for folder, added in ((images, 3), (moved, 0)):  # ids are paths within the folder
        answer = run(
            folder, "-m", "test_resnet", "--keep", "mean", "--weights", weights, "-o", tmp_path / "o", "--json"
        )
        assert json.loads(answer.stdout)["extracted"] == added, answer.stderr
    assert str(weights) in open_features(tmp_path / "o").metadata["weights"]["origin"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no file or folder 'nowhere'"),
        (["images/*.gif"], "No file matches"),
        (["images", "--keep", "c9:mean"], "no level 'c9'"),
        (["images", "--keep", "c3:men"], "did you mean 'mean'"),
        (["images", "--keep", "c3:"], "write levels and reductions"),
        (["images", "--keep", "pooled", "--strides", "8"], "create_backbone"),
        (["images", "--resize", "cropp"], "did you mean 'crop'"),
        (["images", "--size", "big"], "not integers"),
        (["images", "--dtype", "float64"], "float"),
        (["images", "--compute-dtype", "int8"], "--compute-dtype"),
        (["images", "--device", "gpu"], "--device 'gpu'"),
        (["images", "--engine", "spark"], "'local', 'ray'"),
        (["images", "--batch-size", "0"], "--batch-size"),
        (["images", "--column", "path"], "no table"),
        (["images", "--strict"], "broken.jpg"),
        (["images/0.jpg", "-o", "images"], "holds something else"),
        (["images/0.jpg", "-o", "images/0.jpg"], "is a file"),
        (["images/0.jpg", "-o", "nothing://x"], "Protocol not known"),
    ],
)
def test_mistakes_are_one_line(run, images, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images, tmp_path / "images")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    output = [] if "-o" in arguments else ["-o", "out"]
    answer = run(*arguments, *output, "-m", "test_resnet", "--random-weights")
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1
    assert words in answer.stderr
    if "--strict" not in arguments:
        assert sorted(path.name for path in tmp_path.rglob("*")) == before, "nothing is made before all is checked"
