"""A loop with Lightning Fabric and gradient accumulation."""

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import mtlkit


class Net(nn.Module):
    """Encoder, balancer and heads in one module, as Fabric wraps it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.balanced = mtlkit.Balanced("rotograd", tasks=("distance", "color"), features=32)  # 1: a part of the model
        self.head = nn.ModuleDict({"distance": nn.Linear(32, 1), "color": nn.Linear(32, 3)})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        z = self.balanced(self.encoder(image))  # 2: the features, as each task's head gets them
        return {name: self.head[name](z[name]) for name in z}


def main() -> None:
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1)
    image = torch.randn(512, 8)
    data = TensorDataset(image, image[:, :2].sum(dim=1, keepdim=True).sin(), image[:, 2:5].argmax(dim=1))
    loader = fabric.setup_dataloaders(DataLoader(data, batch_size=32))
    net = Net()
    balanced = net.balanced
    model, optimizer = fabric.setup(net, torch.optim.Adam(net.parameters(), lr=1e-2))
    balanced.follow(optimizer)  # 1: the wrapped optimizer, or the one inside it

    for _ in range(5):
        for number, (image, distance, color) in enumerate(loader, 1):
            complete = number % 2 == 0  # two micro-batches per optimizer step
            with fabric.no_backward_sync(model, enabled=not complete):
                output = model(image)
                losses = {
                    "distance": F.mse_loss(output["distance"], distance),
                    "color": F.cross_entropy(output["color"], color),
                }
                fabric.backward(balanced.loss(losses) / 2)  # 3: in place of the sum of the losses
            if complete:
                optimizer.step()
                optimizer.zero_grad()

    print(balanced.number, {name: round(float(loss.detach()), 3) for name, loss in losses.items()})
    print({name: round(value, 3) for name, value in balanced.scalars().items()})


if __name__ == "__main__":
    main()
