"""Tracking objects through a video: the memory bank, the tracker, a session and a stream."""
