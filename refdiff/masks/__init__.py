"""From heat to masks: resizing, edges, peaks, proposals, instances, refinement."""
