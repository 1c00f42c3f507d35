"""The command `understudy`.

app         puts the commands together: `processes`, `files`, `operators`, `records`, `beside`
options     what several of them take
remote      asks a running `serve`; `explained`: shows what it says of a model
rehearsal   simulates and plans; `rehearsed`: shows what came out
doctor      looks at all that `serve` needs
printing    tables for people, JSON and YAML for programs
"""

from controller.cli.app import main

__all__ = ["main"]
