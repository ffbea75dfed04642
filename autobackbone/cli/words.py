"""What the package says of its arguments, in the words of the command line."""

import re

import click

_RENAMED = {"out_strides": "--strides", "out_indices": "--indices", "pretrained_only": "--pretrained"}


def in_options(message: str, app: click.Group) -> str:
    """Write the arguments of functions as options of commands: ``weights='a.pth'`` as ``--weights 'a.pth'``."""
    options = {
        parameter.human_readable_name.rstrip("_"): parameter.opts[0]
        for command in app.commands.values()
        for parameter in command.params
        if isinstance(parameter, click.Option)
    } | _RENAMED
    message = message.replace("pretrained=False", "--random-weights")
    message = re.sub(rf"(?<![-\w])({'|'.join(options)})= ?", lambda found: f"{options[found[1]]} ", message)
    named = "|".join(name for name in options if "_" in name)  # others are words of English, too
    message = re.sub(rf"(?<![-\w'])({named})\b(?!=)", lambda found: options[found[1]], message)
    message = re.sub(r"(--img-size|--size) \((\d+), (\d+)\)", r"\1 \2x\3", message)
    return re.sub(r"(--strides|--indices) [(\[]([-\d, ]*?),?[)\]]", _listed, message)


def _listed(found: re.Match[str]) -> str:
    return f"{found[1]} {found[2].replace(' ', '')}"
