"""AdamW with 16-bit weights for computing and 32-bit master copies for accumulating updates."""

from typing import Any

import torch
from torch.optim.adamw import adamw


class MasterWeightAdamW(torch.optim.AdamW):
    """AdamW with a float32 master copy of every parameter.

    In bf16 a weight has 8 bits of mantissa: an update of less than a 256th of the weight is rounded away, and at
    the learning rates of DPO most updates are that small. Autocast over float32 parameters avoids that too, but casts
    every activation of every adapter back and forth.

    The state holds the master copies, so that a resumed training continues from them, not from rounded weights.
    Parameters are only written to in place: those that FSDP shards are views of memory that FSDP owns.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the master copies, then round them into the parameters."""
        if closure is not None:
            raise ValueError("a closure would compute gradients on the master weights")
        for group in self.param_groups:
            # One by one: float32 copies of all gradients would be as large as the master copies.
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self._state_of(parameter)
                adamw(
                    [state["master"]],
                    [parameter.grad.float()],
                    [state["exp_avg"]],
                    [state["exp_avg_sq"]],
                    [],
                    [state["step"]],
                    amsgrad=False,
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    maximize=False,
                )
                parameter.copy_(state["master"])
                parameter.grad = None

    def _state_of(self, parameter: torch.Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            master = parameter.detach().to(torch.float32, copy=True)
            state |= {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
                "master": master,
            }
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state in float32, and the parameters from its master copies; torch would cast it to 16 bits."""
        super().load_state_dict(state_dict)
        # The state's keys are the parameters' positions or, where FSDP saved it, their names.
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for key, parameter in zip(keys, parameters, strict=True):
            if key in state_dict["state"]:
                self.state[parameter] = {
                    name: value.to(parameter.device) if name != "step" else value
                    for name, value in state_dict["state"][key].items()
                }
                parameter.copy_(self.state[parameter]["master"])
