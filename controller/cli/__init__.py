"""The command `understudy`: `app` parses, `remote` asks a running `serve`, `printing` shows."""

from controller.cli.app import main

__all__ = ["main"]
