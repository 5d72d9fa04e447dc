"""Kinds of the conf group `accelerate`: the config file of `accelerate launch`, with the keys that are used here.

The names are accelerate's own, and it alone reads them; it ignores names that it does not know, so they are fixed here.
`num_processes` is added from the group `train`.
"""

from dataclasses import dataclass

from tpo.config.fields import Settings, setting
from tpo.config.groups import AccelerateConfig


@dataclass
class DdpAccelerate(AccelerateConfig):
    """Each process holds the whole model."""

    distributed_type: str = setting("MULTI_GPU")


@dataclass
class FsdpOptions(Settings):
    """Of torch's FSDP."""

    fsdp_version: int = setting(choices=(2,))
    fsdp_reshard_after_forward: bool = setting()
    fsdp_auto_wrap_policy: str = setting()
    fsdp_offload_params: bool = setting()
    fsdp_state_dict_type: str = setting()
    fsdp_cpu_ram_efficient_loading: bool = setting(choices=(False,))


@dataclass
class FsdpAccelerate(AccelerateConfig):
    """Weights, gradients and the optimizer's state are cut into shards."""

    distributed_type: str = setting("FSDP")
    fsdp_config: FsdpOptions = setting(FsdpOptions)


@dataclass
class DeepSpeedOptions(Settings):
    """Of DeepSpeed's ZeRO."""

    zero_stage: int = setting(choices=(2, 3))
    offload_optimizer_device: str = setting()
    offload_param_device: str = setting()
    zero3_init_flag: bool = setting(choices=(False,))
    zero3_save_16bit_model: bool = setting()


@dataclass
class DeepSpeedAccelerate(AccelerateConfig):
    """ZeRO's stages 2 and 3."""

    distributed_type: str = setting("DEEPSPEED", packages={"DEEPSPEED": "deepspeed"})
    deepspeed_config: DeepSpeedOptions = setting(DeepSpeedOptions)
