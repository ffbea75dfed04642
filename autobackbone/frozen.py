"""What is frozen of a module: parameters without gradients, and modules that stay in evaluation mode."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn


@dataclass
class Frozen:
    """What is frozen of a module, by names in it. Stages and norms are frozen and thawed without regard to each other.

    Attributes
    ----------
    stages
        Parameters of the stages that are frozen.
    stage_eval_modules
        Modules that stay in evaluation mode with them, for as long as nobody thaws their parameters by hand.
    norms
        Parameters of the norms that are frozen.
    norm_eval_modules
        Norms that stay in evaluation mode, whether their parameters are trained or not.
    untrained
        Of the parameters, those that required a gradient before.
    """

    stages: frozenset[str] = frozenset()
    stage_eval_modules: frozenset[str] = frozenset()
    norms: frozenset[str] = frozenset()
    norm_eval_modules: frozenset[str] = frozenset()
    untrained: frozenset[str] = field(default=frozenset(), repr=False)

    def freeze_stages(self, module: nn.Module, parameters: Iterable[str], modules: Iterable[str]) -> None:
        """Freeze stages instead of those that are."""
        self.stages, self.stage_eval_modules = frozenset(parameters), frozenset(modules)
        self._switch(module)

    def freeze_norms(self, module: nn.Module, parameters: Iterable[str], modules: Iterable[str]) -> None:
        """Freeze norms instead of those that are."""
        self.norms, self.norm_eval_modules = frozenset(parameters), frozenset(modules)
        self._switch(module)

    def set_eval(self, module: nn.Module) -> None:
        """Put what is frozen of a module that was put into training mode into evaluation mode."""
        if not self.stage_eval_modules and not self.norm_eval_modules:
            return
        parameters = dict(module.named_parameters())
        thawed = [name for name in self.stages & parameters.keys() if parameters[name].requires_grad]
        for name, part in module.named_modules():
            part.training = name not in self.norm_eval_modules and (
                name not in self.stage_eval_modules or _is_thawed(name, parameters, thawed)
            )

    def _switch(self, module: nn.Module) -> None:
        parameters = dict(module.named_parameters())
        wanted = self.stages | self.norms
        for name in (self.untrained - wanted) & parameters.keys():
            parameters[name].requires_grad = True
        switched = {name for name in wanted & parameters.keys() if parameters[name].requires_grad}
        for name in switched:
            parameters[name].requires_grad = False
        self.untrained = frozenset(switched | (self.untrained & wanted))


def _is_thawed(name: str, parameters: Iterable[str], thawed: list[str]) -> bool:
    """Whether parameters of a module were thawed by hand; of one without any, those of the module that it is in."""
    while thawed and name and not any(key.startswith(f"{name}.") for key in parameters):
        name = name.rpartition(".")[0]
    return any(not name or key.startswith(f"{name}.") for key in thawed)
