"""The model card of a saved backbone, in Markdown; names in it are escaped."""

import json
import re
import unicodedata

from huggingface_hub import ModelCardData

from autobackbone.input_spec import InputSpec
from autobackbone.levels import FeatureLevel

# Licenses that the Hub knows by name.
_HUB_LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "openrail")
# Characters with a meaning in a line of CommonMark, in tables, or in the Hub's formulas.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>()#|~&!$^=:@])")

_CARD = """---
{data}
---

# {heading}

A {kind} made with [autobackbone](https://pypi.org/project/autobackbone/) from {model_name}. Level *l* of a
`(B, {in_chans}, H, W)` batch of images is `(B, channels, ceil(H / stride), ceil(W / stride))`.

| level | stride | channels | module |
|---|---|---|---|
{levels}

Images: mean {mean}, standard deviation {std} of values in [0, 1]; made for {size}.

License of the weights that it was made from: {license}.

```python
from autobackbone import {loader}

{variable} = {loader}.from_pretrained({title})
features = {variable}({variable}.input_spec.normalize(images))
```
"""


_KINDS = {"FeatureBackbone": ("feature backbone", "backbone"), "FeaturePyramid": ("feature pyramid network", "fpn")}


def model_card(
    loader: str,
    title: str,
    model_name: str,
    levels: tuple[FeatureLevel, ...],
    input_spec: InputSpec,
    license_name: str | None,
) -> str:
    """Return the card, in Markdown with a YAML header.

    Parameters
    ----------
    loader
        The class that loads the backbone, ``"FeatureBackbone"`` or ``"FeaturePyramid"``.
    title
        Name of the folder or repository to load the backbone from.
    model_name
        Name of the architecture.
    levels, input_spec
        Levels and input spec of the backbone.
    license_name
        License of the published weights, if it is known.
    """
    license_name = license_name and _one_line(license_name)
    is_known = license_name in _HUB_LICENSES
    data = ModelCardData(
        library_name="autobackbone",
        license=license_name if is_known or not license_name else "other",
        license_name=None if is_known or not license_name else license_name,
        tags=["autobackbone", "feature-extraction", "backbone"],
    )
    kind, variable = _KINDS[loader]
    rows = (f"| {_text(lv.name)} | {lv.stride} | {lv.channels} | {_code(lv.module, in_table=True)} |" for lv in levels)
    return _CARD.format(
        data=data.to_yaml(),
        heading=_text(title),
        kind=kind,
        loader=loader,
        variable=variable,
        title=json.dumps(_one_line(title), ensure_ascii=False),
        model_name=_code(model_name),
        in_chans=input_spec.in_chans,
        levels="\n".join(rows),
        mean=input_spec.mean,
        std=input_spec.std,
        size=f"{input_spec.size[0]}x{input_spec.size[1]} pixels",
        license=_text(license_name) if license_name else "not known",
    )


def _one_line(text: str) -> str:
    """Return text without line breaks, control characters and lone surrogates."""
    return " ".join("".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text).split())


def _text(text: str) -> str:
    return _MARKUP.sub(r"\\\1", _one_line(text))


def _code(text: str, *, in_table: bool = False) -> str:
    """Return text as a code span; the text may contain backticks."""
    text = _one_line(text) or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text.replace('|', chr(92) + '|') if in_table else text}{space}{fence}"
