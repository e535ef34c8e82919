"""An ordinary PyTorch loop. RotoGrad balances two tasks: a distance (one number) and a colour (one of three)."""

import torch
from torch import nn

import mtlkit

torch.manual_seed(0)
pixels = torch.randn(512, 8)
labels = {"distance": pixels[:, :2].sum(dim=1, keepdim=True).sin(), "color": pixels[:, 2:5].argmax(dim=1)}
parts = [slice(start, start + 32) for start in range(0, 512, 32)]
loader = [(pixels[part], {name: label[part] for name, label in labels.items()}) for part in parts] * 5

encoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
head = nn.ModuleDict({"distance": nn.Linear(32, 1), "color": nn.Linear(32, 3)})
loss_of = {"distance": nn.MSELoss(), "color": nn.CrossEntropyLoss()}
optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-2)

balanced = mtlkit.Balanced("rotograd", tasks=("distance", "color"))  # 1: any of the balancers
balanced.follow(optimizer)  # 1: its state moves when this optimizer steps

for image, target in loader:
    z = balanced(encoder(image))  # 2: the features, as each task's head gets them
    losses = {name: loss_of[name](head[name](z[name]), target[name]) for name in z}
    balanced.loss(losses).backward()  # 3: in place of sum(losses.values()).backward()
    optimizer.step()
    optimizer.zero_grad()

print(f"{balanced.number} steps")
print({name: round(value, 3) for name, value in balanced.scalars().items()})
