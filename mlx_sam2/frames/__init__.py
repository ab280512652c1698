"""Sources and sinks: where the frames of a video come from, and where they go."""
