"""An ordinary PyTorch loop. RotoGrad balances two tasks: a distance (one number) and a colour (one of three)."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mtlkit

torch.manual_seed(0)
image = torch.randn(512, 8)
distance, color = image[:, :2].sum(dim=1, keepdim=True).sin(), image[:, 2:5].argmax(dim=1)
loader = DataLoader(TensorDataset(image, distance, color), batch_size=32, shuffle=True)

encoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
head = nn.ModuleDict({"distance": nn.Linear(32, 1), "color": nn.Linear(32, 3)})
loss_of = {"distance": nn.MSELoss(), "color": nn.CrossEntropyLoss()}
optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-2)

balanced = mtlkit.Balanced("rotograd", tasks=("distance", "color"), features=32)  # new: any of the balancers
balanced.follow(optimizer)  # new: its state moves when this optimizer steps

for epoch in range(5):
    for image, *labels in loader:
        target = dict(zip(("distance", "color"), labels, strict=True))
        z = balanced(encoder(image))  # new: the features, as each task's head gets them
        losses = {name: loss_of[name](head[name](z[name]), target[name]) for name in z}
        balanced.loss(losses).backward()  # was: sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    print(epoch, {name: round(float(loss.detach()), 3) for name, loss in losses.items()})

print({name: round(value, 3) for name, value in balanced.scalars().items()})
