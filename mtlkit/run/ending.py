"""How a run ended, and why: in its log and for its observers."""

from collections.abc import Iterator
from contextlib import contextmanager

from mtlkit.engine.engine import Engine
from mtlkit.errors import StepError, Stopped


def why_it_ended(engine: Engine) -> str:
    """Returns the key that ended a run that came to its end, in words."""
    config = engine.config
    if engine.step < engine.total_steps:
        return f"no gain in {engine.monitor.without_gain} evaluations (trainer.early_stopping={config.early_stopping})"
    key = "max_steps" if config.max_steps == engine.total_steps else "max_epochs"
    return f"trainer.{key}={getattr(config, key)}"


@contextmanager
def ended(engine: Engine) -> Iterator[dict[str, str]]:
    """Tells the observers how a run has ended, and the log why it ended early, for those who read many logs.

    Yields a dictionary; the block sets its `status` to `finished`.
    """
    end = {"status": "stopped"}
    try:
        yield end
    except StepError as error:
        engine.note({"status": "diverged", "why": "it diverged", "incident": str(error)})
        raise
    except (Stopped, KeyboardInterrupt) as stopped:
        if end["status"] == "stopped":
            engine.note({"status": "stopped", "why": str(stopped) or "Ctrl-C"})
        raise
    finally:
        engine.finish(end["status"])
