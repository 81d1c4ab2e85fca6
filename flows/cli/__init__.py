"""The command line. Modules import heavy libraries inside commands, so that ``--help`` is quick."""
