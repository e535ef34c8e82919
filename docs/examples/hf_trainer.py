"""A Trainer of Hugging Face's transformers with a small ViT."""

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments, ViTConfig, ViTModel

import mtlkit

Batch = dict[str, Tensor]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        config = ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4
        )
        self.encoder = ViTModel(config, add_pooling_layer=False)
        self.balanced = mtlkit.Balanced("rotograd", tasks=("light", "color"), features=16)  # 1: a part of the model
        self.head = nn.ModuleDict({"light": nn.Linear(16, 1), "color": nn.Linear(16, 3)})

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        tokens = self.encoder(pixel_values).last_hidden_state  # (B, N, C)
        z = self.balanced(tokens)  # 2: the features, as each task's head gets them
        return {name: self.head[name](z[name].mean(dim=1)) for name in z}


class BalancedTrainer(Trainer):
    def __init__(self, net: Net, *args: Any, **options: Any) -> None:
        super().__init__(net, *args, **options)
        self.balanced = net.balanced

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        output = model(inputs["pixel_values"])
        losses = {
            "light": F.mse_loss(output["light"][:, 0], inputs["light"]),
            "color": F.cross_entropy(output["color"], inputs["color"]),
        }
        loss = self.balanced.loss(losses)  # 3: the Trainer calls backward on it; in an evaluation, it is the sum
        return (loss, output) if return_outputs else loss

    def create_optimizer(self, *args: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args)
        self.balanced.follow(optimizer)  # 1: its state moves when this optimizer steps
        return optimizer


def sample() -> Batch:
    """Noise. `light`: how bright it is. `color`: which of the three channels is the brightest."""
    channels = torch.rand(3)
    picture = channels.view(3, 1, 1) + 0.1 * torch.randn(3, 8, 8)
    return {"pixel_values": picture, "light": channels.mean(), "color": channels.argmax()}


if __name__ == "__main__":
    torch.manual_seed(0)
    data = [sample() for _ in range(256)]
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            num_train_epochs=5,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            use_cpu=True,
            remove_unused_columns=False,
            label_names=["light", "color"],
            prediction_loss_only=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
        )
        trainer = BalancedTrainer(Net(), args, train_dataset=data, eval_dataset=data)
        trainer.train()
        print(trainer.balanced.number, round(trainer.evaluate()["eval_loss"], 3))
        print({name: round(value, 3) for name, value in trainer.balanced.scalars().items()})
