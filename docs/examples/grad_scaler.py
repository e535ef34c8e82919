"""Mixed precision by autocast and a GradScaler. A step that the scaler skips moves nothing, no state either."""

import torch
from torch import nn

import mtlkit

torch.manual_seed(0)
image = torch.randn(512, 8)
target = {"distance": image[:, :2].sum(dim=1, keepdim=True).sin(), "color": image[:, 2:5].argmax(dim=1)}
encoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
head = nn.ModuleDict({"distance": nn.Linear(32, 1), "color": nn.Linear(32, 3)})
loss_of = {"distance": nn.MSELoss(), "color": nn.CrossEntropyLoss()}
optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-2)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)  # too large: the first gradients overflow

balanced = mtlkit.Balanced("rotograd", tasks=("distance", "color"), features=32)  # 1: any of the balancers
balanced.follow(optimizer)  # 1: its state moves when this optimizer steps

skipped = 0
for _ in range(100):
    with torch.autocast("cpu", torch.float16):
        z = balanced(encoder(image))  # 2: the features, as each task's head gets them
        output = {name: head[name](z[name]) for name in z}
    losses = {name: loss_of[name](output[name].float(), target[name]) for name in z}
    scaler.scale(balanced.loss(losses)).backward()  # 3: in place of the sum of the losses
    before = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    skipped += scaler.get_scale() < before

print(f"{balanced.number} steps, {skipped} skipped")
print({name: round(value, 3) for name, value in balanced.scalars().items()})
