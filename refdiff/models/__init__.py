"""Models on disk: what a file holds, and how it becomes a pipeline or a CLIP."""
