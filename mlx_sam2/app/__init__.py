"""``python -m mlx_sam2.app``: a local web app to click in.

From the ground up: ``schemas`` what goes over the wire; ``security`` who may ask; ``events`` what pages are told;
``media`` what is opened; ``session`` and ``sessions`` what is kept, and for how long; ``uploads`` how files arrive;
``images``, ``videos`` and ``prompts`` clicks answered; ``jobs`` long work; ``engine`` the model; ``exports`` and
``projects`` files that leave; ``state``, ``routes`` and ``server`` the addresses; ``command`` the command.
"""
