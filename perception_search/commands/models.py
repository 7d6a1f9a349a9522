"""Commands about the models themselves."""

from perception_search.commands.common import AsJson, app
from perception_search.show import print_json, print_line


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the released models: PE-Core for collections, all of them for features.

    Millions of parameters, of pictures and of texts; the other columns are of the vision tower.

    \b
    perception-search models
    """
    from perception_search.encoder import PerceptionEncoder

    line = "{:<22} {:>6} {:>5} {:>5} {:>5} {:>5} {:>5} {:>5} {:>8} {:>6} {:>6}  {}"
    heads = ("model", "pixels", "patch", "width", "depth", "heads", "MLP", "dim", "context")
    if not as_json:
        print_line(line.format(*heads, "images", "texts", "licence"))
    for model in PerceptionEncoder.available():
        if as_json:
            print_json(model.as_dict())
            continue
        vision, text = model.vision, model.text
        print_line(
            line.format(
                model.name,
                vision.image_size,
                vision.patch_size,
                vision.width,
                vision.depth,
                vision.num_heads,
                vision.mlp_width,
                model.dim or "-",
                text.context_length if text else "-",
                f"{vision.num_parameters / 1e6:.0f}",
                f"{text.num_parameters / 1e6:.0f}" if text else "-",
                model.licence,
            )
        )
    if not as_json:
        print_line("On the model hub each is facebook/<model>.")
