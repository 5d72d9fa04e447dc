"""AdamW whose weights are held in 16 bits for computing and in 32 bits for accumulating."""

from typing import Any

import torch


class MasterWeightAdamW(torch.optim.AdamW):
    """AdamW with a float32 master copy of every parameter.

    In bf16 a weight has 8 bits of mantissa: a step of less than a 256th of the weight rounds to nothing, and at
    the learning rates of DPO most steps are. Autocast over float32 parameters avoids that too, but casts every
    activation of every adapter back and forth.

    The state holds the master copies, so that a resumed training continues from them, not from rounded weights.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the master copies, then round them into the parameters."""
        if closure is not None:
            raise ValueError("a closure would compute gradients on the master weights")
        dtypes = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient, dtypes[parameter] = parameter.grad.float(), parameter.dtype
                parameter.grad = None  # its dtype must be the weight's, which changes now
                parameter.data = self.state.get(parameter, {}).get("master", parameter.data.float())
                parameter.grad = gradient
        super().step()
        for parameter, dtype in dtypes.items():
            parameter.grad = None
            self.state[parameter]["master"] = parameter.data
            parameter.data = parameter.data.to(dtype, copy=True)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state as it was saved; torch alone would cast it to the parameters' 16 bits."""
        super().load_state_dict(state_dict)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, values in state_dict["state"].items():
            parameter = parameters[index]
            self.state[parameter] = {
                name: value.to(parameter.device) if name != "step" else value for name, value in values.items()
            }
