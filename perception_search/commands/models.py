"""Commands about the models themselves."""

from typing import TYPE_CHECKING

from perception_search.commands.common import (
    AsJson,
    app,
)
from perception_search.show import (
    print_json,
    print_line,
)

if TYPE_CHECKING:
    pass


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models that a collection can be made with.

    \b
    perception-search models
    """
    from perception_search.encoder import PerceptionEncoder

    for model in PerceptionEncoder.available():
        if as_json:
            print_json(model.as_dict())
        else:
            print_line(str(model))
