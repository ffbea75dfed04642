"""The command line: what it prints, what it writes, and what it says of mistakes."""

import json
import os
import pty
import re
import subprocess
import sys
from shutil import copy

import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image

from autobackbone import InputError, create_feature_backbone, describe_backbone, list_backbones
from autobackbone.cli import app, main
from autobackbone.cli.picture import load_image, principal_colors

MODEL = ["-m", "test_resnet", "--random-weights"]


def run(*args: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_list():
    assert run("list", "resnet50*").split() == list_backbones("resnet50*")
    assert run("list", "resnet50*", "-r").split() == list_backbones("resnet50*")[::-1]
    rows = json.loads(run("list", "resnet50", "--pretrained", "--json"))
    assert [row["name"] for row in rows] == list_backbones("resnet50", pretrained_only=True)
    assert {row["weights"] for row in rows} == {1}


def test_list_filters_and_sorts():
    rows = json.loads(
        run(
            *("list", "--strides", "4,8", "--max-params", "30M", "--min-params", "1e6", "--any-size"),
            *(
                "--license",
                "mit, apache-2.0",
                "--family",
                "convnext,resnet",
                "--source",
                "timm",
                "--sort",
                "macs",
                "--json",
            ),
        )
    )
    assert sorted(row["name"] for row in rows) == sorted(
        list_backbones(
            strides=(4, 8),
            max_params=30e6,
            min_params=1e6,
            any_size=True,
            license=("mit", "apache-2.0"),
            family=("convnext", "resnet"),
            source="timm",
        )
    )
    macs = [row["macs"] for row in rows]
    assert macs == sorted(macs)
    assert macs[0] < macs[-1]
    largest = run("list", "test_*", "--sort", "params", "--reverse").split()[0]
    assert describe_backbone(largest).params == max(describe_backbone(name).params for name in list_backbones("test_*"))


def test_a_list_of_nothing_is_no_mistake():
    result = CliRunner().invoke(app, ["list", "resnet5o"])
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("autobackbone: no backbone matches 'resnet5o'; did you mean resnet50, ")
    assert json.loads(run("list", "*resnet*", "--source", "dinov3", "--json")) == []


def on_a_terminal(*args: str, **environment: str) -> str:
    """Return what the command prints on a terminal."""
    parent, child = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "30"} | environment
    with subprocess.Popen(
        [sys.executable, "-m", "autobackbone", *args], stdin=child, stdout=child, stderr=child, env=env
    ) as process:
        os.close(child)
        read = b""
        try:
            while chunk := os.read(parent, 4096):
                read += chunk
        except OSError:  # Linux says so when the other side is closed
            pass
    os.close(parent)
    assert process.returncode == 0, read.decode()
    return read.decode().replace("\r\n", "\n")


def test_list_on_a_terminal_is_a_table():
    lines = on_a_terminal("list", "resnet18*", "--sort", "params", PAGER="false").splitlines()
    assert [word for word in ("name", "params", "macs", "strides", "license") if word not in lines[0]] == []
    row = next(line for line in lines if line.startswith("resnet18 "))
    assert all(value in row for value in ("11.2 M", "1.81 G", "2 4 8 16 32", "224x224", "yes", "apache-2.0"))


def test_what_takes_seconds_says_so_on_a_terminal():
    command = ("info", "test_coatnet", "--img-size", "97x130")
    assert "importing torch" in on_a_terminal(*command)
    assert "importing" not in on_a_terminal("info", "test_coatnet")
    done = subprocess.run([sys.executable, "-m", "autobackbone", *command], capture_output=True, text=True, check=True)
    assert "importing" not in done.stdout + done.stderr


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_narrow_terminal_has_fewer_columns(width):
    text = on_a_terminal("list", "resnet18", "--pretrained", COLUMNS=str(width), NO_COLOR="1")
    lines = re.sub(r"\x1b\[\d*m", "", text).splitlines()
    row = next(line for line in lines if line.startswith("resnet18.fb_swsl_ig1b_ft_in1k "))
    assert all(value in row for value in ("11.2 M", "1.81 G", "2 4 8 16 32", "224x224"))
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [20, 30, 40])
@pytest.mark.parametrize(
    ("args", "values"),
    [
        (["list", "resnet18"], ["legacy_seresnet18", "skresnet18"]),
        (["info", "resnet18"], ["512", "32", "resnet18.tv_in1k", "create_feature_backbone('resnet18')"]),
        (["compare", "resnet18", "test_vit"], ["test_vit", "resnet18", "11.2 M", "512 channels"]),
    ],
)
def test_a_very_narrow_terminal_shows_what_it_can(args, values, width):
    text = on_a_terminal(*args, COLUMNS=str(width), NO_COLOR="1")
    words = re.sub(r"\x1b\[\d*m", "", text)
    assert [value for value in values if value not in words] == []
    assert width == 20 or "\u2026" not in words  # nothing is cut off


