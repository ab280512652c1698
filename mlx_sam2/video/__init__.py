"""Tracking objects through a video: sessions and streams, the tracker, and the memory bank."""
