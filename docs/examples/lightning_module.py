"""A LightningModule with automatic optimization and gradient accumulation."""

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import mtlkit

Batch = tuple[Tensor, Tensor, Tensor]


class Lit(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.balanced = mtlkit.Balanced("rotograd", tasks=("distance", "color"), features=32)  # 1: a part of the module
        self.head = nn.ModuleDict({"distance": nn.Linear(32, 1), "color": nn.Linear(32, 3)})

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        image, distance, color = batch
        z = self.balanced(self.encoder(image))  # 2: the features, as each task's head gets them
        return {
            "distance": F.mse_loss(self.head["distance"](z["distance"]), distance),
            "color": F.cross_entropy(self.head["color"](z["color"]), color),
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.balanced.loss(self.losses(batch))  # 3: Lightning calls backward on it

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # without gradients, nothing is balanced
        self.log_dict({f"val/{name}": loss for name, loss in self.losses(batch).items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        self.balanced.follow(optimizer)  # 1: its state moves when this optimizer steps
        return optimizer


if __name__ == "__main__":
    torch.manual_seed(0)
    image = torch.randn(512, 8)
    data = TensorDataset(image, image[:, :2].sum(dim=1, keepdim=True).sin(), image[:, 2:5].argmax(dim=1))
    module = Lit()
    trainer = lightning.Trainer(
        max_epochs=5,
        accelerator="cpu",
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(data, batch_size=32), DataLoader(data, batch_size=256))
    print(module.balanced.number, {name: round(float(loss), 3) for name, loss in trainer.callback_metrics.items()})
    print({name: round(value, 3) for name, value in module.balanced.scalars().items()})
