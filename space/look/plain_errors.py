"""Gradio's page with its errors about wrong inputs made one sentence: its own quote the inputs, and print them."""

from typing import Any

import gradio as gr

__all__ = ["Page"]

_WRONG_VALUE = "A value of the request is of the wrong kind."


class Page(gr.Blocks):
    """Blocks whose refusals of inputs neither quote them nor reach the log."""

    def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
        """Refuse too few values.

        Raises:
            gr.Error: With one sentence.
        """
        wanted = len(block_fn.inputs)
        if len(inputs) < wanted:
            message = f"The request has {len(inputs)} values; {wanted} are needed."
            raise gr.Error(message, title="Not done", print_exception=False)

    async def preprocess_data(self, *args: Any, **options: Any) -> list[Any]:
        """The inputs as callbacks get them.

        Raises:
            gr.Error: A component does not take its value.
        """
        try:
            return await super().preprocess_data(*args, **options)
        except gr.Error as error:
            raise gr.Error(error.message, title=error.title, print_exception=False) from None
        except Exception:  # noqa: BLE001  # components raise all kinds, with the value in the message
            raise gr.Error(_WRONG_VALUE, title="Not done", print_exception=False) from None
