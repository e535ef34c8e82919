"""A loop with Accelerate, on any number of processes, with gradient accumulation and checkpoints.

python docs/examples/accelerate_loop.py [FOLDER OF THE CHECKPOINT]
torchrun --nproc_per_node 2 docs/examples/accelerate_loop.py
"""

import sys

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import mtlkit


class Net(nn.Module):
    """Encoder, balancer and heads in one module, so that DDP and `save_state` see one model."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.balanced = mtlkit.Balanced("mgda", tasks=("distance", "color"))  # 1: a part of the model
        self.head = nn.ModuleDict({"distance": nn.Linear(32, 1), "color": nn.Linear(32, 3)})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        z = self.balanced(self.encoder(image))  # 2: the features, as each task's head gets them
        return {name: self.head[name](z[name]) for name in z}


def main(folder: str) -> None:
    torch.manual_seed(0)
    image = torch.randn(512, 8)
    distance, color = image[:, :2].sum(dim=1).sin(), image[:, 2:5].argmax(dim=1)
    distance[::3] = torch.nan  # every third sample has no distance

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    loader = DataLoader(TensorDataset(image, distance, color), batch_size=16 // accelerator.num_processes)
    net = Net()
    model, optimizer, loader = accelerator.prepare(net, torch.optim.Adam(net.parameters(), lr=1e-2), loader)
    net.balanced.follow(optimizer)  # 1: the wrapped optimizer, or the one inside it

    for _ in range(5):
        for image, distance, color in loader:
            with accelerator.accumulate(model):
                output = model(image)
                known = ~distance.isnan()
                losses = {  # sum and number: exact where the processes have unequal numbers of labels
                    "distance": (
                        F.mse_loss(output["distance"][known, 0], distance[known], reduction="sum"),
                        known.sum(),
                    ),
                    "color": (F.cross_entropy(output["color"], color, reduction="sum"), len(color)),
                }
                accelerator.backward(net.balanced.loss(losses))  # 3: in place of the sum of the losses
                optimizer.step()
                optimizer.zero_grad()

    accelerator.save_state(folder)  # network and balancer: the latter is a part of the model
    accelerator.wait_for_everyone()
    accelerator.load_state(folder)
    accelerator.print(f"{net.balanced.number} steps on {accelerator.num_processes} processes")
    accelerator.print({name: round(value, 3) for name, value in net.balanced.scalars().items()})
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/accelerate_loop")