def test_the_group_without_a_command_is_help(monkeypatch, capsys):
    for arguments in ([], ["catalog"]):
        monkeypatch.setattr(sys, "argv", ["autobackbone", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0
        assert "Commands:" in capsys.readouterr().out


def test_a_long_list_on_a_terminal_goes_through_the_pager():
    lines = on_a_terminal("list", PAGER="sed 's/^.*$/paged/'").split()
    assert lines == ["paged"] * (1 + len(list_backbones()) + 2)  # a heading; how many, and what the figures are


def test_a_pager_that_is_not_there():
    lines = on_a_terminal("list", "vit_*", PAGER="no-such-pager -x").splitlines()
    assert lines[-1] == "autobackbone: there is no pager 'no-such-pager -x'; set PAGER to another."
    assert [line.split()[0] for line in lines[1:-3]] == list_backbones("vit_*")


@pytest.mark.parametrize(
    ("redirected", "status", "message"),
    [
        (">&-", 2, "autobackbone: standard output is closed; write to /dev/null what is not wanted.\n"),
        (">/dev/full", 2, "autobackbone: [Errno 28] No space left on device\n"),
        (">&- 2>&-", 2, ""),
        ("| head -n 1", 0, ""),
    ],
)
def test_where_output_goes_nowhere(redirected, status, message):
    for command in ("list resnet50", "info test_vit"):
        line = f"{sys.executable} -m autobackbone {command} {redirected}"
        done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (status, message)


def test_info():
    card = json.loads(run("info", "test_convnext", "--json", "--strides", "4,32"))
    assert [(level["name"], level["stride"]) for level in card["request"]["levels"]] == [("c2", 4), ("c5", 32)]
    assert [level["stride"] for level in card["levels"]] == [4, 8, 16, 32]
    assert card["request"]["input_spec"]["size_divisor"] == 32
    assert card["weights"][0]["name"] == card["pretrained_tags"][0]
    text = run("info", "resnet50.a1_in1k")
    for value in ("23.5 M", "4.09 G", "2, 4, 8, 16, 32", "apache-2.0", "timm/resnet50.a1_in1k", "any size from 1x1"):
        assert value in text


def test_info_of_another_size():
    card = json.loads(run("info", "test_coatnet", "--img-size", "97x130", "--json"))
    assert card["request"]["input_spec"]["size"] == [97, 130]
    assert card["input_size"] == [160, 160]
    text = run("info", "test_coatnet", "--img-size", "97x130")
    assert "97x130 only (another with --img-size)" in text
    assert "img_size=(97, 130)" in text
    assert "224x224 only\n" in run("info", "efficientformer_l1")


@pytest.mark.parametrize("args", [["test_vit"], ["test_resnet", "--strides", "4,8"], ["test_vit", "--indices=-1"]])
def test_the_snippet_of_info_runs(args, monkeypatch):
    text = run("info", *args)
    monkeypatch.setattr("autobackbone.create_feature_backbone", lambda *a, **k: made.append((a, k)))
    made = []
    exec(text[text.index("from autobackbone") :])  # noqa: S102
    ((names, fields),) = made
    backbone = create_feature_backbone(*names, **fields, pretrained=False)
    levels = json.loads(run("info", *args, "--json"))["request"]["levels"]
    assert [level["channels"] for level in levels] == list(backbone.channels)


def test_export(tmp_path):
    path = tmp_path / "model.pt2"
    answer = json.loads(run("export", *MODEL, "--strides", "8,16", "--size", "64x96", "-o", path, "--json"))
    assert (answer["file"], [level["stride"] for level in answer["levels"]]) == (str(path), [8, 16])
    outputs = torch.export.load(path).module()(torch.rand(1, 3, 64, 96))
    assert [(name, tuple(y.shape[-2:])) for name, y in outputs.items()] == [("c3", (8, 12)), ("c4", (4, 6))]


def test_export_quantized(photo, tmp_path):
    path, folder = tmp_path / "model.onnx", tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        copy(photo.parent / name, folder / "more" / name)
    (folder / "notes.txt").touch()
    options = ("--size", "64x96", "--quantize", "int8_static", "--calibration", folder, "-o", path)
    answer = json.loads(run("export", *MODEL, *options, "--json"))["quantization"]
    assert min(answer["similarity"].values()) > 0.99
    assert answer["images"] == 3
    assert answer["bytes_after"] == path.stat().st_size < answer["bytes_before"] / 2
    assert "c5: cosine similarity 0.99" in run("export", *MODEL, *options)


def test_compare():
    names = ["resnet50", "vit_base_patch16_224", "dinov3_convnext_tiny"]
    assert [card["name"] for card in json.loads(run("compare", *names, "--json"))] == names
    text = run("compare", *names)
    for value in (*names, "23.5 M", "85.8 M", "768 channels x 12 levels", "dinov3-license"):
        assert value in text


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("autobackbone info resnet5", ["resnet50", "resnet50d"]),
        ("autobackbone compare resnet50 dinov3_vit", ["dinov3_vits16", "dinov3_vit7b16"]),
        ("autobackbone features -m ResNet50.a1", ["resnet50.a1_in1k", "resnet50.a1h_in1k"]),
        ("autobackbone li", ["list"]),
    ],
)
def test_the_shell_completes_names(words, found):
    env = os.environ | {
        "_AUTOBACKBONE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    command = [sys.executable, "-m", "autobackbone"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    offered = [line.removeprefix("plain,") for line in answer.stdout.splitlines()]
    assert set(found) <= set(offered)
    last = words.rpartition(" ")[2].lower()
    assert all(name.startswith(last) for name in offered)


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
    gray = Image.radial_gradient("L").resize((50, 40))
    deep = Image.frombytes("I;16", gray.size, b"".join(bytes([v, v]) for v in gray.tobytes()))  # v * 257
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    (deep if mode == "I;16" else gray.convert(mode)).save(path)
    image = load_image(path)
    assert (image.size, image.mode) == ((50, 40), "RGB")
    if mode in ("L", "I;16"):
        assert image.convert("L").tobytes() == gray.tobytes()


@pytest.mark.parametrize(("mode", "ending"), [("I;16", "tif"), ("I;16B", "tif"), ("I", "pgm"), ("I", "tif")])
def test_sixteen_bits_are_scaled(tmp_path, mode, ending):
    gray = Image.radial_gradient("L").resize((50, 40))
    order = "big" if mode == "I;16B" else "little"
    size = 4 if mode == "I" else 2
    pixels = b"".join((257 * value).to_bytes(size, order) for value in gray.tobytes())
    path = tmp_path / f"deep.{ending}"
    Image.frombytes(mode, gray.size, pixels).save(path)
    assert load_image(path).convert("L").tobytes() == gray.tobytes()


def test_a_palette_with_transparency(tmp_path):
    image = Image.radial_gradient("L").convert("RGB").quantize(8)
    image.save(tmp_path / "clear.png", transparency=bytes([0, 128, 255]))
    assert load_image(tmp_path / "clear.png").tobytes() == image.convert("RGB").tobytes()


def test_a_large_image_is_no_reason_to_warn(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6_000)
    assert load_image(tmp_path / "large.png").size == (100, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000)
    with pytest.raises(InputError, match=r"not an image that can be read .*decompression bomb"):
        load_image(tmp_path / "large.png")


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


def test_principal_colors_separate_what_differs():
    y = torch.zeros(5, 4, 6)
    y[2, :, 3:] = 1
    colors = principal_colors(y)
    assert colors.shape == (4, 6, 3)
    assert len({tuple(c) for c in colors.flatten(0, 1).tolist()}) == 2
    assert (colors[:, :3] == colors[0, 0]).all()
    assert principal_colors(torch.rand(2, 1, 1)).shape == (1, 1, 3)


MISTAKES = [
    (["features", "absent.png", *MODEL, "-o", "out"], "There is no image 'absent.png'; check the path."),
    (
        ["features", "text.png", *MODEL, "-o", "out"],
        "'text.png' is not an image that can be read (its content is of no format that Pillow knows).",
    ),
    (["features", "cut.jpg", *MODEL, "-o", "out"], "'cut.jpg' is not an image that can be read"),
    (["features", ".", *MODEL, "-o", "out"], "is not an image that can be read"),
    (["features", "good.png", *MODEL, "-o", "text.png"], "--out 'text.png' is a file; name a folder."),
    (["features", "good.png", *MODEL, "-o", "out", "--strides", "8;16"], "--strides '8;16' is not integers"),
    (["features", "good.png", *MODEL, "-o", "out", "--strides", "0"], "--strides must be a sequence of integers"),
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
    (["info", "resnet50", "--indices", "9"], "there is no level 9; its levels are 0"),
    (["info", "resnet50", "--indices", "1", "--strides", "8"], "exclude each other; give one of them"),
    (["compare", "resnet50", "swin_tiny"], "no backbone 'swin_tiny'; did you mean 'swin"),
    (["compare"], "Missing argument 'NAMES...'"),
    (["list", "--license", "gpl"], "--license 'gpl': no backbone has that; there are apache-2.0"),
    (["list", "--min-top1", "101"], "--min-top1 101.0 is no percentage; give one from 0 to 100, such as 80."),
    (["list", "--used-by", "YOLO"], "--used-by 'YOLO': no backbone has that; "),
    (["list", "--max-params", "lots"], "--max-params 'lots' is no number; write one such as 30M, 1.5B or 25e6."),
    (["list", "--strides", "4;8"], "--strides '4;8' is not integers separated by ','."),
    (["list", "--sort", "color"], "'color' is not one of 'name', 'family', 'params'"),
    (
        ["list", "--min-params", "2M", "--max-params", "1M"],
        "--min-params 2000000.0 is more than --max-params 1000000.0",
    ),
    (["bogus"], "No such command 'bogus'. See --help."),
    (["features", "good.png", "-o", "out"], "Missing option '--model' / '-m'"),
    (["features", "good.png", *MODEL, "-o", "out", "--weights", "a.pth"], "--random-weights and --weights exclude"),
    (["features", "good.png", "-m", "test_resnet", "--weights", "nan.pth", "-o", "out"], "is not finite"),
    (["features", "float.tif", *MODEL, "-o", "out"], "has 32-bit pixels"),
    (
        ["catalog", "build", "--path", "text.png"],
        "'text.png' is damaged, or no catalog (JSONDecodeError); remove it, or measure everything again.",
    ),
    (["catalog", "build", "--path", "absent/facts.json"], "There is no folder 'absent'"),
    (["export", *MODEL, "-o", "model.pb"], "--out='model.pb': name a file that ends in .onnx (ONNX) or .pt2"),
    (["export", *MODEL, "-o", "absent/model.pt2"], "name a file that ends in .pt2, in a folder that exists"),
    (["export", *MODEL, "-o", "model.onnx", "--quantize", "int8_static"], "--quantize and --calibration go together"),
    (["export", *MODEL, "-o", "m.pt2", "--quantize", "int8_static", "--calibration", "."], "with an .onnx file"),
    (["export", *MODEL, "-o", "m.onnx", "--quantize", "int8_static", "--calibration", "no"], "there is no image in it"),
    (
        ["export", *MODEL, "-o", "m.onnx", "--quantize", "int8_dynamc", "--calibration", "."],
        "did you mean 'int8_dynamic'?",
    ),
    (["export", "-m", "resnet5o", "-o", "model.pt2", "--size", "big"], "--size 'big' is not integers"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES)
def test_mistakes_are_one_line_and_status_2(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    Image.radial_gradient("L").save(tmp_path / "whole.jpg")
    Image.new("F", (64, 64)).save(tmp_path / "float.tif")
    tensors = timm.create_model("test_resnet").state_dict().items()
    state = {k: v.fill_(torch.nan) if v.is_floating_point() else v for k, v in tensors}
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


def test_names_that_the_output_cannot_encode(photo, tmp_path):
    image = tmp_path / "\u732b.png"
    image.write_bytes(photo.read_bytes())
    command = [sys.executable, "-m", "autobackbone", "features", str(image), *MODEL, "-o", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    for wrong in (False, True):
        asked = [*command[:4], str(tmp_path / "\u732b2.png"), *command[5:]] if wrong else command
        answer = subprocess.run(asked, capture_output=True, text=True, check=False, env=environment)
        assert answer.returncode == (2 if wrong else 0), answer.stderr
        assert "\\u732b" in (answer.stderr if wrong else answer.stdout)
        assert answer.stderr.count("\n") == int(wrong)


def test_weights_are_listed_with_the_weights(capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["autobackbone", "list", "resnet50.a1_in1k"])
    with pytest.raises(SystemExit):
        main()
    assert (
        "no backbone matches 'resnet50.a1_in1k', which are weights; list those with --pretrained."
        in capfd.readouterr().err
    )


def test_long_lists_of_what_there_is_are_cut(capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["autobackbone", "list", "--family", "12345"])
    with pytest.raises(SystemExit):
        main()
    assert len(capfd.readouterr().err) < 300
