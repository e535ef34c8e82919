"""Trains the toy under DeepSpeed's ZeRO on gloo processes, beside DDP. Stores how far they are apart.

RANK=0 WORLD_SIZE=2 ... python tests/zero_worker.py OUT.json
"""

import contextlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import deepspeed
import torch
from accelerate import DistributedType
from accelerate.utils.deepspeed import DeepSpeedEngineWrapper, DeepSpeedOptimizerWrapper

sys.path.insert(0, str(Path(__file__).parent))
STEPS = 4
CASES = {
    "mgda": {"decoder_gradients": "plain"},
    "rotograd": {"schedule": "cosine", "warmup_steps": 2},
    "famo": {"clip_norm": 0.05, "decoder_gradients": "plain"},  # looks at the losses again after the step
    "uniform": {"accumulation": 2},
}


class Zero:
    """The accelerator of this process with what Accelerate's own does under DeepSpeed, which it has for GPUs only."""

    distributed_type = DistributedType.DEEPSPEED
    scaler = None

    def __init__(self, own, stage, steps):
        self.__dict__ |= {"own": own}
        self.deepspeed_plugin = SimpleNamespace(
            deepspeed_config={
                "zero_optimization": {"stage": stage},
                "gradient_accumulation_steps": steps,
                "gradient_clipping": "auto",
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
            }
        )

    def __getattr__(self, name):
        return getattr(self.own, name)

    def prepare(self, model, optimizer):
        engine, optimizer, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=self.deepspeed_plugin.deepspeed_config
        )
        self.wrapped = DeepSpeedEngineWrapper(engine)
        return engine, DeepSpeedOptimizerWrapper(optimizer)

    def unwrap_model(self, model):
        return model.module

    def accumulate(self, *models):
        self.own._do_sync()
        return contextlib.nullcontext()

    def backward(self, loss):
        self.wrapped.backward(loss, sync_gradients=self.own.sync_gradients)

    def clip_grad_norm_(self, parameters, longest):
        return self.wrapped.get_global_grad_norm()


def share(batch, micro, count):
    from mtlkit import distributed

    size = 8 // (2 * count)
    rows = slice((micro * 2 + distributed.rank()) * size, (micro * 2 + distributed.rank() + 1) * size)
    return {"image": batch["image"][rows], "targets": {k: t[rows] for k, t in batch["targets"].items()}}


def run(toys, method, trainer, stage=None):
    make, count = toys.make_accelerator, trainer.get("accumulation", 1)
    if stage is not None:
        toys.make_accelerator = lambda config: Zero(make(config), stage, count)
    try:
        more = {"options": {"space": "features"}} if method == "mgda" else {}
        engine = toys.make_engine(method, precision="fp32", optimizer="sgd", lr=0.1, **more, **trainer)
    finally:
        toys.make_accelerator = make
    rates = []
    for number in range(STEPS):
        batch = toys.make_batch(number)
        if number == 2:
            batch = toys.without(batch, "depth", slice(4, 8))  # on one process
        for micro in range(count):
            engine.train_step(share(batch, micro, count))
        rates.append([group["lr"] for group in engine.optimizer.param_groups])
    state = {f"model.{k}": v for k, v in engine.network.state_dict().items()}
    state |= {f"balancer.{k}": v for k, v in engine.balancer.state_dict().items()}
    return {k: v.detach().double().clone() for k, v in state.items()}, rates


def main():
    import toys

    from mtlkit import distributed

    torch.set_num_threads(1)
    distributed.start()
    found = {}
    for method, trainer in CASES.items():
        plain, rates = run(toys, method, trainer)
        for stage in (1, 2):
            state, others = run(toys, method, trainer, stage)
            assert state.keys() == plain.keys()
            found[f"{method}/{stage}"] = {
                "gap": max(float((v - state[k]).abs().max()) for k, v in plain.items()),
                "rates": others == rates,
            }
    if distributed.rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
