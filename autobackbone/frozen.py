"""The frozen parts of a module: parameters without gradients, and modules that stay in evaluation mode."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn


@dataclass
class Frozen:
    """The frozen parts of a module, by name. Stages and norms are frozen and unfrozen independently.

    Attributes
    ----------
    stages
        Parameters of the frozen stages.
    stage_eval_modules
        Modules of the frozen stages. They stay in evaluation mode until someone unfreezes their parameters by hand.
    norms
        Frozen parameters of the frozen norms.
    norm_eval_modules
        Frozen norms. They stay in evaluation mode even if their parameters are trained.
    untrained
        Frozen parameters that required a gradient before.
    """

    stages: frozenset[str] = frozenset()
    stage_eval_modules: frozenset[str] = frozenset()
    norms: frozenset[str] = frozenset()
    norm_eval_modules: frozenset[str] = frozenset()
    untrained: frozenset[str] = field(default=frozenset(), repr=False)

    def freeze_stages(self, module: nn.Module, parameters: Iterable[str], modules: Iterable[str]) -> None:
        """Freeze stages; unfreeze those frozen before."""
        self.stages, self.stage_eval_modules = frozenset(parameters), frozenset(modules)
        self._set_requires_grad(module)

    def freeze_norms(self, module: nn.Module, parameters: Iterable[str], modules: Iterable[str]) -> None:
        """Freeze norms; unfreeze those frozen before."""
        self.norms, self.norm_eval_modules = frozenset(parameters), frozenset(modules)
        self._set_requires_grad(module)

    def set_eval(self, module: nn.Module) -> None:
        """Put the frozen parts of a module in training mode back into evaluation mode."""
        if not self.stage_eval_modules and not self.norm_eval_modules:
            return
        parameters = dict(module.named_parameters())
        unfrozen = [name for name in self.stages & parameters.keys() if parameters[name].requires_grad]
        for name, part in module.named_modules():
            part.training = name not in self.norm_eval_modules and (
                name not in self.stage_eval_modules or _is_unfrozen(name, parameters, unfrozen)
            )

    def _set_requires_grad(self, module: nn.Module) -> None:
        parameters = dict(module.named_parameters())
        frozen = self.stages | self.norms
        for name in (self.untrained - frozen) & parameters.keys():
            parameters[name].requires_grad = True
        newly_frozen = {name for name in frozen & parameters.keys() if parameters[name].requires_grad}
        for name in newly_frozen:
            parameters[name].requires_grad = False
        self.untrained = frozenset(newly_frozen | (self.untrained & frozen))


def _is_unfrozen(name: str, parameters: Iterable[str], unfrozen: list[str]) -> bool:
    """Whether parameters of a module were unfrozen by hand; for a module without parameters, those of its parent."""
    while unfrozen and name and not any(key.startswith(f"{name}.") for key in parameters):
        name = name.rpartition(".")[0]
    return any(not name or key.startswith(f"{name}.") for key in unfrozen)
