"""``python -m mlx_sam2.app``: a local web app to click in.

From the ground up: ``schemas`` goes over the wire; ``faults`` says what went wrong; ``security`` decides who may ask;
``events`` tells pages what happened; ``media`` opens files; ``session`` and ``session_store`` keep what is open, and
for how long; ``uploads`` receives files; ``image_work``, ``video_work`` and ``prompts`` answer clicks; ``job`` and
``jobs`` do long work; ``engine`` holds the model; ``snapshot``, ``exports`` and ``projects`` write files that leave;
``app``, ``addresses``, ``routes`` (with ``session_routes``, ``edit_routes``, ``job_routes``) and ``server`` answer
requests; ``command`` is the command.
"""
