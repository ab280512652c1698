"""Where the frames of a video come from, and where they go."""
