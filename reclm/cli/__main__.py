"""`python -m reclm.cli` and `accelerate launch -m reclm.cli`."""

from reclm.cli.app import app

if __name__ == "__main__":
    app()
