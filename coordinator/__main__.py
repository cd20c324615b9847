"""`python -m coordinator`: work on the journal that needs no running platform. One module for each command."""

import typer

from coordinator.gc import gc
from coordinator.key_commands import app as keys
from coordinator.replay import replay

app = typer.Typer(add_completion=False, help=__doc__)
app.command("gc")(gc)
app.command("replay")(replay)
app.add_typer(keys, name="keys")


@app.callback()
def main() -> None:
    """Work on the journal."""


if __name__ == "__main__":
    app()
