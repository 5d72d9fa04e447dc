"""Schema of the conf group `accelerate`: the config file of `accelerate launch`, with the keys that are used here.

The names are accelerate's own, and it alone reads them; it ignores names that it does not know, so they are fixed here.
`num_processes` is added from the group `train`.
"""

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class AccelerateConfig:
    """How the processes of a training share it: the part that all kinds share."""

    distributed_type: str = MISSING


@dataclass
class DdpAccelerate(AccelerateConfig):
    """Each process holds the whole model."""

    distributed_type: str = "MULTI_GPU"


@dataclass
class FsdpOptions:
    """Of torch's FSDP."""

    fsdp_version: int = MISSING
    fsdp_reshard_after_forward: bool = MISSING
    fsdp_auto_wrap_policy: str = MISSING
    fsdp_offload_params: bool = MISSING
    fsdp_state_dict_type: str = MISSING
    fsdp_cpu_ram_efficient_loading: bool = MISSING


@dataclass
class FsdpAccelerate(AccelerateConfig):
    """Weights, gradients and the optimizer's state are cut into shards."""

    distributed_type: str = "FSDP"
    fsdp_config: FsdpOptions = field(default_factory=FsdpOptions)


@dataclass
class DeepSpeedOptions:
    """Of DeepSpeed's ZeRO."""

    zero_stage: int = MISSING
    offload_optimizer_device: str = MISSING
    offload_param_device: str = MISSING
    zero3_init_flag: bool = MISSING
    zero3_save_16bit_model: bool = MISSING


@dataclass
class DeepSpeedAccelerate(AccelerateConfig):
    """ZeRO's stages 2 and 3."""

    distributed_type: str = "DEEPSPEED"
    deepspeed_config: DeepSpeedOptions = field(default_factory=DeepSpeedOptions)
