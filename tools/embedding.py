"""Which output of a TFLite model is its embedding: the one that the model's signature calls so."""

from pathlib import Path

from agent.errors import ModelError

OUTPUT = "embedding"


def embedding_of(model: Path) -> str | None:
    """The name of that output's tensor, for the manifest; None: the model has none.

    Raises:
        ModelError: it does not load.
        OSError
    """
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - the tools do without where nothing is converted

    try:
        interpreter = Interpreter(model_content=model.read_bytes())
        if not interpreter.get_signature_list():
            return None
        outputs = interpreter.get_signature_runner().get_output_details()
    except (ValueError, RuntimeError) as exc:
        raise ModelError(f"{model}: {str(exc).splitlines()[0]}") from exc
    return str(outputs[OUTPUT]["name"]) if OUTPUT in outputs else None
