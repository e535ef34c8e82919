"""Trains the toy on two processes: compiled code, checkpointing, an overflow on one process. Stores what it finds.

RANK=0 WORLD_SIZE=2 ... python tests/memory_worker.py OUT.json
"""

import itertools
import json
import math
import sys
import warnings
from pathlib import Path

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).parent))
from splits import by_blocks

warnings.simplefilter("error")
warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)

STEPS = 4
METHODS = {  # one with weights, one with a state, and one for each of the other spaces
    "mgda": {"space": "features"},
    "rotograd": {},
    "gradnorm": {"space": "last_layer"},
    "cagrad": {"space": "parameters"},
}


class Overflow(torch.autograd.Function):
    """An identity whose gradient is infinite."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * math.inf


def share(batch):
    from mtlkit import distributed

    rows = slice(4 * distributed.rank(), 4 * distributed.rank() + 4)
    return {"image": batch["image"][rows], "targets": {k: t[rows] for k, t in batch["targets"].items()}}


def state_of(engine):
    found = {f"model.{k}": v for k, v in engine.network.state_dict().items()}
    found |= {f"balancer.{k}": v for k, v in engine.balancer.state_dict().items()}
    whole = {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in found.items()}
    return {k: v.detach().double().nan_to_num(7).clone() for k, v in whole.items()}


def spread(state):
    """Returns how far the processes are apart."""
    from mtlkit.sample_group import SampleGroup

    group = SampleGroup()
    return max(float((v - group.sum(v) / group.size).abs().max()) for v in state.values())


def gap(one, two):
    """Returns the largest difference of two states, each tensor by its largest number."""
    assert one.keys() == two.keys()
    return max(float((v - two[k]).abs().max() / (v.abs().max() + 1e-2)) for k, v in one.items())


def overflow(toys, method):
    """An overflow on the second process in step 1, in fp16 with a loss scaler."""
    from mtlkit import distributed

    engine = toys.make_engine(method, options=METHODS[method], precision="fp32", optimizer="sgd", lr=0.01)
    # The scaler that Accelerate makes for fp16 on GPUs, and its autocast.
    scaler = engine.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    engine.optimizer = AcceleratedOptimizer(engine.optimizer.optimizer, device_placement=False, scaler=scaler)
    plain = engine.model.forward

    def forward(*given, **named):
        with torch.autocast("cpu", torch.float16):
            return {name: output.float() for name, output in plain(*given, **named).items()}

    engine.model.forward = forward
    states, scales = [state_of(engine)], []
    for number in range(STEPS):
        hook = None
        if number == 1 and distributed.rank() == 1:
            hook = engine.network.decoders["depth"].register_forward_hook(lambda m, given, out: Overflow.apply(out))
        engine.train_step(share(toys.make_batch(number)))
        if hook is not None:
            hook.remove()
        states.append(state_of(engine))
        scales.append(scaler.get_scale())
    return {
        "moved": [gap(a, b) for a, b in itertools.pairwise(states)],
        "scales": scales,
        "spread": max(spread(state) for state in states),
    }


def stopped(toys, method):
    """The same in bf16, which has no scaler: the words of the error, on this process."""
    from mtlkit import distributed
    from mtlkit.errors import StepError

    engine = toys.make_engine(method, options=METHODS[method], precision="bf16")
    if distributed.rank() == 1:
        engine.network.decoders["depth"].register_forward_hook(lambda m, given, out: Overflow.apply(out))
    before = state_of(engine)
    try:
        engine.train_step(share(toys.make_batch()))
    except StepError as error:
        return {"error": str(error), "moved": gap(before, state_of(engine))}
    return {"error": ""}


def train(toys, method, counter=None, **more):
    counts = []
    engine = toys.make_engine(method, options=METHODS[method], optimizer="sgd", lr=0.1, **more)
    for number in range(STEPS):
        engine.train_step(share(toys.make_batch(number)))
        counts.append(counter.frame_count if counter else 0)
    state = state_of(engine)
    return state, counts


def with_blocks(toys):
    class Blocks(toys.ToyEncoder):
        """A toy encoder that can compute its activations again."""

        again = False

        def set_checkpointing(self) -> None:
            self.again = True

        def forward(self, image):
            levels = []
            for part in (self.first, self.second):
                image = torch.tanh(checkpoint(part, image, use_reentrant=False) if self.again else part(image))
                levels.append(image)
            return levels

    return Blocks


def main():
    import toys

    from mtlkit import distributed
    from mtlkit.engine import faster
    from mtlkit.engine.checkpointing import checkpoint_activations

    torch.set_num_threads(1)
    counter = faster.BACKEND = CompileCounterWithBackend("aot_eager")
    found = {
        "overflow": {method: overflow(toys, method) for method in METHODS},
        "stopped": {method: stopped(toys, method) for method in ("mgda", "cagrad")},
        "same": {},
    }
    encoder = with_blocks(toys)
    for method in ("mgda", "cagrad"):
        for name, shard in (("DDP", None), ("blocks", by_blocks)):
            plain, _ = train(toys, method, encoder=encoder, shard=shard)
            compiled, counts = train(toys, method, counter, encoder=encoder, shard=shard, compile=True)

            def again(model, shard=shard):
                checkpoint_activations(model)
                if shard is not None:
                    shard(model)

            checkpointed, zero = train(toys, method, encoder=encoder, shard=again)
            same = {"compiled": (compiled, counts), "checkpointing": (checkpointed, zero)}
            for what, (state, numbers) in same.items():
                case = {"gap": gap(plain, state), "spread": spread(state), "counts": numbers}
                found["same"][f"{what}/{method}/{name}"] = case
    every = [None, None]
    torch.distributed.all_gather_object(every, found)
    if distributed.rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(every))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
