"""Near duplicates are the connected components that a comparison of all pairs gives."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from autobackbone import ConfigError, create_backbone, extract_features, open_features
from autobackbone.cli import app
from autobackbone.extraction import duplicates
from autobackbone.extraction.duplicates import connected, near_duplicates


def run(*args: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def components(features: torch.Tensor, least: float, contents: list[str]) -> list[int]:
    """Compare all pairs, and walk from row to row."""
    unit = torch.nn.functional.normalize(features.flatten(1).double(), dim=1)
    similarities = unit @ unit.T
    assume(not ((similarities - least).abs() < 1e-5).any())  # where rounding decides
    labels = [-1] * len(features)
    for start in range(len(features)):
        waiting = [start] if labels[start] < 0 else []
        while waiting:
            i = waiting.pop()
            labels[i] = start
            waiting += [
                j
                for j in range(len(features))
                if labels[j] < 0 and (similarities[i, j] > least or contents[i] == contents[j])
            ]
    return labels


@given(st.data())
def test_groups_are_connected_components(data):
    count = data.draw(st.integers(0, 40), "count")
    seed = data.draw(st.integers(0, 2**32 - 1), "seed")
    shape = data.draw(st.sampled_from([(2,), (5,), (3, 2, 2)]), "shape")
    least = data.draw(st.floats(0.05, 0.999), "least")
    contents = data.draw(st.lists(st.integers(0, 60).map(str), min_size=count, max_size=count), "contents")
    rows, columns = data.draw(st.integers(1, 50), "rows"), data.draw(st.integers(1, 50), "columns")
    features = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_ROWS", rows)
        patch.setattr(duplicates, "_COLUMNS", columns)
        labels = connected(features, least, contents)
    assert labels.tolist() == components(features, least, contents)


@given(st.integers(1, 30), st.data())
def test_a_chain_is_one_group(length, data):
    order = data.draw(st.permutations(range(length)))
    angles = torch.tensor(order) * 0.1
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels = connected(features, torch.tensor(0.11).cos().item(), [str(i) for i in range(length)])
    assert labels.tolist() == [0] * length


@pytest.fixture(scope="module")
def out(photo, tmp_path_factory):
    """A table of a photograph, an exact copy of it, one that was saved again, and noise."""
    folder = tmp_path_factory.mktemp("photos")
    shutil.copy(photo, folder / "cat.png")
    shutil.copy(photo, folder / "copy.png")
    with Image.open(photo) as image:
        image.save(folder / "again.jpg", quality=90)
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).convert("L").resize((64, 64)).save(folder / "other.png")
    for i in range(2):
        noise = torch.randint(0, 255, (64, 64, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(folder / f"noise{i}.png")
    output = tmp_path_factory.mktemp("tables") / "out"
    extract_features(create_backbone("test_resnet", pretrained=False), folder, output)
    return output


def test_groups_of_a_table(out):
    table = open_features(out)
    groups = near_duplicates(table, 0.9999)
    group = groups[0]
    assert [image.id for image in group.images] == ["again.jpg", "cat.png", "copy.png"]
    assert not group.is_exact
    similarities = [dict(table.nearest(a.id))[b.id] for a in group.images for b in group.images if a != b]
    assert group.similarity == pytest.approx(min(similarities), abs=1e-6)
    (exact,) = near_duplicates(table, 1.0)
    assert exact.is_exact
    assert [image.id for image in exact.images] == ["cat.png", "copy.png"]
    sizes = [(-len(group.images), -group.similarity) for group in near_duplicates(table, 0.9)]
    assert sizes == sorted(sizes)


def test_command(out):
    answer = json.loads(run("duplicates", out, "--min-similarity", 0.9999, "--json"))
    assert answer["images"] == 6
    first = answer["groups"][0]
    assert [image["id"] for image in first["images"]] == ["again.jpg", "cat.png", "copy.png"]
    assert first["exact"] is False
    text = run("duplicates", out, "--min-similarity", 0.9999)
    assert text.startswith("3 images, similarity 0.")
    assert text.count("(has an exact copy here)") == 2
    assert "RANDOM WEIGHTS" in text
    text = run("duplicates", out, "--min-similarity", 1)
    assert text.startswith("2 images, the same file\n  cat.png\n  copy.png\n")
    assert "6 images, 2 of them in 1 group\n" in text


def test_none(tmp_path, photo):
    extract_features(create_backbone("test_resnet", pretrained=False), [photo], tmp_path / "out")
    assert near_duplicates(open_features(tmp_path / "out")) == []
    assert "no two have a similarity of 0.98 or more" in run("duplicates", tmp_path / "out")


@pytest.mark.parametrize("value", [0, -1, 1.01, float("nan"), "a", True])
def test_no_similarity(out, value):
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        near_duplicates(open_features(out), value)
