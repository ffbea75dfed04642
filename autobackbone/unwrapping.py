"""The module inside wrappers such as torch.compile, DDP and FSDP."""

from torch import nn

_FSDP = "_fsdp_wrapped_module"
# Names of the module inside: of torch.compile; of DataParallel, DDP, AveragedModel and the like; of FSDP; of torch's
# checkpoint_wrapper.
WRAPPED = ("_orig_mod", "module", _FSDP, "_checkpoint_wrapped_module")


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside torch.compile, DataParallel, DDP, FSDP and the like; any other model as it is.

    A wrapper is a module without parameters of its own and with one child, under the name that these wrappers use.
    """
    while isinstance(model, nn.Module):
        children = dict(model.named_children())
        name = next(iter(children), "")
        if len(children) != 1 or name not in WRAPPED or any(True for _ in model.parameters(recurse=False)):
            break
        model = children[name]
    return model


def is_flattened(model: nn.Module) -> bool:
    """Whether a model, or a part of it, is inside FSDP's wrapper, which joins parameters and renames them."""
    return any(_FSDP in name.split(".") for name, _ in model.named_modules())


def submodule(model: nn.Module, path: str) -> nn.Module:
    """Return a submodule by its path, with wrappers on the way passed over."""
    module = model
    for name in filter(None, path.split(".")):
        module = unwrap(module).get_submodule(name)
    return unwrap(module)


def path_to(model: nn.Module, module: nn.Module) -> str:
    """Return the path of a submodule, wrappers included."""
    path: str = next(path for path, each in model.named_modules() if each is module)
    return path
