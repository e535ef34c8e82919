"""Evaluates the model of a run while it trains."""

from collections.abc import Callable, Iterable

from mtlkit.engine.engine import Engine, Record
from mtlkit.engine.evaluation import evaluate_model


def evaluate_engine(
    engine: Engine, batches: Iterable[object], phase: Callable[[str], None] = lambda words: None
) -> Record:
    """Returns the losses and metrics of the engine's current model. `phase` is told what the run does meanwhile."""
    phase("Evaluating on validation data")
    # One model for all processes: `batch_norm: local` leaves statistics of its own on each.
    engine.samples.average_buffers(engine.network)
    if engine.averaged.model is not engine.network:
        engine.samples.average_buffers(engine.averaged.model)
    found = evaluate_model(batches, engine.predictor)
    phase("Training")
    return found
