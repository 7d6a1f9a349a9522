"""The command line: runs a command, and says in one sentence what went wrong."""

import os
import sys
import warnings

from perception_search.commands.common import app
from perception_search.errors import PerceptionSearchError
from perception_search.media import display
from perception_search.show import say, show_warning

# isort: off
# Each file adds its commands; help lists them in this order.
from perception_search.commands import library  # noqa: F401
from perception_search.commands import indexing  # noqa: F401
from perception_search.commands import ask  # noqa: F401
from perception_search.commands import language  # noqa: F401
from perception_search.commands import captions  # noqa: F401
from perception_search.commands import export  # noqa: F401
from perception_search.commands import embeddings  # noqa: F401
from perception_search.commands import evaluate  # noqa: F401
from perception_search.commands import eval_classes  # noqa: F401
from perception_search.commands import eval_retrieval  # noqa: F401
from perception_search.commands import eval_report  # noqa: F401
from perception_search.commands import eval_captions  # noqa: F401
from perception_search.commands import status  # noqa: F401
from perception_search.commands import upkeep  # noqa: F401
from perception_search.commands import models  # noqa: F401
from perception_search.commands import features  # noqa: F401
from perception_search.commands import plan  # noqa: F401
from perception_search.commands import export_onnx  # noqa: F401
from perception_search.commands import verify_model  # noqa: F401
from perception_search.commands import app as search_page  # noqa: F401
from perception_search.commands import demo  # noqa: F401
from perception_search.commands import doctor  # noqa: F401
# isort: on


def main() -> None:
    """Run the command line; exit 0 when done, 1 with one sentence on our errors, 2 on misuse."""
    warnings.showwarning = show_warning
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        say("Stopped.")
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing left to flush
        sys.exit(0)
    except (PerceptionSearchError, ValueError, OSError) as error:
        say(_sentence(error))
        sys.exit(1)


def _sentence(error: BaseException) -> str:
    is_ours = isinstance(error, PerceptionSearchError | FileNotFoundError)
    if isinstance(error, OSError) and error.strerror and not is_ours:
        where = f" ({display(str(error.filename))})" if error.filename else ""
        return f"{error.strerror}{where}. What was reported before is safe; run it again to go on."
    text = str(error) or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."
