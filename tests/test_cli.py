"""The command line: what it prints, what it writes, and what it says of mistakes."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

from autobackbone.cli import app, main
from autobackbone.picture import load_image, principal_colours

NAN = timm.create_model("test_resnet")
MODEL = ["-m", "test_resnet", "--random-weights"]


def run(*args: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_list():
    assert run("list", "resnet50*").split()[0] == "resnet50"
    assert json.loads(run("list", "resnet50", "--pretrained", "--json"))[0].startswith("resnet50.")


def test_info():
    card = json.loads(run("info", "test_convnext", "--json", "--strides", "4,32"))
    assert [(level["name"], level["stride"]) for level in card["levels"]] == [("c2", 4), ("c5", 32)]
    assert card["input"]["divisor"] == 32
    text = run("info", "test_coatnet", "--img-size", "97x130")
    assert "97x130 only" in text


def test_features(photo, tmp_path):
    text = run("features", photo, *MODEL, "-o", tmp_path / "new")
    assert "RANDOM WEIGHTS" in text
    assert "300x451" in text
    with Image.open(tmp_path / "new" / "chelsea-test_resnet.png") as picture:
        assert picture.width > 3 * 451
        corner = picture.crop((12, 60, 12 + 451, 60 + 300))
        with Image.open(photo) as original:
            assert corner.tobytes() == original.convert("RGB").tobytes()


def test_features_as_json(photo, tmp_path):
    answer = json.loads(run("features", photo, *MODEL, "-o", tmp_path, "--json", "--indices=-1,0", "--max-side", 100))
    assert answer["random_weights"] is True
    assert answer["input"] == [1, 3, 67, 100]
    assert [level["shape"][2:] for level in answer["levels"]] == [[3, 4], [34, 50]]


def test_features_of_a_backbone_that_takes_one_size(photo, tmp_path):
    text = run("features", photo, "-m", "test_coatnet", "--random-weights", "-o", tmp_path, "--img-size", "96x128")
    assert "resized from 300x451" in text


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_any_kind_of_image(tmp_path, mode):
    grey = Image.radial_gradient("L").resize((50, 40))
    deep = Image.frombytes("I;16", grey.size, b"".join(bytes([v, v]) for v in grey.tobytes()))  # v * 257
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    (deep if mode == "I;16" else grey.convert(mode)).save(path)
    image = load_image(path)
    assert (image.size, image.mode) == ((50, 40), "RGB")
    if mode in ("L", "I;16"):
        assert image.convert("L").tobytes() == grey.tobytes()


def test_a_thin_image(tmp_path):
    Image.new("RGB", (2000, 1)).save(tmp_path / "thin.png")
    run("features", tmp_path / "thin.png", *MODEL, "-o", tmp_path)
    with Image.open(tmp_path / "thin-test_resnet.png") as picture:
        assert picture.width < 10_000


def test_orientation_is_respected(tmp_path):
    image = Image.new("RGB", (40, 20), "red")
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (20, 40)


def test_principal_colours_separate_what_differs():
    y = torch.zeros(5, 4, 6)
    y[2, :, 3:] = 1
    colours = principal_colours(y)
    assert colours.shape == (4, 6, 3)
    assert len({tuple(c) for c in colours.flatten(0, 1).tolist()}) == 2
    assert (colours[:, :3] == colours[0, 0]).all()
    assert principal_colours(torch.rand(2, 1, 1)).shape == (1, 1, 3)


MISTAKES = [
    (["features", "absent.png", *MODEL, "-o", "out"], "There is no image 'absent.png'; check the path."),
    (["features", "text.png", *MODEL, "-o", "out"], "'text.png' is not an image that can be read"),
    (["features", "cut.jpg", *MODEL, "-o", "out"], "'cut.jpg' is not an image that can be read"),
    (["features", ".", *MODEL, "-o", "out"], "is not an image that can be read"),
    (["features", "good.png", *MODEL, "-o", "text.png"], "--out 'text.png' is a file; name a folder."),
    (["features", "good.png", *MODEL, "-o", "out", "--strides", "8;16"], "--strides '8;16' is not integers"),
    (["features", "good.png", *MODEL, "-o", "out", "--strides", "0"], "out_strides must be a sequence of integers"),
    (
        ["features", "good.png", *MODEL, "-o", "out", "--indices", "9"],
        "there is no level 9; its levels are 0",
    ),
    (
        ["features", "good.png", "-m", "resnet5o", "-o", "out"],
        "no backbone 'resnet5o'; did you mean 'resnet50'",
    ),
    (
        ["features", "good.png", "-m", "test_resnet", "--weights", "a.pth", "-o", "out"],
        "'a.pth': there is no such",
    ),
    (["info", "resnet5o"], "There is no backbone 'resnet5o'"),
    (["info", "resnet50", "--img-size", "big"], "--img-size 'big' is not integers separated by 'x'."),
    (["info", "efficientformer_l1", "--img-size", "256"], "takes (224, 224) images only"),
    (["bogus"], "No such command 'bogus'. See --help."),
    (["features", "good.png", "-o", "out"], "Missing option '--model'"),
    (["features", "good.png", *MODEL, "-o", "out", "--weights", "a.pth"], "--random-weights and --weights exclude"),
    (["features", "good.png", "-m", "test_resnet", "--weights", "nan.pth", "-o", "out"], "is not finite"),
    (["features", "float.tif", *MODEL, "-o", "out"], "has 32-bit pixels"),
    (["catalog", "build", "--path", "text.png"], "'text.png' holds no facts to go on from"),
    (["catalog", "build", "--path", "absent/facts.json"], "There is no folder 'absent'"),
    (["list", "nothing*"], "No backbone matches 'nothing*'"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES)
def test_mistakes_are_one_line_and_status_2(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    Image.radial_gradient("L").save(tmp_path / "whole.jpg")
    Image.new("F", (64, 64)).save(tmp_path / "float.tif")
    state = {k: v.float().fill_(torch.nan) if v.is_floating_point() else v for k, v in NAN.state_dict().items()}
    torch.save(state, tmp_path / "nan.pth")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    monkeypatch.setattr(sys, "argv", ["autobackbone", *args])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("autobackbone: ")
    assert captured.err.count("\n") == 1


def test_as_a_module():
    answer = subprocess.run(
        [sys.executable, "-m", "autobackbone", "info", "resnet5o"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
