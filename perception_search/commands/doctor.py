"""The command that says what holds on this machine."""

import typer

from perception_search.commands.common import AsJson, app
from perception_search.media import display
from perception_search.show import print_json, print_line


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what holds on this machine; exit 1 when something that is needed does not work.

    \b
    perception-search doctor

    A line each: what decode workers cannot do here, decoders, machine, GPU, torch, FAISS, optional
    extras, the cache folder, and whether the model hub answers within 3 seconds.
    """
    from perception_search.doctor import examine

    are_well = True
    for finding in examine():
        are_well &= finding.is_well
        if as_json:
            print_json(finding.as_dict())
        else:
            print_line(f"{finding.name:<14}  {display(finding.says)}")
    if not are_well:
        raise typer.Exit(1)
